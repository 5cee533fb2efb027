package storage

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/zue-log/zue/storage/vfs"
)

// Recovery says what Open found and did.
type Recovery struct {
	// Scanned is how many bytes of entries were read and checked. It is 0 after
	// a clean close.
	Scanned int64
	// Torn is how many bytes, from the first to the last that was not zero, were
	// cut off behind the last whole entry because they had never been durable.
	Torn int64
	// IndexesRebuilt is how many index files were missing or not usable.
	IndexesRebuilt int
}

// Recovery returns what Open found and did.
func (l *Log) Recovery() Recovery { return l.recovery }

// recovering is the state of one run of recovery.
type recovering struct {
	*Log
	starts   []uint64 // first offsets that the segments' names give
	segments []*segment
	at       Place  // after the last good entry
	mark     uint64 // the largest durable mark seen
	dirty    bool   // files have been changed
	source   fileSource
}

// recover opens the segments, scans those without a footer, cuts off what was
// never durable and makes the rest so.
func (l *Log) recover() (err error) {
	defer catchFault(l.dir, &err, debug.SetPanicOnFault(true))
	r := &recovering{Log: l, mark: l.state.mark}
	l.segments.Store(new([]*segment))
	if err := r.list(); err != nil {
		return err
	}
	if err = r.begin(); err == nil {
		err = r.openAll()
	}
	if err == nil {
		err = r.finish()
	}
	l.segments.Store(&r.segments) // whatever happened, release closes them
	if err != nil {
		return err
	}
	if l.recovery.Torn > 0 {
		l.opts.Logger.Warn("cut off bytes that were never durable", "dir", l.dir, "bytes", l.recovery.Torn,
			"end_offset", r.at.Offset)
	}
	l.first.Store(new(r.state.now.origin))
	l.written = r.at
	l.durable.Store(r.at.Index)
	l.tail = tail{place: r.at}
	l.end.Store(r.at.Offset)
	if l.opts.ManualCommit {
		l.committed, l.shown = r.state.now.origin.Index, r.state.now.origin.Index
		l.end.Store(r.state.now.origin.Offset)
	}
	n := len(r.segments)
	if n == 0 {
		return nil
	}
	l.active = r.segments[n-1]
	s := l.active
	if s.sealed || l.opts.ReadOnly {
		return nil
	}
	// From one that is too old the next append goes on to another at once: there may be
	// no second one before Close. (Without a record in it both would have one name.)
	if !l.tooOld(s.created) || s.last.Offset == s.before.Offset {
		l.tail = l.tailOf(s)
	}
	// A copy of the files may have holes instead of blocks.
	if err := errors.Join(s.file.Allocate(int64(len(s.b))), s.ix.file.Allocate(int64(len(s.ix.b)))); err != nil {
		return err
	}
	return l.mapForStores(s)
}

// list sorts the directory's files by what they are, and removes leftovers.
func (r *recovering) list() error {
	names, err := r.fs.List(r.dir)
	if err != nil {
		return err
	}
	has := map[string]bool{}
	for _, name := range names {
		has[name] = true
	}
	for _, name := range names {
		first, ext, ok := parseName(name)
		switch {
		case ok && ext == ".log":
			r.starts = append(r.starts, first)
		case ok && has[segmentName(first)], name == lockName, name == stateName:
		case (ok || isTemp(name)) && r.opts.ReadOnly:
		case ok, isTemp(name):
			if err := r.fs.Remove(r.path(name)); err != nil {
				return err
			}
		default:
			r.opts.Logger.Warn("foreign file in the data directory, left alone", "file", r.path(name))
		}
	}
	return nil
}

// parseName takes a segment's or an index's name apart.
func parseName(name string) (first uint64, ext string, ok bool) {
	ext = filepath.Ext(name)
	digits := strings.TrimSuffix(name, ext)
	if len(digits) != 20 || ext != ".log" && ext != ".index" {
		return 0, "", false
	}
	first, err := strconv.ParseUint(digits, 10, 64)
	return first, ext, err == nil
}

// begin finds what the first entry follows, and finishes what an interrupted
// truncation has left: a reset, or a removal of the oldest segments.
func (r *recovering) begin() error {
	now := r.state.now
	switch {
	case now.seq == 0:
		if len(r.starts) > 0 {
			r.opts.Logger.Warn("the state file is missing; the log begins with the first segment there is", "dir", r.dir)
			s, err := r.openSegment(r.starts[0])
			if err != nil {
				return r.badHeader(r.starts[0], err)
			}
			now.origin = s.before
			if err := s.release(); err != nil {
				return err
			}
		}
		if !r.opts.ReadOnly {
			if err := r.state.save(now); err != nil {
				return err
			}
		}
		r.state.now.origin = now.origin
	case now.reset:
		if err := r.finishReset(); err != nil {
			return err
		}
	default:
		if err := r.dropBefore(now.origin.Offset); err != nil {
			return err
		}
	}
	r.at = r.state.now.origin
	r.mark = r.state.mark
	return nil
}

