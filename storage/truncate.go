package storage

import (
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"github.com/zue-log/zue/storage/vfs"
)

// TruncateSuffix removes all entries after index last, durably. Offsets of removed
// records are given out again. Leases stay valid, and iterators notice. Appends wait
// meanwhile.
//
// The segment in which the log is to end is written anew up to there, which takes space
// for it, and time if it is not the last.
//
// Errors: ErrCommitted if an entry up to the commit mark would go, *IndexError if last
// lies before the first entry kept, ErrClosed, ErrReadOnly. ErrFailed if it could not be
// finished: the log ends somewhere from last to where it ended before, and must be
// opened again. After any other error, as one for which IsFull is true, nothing has
// changed.
func (l *Log) TruncateSuffix(last uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.quiesce()()
	if err := l.usable(); err != nil {
		return err
	}
	switch {
	case last >= l.written.Index:
		return nil
	case last < l.committed:
		return fmt.Errorf("truncate behind entry %d: %w up to %d", last, ErrCommitted, l.committed)
	}
	p, err := l.PlaceAfter(last)
	if err != nil {
		return fmt.Errorf("truncate behind entry %d: %w", last, err)
	}
	if final, err := l.cutBehind(p); err != nil {
		err = fmt.Errorf("truncate behind entry %d: %w", last, err)
		if final {
			err = l.fail(err)
		}
		return err
	}
	return nil
}

// cutBehind makes p the end of the log. All that may want for space comes first: a copy
// of the segment that holds p, up to there. Then the durable mark is lowered, so that
// what is missing later is not taken for lost; then segments go, newest first; then
// the copy takes its place. A crash in between leaves a log that ends somewhere behind p.
// Nothing is overwritten, since a lease may be over it. An error that is not final has
// changed nothing. l.mu is held throughout, and nothing else runs.
func (l *Log) cutBehind(p Place) (final bool, err error) {
	segments := slices.Clone(*l.segments.Load())
	n := len(segments)
	for n > 0 && segments[n-1].before.Index >= p.Index {
		n--
	}
	var short *segment
	if n > 0 && segments[n-1].last != p {
		if short, err = l.copySegment(segments[n-1], p, int64(len(segments[n-1].b))); err != nil {
			return false, err
		}
	}
	if err := l.lowerMark(p.Index); err != nil {
		if short != nil {
			err = errors.Join(err, l.discard(short))
		}
		return true, err
	}
	if !l.opts.ManualCommit {
		l.end.Store(p.Offset)
	}
	l.beginCut()
	defer l.endCut()
	l.written = p
	l.active, l.tail = nil, tail{place: p}
	for k := len(segments); k > n; k-- {
		l.publish(segments[: k-1 : k-1])
		if err := l.dropSegment(segments[k-1]); err != nil {
			if short != nil {
				err = errors.Join(err, l.discard(short))
			}
			return true, err
		}
	}
	if short != nil {
		if err := l.replace(segments[n-1], short); err != nil {
			return true, err
		}
	}
	if n > 0 {
		segments = *l.segments.Load()
		l.active = segments[n-1]
		l.tail = l.tailOf(l.active)
	}
	return false, nil
}

// dropSegment removes the files of s, which readers no longer see, durably.
func (l *Log) dropSegment(s *segment) error {
	return errors.Join(l.removeFiles(s.before.Offset), l.fs.SyncDir(l.dir), s.release())
}

// tailOf is the tail of a log whose active segment is s.
func (l *Log) tailOf(s *segment) tail {
	if s.sealed {
		return tail{place: s.last}
	}
	return tail{place: s.last, pos: s.end.Load(), room: room(int64(len(s.b))), seed: s.seed,
		start: s.before.Offset, created: s.created}
}

// lowerMark makes the durable mark in the file at most index, durably.
func (l *Log) lowerMark(index uint64) error {
	l.durable.Store(min(l.durable.Load(), index))
	l.stateMu.Lock()
	defer l.stateMu.Unlock()
	if l.state.most <= index {
		return nil
	}
	return l.state.saveMark(l.durable.Load(), true)
}

