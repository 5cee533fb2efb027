package client

import (
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zue-log/zue/client/internal/wiretest"
	"github.com/zue-log/zue/net/wire"
	"github.com/zue-log/zue/storage/batch"
)

// forged is an entry with right checksums, as storage/FORMAT.md has it.
func forged(index, offset uint64, span uint32, kind byte, body []byte) []byte {
	castagnoli := crc32.MakeTable(crc32.Castagnoli)
	le := binary.LittleEndian
	h := make([]byte, 64)
	le.PutUint32(h[4:], crc32.Checksum(body, castagnoli))
	le.PutUint64(h[8:], index)
	le.PutUint64(h[16:], offset)
	le.PutUint64(h[24:], 1)
	le.PutUint32(h[48:], uint32(len(body)))
	le.PutUint32(h[52:], span)
	h[60] = kind
	seed := crc32.Checksum(le.AppendUint32(nil, 0x5eed), castagnoli)
	le.PutUint32(h, crc32.Update(seed, castagnoli, h[4:64]))
	h = append(h, body...)
	for len(h)%8 != 0 {
		h = append(h, 0)
	}
	return h
}

// A server whose checksums are right, and its offsets wrong, does not make a tail leave
// anything out or repeat it.
func TestTailOfForgedEntries(t *testing.T) {
	five := batch.Append(nil, make([]Record, 5), 1)
	for name, answers := range map[string]map[uint64][]byte{
		"a control entry that jumps": {0: append(forged(1, 0, 5, 1, five), forged(2, 20, 0, 2, []byte{1})...), 20: forged(3, 20, 5, 1, five)},
		"a span that is too small":   {0: forged(1, 0, 1, 1, five), 1: forged(2, 1, 5, 1, five)},
	} {
		t.Run(name, func(t *testing.T) {
			s := wiretest.Start(t, wiretest.Options{Script: func(n int, f wire.Frame) *wiretest.Action {
				m, err := wire.ParseFetchRequest(f.Payload)
				if err != nil || answers[m.Offset] == nil {
					return &wiretest.Action{Ignore: true}
				}
				return &wiretest.Action{Reply: wire.FetchResponse{End: 100, Format: 1, Seed: 0x5eed, Entries: answers[m.Offset]}.AppendTo(nil)}
			}})
			tail := dialClient(t, Options{}, s.Address()).Tail(0, TailOptions{})
			defer tail.Close()
			next := uint64(0)
			for ; tail.Next(t.Context()); next++ {
				require.Equal(t, next, tail.Record().Offset)
			}
			require.ErrorIs(t, tail.Err(), ErrCorrupt)
		})
	}
}

// A receipt for other records than were sent is none.
func TestReceiptForOthers(t *testing.T) {
	for _, m := range []wire.BatchAppendResponse{{First: 5, Count: 1}, {First: math.MaxUint64, Count: 3}} {
		s := wiretest.Start(t, wiretest.Options{Script: func(int, wire.Frame) *wiretest.Action { return &wiretest.Action{Reply: m.AppendTo(nil)} }})
		c := dialClient(t, Options{}, s.Address())
		b, err := EncodeBatch(make([]Record, 3), batch.CodecNone)
		require.NoError(t, err)
		_, err = c.AppendBatch(t.Context(), b)
		requireOutcome(t, ErrMaybeApplied, err)
		require.ErrorIs(t, err, ErrProtocol)
	}
}

// A batch that was picked does not go out on a new connection when one that was under way on
// the old one has failed meanwhile.
func TestPickedBatchIsPutBack(t *testing.T) {
	p := &Producer{wake: make(chan struct{}, 1), flying: 1, queue: []*outBatch{{sequence: 1}, {sequence: 3}}}
	c := &conn{}
	p.broken = &setback{}
	ok, err := p.board(&outBatch{sequence: 2}, c)
	require.False(t, ok)
	require.NoError(t, err)
	require.Len(t, p.wake, 1, "mend is to see that nothing is under way")
	require.Zero(t, p.flying)
	for i, b := range p.queue {
		require.Equal(t, uint64(i+1), b.sequence)
	}
	p.broken, p.halted = nil, errors.New("stopped")
	_, err = p.board(&outBatch{}, c)
	require.ErrorIs(t, err, p.halted)
}

// late is a context whose deadline has passed, which it has not noticed.
type late struct{ context.Context }

func (late) Deadline() (time.Time, bool) { return time.Unix(1, 0), true }