// finishReset removes all segments, which the state says are void.
func (r *recovering) finishReset() error {
	starts := r.starts
	r.starts = nil
	if r.opts.ReadOnly {
		r.state.mark = r.state.now.origin.Index
		return nil
	}
	for i := len(starts) - 1; i >= 0; i-- {
		if err := r.removeFiles(starts[i]); err != nil {
			return err
		}
	}
	return r.endReset()
}

// endReset notes that nothing of the segments before a reset is left.
func (l *Log) endReset() error {
	if err := l.fs.SyncDir(l.dir); err != nil {
		return err
	}
	next := l.state.now
	if err := l.state.saveMark(next.origin.Index, true); err != nil {
		return err
	}
	next.reset = false
	return l.state.save(next)
}

// dropBefore removes the segments before the one that begins with offset first: the
// state says that they are no longer part of the log.
func (r *recovering) dropBefore(first uint64) error {
	for len(r.starts) > 0 && r.starts[0] < first {
		if !r.opts.ReadOnly {
			if err := r.removeFiles(r.starts[0]); err != nil {
				return err
			}
			r.dirty = true
		}
		r.starts = r.starts[1:]
	}
	return nil
}

// removeFiles removes the files of the segment that begins with offset first.
func (l *Log) removeFiles(first uint64) error {
	err := l.fs.Remove(l.path(segmentName(first)))
	if e := l.fs.Remove(l.path(indexName(first))); e != nil && !errors.Is(e, fs.ErrNotExist) {
		err = errors.Join(err, e)
	}
	return err
}

// openSegment opens the segment that begins with offset first.
func (r *recovering) openSegment(first uint64) (*segment, error) {
	return openSegment(r.fs, r.path(segmentName(first)), !r.opts.ReadOnly)
}

// badHeader is the error for a segment that cannot be opened. Its header was durable
// before the file got its name.
func (r *recovering) badHeader(first uint64, err error) error {
	if errors.Is(err, errNoSegment) || errors.Is(err, errSegmentHeader) {
		return &CorruptionError{Path: r.path(segmentName(first)), Index: r.at.Index + 1, Offset: first, Reason: err.Error()}
	}
	return err
}

// openAll opens the segments in order, until the log ends.
func (r *recovering) openAll() error {
	for i, first := range r.starts {
		s, err := r.openSegment(first)
		if err != nil {
			return r.badHeader(first, err)
		}
		if s.before.Offset != first {
			return errors.Join(s.corrupt(0, s.before.Index+1, s.before.Offset, errors.New("the file's name is not its first offset")), s.release())
		}
		if s.before != r.at {
			// What is between is missing. If it was durable once that is
			// corruption, else this segment never was either.
			if i == 0 || r.segments[i-1].sealed {
				return errors.Join(s.corrupt(0, r.at.Index+1, r.at.Offset, errBreak), s.release())
			}
			if err := s.release(); err != nil {
				return err
			}
			return r.cut(i-1, errBreak)
		}
		r.segments = append(r.segments, s)
		r.at = s.last
		if s.sealed {
			if err := r.openSealed(s); err != nil {
				return err
			}
			continue
		}
		stop, err := r.scan(s)
		if err != nil {
			return err
		}
		if stop != nil || i == len(r.starts)-1 {
			return r.cut(i, stop)
		}
	}
	if r.mark > r.at.Index {
		return &CorruptionError{Path: r.dir, Index: r.at.Index + 1, Offset: r.at.Offset,
			Reason: fmt.Sprintf("entries up to %d were durable once, and are gone", r.mark)}
	}
	return nil
}

// openSealed opens a sealed segment's index, or makes it anew.
func (r *recovering) openSealed(s *segment) error {
	ix, cov, err := openIndex(r.fs, s.indexPath(), !r.opts.ReadOnly)
	if err == nil {
		if cov.end == s.end.Load() && cov.place == s.last {
			s.ix = ix
			return s.closeFiles()
		}
		err = errors.Join(errors.New("it is another segment's"), ix.close())
	}
	last := s.last
	r.at = s.before
	s.maxTime.Store(noTime)
	if err := r.rebuild(s, err); err != nil {
		return err
	}
	stop, err := r.scanFrom(s, segmentHeaderSize)
	if err != nil {
		return err
	}
	if r.at != last {
		if stop == nil {
			stop = errBreak
		}
		return s.corrupt(s.end.Load(), r.at.Index+1, r.at.Offset, stop)
	}
	if !r.opts.ReadOnly {
		if err := s.ix.seal(s.coverage()); err != nil {
			return err
		}
	}
	return s.closeFiles()
}

