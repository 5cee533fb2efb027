package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zue-log/zue/client/internal/wiretest"
	"github.com/zue-log/zue/net/wire"
	"github.com/zue-log/zue/storage"
	"github.com/zue-log/zue/storage/batch"
)

func newProducer(t testing.TB, c *Client, o ProducerOptions) *Producer {
	t.Helper()
	p, err := c.Producer(o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	return p
}

func TestProducer(t *testing.T) {
	const records = 20_000
	for _, o := range []ProducerOptions{
		{}, {Linger: time.Millisecond, Codec: batch.CodecZstd}, {MaxBytes: 1, MaxInFlight: 1}, {MaxBuffered: 500}, {MaxBytes: 1000, MaxInFlight: 100},
	} {
		s := startReal(t)
		p := newProducer(t, dialClient(t, Options{}, s.address), o)
		next := 0
		value := make([]byte, 0, 20)
		for i := range records {
			value = fmt.Appendf(value[:0], "record %d", i) // reused at once
			require.NoError(t, p.Send(t.Context(), Record{Value: value}, func(offset uint64, err error) {
				if err != nil || offset != uint64(next) || i != next {
					t.Errorf("record %d, after %d: offset %d, %v", i, next, offset, err)
				}
				next++
			}))
		}
		require.NoError(t, p.Flush(t.Context()))
		require.Equal(t, records, next)
		require.NoError(t, p.Flush(t.Context()))
		tail := dialClient(t, Options{}, s.address).Tail(0, TailOptions{})
		expect(t, tail, 0, records)
		require.NoError(t, tail.Close())
	}
}

func TestProducerKeepsAllOfARecord(t *testing.T) {
	s := startReal(t)
	c := dialClient(t, Options{}, s.address)
	p := newProducer(t, c, ProducerOptions{MaxBytes: 1000})
	long := bytes.Repeat([]byte("x"), wire.MaxRecord)
	want := []Record{
		{Offset: 0, Timestamp: 5, Key: []byte("k"), Value: []byte("v")},
		{Offset: 1, Timestamp: 6, Key: []byte{}, Value: nil, Headers: []storage.RecordHeader{{Key: []byte("h"), Value: nil}, {Key: []byte{}, Value: []byte("y")}}},
		{Offset: 2, Timestamp: 1, Value: long[:5000]}, // longer than a batch
	}
	for _, r := range append(want, Record{Value: long}) {
		require.NoError(t, p.Send(t.Context(), r, func(_ uint64, err error) { require.NoError(t, err) }))
	}
	none := func(uint64, error) { t.Error("called") }
	err := p.Send(t.Context(), Record{Key: []byte("k"), Value: long}, none)
	requireOutcome(t, ErrNotApplied, err)
	err = p.Send(t.Context(), Record{Timestamp: 1, Value: long}, none) // fits in no batch
	requireOutcome(t, ErrNotApplied, err)
	var size *wire.BatchSizeError
	require.ErrorAs(t, err, &size)
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, p.Send(canceled, Record{}, none), context.Canceled)
	require.NoError(t, p.Flush(t.Context()))
	f, err := c.Fetch(t.Context(), 0, FetchOptions{})
	require.NoError(t, err)
	var got []Record
	for rec, err := range f.Records() {
		require.NoError(t, err)
		got = append(got, rec)
	}
	require.Equal(t, want, got)
	rec, err := c.Read(t.Context(), 3)
	require.NoError(t, err)
	require.True(t, bytes.Equal(long, rec.Value))

	_, err = c.Producer(ProducerOptions{Linger: -1, MaxBytes: -1, Codec: 9, MaxInFlight: -1})
	for _, field := range []string{"Linger", "MaxBytes", "Codec", "MaxInFlight"} {
		require.ErrorContains(t, err, field)
	}
}

// bubbled is a client of a server behind pipes, for synctest.
func bubbled(t *testing.T, o wiretest.Options, opts Options) (*Client, *wiretest.Server) {
	s := wiretest.StartUnheard(t, o)
	opts.Dial = func(context.Context, string) (net.Conn, error) {
		near, far := net.Pipe()
		s.Serve(far)
		return near, nil
	}
	return dialClient(t, opts, "pipe:1"), s
}

