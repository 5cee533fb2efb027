package storage

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"runtime/debug"
)

// ErrNoEntry is wrapped by an *[IndexError].
var ErrNoEntry = errors.New("entry is not in the log")

// IndexError reports an entry that the log does not have.
type IndexError struct {
	Index uint64 // what was asked for
	First uint64 // the index of the first entry kept, or to come
	Last  uint64 // of the last one written; First-1 if there is none
}

// Error implements error.
func (e *IndexError) Error() string {
	if e.Last < e.First {
		return fmt.Sprintf("entry %d: the log has none yet (the next is %d)", e.Index, e.First)
	}
	return fmt.Sprintf("entry %d is not in the log, which has %d to %d", e.Index, e.First, e.Last)
}

// Unwrap returns ErrNoEntry.
func (e *IndexError) Unwrap() error { return ErrNoEntry }

// ReadEntries appends to dst the entries from index first on, and returns it: at least
// one, and then as many as follow in the same segment up to index last, until their
// bodies would take more than maxBytes together. It goes to the last entry written, beyond what readers see.
// The bodies point into the mapped file, must not be modified, and stay valid until
// the lease is released. See [Log.Read] for faults in the mapping.
//
// Each has been verified: the checksum of its header and of its body, even if that was found
// intact before, and that it follows the one before it in dst. So what is sent to another node is
// what was written, and damage is found here, not there.
//
// Errors, on which dst is returned unchanged and there is no lease: *IndexError if
// the log does not have the first entry; *CorruptionError if that is damaged (a damaged
// one after it ends the entries); *FaultError; ErrClosed.
func (l *Log) ReadEntries(dst []Entry, first, last uint64, maxBytes int) ([]Entry, Lease, error) {
	return readFrom(l, dst, first, func(s *segment) ([]Entry, error) { return s.entries(dst, first, last, maxBytes) })
}

// readFrom returns what read finds in the segment that holds entry first, and a lease of that; dst and
// none with an error.
func readFrom[T any](l *Log, dst []T, first uint64, read func(s *segment) ([]T, error)) ([]T, Lease, error) {
	for {
		epoch := l.epoch.Load()
		out := dst
		s, err := l.holderOf(first)
		if err == nil {
			out, err = read(s)
		}
		if l.epoch.Load() != epoch {
			Lease{s}.Release()
			continue // the end was cut off meanwhile
		}
		if err != nil {
			l.report(err)
			return dst, Lease{}, l.entryError(first, s, err)
		}
		return out, Lease{s}, nil
	}
}

// Header is an entry of which the body may not have been read.
type Header struct {
	Entry
	// BodyBytes is the length of the body, whether Body has it or is nil.
	BodyBytes int
}

// ReadHeaders is ReadEntries without the bodies of data entries, which are neither read nor
// verified, so that Body is nil: a first look at entries that are to be read later, by who may
// wait for the disk. maxBytes counts their bodies all the same. The bodies of control entries are
// copied, and verified. There is no lease.
//
// Errors: as those of ReadEntries.
func (l *Log) ReadHeaders(dst []Header, first, last uint64, maxBytes int) ([]Header, error) {
	out, lease, err := readFrom(l, dst, first, func(s *segment) ([]Header, error) { return s.headers(dst, first, last, maxBytes) })
	lease.Release()
	return out, err
}

// Starts returns the places at which its segments begin, the oldest first: retention and
// TruncatePrefix have the log begin at one of them, or where a later segment will begin.
// So they say of what else, as memberships at some index, must be kept with the log. It is
// empty if there is no segment.
func (l *Log) Starts() []Place {
	segments := *l.segments.Load()
	starts := make([]Place, len(segments))
	for i, s := range segments {
		starts[i] = s.before
	}
	return starts
}

// PlaceAfter returns the place behind the entry with that index: its index, term and
// chain, and the offset of the next record. It goes to the last entry written, beyond
// what readers see. The entry before the first one kept has a place, too: where the
// log begins. Only the entry's header is read and verified.
//
// Errors: *IndexError if the log has no such entry; *CorruptionError; *FaultError;
// ErrClosed.
func (l *Log) PlaceAfter(index uint64) (Place, error) {
	for {
		epoch := l.epoch.Load()
		p, s, err := l.placeAfter(index)
		if l.epoch.Load() != epoch {
			Lease{s}.Release()
			continue
		}
		if err != nil {
			l.report(err)
			return Place{}, l.entryError(index, s, err)
		}
		Lease{s}.Release()
		return p, nil
	}
}

