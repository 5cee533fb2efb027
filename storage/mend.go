package storage

import (
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
)

// IndexRange is a run of entries: those with the indexes from First to Last.
type IndexRange struct{ First, Last uint64 }

// Damaged returns which entries of the segment in which e was found cannot be read now, in
// ascending order: what to ask other replicas for, and to give to [Log.Mend]. Each range
// begins at the first entry that cannot be verified, and ends before the next one that is
// whole, or with the segment's last. There is none if all entries are whole: then the index
// was damaged, which Mend makes anew, or somebody was faster. There is none, either, if the
// log does not have that place any more.
//
// The segment is that of e.Path; without one of this name, that of the entry e.Index, or if
// that is 0 of the record at e.Offset. All its entries are read and verified, as by
// [Log.Verify]. What of the damage is in the segment's header or footer is passed over:
// nothing of a log that is open depends on these. Appends and reads go on meanwhile, but that
// appends wait for a moment if the segment is not sealed. e is not changed, and may be nil.
//
// Errors: ErrClosed; *FaultError.
func (l *Log) Damaged(e *CorruptionError) ([]IndexRange, error) {
	if e == nil {
		return nil, nil
	}
	for !l.done.Load() {
		s := l.segmentOfDamage(e)
		if s == nil {
			return nil, nil
		}
		if !s.acquire() {
			continue // it has just left the log, or the log is being closed
		}
		ranges, err := l.damagedIn(s, e)
		Lease{s}.Release()
		if err != nil {
			return nil, fmt.Errorf("look for damage in %s: %w", s.path, err)
		}
		return ranges, nil
	}
	return nil, ErrClosed
}

// segmentOfDamage returns the segment in which e was found, or that is in its place now.
func (l *Log) segmentOfDamage(e *CorruptionError) *segment {
	segments := *l.segments.Load()
	if i := slices.IndexFunc(segments, func(s *segment) bool { return s.path == e.Path }); i >= 0 {
		return segments[i]
	}
	if e.Index > 0 {
		return segmentWith(segments, e.Index)
	}
	return segmentOf(segments, e.Offset)
}

// damagedIn is Damaged in s, which is held.
func (l *Log) damagedIn(s *segment, e *CorruptionError) (ranges []IndexRange, err error) {
	defer catchFault(s.path, &err, debug.SetPanicOnFault(true))
	end, last := l.extent(s)
	if s.path != e.Path && (e.Index > last.Index || e.Index == 0 && e.Offset >= last.Offset) {
		return nil, nil
	}
	whole := s.before.Index // the last entry that was
	until := func(index uint64) {
		if index > whole {
			ranges = append(ranges, IndexRange{First: whole + 1, Last: index})
		}
	}
	w := s.walk(end, func(item Item) error {
		if e, ok := item.(*EntryItem); ok {
			until(e.Entry.Index - 1)
			whole = e.Entry.Index
		}
		return l.closing()
	})
	if _, _, err := w.run(segmentHeaderSize); err != nil {
		return nil, err
	}
	until(last.Index)
	return ranges, nil
}

// extent returns where the entries of s stop, as a position and as a place.
func (l *Log) extent(s *segment) (end int64, last Place) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !s.sealed {
		defer l.quiesce()() // or one of them would be ahead of the other
	}
	return s.end.Load(), s.last
}

