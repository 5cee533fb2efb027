// Package batch encodes and decodes the body of a log entry: an Apache Kafka
// record batch of magic 2, from its attributes field on. The bytes, and the
// CRC-32C that Kafka defines over exactly them, are the same on the wire, in the
// log and at a reader.
//
// The format is Kafka's: "Record Batch" in its protocol documentation, and
// ../FORMAT.md here. All integers of a batch are big-endian, the records' own
// are zigzag varints.
//
// The records of a body may be compressed, as one. A Reader reads those that are
// not; Decompress makes a body so. Check verifies one that comes from elsewhere.
package batch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
)

// HeaderSize is the length in bytes of a body before its first record.
const HeaderSize = 40

// MaxRecords is how many records one batch can hold.
const MaxRecords = math.MaxInt32

// ErrMalformed is wrapped by every error about bytes that are not a batch.
var ErrMalformed = errors.New("malformed record batch")

// ErrUnsupported is wrapped by every error about a batch that is one, but of a
// kind which this library does not take: transactional, control, of a codec or
// with an attribute that is not known.
var ErrUnsupported = errors.New("unsupported record batch")

// ErrCompressed is wrapped by the error of NewReader about a compressed body,
// which Decompress makes readable.
var ErrCompressed = errors.New("compressed record batch")

// ErrTooLarge is wrapped by every error about records that take more bytes than
// the limit.
var ErrTooLarge = errors.New("record batch too large")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Checksum returns the CRC-32C (Castagnoli) of a body: the crc field of a Kafka
// record batch.
func Checksum(body []byte) uint32 { return crc32.Checksum(body, castagnoli) }

// Record is one record. A nil Key or Value is a null one, which is not the same
// as an empty one.
type Record struct {
	// Offset is the record's number in the log. Appending ignores it.
	Offset uint64
	// Timestamp is in milliseconds since the Unix epoch. Appending takes 0 for
	// "now".
	Timestamp int64
	Key       []byte
	Value     []byte
	Headers   []RecordHeader
}

// RecordHeader is one of a record's headers: its name, which may not be null, and
// its value, which may.
type RecordHeader struct {
	Key   []byte
	Value []byte
}

// Attribute bits of a batch (Kafka's names).
const (
	attrCodecMask     = 0x07
	attrLogAppendTime = 0x08
	attrTransactional = 0x10
	attrControl       = 0x20
)

// minRecord is the length of the smallest record: its length, attributes, two
// deltas, two null fields and the count of its headers, a byte each.
const minRecord = 7

// Header is the fixed part of a body. See Kafka's documentation for the fields.
type Header struct {
	Attributes      int16
	LastOffsetDelta int32
	BaseTimestamp   int64
	MaxTimestamp    int64
	ProducerID      int64
	ProducerEpoch   int16
	BaseSequence    int32
	Count           int32
}

// Codec returns how the records are compressed.
func (h Header) Codec() Codec { return Codec(h.Attributes & attrCodecMask) }

// Size returns how many bytes Append adds for the same arguments.
func Size(records []Record, now int64) int {
	if len(records) == 0 {
		return 0
	}
	n, base := HeaderSize, records[0].time(now)
	for i := range records {
		k := recordSize(&records[i], records[i].time(now)-base, i)
		n += varintSize(int64(k)) + k
	}
	return n
}

// time is the record's timestamp, now if it has none.
func (r *Record) time(now int64) int64 {
	if r.Timestamp == 0 {
		return now
	}
	return r.Timestamp
}

// Append appends to dst a body that holds records, and returns the result. A
// record whose Timestamp is 0 gets now. The batch has no producer and is not
// compressed. An empty list, which is no batch, appends nothing.
func Append(dst []byte, records []Record, now int64) []byte {
	if len(records) == 0 {
		return dst
	}
	base := records[0].time(now)
	last := base
	for i := range records {
		last = max(last, records[i].time(now))
	}
	dst = appendHeader(dst, Header{
		LastOffsetDelta: int32(len(records) - 1),
		BaseTimestamp:   base,
		MaxTimestamp:    last,
		ProducerID:      -1,
		ProducerEpoch:   -1,
		BaseSequence:    -1,
		Count:           int32(len(records)),
	})
	for i := range records {
		r := &records[i]
		delta := r.time(now) - base
		dst = binary.AppendVarint(dst, int64(recordSize(r, delta, i)))
		dst = append(dst, 0) // attributes: none are defined
		dst = binary.AppendVarint(dst, delta)
		dst = binary.AppendVarint(dst, int64(i))
		dst = appendBytes(dst, r.Key)
		dst = appendBytes(dst, r.Value)
		dst = binary.AppendVarint(dst, int64(len(r.Headers)))
		for _, h := range r.Headers {
			dst = binary.AppendVarint(dst, int64(len(h.Key)))
			dst = append(dst, h.Key...)
			dst = appendBytes(dst, h.Value)
		}
	}
	return dst
}

