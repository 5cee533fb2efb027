package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zue-log/zue/client/internal/wiretest"
	"github.com/zue-log/zue/net/wire"
	"github.com/zue-log/zue/server"
	"github.com/zue-log/zue/storage"
	"github.com/zue-log/zue/storage/batch"
	"github.com/zue-log/zue/tests/programs"
)

// realServer is a server of a log in a directory, which can be stopped and started.
type realServer struct {
	t       testing.TB
	dir     string
	address string
	segment int64 // bytes of a segment; 0: the default
	log     *storage.Log
	server  *server.Server
	served  chan error
}

func startReal(t testing.TB) *realServer {
	s := &realServer{t: t, dir: t.TempDir(), segment: 1 << 20}
	if _, measured := t.(*testing.B); measured {
		s.segment = 0
	}
	l := programs.Listen(t)
	s.address = l.Addr().String()
	s.startOn(l)
	t.Cleanup(s.stop)
	return s
}

// start starts it again.
func (s *realServer) start() {
	l, err := net.Listen("tcp", s.address)
	require.NoError(s.t, err)
	s.startOn(l)
}

func (s *realServer) startOn(l net.Listener) {
	var err error
	s.log, err = storage.Open(s.dir, storage.Options{Sync: storage.SyncNever(), SegmentBytes: s.segment})
	require.NoError(s.t, err)
	s.server, err = server.New(s.log, server.Options{Sync: storage.SyncNever()})
	require.NoError(s.t, err)
	s.served = make(chan error, 1)
	go func() { s.served <- s.server.Serve(l) }()
}

// stop hangs up on all clients at once. It does nothing when the server is stopped.
func (s *realServer) stop() {
	if s.server == nil {
		return
	}
	now, cancel := context.WithCancel(context.Background())
	cancel()
	_ = s.server.Shutdown(now) // says that it did not wait
	require.ErrorIs(s.t, <-s.served, server.ErrStopped)
	require.NoError(s.t, s.log.Close())
	s.server = nil
}

// quick has attempts follow one another fast.
var quick = Options{Backoff: time.Millisecond, MaxBackoff: 5 * time.Millisecond}