// Records wait for others as long as they may; a full batch, or Flush, does not wait.
func TestProducerLingers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := bubbled(t, wiretest.Options{}, Options{})
		p := newProducer(t, c, ProducerOptions{Linger: time.Second, MaxBytes: 400})
		began := time.Now()
		var at []time.Duration
		send := func(size int) {
			require.NoError(t, p.Send(t.Context(), Record{Value: make([]byte, size)}, func(_ uint64, err error) {
				require.NoError(t, err)
				at = append(at, time.Since(began))
			}))
		}
		send(1)
		<-time.After(600 * time.Millisecond)
		send(2)
		<-time.After(600 * time.Millisecond)
		synctest.Wait()
		require.Equal(t, []time.Duration{time.Second, time.Second}, at)
		send(1)
		send(400)
		synctest.Wait()
		require.Len(t, at, 4, "the long one has pushed out the one before")
		send(1)
		require.NoError(t, p.Flush(t.Context()))
		require.Len(t, at, 5)
		require.Equal(t, 1200*time.Millisecond, at[4])
		require.Len(t, s.Records(), 5)
		send(1)
		require.NoError(t, p.Close())
		require.Len(t, at, 6)
	})
}

// Refusals that pass are waited out, in order; others are reported, record for record.
func TestProducerRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began, asked := time.Now(), -1
		c, s := bubbled(t, wiretest.Options{Script: func(n int, f wire.Frame) *wiretest.Action {
			// By the time, which stands still while some are under way: all these are refused, or none.
			if time.Since(began) < time.Second {
				return wiretest.Refuse(wire.CodeInsufficientISR, "")
			}
			switch asked++; asked {
			case 5:
				return wiretest.Refuse(wire.CodeLogFull, "")
			case 7:
				return wiretest.Refuse(wire.CodeQuorumFailed, "")
			}
			return nil
		}}, Options{})
		p := newProducer(t, c, ProducerOptions{MaxBytes: 1, MaxInFlight: 4})
		errs := make([]error, 10)
		for i := range errs {
			require.NoError(t, p.Send(t.Context(), Record{Value: fmt.Append(nil, i)}, func(_ uint64, err error) { errs[i] = err }))
		}
		require.NoError(t, p.Flush(t.Context()))
		for i, err := range errs {
			switch i {
			case 5:
				requireOutcome(t, ErrNotApplied, err)
			case 7:
				requireOutcome(t, ErrMaybeApplied, err)
			default:
				require.NoError(t, err)
			}
		}
		var got string
		for _, r := range s.Records() {
			got += string(r.Value)
		}
		require.Equal(t, "01234689", got)
	})
}

func TestProducerStopsOnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sent := make(chan struct{})
		c, s := bubbled(t, wiretest.Options{Script: func(n int, f wire.Frame) *wiretest.Action {
			if n == 2 {
				<-sent // else Send refuses what comes behind
				return wiretest.Refuse(wire.CodeQuorumFailed, "")
			}
			return nil
		}}, Options{})
		p := newProducer(t, c, ProducerOptions{MaxBytes: 1, MaxInFlight: 1, StopOnError: true})
		errs := make([]error, 5)
		for i := range errs {
			require.NoError(t, p.Send(t.Context(), Record{}, func(_ uint64, err error) { errs[i] = err }))
		}
		close(sent)
		require.NoError(t, p.Flush(t.Context()))
		require.NoError(t, errors.Join(errs[:2]...))
		requireOutcome(t, ErrMaybeApplied, errs[2])
		requireOutcome(t, ErrNotApplied, errs[3])
		requireOutcome(t, ErrNotApplied, errs[4])
		requireOutcome(t, ErrNotApplied, p.Send(t.Context(), Record{}, nil))
		require.Len(t, s.Records(), 2)
	})
}

// What cannot be appended for the whole timeout fails, and Close does not wait longer.
func TestProducerTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := bubbled(t, wiretest.Options{Script: func(n int, f wire.Frame) *wiretest.Action {
			return wiretest.Refuse(wire.CodeInsufficientISR, "")
		}}, Options{})
		p := newProducer(t, c, ProducerOptions{Timeout: 10 * time.Second, MaxBytes: 1})
		began := time.Now()
		failed := 0
		for range 100 {
			require.NoError(t, p.Send(t.Context(), Record{}, func(_ uint64, err error) {
				requireOutcome(t, ErrNotApplied, err)
				failed++
			}))
		}
		require.NoError(t, p.Close())
		require.Equal(t, 100, failed)
		require.WithinRange(t, time.Now(), began.Add(10*time.Second), began.Add(13*time.Second))
		require.Empty(t, s.Records())
		requireOutcome(t, ErrNotApplied, p.Send(t.Context(), Record{}, nil))
	})
}

