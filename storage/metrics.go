package storage

import "time"

// Metrics is what a log has done since it was opened, and how it is.
type Metrics struct {
	FirstOffset uint64
	EndOffset   uint64
	// LastIndex is the index of the last entry appended, DurableIndex that of the
	// last known to be durable, CommittedIndex what Commit was last told.
	LastIndex      uint64
	DurableIndex   uint64
	CommittedIndex uint64

	Segments    int
	FileBytes   int64 // that the segments' files take up, preallocated space included
	QueuedBytes int   // that wait to be written

	Groups  uint64 // that were written; appends that came together share one
	Entries uint64 // that were appended
	Records uint64
	Bytes   uint64 // of entries

	Syncs    uint64 // of segment files
	SyncTime time.Duration
	Rolls    uint64 // segments begun
	Seals    uint64
	// RemovedSegments counts what retention and TruncatePrefix took.
	RemovedSegments uint64
	// Corruptions counts the damage that reads met; the same place counts each
	// time.
	Corruptions uint64
	// Mended counts the entries that Mend put in place of damaged ones.
	Mended uint64
	// Failed is why the log takes no appends until it is opened again; nil if it
	// does.
	Failed error
}

// Metrics returns a snapshot. It takes a mutex that appends take, and that TruncateSuffix
// and Reset, and Mend in a segment that is not sealed, hold for as long as they run.
func (l *Log) Metrics() Metrics {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := l.counts
	segments := *l.segments.Load()
	m.FirstOffset, m.EndOffset = l.FirstOffset(), l.EndOffset()
	m.LastIndex, m.DurableIndex, m.CommittedIndex = l.written.Index, l.durable.Load(), l.committed
	m.Segments, m.QueuedBytes = len(segments), l.queued
	for _, s := range segments {
		m.FileBytes += s.fileSize()
	}
	m.Syncs, m.SyncTime = uint64(l.syncs.Load()), time.Duration(l.syncTime.Load())
	m.Corruptions, m.Failed = uint64(l.corruptions.Load()), l.failed
	return m
}

// Events are functions that are called when something happens, each nil by default. They
// are called by whoever made it happen, which waits for them: they must be quick, and
// must not call the log.
type Events struct {
	Synced    func(SyncEvent)
	Rolled    func(RollEvent)
	Removed   func(RemoveEvent)
	Recovered func(Recovery)         // at the end of Open
	Corrupted func(*CorruptionError) // met by a read
	Mended    func(MendEvent)
	Failed    func(error) // the log takes no more appends
}

// SyncEvent is an fdatasync of a segment file.
type SyncEvent struct {
	Path     string
	Bytes    int64 // that were written since the last one, or for a seal, its entries
	Duration time.Duration
	Err      error
}

// RollEvent is the beginning of a segment.
type RollEvent struct {
	Path        string
	FirstOffset uint64
}

// RemoveEvent is the removal of the oldest segments, by retention or TruncatePrefix.
type RemoveEvent struct {
	FirstOffset uint64 // of the first record removed
	EndOffset   uint64 // of the first record kept
}

// MendEvent is a Mend that was done.
type MendEvent struct {
	Path    string // of the segment
	First   uint64 // the index that Mend was given
	Entries int    // how many entries; 0: the index was made anew
}

// sawCorruption counts and reports damage that a read met.
func (l *Log) sawCorruption(err *CorruptionError) {
	l.corruptions.Add(1)
	if hook := l.opts.Events.Corrupted; hook != nil {
		hook(err)
	}
}
