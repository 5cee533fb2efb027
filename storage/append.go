package storage

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/zue-log/zue/storage/batch"
	"github.com/zue-log/zue/storage/vfs"
)

const (
	// maxQueued bounds, in bytes, what waits behind a commit; appends beyond it
	// wait before they are encoded.
	maxQueued = 16 << 20
	// maxGroup bounds, in bytes, what one commit writes, one entry excepted.
	maxGroup = 4 << 20
	// maxSpare is the largest buffer kept between commits.
	maxSpare = 1 << 20

	standaloneTerm = 1 // of entries that no election came before
	zeroChunk      = 1 << 20
)

// group is a run of entries that one commit writes and syncs together.
type group struct {
	buf     []byte
	before  tail // the log's tail before the group's first entry
	after   place
	newSize int64 // size of the new segment to begin before it; 0: none
	done    chan struct{}
	err     error
}

type committerState int

const (
	committerIdle    committerState = iota
	committerPending                // a task has been submitted to commit the queue
	committerRunning                // an append, a task or Close is committing
)

// Append appends records atomically, as one entry, and returns the offset of the
// first; the others follow it. It returns when the records are as durable as
// Options.Sync asks. A record whose Timestamp is 0 gets the time of the call.
// The records' slices are the caller's again on return.
//
// Errors: ErrTooLarge and errors for a full disk (errors.Is with
// syscall.ENOSPC), after which nothing has been appended and the log is as it
// was; ErrClosed; ErrFailed, which wraps the cause.
func (l *Log) Append(records ...Record) (first uint64, err error) {
	if len(records) == 0 {
		return 0, errors.New("append: no records")
	}
	now := l.opts.Executor.Now().UnixMilli()
	size := batch.Size(records, now)
	if size > MaxBodyBytes || len(records) > batch.MaxRecords {
		return 0, fmt.Errorf("append of %d records, %d bytes encoded: %w (at most %d bytes)", len(records), size, ErrTooLarge, MaxBodyBytes)
	}
	l.mu.Lock()
	for l.queued > 0 && l.queued+size > maxQueued && l.usable() == nil {
		l.changed.Wait()
	}
	if err := l.usable(); err != nil {
		l.mu.Unlock()
		return 0, err
	}
	g, first := l.enqueue(records, entrySize(uint32(size)), now)
	if l.commits != committerIdle {
		l.mu.Unlock()
		<-g.done
		return first, g.err
	}
	// Nobody is committing: a lone caller does it itself, since handing over
	// to another goroutine would cost it more than half of a sync again.
	l.commits = committerRunning
	l.commitFirst()
	l.handOver()
	l.mu.Unlock()
	return first, g.err
}

// enqueue encodes records, an entry of size bytes, at the tail. l.mu is held.
func (l *Log) enqueue(records []Record, size int64, now int64) (*group, uint64) {
	g := l.openGroup(size)
	p := l.tail.place
	before := len(g.buf)
	g.buf, g.after = appendEntry(g.buf, p, max(p.term, standaloneTerm), l.durable.Load(), records, now)
	l.tail.place = g.after
	l.tail.pos += size
	l.queued += len(g.buf) - before
	return g, p.offset
}

// openGroup returns the group that an entry of size bytes joins. l.mu is held.
func (l *Log) openGroup(size int64) *group {
	fits := l.tail.pos+size <= l.tail.room
	if n := len(l.queue); n > 0 && fits && len(l.queue[n-1].buf)+int(size) <= maxGroup {
		return l.queue[n-1]
	}
	g := &group{buf: l.spare[:0], before: l.tail, done: make(chan struct{})}
	l.spare = nil
	if !fits {
		g.newSize = max(l.opts.SegmentBytes, sizeFor(size))
		l.tail.pos, l.tail.room = segmentHeaderSize, room(g.newSize)
	}
	l.queue = append(l.queue, g)
	return g
}

// handOver ends the committing of one group: what has queued up meanwhile goes
// to a task, which commits until nothing is left. l.mu is held.
func (l *Log) handOver() {
	l.commits = committerIdle
	if len(l.queue) > 0 {
		l.commits = committerPending
		l.background(0, func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			if l.commits == committerPending {
				l.commitAll()
			}
		})
	}
	l.changed.Broadcast()
}

// commitAll commits the queue until it is empty. l.mu is held, and let go of in
// between.
func (l *Log) commitAll() {
	l.commits = committerRunning
	for len(l.queue) > 0 {
		l.commitFirst()
		l.changed.Broadcast()
	}
	l.commits = committerIdle
	l.changed.Broadcast()
}

// drain commits what is queued. The log is closed: nothing joins. l.mu is held,
// and let go of in between.
func (l *Log) drain() {
	for l.commits == committerRunning {
		l.changed.Wait()
	}
	l.commitAll()
}

