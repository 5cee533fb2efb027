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
}

// NewReader returns a Reader at the first record of body, whose first offset is
// first.
func NewReader(body []byte, first uint64) (Reader, error) {
	h, err := ParseHeader(body)
	if err != nil {
		return Reader{}, err
	}
	return Reader{body: body, at: HeaderSize, header: h, first: first, left: h.Count}, nil
}

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
// It reports false at the end, or with an error.
func (r *Reader) Next(rec *Record) (bool, error) {
	if r.done() {
		if r.at != len(r.body) {
			return false, fmt.Errorf("%w: %d bytes after the last record", ErrMalformed, len(r.body)-r.at)
		}
		return false, nil
	}
	f, err := r.frame()
	if err != nil {
		return false, err
	}
	if err := r.decode(f, rec); err != nil {
		return false, err
	}
	r.advance(f)
	return true, nil
}

// Skip moves past the next record and returns its offset; false at the end. It
// decodes no more of it than that takes.
func (r *Reader) Skip() (offset uint64, ok bool, err error) {
	if r.done() {
		return 0, false, nil
	}
	f, err := r.frame()
	if err != nil {
		return 0, false, err
	}
	c := cursor{b: f.bytes}
	c.skip(1)
	c.varint()
	delta := c.varint()
	if c.bad || delta < 0 || delta > int64(r.header.LastOffsetDelta) {
		return 0, false, fmt.Errorf("%w: bad record at byte %d", ErrMalformed, r.at)
	}
	r.advance(f)
	return r.first + uint64(delta), true, nil
}

// done says whether there are no more records: by their count or, after Seek, by
// their bytes.
func (r *Reader) done() bool { return r.left == 0 || r.left < 0 && r.at == len(r.body) }

// frame is a record without its length prefix, and where the next one begins.
type frame struct {
	bytes []byte
	end   int
}

func (r *Reader) frame() (frame, error) {
	n, k := binary.Varint(r.body[r.at:])
	start := r.at + k
	if k <= 0 || n < 0 || n > int64(len(r.body)-start) {
		return frame{}, fmt.Errorf("%w: bad record length at byte %d", ErrMalformed, r.at)
	}
	end := start + int(n)
	return frame{r.body[start:end:end], end}, nil
}

func (r *Reader) advance(f frame) {
	r.at = f.end
	if r.left > 0 {
		r.left--
	}
}

func (r *Reader) decode(f frame, rec *Record) error {
	c := cursor{b: f.bytes}
	c.skip(1) // attributes: none are defined
	rec.Timestamp = r.header.BaseTimestamp + c.varint()
	delta := c.varint()
	rec.Offset = r.first + uint64(delta)
	rec.Key = c.bytes()
	rec.Value = c.bytes()
	rec.Headers = nil
	// Each header takes two bytes at least, so a count is checked before
	// anything is allocated for it.
	n := c.varint()
	if n < 0 || n > int64(len(c.b)/2) {
		c.bad = true
	} else if n > 0 {
		rec.Headers = make([]RecordHeader, n)
		for i := range rec.Headers {
			key := c.bytes()
			c.bad = c.bad || key == nil
			rec.Headers[i] = RecordHeader{Key: key, Value: c.bytes()}
		}
	}
	if c.bad || len(c.b) > 0 || delta < 0 || delta > int64(r.header.LastOffsetDelta) {
		return fmt.Errorf("%w: bad record at byte %d", ErrMalformed, r.at)
	}
	return nil
}

// cursor reads fields off b and remembers whether one was not there.
type cursor struct {
	b   []byte
	bad bool
}

func (c *cursor) skip(n int) {
	if n > len(c.b) {
		c.bad, c.b = true, nil
		return
	}
	c.b = c.b[n:]
}

func (c *cursor) varint() int64 {
	v, k := binary.Varint(c.b)
	if k <= 0 {
		c.bad, c.b = true, nil
		return 0
	}
	c.b = c.b[k:]
	return v
}

// bytes returns nil for a null field.
func (c *cursor) bytes() []byte {
	n := c.varint()
	if n < -1 || n > int64(len(c.b)) {
		c.bad, c.b = true, nil
		return nil
	}
	if n < 0 {
		return nil
	}
	out := c.b[:n:n]
	c.b = c.b[n:]
	return out
}
