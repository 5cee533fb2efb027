package storage

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/zue-log/zue/storage/batch"
)

// ErrTruncated is wrapped by the error of an Iterator when records that it has
// yielded are no longer in the log: its end was cut off before them.
var ErrTruncated = errors.New("records that were read have been cut off the log")

var errIteratorClosed = errors.New("iterator is closed")

// readAhead is how many records an iterator decodes at a time.
const readAhead = 32

// Iterator yields the records of a log in order, from [Log.Iterate] on:
//
//	for it.Next() {
//		use(it.Record())
//	}
//	err := it.Err()
//
// Next reports false at the end of the log, too, and true again when there is more,
// which Wait waits for.
//
// Every entry is verified once, before its first record is yielded: the checksums
// of its header and its body, and that it follows the one before it. Nothing is
// allocated but for records with headers. An iterator holds on to the segment that it
// is in, no other, until Close; even if that leaves the log meanwhile it is yielded to
// its end.
//
// An Iterator is for one goroutine at a time; any number of them may be used at once,
// beside appends, which they do not hold up.
type Iterator struct {
	log *Log
	err error // final

	// What has been decoded already: ahead[at] is the current record, those behind
	// it up to n come next.
	at, n int
	ahead [readAhead]Record
	// next is the offset of the record that comes after ahead.
	next uint64

	epoch uint64 // of the log when the following was looked up
	s     *segment
	pos   int64 // of the entry after place, in s
	// place is behind the entry whose records are read, last behind that of the
	// record yielded last, if any was.
	place, last Place
	yielded     bool
	reader      batch.Reader // of the entry's other records
	open        bool         // whether there may be some
	unzipped    []byte       // buffer for a decompressed body
}

// Iterate returns an iterator that begins with the record at offset from, which may be
// the end offset. It must be closed.
//
// Errors: *OffsetError if from is before the first offset or after the end;
// ErrClosed.
func (l *Log) Iterate(from uint64) (*Iterator, error) {
	if l.done.Load() {
		return nil, ErrClosed
	}
	epoch := l.epoch.Load()
	if first, end := l.FirstOffset(), l.end.Load(); from < first || from > end {
		return nil, &OffsetError{Offset: from, First: first, End: end}
	}
	return &Iterator{log: l, next: from, epoch: epoch}, nil
}

// Next moves to the next record and reports whether there is one. It is false at the
// end of the log, where Err is nil, and for good after an error or Close.
func (it *Iterator) Next() bool {
	if it.at+1 < it.n && it.log.epoch.Load() == it.epoch {
		it.at++
		return true
	}
	return it.advance()
}

// Record returns the current record, after Next was true. Its slices point into the
// mapped file, as those of [Log.Read] do, or into a buffer of the iterator if the batch
// is compressed. They and the Record itself must not be modified and are valid until
// the next call of Next or Close.
func (it *Iterator) Record() *Record { return &it.ahead[it.at] }

// Offset returns the offset of the next record: that from which another iterator
// would go on.
func (it *Iterator) Offset() uint64 {
	if it.at < it.n {
		return it.ahead[it.at].Offset + 1
	}
	return it.next
}

// Err returns why Next is false: nil at the end of the log, where more may come.
// Otherwise it is, or wraps,
//   - *CorruptionError: the next entry is damaged,
//   - *OffsetError: the next record is no longer kept, or its offset is after the end
//     because the log was cut off before it,
//   - ErrTruncated: the log was cut off before a record that was yielded,
//   - *FaultError,
//   - ErrClosed: the log was closed.
func (it *Iterator) Err() error { return it.err }

// Wait returns nil when there is a record for Next or Next would fail; ErrClosed
// when the log is closed; the error of ctx when that is done.
func (it *Iterator) Wait(ctx context.Context) error {
	l := it.log
	if it.err != nil {
		return it.err
	}
	if it.at+1 < it.n {
		return nil
	}
	err := l.grown.wait(ctx, func() bool {
		return l.end.Load() > it.next || l.done.Load() || l.epoch.Load() != it.epoch
	})
	if err == nil && l.done.Load() {
		err = ErrClosed
	}
	return err
}

// Close lets go of the segment. More calls do nothing.
func (it *Iterator) Close() {
	it.leave()
	if it.err == nil {
		it.err = errIteratorClosed
	}
	it.next = it.Offset()
	it.at, it.n, it.unzipped = 0, 0, nil
}

func (it *Iterator) leave() {
	Lease{it.s}.Release()
	it.s, it.open = nil, false
}

// advance is Next when nothing has been decoded ahead, or the log was cut off since.
func (it *Iterator) advance() bool {
	if it.err != nil {
		return false
	}
	if it.n > 0 { // then one of them was yielded
		it.next = it.ahead[it.at].Offset + 1
		if it.at+1 == it.n && !it.open {
			it.next = it.place.Offset
		}
		it.last, it.yielded = it.place, true
		it.at, it.n = 0, 0
	}
	for {
		var err error
		if it.log.epoch.Load() == it.epoch {
			err = it.fill()
		}
		if it.log.epoch.Load() != it.epoch {
			// What was read may be of the log before the cut and after it.
			if err = it.resume(); err == nil {
				continue
			}
		}
		if err != nil {
			it.log.report(err)
			it.err = fmt.Errorf("iterate from offset %d: %w", it.next, err)
			it.at, it.n = 0, 0
			it.leave()
			return false
		}
		return it.n > 0
	}
}

