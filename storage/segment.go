package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"path/filepath"
	"sync/atomic"

	"github.com/zue-log/zue/storage/batch"
	"github.com/zue-log/zue/storage/vfs"
)

// Layout of a segment file; FORMAT.md has the byte tables.
const (
	segmentMagic      = "ZUESEGM\n"
	segmentVersion    = 1
	segmentHeaderSize = 64

	footerMagic = "ZUEFOOT\n"
	footerSize  = 512 // one sector, so that it is there whole or not at all
	footerUsed  = 72
)

// segment is one .log file and its index. It is reference-counted: the log holds
// one reference, each lease one, and the last to go unmaps it.
type segment struct {
	path string
	file vfs.File
	m    vfs.Mapping
	b    []byte      // the whole file, mapped for reading
	w    vfs.Mapping // the same, for storing single appends; nil if there is no need
	ix   *index
	refs atomic.Int64

	stored uint32       // what its header stores for its seed
	seed   seed         // of its entries' header checksums
	before Place        // what the first entry follows
	end    atomic.Int64 // position after the last readable entry
	// checked has the blocks in which a long entry begins that was found intact, even
	// the index points from which on its records are of one size: see entry.
	checked, even bitSet

	// maxTime is the largest timestamp of its records; noTime without any.
	maxTime atomic.Int64
	created int64 // when it was made, in Unix milliseconds
	filled  bool  // its file was filled with zeros by this process

	// The committer's, or with the log's mutex held by others.
	last   Place // after the last entry
	sealed bool
}

func segmentName(first uint64) string { return fmt.Sprintf("%020d.log", first) }
func indexName(first uint64) string   { return fmt.Sprintf("%020d.index", first) }

// room is how many bytes of entries a segment file of that size takes, its
// header included: the footer must fit behind.
func room(size int64) int64 { return size - 2*footerSize }

// sizeFor is the size of a segment file that has room for need bytes of entries.
func sizeFor(need int64) int64 { return segmentHeaderSize + need + 2*footerSize }

// footerAt is where the footer of entries that stop at end goes.
func footerAt(end int64) int64 { return (end + footerSize - 1) &^ (footerSize - 1) }

// segmentHeader is the decoded header of a segment.
type segmentHeader struct {
	before  Place  // what its first entry follows
	created int64  // Unix milliseconds
	seed    uint32 // what newSeed makes the seed of its checksums from
}

func (h *segmentHeader) put(b []byte) {
	le := binary.LittleEndian
	b = b[:segmentHeaderSize]
	clear(b)
	copy(b[4:12], segmentMagic)
	le.PutUint32(b[12:], segmentVersion)
	le.PutUint64(b[16:], h.before.Index)
	le.PutUint64(b[24:], h.before.Term)
	le.PutUint64(b[32:], h.before.Offset)
	le.PutUint64(b[40:], h.before.Chain)
	le.PutUint64(b[48:], uint64(h.created))
	le.PutUint32(b[56:], h.seed)
	le.PutUint32(b, crc32.Checksum(b[4:], castagnoli))
}

var (
	errNoSegment     = errors.New("not a Zue segment")
	errSegmentHeader = errors.New("segment header is damaged")
)

func parseSegmentHeader(b []byte) (h segmentHeader, err error) {
	if len(b) < segmentHeaderSize {
		return h, errNoSegment
	}
	b = b[:segmentHeaderSize]
	le := binary.LittleEndian
	sum := le.Uint32(b) == crc32.Checksum(b[4:], castagnoli)
	switch v := le.Uint32(b[12:]); {
	case string(b[4:12]) != segmentMagic:
		return h, errNoSegment
	case !sum:
		return h, errSegmentHeader
	case v != segmentVersion:
		return h, fmt.Errorf("%w: segment version %d, this library knows %d", ErrVersion, v, segmentVersion)
	}
	return segmentHeader{
		before:  Place{Index: le.Uint64(b[16:]), Term: le.Uint64(b[24:]), Offset: le.Uint64(b[32:]), Chain: le.Uint64(b[40:])},
		created: int64(le.Uint64(b[48:])),
		seed:    le.Uint32(b[56:]),
	}, nil
}

