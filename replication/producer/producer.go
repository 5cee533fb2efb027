// Package producer tells a batch that a producer sends again from one that it sends for
// the first time, by the producer's id, its epoch and the sequence numbers that are in the
// header of a record batch: the rules are those of Kafka's idempotent producer (KIP-98).
//
// What it knows is a function of the end of a log: see [Load]. So it needs no file of its own, and a crash loses none of it.
package producer

import (
	"container/list"
	"errors"
	"fmt"
	"math"

	"github.com/zue-log/zue/storage"
	"github.com/zue-log/zue/storage/batch"
)

// ControlID is the body of the control entry whose index is a producer's id: so no other
// producer of the log has it.
const ControlID = "\x10"

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
	// ErrForgotten is wrapped by the error for a batch that comes before those of the
	// producer that are remembered: it is in the log, unless it never was.
	ErrForgotten = errors.New("the batch is older than those that are remembered; it may have been appended")
)

// Table is what is known of producers. It is for one goroutine at a time.
type Table struct {
	producers map[int64]*list.Element // of *known
	recent    list.List               // the one that has appended last is in front
	// all is from which id on all producers are known that have appended: since an id is
	// the index of an entry, one that is not known has appended nothing.
	all int64
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

// loaded is how many bytes of log a table is made of at least, if there are so many.
const loaded = 128 << 20

// Load returns a table of what the end of a log has: some 128 MiB, or two segments if these
// are larger.
func Load(log *storage.Log) (*Table, error) { return LoadUpTo(log, log.LastPlace().Index) }

// LoadUpTo is Load for a log of which only the entries up to index last count: a replica's,
// whose later ones are about to be replaced.
func LoadUpTo(log *storage.Log, last uint64) (*Table, error) {
	for {
		t, err := loadUpTo(log, last)
		if missing := (*storage.IndexError)(nil); errors.As(err, &missing) && missing.Index < missing.First {
			continue // retention has removed the segment meanwhile
		}
		return t, err
	}
}

func loadUpTo(log *storage.Log, last uint64) (*Table, error) {
	t := NewTable()
	starts := log.Starts()
	if len(starts) == 0 {
		return t, nil
	}
	m := log.Metrics()
	segments := max(2, 1+loaded*int64(max(1, m.Segments))/max(1, m.FileBytes))
	next := starts[max(0, len(starts)-int(segments))].Index + 1
	t.all = int64(next)
	var entries []storage.Entry
	for next <= last {
		var lease storage.Lease
		var err error
		if entries, lease, err = log.ReadEntries(entries[:0], next, last, 1<<20); err != nil {
			return nil, fmt.Errorf("load producers: %w", err)
		}
		for i := range entries {
			if e := &entries[i]; e.Kind == storage.KindData {
				if h, err := batch.ParseHeader(e.Body); err == nil {
					t.Apply(e.Offset, &h)
				}
			}
		}
		next = entries[len(entries)-1].Index + 1
		lease.Release()
	}
	return t, nil
}

// Check says what becomes of a batch with this header, which must have a producer's id. If
// it is to be appended, duplicate is false. If it is in the log already, duplicate is true
// and first the offset of its first record there. Errors: those that wrap ErrFenced, ErrGap
// or ErrForgotten; the batch is not to be appended.
//
// A new producer begins with sequence number 0, and so does a new epoch. One that is not
// known, since it has not appended for long, may go on with any.
func (t *Table) Check(h *batch.Header) (first uint64, duplicate bool, err error) {
	e := t.producers[h.ProducerID]
	if e == nil {
		if h.ProducerID >= t.all && h.BaseSequence != 0 {
			return 0, false, fmt.Errorf("producer %d, sequence %d: %w: it has appended nothing yet", h.ProducerID, h.BaseSequence, ErrGap)
		}
		return 0, false, nil
	}
	p := e.Value.(*known)
	switch {
	case h.ProducerEpoch < p.epoch:
		return 0, false, fmt.Errorf("producer %d, epoch %d: %w (epoch %d)", p.id, h.ProducerEpoch, ErrFenced, p.epoch)
	case h.ProducerEpoch > p.epoch:
		if h.BaseSequence != 0 {
			return 0, false, fmt.Errorf("producer %d, epoch %d, sequence %d: %w: an epoch begins with 0", p.id, h.ProducerEpoch, h.BaseSequence, ErrGap)
		}
		return 0, false, nil
	}
	for _, b := range p.batches {
		if b.sequence == h.BaseSequence && b.count == h.Count {
			return b.first, true, nil
		}
	}
	next := p.next()
	if h.BaseSequence == next {
		return 0, false, nil
	}
	end := wrap(int64(h.BaseSequence) + int64(h.Count))
	if distance(p.batches[0].sequence, end) <= 0 {
		return 0, false, fmt.Errorf("producer %d, sequence %d: %w (the next is %d)", p.id, h.BaseSequence, ErrForgotten, next)
	}
	return 0, false, fmt.Errorf("producer %d, sequence %d: %w, or it is made of other records: the next is %d", p.id, h.BaseSequence, ErrGap, next)
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
			t.all = max(t.all, oldest.id+1)
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