// fill decodes records ahead, all of one entry; none at the end of the log.
func (it *Iterator) fill() error {
	for it.n == 0 {
		if it.log.done.Load() {
			return ErrClosed
		}
		// end before what else there is: a record below end is in that.
		if !it.open && it.next >= it.log.end.Load() {
			return nil
		}
		ended, err := it.s == nil, error(nil)
		if !ended {
			if ended, err = it.read(); err != nil && it.mended() {
				continue
			}
		}
		if ended && err == nil {
			err = it.enter()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// mended says whether the iterator has another copy of its segment now, in which the next
// entry may be whole: that of a segment in which entries were mended meanwhile.
func (it *Iterator) mended() bool {
	if it.open {
		return false // the entry was whole, but its records are not
	}
	s := it.log.copyOf(it.s)
	if s == nil {
		return false
	}
	it.leave()
	it.s = s
	return true
}

// read decodes records of the entry that is open, or of the next one in the segment
// that has any. The log has such a one, so that the segment has ended otherwise.
func (it *Iterator) read() (ended bool, err error) {
	defer catchFault(it.s.path, &err, debug.SetPanicOnFault(true))
	for {
		if it.open {
			if err := it.decode(); err != nil || it.n > 0 {
				return false, err
			}
		}
		end := it.s.end.Load()
		if it.pos >= end {
			return true, nil
		}
		h, body, err := parseEntry(it.s.b[it.pos:end], it.s.seed)
		if err == nil {
			err = h.follows(it.place)
		}
		if err == nil {
			err = it.begin(&h, body)
		}
		if err != nil {
			return false, it.s.corrupt(it.pos, it.place.Index+1, it.place.Offset, err)
		}
	}
}

// begin makes an entry at pos, which has been verified, the one whose records are read.
func (it *Iterator) begin(h *entryHeader, body []byte) (err error) {
	if h.kind == KindData {
		it.reader, err = batch.NewReader(body, h.offset)
		if err != nil && errors.Is(err, batch.ErrCompressed) {
			if it.unzipped, err = batch.Decompress(it.unzipped[:0], body, MaxBodyBytes); err == nil {
				it.reader, err = batch.NewReader(it.unzipped, h.offset)
			}
		}
		if err != nil {
			return err
		}
		it.open = true
	}
	it.place = h.after()
	it.pos += entrySize(h.bodyLen)
	return nil
}

// decode decodes records of the entry that is open, from it.next on, and closes it
// when there are no more.
func (it *Iterator) decode() error {
	for it.n < readAhead {
		rec := &it.ahead[it.n]
		ok, err := it.reader.Next(rec)
		if err != nil {
			if it.n > 0 {
				return nil // those before it first
			}
			return it.s.corrupt(it.pos, it.place.Index, it.next, err)
		}
		if !ok {
			it.open = false
			it.next = it.place.Offset
			return nil
		}
		if rec.Offset >= it.next {
			it.n++
		}
	}
	it.next = it.ahead[it.n-1].Offset + 1
	return nil
}

// enter moves to the segment that holds the record at it.next, which the log has: to
// its beginning from the segment before, else to the record.
func (it *Iterator) enter() error {
	s, err := it.log.holder(it.next)
	if err != nil {
		return err
	}
	old := it.s
	defer Lease{old}.Release()
	it.s, it.open = s, false
	switch {
	case old == nil:
		return it.seek()
	case s == old:
		return s.corrupt(it.pos, it.place.Index+1, it.place.Offset, errShortEntry)
	case s.before == it.place:
		it.pos = segmentHeaderSize
	case s.before != old.before:
		// Of the same segment there can be another copy, with more room.
		return s.corrupt(0, s.before.Index+1, s.before.Offset, errBreak)
	}
	return nil
}

// seek moves to the record at it.next, which the segment holds.
func (it *Iterator) seek() (err error) {
	s := it.s
	defer catchFault(s.path, &err, debug.SetPanicOnFault(true))
	end := s.end.Load()
	pos, record, err := s.locate(it.next, end)
	if err != nil {
		return err
	}
	it.pos = pos
	h, body, err := s.entry(pos, end)
	if err == nil {
		err = h.holds(it.next)
	}
	if err == nil {
		err = it.begin(&h, body)
	}
	if err == nil && record > 0 {
		err = it.reader.Seek(record)
	}
	if err != nil {
		return s.corrupt(pos, h.index, it.next, err)
	}
	return nil
}

// resume finds the iterator's place again after the end of the log was cut off.
func (it *Iterator) resume() error {
	l := it.log
	it.leave()
	it.at, it.n = 0, 0
	for {
		it.epoch = l.epoch.Load()
		err := it.check()
		if l.epoch.Load() == it.epoch {
			return err
		}
	}
}

// check says whether what was yielded is part of the log still.
func (it *Iterator) check() error {
	l := it.log
	if first, end := l.FirstOffset(), l.end.Load(); !it.yielded && (it.next < first || it.next > end) {
		return &OffsetError{Offset: it.next, First: first, End: end}
	}
	if !it.yielded {
		return nil
	}
	p, err := l.PlaceAfter(it.last.Index)
	var missing *IndexError
	switch {
	case errors.As(err, &missing) && it.last.Index < missing.First:
		return nil // cut off at the beginning, too: whether next is there will be seen
	case missing != nil || err == nil && p != it.last:
		return ErrTruncated
	}
	return err
}
