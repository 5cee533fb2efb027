package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/cespare/xxhash/v2"
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
	last    int   // where in buf the last entry begins
	maxTime int64 // the largest timestamp in it
	before  tail  // the log's tail before the group's first entry
	after   Place
	newSize int64         // size of the new segment to begin before it; 0: none
	newSeed uint32        // what that segment's header stores for its seed
	done    chan struct{} // closed when err is final; nil if nobody waits for it
	err     error
}

// rolls says whether the group begins a segment.
func (g *group) rolls() bool { return g.newSize != 0 }

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
// Errors: ErrTooLarge, ErrClosed, and those for which IsFull is true: nothing has been
// appended, and the log is as it was. ErrFailed, with the cause: whether the records
// are in the log is not known before it is opened again. An error with neither:
// a new segment could not be made; nothing has been appended.
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
		if g.done == nil {
			g.done = make(chan struct{})
		}
		l.mu.Unlock()
		<-g.done
		return first, g.err
	}
	// Nobody is committing: a lone caller does it itself, since handing over
	// to another goroutine would make it wait 27 to 50 % longer.
	l.commits = committerRunning
	l.commitFirst()
	err = g.err
	l.spare = g // nobody else has seen it
	l.handOver()
	l.mu.Unlock()
	return first, err
}

// enqueue encodes records, an entry of size bytes, at the tail. l.mu is held.
func (l *Log) enqueue(records []Record, size int64, now int64) (*group, uint64) {
	g := l.openGroup(size)
	p := l.tail.place
	g.last = len(g.buf)
	w := payload{kind: KindData, span: uint32(len(records)), records: records, now: now}
	g.buf, g.after = appendEntry(g.buf, l.tail.seed, p, l.durable.Load(), &w)
	g.maxTime = max(g.maxTime, batchMaxTime(g.buf[g.last+entryHeaderSize:]))
	l.tail.place = g.after
	l.tail.pos += size
	l.queued += len(g.buf) - g.last
	return g, p.Offset
}

// openGroup returns the group that an entry of size bytes joins. l.mu is held.
func (l *Log) openGroup(size int64) *group {
	fits := l.tail.pos+size <= l.tail.room
	if n := len(l.queue); n > 0 && fits && len(l.queue[n-1].buf)+int(size) <= maxGroup {
		return l.queue[n-1]
	}
	g := l.spare
	l.spare = nil
	if g == nil {
		g = new(group)
	}
	*g = group{buf: g.buf[:0], before: l.tail, maxTime: noTime}
	if !fits {
		g.newSize = max(l.opts.SegmentBytes, sizeFor(size))
		g.newSeed = l.drawSeed()
		l.tail.pos, l.tail.room, l.tail.seed = segmentHeaderSize, room(g.newSize), newSeed(g.newSeed)
	}
	l.queue = append(l.queue, g)
	return g
}

// drawSeed draws the seed of a new segment from the clock and the log's chain, which
// no client sees: so a simulation that sets the clock can be repeated. l.mu is held.
func (l *Log) drawSeed() uint32 {
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:], uint64(l.opts.Executor.Now().UnixNano()))
	binary.LittleEndian.PutUint64(b[8:], l.tail.place.Chain)
	return uint32(xxhash.Sum64(b[:]))
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
	l.queue = slices.Delete(l.queue, 0, 1) // keeps its array
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
			l.markDurable(g.after.Index)
		}
		l.arm()
	}
	if cap(g.buf) > maxSpare {
		g.buf = nil
	}
	if g.done != nil {
		if l.spare == nil {
			l.spare = &group{buf: g.buf} // the waiters keep g itself
		}
		g.buf = nil
		close(g.done)
	}
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
	clear(l.queue)
	l.queue = l.queue[:0]
}

// commit writes g, makes it as durable as it is to be, and shows it to readers.
// An error that is not final has left everything as it was.
func (l *Log) commit(g *group) (final bool, err error) {
	s := l.active
	if g.rolls() {
		if s, err = l.newSegment(g); err != nil {
			return false, fmt.Errorf("begin a segment at offset %d: %w", g.before.place.Offset, err)
		}
	}
	if err := l.write(g, s); err != nil {
		if g.rolls() {
			err = errors.Join(err, s.release())
		}
		return true, err
	}
	l.index(s, g, s.end.Load())
	s.end.Add(int64(len(g.buf)))
	s.last = g.after
	if g.rolls() {
		l.activate(s)
	}
	l.end.Store(g.after.Offset)
	return false, nil
}

// write puts g into s, durably where the policy asks for that. A segment that g
// begins is durable under every policy, its header, its first entries and then its
// name: a named segment has them, whatever crashes.
func (l *Log) write(g *group, s *segment) error {
	// When the group formed, the one before it was not durable yet.
	stamp(g.buf[g.last:], s.seed, l.durable.Load())
	if _, err := s.file.WriteAt(g.buf, s.end.Load()); err != nil {
		return fmt.Errorf("append at offset %d to %s: %w", g.before.place.Offset, s.path, err)
	}
	if l.opts.Sync.always() || g.rolls() {
		if err := s.file.Sync(); err != nil {
			return fmt.Errorf("append at offset %d to %s: %w", g.before.place.Offset, s.path, err)
		}
	}
	if g.rolls() {
		if err := l.name(s); err != nil {
			return fmt.Errorf("begin a segment at offset %d: %w", g.before.place.Offset, err)
		}
	}
	return nil
}