func (l *Log) placeAfter(index uint64) (Place, *segment, error) {
	if first := l.first.Load(); first.Index == index {
		return *first, nil, nil
	}
	s, err := l.holderOf(index)
	if err != nil {
		return Place{}, nil, err
	}
	h, err := s.header(index)
	return h.after(), s, err
}

// FindEntry returns the index of the entry that holds the record at offset. Only the
// entry's header is verified.
//
// Errors: *OffsetError if the log does not have the offset; *CorruptionError;
// *FaultError; ErrClosed.
func (l *Log) FindEntry(offset uint64) (index uint64, err error) {
	for {
		epoch := l.epoch.Load()
		s, err := l.holder(offset)
		if err == nil {
			index, err = s.findEntry(offset)
		}
		if l.epoch.Load() != epoch {
			Lease{s}.Release()
			continue
		}
		if err != nil {
			return 0, l.readError(offset, s, err)
		}
		Lease{s}.Release()
		return index, nil
	}
}

// errNotInSegment says that a segment's entries end before the one that is looked for, or
// that no segment has it.
var errNotInSegment = errors.New("no such entry")

// entryError makes the error of a look at an entry in s, nil if it got no further than
// to look for that, and releases s.
func (l *Log) entryError(index uint64, s *segment, err error) error {
	Lease{s}.Release()
	if errors.Is(err, errNotInSegment) {
		first, last := l.indexes()
		return &IndexError{Index: index, First: first, Last: last}
	}
	if s == nil {
		return err
	}
	return fmt.Errorf("read entry %d: %w", index, err)
}

// indexes returns those of the first entry kept and of the last one written, for an
// error; the first and the one before it if there is none, or it cannot be read.
func (l *Log) indexes() (first, last uint64) {
	first = l.first.Load().Index + 1
	segments := *l.segments.Load()
	if len(segments) == 0 {
		return first, first - 1
	}
	s := segments[len(segments)-1]
	last = max(s.before.Index, first-1)
	if s.acquire() {
		if h, err := s.lastHeader(); err == nil {
			last = h.index
		}
		Lease{s}.Release()
	}
	return first, last
}

// holderOf returns the segment that holds the entry with that index if any does,
// acquired.
func (l *Log) holderOf(index uint64) (*segment, error) {
	for {
		if l.done.Load() {
			return nil, ErrClosed
		}
		s := segmentWith(*l.segments.Load(), index)
		if s == nil {
			return nil, errNotInSegment
		}
		if s.acquire() {
			return s, nil
		} // else it has just left the log, or the log is being closed
	}
}

// segmentWith returns the one that has the entry with that index, if any has; nil if index
// is before them all.
func segmentWith(segments []*segment, index uint64) *segment {
	lo, hi := 0, len(segments)
	for lo < hi {
		if m := int(uint(lo+hi) / 2); segments[m].before.Index < index {
			lo = m + 1
		} else {
			hi = m
		}
	}
	if lo == 0 {
		return nil
	}
	return segments[lo-1]
}

// entries is ReadEntries in a segment.
func (s *segment) entries(dst []Entry, first, last uint64, maxBytes int) (out []Entry, err error) {
	defer catchFault(s.path, &err, debug.SetPanicOnFault(true))
	end := s.end.Load()
	pos, h, err := s.locateIndex(first, end)
	if err != nil {
		return dst, err
	}
	h, body, err := parseEntry(s.b[pos:end], s.seed)
	if err != nil {
		return dst, s.corrupt(pos, first, h.offset, err)
	}
	out = append(dst, h.entry(body))
	for total := len(body); ; {
		p := h.after()
		pos += entrySize(h.bodyLen)
		if p.Index >= last || pos+entryHeaderSize > end {
			return out, nil
		}
		bodyLen, _, _ := hop(s.b[pos:])
		if total += int(bodyLen); total > maxBytes {
			return out, nil
		}
		if h, body, err = parseEntry(s.b[pos:end], s.seed); err != nil || h.follows(p) != nil {
			return out, nil // whoever asks for it, gets the error
		}
		out = append(out, h.entry(body))
	}
}