// growActive replaces the active segment, which has no room and no record, by one of
// size bytes. An error that is not final has changed nothing.
func (l *Log) growActive(size int64) (s *segment, final bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.awaitSync()
	if s, err = l.copySegment(l.active, l.active.last, size); err != nil {
		return nil, false, err
	}
	if err := l.replace(l.active, s); err != nil {
		return nil, true, err
	}
	l.active = s
	return s, false, nil
}

// copySegment makes a copy of old, up to place p and with size bytes or more, durable,
// and under temporary names. After an error nothing is left of it. l.mu is held.
func (l *Log) copySegment(old *segment, p Place, size int64) (*segment, error) {
	end, err := old.positionAfter(p.Index)
	if err != nil {
		return nil, err
	}
	size = max(size, sizeFor(end-segmentHeaderSize), l.opts.SegmentBytes)
	return l.makeCopy(old, l.takeReady(size), size, func(s *segment) error {
		stop := end
		if planted("suffix stays") {
			stop = min(old.end.Load(), room(size))
		}
		if err := old.copyTo(s.file, segmentHeaderSize, stop); err != nil {
			return err
		}
		return l.reindex(s, end, p, func(d *DamageItem) error { return d.Corruption() })
	})
}

// makeCopy makes a segment that begins as old does, of r, or without that of a new file of
// size bytes; fill writes its entries and makes the points of its index. It is durable, but
// for the index, and under temporary names. After an error nothing is left of it.
func (l *Log) makeCopy(old *segment, r *readySegment, size int64, fill func(s *segment) error) (*segment, error) {
	if r == nil {
		var err error
		if r, err = l.makeReady(size, false); err != nil {
			return nil, err
		}
	}
	h := old.ownHeader()
	s, err := l.mapReady(r, h)
	if err != nil {
		return nil, err
	}
	// Not copied: it may have been damaged since it was read.
	b := make([]byte, segmentHeaderSize)
	h.put(b)
	if _, err = s.file.WriteAt(b, 0); err == nil {
		err = fill(s)
	}
	if err == nil {
		err = s.file.Sync()
	}
	if err != nil {
		return nil, errors.Join(err, l.discard(s))
	}
	return s, nil
}

// replace puts s, a copy of old, into old's place. A reader that has old keeps it. After an
// error only another open can tell which one is there. l.mu is held, and nothing is written
// or synced meanwhile.
func (l *Log) replace(old, s *segment) error {
	if err := l.takeNames(s); err != nil {
		return errors.Join(err, s.release())
	}
	segments := slices.Clone(*l.segments.Load())
	segments[slices.Index(segments, old)] = s
	l.publish(segments)
	return old.release()
}

// takeNames gives s, a copy, the names of the segment that it is to replace: to its file,
// durably, unless that is the segment's own, and to its index.
func (l *Log) takeNames(s *segment) error {
	if path := l.path(segmentName(s.before.Offset)); s.path != path {
		if err := l.fs.Rename(s.path, path); err != nil {
			return err
		}
		s.path = path
		if err := l.fs.SyncDir(l.dir); err != nil {
			return err
		}
	}
	// Only then the index: the other segment, if that is back after a crash, may be
	// sealed, and this one may be no sealed segment's.
	if err := l.fs.Rename(s.ix.path, s.indexPath()); err != nil {
		return err
	}
	s.ix.path = s.indexPath()
	return nil
}

// copyTo writes the segment's bytes in [from, to) to the same place of f, which may be its
// own file: not from the mapping itself, since a write from the page that it writes to is
// slow at best.
func (s *segment) copyTo(f vfs.File, from, to int64) error {
	buf := make([]byte, min(to-from, zeroChunk))
	for at := from; at < to; at += int64(len(buf)) {
		buf = buf[:min(int64(len(buf)), to-at)]
		if err := s.copyAt(buf, at); err != nil {
			return err
		}
		if _, err := f.WriteAt(buf, at); err != nil {
			return err
		}
	}
	return nil
}

// copyAt fills b with the segment's bytes from pos on.
func (s *segment) copyAt(b []byte, pos int64) (err error) {
	defer catchFault(s.path, &err, debug.SetPanicOnFault(true))
	copy(b, s.b[pos:])
	return nil
}

