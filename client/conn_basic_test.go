package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/zue-log/zue/client/internal/wiretest"
	"github.com/zue-log/zue/net/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func dial(t testing.TB, s *wiretest.Server, opts Options) *conn {
	t.Helper()
	c, err := dialConn(t.Context(), s.Address(), opts)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

// requireOutcome asserts that an append's error is of one outcome, and not of the
// other.
func requireOutcome(t testing.TB, want, err error) *OpError {
	t.Helper()
	require.ErrorIs(t, err, want)
	for _, outcome := range []error{ErrNotApplied, ErrMaybeApplied} {
		require.Equal(t, outcome == want, errors.Is(err, outcome), "%v", err)
	}
	var op *OpError
	require.ErrorAs(t, err, &op)
	require.Equal(t, OpAppend, op.Op)
	return op
}

func TestAppendAndReadKeepKeysAndValues(t *testing.T) {
	for _, chunk := range []int{0, 1, 7} {
		s := wiretest.Start(t, wiretest.Options{ReplyChunk: chunk})
		c := dial(t, s, Options{StallTimeout: time.Minute})
		require.Equal(t, s.Address(), c.address)
		for i, r := range []Record{
			{Key: []byte("key"), Value: []byte("value")},
			{Key: nil, Value: []byte("null key")},
			{Key: []byte{}, Value: []byte("empty key")},
			{Key: []byte("empty value"), Value: []byte{}},
			{Key: nil, Value: []byte{}},
			{Key: bytes.Repeat([]byte("k"), 5000), Value: bytes.Repeat([]byte{0, 0xff}, 3000)},
		} {
			r.Offset = uint64(i)
			offset, err := c.Append(t.Context(), r.Key, r.Value)
			require.NoError(t, err)
			require.Equal(t, r.Offset, offset)
			got, err := c.Read(t.Context(), offset)
			require.NoError(t, err)
			require.Equal(t, r, got)
		}
	}
}

func TestRecordThatFillsAFrame(t *testing.T) {
	s := wiretest.Start(t, wiretest.Options{})
	c := dial(t, s, Options{})
	value := bytes.Repeat([]byte("0123456789abcde"), wire.MaxRecord/15+1)
	offset, err := c.Append(t.Context(), nil, value[:wire.MaxRecord])
	require.NoError(t, err)
	got, err := c.Read(t.Context(), offset)
	require.NoError(t, err)
	require.True(t, bytes.Equal(value[:wire.MaxRecord], got.Value))

	_, err = c.Append(t.Context(), []byte("k"), value[:wire.MaxRecord])
	requireOutcome(t, ErrNotApplied, err)
	var size *wire.RecordSizeError
	require.ErrorAs(t, err, &size)
	require.Len(t, s.Records(), 1, "refused before it was sent")

	_, err = c.Append(t.Context(), nil, []byte("the connection is as good as before"))
	require.NoError(t, err)
}

func TestServerErrorsComeThrough(t *testing.T) {
	refusals := []*wire.Error{
		{Code: wire.CodeNotLeader, Message: "node 2 leads"},
		{Code: wire.CodeReplicationTimeout, Message: "5s"},
		{Code: wire.Code(0x77)},
	}
	s := wiretest.Start(t, wiretest.Options{Script: func(n int, f wire.Frame) *wiretest.Action {
		if n < len(refusals) {
			return wiretest.Refuse(refusals[n].Code, refusals[n].Message)
		}
		return nil
	}})
	c := dial(t, s, Options{})
	for i, outcome := range []error{ErrNotApplied, ErrMaybeApplied, ErrMaybeApplied} {
		_, err := c.Append(t.Context(), nil, []byte("v"))
		op := requireOutcome(t, outcome, err)
		require.Equal(t, s.Address(), op.Address)
		var refusal *wire.Error
		require.ErrorAs(t, err, &refusal)
		require.Equal(t, refusals[i], refusal)
		require.EqualError(t, err, fmt.Sprintf("append to %s: %v: %v", s.Address(), outcome, refusals[i]))
	}
	_, err := c.Read(t.Context(), 9)
	var refusal *wire.Error
	require.ErrorAs(t, err, &refusal)
	require.Equal(t, wire.CodeInvalidOffset, refusal.Code)
	require.EqualError(t, err, "read offset 9 from "+s.Address()+": invalid_offset: beyond the end")
	require.NotErrorIs(t, err, ErrNotApplied)

	_, err = c.Append(t.Context(), nil, []byte("an error answers its own request only"))
	require.NoError(t, err)
}

