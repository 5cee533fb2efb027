// Package producer tells a batch that a producer sends again from one that it sends for
// the first time, by the producer's id, its epoch and the sequence numbers that are in the
// header of a record batch: the rules are those of Kafka's idempotent producer (KIP-98).
//
// What it knows is a function of the end of a log, the last two segments at least: see
// [Load]. So it needs no file of its own, and a crash loses none of it.
package producer

import (
	"container/list"
	"errors"
	"fmt"
	"math"

	"github.com/zue-log/zue/storage"
	"github.com/zue-log/zue/storage/batch"
)

// Bounds of what is remembered.
const (
	// MaxBatches is how many batches of each producer are remembered with their offsets.
	MaxBatches = 5
	// MaxProducers is how many producers are remembered: those that appended last.
	MaxProducers = 10_000
)

var (
	// ErrFenced is wrapped by the error for a batch of an epoch before its producer's.
	ErrFenced = errors.New("a newer epoch of the producer has appended")
	// ErrGap is wrapped by the error for a batch that comes after one that is missing.
	ErrGap = errors.New("a batch of the producer before it is missing")
	// ErrForgotten is wrapped by the error for a batch that is in the log, but of which it
	// is no longer known where.
	ErrForgotten = errors.New("the batch was appended before, too long ago to tell where")
)

// Table is what is known of producers. It is for one goroutine at a time.
type Table struct {
	producers map[int64]*list.Element // of *known
	recent    list.List               // the one that has appended last is in front
}

// known is one producer.
type known struct {
	id      int64
	epoch   int16
	batches []appended // the newest last
}

// appended is a batch that is in the log.
type appended struct {
	sequence int32 // of its first record
	count    int32
	first    uint64 // offset of its first record
}

// NewTable returns a table that knows no producer.
func NewTable() *Table { return &Table{producers: map[int64]*list.Element{}} }

// Load returns a table of what the end of a log has: its last two segments.
func Load(log *storage.Log) (*Table, error) {
	t := NewTable()
	starts := log.Starts()
	if len(starts) == 0 {
		return t, nil
	}
	offset := starts[max(0, len(starts)-2)].Offset
	for offset < log.EndOffset() {
		raw, lease, err := log.ReadRaw(offset, 1<<20)
		if err != nil {
			return nil, fmt.Errorf("load producers: %w", err)
		}
		err = t.load(raw)
		offset = raw.EndOffset(offset)
		lease.Release()
		if err != nil {
			return nil, fmt.Errorf("load producers: %w", err)
		}
	}
	return t, nil
}

func (t *Table) load(raw storage.RawEntries) error {
	r, err := storage.NewEntryReader(raw)
	for err == nil {
		var e storage.Entry
		var ok bool
		if e, ok, err = r.Next(); !ok || err != nil {
			break
		}
		if e.Kind != storage.KindData {
			continue
		}
		if h, err := batch.ParseHeader(e.Body); err == nil {
			t.Apply(e.Offset, &h)
		}
	}
	return err
}

// Check says what becomes of a batch with this header, which must have a producer's id. If
// it is to be appended, duplicate is false. If it is in the log already, duplicate is true
// and first the offset of its first record there. Errors: those that wrap ErrFenced, ErrGap
// or ErrForgotten; the batch is not to be appended.
//
// A producer that is not known, since it is new or has not appended for long, may begin with
// any sequence number, and so may a new epoch.
func (t *Table) Check(h *batch.Header) (first uint64, duplicate bool, err error) {
	e := t.producers[h.ProducerID]
	if e == nil {
		return 0, false, nil
	}
	p := e.Value.(*known)
	switch {
	case h.ProducerEpoch < p.epoch:
		return 0, false, fmt.Errorf("producer %d, epoch %d: %w (epoch %d)", p.id, h.ProducerEpoch, ErrFenced, p.epoch)
	case h.ProducerEpoch > p.epoch:
		return 0, false, nil
	}
	for _, b := range p.batches {
		if b.sequence == h.BaseSequence && b.count == h.Count {
			return b.first, true, nil
		}
	}
	next := p.next()
	switch d := distance(next, h.BaseSequence); {
	case d == 0:
		return 0, false, nil
	case d > 0:
		return 0, false, fmt.Errorf("producer %d, sequence %d: %w: the next is %d", p.id, h.BaseSequence, ErrGap, next)
	}
	return 0, false, fmt.Errorf("producer %d, sequence %d: %w (the next is %d)", p.id, h.BaseSequence, ErrForgotten, next)
}

// Apply notes that a batch with this header is in the log, where its first record has
// that offset. A batch without a producer's id changes nothing.
func (t *Table) Apply(first uint64, h *batch.Header) {
	if h.ProducerID < 0 {
		return
	}
	e := t.producers[h.ProducerID]
	if e == nil {
		e = t.recent.PushFront(&known{id: h.ProducerID, epoch: h.ProducerEpoch})
		t.producers[h.ProducerID] = e
		if len(t.producers) > MaxProducers {
			oldest := t.recent.Remove(t.recent.Back()).(*known)
			delete(t.producers, oldest.id)
		}
	}
	t.recent.MoveToFront(e)
	p := e.Value.(*known)
	if h.ProducerEpoch != p.epoch {
		p.epoch, p.batches = h.ProducerEpoch, p.batches[:0]
	}
	if len(p.batches) == MaxBatches {
		p.batches = append(p.batches[:0], p.batches[1:]...)
	}
	p.batches = append(p.batches, appended{h.BaseSequence, h.Count, first})
}

// next is the sequence number that the producer's next batch must have.
func (p *known) next() int32 {
	b := p.batches[len(p.batches)-1]
	return wrap(int64(b.sequence) + int64(b.count))
}

// wrap is a sequence number behind the largest, after which 0 comes.
func wrap(n int64) int32 { return int32(n & math.MaxInt32) }

// distance is how far b is behind a, at most half of all sequence numbers; less than 0 if
// it is before.
func distance(a, b int32) int64 {
	d := (int64(b) - int64(a)) & math.MaxInt32
	if d > math.MaxInt32/2 {
		d -= math.MaxInt32 + 1
	}
	return d
}