// headers is ReadHeaders in a segment.
func (s *segment) headers(dst []Header, first, last uint64, maxBytes int) (out []Header, err error) {
	defer catchFault(s.path, &err, debug.SetPanicOnFault(true))
	end := s.end.Load()
	pos, h, err := s.locateIndex(first, end)
	if err != nil {
		return dst, err
	}
	e, err := s.withoutData(pos, end, &h)
	if err != nil {
		return dst, s.corrupt(pos, first, h.offset, err)
	}
	out = append(dst, e)
	for total := int64(h.bodyLen); ; {
		p := h.after()
		pos += entrySize(h.bodyLen)
		if p.Index >= last || pos+entryHeaderSize > end {
			return out, nil
		}
		if h, err = parseEntryHeader(s.b[pos:end], s.seed); err == nil {
			err = h.follows(p)
		}
		if err == nil {
			e, err = s.withoutData(pos, end, &h)
		}
		if total += int64(h.bodyLen); err != nil || total > int64(maxBytes) {
			return out, nil // whoever asks for it, gets the error
		}
		out = append(out, e)
	}
}

// withoutData returns the entry at pos, with that header, for ReadHeaders.
func (s *segment) withoutData(pos, end int64, h *entryHeader) (Header, error) {
	if pos+entrySize(h.bodyLen) > end {
		return Header{}, errShortEntry
	}
	if h.kind != KindControl {
		return Header{h.entry(nil), int(h.bodyLen)}, nil
	}
	_, body, err := s.entry(pos, end)
	return Header{h.entry(bytes.Clone(body)), int(h.bodyLen)}, err
}

// header returns the header of the entry with that index.
func (s *segment) header(index uint64) (h entryHeader, err error) {
	defer catchFault(s.path, &err, debug.SetPanicOnFault(true))
	_, h, err = s.locateIndex(index, s.end.Load())
	return h, err
}

// findEntry returns the index of the entry that holds the record at offset.
func (s *segment) findEntry(offset uint64) (index uint64, err error) {
	defer catchFault(s.path, &err, debug.SetPanicOnFault(true))
	pos, _, err := s.locate(offset, s.end.Load())
	if err != nil {
		return 0, err
	}
	h, err := parseEntryHeader(s.b[pos:], s.seed)
	if err == nil {
		err = h.holds(offset)
	}
	if err != nil {
		return 0, s.corrupt(pos, h.index, offset, err)
	}
	return h.index, nil
}

// lastHeader returns the header of the segment's last entry.
func (s *segment) lastHeader() (h entryHeader, err error) {
	defer catchFault(s.path, &err, debug.SetPanicOnFault(true))
	end := s.end.Load()
	for pos := s.ix.lastBefore(end); pos+entryHeaderSize <= end; pos += entrySize(h.bodyLen) {
		if h, err = parseEntryHeader(s.b[pos:], s.seed); err != nil {
			return h, s.corrupt(pos, 0, 0, err)
		}
	}
	return h, nil
}

// locateIndex returns the position of the entry with that index, whose header and those
// on the way from an index point have been verified; errNotInSegment if the entries up to
// end end before it.
func (s *segment) locateIndex(index uint64, end int64) (pos int64, h entryHeader, err error) {
	rel := index - s.before.Index - 1
	if rel > math.MaxUint32 {
		return 0, h, errNotInSegment
	}
	for pos = s.ix.findIndex(uint32(rel)); pos < end; pos += entrySize(h.bodyLen) {
		if h, err = parseEntryHeader(s.b[pos:end], s.seed); err == nil && h.index > index {
			err = errBreak
		}
		if err != nil {
			return 0, h, s.corrupt(pos, index, h.offset, err)
		}
		if h.index == index {
			return pos, h, nil
		}
	}
	return 0, h, errNotInSegment
}