// reindex makes the index points of s, whose entries stop at position end, place p, and sets
// these. It passes over damage as long as damaged returns nil for it.
func (l *Log) reindex(s *segment, end int64, p Place, damaged func(*DamageItem) error) (err error) {
	defer catchFault(s.path, &err, debug.SetPanicOnFault(true))
	w := s.walk(end, func(item Item) error {
		switch item := item.(type) {
		case *EntryItem:
			e := &item.Entry
			h := entryHeader{index: e.Index, offset: e.Offset, span: e.Span, kind: e.Kind}
			s.addPoints(item.Position, &h, e.Body, int64(l.opts.IndexInterval))
		case *DamageItem:
			return damaged(item)
		}
		return nil
	})
	w.path = l.path(segmentName(s.before.Offset)) // s may have no name yet
	if _, _, err := w.run(segmentHeaderSize); err != nil {
		return err
	}
	s.last = p
	s.end.Store(end)
	return nil
}

// walk returns a walk through the mapped entries of s, which stop at end.
func (s *segment) walk(end int64, visit func(Item) error) *segmentWalk {
	return &segmentWalk{src: &mappedSource{path: s.path, b: s.b[:end]}, path: s.path, seed: s.seed, limit: end,
		at: s.before, known: true, visit: visit}
}

// positionAfter returns where the entry with that index stops: at the first entry, if that
// comes later, and at the last, if that comes before.
func (s *segment) positionAfter(index uint64) (pos int64, err error) {
	defer catchFault(s.path, &err, debug.SetPanicOnFault(true))
	end := s.end.Load()
	switch {
	case index <= s.before.Index:
		return segmentHeaderSize, nil
	case index >= s.last.Index:
		return end, nil
	}
	pos, h, err := s.locateIndex(index, end)
	if err != nil {
		return 0, err
	}
	return pos + entrySize(h.bodyLen), nil
}

// Reset removes everything and makes p the beginning of the log, durably: the next
// entry has the index after p.Index and the offset p.Offset. At the same instant state
// takes the place of what SetState was last given. It is for a replica that lacks entries
// which no other replica has any more. A crash leaves either all as it was, or an empty log
// that begins at p, and state. Leases stay valid.
//
// Errors: one that says that p's index or offset is larger than 2^62, ErrTooLarge if state
// is longer than MaxStateBytes, ErrClosed, ErrReadOnly: nothing has changed. After one that wraps ErrFailed the log must be opened
// again.
func (l *Log) Reset(p Place, state []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.quiesce()()
	if err := l.usable(); err != nil {
		return err
	}
	if p.Index > maxIndex || p.Offset > maxIndex {
		return fmt.Errorf("reset to entry %d, offset %d: neither may be larger than %d", p.Index, p.Offset, uint64(maxIndex))
	}
	if len(state) > MaxStateBytes {
		return fmt.Errorf("reset with a state of %d bytes: %w (at most %d bytes)", len(state), ErrTooLarge, MaxStateBytes)
	}
	if err := l.saveState(p.reset(state)); err != nil {
		return l.fail(fmt.Errorf("reset to entry %d: %w", p.Index, err))
	}
	names, err := l.fs.List(l.dir) // there may be files that could not be removed
	segments := *l.segments.Load()
	l.beginCut()
	defer l.endCut()
	// First the segments, since what lies below end must be in them.
	l.publish(nil)
	l.end.Store(p.Offset)
	l.first.Store(&p)
	l.durable.Store(p.Index)
	l.written, l.tail, l.active = p, tail{place: p}, nil
	if l.opts.ManualCommit {
		l.committed, l.shown = p.Index, p.Index
	}
	for _, name := range slices.Backward(names) {
		if first, ext, ok := parseName(name); ok && ext == ".log" {
			err = errors.Join(err, l.removeFiles(first))
		}
	}
	for _, s := range segments {
		err = errors.Join(err, s.release())
	}
	if err == nil {
		l.stateMu.Lock()
		err = l.endReset()
		l.stateMu.Unlock()
	}
	if err != nil {
		return l.fail(fmt.Errorf("reset to entry %d: %w", p.Index, err))
	}
	return nil
}