// Mend writes entries, which another replica has for the indexes first, first+1 and so on, in
// the place of this log's, which are damaged. Nothing else changes: after it the log has what
// it had before the damage. Without entries, only the index of the segment that holds first is
// made anew: a damaged one makes reads of records fail that are whole. ([Log.Starts] says which
// segments there are: each holds the entry after its place.)
//
// First it is proven that the entries are those that were here. What comes before them in the
// log must lead to what comes after them: each has the next index, a term not less than the
// one before, and checksums that are right; their offsets and their chain are computed as for
// an append, from the header of entry first-1; and the header of the next entry, or if they
// end with the segment the log's own knowledge of where that ends, must follow, and stand where
// they stop. So the entries must reach over a damaged range to its end, must all be of one
// segment, as [Log.Damaged] returns ranges, and may reach over entries that are whole. Their
// Offset, Span, Chain and Mark are not looked at. An entry that was compacted, whose Born is
// not its Checksum, is proven only if the header that it has here is whole.
//
// The segment is written anew under another name, which takes space for it, and replaces the
// old one when it is durable. Other damage in it stays, and does no harm; but bytes that the
// disk does not deliver cannot be copied, and entries must reach over all of them. While the
// segment is not sealed, as the last one, appends wait until all that is done, else only while
// the names change. Readers do not wait, leases stay valid, and an iterator that comes to what
// was damaged finds it mended. Several calls may be made at once; one works after the other.
// The entries and their bodies are the caller's again on return.
//
// Errors: ErrNotProven if the entries are not shown to be those that were here; *IndexError if
// the log does not have entry first, or lets go of it meanwhile; *CorruptionError if the
// header of entry first-1 is damaged, so that nothing can be proven; *FaultError; ErrClosed;
// ErrReadOnly; others, as one for which IsFull is true: nothing has changed. ErrFailed, if the
// segment could not be replaced, or the log had failed before: whether it was replaced is not
// known until the log is opened again.
func (l *Log) Mend(first uint64, entries []Entry) error {
	m := mend{log: l, first: first, last: first + uint64(len(entries)) - 1, want: make([]payload, len(entries))}
	for i := range entries {
		var err error
		if m.want[i], err = replicated(&entries[i]); err != nil {
			return m.failed(fmt.Errorf("%w: entry %d: %w", ErrNotProven, first+uint64(i), err))
		}
	}
	l.mending.Lock()
	defer l.mending.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(); err != nil {
		return m.failed(err)
	}
	defer l.hold()()
	for {
		if again, err := m.try(); !again {
			return m.failed(err)
		}
	}
}

// hold has Close wait until letGo is called. l.mu is held, then as well.
func (l *Log) hold() (letGo func()) {
	t := &task{stop: func() bool { return false }}
	l.tasks[t] = struct{}{}
	return func() {
		delete(l.tasks, t)
		l.changed.Broadcast()
	}
}

// mend is one call of Mend.
type mend struct {
	log         *Log
	first, last uint64
	want        []payload
}

// failed says what failed with err, which may be nil.
func (m *mend) failed(err error) error {
	switch {
	case err == nil:
		return nil
	case len(m.want) == 0:
		return fmt.Errorf("make the index of entry %d anew: %w", m.first, err)
	}
	return fmt.Errorf("mend entries %d to %d: %w", m.first, m.last, err)
}

// mendable returns the segment that holds the entry with that index. l.mu is held.
func (l *Log) mendable(index uint64) (*segment, error) {
	if err := l.usable(); err != nil {
		return nil, err
	}
	first, last := l.first.Load().Index+1, l.written.Index
	s := segmentWith(*l.segments.Load(), index)
	if s == nil || index < first || index > last {
		return nil, &IndexError{Index: index, First: first, Last: last}
	}
	return s, nil
}

// try mends the segment as it is now. If it was replaced meanwhile, nothing has been done, and
// it is to be tried again. l.mu is held, and let go of in between.
func (m *mend) try() (again bool, err error) {
	l := m.log
	old, err := l.mendable(m.first)
	if err != nil {
		return false, err
	}
	var s *segment
	sealed := old.sealed
	if sealed {
		// It does not change any more, and appends need not wait. The log holds it, so that
		// it is there to be acquired.
		old.acquire()
		l.mu.Unlock()
		s, err = m.build(old)
		l.mu.Lock()
		defer Lease{old}.Release()
	}
	defer l.quiesce()()
	now, gone := l.mendable(m.first)
	if gone != nil || now != old {
		// What building met, if it failed, may be of that.
		if s != nil {
			gone = errors.Join(gone, l.discard(s))
		}
		return gone == nil, gone
	}
	if !sealed {
		s, err = m.build(old)
	}
	if err != nil {
		return false, err
	}
	if err := m.swap(old, s); err != nil {
		return false, l.fail(err)
	}
	return false, nil
}

