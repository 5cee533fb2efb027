package client

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zue-log/zue/client/internal/wiretest"
	"github.com/zue-log/zue/net/wire"
	"github.com/zue-log/zue/storage/batch"
)

// As TestProducersInAStorm: but now nothing fails, and each record is in the log once, in
// the order of Send.
func TestIdempotentProducersInAStorm(t *testing.T) {
	s, c := inAStorm(t, 6)
	const workers, each = 3, 5000
	offsets := make([][]uint64, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			p, err := c.Producer(ProducerOptions{MaxBytes: 2000, Codec: batch.Codec(w), MaxBuffered: 20_000, Idempotent: true})
			if err != nil {
				t.Error(err)
				return
			}
			defer p.Close()
			for i := range each {
				err := p.Send(context.Background(), Record{Value: fmt.Appendf(nil, "%d/%d", w, i)}, func(offset uint64, err error) {
					if err != nil || len(offsets[w]) != i {
						t.Errorf("%d/%d: %v", w, i, err)
					}
					offsets[w] = append(offsets[w], offset)
				})
				if err != nil {
					t.Error(err)
					return
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
	require.Equal(t, uint64(workers*each), s.log.EndOffset())
	for w := range workers {
		require.Len(t, offsets[w], each)
		for i, offset := range offsets[w] {
			rec, lease, err := s.log.Read(offset)
			require.NoError(t, err)
			require.Equal(t, fmt.Sprintf("%d/%d", w, i), string(rec.Value))
			require.True(t, i == 0 || offset > offsets[w][i-1])
			lease.Release()
		}
	}
}

// idempotent returns a producer with batches of one record, whose batches get the answers of
// a script.
func idempotent(t *testing.T, o ProducerOptions, script func(n int, h batch.Header) *wiretest.Action) (*Producer, *wiretest.Server) {
	n := -1
	c, s := bubbled(t, wiretest.Options{Script: func(_ int, f wire.Frame) *wiretest.Action {
		if f.Type == wire.TypeProducerRequest {
			return &wiretest.Action{Reply: wire.ProducerResponse{ID: 7}.AppendTo(nil)}
		}
		n++
		m, err := wire.ParseBatchAppendRequest(f.Payload)
		require.NoError(t, err)
		h, err := batch.ParseHeader(m.Body)
		require.NoError(t, err)
		require.Equal(t, int64(7), h.ProducerID)
		return script(n, h)
	}}, Options{})
	o.MaxBytes, o.Idempotent = 1, true
	return newProducer(t, c, o), s
}

// A batch that may have been appended stays one when later attempts surely have not.
func TestIdempotentBatchStaysMaybe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _ := idempotent(t, ProducerOptions{Timeout: 10 * time.Second}, func(n int, h batch.Header) *wiretest.Action {
			if n == 0 {
				return wiretest.Refuse(wire.CodeQuorumFailed, "")
			}
			if h.BaseSequence > 0 {
				return wiretest.Refuse(wire.CodeSequenceGap, "")
			}
			return wiretest.Refuse(wire.CodeInsufficientISR, "")
		})
		errs := make([]error, 3)
		for i := range errs {
			require.NoError(t, p.Send(t.Context(), Record{}, func(_ uint64, err error) { errs[i] = err }))
		}
		require.NoError(t, p.Flush(t.Context()))
		requireOutcome(t, ErrMaybeApplied, errs[0])
		requireOutcome(t, ErrNotApplied, errs[1])
		requireOutcome(t, ErrNotApplied, errs[2])
	})
}

// A refusal behind a gap is met again; one that is final ends the producer.
func TestIdempotentProducerFillsGaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next, attempts, sent := int32(0), 0, make(chan struct{})
		p, s := idempotent(t, ProducerOptions{}, func(n int, h batch.Header) *wiretest.Action {
			attempts++
			switch {
			case n == 2: // the third, when the fourth and the fifth are under way
				<-sent
				return wiretest.Refuse(wire.CodeReplicationTimeout, "")
			case h.BaseSequence > next:
				return wiretest.Refuse(wire.CodeSequenceGap, "")
			case h.BaseSequence == 8:
				return wiretest.Refuse(wire.CodeProducerFenced, "")
			}
			next++
			return nil
		})
		errs := make([]error, 10)
		for i := range errs {
			require.NoError(t, p.Send(t.Context(), Record{Value: fmt.Append(nil, i)}, func(_ uint64, err error) { errs[i] = err }))
		}
		close(sent)
		require.NoError(t, p.Flush(t.Context()))
		require.NoError(t, errors.Join(errs[:8]...))
		requireOutcome(t, ErrNotApplied, errs[8])
		requireOutcome(t, ErrNotApplied, errs[9])
		var got string
		for _, r := range s.Records() {
			got += string(r.Value)
		}
		require.Equal(t, "01234567", got)
		require.Greater(t, attempts, 10)
		requireOutcome(t, ErrNotApplied, p.Send(t.Context(), Record{}, nil))
	})
}

func TestIdempotentProducerBeginsAnewWithZero(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sequences []int32
		p, _ := idempotent(t, ProducerOptions{}, func(n int, h batch.Header) *wiretest.Action {
			sequences = append(sequences, h.BaseSequence)
			// The server knows nothing of what the producer has appended before.
			return &wiretest.Action{Reply: wire.BatchAppendResponse{First: uint64(n), Count: uint32(h.Count), Term: 1, Copies: 1}.AppendTo(nil)}
		})
		p.identity = identity{known: true, id: 7, next: math.MaxInt32}
		for range 3 {
			require.NoError(t, p.Send(t.Context(), Record{}, func(_ uint64, err error) { require.NoError(t, err) }))
		}
		require.NoError(t, p.Flush(t.Context()))
		require.Equal(t, []int32{math.MaxInt32, 0, 1}, sequences)
	})
}

func TestIdempotentProducerLimits(t *testing.T) {
	s := startReal(t)
	c := dialClient(t, Options{}, s.address)
	_, err := c.Producer(ProducerOptions{Idempotent: true, MaxInFlight: 6})
	require.ErrorContains(t, err, "MaxInFlight is 6")
	p := newProducer(t, c, ProducerOptions{Idempotent: true})
	var size *wire.BatchSizeError
	require.ErrorAs(t, p.Send(t.Context(), Record{Value: make([]byte, wire.MaxRecord)}, nil), &size)
}