// commitFirst commits the first group of the queue and answers those who wait
// for it. l.mu is held, and let go of in between; l.commits is committerRunning.
func (l *Log) commitFirst() {
	g := l.queue[0]
	l.queue = l.queue[1:]
	if l.failed == nil {
		l.mu.Unlock()
		final, err := l.commit(g)
		l.mu.Lock()
		if err != nil && final {
			err = l.fail(err)
		}
		g.err = err
	} else {
		g.err = l.failed
	}
	l.queued -= len(g.buf)
	if g.err != nil {
		l.abandon(g)
	} else {
		l.written = g.after
		if l.opts.Sync.always() {
			l.markDurable(g.after.index)
		}
		l.arm()
	}
	if cap(g.buf) <= maxSpare {
		l.spare = g.buf[:0]
	}
	g.buf = nil
	close(g.done)
}

// abandon takes back g, which failed, and the groups behind it, which stand on
// it. l.mu is held.
func (l *Log) abandon(g *group) {
	l.tail = g.before
	for _, next := range l.queue {
		l.queued -= len(next.buf)
		next.err = g.err
		close(next.done)
	}
	l.queue = nil
}

// commit writes g, makes it as durable as it is to be, and shows it to readers.
// An error that is not final has left everything as it was.
func (l *Log) commit(g *group) (final bool, err error) {
	s := l.active
	if g.newSize != 0 {
		if s, err = l.newSegment(g.before.place, g.newSize); err != nil {
			return false, fmt.Errorf("begin a segment at offset %d: %w", g.before.place.offset, err)
		}
	}
	pos := s.end.Load()
	if _, err := s.file.WriteAt(g.buf, pos); err != nil {
		return true, fmt.Errorf("append at offset %d to %s: %w", g.before.place.offset, s.path, err)
	}
	if l.opts.Sync.always() {
		if err := s.file.Sync(); err != nil {
			return true, fmt.Errorf("append at offset %d to %s: %w", g.before.place.offset, s.path, err)
		}
	}
	if g.newSize != 0 {
		// Only now the file gets its name: a named segment has an entry.
		if err := l.name(s); err != nil {
			return true, fmt.Errorf("begin a segment at offset %d: %w", g.before.place.offset, err)
		}
	}
	l.index(s, g, pos)
	s.end.Store(pos + int64(len(g.buf)))
	s.last = g.after
	if g.newSize != 0 {
		l.activate(s)
	}
	l.end.Store(g.after.offset)
	return false, nil
}

// index adds the points of g, which stands at pos of s.
func (l *Log) index(s *segment, g *group, pos int64) {
	interval := int64(l.opts.IndexInterval)
	if pos+int64(len(g.buf)) < s.ix.next {
		return // every place in it is short of the next point
	}
	for at := 0; at < len(g.buf); {
		h, err := parseEntryHeader(g.buf[at:])
		if err != nil {
			return // cannot be: it was encoded here; readers walk further instead
		}
		body := g.buf[at+entryHeaderSize:][:h.bodyLen]
		s.addPoints(pos+int64(at), &h, body, interval)
		at += int(entrySize(h.bodyLen))
	}
}

// readySegment is a segment file without a header or a name.
type readySegment struct {
	file vfs.File
	path string
	size int64
}

// newSegment makes the segment that begins at p: a file with a header, not yet
// under its name, and an empty index. After an error nothing is left of it.
func (l *Log) newSegment(p place, size int64) (*segment, error) {
	l.mu.Lock()
	r := l.ready
	if r != nil && r.size == size {
		l.ready = nil
	} else {
		r = nil
	}
	path := l.tempName()
	l.mu.Unlock()
	if r == nil {
		var err error
		if r, err = l.makeReady(path, size, false); err != nil {
			return nil, err
		}
	}
	var header [segmentHeaderSize]byte
	putSegmentHeader(header[:], p, l.opts.Executor.Now().UnixMilli())
	if _, err := r.file.WriteAt(header[:], 0); err != nil {
		return nil, errors.Join(err, r.file.Close(), l.fs.Remove(r.path))
	}
	s, err := mapSegment(r.file, r.path, r.size)
	if err != nil {
		return nil, errors.Join(err, l.fs.Remove(r.path))
	}
	s.before, s.last = p, p
	s.end.Store(segmentHeaderSize)
	s.ix, err = createIndex(l.fs, l.path(indexName(p.offset)), indexCapacity(size, l.opts.IndexInterval))
	if err != nil {
		return nil, errors.Join(err, s.release(), l.fs.Remove(r.path))
	}
	return s, nil
}

// name gives s, whose first entries are written, its name.
func (l *Log) name(s *segment) error {
	path := l.path(segmentName(s.before.offset))
	if err := l.fs.Rename(s.path, path); err != nil {
		return err
	}
	s.path = path
	if l.opts.Sync.always() {
		return l.fs.SyncDir(l.dir)
	}
	return nil
}