// swap puts s in the place of old. An error is final. l.mu is held, and nothing else runs.
func (m *mend) swap(old, s *segment) error {
	l := m.log
	if err := l.replace(old, s); err != nil {
		return err
	}
	if l.active == old {
		l.active = s // of the same size, so that the tail stays what it is
	}
	// Either index is right for either segment, but the old one may be what was damaged.
	if err := l.fs.SyncDir(l.dir); err != nil {
		return err
	}
	l.counts.Mended += uint64(len(m.want))
	l.opts.Logger.Info("mended a segment", "file", s.path, "first", m.first, "entries", len(m.want))
	if hook := l.opts.Events.Mended; hook != nil {
		hook(MendEvent{Path: s.path, First: m.first, Entries: len(m.want)})
	}
	return nil
}

// build makes what is to replace old, with temporary names for what is new: a durable copy with
// the entries; or, without any, old's file with another index. old is sealed, or nothing else
// runs. After an error nothing is left of it.
func (m *mend) build(old *segment) (*segment, error) {
	l := m.log
	if len(m.want) == 0 {
		return l.reopen(old)
	}
	at, err := m.prove(old)
	if err != nil {
		return nil, err
	}
	var r *readySegment
	if !old.sealed {
		r = l.takeReady(old.fileSize())
	}
	s, err := l.makeCopy(old, r, old.fileSize(), func(s *segment) error { return m.fill(s, old, at) })
	if err != nil {
		return nil, err
	}
	if old.sealed {
		err = l.seal(s)
	} else {
		// All in it is durable. Its index vouches for that, so that other damage in it, which
		// the next call is to mend, does not keep the log from being opened after a crash.
		err = s.ix.seal(s.coverage())
	}
	if err != nil {
		return nil, errors.Join(err, l.discard(s))
	}
	s.sealed = old.sealed
	return s, nil
}

// fill writes what s, a copy of old in which the entries stand at at, has behind its header.
func (m *mend) fill(s, old *segment, at standing) error {
	end := old.end.Load()
	if err := old.copyTo(s.file, segmentHeaderSize, at.from); err != nil {
		return err
	}
	if _, err := m.encode(s, at, func(pos int64, b []byte) error {
		_, err := s.file.WriteAt(b, pos)
		return err
	}); err != nil {
		return err
	}
	if err := old.copyTo(s.file, at.to, end); err != nil {
		return err
	}
	return m.log.reindexFrom(s, old)
}

// reindexFrom is reindex for s, which has the entries of old. Some may be damaged: since nobody
// knows their timestamps, none behind them is said to have a smaller one before it than the
// largest of all.
func (l *Log) reindexFrom(s, old *segment) error {
	return l.reindex(s, old.end.Load(), old.last, func(*DamageItem) error {
		s.maxTime.Store(old.maxTime.Load())
		return nil
	})
}

// reopen makes a segment of the file of old, and a new index under a temporary name. After an
// error nothing is left of that.
func (l *Log) reopen(old *segment) (*segment, error) {
	size := old.fileSize()
	f, err := l.fs.Open(old.path, true)
	if err != nil {
		return nil, err
	}
	m, err := f.Map(int(size), false)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("map segment: %w", err), f.Close())
	}
	s := mappedSegment(f, old.path, m)
	s.begin(old.ownHeader())
	s.filled, s.sealed = old.filled, old.sealed
	if s.ix, err = createIndex(l.fs, l.tempName(), indexCapacity(size, l.opts.IndexInterval)); err != nil {
		return nil, errors.Join(err, s.release())
	}
	if err = l.reindexFrom(s, old); err == nil {
		if s.sealed {
			err = errors.Join(s.ix.seal(s.coverage()), s.closeFiles())
		} else {
			// Its entries need not be durable: as the index of any segment that is not
			// sealed, this one vouches for nothing before Close.
			err = l.mapForStores(s)
		}
	}
	if err != nil {
		return nil, errors.Join(err, l.discard(s))
	}
	return s, nil
}

// standing is where entries stand in a segment: behind before, from one position to the other.
type standing struct {
	before   Place
	from, to int64
}