func dialClient(t testing.TB, opts Options, addresses ...string) *Client {
	t.Helper()
	c, err := Dial(t.Context(), addresses, opts)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

// nowhere returns an address at which nobody listens.
func nowhere(t testing.TB) string {
	l := programs.Listen(t)
	require.NoError(t, l.Close())
	return l.Addr().String()
}

func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestAllRequests(t *testing.T) {
	s := startReal(t)
	c := dialClient(t, Options{}, s.address)
	ctx := within(t, time.Minute)
	offset, err := c.Append(ctx, []byte("k"), []byte("v"))
	require.NoError(t, err)
	require.Zero(t, offset)
	rec, err := c.Read(ctx, 0)
	require.NoError(t, err)
	require.Equal(t, Record{Key: []byte("k"), Value: []byte("v")}, rec)

	day := time.UnixMilli(1_700_000_000_000)
	b, err := EncodeBatch([]Record{
		{Timestamp: day.UnixMilli() + 1e9, Value: []byte("a")},
		{Timestamp: day.UnixMilli() + 2e9, Key: []byte{}, Value: nil, Headers: []storage.RecordHeader{{Key: []byte("h"), Value: []byte("x")}}},
	}, batch.CodecZstd)
	require.NoError(t, err)
	receipt, err := c.AppendBatch(ctx, b)
	require.NoError(t, err)
	require.Equal(t, Receipt{First: 1, Count: 2, Term: 1}, receipt)
	_, err = c.AppendBatchAt(ctx, 2, b)
	op := requireOutcome(t, ErrNotApplied, err)
	var refusal *wire.Error
	require.ErrorAs(t, op, &refusal)
	require.Equal(t, wire.CodeOffsetMismatch, refusal.Code)
	receipt, err = c.AppendBatchAt(ctx, 3, b)
	require.NoError(t, err)
	require.EqualValues(t, 3, receipt.First)
	_, err = c.AppendBatch(ctx, Batch{Body: make([]byte, wire.MaxBatchBody+1)})
	requireOutcome(t, ErrNotApplied, err)

	end, err := c.Barrier(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 5, end)
	offset, err = c.OffsetForTime(ctx, time.Now().Add(time.Hour))
	require.NoError(t, err)
	require.EqualValues(t, 5, offset)
	offset, err = c.OffsetForTime(ctx, day.Add(-time.Nanosecond))
	require.NoError(t, err)
	require.Zero(t, offset)
	st, err := c.Status(ctx)
	require.NoError(t, err)
	require.Equal(t, "standalone", st.Role)
	require.EqualValues(t, 5, st.EndOffset)
	require.Equal(t, s.address, st.Address)
	require.Contains(t, string(st.JSON), `"sync_meaning"`)
	testFetch(t, c, day)
}

func testFetch(t *testing.T, c *Client, day time.Time) {
	ctx := within(t, time.Minute)
	f, err := c.Fetch(ctx, 2, FetchOptions{})
	require.NoError(t, err)
	require.EqualValues(t, 5, f.End)
	require.EqualValues(t, 5, f.Next())
	var got []Record
	for rec, err := range f.Records() {
		require.NoError(t, err)
		got = append(got, rec)
	}
	require.Len(t, got, 3)
	require.Equal(t, Record{Offset: 2, Timestamp: day.UnixMilli() + 2e9, Key: []byte{}, Headers: []storage.RecordHeader{{Key: []byte("h"), Value: []byte("x")}}}, got[0])
	for range f.Records() {
		break
	}
	f, err = c.Fetch(ctx, 5, FetchOptions{Wait: time.Millisecond})
	require.NoError(t, err)
	require.Empty(t, f.Raw.Bytes)
	require.EqualValues(t, 5, f.Next())
	_, err = c.Fetch(ctx, 6, FetchOptions{})
	require.ErrorContains(t, err, "fetch offset 6 from ")
	short := within(t, 20*time.Millisecond)
	_, err = c.Fetch(short, 5, FetchOptions{Wait: time.Minute})
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestDialTriesAllAddresses(t *testing.T) {
	s := wiretest.Start(t, wiretest.Options{})
	dead := nowhere(t)
	c := dialClient(t, Options{}, dead, s.Address())
	require.Equal(t, s.Address(), c.Address())
	_, err := Dial(t.Context(), []string{dead, nowhere(t)}, Options{})
	require.ErrorContains(t, err, "connect to "+dead)
	require.ErrorContains(t, err, "\nconnect to ")
	_, err = Dial(t.Context(), nil, Options{})
	require.ErrorContains(t, err, "no address")
}

// A server is started again: requests that come meanwhile wait for that.
func TestServerRestarts(t *testing.T) {
	s := startReal(t)
	c := dialClient(t, quick, s.address)
	_, err := c.Append(t.Context(), nil, []byte("before"))
	require.NoError(t, err)
	s.stop()
	require.Eventually(t, func() bool { return c.main.current() == nil }, time.Minute, time.Millisecond)
	_, err = c.Append(within(t, 20*time.Millisecond), nil, []byte("down"))
	requireOutcome(t, ErrNotApplied, err)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	read := make(chan error)
	go func() {
		_, err := c.Read(context.Background(), 0)
		read <- err
	}()
	s.start()
	require.NoError(t, <-read)
	offset, err := c.Append(t.Context(), nil, []byte("after"))
	require.NoError(t, err)
	require.EqualValues(t, 1, offset)
}

func TestFollowsTheLeader(t *testing.T) {
	leader := wiretest.Start(t, wiretest.Options{})
	var asked atomic.Int32
	follower := func(message string) *wiretest.Server {
		return wiretest.Start(t, wiretest.Options{Script: func(n int, f wire.Frame) *wiretest.Action {
			if f.Type == wire.TypeReadRequest {
				return nil
			}
			asked.Add(1)
			return wiretest.Refuse(wire.CodeNotLeader, message)
		}})
	}
	for name, addresses := range map[string][]string{
		"named":         {follower("node 2 at " + leader.Address() + " leads").Address()},
		"named, listed": {follower("node 2 (" + leader.Address() + ") leads").Address(), leader.Address()},
		"not named":     {follower("").Address(), follower("no leader yet").Address(), leader.Address()},
		"named wrongly": {follower("see " + nowhere(t) + ".").Address(), leader.Address()},
	} {
		t.Run(name, func(t *testing.T) {
			asked.Store(0)
			c := dialClient(t, quick, addresses...)
			for range 3 {
				_, err := c.Append(within(t, time.Minute), nil, []byte("v"))
				require.NoError(t, err)
			}
			require.Equal(t, leader.Address(), c.LeaderAddress())
			require.LessOrEqual(t, int(asked.Load()), len(addresses)+1, "once each, and once more if connecting to the leader takes long")
		})
	}
	require.Len(t, leader.Records(), 12)

	f := follower("node 2 at " + leader.Address() + " leads")
	c := dialClient(t, Options{NoRetry: true}, f.Address())
	_, err := c.Append(t.Context(), nil, nil)
	op := requireOutcome(t, ErrNotApplied, err)
	require.ErrorIs(t, err, ErrElsewhere)
	require.Equal(t, leader.Address(), op.Leader)
}

// Two servers that name each other do not keep a client from its deadline.
func TestLeadersThatNameEachOther(t *testing.T) {
	other := make(chan string, 1)
	var once sync.Once
	var second string
	a := wiretest.Start(t, wiretest.Options{Script: func(int, wire.Frame) *wiretest.Action {
		once.Do(func() { second = <-other })
		return wiretest.Refuse(wire.CodeNotLeader, second)
	}})
	var asked atomic.Int32
	b := wiretest.Start(t, wiretest.Options{Script: func(int, wire.Frame) *wiretest.Action {
		asked.Add(1)
		return wiretest.Refuse(wire.CodeNotLeader, a.Address())
	}})
	other <- b.Address()
	c := dialClient(t, Options{Backoff: 20 * time.Millisecond}, a.Address())
	_, err := c.Append(within(t, 100*time.Millisecond), nil, nil)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Less(t, int(asked.Load()), 10)
}

func TestRefusalsThatPass(t *testing.T) {
	s := wiretest.Start(t, wiretest.Options{Script: func(n int, f wire.Frame) *wiretest.Action {
		switch n {
		case 0, 1:
			return wiretest.Refuse(wire.CodeInsufficientISR, "1 of 2")
		case 2:
			return wiretest.Refuse(wire.CodeOverloaded, "too many")
		case 4:
			return wiretest.Refuse(wire.CodeLogFull, "")
		case 5:
			return wiretest.Refuse(wire.CodeQuorumFailed, "")
		}
		return nil
	}})
	c := dialClient(t, quick, s.Address())
	_, err := c.Append(within(t, time.Minute), nil, nil)
	require.NoError(t, err)
	_, err = c.Append(t.Context(), nil, nil)
	requireOutcome(t, ErrNotApplied, err)
	_, err = c.Append(t.Context(), nil, nil)
	requireOutcome(t, ErrMaybeApplied, err)
	require.Len(t, s.Records(), 1)
}

// What may have been appended is not appended again; what is read, is read again.
func TestLostAnswers(t *testing.T) {
	var hang atomic.Bool
	s := wiretest.Start(t, wiretest.Options{Script: func(n int, f wire.Frame) *wiretest.Action {
		if hang.Swap(false) {
			return &wiretest.Action{ApplyAndHang: true}
		}
		return nil
	}})
	c := dialClient(t, quick, s.Address())
	b, err := EncodeBatch([]Record{{Value: []byte("v")}}, batch.CodecNone)
	require.NoError(t, err)
	for i, call := range []func() error{
		func() error { _, err := c.Append(t.Context(), nil, []byte("v")); return err },
		func() error { _, err := c.AppendBatch(t.Context(), b); return err },
		func() error { _, err := c.AppendBatchAt(t.Context(), 2, b); return err },
	} {
		hang.Store(true)
		requireOutcome(t, ErrMaybeApplied, call())
		require.Len(t, s.Records(), i+1)
	}
	hang.Store(true)
	_, err = c.Read(t.Context(), 2)
	require.NoError(t, err)
	require.False(t, hang.Load())
}

// cutConn breaks after so many bytes in a direction; it takes the part before them.
type cutConn struct {
	net.Conn
	mu         sync.Mutex
	reads, out int
}

var errCut = errors.New("cut")

func (c *cutConn) spend(left *int, want int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := min(*left, want)
	*left -= n
	return n
}

func (c *cutConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b[:c.spend(&c.out, len(b))])
	if err == nil && n < len(b) {
		_ = c.Conn.Close()
		err = errCut
	}
	return n, err
}

func (c *cutConn) Read(b []byte) (int, error) {
	most := c.spend(&c.reads, len(b))
	if most == 0 {
		_ = c.Conn.Close()
		return 0, errCut
	}
	n, err := c.Conn.Read(b[:most])
	c.mu.Lock()
	c.reads += most - n
	c.mu.Unlock()
	return n, err
}

// cutter makes a Dial function whose n-th connection breaks as limits says.
func cutter(limits func(n int) (reads, writes int)) func(context.Context, string) (net.Conn, error) {
	var n atomic.Int64
	return func(ctx context.Context, address string) (net.Conn, error) {
		var d net.Dialer
		nc, err := d.DialContext(ctx, "tcp", address)
		if err != nil {
			return nil, err
		}
		c := &cutConn{Conn: nc}
		c.reads, c.out = limits(int(n.Add(1)) - 1)
		return c, nil
	}
}

const endless = 1 << 40

// A frame that was not sent whole is sent again.
func TestCutWithinARequest(t *testing.T) {
	s := wiretest.Start(t, wiretest.Options{})
	opts := quick
	opts.Dial = cutter(func(n int) (int, int) {
		if n < 10 {
			return endless, n * 10
		}
		return endless, endless
	})
	c := dialClient(t, opts, s.Address())
	offset, err := c.Append(within(t, time.Minute), nil, make([]byte, 1000))
	require.NoError(t, err)
	require.Zero(t, offset)
	require.Len(t, s.Records(), 1)
}

func TestCutWithinAnAnswer(t *testing.T) {
	s := startReal(t)
	opts := quick
	opts.Dial = cutter(func(n int) (int, int) { return 40 + 200*n, endless })
	c := dialClient(t, opts, s.address)
	_, err := c.Append(t.Context(), nil, make([]byte, 1000))
	require.NoError(t, err)
	rec, err := c.Read(within(t, time.Minute), 0)
	require.NoError(t, err)
	require.Len(t, rec.Value, 1000)
	c2 := dialClient(t, opts, s.address)
	f, err := c2.Fetch(within(t, time.Minute), 0, FetchOptions{Wait: time.Second})
	require.NoError(t, err)
	require.EqualValues(t, 1, f.Next())
}

// A server that does not answer is given up for another.
func TestStalledServerIsLeft(t *testing.T) {
	s := wiretest.Start(t, wiretest.Options{Script: func(int, wire.Frame) *wiretest.Action { return &wiretest.Action{Ignore: true} }})
	good := wiretest.Start(t, wiretest.Options{})
	good.Append(nil, []byte("v"))
	c := dialClient(t, Options{StallTimeout: 20 * time.Millisecond, Backoff: time.Millisecond}, s.Address(), good.Address())
	rec, err := c.Read(within(t, time.Minute), 0)
	require.NoError(t, err)
	require.Equal(t, "v", string(rec.Value))
}

func TestNoRetry(t *testing.T) {
	s := wiretest.Start(t, wiretest.Options{Script: func(n int, f wire.Frame) *wiretest.Action {
		if n == 0 {
			return &wiretest.Action{Hang: true}
		}
		return nil
	}})
	c := dialClient(t, Options{NoRetry: true}, s.Address())
	_, err := c.Read(t.Context(), 0)
	require.Error(t, err)
	_, err = c.Append(t.Context(), nil, nil)
	require.NoError(t, err, "it has connected anew")
	s.Close()
	_, err = c.Append(within(t, time.Minute), nil, nil)
	require.Error(t, err)
}

func TestCloseEndsAllThatWaits(t *testing.T) {
	s := startReal(t)
	c, err := Dial(t.Context(), []string{s.address}, Options{})
	require.NoError(t, err)
	tail := c.Tail(0, TailOptions{})
	p, err := c.Producer(ProducerOptions{Linger: time.Hour})
	require.NoError(t, err)
	errs := make(chan error, 10)
	require.NoError(t, p.Send(t.Context(), Record{}, func(_ uint64, err error) { errs <- err }))
	var waiting sync.WaitGroup
	waiting.Go(func() {
		require.False(t, tail.Next(t.Context()))
		require.ErrorIs(t, tail.Err(), ErrClosed)
	})
	waiting.Go(func() {
		_, err := c.Fetch(t.Context(), 0, FetchOptions{Wait: time.Minute})
		require.ErrorIs(t, err, ErrClosed)
	})
	require.Eventually(t, func() bool { // both wait
		st, err := c.Status(t.Context())
		return err == nil && st.Connections == 3
	}, time.Minute, time.Millisecond)
	require.NoError(t, c.Close())
	waiting.Wait()
	err = <-errs
	requireOutcome(t, ErrNotApplied, err)
	require.ErrorIs(t, err, ErrClosed)
	_, err = c.Append(t.Context(), nil, nil)
	requireOutcome(t, ErrNotApplied, err)
	require.ErrorIs(t, err, ErrClosed)
	requireOutcome(t, ErrNotApplied, p.Send(t.Context(), Record{}, nil))
	require.NoError(t, p.Close())
	require.NoError(t, tail.Close())
	require.NoError(t, c.Close())
	_, err = c.Producer(ProducerOptions{})
	require.ErrorIs(t, err, ErrClosed)
}

// Close ends the waiting for a server that is down, too.
func TestCloseWhileConnecting(t *testing.T) {
	s := wiretest.Start(t, wiretest.Options{})
	c, err := Dial(t.Context(), []string{s.Address()}, Options{})
	require.NoError(t, err)
	s.Close()
	failed := make(chan error)
	for range 3 {
		go func() {
			_, err := c.Read(context.Background(), 0)
			failed <- err
		}()
	}
	require.NoError(t, c.Close())
	for range 3 {
		require.ErrorIs(t, <-failed, ErrClosed)
	}
}

// Who closes a client is told that, though the connection was lost meanwhile, too.
func TestCloseWhileAConnectionIsLost(t *testing.T) {
	var c *Client
	s := wiretest.Start(t, wiretest.Options{Script: func(int, wire.Frame) *wiretest.Action {
		c.endLife() // as Close does first
		return &wiretest.Action{Hang: true}
	}})
	c = dialClient(t, Options{}, s.Address())
	_, err := c.Read(t.Context(), 0)
	require.ErrorIs(t, err, ErrClosed)
}

func TestPausesGrow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dials []time.Time
		opts := Options{Backoff: 100 * time.Millisecond, MaxBackoff: time.Second, Dial: func(context.Context, string) (net.Conn, error) {
			dials = append(dials, time.Now())
			if len(dials) == 1 {
				near, far := net.Pipe()
				_ = far.Close()
				return near, nil
			}
			return nil, io.ErrUnexpectedEOF
		}}
		c, err := Dial(t.Context(), []string{"a:1", "b:1"}, opts)
		require.NoError(t, err)
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err = c.Read(ctx, 0)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.NoError(t, c.Close())
		require.Greater(t, len(dials), 2*60)
		require.Less(t, len(dials), 2*160)
		for i := 3; i < len(dials)-1; i += 2 {
			pause := dials[i].Sub(dials[i-1])
			d := min(max(dials[i-1].Sub(dials[1])/20, 100*time.Millisecond), time.Second)
			require.LessOrEqual(t, pause, d)
			require.GreaterOrEqual(t, pause, d/2)
			require.Equal(t, dials[i], dials[i+1], "the next address need not wait")
		}
	})
}