// activate makes s the active segment, has the one before it sealed and the one
// after it prepared.
func (l *Log) activate(s *segment) {
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.active
	l.active = s
	l.publish(s)
	l.dirDirty = l.dirDirty || !l.opts.Sync.always()
	if old != nil && !old.sealed {
		if !l.opts.Sync.always() && old.acquire() {
			l.unsynced = append(l.unsynced, old)
		}
		l.background(0, func() { l.sealOld(old) })
	}
	l.prepareNext()
}

// prepareNext has the next segment's file made in the background. l.mu is held.
func (l *Log) prepareNext() {
	if l.ready != nil {
		return
	}
	path := l.tempName()
	l.background(0, func() {
		r, err := l.makeReady(path, l.opts.SegmentBytes, l.opts.Sync.always())
		l.mu.Lock()
		defer l.mu.Unlock()
		switch {
		case errors.Is(err, ErrClosed):
			return
		case err != nil:
			// The append that needs the segment tries again, and reports.
			l.opts.Logger.Warn("could not prepare the next segment", "dir", l.dir, "err", err)
		case l.ready != nil:
			_ = errors.Join(r.file.Close(), l.fs.Remove(r.path))
		default:
			l.ready = r
		}
	})
}

// tempName names a new temporary file. l.mu is held.
func (l *Log) tempName() string {
	l.temps++
	return l.path(strings.Replace(tempPattern, "*", strconv.Itoa(l.temps), 1))
}

func isTemp(name string) bool {
	ok, _ := filepath.Match(tempPattern, name)
	return ok
}

// makeReady makes a segment file with blocks of its own. If it is to be filled
// with zeros, later syncs need not tell the file system that its blocks have
// become used: an fdatasync of 4 KiB takes half the time.
func (l *Log) makeReady(path string, size int64, fill bool) (*readySegment, error) {
	f, err := l.fs.Create(path)
	if err != nil {
		return nil, err
	}
	if err = f.Allocate(size); err == nil && fill {
		zeros := make([]byte, min(size, zeroChunk))
		for at := int64(0); at < size && err == nil; at += int64(len(zeros)) {
			if l.closing() {
				err = ErrClosed
				break
			}
			_, err = f.WriteAt(zeros[:min(int64(len(zeros)), size-at)], at)
		}
		if err == nil {
			err = f.Sync()
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close(), l.fs.Remove(path))
	}
	return &readySegment{f, path, size}, nil
}

// sealOld seals a segment that was rolled.
func (l *Log) sealOld(s *segment) {
	err := l.seal(s)
	l.mu.Lock()
	if err != nil {
		_ = l.fail(fmt.Errorf("seal %s: %w", s.path, err))
	} else {
		s.sealed = true
	}
	l.mu.Unlock()
	if err == nil {
		l.noteDurable()
	}
}

// seal closes s for good: everything in it durable, the index complete, the file
// cut to size behind a footer. It is no longer written to.
func (l *Log) seal(s *segment) error {
	if err := s.file.Sync(); err != nil {
		return err
	}
	if err := s.ix.seal(s.coverage(l.opts.IndexInterval)); err != nil {
		return err
	}
	end := s.end.Load()
	footer := make([]byte, footerSize)
	putFooter(footer, end, s.last)
	if _, err := s.file.WriteAt(footer, footerAt(end)); err != nil {
		return err
	}
	if err := s.file.Truncate(footerAt(end) + footerSize); err != nil {
		return err
	}
	return s.file.Sync()
}

// arm sees to the sync that an interval asks for, and to the note that an idle
// log makes. l.mu is held.
func (l *Log) arm() {
	if d := l.opts.Sync.interval; d > 0 && !l.armed.sync {
		l.armed.sync = true
		l.background(d, func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.armed.sync = false
			_ = l.syncLocked() // a failure is in l.failed
		})
	}
	l.armIdle()
}

// armIdle has the durable mark saved once nothing has been made durable for
// idleAfter. l.mu is held.
func (l *Log) armIdle() {
	if l.armed.idle {
		return
	}
	l.armed.idle = true
	seen := l.durable.Load()
	l.background(idleAfter, func() {
		l.mu.Lock()
		l.armed.idle = false
		idle := l.durable.Load() == seen
		if !idle {
			l.armIdle()
		}
		idle = idle && l.failed == nil
		l.mu.Unlock()
		if idle {
			l.noteDurable()
		}
	})
}

// noteDurable saves the durable mark; without it recovery can tell less.
func (l *Log) noteDurable() {
	if err := l.saveDurable(); err != nil {
		l.opts.Logger.Warn("could not save the durable mark", "dir", l.dir, "err", err)
	}
}

// IsFull reports whether err says that the disk, or a quota, is full: appends
// work again when there is space.
func IsFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