// index adds the points of g, which stands at pos of s.
func (l *Log) index(s *segment, g *group, pos int64) {
	interval := int64(l.opts.IndexInterval)
	if pos+int64(len(g.buf)) < s.ix.next {
		s.maxTime.Store(max(s.maxTime.Load(), g.maxTime))
		return // every place in it is short of the next point
	}
	for at := 0; at < len(g.buf); {
		h, err := parseEntryHeader(g.buf[at:], s.seed)
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

// newSegment makes the segment that g begins: a file with a header, not yet under its
// name, and an empty index. After an error nothing is left of it.
func (l *Log) newSegment(g *group) (*segment, error) {
	p, size := g.before.place, g.newSize
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
	h := segmentHeader{before: p, created: l.opts.Executor.Now().UnixMilli(), seed: g.newSeed}
	h.put(header[:])
	if _, err := r.file.WriteAt(header[:], 0); err != nil {
		return nil, errors.Join(err, r.file.Close(), l.fs.Remove(r.path))
	}
	s, err := mapSegment(r.file, r.path, r.size)
	if err != nil {
		return nil, errors.Join(err, l.fs.Remove(r.path))
	}
	s.begin(h)
	s.ix, err = createIndex(l.fs, l.path(indexName(p.Offset)), indexCapacity(size, l.opts.IndexInterval))
	if err != nil {
		return nil, errors.Join(err, s.release(), l.fs.Remove(r.path))
	}
	return s, nil
}

// name gives s, whose first entries are written, its name.
func (l *Log) name(s *segment) error {
	path := l.path(segmentName(s.before.Offset))
	if err := l.fs.Rename(s.path, path); err != nil {
		return err
	}
	s.path = path
	return l.fs.SyncDir(l.dir)
}

// activate makes s the active segment, has the one before it sealed and the one
// after it prepared.
func (l *Log) activate(s *segment) {
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.active
	l.active = s
	l.publish(s)
	if old != nil && !old.sealed {
		l.background(0, l.sealRolled)
	}
	l.prepareNext()
}

// prepareNext has the next segment's file made in the background. l.mu is held.
func (l *Log) prepareNext() {
	if l.ready != nil || l.preparing {
		return
	}
	l.preparing = true
	path := l.tempName()
	l.background(0, func() {
		r, err := l.makeReady(path, l.opts.SegmentBytes, l.opts.Sync.always())
		l.mu.Lock()
		defer l.mu.Unlock()
		l.preparing = false
		if err == nil {
			l.ready = r
		} else if !errors.Is(err, ErrClosed) {
			// The append that needs the segment tries again, and reports.
			l.opts.Logger.Warn("could not prepare the next segment", "dir", l.dir, "err", err)
		}
	})
}

// tempName names a new temporary file. l.mu is held.
func (l *Log) tempName() string {
	l.temps++
	return l.path(tempPrefix + strconv.Itoa(l.temps) + tempSuffix)
}

// isTemp says whether tempName makes such names.
func isTemp(name string) bool {
	n, ok := strings.CutPrefix(name, tempPrefix)
	n, dot := strings.CutSuffix(n, tempSuffix)
	_, err := strconv.ParseUint(n, 10, 64)
	return ok && dot && err == nil
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
		if err = writeZeros(f, 0, size, l.closing); err == nil {
			err = f.Sync()
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close(), l.fs.Remove(path))
	}
	return &readySegment{f, path, size}, nil
}

// sealRolled seals the segments before the active one, oldest first, so that a
// footer says of all entries before it, too, that they are durable.
func (l *Log) sealRolled() {
	l.mu.Lock()
	defer l.mu.Unlock()
	// A sync that fails is reported to one caller only: not while another runs,
	// and not after one has failed.
	for l.syncing {
		l.changed.Wait()
	}
	for _, s := range *l.segments.Load() {
		if s.sealed || s == l.active || l.failed != nil {
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
		l.markDurable(s.last.Index)
	}
}

// seal closes s for good: everything in it durable, the index complete, the file
// cut to size behind a footer. It is no longer written to.
func (l *Log) seal(s *segment) error {
	if err := s.file.Sync(); err != nil {
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
	if err := s.file.Truncate(footerAt(end) + footerSize); err != nil {
		return err
	}
	if err := s.file.Sync(); err != nil {
		return err
	}
	return s.closeFiles()
}

// arm sees to the sync that an interval asks for. l.mu is held.
func (l *Log) arm() {
	d := l.opts.Sync.interval
	if d == 0 || l.armed.sync {
		return
	}
	l.armed.sync = true
	l.background(d, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.armed.sync = false
		_ = l.syncLocked() // a failure is in l.failed
	})
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
		if !idle {
			return
		}
		if err := l.saveDurable(); err != nil {
			// Without it recovery can tell less.
			l.opts.Logger.Warn("could not save the durable mark", "dir", l.dir, "err", err)
		}
	})
}

// IsFull reports whether err says that a disk, or a quota, is full and nothing else is
// wrong: appends work again when there is space.
func IsFull(err error) bool {
	return !errors.Is(err, ErrFailed) && (errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT))
}