func TestProducerGoexitInACallback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := bubbled(t, wiretest.Options{}, Options{})
		p := newProducer(t, c, ProducerOptions{})
		called := 0
		for range 5 {
			require.NoError(t, p.Send(t.Context(), Record{}, func(uint64, error) {
				called++
				runtime.Goexit()
			}))
		}
		require.NoError(t, p.Flush(t.Context()))
		require.Equal(t, 5, called)
	})
}

// Send waits for room, in turn, and no longer than its context.
func TestProducerHoldsNoMoreThanItMay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answer := make(chan struct{})
		c, _ := bubbled(t, wiretest.Options{Script: func(int, wire.Frame) *wiretest.Action {
			<-answer
			return nil
		}}, Options{})
		p := newProducer(t, c, ProducerOptions{MaxBuffered: 1000, MaxBytes: 100})
		done := func(_ uint64, err error) { require.NoError(t, err) }
		sent := 0
		for {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			err := p.Send(ctx, Record{Value: make([]byte, 68)}, done)
			cancel()
			if err != nil {
				requireOutcome(t, ErrNotApplied, err)
				require.ErrorIs(t, err, context.DeadlineExceeded)
				break
			}
			sent++
		}
		require.Equal(t, 10, sent)
		var waiting sync.WaitGroup
		for range 5 {
			waiting.Go(func() { require.NoError(t, p.Send(t.Context(), Record{Value: make([]byte, 2000)}, done)) })
		}
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, p.Flush(short), context.DeadlineExceeded)
		close(answer)
		waiting.Wait()
		require.NoError(t, p.Flush(t.Context()))
		require.Zero(t, p.buffered)
	})
}

// inAStorm returns a server, and a client whose connections are cut again and again.
func inAStorm(t *testing.T, seed uint64) (*realServer, *Client) {
	s := startReal(t)
	opts := quick
	var mu sync.Mutex
	rng := rand.New(rand.NewPCG(seed, seed))
	opts.Dial = cutter(func(int) (int, int) {
		mu.Lock()
		defer mu.Unlock()
		return 1 + rng.IntN(2000), 1 + rng.IntN(100_000)
	})
	return s, dialClient(t, opts, s.address)
}

// As TestNothingIsLostOrDoubled, by producers, and with restarts of the server.
func TestProducersInAStorm(t *testing.T) {
	s, c := inAStorm(t, 5)
	const workers, each = 3, 5000
	acked := make([]map[string]uint64, workers)
	unknown := make([]map[string]bool, workers)
	var wg sync.WaitGroup
	for w := range workers {
		acked[w], unknown[w] = map[string]uint64{}, map[string]bool{}
		wg.Go(func() {
			p, err := c.Producer(ProducerOptions{MaxBytes: 2000, Codec: batch.Codec(w), MaxBuffered: 20_000})
			if err != nil {
				t.Error(err)
				return
			}
			defer p.Close()
			for i := range each {
				value := fmt.Sprintf("%d/%d", w, i)
				err := p.Send(context.Background(), Record{Value: []byte(value)}, func(offset uint64, err error) {
					switch {
					case err == nil:
						acked[w][value] = offset
					case errors.Is(err, ErrMaybeApplied):
						unknown[w][value] = true
					default:
						t.Errorf("%s: %v: its time is not up", value, err)
					}
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 3 {
		end := s.log.EndOffset()
		require.Eventually(t, func() bool { return s.log.EndOffset() >= end+1000 }, time.Minute, time.Millisecond)
		s.stop()
		s.start()
	}
	wg.Wait()
	checkLog(t, s, acked, unknown, workers*each)
}

func BenchmarkProducer(b *testing.B) {
	s := startReal(b)
	p := newProducer(b, dialClient(b, Options{}, s.address), ProducerOptions{})
	value := make([]byte, 100)
	done := func(_ uint64, err error) {
		if err != nil {
			b.Error(err)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := p.Send(b.Context(), Record{Value: value}, done); err != nil {
			b.Fatal(err)
		}
	}
	if err := p.Flush(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
}