func putFooter(b []byte, end int64, last Place, maxTime int64) {
	le := binary.LittleEndian
	b = b[:footerUsed]
	clear(b)
	copy(b[4:12], footerMagic)
	le.PutUint32(b[12:], segmentVersion)
	le.PutUint64(b[16:], uint64(end))
	le.PutUint64(b[24:], last.Index)
	le.PutUint64(b[32:], last.Term)
	le.PutUint64(b[40:], last.Offset)
	le.PutUint64(b[48:], last.Chain)
	le.PutUint64(b[56:], uint64(maxTime))
	le.PutUint32(b, crc32.Checksum(b[4:], castagnoli))
}

// parseFooter decodes a footer that stands at position at.
func parseFooter(b []byte, at int64) (end int64, last Place, maxTime int64, ok bool) {
	if len(b) < footerUsed {
		return 0, Place{}, 0, false
	}
	b = b[:footerUsed]
	le := binary.LittleEndian
	if string(b[4:12]) != footerMagic || le.Uint32(b[12:]) != segmentVersion || le.Uint32(b) != crc32.Checksum(b[4:], castagnoli) {
		return 0, Place{}, 0, false
	}
	end = int64(le.Uint64(b[16:]))
	if end <= segmentHeaderSize || footerAt(end) != at {
		return 0, Place{}, 0, false
	}
	return end, Place{Index: le.Uint64(b[24:]), Term: le.Uint64(b[32:]), Offset: le.Uint64(b[40:]), Chain: le.Uint64(b[48:])}, int64(le.Uint64(b[56:])), true
}

// footerVersion is an error if b is a footer of another version.
func footerVersion(b []byte) error {
	if len(b) < footerUsed || string(b[4:12]) != footerMagic {
		return nil
	}
	le := binary.LittleEndian
	if v := le.Uint32(b[12:]); v != segmentVersion && le.Uint32(b) == crc32.Checksum(b[4:footerUsed], castagnoli) {
		return fmt.Errorf("%w: footer version %d, this library knows %d", ErrVersion, v, segmentVersion)
	}
	return nil
}

// openSegment maps an existing segment file and reads its header, and its footer
// if it has one. The index is not opened.
func openSegment(fsys vfs.FS, path string, writable bool) (*segment, error) {
	f, err := fsys.Open(path, writable)
	if err != nil {
		return nil, err
	}
	size, err := f.Size()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if size < segmentHeaderSize || size > math.MaxUint32 {
		return nil, errors.Join(fmt.Errorf("%s: %d bytes: %w", path, size, errNoSegment), f.Close())
	}
	m, err := f.Map(int(size), false)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("map segment: %w", err), f.Close())
	}
	s := mappedSegment(f, path, m)
	h, err := parseSegmentHeader(s.b)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), s.close())
	}
	s.begin(h)
	if at := size - footerSize; at >= segmentHeaderSize {
		if end, last, maxTime, ok := parseFooter(s.b[at:], at); ok {
			s.end.Store(end)
			s.last = last
			s.maxTime.Store(maxTime)
			s.sealed = true
		} else if err := footerVersion(s.b[at:]); err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", path, err), s.close())
		}
	}
	return s, nil
}

// mappedSegment makes a segment of a file and its mapping. The log holds it.
func mappedSegment(f vfs.File, path string, m vfs.Mapping) *segment {
	s := &segment{path: path, file: f, m: m, b: m.Bytes()}
	s.maxTime.Store(noTime)
	s.refs.Store(1)
	return s
}

// begin sets what the segment's header says of it.
func (s *segment) begin(h segmentHeader) {
	s.before, s.last, s.created, s.stored, s.seed = h.before, h.before, h.created, h.seed, newSeed(h.seed)
	s.end.Store(segmentHeaderSize)
}

