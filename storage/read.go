package storage

import (
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"unsafe"

	"github.com/zue-log/zue/storage/batch"
)

// Lease keeps the bytes that a read returned in place. The zero Lease holds
// nothing.
type Lease struct{ s *segment }

// Release ends the lease: the slices that came with it must not be touched any
// more. It must be called once for each successful read.
func (l Lease) Release() {
	if l.s != nil {
		// Closing an unmapped file cannot lose anything: its bytes are synced
		// by the log, not here.
		_ = l.s.release()
	}
}

// Maps reports whether b, which came with the lease, lies in the mapped file rather than on
// the heap, as the records of a compressed batch do. An empty b does.
func (l Lease) Maps(b []byte) bool {
	if len(b) == 0 {
		return true
	}
	if l.s == nil || len(l.s.b) == 0 {
		return false
	}
	first := uintptr(unsafe.Pointer(unsafe.SliceData(l.s.b)))
	at := uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	return first <= at && at < first+uintptr(len(l.s.b))
}

// Append appends b, which came with the lease, to dst. Where to touch the mapped file is a fatal
// signal, since the disk does not deliver it, it returns a *FaultError instead.
func (l Lease) Append(dst, b []byte) (out []byte, err error) {
	if l.s == nil {
		return append(dst, b...), nil
	}
	out = dst
	defer catchFault(l.s.path, &err, debug.SetPanicOnFault(true))
	return append(dst, b...), nil
}

// Read returns the record at offset. Its Key, Value and Headers must not be
// modified, and stay valid until the lease is released, even after Close and after
// the record is no longer part of the log. If its batch is not compressed they point
// into the mapped file, else to the heap.
//
// They have been verified: a read computes the checksum of its entry's header and,
// unless an entry of 4 KiB or more was found intact before since the log was opened,
// of its body. Nothing is allocated but for records with headers and for a compressed
// batch that is not the one read last.
//
// Mapped bytes are read from the file when they are touched. Should the disk fail then,
// or someone truncate the file, Read and all other methods of this package return
// a *FaultError; but to touch the slices after that is a fatal signal, unless it is
// done under debug.SetPanicOnFault, or by a system call, which fails with EFAULT.
// [Log.ReadInto] copies instead.
//
// Errors: *OffsetError if the log does not have the offset; *CorruptionError if
// what it has is damaged; *FaultError; ErrClosed.
func (l *Log) Read(offset uint64) (Record, Lease, error) {
	for {
		epoch := l.epoch.Load()
		var rec Record
		s, err := l.holder(offset)
		if err == nil {
			err = s.read(offset, &l.unzip, &rec)
		}
		if l.epoch.Load() != epoch {
			Lease{s}.Release()
			continue // the end was cut off meanwhile: what was read may be of both
		}
		if err != nil {
			return Record{}, Lease{}, l.readError(offset, s, err)
		}
		return rec, Lease{s}, nil
	}
}

// ReadInto is Read, and copies what the record's slices have to the end of dst, where
// they point then, and returns dst grown by it. There is no lease to hold, and no
// fault in a mapping that it does not return as a *FaultError. On an error dst is
// returned unchanged.
func (l *Log) ReadInto(offset uint64, dst []byte) (Record, []byte, error) {
	for {
		epoch := l.epoch.Load()
		var rec Record
		out := dst
		s, err := l.holder(offset)
		if err == nil {
			out, err = s.readInto(offset, &l.unzip, &rec, dst)
		}
		if l.epoch.Load() != epoch {
			Lease{s}.Release()
			continue
		}
		if err != nil {
			return Record{}, dst, l.readError(offset, s, err)
		}
		Lease{s}.Release()
		return rec, out, nil
	}
}

// beginCut is called when end has been lowered, and before segments change; endCut when
// they no longer have what is cut off, and before anything is appended. A reader that
// finds the epoch unchanged has gone by an end and segments that belong together; one
// that keeps a segment while it is unchanged, finds nothing in it that was cut off.
func (l *Log) beginCut() { l.epoch.Add(1) }

func (l *Log) endCut() {
	l.epoch.Add(1)
	l.grown.notify()
}

// readError makes the error of a read in s, nil if it got no further than to look for
// that, and releases s.
func (l *Log) readError(offset uint64, s *segment, err error) error {
	if s == nil {
		return err
	}
	l.report(err)
	return errors.Join(fmt.Errorf("read offset %d: %w", offset, err), s.release())
}

// report has damage that a read met counted.
func (l *Log) report(err error) {
	var damage *CorruptionError
	if errors.As(err, &damage) {
		l.sawCorruption(damage)
	}
}

