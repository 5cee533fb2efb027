package storage

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
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
	at       place  // after the last good entry
	mark     uint64 // the largest durable mark seen
	dirty    bool   // names have changed, or may not be durable
}

// recover opens the segments, scans those without a footer, cuts off what was
// never durable and makes the rest so.
func (l *Log) recover() error {
	r := &recovering{Log: l, mark: l.state.now.durable}
	l.segments.Store(new([]*segment))
	if err := r.list(); err != nil {
		return err
	}
	err := r.openAll()
	l.segments.Store(&r.segments) // whatever happened, release closes them
	if err != nil {
		return err
	}
	if err := r.finish(); err != nil {
		return err
	}
	if l.recovery.Torn > 0 {
		l.opts.Logger.Warn("cut off bytes that were never durable", "dir", l.dir, "bytes", l.recovery.Torn,
			"end_offset", r.at.offset)
	}
	l.segments.Store(&r.segments)
	l.written = r.at
	l.durable.Store(r.at.index)
	l.tail = tail{place: r.at}
	if n := len(r.segments); n > 0 {
		l.active = r.segments[n-1]
		if !l.active.sealed {
			l.tail.pos, l.tail.room = l.active.end.Load(), room(int64(len(l.active.b)))
		}
	}
	l.end.Store(r.at.offset)
	return nil
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

// openAll opens the segments in order, until the log ends.
func (r *recovering) openAll() error {
	for i, first := range r.starts {
		path := r.path(segmentName(first))
		s, err := openSegment(r.fs, path, true)
		switch {
		case errors.Is(err, errNoSegment), errors.Is(err, errSegmentHeader):
			return r.badHeader(i, err)
		case err != nil:
			return err
		}
		if s.before.offset != first {
			return errors.Join(s.corrupt(0, s.before.index+1, s.before.offset, errors.New("the file's name is not its first offset")), s.release())
		}
		if i > 0 && s.before != r.at {
			// What is between is missing. If it was durable once that is
			// corruption, else this segment never was either.
			if r.segments[i-1].sealed || r.mark > r.at.index {
				return errors.Join(s.corrupt(0, r.at.index+1, r.at.offset, errBreak), s.release())
			}
			err := s.release()
			return errors.Join(err, r.cut(i, nil, errBreak))
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
		last := i == len(r.starts)-1
		if stop != nil || last {
			return r.cut(i, s, stop)
		}
	}
	if r.mark > r.at.index {
		return &CorruptionError{Path: r.dir, Index: r.at.index + 1, Offset: r.at.offset,
			Reason: fmt.Sprintf("entries up to %d were durable once, and are gone", r.mark)}
	}
	return nil
}

// openSealed opens a sealed segment's index, or makes it anew.
func (r *recovering) openSealed(s *segment) error {
	ix, cov, err := openIndex(r.fs, s.indexPath(), true)
	if err == nil {
		if cov.end == s.end.Load() && cov.place == s.last {
			s.ix = ix
			return nil
		}
		err = errors.Join(errors.New("it is another segment's"), ix.close())
	}
	last := s.last
	r.at = s.before
	if err := r.rebuild(s, err); err != nil {
		return err
	}
	stop := r.scanFrom(s, segmentHeaderSize)
	if r.at != last {
		if stop == nil {
			stop = errBreak
		}
		return s.corrupt(s.end.Load(), r.at.index+1, r.at.offset, stop)
	}
	return s.ix.seal(s.coverage(r.opts.IndexInterval))
}

// rebuild gives s an empty index because of what was wrong with the one it had.
func (r *recovering) rebuild(s *segment, why error) error {
	r.opts.Logger.Info("rebuilding index", "file", s.indexPath(), "why", why)
	r.recovery.IndexesRebuilt++
	r.dirty = true
	var err error
	s.ix, err = createIndex(r.fs, s.indexPath(), indexCapacity(int64(len(s.b)), r.opts.IndexInterval))
	return err
}

// scan checks an unsealed segment's entries, all that its index does not vouch
// for. stop says what ended it; nil is space that was never used.
func (r *recovering) scan(s *segment) (stop, err error) {
	ix, cov, err := openIndex(r.fs, s.indexPath(), true)
	if err == nil {
		if err = r.vouched(s, ix, cov); err == nil {
			s.ix = ix
			r.at = cov.place
			return r.scanFrom(s, cov.end), nil
		}
		err = errors.Join(err, ix.close())
	}
	if err := r.rebuild(s, err); err != nil {
		return nil, err
	}
	r.at = s.before
	return r.scanFrom(s, segmentHeaderSize), nil
}

// vouched checks that an index belongs to the segment as far as it says that it
// covers it, by the entries behind its last point.
func (r *recovering) vouched(s *segment, ix *index, cov indexCoverage) error {
	if cov.count == 0 || cov.end > int64(len(s.b)) || int64(len(ix.b)) < indexCapacity(int64(len(s.b)), r.opts.IndexInterval) {
		return errors.New("it does not cover the segment")
	}
	pos := int64(ix.point(int(cov.count) - 1).entry)
	var p place
	for pos >= segmentHeaderSize && pos < cov.end {
		h, err := parseEntryHeader(s.b[pos:])
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

// scanFrom checks the entries from position pos on, which follow r.at, adds
// their points, and moves r.at and s.end behind the last good one.
func (r *recovering) scanFrom(s *segment, pos int64) (stop error) {
	start, limit := pos, int64(len(s.b))
	if s.sealed {
		limit = s.end.Load()
	}
	for pos+entryHeaderSize <= limit && !isZero(s.b[pos:pos+entryHeaderSize]) {
		if _, _, ok := parseFooter(s.b[pos:], pos); ok {
			break // sealing was interrupted
		}
		h, body, err := parseEntry(s.b[pos:limit])
		if err == nil {
			err = h.follows(r.at)
		}
		if err != nil {
			stop = err
			break
		}
		s.addPoints(pos, &h, body, int64(r.opts.IndexInterval))
		r.mark = max(r.mark, h.mark)
		r.at = h.after()
		pos += entrySize(h.bodyLen)
	}
	s.last = r.at
	s.end.Store(pos)
	r.recovery.Scanned += pos - start
	return stop
}

// badHeader deals with segment i, whose header is none. Zeros are a header that
// never reached the disk; anything else is not ours to throw away.
func (r *recovering) badHeader(i int, why error) error {
	zero := false
	err := r.withBytes(i, func(b []byte) { zero = isZero(b[:min(len(b), segmentHeaderSize)]) })
	if err != nil {
		return err
	}
	if !zero {
		return &CorruptionError{Path: r.path(segmentName(r.starts[i])), Index: r.at.index + 1, Offset: r.starts[i], Reason: why.Error()}
	}
	return r.cut(i, nil, why)
}

// withBytes calls do with the bytes of segment k's file, whatever they are.
func (r *recovering) withBytes(k int, do func(b []byte)) error {
	f, err := r.fs.Open(r.path(segmentName(r.starts[k])), false)
	if err != nil {
		return err
	}
	size, err := f.Size()
	if err != nil || size == 0 {
		do(nil)
		return errors.Join(err, f.Close())
	}
	m, err := f.Map(int(size), false)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	do(m.Bytes())
	return errors.Join(m.Close(), f.Close())
}

// cut ends the log at r.at, in segment i. s is that segment, nil if nothing of it
// belongs to the log. If anything beyond was durable once it changes nothing and
// fails; otherwise what is beyond is removed.
func (r *recovering) cut(i int, s *segment, why error) error {
	pos := int64(0)
	if s != nil {
		pos = s.end.Load()
	}
	for k := range r.starts[i:] {
		from := int64(0)
		if k == 0 {
			from = pos
		}
		err := r.withBytes(i+k, func(b []byte) { r.mark = max(r.mark, markBeyond(b[min(from, int64(len(b))):], r.at.index)) })
		if err != nil {
			return err
		}
	}
	if r.mark > r.at.index {
		if why == nil {
			why = errors.New("zeros where there was an entry")
		}
		return &CorruptionError{Path: r.path(segmentName(r.starts[i])), Position: pos, Index: r.at.index + 1, Offset: r.at.offset, Reason: why.Error()}
	}
	return r.removeBeyond(i, s, pos)
}

// removeBeyond deletes the segments after i, newest first, and zeroes what is in
// s behind pos.
func (r *recovering) removeBeyond(i int, s *segment, pos int64) error {
	keep := i
	if s != nil && pos > segmentHeaderSize {
		keep = i + 1
	}
	for k := len(r.starts) - 1; k >= keep; k-- {
		if err := r.removeSegment(k); err != nil {
			return err
		}
	}
	if keep == i {
		return nil
	}
	torn := lastNonZero(s.b[pos:])
	r.recovery.Torn += torn
	return writeZeros(s.file, pos, torn)
}

// removeSegment deletes the files of segment k, whose entries, if any, were never
// durable.
func (r *recovering) removeSegment(k int) error {
	err := r.withBytes(k, func(b []byte) { r.recovery.Torn += lastNonZero(b) })
	if err != nil {
		return err
	}
	if k < len(r.segments) {
		err = r.segments[k].release()
		r.segments = r.segments[:k]
	}
	r.dirty = true
	err = errors.Join(err, r.fs.Remove(r.path(segmentName(r.starts[k]))))
	if e := r.fs.Remove(r.path(indexName(r.starts[k]))); e != nil && !errors.Is(e, fs.ErrNotExist) {
		err = errors.Join(err, e)
	}
	return err
}

// finish makes what was found durable: it may be in the page cache only.
func (r *recovering) finish() error {
	for i, s := range r.segments {
		if s.sealed {
			continue
		}
		r.dirty = r.dirty || !r.opts.Sync.always()
		if r.mark < s.last.index || r.recovery.Torn > 0 {
			r.dirty = true
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
	if r.dirty {
		return r.fs.SyncDir(r.dir)
	}
	return nil
}

// rewrite writes the entries behind the durable mark over themselves. Their
// pages may be marked clean without being on disk, if an fdatasync failed before
// the crash; only a write makes them dirty again.
func rewrite(s *segment, mark uint64) error {
	pos, end := int64(segmentHeaderSize), s.end.Load()
	if s.before.index >= mark {
		pos = 0 // the header, too
	}
	for pos > 0 && pos < end {
		h, err := parseEntryHeader(s.b[pos:])
		if err != nil {
			return s.corrupt(pos, 0, 0, err)
		}
		if h.index > mark {
			break
		}
		pos += entrySize(h.bodyLen)
	}
	// Not from the mapping itself: a write from the page that it writes to is
	// slow at best.
	buf := make([]byte, zeroChunk)
	for pos < end {
		n := copy(buf, s.b[pos:end])
		if _, err := s.file.WriteAt(buf[:n], pos); err != nil {
			return err
		}
		pos += int64(n)
	}
	return nil
}

// markBeyond returns the largest durable mark in headers anywhere in b that
// belong to entries after index; 0 without one. They need not follow one another:
// it is asked where they do not.
func markBeyond(b []byte, index uint64) (mark uint64) {
	end := lastNonZero(b)
	for pos := int64(0); pos < end; pos += entryAlign {
		if h, err := parseEntryHeader(b[pos:]); err == nil && h.index > index {
			mark = max(mark, h.mark)
		}
	}
	return mark
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

// writeZeros overwrites n bytes from pos on.
func writeZeros(f vfs.File, pos, n int64) error {
	zeros := make([]byte, min(n, zeroChunk))
	for end := pos + n; pos < end; pos += int64(len(zeros)) {
		if _, err := f.WriteAt(zeros[:min(int64(len(zeros)), end-pos)], pos); err != nil {
			return err
		}
	}
	return nil
}
