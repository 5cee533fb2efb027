package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"path/filepath"
	"time"

	"github.com/zue-log/zue/storage/batch"
	"github.com/zue-log/zue/storage/vfs"
)

// WalkOptions says what a walk looks at. The zero value is the default.
type WalkOptions struct {
	// Batches has the body of each data entry decompressed, if need be, and its
	// records decoded, beyond the checksum. That takes several times as long.
	Batches bool
}

// Walk visits all that there is in the data directory dir, in order: the state; then
// for each segment the segment itself, its entries with the damage among them, what
// lies behind its last entry, its footer and its index; and gaps between segments.
//
// It takes no lock and changes nothing, so it works on a read-only directory, on a
// damaged log and on one that a process is appending to: that one ends for it where it
// ended at some time during the walk, and segments that are removed meanwhile are
// passed over. A log whose end is cut off meanwhile ([Log.TruncateSuffix],
// [Log.Reset]) can look damaged; walk again to know. It reads by system calls, a few
// hundred KiB at a time or one entry: an I/O error is a *[DamageItem], behind which
// the walk goes on.
//
// Entries behind damage are found by their checksums. visit is called on the caller's
// goroutine; see [Item] for how long what it gets is valid. An error of visit ends the
// walk and is returned as it is. Other errors mean that the directory, or one of its
// files, could not be opened.
func Walk(fsys vfs.FS, dir string, o WalkOptions, visit func(Item) error) error {
	d := &dirWalk{fs: fsys, dir: dir, opts: o, visitor: visit}
	if err := d.readState(); err != nil {
		return fmt.Errorf("walk %s: %w", dir, err)
	}
	if err := d.list(); err != nil {
		return fmt.Errorf("walk %s: %w", dir, err)
	}
	if err := d.begin(); err != nil {
		return err
	}
	for d.now = range d.segments {
		if err := d.segment(); err != nil {
			return err
		}
	}
	return d.end()
}

// WalkSegment is [Walk] for the segment in one .log file. Without the rest of its log
// only the file itself can say what in it was durable.
func WalkSegment(fsys vfs.FS, path string, o WalkOptions, visit func(Item) error) error {
	d := &dirWalk{fs: fsys, dir: filepath.Dir(path), opts: o, visitor: visit, alone: true}
	s, err := d.peek(path)
	if err != nil {
		return fmt.Errorf("walk %s: %w", path, err)
	}
	d.segments = []walkedSegment{s}
	d.raise(s.footerMark())
	if err := d.segment(); err != nil {
		return err
	}
	if d.vanished {
		return fmt.Errorf("walk %s: %w", path, fs.ErrNotExist)
	}
	return nil
}

// dirWalk is one walk through a directory.
type dirWalk struct {
	fs      vfs.FS
	dir     string
	opts    WalkOptions
	visitor func(Item) error
	alone   bool // it is about one file

	state    StateItem
	segments []walkedSegment
	now      int // which of them the walk is in

	// at is where the log has come to. Unless known it is only known to have
	// come so far at least.
	at    Place
	known bool
	mark  DurableMark // the largest there is, as far as files were looked at
	// ended: the log may end where it has come to. lost: how it goes on there
	// is damaged, and has been reported.
	ended, lost bool
	beyond      bool // it has ended
	vanished    bool // the segment is gone since it was listed
	buf         []byte
	index       *indexCheck // of the segment at hand
	maxTime     int64       // of its entries so far
	damaged     bool        // are there damaged ones?
}

// walkedSegment is what is known of a segment before its entries are walked through.
type walkedSegment struct {
	path   string
	size   int64
	head   []byte // what there is of its header
	header segmentHeader
	err    error  // what is wrong with the header
	foot   []byte // the last bytes of the file, if there is room for a footer
	sealed bool
	end    int64 // if sealed, the footer's:
	last   Place
	max    int64
	read   bool // its headers have been looked at, ahead of the walk
}

func (s *walkedSegment) footerMark() DurableMark {
	if !s.sealed {
		return DurableMark{}
	}
	return DurableMark{Index: s.last.Index, Source: MarkFooter, Path: s.path, Position: s.size - footerSize}
}

func (d *dirWalk) raise(m DurableMark) {
	if m.Index > d.mark.Index {
		d.mark = m
	}
}

