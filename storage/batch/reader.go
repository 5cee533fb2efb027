package batch

import (
	"encoding/binary"
	"fmt"
)

// Reader yields the records of a body one after the other. It allocates only for
// records that have headers. A Reader is not safe for concurrent use; copies of
// it are independent.
type Reader struct {
	body   []byte
	at     int
	header Header
	first  uint64
	left   int32
	// A record's timestamp is base plus its delta's bits in mask. If the broker
	// set the time (LogAppendTime), that is MaxTimestamp, and mask is 0.
	base, mask int64
}

// NewReader returns a Reader at the first record of body, whose first offset is
// first. A compressed body, which Decompress makes readable, is refused with
// ErrCompressed.
func NewReader(body []byte, first uint64) (Reader, error) {
	h, err := ParseHeader(body)
	if err != nil {
		return Reader{}, err
	}
	if c := h.Codec(); c != CodecNone {
		return Reader{}, fmt.Errorf("%w: %v", ErrCompressed, c)
	}
	r := Reader{body: body, at: HeaderSize, header: h, first: first, left: h.Count, base: h.BaseTimestamp, mask: -1}
	if h.Attributes&attrLogAppendTime != 0 {
		r.base, r.mask = h.MaxTimestamp, 0
	}
	return r, nil
}

// Header returns the fixed part of the body.
func (r *Reader) Header() Header { return r.header }

// Position is the place in the body of the record that Next will read.
func (r *Reader) Position() int { return r.at }

// Seek moves to the record that begins at position, which Position once gave for
// the same body: the way into the middle of a large batch. Next then reads to
// the end of the body without counting records.
func (r *Reader) Seek(position int) error {
	if position < HeaderSize || position > len(r.body) {
		return fmt.Errorf("%w: no record at byte %d of %d", ErrMalformed, position, len(r.body))
	}
	if position != r.at {
		r.at, r.left = position, -1
	}
	return nil
}

// Next decodes the next record into rec, whose slices then point into the body.
// It reports false at the end, or with an error; rec is then of no use.
func (r *Reader) Next(rec *Record) (bool, error) {
	stamp, delta, at, key, end := parseHead(r.body, r.at)
	if end < 0 || r.left == 0 || uint64(delta) > uint64(r.header.LastOffsetDelta) {
		return r.next(rec)
	}
	// The usual record; for all others, and for what is wrong, see next.
	b := r.body[:end:end]
	rec.Key = nil
	if key >= 0 && key <= end-at {
		rec.Key = b[at : at+key : at+key]
		at += key
	} else if key != -1 {
		return r.next(rec)
	}
	if at = usualValue(b, at); at < 0 {
		return r.next(rec)
	}
	rec.Value = b[at : end-1 : end-1]
	rec.Headers = nil
	rec.Timestamp = r.base + stamp&r.mask
	rec.Offset = r.first + uint64(delta)
	r.advance(end)
	return true, nil
}

// next is Next for any record.
func (r *Reader) next(rec *Record) (bool, error) {
	if r.done() {
		return false, r.end()
	}
	b, at := r.frame()
	end := len(b)
	stamp, at := varint(b, at+1) // after the attributes: none are defined
	delta, at := varint(b, at)
	rec.Key, at = field(b, at)
	rec.Value, at = field(b, at)
	count, at := varint(b, at)
	rec.Headers = nil
	if count != 0 {
		rec.Headers, at = headers(b, at, count)
	}
	if at != end || uint64(delta) > uint64(r.header.LastOffsetDelta) {
		return false, r.bad()
	}
	rec.Timestamp = r.base + stamp&r.mask
	rec.Offset = r.first + uint64(delta)
	r.advance(end)
	return true, nil
}

// Skip moves past the next record and returns its offset; false at the end. It
// decodes no more of it than that takes.
func (r *Reader) Skip() (offset uint64, ok bool, err error) {
	offset, _, ok, err = r.SkipTime()
	return offset, ok, err
}