// Appends under a storm of cuts: what is acknowledged is there once, what is said not to
// be, is not, and what may be, is there once at most.
func TestNothingIsLostOrDoubled(t *testing.T) {
	s := startReal(t)
	opts := quick
	var mu sync.Mutex
	rng := rand.New(rand.NewPCG(7, 7))
	opts.Dial = cutter(func(int) (int, int) {
		mu.Lock()
		defer mu.Unlock()
		return 1 + rng.IntN(3000), 1 + rng.IntN(6000)
	})
	c := dialClient(t, opts, s.address)
	const workers, each = 8, 200
	outcomes := make([]map[string]uint64, workers)
	unknown := make([]map[string]bool, workers)
	var wg sync.WaitGroup
	for w := range workers {
		outcomes[w], unknown[w] = map[string]uint64{}, map[string]bool{}
		wg.Go(func() {
			for i := range each {
				value := fmt.Sprintf("%d/%d", w, i)
				offset, err := c.Append(context.Background(), nil, []byte(value))
				switch {
				case err == nil:
					outcomes[w][value] = offset
				case errors.Is(err, ErrMaybeApplied):
					unknown[w][value] = true
				default:
					t.Errorf("%s: %v: it may wait for ever, and does not", value, err)
				}
			}
		})
	}
	wg.Wait()
	checkLog(t, s, outcomes, unknown, workers*each)
}

