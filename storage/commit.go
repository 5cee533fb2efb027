package storage

import (
	"errors"
	"fmt"
	"runtime/debug"
	"time"
)

// maxStored is the longest group, in bytes, that is stored through the mapping of a
// segment which was not filled with zeros: that saves the system call, but each new page
// is a fault, so that longer groups are faster written. (Measured where a fault is dear:
// 232 bytes take 1.1 us stored, 2.2 written; 1.1 KiB take 5.1 us stored, 3.6 written.)
const maxStored = 512

// commit writes g, makes it as durable as it is to be, and shows it to readers.
// An error that is not final has left everything as it was.
func (l *Log) commit(g *group) (final bool, err error) {
	s := l.active
	switch {
	case g.grow:
		if s, final, err = l.growActive(g.newSize); err != nil {
			return final, fmt.Errorf("grow the segment at offset %d: %w", g.before.start, err)
		}
	case g.rolls():
		if s, err = l.newSegment(g); err != nil {
			return false, fmt.Errorf("begin a segment at offset %d: %w", g.before.place.Offset, err)
		}
	}
	if final, err := l.write(g, s); err != nil {
		switch {
		case !final:
			err = errors.Join(err, l.discard(s))
		case g.rolls():
			err = errors.Join(err, s.release())
		}
		return final, err
	}
	if err := l.index(s, g, s.end.Load()); err != nil {
		if g.rolls() {
			err = errors.Join(err, s.release())
		}
		return true, err
	}
	s.last = g.after
	s.end.Add(int64(len(g.buf)))
	if g.rolls() {
		l.activate(s)
	}
	if !l.opts.ManualCommit {
		l.end.Store(g.after.Offset)
		l.grown.notify()
	}
	return false, nil
}

// write puts g into s, durably where the policy asks for that. An error that is not final
// says that s, which g was to begin, has not become a segment.
func (l *Log) write(g *group, s *segment) (final bool, err error) {
	// When the group formed, the one before it was not durable yet.
	stamp(g.buf[g.last:], s.seed, l.durable.Load())
	final = true
	switch {
	case g.rolls():
		final, err = l.beginSegment(g, s)
	case s.w != nil && (s.filled || len(g.buf) <= maxStored):
		err = s.store(g.buf, s.end.Load())
	default:
		_, err = s.file.WriteAt(g.buf, s.end.Load())
	}
	if err == nil && l.opts.Sync.always() && !g.rolls() {
		err = l.timedSync(s, int64(len(g.buf)))
	}
	if err != nil {
		return final, fmt.Errorf("append at offset %d to %s: %w", g.before.place.Offset, s.path, err)
	}
	return false, nil
}

// beginSegment writes the header of s and g, its first entries, and then gives it its
// name. All of that is durable under every policy: a named segment has a header and an
// entry, whatever crashes. As long as it has no name a full disk is no reason to give up
// the log; another failure is, since it may be the disk's.
func (l *Log) beginSegment(g *group, s *segment) (final bool, err error) {
	b := make([]byte, segmentHeaderSize, segmentHeaderSize+len(g.buf))
	h := s.ownHeader()
	h.put(b)
	b = append(b, g.buf...)
	err = l.timed(s, int64(len(b)), func() error { return s.file.WriteSync(b, 0) })
	named := false
	if err == nil {
		named, err = l.name(s)
	}
	return named || !IsFull(err), err
}

// store copies b to position pos of the active segment, whose blocks are there, so
// that it cannot fail for want of space.
func (s *segment) store(b []byte, pos int64) (err error) {
	defer catchFault(s.path, &err, debug.SetPanicOnFault(true))
	s.w.Store(b, pos)
	return nil
}

// timedSync makes s durable, n bytes of it new, and counts that.
func (l *Log) timedSync(s *segment, n int64) error { return l.timed(s, n, s.file.Sync) }

// timed counts a sync of n bytes of s.
func (l *Log) timed(s *segment, n int64, sync func() error) error {
	start := l.opts.Executor.Now()
	err := sync()
	d := l.opts.Executor.Now().Sub(start)
	l.syncs.Add(1)
	l.syncTime.Add(int64(d))
	if hook := l.opts.Events.Synced; hook != nil {
		hook(SyncEvent{Path: s.path, Bytes: n, Duration: d, Err: err})
	}
	return err
}

// index adds the points of g, which stands at pos of s.
func (l *Log) index(s *segment, g *group, pos int64) (err error) {
	interval := int64(l.opts.IndexInterval)
	if pos+int64(len(g.buf)) < s.ix.next {
		// Every place in it is short of the next point.
		s.maxTime.Store(max(s.maxTime.Load(), g.maxTime))
		return nil
	}
	defer catchFault(s.path, &err, debug.SetPanicOnFault(true))
	for at := 0; at < len(g.buf); {
		h, err := parseEntryHeader(g.buf[at:], s.seed)
		if err != nil {
			return err // cannot be: it was encoded here
		}
		body := g.buf[at+entryHeaderSize:][:h.bodyLen]
		s.addPoints(pos+int64(at), &h, body, interval)
		at += int(entrySize(h.bodyLen))
	}
	return nil
}

// Commit says that all entries up to index are committed: readers see them, no
// truncation takes them back, retention may remove them. It never goes backwards, and
// index may lie beyond what has been appended so far. Only for a log with
// Options.ManualCommit.
func (l *Log) Commit(index uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case !l.opts.ManualCommit:
		return errors.New("commit: the log was opened without ManualCommit")
	case l.closed:
		return ErrClosed
	case index <= l.committed:
		return nil
	}
	l.committed = index
	l.showCommitted()
	return nil
}

// showCommitted lets readers see what is appended and committed. l.mu is held.
func (l *Log) showCommitted() {
	index := min(l.committed, l.written.Index)
	if index <= l.shown {
		return
	}
	p := l.written
	if index != p.Index {
		var err error
		if p, err = l.PlaceAfter(index); errors.Is(err, ErrClosed) {
			return // no reader is left
		} else if err != nil {
			// Readers see less than they might; the damage is theirs to meet.
			l.opts.Logger.Error("cannot show committed entries", "dir", l.dir, "index", index, "err", err)
			return
		}
	}
	l.shown = index
	l.end.Store(p.Offset)
	l.grown.notify()
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

// idleAfter is how long a log has been left alone when it notes durably how far it is
// durable, so that damage found later is not taken for a torn write.
const idleAfter = time.Second

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
