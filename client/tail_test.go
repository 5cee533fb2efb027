package client

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zue-log/zue/client/internal/wiretest"
	"github.com/zue-log/zue/net/wire"
	"github.com/zue-log/zue/storage"
	"github.com/zue-log/zue/storage/batch"
)

// fill appends records n to m of the tests of tails.
func (s *realServer) fill(n, m int) {
	s.t.Helper()
	for i := n; i < m; {
		var records []storage.Record
		for range min(1+i%7, m-i) {
			records = append(records, storage.Record{Value: fmt.Appendf(nil, "record %d", i)})
			i++
		}
		b, err := EncodeBatch(records, batch.Codec(i%5))
		require.NoError(s.t, err)
		_, err = s.log.AppendBatch(b.Body, b.Checksum).Wait()
		require.NoError(s.t, err)
	}
}

// expect has a tail go over records n to m.
func expect(t testing.TB, tail *Tail, n, m int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for i := n; i < m; i++ {
		require.True(t, tail.Next(ctx), "%d: %v", i, tail.Err())
		require.EqualValues(t, i, tail.Record().Offset)
		require.Equal(t, fmt.Sprintf("record %d", i), string(tail.Record().Value))
	}
	require.NoError(t, tail.Err())
}

func TestTail(t *testing.T) {
	s := startReal(t)
	s.fill(0, 5000)
	c := dialClient(t, Options{}, s.address)
	for _, o := range []TailOptions{{}, {MaxBytes: 1}, {MaxBytes: 1000}} {
		tail := c.Tail(0, o)
		expect(t, tail, 0, 5000)
		require.EqualValues(t, 5000, tail.End())
		require.NoError(t, tail.Close())
		require.False(t, tail.Next(t.Context()))
		require.ErrorIs(t, tail.Err(), ErrClosed)
	}
	tail := c.Tail(4321, TailOptions{}) // within a batch
	defer tail.Close()
	expect(t, tail, 4321, 5000)
	short := within(t, 10*time.Millisecond)
	require.False(t, tail.Next(short))
	require.ErrorIs(t, tail.Err(), context.DeadlineExceeded)
	s.fill(5000, 5100)
	expect(t, tail, 5000, 5100) // it goes on

	beyond := c.Tail(6000, TailOptions{})
	defer beyond.Close()
	require.False(t, beyond.Next(t.Context()))
	var refusal *wire.Error
	require.ErrorAs(t, beyond.Err(), &refusal)
	require.Equal(t, wire.CodeInvalidOffset, refusal.Code)
	require.False(t, beyond.Next(t.Context()), "for good")
}

func TestTailCloseBesideNext(t *testing.T) {
	s := startReal(t)
	s.fill(0, 1)
	c := dialClient(t, Options{}, s.address)
	tail := c.Tail(0, TailOptions{})
	expect(t, tail, 0, 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		require.False(t, tail.Next(context.Background()))
		require.ErrorIs(t, tail.Err(), ErrClosed)
	}()
	require.NoError(t, tail.Close())
	<-ended

	// While it connects, too.
	tail = c.Tail(0, TailOptions{})
	s.stop()
	ended = make(chan struct{})
	go func() {
		defer close(ended)
		require.False(t, tail.Next(context.Background()))
		require.ErrorIs(t, tail.Err(), ErrClosed)
	}()
	require.NoError(t, tail.Close())
	<-ended
}

// A tail goes over restarts of the server, and connections that are cut anywhere.
func TestTailSurvives(t *testing.T) {
	s := startReal(t)
	opts := quick
	var mu sync.Mutex
	rng := rand.New(rand.NewPCG(3, 3))
	opts.Dial = cutter(func(int) (int, int) {
		mu.Lock()
		defer mu.Unlock()
		return 1 + rng.IntN(30_000), 1 + rng.IntN(300)
	})
	c := dialClient(t, opts, s.address)
	tail := c.Tail(0, TailOptions{MaxBytes: 4000})
	defer tail.Close()
	for round := range 10 {
		s.fill(round*1000, round*1000+1000)
		if round%2 == 1 {
			expect(t, tail, (round-1)*1000, (round-1)*1000+500)
			s.stop()
			s.start()
			expect(t, tail, (round-1)*1000+500, (round+1)*1000)
		}
	}
}