// rebuild gives s an empty index because of what was wrong with the one it had.
func (r *recovering) rebuild(s *segment, why error) error {
	r.opts.Logger.Info("rebuilding index", "file", s.indexPath(), "why", why)
	r.recovery.IndexesRebuilt++
	if r.opts.ReadOnly {
		s.ix = &index{path: s.indexPath(), b: make([]byte, indexCapacity(int64(len(s.b)), r.opts.IndexInterval))}
		return nil
	}
	r.dirty = true
	var err error
	s.ix, err = createIndex(r.fs, s.indexPath(), indexCapacity(int64(len(s.b)), r.opts.IndexInterval))
	if err != nil {
		return err
	}
	// The old one must not be back beside a footer.
	return r.fs.SyncDir(r.dir)
}

// scan checks an unsealed segment's entries, all that its index does not vouch
// for. stop says what ended it; nil is space that was never used.
func (r *recovering) scan(s *segment) (stop, err error) {
	ix, cov, err := openIndex(r.fs, s.indexPath(), !r.opts.ReadOnly)
	if err == nil {
		if err = r.vouched(s, ix, cov); err == nil {
			if r.opts.ReadOnly { // points are added to it in memory
				if ix, err = ix.inMemory(); err != nil {
					return nil, err
				}
			}
			s.ix = ix
			if !r.opts.ReadOnly {
				if err := ix.rewrite(); err != nil {
					return nil, err
				}
			}
			r.at = cov.place
			s.maxTime.Store(cov.maxTime)
			return r.scanFrom(s, cov.end)
		}
		err = errors.Join(err, ix.close())
	}
	if err := r.rebuild(s, err); err != nil {
		return nil, err
	}
	r.at = s.before
	s.maxTime.Store(noTime)
	return r.scanFrom(s, segmentHeaderSize)
}

// vouched checks that an index belongs to the segment as far as it says that it
// covers it, by the entries behind its last point.
func (r *recovering) vouched(s *segment, ix *index, cov indexCoverage) error {
	if cov.count == 0 || cov.end > int64(len(s.b)) || int64(len(ix.b)) < indexCapacity(int64(len(s.b)), r.opts.IndexInterval) {
		return errors.New("it does not cover the segment")
	}
	pos := int64(ix.point(int(cov.count) - 1).entry)
	var p Place
	for pos >= segmentHeaderSize && pos < cov.end {
		h, err := parseEntryHeader(s.b[pos:], s.seed)
		if err != nil {
			return err
		}
		p, pos = h.after(), pos+entrySize(h.bodyLen)
	}
	if pos != cov.end || p != cov.place {
		return errors.New("it is another segment's")
	}
	return nil
}

// walk returns a walk through the entries of s, which follow r.at. It reads the file, not
// the mapping, since the first touch of each mapped page costs several times as much as
// to copy it, and most of them are not needed again.
func (r *recovering) walk(s *segment) *segmentWalk {
	r.source.forget()
	r.source.file = s.file
	w := &segmentWalk{src: &r.source, path: s.path, seed: s.seed, limit: int64(len(s.b)), at: r.at, known: true}
	if s.sealed {
		w.limit = s.end.Load()
	}
	return w
}

// scanFrom checks the entries from position pos on, which follow r.at, adds
// their points, and moves r.at and s.end behind the last good one. stop says what ended
// it; nil is space that was never used.
func (r *recovering) scanFrom(s *segment, pos int64) (stop, err error) {
	start, w := pos, r.walk(s)
	for pos+entryHeaderSize <= w.limit {
		h, body, bad := w.entryAt(pos)
		var unreadable *unreadableError
		if errors.As(bad, &unreadable) {
			return nil, fmt.Errorf("%s: %w", s.path, bad)
		}
		if bad != nil {
			// A footer is what an interrupted sealing leaves.
			if !errors.Is(bad, errNoEntry) && !s.footerFollows(pos) {
				stop = bad
			}
			break
		}
		s.addPoints(pos, &h, body, int64(r.opts.IndexInterval))
		r.mark = max(r.mark, h.mark)
		w.at = h.after()
		pos += entrySize(h.bodyLen)
	}
	r.at = w.at
	s.last = r.at
	s.end.Store(pos)
	r.recovery.Scanned += pos - start
	return stop, nil
}

// footerFollows says whether entries that stop at pos have their footer already.
func (s *segment) footerFollows(pos int64) bool {
	at := footerAt(pos)
	if at > int64(len(s.b)) || !isZero(s.b[pos:at]) {
		return false
	}
	end, _, _, ok := parseFooter(s.b[at:], at)
	return ok && end == pos
}

