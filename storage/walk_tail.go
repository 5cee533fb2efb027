package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/zue-log/zue/storage/vfs"
)

// tailWalk finds out what lies behind the last entry of a segment.
type tailWalk struct {
	d *dirWalk
	s *walkedSegment
	w *segmentWalk

	scanned bool
	used    int64       // position behind the last byte that is not zero
	footer  *FooterItem // that of a segment that is not cut to size yet
	broken  bool        // the file ends with a footer that is damaged
}

// mayEnd says whether the entries may end at pos, by the rules of recovery: with a
// footer, or where nothing says that there was more.
func (t *tailWalk) mayEnd(pos int64, why error) (bool, error) {
	w := t.w
	if t.findFooter(pos) {
		return true, nil
	}
	if !t.scanned {
		t.scanned = true
		t.used = w.raiseBeyond(pos)
	}
	if t.broken = t.endsBroken(pos); t.broken {
		return true, nil
	}
	if next := t.d.next(); errors.Is(why, errNoEntry) && next != nil && next.err == nil && w.known && next.header.before == w.at {
		return true, nil
	}
	if err := t.d.lookAhead(w); err != nil {
		return false, err
	}
	if w.mark.Source == MarkState && w.mark.Index > w.at.Index {
		// It may have been lowered since, and the log cut off.
		now, err := readState(t.d.fs, t.d.state.Path)
		if err != nil {
			return false, err
		}
		w.mark.Index = min(w.mark.Index, now.Mark)
	}
	// A segment gets its name when its first entry is durable.
	return w.mark.Index <= w.at.Index && pos > segmentHeaderSize, nil
}

// findFooter looks for the footer of entries that stop at pos.
func (t *tailWalk) findFooter(pos int64) bool {
	at := footerAt(pos)
	b, err := t.w.src.read(pos, at-pos+footerUsed)
	if err != nil || int64(len(b)) < at-pos+footerUsed || !isZero(b[:at-pos]) {
		return false
	}
	end, last, maxTime, ok := parseFooter(b[at-pos:], at)
	if !ok || end != pos {
		return false
	}
	t.footer = &FooterItem{Path: t.s.path, Position: at, End: end, Last: last, MaxTime: maxTime, HasTime: maxTime != noTime}
	return true
}

// endsBroken says whether the entries stop at pos and what is at the end of the file,
// where entries never go, can only be their footer.
func (t *tailWalk) endsBroken(pos int64) bool {
	at := t.s.size - footerSize
	if at != footerAt(pos) || len(t.s.foot) < footerSize || isZero(t.s.foot[:footerUsed]) {
		return false
	}
	b, err := t.w.src.read(pos, at-pos)
	return err == nil && isZero(b)
}

// next is the segment after the one at hand; nil without one.
func (d *dirWalk) next() *walkedSegment {
	if d.now+1 >= len(d.segments) {
		return nil
	}
	return &d.segments[d.now+1]
}

// lookAhead raises w's mark to what headers in the segments to come say, if they are
// of entries behind w.at.
func (d *dirWalk) lookAhead(w *segmentWalk) error {
	for i := d.now + 1; i < len(d.segments); i++ {
		s := &d.segments[i]
		if s.read || s.sealed || s.err != nil || d.void(s) {
			continue
		}
		s.read = true
		f, err := d.fs.Open(s.path, false)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("walk %s: %w", s.path, err)
		}
		ahead := segmentWalk{src: &fileSource{file: f}, path: s.path, seed: newSeed(s.header.seed), limit: s.size, at: w.at}
		ahead.raiseBeyond(segmentHeaderSize)
		w.raise(ahead.mark)
		if err := f.Close(); err != nil {
			return fmt.Errorf("walk %s: %w", s.path, err)
		}
	}
	return nil
}

// finish visits what is behind the entries, which stop at stop because of why.
func (t *tailWalk) finish(stop int64, why error) error {
	d, s, w := t.d, t.s, t.w
	d.at, d.known, d.ended, d.lost = w.at, w.known, false, false
	switch {
	case s.sealed:
		return t.finishFooter(&FooterItem{Path: s.path, Position: s.size - footerSize, End: s.end, Last: s.last,
			MaxTime: s.max, HasTime: s.max != noTime})
	case t.footer != nil:
		return t.finishFooter(t.footer)
	case t.broken:
		at := s.size - footerSize
		return d.visitor(&DamageItem{Path: s.path, From: at, To: s.size, Err: errFooter,
			clue: headerClue(s.foot[:footerUsed], at, "footer", footerLayout, footerPlace, w.at, w.known)})
	case why == nil && !w.known:
		// The damage goes on to the end.
		d.lost = true
		return nil
	}
	d.ended = true
	item := SpaceItem{Path: s.path, From: stop, To: max(s.size, stop), Next: w.at, Mark: w.mark}
	if item.Used = max(t.used-stop, 0); item.Used > 0 {
		item.Err = why
		item.clue = w.clue(stop, why)
	}
	// Recovery cuts here what is not zeros, and lets go of what comes after.
	d.beyond = why != nil && !errors.Is(why, errNoEntry)
	return d.visitor(&item)
}

var (
	errFooter     = errors.New("the segment's footer is damaged")
	errFooterLast = errors.New("the segment's footer does not agree with its entries")
)

