package batch

import (
	"fmt"
	"math"
)

// Check verifies a client's ready-made body before it is taken verbatim: whether all
// of it is well-formed and what Kafka's own clients write and read, and the header is
// true of the records. It returns the header.
//
// There must be a record, of offset deltas 0, 1, 2 and so on, so that each offset the
// batch spans has its record; a producer's id, epoch and sequence are all there or
// none; the header's maximum timestamp is the records' maximum. The records may take
// up limit bytes, decompressed: more wraps ErrTooLarge, as for an uncompressed body.
// Attributes other than a codec wrap ErrUnsupported: transactions and control
// records, a time that only a broker sets, and those that are not known. All other
// faults wrap ErrMalformed.
//
// The CRC is not part of the body; see Checksum. Check allocates nothing for a body
// that is good and not compressed.
func Check(body []byte, limit int) (Header, error) {
	h, err := ParseHeader(body)
	if err != nil {
		return Header{}, err
	}
	if err := h.check(limit); err != nil {
		return Header{}, err
	}
	section := body[HeaderSize:]
	if c := h.Codec(); c != CodecNone {
		s := getScratch()
		defer s.put()
		if section, err = decompress(s.b[:0], section, c, limit); err != nil {
			return Header{}, err
		}
		s.b = section
	}
	if len(section) > limit {
		return Header{}, tooLarge(h.Codec(), limit)
	}
	if int(h.Count) > len(section)/minRecord {
		return Header{}, fmt.Errorf("%w: %d records in %d bytes", ErrMalformed, h.Count, len(section))
	}
	if err := checkRecords(section, h); err != nil {
		return Header{}, err
	}
	return h, nil
}

// check looks at what the header says by itself, before anything is decompressed.
func (h Header) check(limit int) error {
	switch {
	case h.Attributes&^attrCodecMask != 0:
		return fmt.Errorf("%w: attributes %#x", ErrUnsupported, uint16(h.Attributes))
	case h.Count < 1 || h.Count-1 != h.LastOffsetDelta:
		return fmt.Errorf("%w: %d records with a last offset delta of %d", ErrMalformed, h.Count, h.LastOffsetDelta)
	case int(h.Count) > limit/minRecord:
		return fmt.Errorf("%w: %d records in at most %d bytes", ErrTooLarge, h.Count, limit)
	}
	// Without a producer, some clients (franz-go, Sarama) write the sequence 0.
	none := h.ProducerID == -1 && h.ProducerEpoch == -1 && (h.BaseSequence == -1 || h.BaseSequence == 0)
	if !none && (h.ProducerID < 0 || h.ProducerEpoch < 0 || h.BaseSequence < 0) {
		return fmt.Errorf("%w: producer %d, epoch %d, sequence %d", ErrMalformed, h.ProducerID, h.ProducerEpoch, h.BaseSequence)
	}
	return nil
}

// checkRecords checks the records, decompressed, against the header.
func checkRecords(section []byte, h Header) error {
	at, latest := 0, int64(math.MinInt64)
	for i := range int64(h.Count) {
		delta, offset, next := checkUsual(section, at)
		if next < 0 {
			var err error
			if delta, offset, next, err = checkRecord(section, at); err != nil {
				return fmt.Errorf("%w: record %d, at byte %d of the records", err, i, at)
			}
		}
		stamp := h.BaseTimestamp + delta
		switch {
		case offset != i:
			return fmt.Errorf("%w: record %d has the offset delta %d", ErrMalformed, i, offset)
		case stamp < h.BaseTimestamp != (delta < 0):
			return fmt.Errorf("%w: timestamp of record %d overflows", ErrMalformed, i)
		}
		latest = max(latest, stamp)
		at = next
	}
	switch {
	case at != len(section):
		return fmt.Errorf("%w: %d bytes after the last record", ErrMalformed, len(section)-at)
	case latest != h.MaxTimestamp:
		return fmt.Errorf("%w: maximum timestamp %d, of the records %d", ErrMalformed, h.MaxTimestamp, latest)
	}
	return nil
}

// checkUsual reads the record at b[at:] if it is of the usual kind (see parseHead
// and usualValue), and returns its deltas and the position after it. That is -1 for
// all other records, and for what is wrong: see checkRecord.
func checkUsual(b []byte, at int) (timestampDelta, offsetDelta int64, next int) {
	timestampDelta, offsetDelta, key, keyLength, end := parseHead(b, at)
	if end < 0 || keyLength < -1 || keyLength > end-key {
		return 0, 0, -1
	}
	if value := usualValue(b[:end], key+max(keyLength, 0)); value < 0 {
		return 0, 0, -1
	}
	return timestampDelta, offsetDelta, end
}

// checkRecord is checkUsual for any record. Its error is ErrMalformed or
// ErrUnsupported.
func checkRecord(b []byte, at int) (timestampDelta, offsetDelta int64, next int, err error) {
	n, at := varint32(b, at)
	if at < 0 || n < 1 || n > int64(len(b)-at) {
		return 0, 0, 0, ErrMalformed
	}
	end := at + int(n)
	b = b[:end]
	if b[at] != 0 {
		return 0, 0, 0, ErrUnsupported // an attribute: none are defined
	}
	timestampDelta, at = varint(b, at+1)
	offsetDelta, at = varint32(b, at)
	at = checkField(b, at, -1)
	at = checkField(b, at, -1)
	count, at := varint32(b, at)
	if at < 0 || count < 0 || count > int64(end-at)/2 {
		return 0, 0, 0, ErrMalformed
	}
	for range count {
		at = checkField(b, at, 0)
		at = checkField(b, at, -1)
	}
	if at != end {
		return 0, 0, 0, ErrMalformed
	}
	return timestampDelta, offsetDelta, end, nil
}

// checkField returns the position after the field at b[at:], whose length is least
// at least: -1 if it may be null.
func checkField(b []byte, at int, least int64) int {
	n, at := varint32(b, at)
	if at < 0 || n < least || n > int64(len(b)-at) {
		return -1
	}
	return at + max(int(n), 0)
}

// varint32 is varint for a number that Kafka has as one of 32 bits: its clients
// read five bytes of it at most.
func varint32(b []byte, at int) (int64, int) {
	v, next := varint(b, at)
	if next-at > 5 {
		return 0, -1
	}
	return v, next
}
