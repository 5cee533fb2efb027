package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"

	"github.com/cespare/xxhash/v2"
	"github.com/zue-log/zue/storage/batch"
)

// Sizes and limits of the entry format; FORMAT.md has the byte table.
const (
	entryHeaderSize = 64
	entryAlign      = 8
	// MaxBodyBytes is the longest body of an entry, in bytes.
	MaxBodyBytes = 32 << 20
)

// Kind says what an entry's body is. Zero is no kind: it is what
// preallocated space holds.
type Kind uint8

const (
	// KindData is the kind of an entry whose body is a record batch.
	KindData Kind = 1
	// KindControl is the kind of an entry that takes up no offset. Its body,
	// which may be empty, is its appender's: replication puts a change of
	// leader or of membership there.
	KindControl Kind = 2
)

// String names the kind.
func (k Kind) String() string {
	switch k {
	case KindData:
		return "data"
	case KindControl:
		return "control"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Entry is one entry as it stands in the log.
type Entry struct {
	Index uint64 // its number, from 1
	Term  uint64 // in which it was proposed; 1 in a log without elections
	// Offset is that of its first record; of a control entry, that of the
	// record that comes next. The log gives it out: [Log.AppendEntries] ignores
	// it, and Span, Chain and Mark.
	Offset uint64
	Span   uint32 // how far it advances the offset; 0 for a control entry
	Kind   Kind
	// Body is, of a data entry, a record batch from its attributes on (see
	// package batch).
	Body     []byte
	Checksum uint32 // CRC-32C (Castagnoli) of Body
	// Born is the checksum that the body was born with: the same, unless the entry was
	// compacted, which the chain must not depend on.
	Born  uint32
	Chain uint64 // a hash over it and all entries before; equal on replicas
	Mark  uint64 // all entries up to this index were durable when it was written
}

// NewEntry makes an entry with the checksums of body, which it keeps.
func NewEntry(index, term uint64, kind Kind, body []byte) Entry {
	sum := batch.Checksum(body)
	return Entry{Index: index, Term: term, Kind: kind, Body: body, Checksum: sum, Born: sum}
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// entryHeader is the decoded header of an entry.
type entryHeader struct {
	bodyCRC uint32
	index   uint64
	offset  uint64 // of its first record
	term    uint64
	chain   uint64
	mark    uint64 // all entries up to this index were durable when it was written
	bodyLen uint32
	span    uint32 // how far the offset advances
	bornCRC uint32 // the body CRC before any compaction
	kind    Kind
}

// Place is a point between two entries: what the next entry must follow. The zero
// Place is the beginning of the log.
type Place struct {
	Index  uint64 // of the entry before
	Term   uint64 // of the entry before
	Offset uint64 // of the next record
	Chain  uint64 // of the entry before
}

// entrySize is how many bytes an entry takes up in a segment.
func entrySize(bodyLen uint32) int64 {
	return entryHeaderSize + (int64(bodyLen)+entryAlign-1)&^(entryAlign-1)
}

// link computes h's chain: XXH64 over the predecessor's chain and those fields
// of h that are the same on every replica and survive compaction.
func (h *entryHeader) link(before uint64) uint64 {
	var b [48]byte
	le := binary.LittleEndian
	le.PutUint64(b[0:], before)
	le.PutUint64(b[8:], h.index)
	le.PutUint64(b[16:], h.offset)
	le.PutUint64(b[24:], h.term)
	le.PutUint32(b[32:], h.span)
	le.PutUint32(b[36:], h.bornCRC)
	b[40] = byte(h.kind)
	return xxhash.Sum64(b[:])
}

// after is the place that follows the entry.
func (h *entryHeader) after() Place {
	return Place{Index: h.index, Term: h.term, Offset: h.offset + uint64(h.span), Chain: h.chain}
}

// seed starts the header checksums of one segment. It is drawn at random for each
// segment, so that no bytes of a record, which a client chooses, can pass for a
// header: they would have to be made for a seed that no client knows.
type seed uint32

// checksum is the CRC-32C of the segment's seed (4 bytes) and b.
func (s seed) checksum(b []byte) uint32 { return crc32.Update(uint32(s), castagnoli, b) }

// newSeed makes the seed of a segment from what its header stores.
func newSeed(stored uint32) seed {
	return seed(crc32.Checksum(binary.LittleEndian.AppendUint32(nil, stored), castagnoli))
}

// put encodes h into the first entryHeaderSize bytes of b.
func (h *entryHeader) put(b []byte, s seed) {
	le := binary.LittleEndian
	b = b[:entryHeaderSize]
	le.PutUint32(b[4:], h.bodyCRC)
	le.PutUint64(b[8:], h.index)
	le.PutUint64(b[16:], h.offset)
	le.PutUint64(b[24:], h.term)
	le.PutUint64(b[32:], h.chain)
	le.PutUint64(b[40:], h.mark)
	le.PutUint32(b[48:], h.bodyLen)
	le.PutUint32(b[52:], h.span)
	le.PutUint32(b[56:], h.bornCRC)
	b[60] = byte(h.kind)
	b[61], b[62], b[63] = 0, 0, 0
	le.PutUint32(b, s.checksum(b[4:]))
}

// The reasons why bytes are not an entry.
var (
	errShortEntry  = errors.New("the file ends within the entry")
	errHeaderCRC   = errors.New("header checksum mismatch")
	errBodyCRC     = errors.New("body checksum mismatch")
	errHeaderField = errors.New("impossible header field")
	errBreak       = errors.New("it does not follow the entry before it")
)

// hop decodes, without a checksum, the fields of the header at the start of b
// that lead to the next entry.
func hop(b []byte) (bodyLen uint32, offset uint64, span uint32) {
	le := binary.LittleEndian
	return le.Uint32(b[48:]), le.Uint64(b[16:]), le.Uint32(b[52:])
}

// decodeEntryHeader decodes the header at the start of b, right or not.
func decodeEntryHeader(b []byte) entryHeader {
	b = b[:entryHeaderSize]
	le := binary.LittleEndian
	return entryHeader{
		bodyCRC: le.Uint32(b[4:]),
		index:   le.Uint64(b[8:]),
		offset:  le.Uint64(b[16:]),
		term:    le.Uint64(b[24:]),
		chain:   le.Uint64(b[32:]),
		mark:    le.Uint64(b[40:]),
		bodyLen: le.Uint32(b[48:]),
		span:    le.Uint32(b[52:]),
		bornCRC: le.Uint32(b[56:]),
		kind:    Kind(b[60]),
	}
}

// parseEntryHeader decodes the header at the start of b if its checksum is
// right and its fields are possible by themselves.
func parseEntryHeader(b []byte, s seed) (entryHeader, error) {
	if len(b) < entryHeaderSize {
		return entryHeader{}, errShortEntry
	}
	b = b[:entryHeaderSize]
	if binary.LittleEndian.Uint32(b) != s.checksum(b[4:]) {
		return entryHeader{}, errHeaderCRC
	}
	h := decodeEntryHeader(b)
	switch {
	case h.kind != KindData && h.kind != KindControl:
		return entryHeader{}, fmt.Errorf("%w: kind %d", errHeaderField, h.kind)
	case b[61]|b[62]|b[63] != 0:
		return entryHeader{}, fmt.Errorf("%w: reserved bytes", errHeaderField)
	case h.bodyLen > MaxBodyBytes:
		return entryHeader{}, fmt.Errorf("%w: body length %d", errHeaderField, h.bodyLen)
	case (h.span == 0) != (h.kind == KindControl):
		return entryHeader{}, fmt.Errorf("%w: %s entry that spans %d offsets", errHeaderField, h.kind, h.span)
	case h.index == 0 || h.mark >= h.index:
		return entryHeader{}, fmt.Errorf("%w: index %d, durable mark %d", errHeaderField, h.index, h.mark)
	}
	return h, nil
}

// splitEntry decodes the entry at the start of b, which may be longer, and checks its
// header but not its body, which points into b.
func splitEntry(b []byte, s seed) (h entryHeader, body []byte, err error) {
	if h, err = parseEntryHeader(b, s); err != nil {
		return h, nil, err
	}
	if int64(len(b)) < entrySize(h.bodyLen) {
		return h, nil, errShortEntry
	}
	return h, b[entryHeaderSize : entryHeaderSize+int(h.bodyLen) : entryHeaderSize+int(h.bodyLen)], nil
}

// parseEntry is splitEntry and checks the body as well.
func parseEntry(b []byte, s seed) (h entryHeader, body []byte, err error) {
	if h, body, err = splitEntry(b, s); err != nil {
		return h, nil, err
	}
	if batch.Checksum(body) != h.bodyCRC {
		return h, nil, errBodyCRC
	}
	return h, body, nil
}

// follows checks that h is the entry that comes next at p.
func (h *entryHeader) follows(p Place) error {
	if h.index != p.Index+1 || h.offset != p.Offset || h.term < p.Term || h.chain != h.link(p.Chain) && !planted("chain ignored") {
		return errBreak
	}
	return nil
}

// payload is what an entry is made of, before it has a place.
type payload struct {
	kind  Kind
	index uint64 // that the caller wants it to have; 0: the next one
	term  uint64 // 0: that of the entry before
	at    int64  // the offset at which alone it may go, or anywhere
	span  uint32
	size  int    // of the body
	body  []byte // unless there are records
	sum   uint32 // of body
	born  uint32 // what sum was when the entry was made
	// records is encoded right into its group; now, in Unix milliseconds, is
	// for those without a timestamp.
	records []batch.Record
	now     int64
}

// appendEntry appends to dst an entry that holds w, to stand at p in a segment with
// that seed, and returns the place after it.
func appendEntry(dst []byte, s seed, p Place, mark uint64, w *payload) ([]byte, Place) {
	start := len(dst)
	var header [entryHeaderSize]byte
	dst = append(dst, header[:]...)
	h := entryHeader{
		index:  p.Index + 1,
		offset: p.Offset,
		term:   max(w.term, p.Term, standaloneTerm),
		mark:   mark,
		span:   w.span,
		kind:   w.kind,
	}
	if w.records != nil {
		dst = batch.Append(dst, w.records, w.now)
		h.bodyCRC = batch.Checksum(dst[start+entryHeaderSize:])
		h.bornCRC = h.bodyCRC
	} else {
		dst = append(dst, w.body...)
		h.bodyCRC, h.bornCRC = w.sum, w.born
	}
	h.bodyLen = uint32(len(dst) - start - entryHeaderSize)
	h.chain = h.link(p.Chain)
	h.put(dst[start:], s)
	var padding [entryAlign]byte
	dst = append(dst, padding[:entrySize(h.bodyLen)-int64(len(dst)-start)]...)
	return dst, h.after()
}

// noTime is the largest timestamp of no records.
const noTime = math.MinInt64

// batch returns the header of the record batch in the entry's body; false for a control
// entry, and for a body that is no batch, of which readers will say what is wrong.
func (h *entryHeader) batch(body []byte) (batch.Header, bool) {
	if h.kind != KindData {
		return batch.Header{}, false
	}
	b, err := batch.ParseHeader(body)
	return b, err == nil
}

// entry is the header with its body, as callers see it.
func (h *entryHeader) entry(body []byte) Entry {
	return Entry{Index: h.index, Term: h.term, Offset: h.offset, Span: h.span, Kind: h.kind, Body: body,
		Checksum: h.bodyCRC, Born: h.bornCRC, Chain: h.chain, Mark: h.mark}
}

// stamp sets the durable mark of the entry header at the start of b.
func stamp(b []byte, s seed, mark uint64) {
	le := binary.LittleEndian
	if le.Uint64(b[40:]) == mark {
		return // as for each append of a lone caller
	}
	le.PutUint64(b[40:], mark)
	le.PutUint32(b, s.checksum(b[4:entryHeaderSize]))
}