// A server that lags behind is asked again, or another is; but not for ever.
func TestTailAtALaggingServer(t *testing.T) {
	s, behind := startReal(t), startReal(t)
	s.fill(0, 100)
	behind.fill(0, 10)
	opts := quick
	var n atomic.Int32
	opts.Dial = func(ctx context.Context, address string) (net.Conn, error) {
		reads := endless
		if n.Add(1) == 2 {
			reads = 4000 // the tail's first connection
		}
		return cutter(func(int) (int, int) { return reads, endless })(ctx, address)
	}
	c := dialClient(t, opts, s.address, behind.address)
	tail := c.Tail(0, TailOptions{MaxBytes: 500})
	defer tail.Close()
	expect(t, tail, 0, 100)

	s.stop()
	require.False(t, tail.Next(within(t, time.Minute)))
	var refusal *wire.Error
	require.ErrorAs(t, tail.Err(), &refusal)
	require.Equal(t, wire.CodeInvalidOffset, refusal.Code)
}

// flipConn changes a byte of a long answer.
type flipConn struct {
	net.Conn
	at int // counted from the first byte
}

func (c *flipConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.at >= 0 && c.at < n {
		b[c.at] ^= 0x10
	}
	c.at -= n
	return n, err
}

// What was changed on the way is found, wherever that was.
func TestDamageOnTheWay(t *testing.T) {
	s := startReal(t)
	s.fill(0, 50)
	const before = wire.HeaderSize + 1 + 8 + 8 // of a fetch response: what checksums do not cover
	size := 0
	clean := dialClient(t, Options{}, s.address)
	f, err := clean.Fetch(t.Context(), 0, FetchOptions{})
	require.NoError(t, err)
	size = len(f.Raw.Bytes)
	require.Greater(t, size, 1000)
	for at := before; at < before+9+size; at += 7 {
		if at >= before+5 && at < before+9 {
			continue // the entries' length, which is another fault
		}
		c := dialClient(t, Options{Dial: func(ctx context.Context, address string) (net.Conn, error) {
			nc, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
			return &flipConn{nc, at}, err
		}}, s.address)
		tail := c.Tail(0, TailOptions{})
		next := 0
		for tail.Next(t.Context()) {
			require.Equal(t, fmt.Sprintf("record %d", next), string(tail.Record().Value))
			if next++; next == 50 {
				break
			}
		}
		if next < 50 { // else it was in padding
			require.Error(t, tail.Err())
			require.NotErrorIs(t, tail.Err(), context.Canceled)
		}
		require.NoError(t, tail.Close())
		require.NoError(t, c.Close())
	}
}

// Entries that do not follow what was read are not taken.
func TestEntriesOutOfPlace(t *testing.T) {
	s := startReal(t)
	s.fill(0, 20)
	c := dialClient(t, Options{}, s.address)
	f, err := c.Fetch(t.Context(), 0, FetchOptions{})
	require.NoError(t, err)
	for _, offset := range []uint64{20, 1000} { // what was asked for is not in them
		f.Offset = offset
		for _, err := range f.Records() {
			require.ErrorIs(t, err, ErrCorrupt)
		}
	}
	later, err := c.Fetch(t.Context(), 15, FetchOptions{})
	require.NoError(t, err)
	later.Offset = 0
	for _, err := range later.Records() {
		require.ErrorIs(t, err, ErrCorrupt)
		require.ErrorContains(t, err, "where 0 was due")
	}
	f.Raw.Format = 77
	for _, err := range f.Records() {
		require.ErrorIs(t, err, storage.ErrVersion)
	}
}

func TestTailWithoutRetries(t *testing.T) {
	s := wiretest.Start(t, wiretest.Options{Script: func(int, wire.Frame) *wiretest.Action { return &wiretest.Action{Hang: true} }})
	c := dialClient(t, Options{NoRetry: true}, s.Address())
	tail := c.Tail(0, TailOptions{})
	require.False(t, tail.Next(t.Context()))
	var op *OpError
	require.ErrorAs(t, tail.Err(), &op)
	require.Equal(t, OpFetch, op.Op)
	require.NoError(t, tail.Close())
}

func BenchmarkTail(b *testing.B) {
	s := startReal(b)
	const records = 200_000
	value := make([]byte, 100)
	batchOf := make([]storage.Record, 1000)
	for i := range batchOf {
		batchOf[i].Value = value
	}
	for range records / len(batchOf) {
		_, err := s.log.Append(batchOf...)
		require.NoError(b, err)
	}
	c := dialClient(b, Options{}, s.address)
	b.ReportAllocs()
	for b.Loop() {
		tail := c.Tail(0, TailOptions{})
		for range records {
			if !tail.Next(b.Context()) {
				b.Fatal(tail.Err())
			}
		}
		_ = tail.Close()
	}
	b.ReportMetric(float64(b.N)*records/b.Elapsed().Seconds(), "records/s")
}
