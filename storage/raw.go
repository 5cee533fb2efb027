package storage

import (
	"context"
	"fmt"
	"runtime/debug"

	"github.com/zue-log/zue/storage/batch"
)

// RawEntries are entries as they stand in a segment file; FORMAT.md has their layout.
type RawEntries struct {
	// Bytes are whole entries, each with its padding, one behind the other.
	Bytes []byte
	// Format is the version of the segment's format.
	Format uint8
	// Seed is what the segment's header stores for its seed, with which the checksums
	// of the entries' headers begin.
	Seed uint32
}

// EndOffset returns the offset behind the last record; offset if there are no entries.
func (r *RawEntries) EndOffset(offset uint64) uint64 {
	for b := r.Bytes; len(b) >= entryHeaderSize; {
		bodyLen, first, span := hop(b)
		offset = first + uint64(span)
		b = b[min(entrySize(bodyLen), int64(len(b))):]
	}
	return offset
}

// ReadRaw returns entries from the one on that holds the record at offset, verbatim, to be
// sent to someone who reads them with an [EntryReader]: that one, and then as many as
// follow in the same segment, hold only records that readers see, and take up no more than
// maxBytes together. The bytes are in the mapped file, as [Log.Read] says, and stay valid
// until the lease is released. All have been verified, as by [Log.Read].
//
// At the end offset there is none, and no lease to release. Errors, with which there is no
// lease either: *OffsetError if offset is before the first or after the end offset;
// *CorruptionError if the first entry is damaged (a damaged one after it ends them);
// *FaultError; ErrClosed.
func (l *Log) ReadRaw(offset uint64, maxBytes int) (RawEntries, Lease, error) {
	for {
		epoch := l.epoch.Load()
		end := l.end.Load()
		if offset == end && offset >= l.FirstOffset() && !l.done.Load() {
			return RawEntries{}, Lease{}, nil
		}
		var raw RawEntries
		s, err := l.holder(offset)
		if err == nil {
			raw, err = s.raw(offset, end, maxBytes)
		}
		if l.epoch.Load() != epoch {
			Lease{s}.Release()
			continue // the end was cut off meanwhile
		}
		if err != nil {
			return RawEntries{}, Lease{}, l.readError(offset, s, err)
		}
		return raw, Lease{s}, nil
	}
}

// raw is ReadRaw in a segment, of records below end.
func (s *segment) raw(offset, end uint64, maxBytes int) (raw RawEntries, err error) {
	defer catchFault(s.path, &err, debug.SetPanicOnFault(true))
	limit := s.end.Load()
	pos, _, err := s.locate(offset, limit)
	if err != nil {
		return raw, err
	}
	h, _, err := s.entry(pos, limit)
	if err == nil {
		err = h.holds(offset)
	}
	if err != nil {
		return raw, s.corrupt(pos, h.index, offset, err)
	}
	stop := pos + entrySize(h.bodyLen)
	for stop+entryHeaderSize <= limit {
		bodyLen, first, span := hop(s.b[stop:])
		if first >= end || uint64(span) > end-first || stop+entrySize(bodyLen)-pos > int64(maxBytes) {
			break
		}
		next, _, err := s.entry(stop, limit)
		if err != nil || next.follows(h.after()) != nil {
			break // whoever asks for it, gets the error
		}
		h, stop = next, stop+entrySize(next.bodyLen)
	}
	return RawEntries{Bytes: s.b[pos:stop:stop], Format: segmentVersion, Seed: s.stored}, nil
}

// WaitFor returns nil once the end offset is beyond offset: at once if it is. Otherwise
// the error is that of ctx, or ErrClosed.
func (l *Log) WaitFor(ctx context.Context, offset uint64) error {
	err := l.grown.wait(ctx, func() bool { return l.end.Load() > offset || l.done.Load() })
	if err == nil && l.done.Load() {
		return ErrClosed
	}
	return err
}

// EntryReader reads entries from bytes that [Log.ReadRaw] has returned, there or
// elsewhere. It verifies each: the checksums of its header and its body, and that it
// follows the one before it.
type EntryReader struct {
	b    []byte
	seed seed
	last Place
	any  bool
}

// NewEntryReader returns a reader of raw. The error wraps ErrVersion if they are of a
// format that this library does not know.
func NewEntryReader(raw RawEntries) (*EntryReader, error) {
	if len(raw.Bytes) > 0 && raw.Format != segmentVersion {
		return nil, fmt.Errorf("%w: entries of format %d, this library knows %d", ErrVersion, raw.Format, segmentVersion)
	}
	return &EntryReader{b: raw.Bytes, seed: newSeed(raw.Seed)}, nil
}

// Next returns the next entry, whose body is a part of the reader's bytes; false when
// there is none. An error, which wraps ErrCorrupt, is final.
func (r *EntryReader) Next() (Entry, bool, error) {
	if len(r.b) == 0 {
		return Entry{}, false, nil
	}
	h, body, err := parseEntry(r.b, r.seed)
	if err == nil && r.any {
		err = h.follows(r.last)
	}
	if err == nil && entrySize(h.bodyLen) > int64(len(r.b)) {
		err = errShortEntry
	}
	if err != nil {
		return Entry{}, false, fmt.Errorf("entry behind index %d, offset %d: %w: %w", r.last.Index, r.last.Offset, ErrCorrupt, err)
	}
	r.b = r.b[entrySize(h.bodyLen):]
	r.last, r.any = h.after(), true
	return h.entry(body), true, nil
}

// Records returns a reader of the records of a data entry. A compressed body is
// decompressed, which allocates; else the records are parts of the entry's body.
func (e *Entry) Records() (batch.Reader, error) {
	var z unzipped
	h := entryHeader{kind: e.Kind, chain: e.Chain, bodyCRC: e.Checksum, offset: e.Offset}
	return z.reader(&h, e.Body)
}