// What the dialler says when the caller's context has ended does not hide that it has.
func TestContextEndsWhileDialling(t *testing.T) {
	cut := &net.OpError{Op: "dial", Net: "tcp", Err: os.ErrDeadlineExceeded}
	cancelable, cancel := context.WithCancel(t.Context())
	defer cancel()
	passing, done := context.WithTimeout(t.Context(), time.Second)
	defer done()
	nothing := func(context.Context) {}
	for _, c := range []struct {
		name string
		ctx  context.Context
		dial func(ctx context.Context) // what happens meanwhile
		want error                     // nil: the dialler's alone
	}{
		{"deadline passes", passing, func(ctx context.Context) { <-ctx.Done() }, context.DeadlineExceeded},
		{"deadline has passed, context behind", late{t.Context()}, nothing, context.DeadlineExceeded},
		{"canceled", cancelable, func(context.Context) { cancel() }, context.Canceled},
		{"going on", t.Context(), nothing, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			opts := Options{Dial: func(ctx context.Context, _ string) (net.Conn, error) {
				c.dial(ctx)
				return nil, cut
			}}
			_, err := Dial(c.ctx, []string{"a:1", "b:2"}, opts)
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			var op *OpError
			require.ErrorAs(t, err, &op)
			for _, stop := range []error{context.DeadlineExceeded, context.Canceled} {
				require.Equal(t, stop == c.want, errors.Is(err, stop), "%v: %v", stop, err)
			}
		})
	}
}

// An append whose context ends while it goes on after a refusal says what the refusal was.
func TestContextEndsAfterARefusal(t *testing.T) {
	for name, connects := range map[string]bool{"while connecting": false, "before it is sent": true} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			s := wiretest.Start(t, wiretest.Options{Script: func(int, wire.Frame) *wiretest.Action {
				return wiretest.Refuse(wire.CodeNotLeader, "node 2 at b:2 leads")
			}})
			opts := Options{Dial: func(dialling context.Context, address string) (net.Conn, error) {
				if address == "b:2" {
					cancel()
					if !connects {
						return nil, dialling.Err()
					}
				}
				return new(net.Dialer).DialContext(context.WithoutCancel(dialling), "tcp", s.Address())
			}}
			c := dialClient(t, opts, s.Address())
			_, err := c.Append(ctx, nil, nil)
			requireOutcome(t, ErrNotApplied, err)
			require.ErrorIs(t, err, context.Canceled)
			var refusal *wire.Error
			require.ErrorAs(t, err, &refusal)
			require.Equal(t, wire.CodeNotLeader, refusal.Code)
			require.Empty(t, s.Records())
		})
	}
}

// A fetch that is given up leaves no connection behind.
func TestFetchesGivenUp(t *testing.T) {
	s := startReal(t)
	c := dialClient(t, Options{}, s.address)
	for range 20 {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Millisecond)
		_, err := c.Fetch(ctx, 0, FetchOptions{Wait: 10 * time.Second})
		cancel()
		require.ErrorIs(t, err, context.DeadlineExceeded)
	}
	require.Eventually(t, func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		up := 0
		for _, cn := range c.conns {
			if cn.usable() {
				up++
			}
		}
		return up == 1
	}, 5*time.Second, time.Millisecond)
}

// One record that cannot be appended does not have others refused.
func TestProducerRefusesAnExtremeTimestamp(t *testing.T) {
	s := startReal(t)
	p := newProducer(t, dialClient(t, Options{}, s.address), ProducerOptions{Linger: 5 * time.Millisecond})
	for _, ts := range []int64{math.MinInt64, 1, math.MaxInt64, -maxTimestamp, maxTimestamp} {
		err := p.Send(t.Context(), Record{Timestamp: ts}, func(_ uint64, err error) { require.NoError(t, err) })
		require.Equal(t, ts < -maxTimestamp || ts > maxTimestamp, err != nil, "%d: %v", ts, err)
	}
	require.NoError(t, p.Flush(t.Context()))
}

// Records that linger are sent when another one waits for their room. No function is needed.
func TestProducerDoesNotLingerWhenFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := bubbled(t, wiretest.Options{}, Options{})
		p := newProducer(t, c, ProducerOptions{Linger: time.Hour, MaxBuffered: 100})
		began := time.Now()
		for range 3 {
			require.NoError(t, p.Send(t.Context(), Record{Value: make([]byte, 60)}, nil))
		}
		require.Equal(t, began, time.Now())
		require.NoError(t, p.Flush(t.Context()))
		require.Len(t, s.Records(), 3)
	})
}

// A server that does not wait is not asked without a pause.
func TestTailOfAServerThatDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		c, _ := bubbled(t, wiretest.Options{Script: func(int, wire.Frame) *wiretest.Action {
			asked++
			return &wiretest.Action{Reply: wire.FetchResponse{}.AppendTo(nil)}
		}}, Options{})
		tail := c.Tail(0, TailOptions{Wait: -1})
		defer tail.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.False(t, tail.Next(ctx))
		require.ErrorIs(t, tail.Err(), context.DeadlineExceeded)
		require.Less(t, asked, 200)
	})
}