func appendHeader(dst []byte, h Header) []byte {
	be := binary.BigEndian
	dst = be.AppendUint16(dst, uint16(h.Attributes))
	dst = be.AppendUint32(dst, uint32(h.LastOffsetDelta))
	dst = be.AppendUint64(dst, uint64(h.BaseTimestamp))
	dst = be.AppendUint64(dst, uint64(h.MaxTimestamp))
	dst = be.AppendUint64(dst, uint64(h.ProducerID))
	dst = be.AppendUint16(dst, uint16(h.ProducerEpoch))
	dst = be.AppendUint32(dst, uint32(h.BaseSequence))
	return be.AppendUint32(dst, uint32(h.Count))
}

// ParseHeader reads the fixed part of a body, compressed or not, and checks what it
// says by itself.
func ParseHeader(body []byte) (Header, error) {
	if len(body) < HeaderSize {
		return Header{}, fmt.Errorf("%w: %d bytes, the header alone has %d", ErrMalformed, len(body), HeaderSize)
	}
	be := binary.BigEndian
	h := Header{
		Attributes:      int16(be.Uint16(body)),
		LastOffsetDelta: int32(be.Uint32(body[2:])),
		BaseTimestamp:   int64(be.Uint64(body[6:])),
		MaxTimestamp:    int64(be.Uint64(body[14:])),
		ProducerID:      int64(be.Uint64(body[22:])),
		ProducerEpoch:   int16(be.Uint16(body[30:])),
		BaseSequence:    int32(be.Uint32(body[32:])),
		Count:           int32(be.Uint32(body[36:])),
	}
	// A compacted batch may hold fewer records than it spans offsets.
	if h.Count < 0 || h.LastOffsetDelta < 0 || int64(h.Count) > int64(h.LastOffsetDelta)+1 {
		return Header{}, fmt.Errorf("%w: %d records with a last offset delta of %d", ErrMalformed, h.Count, h.LastOffsetDelta)
	}
	if h.Attributes&(attrTransactional|attrControl) != 0 || h.Codec() > CodecZstd {
		return Header{}, fmt.Errorf("%w: attributes %#x", ErrUnsupported, uint16(h.Attributes))
	}
	return h, nil
}

// recordSize is the length of a record without its length prefix.
func recordSize(r *Record, timestampDelta int64, offsetDelta int) int {
	n := 1 + varintSize(timestampDelta) + varintSize(int64(offsetDelta)) +
		bytesSize(r.Key) + bytesSize(r.Value)
	if len(r.Headers) == 0 {
		return n + 1
	}
	n += varintSize(int64(len(r.Headers)))
	for i := range r.Headers {
		h := &r.Headers[i]
		n += varintSize(int64(len(h.Key))) + len(h.Key) + bytesSize(h.Value)
	}
	return n
}

// bytesSize is the length of a field. A null one has the length -1, which takes a
// byte as the length 0 does.
func bytesSize(b []byte) int { return varintSize(int64(len(b))) + len(b) }

func appendBytes(dst, b []byte) []byte {
	if b == nil {
		return append(dst, 1) // zigzag of -1
	}
	return append(binary.AppendVarint(dst, int64(len(b))), b...)
}

// SetProducer makes an encoded body one of a producer: its id, its epoch, and the sequence
// number of the first record. None may be negative. The body's checksum is another then. The
// error wraps ErrMalformed if body is too short for a header, or a number is negative.
func SetProducer(body []byte, id int64, epoch int16, sequence int32) error {
	if len(body) < HeaderSize || id < 0 || epoch < 0 || sequence < 0 {
		return fmt.Errorf("set producer %d, epoch %d, sequence %d in %d bytes: %w", id, epoch, sequence, len(body), ErrMalformed)
	}
	be := binary.BigEndian
	be.PutUint64(body[22:], uint64(id))
	be.PutUint16(body[30:], uint16(epoch))
	be.PutUint32(body[32:], uint32(sequence))
	return nil
}
