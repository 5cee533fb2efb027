package storage

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/zue-log/zue/storage/executor"
	"github.com/zue-log/zue/storage/vfs"
)

const (
	pageSize  = 4 << 10
	zeroChunk = 64 << 10
	// hugePage is how many bytes of a new segment one write fills with zeros if
	// appends are to be stored through its mapping. Linux makes one page of them,
	// if the file system can, and maps it whole: only the first store in 2 MiB is
	// a fault then. Where appends are written the pages must not be large, since
	// ext4 goes through all the blocks of a page at each write.
	hugePage = 2 << 20
)

// readySegment is a segment file without a header, and an empty index, both under
// temporary names.
type readySegment struct {
	file   vfs.File
	path   string
	size   int64
	filled bool // with zeros
	ix     *index
}

// discard closes and removes it.
func (r *readySegment) discard(fsys vfs.FS) error {
	return errors.Join(r.file.Close(), fsys.Remove(r.path), r.ix.close(), fsys.Remove(r.ix.path))
}

// takeReady returns what was made in the background, if that is a segment of size
// bytes; else nil. l.mu is held.
func (l *Log) takeReady(size int64) *readySegment {
	r := l.ready
	if r == nil || r.size != size {
		return nil
	}
	l.ready = nil
	return r
}

// newSegment makes the segment that g begins: a file, without a header yet, and an empty
// index, both under temporary names. After an error nothing is left of it.
func (l *Log) newSegment(g *group) (*segment, error) {
	l.mu.Lock()
	r := l.takeReady(g.newSize)
	l.mu.Unlock()
	if r == nil {
		var err error
		if r, err = l.makeReady(g.newSize, false); err != nil {
			return nil, err
		}
	}
	return l.mapReady(r, segmentHeader{before: g.before.place, created: l.opts.Executor.Now().UnixMilli(), seed: g.newSeed})
}

// mapReady makes a segment of r, which is to get the header h. After an error nothing is
// left of r.
func (l *Log) mapReady(r *readySegment, h segmentHeader) (*segment, error) {
	m, err := r.file.Map(int(r.size), false)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("map segment: %w", err), r.discard(l.fs))
	}
	s := mappedSegment(r.file, r.path, m)
	s.begin(h)
	s.ix, s.filled = r.ix, r.filled
	if err := l.mapForStores(s); err != nil {
		return nil, errors.Join(err, l.discard(s))
	}
	return s, nil
}

// discard closes and removes a segment that has no name yet; of one that is to get another
// index, that index.
func (l *Log) discard(s *segment) error {
	err := s.release()
	if s.path != l.path(segmentName(s.before.Offset)) {
		err = errors.Join(err, l.fs.Remove(s.path))
	}
	return errors.Join(err, l.fs.Remove(s.ix.path))
}

// mapForStores maps an active segment for writing, where single appends are stored that
// way: where no sync comes soon, since it would write each huge page whole that was
// stored to. Readers have a mapping of their own, which they cannot write to.
func (l *Log) mapForStores(s *segment) error {
	if !l.opts.Sync.never {
		return nil
	}
	var err error
	s.w, err = s.file.Map(len(s.b), true)
	return err
}

// name gives s, whose first entry is durable, and its index their names, durably. The
// index comes first: one that vouches for another segment of that name is gone then. named
// says that the segment had its name when something failed.
func (l *Log) name(s *segment) (named bool, err error) {
	path := l.path(segmentName(s.before.Offset))
	if err := l.fs.Rename(s.ix.path, s.indexPath()); err != nil {
		return false, err
	}
	s.ix.path = s.indexPath()
	if err := l.fs.Rename(s.path, path); err != nil {
		return false, err
	}
	s.path = path
	return true, l.fs.SyncDir(l.dir)
}

// activate makes s the active segment, has the one before it sealed and the one
// after it prepared.
func (l *Log) activate(s *segment) {
	l.mu.Lock()
	old := l.active
	l.active = s
	if l.tail.start == s.before.Offset {
		l.tail.cold = !s.filled
	}
	l.publish(append(slices.Clip(*l.segments.Load()), s))
	l.counts.Rolls++
	l.groups = 0
	if old != nil && !old.sealed {
		l.background(0, l.sealRolled)
	}
	l.mu.Unlock()
	if hook := l.opts.Events.Rolled; hook != nil {
		hook(RollEvent{Path: s.path, FirstOffset: s.before.Offset})
	}
}

