package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"math"
	"sort"
	"sync/atomic"

	"github.com/zue-log/zue/storage/batch"
	"github.com/zue-log/zue/storage/vfs"
)

// Layout of an index file; FORMAT.md has the byte table.
const (
	indexMagic      = "ZUEINDX\n"
	indexVersion    = 1
	indexHeaderSize = 80
	pointSize       = 24
)

// point says where in the segment a record is, and the entry that holds it.
type point struct {
	offset uint32 // of the record, less the segment's first
	index  uint32 // of the entry, less the segment's first
	entry  uint32 // position of the entry in the segment
	record uint32 // position of the record in the entry's body; 0: its first
	before int64  // no record before it in the segment has a larger timestamp
}

// index is the sparse index of one segment: points in ascending order, in a
// mapped file. The committer adds points while readers look others up: a point
// is written before the count that includes it.
type index struct {
	path  string
	file  vfs.File    // nil once the segment is sealed
	m     vfs.Mapping // nil if b is in memory: the log is open for reading only
	b     []byte
	count atomic.Int64
	// next is the position in the segment from which on a new point is due.
	next int64
}

// indexCapacity is the size of an index file that suffices for a segment.
func indexCapacity(segmentSize int64, interval int) int64 {
	n := (segmentSize/int64(interval) + 2) * pointSize
	const page = 4096
	return (indexHeaderSize + n + page - 1) &^ (page - 1)
}

// createIndex makes an empty index file, replacing what has its name.
func createIndex(fsys vfs.FS, path string, capacity int64) (*index, error) {
	if err := fsys.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("replace index: %w", err)
	}
	f, err := fsys.Create(path)
	if err != nil {
		return nil, fmt.Errorf("create index: %w", err)
	}
	// Real blocks, or a full disk would be a fatal signal in a store to the
	// mapping.
	if err := f.Allocate(capacity); err != nil {
		return nil, errors.Join(fmt.Errorf("create index: %w", err), f.Close(), fsys.Remove(path))
	}
	ix, err := mapIndex(f, path, capacity, true)
	if err != nil {
		return nil, errors.Join(err, fsys.Remove(path))
	}
	return ix, nil
}

// mapIndex maps f, which it closes if that fails.
func mapIndex(f vfs.File, path string, size int64, writable bool) (*index, error) {
	m, err := f.Map(int(size), writable)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("map index: %w", err), f.Close())
	}
	return &index{path: path, file: f, m: m, b: m.Bytes()}, nil
}

// indexCoverage is what an index file's header says it was made from.
type indexCoverage struct {
	count uint32
	end   int64 // the segment's entries up to this position are covered
	place Place // after the last of them
	// maxTime is the largest timestamp among them.
	maxTime int64
}

// openIndex opens an index file if it is whole. Any error means that the index
// must be made anew from the segment.
func openIndex(fsys vfs.FS, path string, writable bool) (*index, indexCoverage, error) {
	f, err := fsys.Open(path, writable)
	if err != nil {
		return nil, indexCoverage{}, err
	}
	size, err := f.Size()
	if err == nil && (size < indexHeaderSize || size > indexCapacity(math.MaxUint32, MinIndexInterval)) {
		err = fmt.Errorf("%s: %d bytes are no index", path, size)
	}
	if err != nil {
		return nil, indexCoverage{}, errors.Join(err, f.Close())
	}
	ix, err := mapIndex(f, path, size, writable)
	if err != nil {
		return nil, indexCoverage{}, err
	}
	cov, err := parseIndexHeader(ix.b)
	if err != nil {
		return nil, indexCoverage{}, errors.Join(fmt.Errorf("%s: %w", path, err), ix.close())
	}
	ix.count.Store(int64(cov.count))
	ix.next = cov.end
	return ix, cov, nil
}

var (
	errIndexOpen   = errors.New("the log was not closed cleanly")
	errIndexHeader = errors.New("index header is not valid")
	errIndexOrder  = errors.New("index points are out of order")
)