// cut ends the log at r.at, in segment i. If anything beyond was durable once it
// changes nothing and fails; otherwise what is beyond is removed.
func (r *recovering) cut(i int, why error) error {
	s := r.segments[i]
	pos := s.end.Load()
	used, err := r.beyond(s, pos)
	if err != nil {
		return err
	}
	torn := used
	for _, first := range r.starts[i+1:] {
		later, err := r.openSegment(first)
		if err != nil {
			return r.badHeader(first, err)
		}
		if later.sealed {
			// Segments are sealed in order, when all in them is durable.
			r.mark = max(r.mark, later.last.Index)
		}
		n, err := r.beyond(later, segmentHeaderSize)
		if err := errors.Join(err, later.release()); err != nil {
			return err
		}
		torn += n
	}
	// A segment gets its name when its first entry is durable.
	if r.mark > r.at.Index || pos == segmentHeaderSize {
		if why == nil {
			why = errNoEntry
		}
		return s.corrupt(pos, r.at.Index+1, r.at.Offset, why)
	}
	if r.opts.ReadOnly {
		return nil // what is beyond the end is not looked at
	}
	r.recovery.Torn += torn
	return r.removeBeyond(i, used)
}

// removeBeyond deletes the segments after i, newest first, and zeroes the used bytes of
// segment i behind its last entry.
func (r *recovering) removeBeyond(i int, used int64) error {
	for k := len(r.starts) - 1; k > i; k-- {
		r.dirty = true
		if err := r.removeFiles(r.starts[k]); err != nil {
			return err
		}
	}
	r.dirty = r.dirty || used > 0
	s := r.segments[i]
	return writeZeros(s.file, s.end.Load(), used, zeroChunk, nil)
}

// finish makes what was found durable: it may be in the page cache only.
func (r *recovering) finish() error {
	if r.opts.ReadOnly {
		return nil
	}
	for i, s := range r.segments {
		if s.sealed {
			continue
		}
		if (r.mark < s.last.Index || r.dirty) && !planted("recovery not synced") {
			if err := rewrite(s, r.mark); err != nil {
				return err
			}
			if err := s.file.Sync(); err != nil {
				return err
			}
		}
		if i < len(r.segments)-1 {
			if err := r.seal(s); err != nil {
				return err
			}
			s.sealed = true
		}
	}
	// Also when nothing was done here: removals and renames by whoever was killed may
	// not be durable yet.
	return r.fs.SyncDir(r.dir)
}

// rewrite writes the entries behind the durable mark over themselves. Their
// pages may be marked clean without being on disk, if an fdatasync failed before
// the crash; only a write makes them dirty again.
func rewrite(s *segment, mark uint64) error {
	pos, err := s.positionAfter(mark)
	if err != nil {
		return err
	}
	return s.copyTo(s.file, pos, s.end.Load())
}

// beyond raises r.mark to what headers in s from pos on say that belong to entries after
// r.at. They need not follow one another: it is asked where they do not. It returns how
// many bytes there are from pos up to the last that is not zero.
func (r *recovering) beyond(s *segment, pos int64) (used int64, err error) {
	w := r.walk(s)
	used = w.raiseBeyond(pos) - pos
	if w.unreadable != nil {
		return 0, fmt.Errorf("%s: %w", s.path, w.unreadable)
	}
	r.mark = max(r.mark, w.mark.Index)
	return used, nil
}

var zeroPage [4096]byte

func isZero(b []byte) bool {
	for len(b) > len(zeroPage) {
		if !bytes.Equal(b[:len(zeroPage)], zeroPage[:]) {
			return false
		}
		b = b[len(zeroPage):]
	}
	return bytes.Equal(b, zeroPage[:len(b)])
}

// lastNonZero returns the length of b without the zeros at its end.
func lastNonZero(b []byte) int64 {
	for len(b) > 0 {
		n := min(len(b), len(zeroPage))
		if !isZero(b[len(b)-n:]) {
			break
		}
		b = b[:len(b)-n]
	}
	for len(b) > 0 && b[len(b)-1] == 0 {
		b = b[:len(b)-1]
	}
	return int64(len(b))
}

// writeZeros overwrites n bytes from pos on, chunk by chunk. stop, unless it is nil, is asked before
// each chunk whether to give up.
func writeZeros(f vfs.File, pos, n int64, chunk int, stop func() error) error {
	zeros := make([]byte, min(n, int64(chunk)))
	for end := pos + n; pos < end; pos += int64(len(zeros)) {
		if stop != nil {
			if err := stop(); err != nil {
				return err
			}
		}
		if _, err := f.WriteAt(zeros[:min(int64(len(zeros)), end-pos)], pos); err != nil {
			return err
		}
	}
	return nil
}