func TestPipelinedAppendsAreAnsweredInOrder(t *testing.T) {
	const records = 20_000
	s := wiretest.Start(t, wiretest.Options{})
	c := dial(t, s, Options{StallTimeout: time.Minute, MaxInFlight: 100, MaxInFlightBytes: 3000})
	var got []uint64
	var wg sync.WaitGroup
	value := make([]byte, 0, 20)
	for i := range records {
		wg.Add(1)
		value = fmt.Appendf(value[:0], "value %d", i) // reused at once
		require.NoError(t, c.AppendAsync(t.Context(), nil, value, func(offset uint64, err error) {
			defer wg.Done()
			if err == nil {
				got = append(got, offset)
			}
		}))
	}
	wg.Wait()
	require.Len(t, got, records)
	for i, r := range s.Records() {
		require.EqualValues(t, i, got[i])
		require.Equal(t, fmt.Sprintf("value %d", i), string(r.Value))
		require.Nil(t, r.Key)
	}
}

func TestManyGoroutinesShareAClient(t *testing.T) {
	s := wiretest.Start(t, wiretest.Options{})
	c := dial(t, s, Options{StallTimeout: time.Minute, MaxInFlight: 5})
	var wg sync.WaitGroup
	for g := range 16 {
		wg.Go(func() {
			for i := range 50 {
				want := fmt.Sprintf("%d/%d", g, i)
				offset, err := c.Append(t.Context(), []byte(want), nil)
				if err != nil {
					t.Error(err)
					return
				}
				r, err := c.Read(t.Context(), offset)
				if err != nil || string(r.Key) != want || r.Offset != offset {
					t.Errorf("offset %d is %q, not %q: %v", offset, r.Key, want, err)
				}
			}
		})
	}
	wg.Wait()
	require.Len(t, s.Records(), 16*50)
}

func TestDialErrorsSayWhere(t *testing.T) {
	address := nowhere(t)
	_, err := dialConn(t.Context(), address, Options{})
	var op *OpError
	require.ErrorAs(t, err, &op)
	require.Equal(t, OpDial, op.Op)
	require.ErrorContains(t, err, "connect to "+address+": ")
	require.ErrorContains(t, err, "refused")

	_, err = Dial(t.Context(), []string{address}, Options{StallTimeout: -1, MaxInFlight: -1, MaxInFlightBytes: -1, Backoff: -1, MaxBackoff: -1, DialTimeout: -1})
	for _, field := range []string{"StallTimeout", "MaxInFlight", "MaxInFlightBytes", "Backoff", "MaxBackoff", "DialTimeout"} {
		require.ErrorContains(t, err, field)
	}
}

func TestContexts(t *testing.T) {
	arrived := make(chan struct{}, 10)
	s := wiretest.Start(t, wiretest.Options{Script: func(n int, f wire.Frame) *wiretest.Action {
		arrived <- struct{}{}
		return &wiretest.Action{Ignore: true}
	}})
	c := dial(t, s, Options{MaxInFlight: 1})

	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := c.Append(canceled, nil, nil)
	requireOutcome(t, ErrNotApplied, err)
	require.ErrorIs(t, err, context.Canceled)
	_, err = c.Read(canceled, 5)
	require.ErrorIs(t, err, context.Canceled)

	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error)
	go func() {
		_, err := c.Append(ctx, nil, nil)
		failed <- err
	}()
	<-arrived
	// The window is full now, so this one is never sent.
	short, stop := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer stop()
	_, err = c.Append(short, nil, nil)
	requireOutcome(t, ErrNotApplied, err)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	// And this one stands in line behind one that waits for room.
	waiting := make(chan error)
	go func() {
		_, err := c.Append(ctx, nil, nil)
		waiting <- err
	}()
	short2, stop2 := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer stop2()
	_, err = c.Read(short2, 0)
	require.ErrorIs(t, err, context.DeadlineExceeded)

	cancel()
	err = <-failed
	requireOutcome(t, ErrMaybeApplied, err)
	require.ErrorIs(t, err, context.Canceled)
	requireOutcome(t, ErrNotApplied, <-waiting)
}