// parseIndexHeader checks an index file's bytes: header, checksum over header
// and points, order of the points.
func parseIndexHeader(b []byte) (indexCoverage, error) {
	var c indexCoverage
	le := binary.LittleEndian
	if len(b) >= indexHeaderSize && isZero(b[:indexHeaderSize]) {
		return c, errIndexOpen
	}
	if len(b) < indexHeaderSize || string(b[4:12]) != indexMagic || le.Uint32(b[12:]) != indexVersion {
		return c, errIndexHeader
	}
	c.count = le.Uint32(b[16:])
	c.end = int64(le.Uint64(b[24:]))
	c.place = Place{Index: le.Uint64(b[32:]), Term: le.Uint64(b[40:]), Offset: le.Uint64(b[48:]), Chain: le.Uint64(b[56:])}
	c.maxTime = int64(le.Uint64(b[64:]))
	if int64(c.count) > int64(len(b)-indexHeaderSize)/pointSize || c.end < segmentHeaderSize {
		return c, errIndexHeader
	}
	end := indexHeaderSize + int(c.count)*pointSize
	if le.Uint32(b) != crc32.Checksum(b[4:end], castagnoli) {
		return c, errIndexHeader
	}
	last := point{before: noTime}
	for at := indexHeaderSize; at < end; at += pointSize {
		p := parsePoint(b[at:])
		if p.offset < last.offset || p.index < last.index || p.entry < max(last.entry, segmentHeaderSize) || int64(p.entry) >= c.end || p.before < last.before {
			return c, errIndexOrder
		}
		last = p
	}
	return c, nil
}

// seal writes the header that makes the file trusted at the next open, and
// makes it durable. The committer no longer adds points.
func (ix *index) seal(c indexCoverage) error {
	c.count = uint32(ix.count.Load())
	le := binary.LittleEndian
	b := ix.b
	copy(b[4:12], indexMagic)
	le.PutUint32(b[12:], indexVersion)
	le.PutUint32(b[16:], c.count)
	le.PutUint32(b[20:], 0)
	le.PutUint64(b[24:], uint64(c.end))
	le.PutUint64(b[32:], c.place.Index)
	le.PutUint64(b[40:], c.place.Term)
	le.PutUint64(b[48:], c.place.Offset)
	le.PutUint64(b[56:], c.place.Chain)
	le.PutUint64(b[64:], uint64(c.maxTime))
	le.PutUint64(b[72:], 0)
	end := indexHeaderSize + int(c.count)*pointSize
	le.PutUint32(b, crc32.Checksum(b[4:end], castagnoli))
	return ix.file.Sync()
}

// rewrite writes header and points over themselves. Whoever had the file open before may
// have died of a sync that failed, and left them clean, but not on the disk; when the
// segment is sealed they must be.
func (ix *index) rewrite() error {
	end := indexHeaderSize + ix.count.Load()*pointSize
	if _, err := ix.file.WriteAt(append([]byte(nil), ix.b[:end]...), 0); err != nil {
		return fmt.Errorf("rewrite index: %w", err)
	}
	return nil
}

// inMemory returns a copy of ix, which it closes, that is no mapped file.
func (ix *index) inMemory() (*index, error) {
	heap := &index{path: ix.path, b: append([]byte(nil), ix.b...), next: ix.next}
	heap.count.Store(ix.count.Load())
	return heap, ix.close()
}

// add appends a point. The capacity suffices for one per interval; a point that
// finds no room is left out, which costs readers a longer walk and no more.
func (ix *index) add(p point) {
	n := ix.count.Load()
	at := indexHeaderSize + int(n)*pointSize
	if at+pointSize > len(ix.b) {
		return
	}
	b := ix.b[at:]
	le := binary.LittleEndian
	le.PutUint32(b, p.offset)
	le.PutUint32(b[4:], p.index)
	le.PutUint32(b[8:], p.entry)
	le.PutUint32(b[12:], p.record)
	le.PutUint64(b[16:], uint64(p.before))
	ix.count.Store(n + 1)
}

// capacity is how many points there is room for.
func (ix *index) capacity() int { return (len(ix.b) - indexHeaderSize) / pointSize }

func (ix *index) point(i int) point {
	return parsePoint(ix.b[indexHeaderSize+i*pointSize:])
}

