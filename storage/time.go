package storage

import (
	"fmt"
	"runtime/debug"

	"github.com/zue-log/zue/storage/batch"
)

// OffsetForTime returns the lowest offset whose record has a timestamp of at least ms,
// in milliseconds since the Unix epoch; the end offset if no record has. Timestamps need
// not ascend. What it goes by has been verified, as in [Log.Read].
//
// It reads no segment whose largest timestamp is less, and the first other one from the
// index point on before which all are less.
//
// Errors: *CorruptionError, *FaultError, ErrClosed.
func (l *Log) OffsetForTime(ms int64) (uint64, error) {
	for {
		epoch := l.epoch.Load()
		offset, gone, err := l.offsetForTime(ms)
		if gone || l.epoch.Load() != epoch {
			continue // the log was cut off meanwhile, at its beginning or its end
		}
		if err != nil {
			l.report(err)
			return 0, fmt.Errorf("offset for time %d: %w", ms, err)
		}
		return offset, nil
	}
}

// offsetForTime is OffsetForTime, unless a segment is gone that should be searched.
func (l *Log) offsetForTime(ms int64) (offset uint64, gone bool, err error) {
	if l.done.Load() {
		return 0, false, ErrClosed
	}
	// end before what else there is: a record below end is in that.
	end := l.end.Load()
	for _, s := range *l.segments.Load() {
		if s.maxTime.Load() < ms {
			continue
		}
		if !s.acquire() {
			return 0, true, nil
		}
		offset, found, err := s.offsetForTime(ms, end, &l.unzip)
		Lease{s}.Release()
		if found || err != nil {
			return offset, false, err
		}
	}
	return end, false, nil
}

// offsetForTime looks for the segment's first record before end with a timestamp of at
// least ms.
func (s *segment) offsetForTime(ms int64, end uint64, z *unzipped) (offset uint64, found bool, err error) {
	defer catchFault(s.path, &err, debug.SetPanicOnFault(true))
	limit := s.end.Load()
	p := s.ix.findTime(ms)
	pos, record := int64(p.entry), int(p.record)
	for pos+entryHeaderSize <= limit {
		h, body, err := s.entry(pos, limit)
		if err == nil && h.offset >= end {
			break
		}
		if err == nil && h.kind == KindData {
			offset, found, err = firstSince(ms, &h, body, record, z)
		}
		if err != nil {
			return 0, false, s.corrupt(pos, h.index, h.offset, err)
		}
		if found {
			return offset, true, nil
		}
		pos, record = pos+entrySize(h.bodyLen), 0
	}
	return 0, false, nil
}

// firstSince looks for the first record of an entry with a timestamp of at least ms, from
// a position in its body on, 0 being the first.
func firstSince(ms int64, h *entryHeader, body []byte, record int, z *unzipped) (offset uint64, found bool, err error) {
	b, err := batch.ParseHeader(body)
	if err != nil || b.MaxTimestamp < ms {
		return 0, false, err
	}
	r, err := z.reader(h, body)
	if err == nil && record > 0 {
		err = r.Seek(record)
	}
	for err == nil {
		var stamp int64
		var ok bool
		if offset, stamp, ok, err = r.SkipTime(); !ok || err != nil {
			break
		}
		if stamp >= ms {
			return offset, true, nil
		}
	}
	return 0, false, err
}