// ownHeader is the header of the segment itself, from memory.
func (s *segment) ownHeader() segmentHeader {
	return segmentHeader{before: s.before, created: s.created, seed: s.stored}
}

// indexPath is the name of the segment's index file.
func (s *segment) indexPath() string {
	return filepath.Join(filepath.Dir(s.path), indexName(s.before.Offset))
}

// acquire takes a reference, unless the segment is gone.
func (s *segment) acquire() bool {
	for {
		n := s.refs.Load()
		if n == 0 {
			return false
		}
		if s.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// release gives a reference back; the last one closes the segment.
func (s *segment) release() error {
	if s.refs.Add(-1) > 0 {
		return nil
	}
	return s.close()
}

func (s *segment) close() error {
	err := errors.Join(s.closeFiles(), s.m.Close())
	if s.ix != nil {
		err = errors.Join(err, s.ix.close())
	}
	return err
}

// closeStores unmaps what single appends are stored through.
func (s *segment) closeStores() error {
	if s.w == nil {
		return nil
	}
	err := s.w.Close()
	s.w = nil
	return err
}

// fileSize is how long the .log file is. The log's mutex is held.
func (s *segment) fileSize() int64 {
	if s.sealed {
		return footerAt(s.end.Load()) + footerSize
	}
	return int64(len(s.b))
}

// closeFiles closes the descriptors, which a sealed segment needs no more: its
// mappings for reading stay.
func (s *segment) closeFiles() error {
	err := s.closeStores()
	if s.file != nil {
		err = errors.Join(err, s.file.Close())
		s.file = nil
	}
	if s.ix != nil && s.ix.file != nil {
		err = errors.Join(err, s.ix.file.Close())
		s.ix.file = nil
	}
	return err
}

// coverage describes the segment's index as it is.
func (s *segment) coverage() indexCoverage {
	return indexCoverage{end: s.end.Load(), place: s.last, maxTime: s.maxTime.Load()}
}

// addPoints adds to the index what the entry at position pos calls for: a point
// at its start, and some inside a long body that is not compressed.
func (s *segment) addPoints(pos int64, h *entryHeader, body []byte, interval int64) {
	entry := point{
		offset: uint32(h.offset - s.before.Offset),
		index:  uint32(h.index - s.before.Index - 1),
		entry:  uint32(pos),
		before: s.maxTime.Load(),
	}
	b, ok := h.batch(body)
	if ok {
		s.maxTime.Store(max(entry.before, b.MaxTimestamp))
	}
	if h.offset-s.before.Offset > math.MaxUint32-uint64(h.span) {
		return // no log makes such a segment; without points readers walk
	}
	if pos >= s.ix.next {
		s.ix.add(entry)
		s.ix.next = pos + interval
	}
	if !ok || b.Codec() != batch.CodecNone || pos+entryHeaderSize+int64(len(body)) < s.ix.next {
		return
	}
	r, err := batch.NewReader(body, h.offset)
	if err != nil {
		return // readers will say so; the point at its start suffices for them
	}
	for last := h.offset; ; {
		at := int64(r.Position())
		offset, stamp, ok, err := r.SkipTime()
		if err != nil || !ok || offset < last {
			return
		}
		last = offset
		if abs := pos + entryHeaderSize + at; abs >= s.ix.next {
			p := entry
			p.offset = uint32(offset - s.before.Offset)
			p.record = uint32(at)
			s.ix.add(p)
			s.ix.next = abs + interval
		}
		// Never more than the next entry's, should the batch's own largest be wrong.
		entry.before = max(entry.before, min(stamp, s.maxTime.Load()))
	}
}

// corrupt makes the error for a bad place in the segment.
func (s *segment) corrupt(pos int64, index, offset uint64, reason error) error {
	return &CorruptionError{Path: s.path, Position: pos, Index: index, Offset: offset, Reason: reason.Error()}
}