// readState reads the state file. A copy that a log is writing just now is read again.
func (d *dirWalk) readState() error {
	var err error
	for range 3 {
		if d.state, err = readState(d.fs, filepath.Join(d.dir, stateName)); err != nil {
			return err
		}
		if d.state.Copies == [2]error{} && d.state.MarkErr == nil {
			break
		}
	}
	d.mark = DurableMark{}
	if d.state.Mark > 0 {
		d.mark = DurableMark{Index: d.state.Mark, Source: MarkState, Path: d.state.Path, Position: markAt}
	}
	if d.state.Reset {
		d.mark.Index = min(d.mark.Index, d.state.Origin.Index)
	}
	return nil
}

// readState reads the state file at path as it is.
func readState(fsys vfs.FS, path string) (StateItem, error) {
	item := StateItem{Path: path}
	f, err := fsys.Open(path, false)
	if errors.Is(err, fs.ErrNotExist) {
		item.Missing = true
		return item, nil
	}
	if err != nil {
		return item, err
	}
	defer f.Close() // it was only read
	var now state
	for i := range item.Copies {
		s, err := parseState(readUpTo(f, int64(i)*stateSlot, stateSlot))
		item.Copies[i] = err
		if err == nil && s.seq >= now.seq {
			now = s
		}
	}
	item.Sequence, item.Origin, item.Reset, item.User = now.seq, now.origin, now.reset, now.user
	item.Missing = now.seq == 0 && item.Copies == [2]error{}
	mark := readUpTo(f, markAt, markSize)
	item.Mark = parseMark(mark)
	if item.Mark == 0 && !isZero(mark) && string(mark) != string(encodeMark(0)) {
		item.MarkErr = errStateMark
	}
	return item, nil
}

var errStateMark = errors.New("durable mark is not valid")

// readUpTo returns the n bytes of f at pos: zeros behind the end of the file, as in one
// that was never allocated, and nothing valid, nor zeros, if they cannot be read.
func readUpTo(f vfs.File, pos, n int64) []byte {
	b := make([]byte, n)
	if _, err := f.ReadAt(b, pos); err != nil && !errors.Is(err, io.EOF) {
		clear(b)
		b[0] = 1
	}
	return b
}

