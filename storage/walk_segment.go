package storage

import (
	"errors"
	"fmt"

	"github.com/zue-log/zue/storage/batch"
)

// errNoEntry is why preallocated space is not an entry.
var errNoEntry = errors.New("zeros where an entry should be")

// segmentWalk goes through the entries of one segment.
type segmentWalk struct {
	src   walkSource
	path  string
	seed  seed
	limit int64 // no entry goes beyond it
	// at is what the next entry follows. Unless known, which it is not behind
	// damage, the next entry is only known to come somewhere behind it.
	at      Place
	known   bool
	mark    DurableMark // the largest there is
	batches bool        // look into the bodies, too
	visit   func(Item) error
	// unreadable is the last range that scan had to pass over; nil without one.
	unreadable *unreadableError
	// mayEnd is asked whether the log may end at pos, where why says what is
	// wrong. Without it entries must go on up to limit.
	mayEnd func(pos int64, why error) (bool, error)

	entry EntryItem // used again for each
}

// run visits the entries from pos on, and the damage among them. stop is where they
// end: at limit, or where mayEnd has agreed, because of why.
func (w *segmentWalk) run(pos int64) (stop int64, why error, err error) {
	for tries := 0; pos < w.limit; tries++ {
		h, body, bad := w.entryAt(pos)
		switch {
		case bad == nil:
			if err := w.accept(pos, &h, body); err != nil {
				return pos, nil, err
			}
			pos += entrySize(h.bodyLen)
			tries = -1
		case tries == 0:
			// What was read ahead of an append is out of date.
			w.src.forget()
		case tries == 1 && w.mayEnd != nil:
			end, err := w.mayEnd(pos, bad)
			if end || err != nil {
				return pos, bad, err
			}
			// The entry was durable before the mark which says so was read:
			// it may have been written since the last look.
			w.src.forget()
		default:
			if pos, err = w.damage(pos, h, bad); err != nil {
				return pos, nil, err
			}
			tries = -1
		}
	}
	return pos, nil, nil
}

// entryAt reads the entry at pos and checks it. h is zero unless its header is right
// by itself.
func (w *segmentWalk) entryAt(pos int64) (h entryHeader, body []byte, err error) {
	b, err := w.src.read(pos, min(entryHeaderSize, w.limit-pos))
	if err != nil {
		return h, nil, err
	}
	if h, err = parseEntryHeader(b, w.seed); err != nil {
		if isZero(b) {
			err = errNoEntry
		}
		return h, nil, err
	}
	size := entrySize(h.bodyLen)
	if size > w.limit-pos {
		return h, nil, errShortEntry
	}
	if b, err = w.src.read(pos, size); err != nil {
		return h, nil, err
	}
	if int64(len(b)) < size {
		return h, nil, errShortEntry
	}
	body = b[entryHeaderSize : entryHeaderSize+int(h.bodyLen) : entryHeaderSize+int(h.bodyLen)]
	if batch.Checksum(body) != h.bodyCRC {
		return h, nil, errBodyCRC
	}
	if err := w.follows(&h); err != nil {
		return h, nil, err
	}
	if w.batches && h.kind == KindData {
		err = checkBatch(&h, body)
	}
	return h, body, err
}

// follows checks that the entry comes next, as far as that can be told.
func (w *segmentWalk) follows(h *entryHeader) error {
	if w.known {
		return h.follows(w.at)
	}
	if h.index <= w.at.Index {
		return errBreak
	}
	return nil
}

// accept visits an entry that is whole.
func (w *segmentWalk) accept(pos int64, h *entryHeader, body []byte) error {
	w.raise(DurableMark{Index: h.mark, Source: MarkEntry, Path: w.path, Position: pos})
	w.entry = EntryItem{Path: w.path, Position: pos, Size: entrySize(h.bodyLen), Resumed: !w.known, Entry: h.entry(body)}
	w.at, w.known = h.after(), true
	return w.visit(&w.entry)
}

func (w *segmentWalk) raise(m DurableMark) {
	if m.Index > w.mark.Index {
		w.mark = m
	}
}