// SkipTime is Skip and returns the record's timestamp as well.
func (r *Reader) SkipTime() (offset uint64, timestamp int64, ok bool, err error) {
	if r.left == 0 || len(r.body)-r.at < 8 {
		return r.skip()
	}
	// The usual record has short numbers only, which fit in one word.
	w := binary.LittleEndian.Uint64(r.body[r.at:])
	n, k := short(w)
	end := r.at + int(k>>3) + int(n>>1)
	w >>= (k + 8) & 63
	ts, k1 := short(w)
	d, k2 := short(w >> (k1 & 63))
	if k+k1+k2 >= notShort || n&1 != 0 || end > len(r.body) || n>>1 < uint64(8+k1+k2)>>3 ||
		d&1 != 0 || d>>1 > uint64(r.header.LastOffsetDelta) {
		return r.skip()
	}
	r.advance(end)
	return r.first + d>>1, r.base + unzigzag(ts)&r.mask, true, nil
}

// skip is SkipTime for any record.
func (r *Reader) skip() (offset uint64, timestamp int64, ok bool, err error) {
	if r.done() {
		return 0, 0, false, nil
	}
	b, at := r.frame()
	stamp, at := varint(b, at+1)
	delta, at := varint(b, at)
	if at < 0 || uint64(delta) > uint64(r.header.LastOffsetDelta) {
		return 0, 0, false, r.bad()
	}
	r.advance(len(b))
	return r.first + uint64(delta), r.base + stamp&r.mask, true, nil
}

// done says whether there are no more records: by their count or, after Seek, by
// their bytes.
func (r *Reader) done() bool { return r.left == 0 || r.left < 0 && r.at == len(r.body) }

// frame returns the body up to the end of the next record, so that no field is
// taken to reach beyond it, and the position after the record's length. If that is
// bad, there are no bytes, and so no field in them.
func (r *Reader) frame() ([]byte, int) {
	n, at := varint(r.body, r.at)
	if at < 0 || n < 0 || n > int64(len(r.body)-at) {
		return nil, 0
	}
	end := at + int(n)
	return r.body[:end:end], at
}

// advance moves to the next record, which begins at position at.
func (r *Reader) advance(at int) {
	r.at = at
	if r.left > 0 {
		r.left--
	}
}

// end checks that the records take up the body.
func (r *Reader) end() error {
	if r.at != len(r.body) {
		return fmt.Errorf("%w: %d bytes after the last record", ErrMalformed, len(r.body)-r.at)
	}
	return nil
}

func (r *Reader) bad() error {
	return fmt.Errorf("%w: bad record at byte %d", ErrMalformed, r.at)
}

// headers reads count headers at b[at:].
func headers(b []byte, at int, count int64) ([]RecordHeader, int) {
	// Each header takes two bytes at least, so a count is checked before
	// anything is allocated for it.
	if at < 0 || count < 0 || count > int64(len(b)-at)/2 {
		return nil, -1
	}
	out := make([]RecordHeader, count)
	for i := range out {
		if out[i].Key, at = field(b, at); out[i].Key == nil {
			return nil, -1
		}
		out[i].Value, at = field(b, at)
	}
	return out, at
}

// parseHead reads what comes before the key of the record at b[at:], and the key's
// length, if the record is of the usual kind: no attributes, all of its numbers
// short and the key's length a byte. All of it is in one word then. It returns the
// positions of the key and of the record's end, -1 for any other record.
func parseHead(b []byte, at int) (stamp, delta int64, key, keyLength, end int) {
	if len(b)-at < 8 {
		return 0, 0, 0, 0, -1
	}
	w := binary.LittleEndian.Uint64(b[at:])
	n, k := short(w)
	w >>= k & 63
	ts, k1 := short(w >> 8)
	d, k2 := short(w >> (8 + k1&63))
	rest := w >> ((8 + k1 + k2) & 63)
	end = at + int(k>>3) + int(n>>1)
	key = at + int((8+k+k1+k2)>>3) + 1
	if k+k1+k2 >= notShort || n&1 != 0 || w&0xff != 0 || rest&0x80 != 0 || key > end || end > len(b) {
		return 0, 0, 0, 0, -1
	}
	return unzigzag(ts), unzigzag(d), key, int(unzigzag(rest & 0x7f)), end
}

// usualValue returns where the value begins whose length is at b[at:] if the record,
// which ends with b, is of the usual kind: the length is short, not that of a null
// value, and no headers follow. It returns -1 for any other record.
func usualValue(b []byte, at int) int {
	if len(b)-at < 3 {
		return -1
	}
	u, length := short(uint64(b[at]) | uint64(b[at+1])<<8)
	at += int(length >> 3)
	last := len(b) - 1
	if length == notShort || at > last || u != uint64(last-at)<<1 || b[last] != 0 {
		return -1
	}
	return at
}
