package server

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/zue-log/zue/net/wire"
	"github.com/zue-log/zue/storage"
	"github.com/zue-log/zue/storage/batch"
	"github.com/zue-log/zue/storage/vfs"
)

// producer asks for an id.
func (p *peer) producer() int64 {
	p.t.Helper()
	p.send(wire.ProducerRequest{})
	m, err := wire.ParseProducerResponse(p.frame().Payload)
	require.NoError(p.t, err)
	require.Zero(p.t, m.Epoch)
	return m.ID
}

// produced is a batch of a producer.
func produced(id int64, epoch int16, sequence int32, values ...string) wire.BatchAppendRequest {
	m := encoded(batch.CodecNone, values...)
	if err := batch.SetProducer(m.Body, id, epoch, sequence); err != nil {
		panic(err)
	}
	m.Checksum = batch.Checksum(m.Body)
	return m
}

func TestIdempotentAppend(t *testing.T) {
	addr, _, log := start(t, storage.Options{})
	p := newPeer(t, addr)
	a, b := p.producer(), p.producer()
	require.NotEqual(t, a, b)
	require.Equal(t, wire.BatchAppendResponse{First: 0, Count: 2, Term: 1, Copies: 1}, p.batch(produced(a, 0, 0, "a", "b")))
	require.Equal(t, wire.BatchAppendResponse{First: 0, Count: 2, Term: 1, Copies: 1, Duplicate: true}, p.batch(produced(a, 0, 0, "a", "b")))
	require.EqualValues(t, 2, p.batch(produced(b, 0, 0, "c")).First)
	p.sendBatch(produced(a, 0, 3, "x"))
	require.Contains(t, p.refused(wire.CodeSequenceGap), "the next is 2")
	for i := range int32(6) {
		require.EqualValues(t, 3+i, p.batch(produced(a, 0, 2+i, "d")).First)
	}
	p.sendBatch(produced(a, 0, 0, "a", "b"))
	p.refused(wire.CodeDuplicateForgotten)
	require.EqualValues(t, 9, p.batch(produced(a, 1, 0, "e")).First)
	p.sendBatch(produced(a, 0, 8, "x"))
	p.refused(wire.CodeProducerFenced)
	require.EqualValues(t, 10, log.EndOffset())
	p.send(wire.ProducerRequest{Log: 1})
	p.refused(wire.CodeUnknownLog)
}

// TestIdempotentAppendAfterRestart has another server of the same log tell duplicates.
func TestIdempotentAppendAfterRestart(t *testing.T) {
	mem := vfs.NewMem()
	o := storage.Options{FS: mem, SegmentBytes: storage.MinSegmentBytes}
	serve := func(f func(p *peer)) {
		log, err := storage.Open("d", o)
		require.NoError(t, err)
		s, err := New(log, Options{})
		require.NoError(t, err)
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		served := make(chan error, 1)
		go func() { served <- s.Serve(l) }()
		f(newPeer(t, l.Addr().String()))
		require.NoError(t, s.Shutdown(context.Background()))
		require.ErrorIs(t, <-served, ErrStopped)
		require.NoError(t, log.Close())
	}
	var id int64
	serve(func(p *peer) {
		id = p.producer()
		require.EqualValues(t, 0, p.batch(produced(id, 0, 0, "a")).First)
		// A full disk: the batch is not in the log, and can be sent again.
		mem.Inject(func(op vfs.Op, _ string) error {
			if op == vfs.OpAllocate {
				return syscall.ENOSPC
			}
			return nil
		})
		large := string(make([]byte, 3*storage.MinSegmentBytes))
		p.sendBatch(produced(id, 0, 1, large))
		p.refused(wire.CodeLogFull)
		mem.Inject(nil)
		require.False(t, p.batch(produced(id, 0, 1, large)).Duplicate)
	})
	serve(func(p *peer) {
		require.True(t, p.batch(produced(id, 0, 1, string(make([]byte, 3*storage.MinSegmentBytes)))).Duplicate)
		require.EqualValues(t, 2, p.batch(produced(id, 0, 2, "c")).First)
		require.NotEqual(t, id, p.producer())
	})
}

// TestIdempotentAppendsAtOnce has several connections send the same batches, as after a
// connection was given up too early: each is in the log once.
func TestIdempotentAppendsAtOnce(t *testing.T) {
	addr, _, log := start(t, storage.Options{Sync: storage.SyncNever()})
	id := newPeer(t, addr).producer()
	const n = 200
	var mu sync.Mutex
	firsts := map[int32]uint64{}
	var wg sync.WaitGroup
	for range 4 {
		p := newPeer(t, addr)
		wg.Go(func() {
			for i := range int32(n) {
				p.sendBatch(produced(id, 0, i, fmt.Sprint(i)))
				f := p.frame()
				if f.Type == wire.TypeError {
					e, err := wire.ParseError(f.Payload)
					if err != nil || e.Code != wire.CodeDuplicateForgotten && e.Code != wire.CodeSequenceGap {
						t.Errorf("%v, %v", e, err)
					}
					continue
				}
				m, err := wire.ParseBatchAppendResponse(f.Payload)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				if first, ok := firsts[i]; ok && first != m.First {
					t.Errorf("batch %d is at %d and at %d", i, first, m.First)
				}
				firsts[i] = m.First
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	require.Len(t, firsts, n)
	require.EqualValues(t, n, log.EndOffset())
}

// A first batch that fails must not be overtaken by those sent behind it.
func TestFirstBatchOfAProducerFails(t *testing.T) {
	addr, _, log := start(t, storage.Options{})
	p := newPeer(t, addr)
	id := p.producer()
	first := produced(id, 0, 0, "first")
	bad := first
	bad.Checksum ^= 1
	p.sendBatch(bad)
	p.sendBatch(produced(id, 0, 1, "second"))
	p.refused(wire.CodeInvalidMessage)
	p.refused(wire.CodeSequenceGap)
	require.EqualValues(t, 0, p.batch(first).First)
	require.EqualValues(t, 1, log.EndOffset())
}

// A batch whose header was damaged on the way is none that is in the log.
func TestDamagedBatchIsNoDuplicate(t *testing.T) {
	addr, _, _ := start(t, storage.Options{})
	p := newPeer(t, addr)
	id := p.producer()
	p.batch(produced(id, 0, 0, "a"))
	m := produced(id, 0, 1, "b")
	binary.BigEndian.PutUint32(m.Body[32:], 0) // its sequence number, after the checksum
	p.sendBatch(m)
	p.refused(wire.CodeInvalidMessage)
}

// An id is not given out twice, though appends are not synced.
func TestProducerIDOutlivesACrash(t *testing.T) {
	mem := vfs.NewMem()
	o := storage.Options{FS: mem, Sync: storage.SyncNever()}
	producer := func(log *storage.Log) int64 {
		s, err := New(log, Options{Sync: o.Sync})
		require.NoError(t, err)
		c := newSession(s, nil)
		c.newProducer()
		m, err := wire.ParseProducerResponse(c.out[wire.HeaderSize+1:])
		require.NoError(t, err)
		return m.ID
	}
	log, err := storage.Open("d", o)
	require.NoError(t, err)
	defer log.Close()
	id := producer(log)
	o.FS = mem.Crash(nil) // nothing stays that was not synced
	log2, err := storage.Open("d", o)
	require.NoError(t, err)
	require.NotEqual(t, id, producer(log2))
	require.NoError(t, log2.Close())
}