// checkLog compares the log with what was acknowledged, and what may be in it.
func checkLog(t *testing.T, s *realServer, acked []map[string]uint64, unknown []map[string]bool, sent int) {
	t.Helper()
	found := map[string]uint64{}
	c := dialClient(t, Options{}, s.address)
	end, err := c.Barrier(t.Context())
	require.NoError(t, err)
	tail := c.Tail(0, TailOptions{})
	defer tail.Close()
	for uint64(len(found)) < end && tail.Next(t.Context()) {
		rec := tail.Record()
		if _, ok := found[string(rec.Value)]; ok {
			t.Fatalf("doubled: %s", rec.Value)
		}
		found[string(rec.Value)] = rec.Offset
	}
	require.NoError(t, tail.Err())
	total, maybe := 0, 0
	for w := range acked {
		for value, offset := range acked[w] {
			total++
			if at, ok := found[value]; !ok || at != offset {
				t.Fatalf("lost: %s at offset %d: %v %d", value, offset, ok, at)
			}
			delete(found, value)
		}
		for value := range unknown[w] {
			maybe++
			delete(found, value)
		}
	}
	require.Empty(t, found, "in the log, and said not to be")
	require.Equal(t, sent, total+maybe)
	require.Positive(t, total)
	t.Logf("%d acknowledged, %d unknown", total, maybe)
}

func TestAddressIn(t *testing.T) {
	for text, want := range map[string]string{
		"node 2 at 10.0.0.2:9002 leads":   "10.0.0.2:9002",
		"leader: (db-1.example.org:9001)": "db-1.example.org:9001",
		"[::1]:9001 leads":                "[::1]:9001",
		"at 12:30:45 nobody led":          "",
		"note: none":                      "",
		":9001":                           "",
		"host:0 host:70000 host:http":     "",
		"":                                "",
	} {
		require.Equal(t, want, addressIn(text), text)
	}
}