// prepareNext has the next segment's file made in the background: where an append waits
// for a sync, or a segment can be left for its age, once there is one append; else once a
// sixteenth of the active segment is used, since a log that gets a few records does not
// need it, and filling it keeps the disk busy. l.mu is held.
func (l *Log) prepareNext() {
	soon := l.opts.Sync.always() || l.opts.SegmentAge > 0
	if l.ready != nil || l.preparing || !soon && l.tail.pos < l.tail.room/16 || !l.retry.due(l.opts.Executor) {
		return
	}
	l.preparing = true
	// Large groups are written as fast to pages that are not there yet.
	fill := l.opts.Sync.always() || l.groups > 0 && l.tail.pos/l.groups <= pageSize
	l.background(0, func() {
		r, err := l.makeReady(l.opts.SegmentBytes, fill)
		l.mu.Lock()
		defer l.mu.Unlock()
		l.preparing = false
		switch {
		case err == nil:
			l.ready, l.retry = r, backoff{}
		case !errors.Is(err, ErrClosed):
			// The append that needs the segment tries again, and reports.
			if l.retry.wait == 0 {
				l.opts.Logger.Warn("could not prepare the next segment", "dir", l.dir, "err", err)
			}
			l.retry.failed(l.opts.Executor.Now())
		}
	})
}

// backoff spaces out the tries of something that fails. The zero backoff is of something
// that has not failed.
type backoff struct {
	wait time.Duration // from the last failure on; 0: it did not fail
	next time.Time
}

func (b *backoff) due(ex executor.Executor) bool { return b.wait == 0 || !ex.Now().Before(b.next) }

func (b *backoff) failed(now time.Time) {
	b.wait = min(max(2*b.wait, time.Second), time.Minute)
	b.next = now.Add(b.wait)
}

// tempName names a new temporary file.
func (l *Log) tempName() string {
	return l.path(tempPrefix + strconv.FormatInt(l.temps.Add(1), 10) + tempSuffix)
}

// isTemp says whether tempName makes such names.
func isTemp(name string) bool {
	n, ok := strings.CutPrefix(name, tempPrefix)
	n, dot := strings.CutSuffix(n, tempSuffix)
	_, err := strconv.ParseUint(n, 10, 64)
	return ok && dot && err == nil
}

// makeReady makes a segment file with blocks of its own, and its index. Filling it with
// zeros, which takes long, puts it into the page cache, and makes its blocks used ones:
// later syncs need not tell the file system that they have become so, and take half the
// time. After an error nothing is left.
func (l *Log) makeReady(size int64, fill bool) (*readySegment, error) {
	path := l.tempName()
	f, err := l.fs.Create(path)
	if err != nil {
		return nil, err
	}
	if err = f.Allocate(size); err == nil && fill {
		err = l.fill(f, size)
	}
	var ix *index
	if err == nil {
		ix, err = createIndex(l.fs, l.tempName(), indexCapacity(size, l.opts.IndexInterval))
	}
	if err != nil {
		return nil, errors.Join(err, f.Close(), l.fs.Remove(path))
	}
	return &readySegment{file: f, path: path, size: size, filled: fill, ix: ix}, nil
}

// fill writes zeros to all of a new segment's file.
func (l *Log) fill(f vfs.File, size int64) error {
	chunk := zeroChunk
	if l.opts.Sync.never {
		chunk = hugePage
	}
	if err := writeZeros(f, 0, size, chunk, l.closing); err != nil || !l.opts.Sync.always() {
		return err
	}
	return f.Sync()
}

// sealRolled seals the segments before the active one, oldest first, so that a
// footer says of all entries before it, too, that they are durable. Then it removes
// what retention lets go.
func (l *Log) sealRolled() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.awaitSync()
	// Nor after a sync has failed: one that comes later would seem to succeed.
	for _, s := range *l.segments.Load() {
		if s.sealed || s == l.active || l.failed != nil || l.closed {
			continue
		}
		l.syncing = true
		l.mu.Unlock()
		err := l.seal(s)
		l.mu.Lock()
		l.syncing = false
		l.changed.Broadcast()
		if err != nil {
			_ = l.fail(fmt.Errorf("seal %s: %w", s.path, err))
			return
		}
		s.sealed = true
		l.counts.Seals++
		l.markDurable(s.last.Index)
	}
	l.retain()
}

// seal closes s for good: everything in it durable, the index complete, the file
// cut to size behind a footer. It is no longer written to.
func (l *Log) seal(s *segment) error {
	if err := l.timedSync(s, s.end.Load()); err != nil {
		return err
	}
	if err := s.ix.seal(s.coverage()); err != nil {
		return err
	}
	end := s.end.Load()
	footer := make([]byte, footerSize)
	putFooter(footer, end, s.last, s.maxTime.Load())
	if _, err := s.file.WriteAt(footer, footerAt(end)); err != nil {
		return err
	}
	if err := s.closeStores(); err != nil {
		return err
	}
	if err := s.file.Truncate(footerAt(end) + footerSize); err != nil {
		return err
	}
	if err := s.file.Sync(); err != nil {
		return err
	}
	return s.closeFiles()
}
