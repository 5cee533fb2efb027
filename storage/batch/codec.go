package batch

import (
	"fmt"
	"math"
	"slices"
	"sync"
)

// Codec is how the records of a batch are compressed. The values are those that
// Kafka has in a batch's attributes.
type Codec uint8

// The codecs of Kafka. The records are compressed as one: by gzip, as a snappy
// block (the Java client's framing of several is read as well), as an LZ4 frame or
// as a Zstandard frame.
const (
	CodecNone Codec = iota
	CodecGzip
	CodecSnappy
	CodecLZ4
	CodecZstd
)

var codecNames = [...]string{"none", "gzip", "snappy", "lz4", "zstd"}

// String returns the codec's name in Kafka's configuration: none, gzip, snappy, lz4
// or zstd.
func (c Codec) String() string {
	if int(c) < len(codecNames) {
		return codecNames[c]
	}
	return fmt.Sprintf("codec %d", uint8(c))
}

// ParseCodec returns the codec whose String is name. Its error wraps ErrUnsupported.
func ParseCodec(name string) (Codec, error) {
	if i := slices.Index(codecNames[:], name); i >= 0 {
		return Codec(i), nil
	}
	return CodecNone, fmt.Errorf("%w: compression %q, not one of %q", ErrUnsupported, name, codecNames)
}

// maxSection is how many bytes of records are compressed or decompressed at most:
// what Kafka's lengths can say.
const maxSection = math.MaxInt32

// AppendCompressed is Append, and compresses the records by codec unless that
// makes them no smaller: then, as with CodecNone, they stay as they are. On an error
// it returns dst unchanged; it wraps ErrUnsupported, for a codec that there is not,
// or ErrTooLarge, for more than 2 GiB of records.
func AppendCompressed(dst []byte, records []Record, now int64, codec Codec) ([]byte, error) {
	if codec > CodecZstd {
		return dst, fmt.Errorf("%w: %v", ErrUnsupported, codec)
	}
	if codec == CodecNone || len(records) == 0 {
		return Append(dst, records, now), nil
	}
	s := getScratch()
	defer s.put()
	s.b = Append(s.b[:0], records, now)
	plain := s.b[HeaderSize:]
	if len(plain) > maxSection {
		return dst, fmt.Errorf("%w: %d bytes of records", ErrTooLarge, len(plain))
	}
	start := len(dst)
	out := append(dst, s.b[:HeaderSize]...)
	out, err := compress(out, plain, codec)
	if err != nil {
		return dst, err
	}
	if len(out)-start-HeaderSize >= len(plain) {
		return append(out[:start+HeaderSize], plain...), nil
	}
	out[start+1] |= byte(codec)
	return out, nil
}

// Decompress appends to dst a body equal to body, but not compressed, and returns
// the result. dst's spare room and body must not overlap. A body that is not
// compressed is appended as it is, whatever its length.
//
// Records that take more than limit bytes are refused with ErrTooLarge; what does
// not decompress, and what ParseHeader refuses, with its errors. dst is returned
// unchanged then. What a batch says of itself is not trusted: no more than limit
// bytes are allocated for it, and a few MiB that are kept for later calls. There is
// one exception: the block by which a Zstandard frame that does not state its size
// goes beyond limit may make the decoder allocate 1.25 times limit more.
func Decompress(dst, body []byte, limit int) ([]byte, error) {
	h, err := ParseHeader(body)
	if err != nil {
		return dst, err
	}
	if h.Codec() == CodecNone {
		return append(dst, body...), nil
	}
	start := len(dst)
	out := append(dst, body[:HeaderSize]...)
	if out, err = decompress(out, body[HeaderSize:], h.Codec(), limit); err != nil {
		return dst, err
	}
	out[start+1] &^= attrCodecMask
	return out, nil
}

// compress appends src, compressed, to dst.
func compress(dst, src []byte, codec Codec) ([]byte, error) {
	switch codec {
	case CodecGzip:
		return appendGzip(dst, src)
	case CodecSnappy:
		return appendSnappy(dst, src), nil
	case CodecLZ4:
		return appendLZ4(dst, src)
	default:
		return appendZstd(dst, src)
	}
}

// decompress appends to dst what src decompresses to, at most limit bytes.
//
// All the codecs' functions want exactly one member or frame and nothing after it,
// as Kafka's clients write, since some of them read no more. Its size is then known
// or bounded beforehand, and room is made for it once.
func decompress(dst, src []byte, codec Codec, limit int) ([]byte, error) {
	limit = min(max(limit, 0), maxSection)
	switch codec {
	case CodecGzip:
		return readGzip(dst, src, limit)
	case CodecSnappy:
		return readSnappy(dst, src, limit)
	case CodecLZ4:
		return readLZ4(dst, src, limit)
	default:
		return readZstd(dst, src, limit)
	}
}

// tooLarge is the error for records of more than limit bytes.
func tooLarge(codec Codec, limit int) error {
	return fmt.Errorf("%w: %v records of more than %d bytes", ErrTooLarge, codec, limit)
}

// badData is the error for bytes that do not decompress.
func badData(codec Codec, reason any) error {
	return fmt.Errorf("%w: %v: %v", ErrMalformed, codec, reason)
}

// scratch is a buffer for the time of one call.
type scratch struct{ b []byte }

// maxScratch is the size of the largest buffer that is kept: a rare huge batch
// shall not hold on to its memory.
const maxScratch = 4 << 20

var scratches = sync.Pool{New: func() any { return new(scratch) }}

func getScratch() *scratch { return scratches.Get().(*scratch) }

func (s *scratch) put() {
	if cap(s.b) <= maxScratch {
		scratches.Put(s)
	}
}
