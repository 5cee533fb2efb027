package storage

import (
	"errors"
	"fmt"
	"sort"

	"github.com/zue-log/zue/storage/batch"
)

// Lease keeps the bytes that a read returned in place. The zero Lease holds
// nothing.
type Lease struct{ s *segment }

// Release ends the lease: the record's slices must not be touched any more. It
// must be called once for each successful read.
func (l Lease) Release() {
	if l.s != nil {
		// Closing an unmapped file cannot lose anything: its bytes are synced
		// by the log, not here.
		_ = l.s.release()
	}
}

// Read returns the record at offset. Its Key, Value and Headers point into the
// mapped segment, must not be modified, and stay valid until the lease is released,
// even after Close. They have been verified: a read computes the checksums of its
// entry's header and body, unless the segment's last read was of the same entry.
//
// Errors: *OffsetError if the log does not have the offset; *CorruptionError if
// what it has is damaged; ErrClosed.
func (l *Log) Read(offset uint64) (Record, Lease, error) {
	for {
		if l.done.Load() {
			return Record{}, Lease{}, ErrClosed
		}
		// end before segments: a record below end is in what is loaded after.
		end := l.end.Load()
		segments := *l.segments.Load()
		n := sort.Search(len(segments), func(i int) bool { return segments[i].before.Offset > offset })
		if offset >= end || n == 0 {
			return Record{}, Lease{}, &OffsetError{Offset: offset, First: l.FirstOffset(), End: end}
		}
		s := segments[n-1]
		if !s.acquire() {
			continue // the log is being closed
		}
		rec, err := s.read(offset)
		if err != nil {
			return Record{}, Lease{}, errors.Join(fmt.Errorf("read offset %d: %w", offset, err), s.release())
		}
		return rec, Lease{s}, nil
	}
}

// read finds the record at offset, which the segment holds.
func (s *segment) read(offset uint64) (rec Record, err error) {
	end := s.end.Load()
	p := s.ix.find(uint32(offset - s.before.Offset))
	pos := int64(p.entry)
	for {
		if pos+entryHeaderSize > end {
			return rec, s.corrupt(pos, 0, offset, errShortEntry)
		}
		// Lengths on the way are taken on trust: one that is wrong leads to
		// bytes that are no entry for this offset, and they are checked.
		bodyLen, first, span := hop(s.b[pos:])
		if offset < first {
			return rec, s.corrupt(pos, 0, offset, errBreak)
		}
		if offset-first < uint64(span) {
			break
		}
		pos += entrySize(bodyLen)
	}
	h, body, err := s.entry(pos, end)
	if err != nil {
		return rec, s.corrupt(pos, h.index, offset, err)
	}
	r, err := batch.NewReader(body, h.offset)
	if err == nil && pos == int64(p.entry) && p.record > 0 {
		err = r.Seek(int(p.record))
	}
	if err != nil {
		return rec, s.corrupt(pos, h.index, offset, err)
	}
	for {
		here := r
		at, ok, err := r.Skip()
		switch {
		case err != nil:
			return rec, s.corrupt(pos, h.index, offset, err)
		case !ok || at > offset:
			return rec, s.corrupt(pos, h.index, offset, errors.New("the entry lacks the record"))
		case at == offset:
			if _, err := here.Next(&rec); err != nil {
				return rec, s.corrupt(pos, h.index, offset, err)
			}
			return rec, nil
		}
	}
}

// entry returns the entry at pos, verified.
func (s *segment) entry(pos, end int64) (h entryHeader, body []byte, err error) {
	if s.checked.Load() == pos {
		return splitEntry(s.b[pos:end], s.seed)
	}
	if h, body, err = parseEntry(s.b[pos:end], s.seed); err == nil {
		s.checked.Store(pos)
	}
	return h, body, err
}