func TestServerHangsUpMidway(t *testing.T) {
	s := wiretest.Start(t, wiretest.Options{Script: func(n int, f wire.Frame) *wiretest.Action {
		if n == 3 {
			return &wiretest.Action{ApplyAndHang: true}
		}
		return nil
	}})
	c := dial(t, s, Options{})
	var errs [10]error
	var wg sync.WaitGroup
	for i := range errs {
		wg.Add(1)
		err := c.AppendAsync(t.Context(), nil, []byte("v"), func(_ uint64, err error) {
			defer wg.Done()
			errs[i] = err
		})
		if err != nil { // the connection may be gone already
			errs[i] = err
			wg.Done()
		}
	}
	wg.Wait()
	for i, err := range errs {
		switch {
		case i < 3:
			require.NoError(t, err)
		case i == 3:
			requireOutcome(t, ErrMaybeApplied, err)
		default:
			require.Error(t, err)
		}
	}
	require.Len(t, s.Records(), 4)
	_, err := c.Append(t.Context(), nil, nil)
	requireOutcome(t, ErrNotApplied, err)
	require.ErrorContains(t, err, s.Address())
}

func TestStalledServerIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := piped(t, wiretest.Options{Script: func(n int, f wire.Frame) *wiretest.Action {
			return &wiretest.Action{Ignore: n == 1, Reply: wire.AppendResponse{}.AppendTo(nil)}
		}}, Options{StallTimeout: time.Second}, nil)
		_, err := c.Append(t.Context(), nil, nil)
		require.NoError(t, err)
		_, err = c.Append(t.Context(), nil, nil)
		requireOutcome(t, ErrMaybeApplied, err)
		require.ErrorIs(t, err, ErrStalled)
		_, err = c.Append(t.Context(), nil, nil)
		requireOutcome(t, ErrNotApplied, err)
		require.ErrorIs(t, err, ErrStalled)
	})
}

func TestIdleClientDoesNotStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		c := newConn(near, "pipe", Options{StallTimeout: time.Second})
		select {
		case <-c.down:
			t.Fatal("lost while nothing was due")
		case <-time.After(time.Hour):
		}
		c.Close()
		require.NoError(t, far.Close())
	})
}

func TestCloseFailsWhatIsUnderWay(t *testing.T) {
	arrived := make(chan struct{}, 1)
	s := wiretest.Start(t, wiretest.Options{Script: func(n int, f wire.Frame) *wiretest.Action {
		arrived <- struct{}{}
		return &wiretest.Action{Ignore: true}
	}})
	c, err := dialConn(t.Context(), s.Address(), Options{})
	require.NoError(t, err)
	failed := make(chan error, 1)
	require.NoError(t, c.AppendAsync(t.Context(), nil, nil, func(_ uint64, err error) { failed <- err }))
	<-arrived
	c.Close()
	require.Len(t, failed, 1, "Close has waited")
	err = <-failed
	requireOutcome(t, ErrMaybeApplied, err)
	require.ErrorIs(t, err, ErrClosed)
	_, err = c.Append(t.Context(), nil, nil)
	requireOutcome(t, ErrNotApplied, err)
	require.ErrorIs(t, err, ErrClosed)
	_, err = c.Read(t.Context(), 0)
	require.ErrorIs(t, err, ErrClosed)
	c.Close()
}

func TestAnswersThatMakeNoSenseEndTheConnection(t *testing.T) {
	unknown := []byte{1, 0, 0, 0, 0x7e}
	for name, reply := range map[string][]byte{
		"wrong type":          wire.ReadRequest{}.AppendTo(nil),
		"unknown type":        unknown,
		"short payload":       {2, 0, 0, 0, byte(wire.TypeAppendResponse), 1},
		"malformed error":     {1, 0, 0, 0, byte(wire.TypeError)},
		"frame of length 0":   {0, 0, 0, 0},
		"frame beyond limits": []byte("HTTP/1.1 400 Bad Request\r\n\r\n"),
	} {
		t.Run(name, func(t *testing.T) {
			s := wiretest.Start(t, wiretest.Options{Script: func(n int, f wire.Frame) *wiretest.Action {
				return &wiretest.Action{Reply: reply}
			}})
			c := dial(t, s, Options{})
			_, err := c.Append(t.Context(), nil, nil)
			requireOutcome(t, ErrMaybeApplied, err)
			require.ErrorIs(t, err, ErrProtocol)
			<-c.down
			_, err = c.Append(t.Context(), nil, nil)
			requireOutcome(t, ErrNotApplied, err)
			require.ErrorIs(t, err, ErrProtocol)
		})
	}
}