// holder returns the segment that holds the record at offset, acquired.
func (l *Log) holder(offset uint64) (*segment, error) {
	for {
		if l.done.Load() {
			return nil, ErrClosed
		}
		// end before segments: a record below end is in what is loaded after.
		end := l.end.Load()
		s := segmentOf(*l.segments.Load(), offset)
		if offset >= end || s == nil {
			return nil, &OffsetError{Offset: offset, First: l.FirstOffset(), End: end}
		}
		if s.acquire() {
			return s, nil
		} // else it has just left the log, or the log is being closed
	}
}

// segmentOf returns the one that has a record at offset, if any has; nil if offset
// is before them all.
func segmentOf(segments []*segment, offset uint64) *segment {
	lo, hi := 0, len(segments)
	for lo < hi {
		if m := int(uint(lo+hi) / 2); segments[m].before.Offset <= offset {
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

// copyOf returns the copy that the log has by now in the place of s, acquired; nil if it has
// none, because it has s still or because s was removed.
func (l *Log) copyOf(s *segment) *segment {
	for {
		now := segmentOf(*l.segments.Load(), s.before.Offset)
		if now == nil || now == s || now.before != s.before || l.done.Load() {
			return nil
		}
		if now.acquire() {
			return now
		}
	}
}

// read finds the record at offset, which the segment holds.
func (s *segment) read(offset uint64, z *unzipped, rec *Record) (err error) {
	defer catchFault(s.path, &err, debug.SetPanicOnFault(true))
	return s.find(offset, z, rec)
}

// readInto is read and appends what rec points to to dst.
func (s *segment) readInto(offset uint64, z *unzipped, rec *Record, dst []byte) (out []byte, err error) {
	defer catchFault(s.path, &err, debug.SetPanicOnFault(true))
	if err := s.find(offset, z, rec); err != nil {
		return dst, err
	}
	return copyRecord(rec, dst), nil
}

// copyRecord makes rec's slices point to copies at the end of dst.
func copyRecord(rec *Record, dst []byte) []byte {
	n := len(rec.Key) + len(rec.Value)
	for i := range rec.Headers {
		n += len(rec.Headers[i].Key) + len(rec.Headers[i].Value)
	}
	dst = slices.Grow(dst, n)
	move := func(b []byte) []byte {
		if len(b) == 0 {
			return b[:0:0] // null or empty, it must not become the other
		}
		start := len(dst)
		dst = append(dst, b...)
		return dst[start:len(dst):len(dst)]
	}
	rec.Key, rec.Value = move(rec.Key), move(rec.Value)
	for i := range rec.Headers {
		h := &rec.Headers[i]
		h.Key, h.Value = move(h.Key), move(h.Value)
	}
	return dst
}

// find decodes the record at offset, which the segment holds.
func (s *segment) find(offset uint64, z *unzipped, rec *Record) error {
	end := s.end.Load()
	pos, record, err := s.locate(offset, end)
	if err != nil {
		return err
	}
	h, body, err := s.entry(pos, end)
	if err == nil {
		err = h.holds(offset)
	}
	if err != nil {
		return s.corrupt(pos, h.index, offset, err)
	}
	r, err := z.reader(&h, body)
	if err == nil && record > 0 {
		err = r.Seek(record)
	}
	for err == nil {
		at := r.Position()
		here, ok, e := r.Skip()
		switch {
		case e != nil:
			err = e
		case !ok || here > offset:
			err = errors.New("the entry lacks the record")
		case here == offset:
			if err = r.Seek(at); err == nil {
				_, err = r.Next(rec)
			}
			if err == nil {
				return nil
			}
		}
	}
	return s.corrupt(pos, h.index, offset, err)
}

// locate returns the position of the entry that holds the record at offset, and where
// in its body to begin to look for it, 0 being the first record.
//
// Lengths on the way are taken on trust: one that is wrong leads to bytes that are no
// entry for this offset, and the entry that it leads to is checked.
func (s *segment) locate(offset uint64, end int64) (pos int64, record int, err error) {
	at := uint32(offset - s.before.Offset)
	n, p := s.ix.find(at)
	pos = int64(p.entry)
	// Where all is of one size the way is a multiplication, and not a cache miss for
	// each record or entry from the point on.
	if size := s.ix.stride(n, &p); size > 0 {
		ahead := int64(at-p.offset) * int64(size)
		if s.even.has(n - 1) {
			return pos, int(p.first()) + int(ahead), nil
		}
		if s.isEntry(pos+ahead, offset, end) {
			return pos + ahead, 0, nil
		}
	}
	for pos+entryHeaderSize <= end {
		bodyLen, first, span := hop(s.b[pos:])
		if offset < first {
			return 0, 0, s.corrupt(pos, 0, offset, errBreak)
		}
		if offset-first < uint64(span) {
			if pos == int64(p.entry) {
				record = int(p.record)
			}
			return pos, record, nil
		}
		pos += entrySize(bodyLen)
	}
	return 0, 0, s.corrupt(pos, 0, offset, errShortEntry)
}

// isEntry says whether an entry that holds the record at offset begins at pos, which need
// not be the position of any: the segment's seed is in the checksum, so that no bytes
// of a body have a right one.
func (s *segment) isEntry(pos int64, offset uint64, end int64) bool {
	if pos%entryAlign != 0 || pos+entryHeaderSize > end {
		return false
	}
	h, err := parseEntryHeader(s.b[pos:], s.seed)
	return err == nil && h.holds(offset) == nil
}

// holds checks that the record at offset is in the entry, to which unverified lengths
// led.
func (h *entryHeader) holds(offset uint64) error {
	if offset-h.offset >= uint64(h.span) {
		return errBreak
	}
	return nil
}

// checkedBlock is how many bytes of a segment share one bit that says whether the
// entry which begins there was found intact. Only longer entries have one, so there
// is no other that begins there; summing shorter ones takes less than half a
// microsecond.
const checkedBlock = 4096

// entry returns the entry at pos, verified.
func (s *segment) entry(pos, end int64) (h entryHeader, body []byte, err error) {
	if h, body, err = splitEntry(s.b[pos:end], s.seed); err != nil {
		return h, nil, err
	}
	block := int(pos / checkedBlock)
	if len(body) >= checkedBlock && s.checked.has(block) {
		return h, body, nil
	}
	if batch.Checksum(body) != h.bodyCRC {
		return h, nil, errBodyCRC
	}
	if len(body) >= checkedBlock {
		s.noteEven(pos, &h, body)
		s.checked.add(block, len(s.b)/checkedBlock+1)
	}
	return h, body, nil
}

// noteEven finds between which index points the records of an entry are of one size.
func (s *segment) noteEven(pos int64, h *entryHeader, body []byte) {
	r, err := batch.NewReader(body, h.offset)
	if err != nil {
		return
	}
	for n, p := s.ix.find(uint32(h.offset - s.before.Offset)); int64(p.entry) <= pos; n++ {
		if size := s.ix.stride(n, &p); size > 0 && int64(p.entry) == pos && s.isEven(r, n, &p, size) {
			s.even.add(n-1, s.ix.capacity())
		}
		if int64(n) >= s.ix.count.Load() {
			return
		}
		p = s.ix.point(n)
	}
}

// isEven says whether the records from p, which is point n-1, to point n of the same body
// are of that size.
func (s *segment) isEven(r batch.Reader, n int, p *point, size uint32) bool {
	q := s.ix.point(n)
	if q.entry != p.entry || r.Seek(int(p.first())) != nil {
		return false
	}
	for i := range q.offset - p.offset {
		if r.Position() != int(p.first()+i*size) {
			return false
		}
		offset, ok, err := r.Skip()
		if !ok || err != nil || offset != s.before.Offset+uint64(p.offset+i) {
			return false
		}
	}
	return true
}

// bitSet is a set of small numbers, to which may be added concurrently. Its memory is
// allocated with the first.
type bitSet struct {
	words atomic.Pointer[[]atomic.Uint32]
}

// add adds i, which is less than size, as all others are.
func (b *bitSet) add(i, size int) {
	words := b.words.Load()
	if words == nil {
		b.words.CompareAndSwap(nil, new(make([]atomic.Uint32, (size+31)/32)))
		words = b.words.Load()
	}
	(*words)[i/32].Or(1 << (i % 32))
}

func (b *bitSet) has(i int) bool {
	words := b.words.Load()
	return words != nil && (*words)[uint(i)/32].Load()>>(uint(i)%32)&1 != 0
}

// unzipped remembers the compressed body that was read last, so that its records can
// be read in turn. It may be used concurrently.
type unzipped struct{ last atomic.Pointer[unzippedBody] }

type unzippedBody struct {
	chain uint64 // of the entry, which is no other's
	sum   uint32 // of its body
	body  []byte // decompressed
}

// reader returns a Reader of the records of an entry, which has been verified.
func (z *unzipped) reader(h *entryHeader, body []byte) (batch.Reader, error) {
	r, err := batch.NewReader(body, h.offset)
	if err == nil || !errors.Is(err, batch.ErrCompressed) {
		return r, err
	}
	if body, err = z.body(h, body); err != nil {
		return batch.Reader{}, err
	}
	return batch.NewReader(body, h.offset)
}

// body returns the body of an entry decompressed. It must not be modified.
func (z *unzipped) body(h *entryHeader, body []byte) ([]byte, error) {
	if last := z.last.Load(); last != nil && last.chain == h.chain && last.sum == h.bodyCRC {
		return last.body, nil
	}
	out, err := batch.Decompress(nil, body, MaxBodyBytes)
	if err != nil {
		return nil, err
	}
	z.last.Store(&unzippedBody{h.chain, h.bodyCRC, out})
	return out, nil
}
