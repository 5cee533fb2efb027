package producer

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/zue-log/zue/storage"
	"github.com/zue-log/zue/storage/batch"
	"github.com/zue-log/zue/storage/vfs"
)

func header(id int64, epoch int16, sequence, count int32) *batch.Header {
	return &batch.Header{ProducerID: id, ProducerEpoch: epoch, BaseSequence: sequence, Count: count, LastOffsetDelta: count - 1}
}

// verdict is Check in a word.
func verdict(t *Table, h *batch.Header) string {
	first, duplicate, err := t.Check(h)
	switch {
	case err != nil:
		return err.Error()
	case duplicate:
		return fmt.Sprint("duplicate of ", first)
	}
	return "new"
}

func TestCheck(t *testing.T) {
	p := NewTable()
	p.all = 2 // what is before may have been forgotten
	require.Equal(t, "new", verdict(p, header(1, 0, 70, 3)), "any beginning")
	_, _, err := p.Check(header(2, 0, 70, 3))
	require.ErrorIs(t, err, ErrGap, "the first batch has failed")
	p.Apply(100, header(1, 0, 70, 3))
	require.Equal(t, "duplicate of 100", verdict(p, header(1, 0, 70, 3)))
	require.Equal(t, "new", verdict(p, header(1, 0, 73, 1)))
	for _, h := range []*batch.Header{header(1, 0, 74, 1), header(1, 0, 70, 2), header(1, 0, 72, 3), header(1, 0, 68, 4)} {
		_, _, err = p.Check(h)
		require.ErrorIs(t, err, ErrGap, "%+v", h)
	}
	_, _, err = p.Check(header(1, 0, 68, 2))
	require.ErrorIs(t, err, ErrForgotten)
	require.Equal(t, "new", verdict(p, header(2, 0, 0, 1)), "another producer")
	for i := range int32(5) {
		p.Apply(200+uint64(i), header(1, 0, 73+i, 1))
	}
	_, _, err = p.Check(header(1, 0, 70, 3))
	require.ErrorIs(t, err, ErrForgotten)
	require.Equal(t, "duplicate of 200", verdict(p, header(1, 0, 73, 1)))

	require.Equal(t, "new", verdict(p, header(1, 1, 0, 1)), "a new epoch")
	_, _, err = p.Check(header(1, 1, 78, 1))
	require.ErrorIs(t, err, ErrGap)
	p.Apply(300, header(1, 1, 0, 1))
	_, _, err = p.Check(header(1, 0, 78, 1))
	require.ErrorIs(t, err, ErrFenced)
	require.Equal(t, "new", verdict(p, header(1, 1, 1, 1)))
	p.Apply(400, header(-1, -1, -1, 1))
	require.Len(t, p.producers, 1, "a batch of nobody")
}

func TestSequencesWrap(t *testing.T) {
	p := NewTable()
	p.Apply(0, header(1, 0, math.MaxInt32-1, 3)) // the last two, and 0
	require.Equal(t, "new", verdict(p, header(1, 0, 1, 1)))
	require.Equal(t, "duplicate of 0", verdict(p, header(1, 0, math.MaxInt32-1, 3)))
	_, _, err := p.Check(header(1, 0, math.MaxInt32-5, 1))
	require.ErrorIs(t, err, ErrForgotten)
	_, _, err = p.Check(header(1, 0, 5, 1))
	require.ErrorIs(t, err, ErrGap)
}

func TestFewAreRemembered(t *testing.T) {
	p := NewTable()
	for id := range int64(MaxProducers + 10) {
		p.Apply(uint64(id), header(id, 0, 0, 1))
		p.Apply(0, header(0, 0, int32(id), 1)) // which stays
	}
	require.Len(t, p.producers, MaxProducers)
	require.Equal(t, MaxProducers, p.recent.Len())
	require.Contains(t, p.producers, int64(0))
	require.NotContains(t, p.producers, int64(5))
	require.Equal(t, "new", verdict(p, header(5, 0, 70, 1)), "it may have appended")
	_, _, err := p.Check(header(MaxProducers+10, 0, 70, 1))
	require.ErrorIs(t, err, ErrGap, "it has not")
}

// TestLoad compares what is loaded from a log with what was applied while it was written.
func TestLoad(t *testing.T) {
	l, err := storage.Open("d", storage.Options{FS: vfs.NewMem(), SegmentBytes: storage.MinSegmentBytes})
	require.NoError(t, err)
	loaded, err := Load(l)
	require.NoError(t, err)
	require.Empty(t, loaded.producers)
	rng := rand.New(rand.NewPCG(1, 1))
	p := NewTable()
	next := map[int64]int32{}
	for range 60 { // that fit into two segments
		id, n := rng.Int64N(5), 1+rng.Int32N(4)
		records := make([]batch.Record, n)
		body := batch.Append(nil, records, 1)
		require.NoError(t, batch.SetProducer(body, id, 0, next[id]))
		h, err := batch.ParseHeader(body)
		require.NoError(t, err)
		next[id] += n
		first, err := l.AppendBatch(body, batch.Checksum(body)).Wait()
		require.NoError(t, err)
		p.Apply(first, &h)
	}
	loaded, err = Load(l)
	require.NoError(t, err)
	require.Len(t, loaded.producers, 5)
	for id, e := range p.producers {
		require.Equal(t, e.Value, loaded.producers[id].Value)
	}
	require.NoError(t, l.Close())
}