// reset is the change of a log's state that makes p its beginning.
func (p Place) reset(user []byte) func(s *state) {
	return func(s *state) { s.origin, s.reset, s.user = p, true, slices.Clone(user) }
}

// TruncatePrefix removes the oldest segments, as long as all their records lie before
// offset: records before it may stay, none from it on goes. The segment that is being
// written stays, and with ManualCommit what is not committed. Leases stay valid; the
// space is free when the last is released. Appends go on meanwhile. After an error that
// wraps ErrFailed the log must be opened again; after another, files are left that the
// next open removes.
func (l *Log) TruncatePrefix(offset uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.awaitSync()
	if err := l.usable(); err != nil {
		return err
	}
	k := 0
	for segments := *l.segments.Load(); k < len(segments) && l.removable(segments[k]) && segments[k].last.Offset <= offset; {
		k++
	}
	if err := l.dropFirst(k); err != nil {
		return fmt.Errorf("truncate before offset %d: %w", offset, err)
	}
	return nil
}

// removable says whether s may go, if it is the oldest. l.mu is held.
func (l *Log) removable(s *segment) bool {
	return s.sealed && s != l.active && (!l.opts.ManualCommit || s.last.Index <= l.committed)
}

// retain removes what the options no longer want. l.mu is held, and let go of in
// between; nothing is being synced.
func (l *Log) retain() {
	if l.closed || l.failed != nil || l.opts.ReadOnly || l.opts.RetentionBytes == 0 && l.opts.RetentionAge == 0 {
		return
	}
	segments := *l.segments.Load()
	var total int64
	for _, s := range segments {
		total += s.fileSize()
	}
	oldest := l.opts.Executor.Now().Add(-l.opts.RetentionAge).UnixMilli()
	k := 0
	for k < len(segments) && l.removable(segments[k]) {
		s := segments[k]
		large := l.opts.RetentionBytes > 0 && total > l.opts.RetentionBytes
		old := l.opts.RetentionAge > 0 && s.maxTime.Load() < oldest
		if !large && !old {
			break
		}
		total -= s.fileSize()
		k++
	}
	if err := l.dropFirst(k); err != nil {
		l.opts.Logger.Warn("could not remove old segments", "dir", l.dir, "err", err)
	}
}

// armRetention has old segments looked for now and then. l.mu is held.
func (l *Log) armRetention() {
	if l.opts.RetentionAge == 0 || l.opts.ReadOnly {
		return
	}
	l.background(min(max(l.opts.RetentionAge/10, time.Second), time.Minute), func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.awaitSync()
		l.retain()
		l.armRetention()
	})
}

// dropFirst removes the k oldest segments, of which at least one stays. First the state
// says where the log begins from now on, so that a crash cannot make their lack look
// like damage; then they go, oldest first. l.mu is held, and let go of in between;
// nothing is being synced.
func (l *Log) dropFirst(k int) error {
	if k == 0 {
		return nil
	}
	segments := *l.segments.Load()
	gone, origin := segments[:k], segments[k].before
	l.syncing = true
	l.mu.Unlock()
	err := l.saveState(func(s *state) { s.origin = origin })
	l.mu.Lock()
	if err != nil {
		// Perhaps the log begins there when it is opened again: nothing may
		// happen until then that this would contradict.
		err = l.fail(err)
	} else {
		l.first.Store(&origin)
		l.publish(slices.Clone((*l.segments.Load())[k:]))
		l.counts.RemovedSegments += uint64(k)
		l.mu.Unlock()
		for _, s := range gone {
			err = errors.Join(err, l.dropSegment(s))
		}
		if hook := l.opts.Events.Removed; hook != nil {
			hook(RemoveEvent{FirstOffset: gone[0].before.Offset, EndOffset: origin.Offset})
		}
		l.mu.Lock()
	}
	l.syncing = false
	l.changed.Broadcast()
	return err
}

// saveState changes the state, durably.
func (l *Log) saveState(change func(s *state)) error {
	l.stateMu.Lock()
	defer l.stateMu.Unlock()
	return l.state.change(change)
}