// finishFooter visits a segment's footer, after a look whether it is that of the
// entries.
func (t *tailWalk) finishFooter(item *FooterItem) error {
	d, w := t.d, t.w
	wrong := w.known && w.at != item.Last || !d.damaged && w.known && d.maxTime != footerTime(item)
	found := w.at
	d.at, d.known = item.Last, true
	if wrong {
		bad := DamageItem{Path: item.Path, From: item.Position, To: item.Position + footerSize, Err: errFooterLast}
		if b, err := w.src.read(item.Position, footerUsed); err == nil && len(b) == footerUsed {
			bad.clue = headerClue(b, item.Position, "footer", footerLayout, footerPlace, found, true)
		}
		if err := d.visitor(&bad); err != nil {
			return err
		}
	}
	return d.visitor(item)
}

func footerTime(item *FooterItem) int64 {
	if item.HasTime {
		return item.MaxTime
	}
	return noTime
}

// indexCheck compares an index with the entries that a walk comes across.
type indexCheck struct {
	item    IndexItem
	size    int64 // of the file
	cover   indexCoverage
	at      int  // the point to come
	blind   bool // the points cannot be compared: the segment's header is damaged
	damaged bool // some entries are damaged: points may be of them
}

// openIndex reads the index of s. One that a log is writing just now is read again.
func (d *dirWalk) openIndex(s *walkedSegment) *indexCheck {
	base := s.header.before
	if s.err != nil {
		base = d.at
		base.Offset, _ = s.first()
	}
	x := &indexCheck{blind: s.err != nil}
	for range 3 {
		x.item = IndexItem{Path: filepath.Join(filepath.Dir(s.path), indexName(base.Offset)), base: base}
		x.read(d.fs, s.size)
		if x.item.Health != IndexWrong {
			break
		}
	}
	if x.item.Health == IndexGood && s.sealed && (x.cover.end != s.end || x.cover.place != s.last) {
		x.wrong("it ends at position %d (offset %d), the segment at %d (offset %d)", x.cover.end, x.cover.place.Offset, s.end, s.last.Offset)
	}
	return x
}

func (x *indexCheck) wrong(format string, args ...any) {
	if x.item.Health == IndexGood {
		x.item.Health, x.item.Err = IndexWrong, fmt.Errorf(format, args...)
	}
}

// read reads the index of a segment of segmentSize bytes.
func (x *indexCheck) read(fsys vfs.FS, segmentSize int64) {
	f, err := fsys.Open(x.item.Path, false)
	if errors.Is(err, fs.ErrNotExist) {
		x.item.Health, x.item.Err = IndexMissing, nil
		return
	}
	if err != nil {
		x.wrong("%w", err)
		return
	}
	defer f.Close() // it is only read
	if x.size, err = f.Size(); err != nil {
		x.wrong("%w", err)
		return
	}
	// The points are no more than the header says, and than the segment has room for,
	// whatever it says.
	b := readUpTo(f, 0, min(x.size, indexHeaderSize))
	if len(b) == indexHeaderSize {
		count := min(int64(binary.LittleEndian.Uint32(b[16:])), segmentSize/MinIndexInterval+2)
		b = readUpTo(f, 0, min(x.size, indexHeaderSize+count*pointSize))
	}
	x.cover, err = parseIndexHeader(b)
	switch {
	case errors.Is(err, errIndexOpen):
		x.item.Health = IndexOpen
		return
	case err != nil:
		x.wrong("%w", err)
		return
	}
	x.item.Count, x.item.End, x.item.Last, x.item.b = int(x.cover.count), x.cover.end, x.cover.place, b
}

// entry compares the index with an entry, before which no record of the segment has a
// timestamp beyond maxTime.
func (x *indexCheck) entry(e *EntryItem, maxTime int64) {
	if x.item.Health != IndexGood || x.blind || e.Position >= x.cover.end {
		return
	}
	for ; x.at < x.item.Count; x.at++ {
		p := parsePoint(x.item.b[indexHeaderSize+x.at*pointSize:])
		offset := x.item.base.Offset + uint64(p.offset)
		switch {
		case int64(p.entry) > e.Position:
			x.reach(e)
			return
		case int64(p.entry) < e.Position:
			if !x.damaged {
				x.wrong("point %d is of position %d, where no entry begins", x.at, p.entry)
			}
		case x.item.base.Index+1+uint64(p.index) != e.Entry.Index || offset < e.Entry.Offset || p.before < maxTime && !x.damaged ||
			offset-e.Entry.Offset > uint64(e.Entry.Span) || p.record == 0 && offset != e.Entry.Offset || int(p.record) >= max(len(e.Entry.Body), 1):
			x.wrong("point %d does not agree with the entry at position %d", x.at, e.Position)
		}
	}
	x.reach(e)
}

// reach compares what the index says of its end with the entry that stops there.
func (x *indexCheck) reach(e *EntryItem) {
	stop := e.Position + e.Size
	last := Place{Index: e.Entry.Index, Term: e.Entry.Term, Offset: e.Entry.Offset + uint64(e.Entry.Span), Chain: e.Entry.Chain}
	if stop > x.cover.end || stop == x.cover.end && last != x.cover.place {
		x.wrong("it ends at position %d (offset %d), where no such entry does", x.cover.end, x.cover.place.Offset)
	}
}

// finishIndex visits the index of s, whose entries stop at stop.
func (d *dirWalk) finishIndex(s *walkedSegment, stop int64) error {
	x := d.index
	if x.cover.end > stop && !x.damaged {
		x.wrong("it goes on to position %d, behind the segment's last entry", x.cover.end)
	}
	if err := d.visitor(&x.item); err != nil {
		return err
	}
	if x.item.Health != IndexWrong || !s.sealed {
		return nil // a crash leaves that
	}
	return d.visitor(&DamageItem{Path: x.item.Path, To: x.size, Err: fmt.Errorf("the index is wrong: %w", x.item.Err)})
}