// damage visits the bad range that begins at pos, where h is the header that is there
// if that is right, and returns the position from which to go on.
func (w *segmentWalk) damage(pos int64, h entryHeader, bad error) (next int64, err error) {
	d := DamageItem{Path: w.path, From: pos, Err: bad, Mark: w.mark, clue: w.clue(pos, bad)}
	if d.Mark.Index <= w.at.Index {
		d.Mark = DurableMark{} // it is about what came before
	}
	if w.known {
		d.Index, d.Offset = w.at.Index+1, w.at.Offset
	} else if h.kind != 0 {
		d.Index, d.Offset = h.index, h.offset
	}
	fits := h.kind != 0 && entrySize(h.bodyLen) <= w.limit-pos
	switch {
	case fits && w.follows(&h) == nil:
		// The header can be trusted, so it is known how the log goes on.
		w.at, w.known = h.after(), true
		d.To = pos + entrySize(h.bodyLen)
	case fits && errors.Is(bad, errBreak) && h.index > w.at.Index:
		// A whole entry, but not the next one. What follows may follow it.
		w.at, w.known = h.after(), true
		d.To = pos + entrySize(h.bodyLen)
	default:
		from := pos + entryAlign
		if fits && errors.Is(bad, errBreak) {
			from = pos + entrySize(h.bodyLen)
		}
		d.To = w.resume(from, &next)
		w.known = false
		return next, w.visit(&d)
	}
	return d.To, w.visit(&d)
}

// resume searches from position from on for an entry's header that comes later than
// what is known, and sets next to its position; without one, to the limit. It returns
// where the damage before it ends: there, or, without one in a segment that may end
// before its limit, behind the last byte that is not zero.
func (w *segmentWalk) resume(from int64, next *int64) (to int64) {
	*next = w.limit
	used := w.scan(from, func(at int64, b []byte) bool {
		h, err := parseEntryHeader(b, w.seed)
		if err != nil || h.index <= w.at.Index || entrySize(h.bodyLen) > w.limit-at {
			return true
		}
		*next = at
		return false
	})
	if *next == w.limit && w.mayEnd != nil {
		return min(used, w.limit)
	}
	return *next
}

// scan calls visit with each run of bytes from pos on, at a multiple of 8, that may be
// an entry's header, until it returns false. It returns the position behind
// the last byte that is not zero or cannot be read, among those that it has seen.
func (w *segmentWalk) scan(pos int64, visit func(at int64, b []byte) bool) (used int64) {
	pos = (pos + entryAlign - 1) &^ (entryAlign - 1)
	used = pos
	for pos < w.limit {
		b, err := w.src.read(pos, min(walkChunk, w.limit-pos))
		var bad *unreadableError
		if errors.As(err, &bad) {
			if bad.from > pos {
				if b, err = w.src.read(pos, bad.from-pos); err != nil {
					b = nil
				}
			}
		}
		if n := lastNonZero(b); n > 0 {
			used = pos + n
			if !scanBytes(pos, b[:min(int64(len(b)), n+entryHeaderSize)], visit) {
				return used
			}
		}
		switch {
		case bad != nil:
			w.unreadable = bad
			used = min(bad.to, w.limit)
			pos = (bad.to + entryAlign - 1) &^ (entryAlign - 1)
		case len(b) < walkChunk:
			return used
		default:
			// A header may lie across the border.
			pos += walkChunk - entryHeaderSize + entryAlign
		}
	}
	return used
}

// scanBytes is scan for bytes that are at position pos.
func scanBytes(pos int64, b []byte, visit func(at int64, b []byte) bool) bool {
	for ; len(b) >= entryHeaderSize; b, pos = b[entryAlign:], pos+entryAlign {
		// Most bytes are ruled out without a checksum.
		may := b[61]|b[62]|b[63] == 0 && (Kind(b[60]) == KindData || Kind(b[60]) == KindControl)
		if may && !visit(pos, b) {
			return false
		}
	}
	return true
}

// raiseBeyond raises the mark to what headers from pos on say that belong to entries
// behind w.at. It returns the position behind the last byte that is not
// zero.
func (w *segmentWalk) raiseBeyond(pos int64) (used int64) {
	return w.scan(pos, func(at int64, b []byte) bool {
		if h, err := parseEntryHeader(b, w.seed); err == nil && h.index > w.at.Index {
			w.raise(DurableMark{Index: h.mark, Source: MarkEntry, Path: w.path, Position: at})
		}
		return true
	})
}

// checkBatch checks that all records of a data entry can be read, and are of the
// offsets that its header gives it.
func checkBatch(h *entryHeader, body []byte) error {
	r, err := batch.NewReader(body, h.offset)
	if errors.Is(err, batch.ErrCompressed) {
		if body, err = batch.Decompress(nil, body, MaxBodyBytes); err == nil {
			r, err = batch.NewReader(body, h.offset)
		}
	}
	if err != nil {
		return err
	}
	if span := int64(r.Header().LastOffsetDelta) + 1; span != int64(h.span) {
		return fmt.Errorf("%w: it spans %d offsets, its entry %d", batch.ErrMalformed, span, h.span)
	}
	var rec Record
	for next := h.offset; ; next = rec.Offset + 1 {
		ok, err := r.Next(&rec)
		if !ok || err != nil {
			return err
		}
		if rec.Offset < next {
			return fmt.Errorf("%w: offset %d comes after %d", batch.ErrMalformed, rec.Offset, next-1)
		}
	}
}