// list finds the segments and looks at their ends.
func (d *dirWalk) list() error {
	names, err := d.fs.List(d.dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if _, ext, ok := parseName(name); !ok || ext != ".log" {
			continue
		}
		s, err := d.peek(filepath.Join(d.dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed just now
		}
		if err != nil {
			return err
		}
		d.segments = append(d.segments, s)
		if !d.void(&s) {
			d.raise(s.footerMark())
		}
	}
	return nil
}

// peek reads a segment's header and footer.
func (d *dirWalk) peek(path string) (walkedSegment, error) {
	s := walkedSegment{path: path}
	f, err := d.fs.Open(path, false)
	if err != nil {
		return s, err
	}
	defer f.Close() // it was only read
	return s, s.readEnds(f)
}

func (s *walkedSegment) readEnds(f vfs.File) (err error) {
	if s.size, err = f.Size(); err != nil {
		return err
	}
	s.head = make([]byte, min(segmentHeaderSize, s.size))
	if _, err := f.ReadAt(s.head, 0); err != nil && !errors.Is(err, io.EOF) {
		s.err = &unreadableError{from: 0, to: walkBlock, err: err}
	} else {
		s.header, s.err = parseSegmentHeader(s.head)
	}
	if s.size > math.MaxUint32 {
		s.err = fmt.Errorf("%w: it is %d bytes long", errNoSegment, s.size)
	}
	at := s.size - footerSize
	if at < segmentHeaderSize {
		return nil
	}
	s.foot = make([]byte, footerSize)
	if _, err := f.ReadAt(s.foot, at); err != nil && !errors.Is(err, io.EOF) {
		return nil // the walk comes to it
	}
	if s.end, s.last, s.max, s.sealed = parseFooter(s.foot, at); !s.sealed && s.err == nil {
		s.err = footerVersion(s.foot)
	}
	return nil
}

// first is the offset that the segment's name gives.
func (s *walkedSegment) first() (uint64, bool) {
	first, _, ok := parseName(filepath.Base(s.path))
	return first, ok
}

// void says whether the state says that the segment is not of the log.
func (d *dirWalk) void(s *walkedSegment) bool {
	first, _ := s.first()
	return !d.alone && (d.state.Reset || d.state.Sequence > 0 && first < d.state.Origin.Offset)
}

// begin visits the state and finds what the first entry follows.
func (d *dirWalk) begin() error {
	if err := d.visitor(&d.state); err != nil {
		return err
	}
	d.known = d.state.Sequence > 0
	d.at = d.state.Origin
	if d.state.Copies[0] == nil || d.state.Copies[1] == nil {
		return nil
	}
	d.known = false
	bad := d.state.Copies[0]
	if !errors.Is(bad, ErrVersion) {
		bad = errors.New("both copies of the state are damaged")
	}
	return d.visitor(&DamageItem{Path: d.state.Path, To: markAt, Err: bad})
}

// segment walks through the segment at hand.
func (d *dirWalk) segment() error {
	s := &d.segments[d.now]
	f, err := d.fs.Open(s.path, false)
	if errors.Is(err, fs.ErrNotExist) {
		return d.skip()
	}
	if err == nil {
		defer f.Close() // it is only read
		// It may have been sealed, or replaced, since.
		err = s.readEnds(f)
	}
	if err != nil {
		return fmt.Errorf("walk %s: %w", s.path, err)
	}
	if passed, err := d.overtaken(s); passed || err != nil {
		return err
	}
	item := SegmentItem{Path: s.path, Size: s.size, Sealed: s.sealed, Err: s.err, Void: d.void(s)}
	if s.err == nil {
		item.Before, item.Created = s.header.before, time.UnixMilli(s.header.created).UTC()
	}
	if !item.Void {
		d.beyond = d.beyond || d.ended && !d.continues(s)
		item.Beyond = d.beyond
	}
	if err := d.visitor(&item); err != nil || item.Void || item.Beyond {
		return err
	}
	return d.enter(s, f)
}

// skip passes over a segment that is gone since it was listed. If those before it are
// gone as well, the log begins later now.
func (d *dirWalk) skip() error {
	d.vanished, d.known = true, false
	if d.alone {
		return nil
	}
	return d.readOrigin()
}

// readOrigin takes over where the log begins by now, if that is where the walk has come to
// or later.
func (d *dirWalk) readOrigin() error {
	now, err := readState(d.fs, d.state.Path)
	if err == nil && now.Sequence > 0 && now.Origin.Index >= d.at.Index {
		d.state.Origin = now.Origin
		d.at, d.known = now.Origin, true
	}
	return err
}

// overtaken says whether segment s, which does not follow where the walk has come to, is
// being removed: the state says by now that the log begins behind it. If the log begins
// with s by now, the walk goes on there.
func (d *dirWalk) overtaken(s *walkedSegment) (bool, error) {
	if d.alone || d.void(s) || d.continues(s) || s.err != nil {
		return false, nil
	}
	was := d.state.Origin
	if err := d.readOrigin(); err != nil {
		return false, fmt.Errorf("walk %s: %w", s.path, err)
	}
	return d.state.Origin != was && d.void(s), nil
}

// continues says whether segment s begins where the log has come to.
func (d *dirWalk) continues(s *walkedSegment) bool {
	return s.err == nil && (!d.known || s.header.before == d.at)
}

// enter walks through the entries of s, whose file is f, and what comes after them.
func (d *dirWalk) enter(s *walkedSegment, f vfs.File) error {
	src := &fileSource{file: f, buf: d.buf[:0]}
	defer func() { d.buf = src.buf }()
	w := &segmentWalk{src: src, path: s.path, limit: s.size, mark: d.mark, batches: d.opts.Batches, visit: d.entry}
	if s.sealed {
		w.limit = s.end
	}
	ok, err := d.header(s, w)
	if err != nil || !ok {
		return err
	}
	d.index = d.openIndex(s)
	d.maxTime, d.damaged = noTime, false
	t := &tailWalk{d: d, s: s, w: w}
	if !s.sealed {
		w.mayEnd = t.mayEnd
	}
	stop, why, err := w.run(segmentHeaderSize)
	d.mark = w.mark
	if err == nil {
		err = t.finish(stop, why)
	}
	if err != nil {
		return err
	}
	return d.finishIndex(s, stop)
}

// header checks the header of s and what it follows, and has w begin there. Without a
// header that is right it finds out the seed by other ways; if it cannot, all of the
// segment is damaged, and it returns false.
func (d *dirWalk) header(s *walkedSegment, w *segmentWalk) (bool, error) {
	damage := DamageItem{Path: s.path, To: min(segmentHeaderSize, s.size), Err: s.err,
		clue: headerClue(s.head, 0, "segment header", segmentLayout, segmentPlace, d.at, d.known)}
	if d.known {
		damage.Index, damage.Offset = d.at.Index+1, d.at.Offset
	}
	if s.err != nil {
		w.at, w.known = d.at, d.known
		ok := !errors.Is(s.err, ErrVersion) && s.size <= math.MaxUint32 && w.findSeed(s)
		if !ok {
			damage.To = s.size
			d.known, d.ended, d.lost = false, false, true
			if s.sealed {
				d.at, d.known, d.lost = s.last, true, false
			}
		}
		return ok, d.visitor(&damage)
	}
	w.seed, w.at, w.known = newSeed(s.header.seed), s.header.before, true
	if first, ok := s.first(); ok && !d.alone && first != s.header.before.Offset {
		damage.Err = errors.New("the file's name is not its first offset")
		damage.clue = func() []Flaw {
			return []Flaw{{"segment header first offset", 32, fmt.Sprint(s.header.before.Offset), fmt.Sprint(first)}}
		}
		if err := d.visitor(&damage); err != nil {
			return false, err
		}
	}
	if !d.alone && d.known && s.header.before != d.at {
		g := GapItem{Path: s.path, Want: d.at, Found: s.header.before}
		return true, d.visitor(&g)
	}
	return true, nil
}

// findSeed sets the seed of a segment whose header is damaged: to the one there, if the
// first entry's checksum is right with it, or to what that checksum was made with, if
// what comes before or after the entry bears it out.
func (w *segmentWalk) findSeed(s *walkedSegment) bool {
	b, err := w.src.read(segmentHeaderSize, entryHeaderSize)
	if err != nil || len(b) < entryHeaderSize || isZero(b) {
		return false
	}
	made := seedBehind(b[4:entryHeaderSize], binary.LittleEndian.Uint32(b))
	stored := made
	if len(s.head) == segmentHeaderSize {
		stored = newSeed(binary.LittleEndian.Uint32(s.head[56:]))
	}
	first := segmentWalk{src: w.src, limit: w.limit, seed: made}
	h, _, err := first.entryAt(segmentHeaderSize)
	if err != nil {
		return false
	}
	w.seed = made
	if made == stored || w.known && h.follows(w.at) == nil || s.sealed && h.after() == s.last {
		return true
	}
	b, err = w.src.read(segmentHeaderSize+entrySize(h.bodyLen), entryHeaderSize)
	if err != nil {
		return false
	}
	next, err := parseEntryHeader(b, made)
	return err == nil && next.follows(h.after()) == nil
}

// entry visits an item of the segment at hand.
func (d *dirWalk) entry(item Item) error {
	switch item := item.(type) {
	case *EntryItem:
		d.index.entry(item, d.maxTime)
		if b, err := batch.ParseHeader(item.Entry.Body); err == nil && item.Entry.Kind == KindData {
			d.maxTime = max(d.maxTime, b.MaxTimestamp)
		}
	case *DamageItem:
		d.damaged = true
		d.index.damaged = true
	}
	return d.visitor(item)
}

// end says what is missing behind the last segment.
func (d *dirWalk) end() error {
	if d.mark.Index <= d.at.Index || d.lost || d.beyond {
		return nil
	}
	if d.mark.Source == MarkState {
		// It may have been lowered since, and the log cut off.
		now, err := readState(d.fs, d.state.Path)
		if err != nil || now.Mark <= d.at.Index || now.Origin != d.state.Origin {
			return err
		}
	}
	return d.visitor(&GapItem{Path: d.dir, Want: d.at, AtEnd: true, Mark: d.mark})
}