// encode calls use with each of the entries as it is to stand in s, one behind the other from
// at.from on, until it fails. It returns the place behind the last.
//
// Their durable mark is what it would be if they were appended now: all entries up to it, and
// before them, were durable once. So it is no less than what damage took, and as true, and
// what it says of the entries before them keeps its worth for recovery.
func (m *mend) encode(s *segment, at standing, use func(pos int64, b []byte) error) (Place, error) {
	var b []byte
	p, pos := at.before, at.from
	for i := range m.want {
		w := &m.want[i]
		if w.index != p.Index+1 || w.term < p.Term {
			return p, notProven("entry %d of term %d comes behind entry %d of term %d", w.index, w.term, p.Index, p.Term)
		}
		mark := min(m.log.durable.Load(), p.Index)
		b, p = appendEntry(b[:0], s.seed, p, mark, w)
		if err := use(pos, b); err != nil {
			return p, err
		}
		pos += int64(len(b))
	}
	return p, nil
}

func notProven(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrNotProven, fmt.Sprintf(format, args...))
}

// prove finds where the entries stand in s, and shows that they are those that were there.
func (m *mend) prove(s *segment) (at standing, err error) {
	defer catchFault(s.path, &err, debug.SetPanicOnFault(true))
	end := s.end.Load()
	at = standing{before: s.before, from: segmentHeaderSize}
	if m.first > s.before.Index+1 {
		pos, h, err := s.findHeader(m.first-1, end)
		if err != nil {
			return at, err
		}
		at.before, at.from = h.after(), pos+entrySize(h.bodyLen)
	}
	at.to = at.from
	p, err := m.encode(s, at, func(pos int64, b []byte) error {
		if at.to += int64(len(b)); at.to > end {
			return notProven("they reach beyond the segment %s, which ends with entry %d", s.path, s.last.Index)
		}
		return s.bears(pos, b)
	})
	switch {
	case err != nil:
		return at, err
	case at.to == end && p != s.last:
		return at, notProven("they end with %+v, and the segment %s with %+v", p, s.path, s.last)
	case at.to == end:
		return at, nil
	}
	next, err := parseEntryHeader(s.b[at.to:end], s.seed)
	if err == nil {
		err = next.follows(p)
	}
	if err != nil {
		return at, fmt.Errorf("%w: they do not lead to what is behind them: %w", ErrNotProven, s.corrupt(at.to, p.Index+1, p.Offset, err))
	}
	return at, nil
}

// bears says whether the chain proves the body of the entry at the start of b, to stand at pos
// of s: it has the checksum that the body was born with. Of a body that was compacted since,
// only its header, if that is whole, has the other.
func (s *segment) bears(pos int64, b []byte) error {
	h := decodeEntryHeader(b)
	if h.bodyCRC == h.bornCRC {
		return nil
	}
	own, err := parseEntryHeader(s.b[pos:], s.seed)
	if err == nil && own.bodyCRC == h.bodyCRC && own.bornCRC == h.bornCRC {
		return nil
	}
	return notProven("the body of entry %d is not the one that it was born with", h.index)
}

// findHeader returns the position and the header of the entry with that index, among those that
// stop at end. It goes neither by the index nor by a header that is damaged, and so finds
// entries behind damage.
func (s *segment) findHeader(index uint64, end int64) (pos int64, h entryHeader, err error) {
	w := s.walk(end, nil)
	bad, reason := int64(segmentHeaderSize), errShortEntry // the last damage, behind which it would be
	for pos = segmentHeaderSize; pos < end; {
		b, err := w.src.read(pos, min(entryHeaderSize, end-pos))
		if err == nil {
			h, err = parseEntryHeader(b, s.seed)
		}
		switch {
		case err == nil && h.index == index:
			return pos, h, nil
		case err == nil && h.index > index:
			return 0, h, s.corrupt(bad, index, 0, reason)
		case err == nil && h.index > w.at.Index && entrySize(h.bodyLen) <= end-pos:
			w.at = h.after()
			pos += entrySize(h.bodyLen)
		default:
			if err == nil {
				err = errBreak
			}
			bad, reason = pos, err
			w.resume(pos+entryAlign, &pos)
		}
	}
	return 0, h, s.corrupt(bad, index, 0, reason)
}