func parsePoint(b []byte) point {
	b = b[:pointSize]
	le := binary.LittleEndian
	return point{offset: le.Uint32(b), index: le.Uint32(b[4:]), entry: le.Uint32(b[8:]), record: le.Uint32(b[12:]), before: int64(le.Uint64(b[16:]))}
}

// find returns the number of points whose offset is at most offset, and the last of them;
// without one, the segment's first entry.
func (ix *index) find(offset uint32) (n int, p point) {
	if n = ix.search(pointOffset, offset); n == 0 {
		return 0, point{entry: segmentHeaderSize}
	}
	return n, ix.point(n - 1)
}

// stride returns how far apart all records from p, which is point n-1, to point n are if
// they are of one size, or all entries if these points are at the beginning of some; 0
// if they cannot be.
func (ix *index) stride(n int, p *point) uint32 {
	if n == 0 || int64(n) >= ix.count.Load() {
		return 0
	}
	q := ix.point(n)
	size := q.entry - p.entry
	if size == 0 {
		size = q.record - p.first()
	} else if p.record > 0 || q.record > 0 {
		return 0
	}
	if span := q.offset - p.offset; span > 0 && size%span == 0 {
		return size / span
	}
	return 0
}

// first is the position of the record in the entry's body.
func (p *point) first() uint32 { return max(p.record, batch.HeaderSize) }

// findIndex returns the position of the last entry that has a point and whose
// index, less the segment's first, is at most index.
func (ix *index) findIndex(index uint32) int64 {
	if n := ix.search(pointIndex, index); n > 0 {
		return int64(ix.point(n - 1).entry)
	}
	return segmentHeaderSize
}

// lastBefore returns the position of the last entry before end that has a point. The
// committer adds points before it moves the segment's end.
func (ix *index) lastBefore(end int64) int64 {
	for i := int(ix.count.Load()) - 1; i >= 0; i-- {
		if at := int64(ix.point(i).entry); at < end {
			return at
		}
	}
	return segmentHeaderSize
}

// findTime returns the last point before which no record has a timestamp of at least ms;
// without one, the segment's first entry.
func (ix *index) findTime(ms int64) point {
	n := sort.Search(int(ix.count.Load()), func(i int) bool { return ix.point(i).before >= ms })
	if n == 0 {
		return point{entry: segmentHeaderSize}
	}
	return ix.point(n - 1)
}

// The fields of a point that are searched for, by their position in it.
const (
	pointOffset = 0
	pointIndex  = 4
)

// search returns the number of points whose field, which ascends, is at most v. It
// begins where v would be if the field ascended evenly, which is nearly so as a rule
// and spares most of the cache misses of a binary search.
func (ix *index) search(field int, v uint32) int {
	b := ix.b[indexHeaderSize+field:]
	n := int(ix.count.Load())
	at := func(i int) uint32 { return binary.LittleEndian.Uint32(b[i*pointSize:]) }
	if n == 0 || at(0) > v {
		return 0
	}
	first, last := at(0), at(n-1)
	if last <= v {
		return n
	}
	// From here on at(lo) <= v < at(hi).
	lo, hi := 0, n-1
	guess := int(uint64(v-first) * uint64(n-1) / uint64(last-first))
	if at(guess) <= v {
		lo = guess
		for step := 1; lo+step < hi; step *= 2 {
			if at(lo+step) > v {
				hi = lo + step
				break
			}
			lo += step
		}
	} else {
		hi = guess
		for step := 1; hi-step > lo; step *= 2 {
			if at(hi-step) <= v {
				lo = hi - step
				break
			}
			hi -= step
		}
	}
	for hi-lo > 1 {
		if m := (lo + hi) / 2; at(m) <= v {
			lo = m
		} else {
			hi = m
		}
	}
	return lo + 1
}

func (ix *index) close() error {
	var err error
	if ix.m != nil {
		err = ix.m.Close()
		ix.m = nil
	}
	if ix.file != nil {
		err = errors.Join(err, ix.file.Close())
		ix.file = nil
	}
	return err
}
