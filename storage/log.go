package storage

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zue-log/zue/storage/batch"
	"github.com/zue-log/zue/storage/vfs"
)

// Record is one record of a log. See [batch.Record].
type Record = batch.Record

// RecordHeader is a header of a record. See [batch.RecordHeader].
type RecordHeader = batch.RecordHeader

// Names of the files in a data directory that are no segments.
const (
	lockName   = "lock"
	stateName  = "state"
	tempPrefix = "segment-" // of a segment file that has no entry yet, then a number,
	tempSuffix = ".tmp"
)

// idleAfter is how long a log has been left alone when it notes how far it is
// durable, so that damage found later is not taken for a torn write.
const idleAfter = time.Second

// Log is an append-only log in a directory. Its methods may be called
// concurrently. Readers take no lock that appends take.
type Log struct {
	dir      string
	opts     Options
	fs       vfs.FS
	lock     io.Closer
	recovery Recovery

	// What readers go by: every record below end is in segments, and may be
	// read. segments is replaced, never changed.
	segments atomic.Pointer[[]*segment]
	end      atomic.Uint64
	done     atomic.Bool // Close has been called

	// durable is the index up to which all entries are known to be durable.
	durable atomic.Uint64

	stateMu sync.Mutex
	state   *stateFile // guarded by stateMu, which may be taken with mu held

	mu        sync.Mutex
	changed   sync.Cond // of mu: the queue, the committer or a task has moved on
	tail      tail      // where the next entry goes: behind all that are queued
	queue     []*group
	queued    int // bytes in queue
	commits   committerState
	spare     *group // to be used again, for its buffer
	written   Place  // after the last entry written
	failed    error
	closed    bool
	tasks     map[*task]struct{}
	ready     *readySegment             // the next segment's file, if it is made already
	temps     int                       // how many temporary files have been named
	syncing   bool                      // a Sync, or a sealing, is under way
	preparing bool                      // a task makes the next segment's file
	armed     struct{ sync, idle bool } // is such a task on its way?

	// Owned by whoever commits; changed with mu held, too.
	active *segment
}

// tail is where the log grows.
type tail struct {
	place Place
	pos   int64 // position in the active segment
	room  int64 // up to where entries fit into it; 0 if there is none
	seed  seed  // of that segment
	// start is that segment's first offset; created when it was made, in Unix
	// milliseconds.
	start   uint64
	created int64
}

// Open opens the log in dir, creating both if there is none, and recovers what a
// crash left: it cuts off what was never made durable (see [Log.Recovery]) and
// makes the rest so. It fails with an error that wraps
//   - vfs.ErrLocked if another process, or another Log of this one, has dir open,
//   - ErrCorrupt (a *CorruptionError) if bytes that were durable are damaged
//     where the log must be scanned; no segment is changed then,
//   - ErrVersion for files of an unknown format version.
func Open(dir string, opts Options) (*Log, error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	opts = opts.withDefaults()
	l := &Log{dir: dir, opts: opts, fs: opts.FS, tasks: map[*task]struct{}{}}
	l.changed.L = &l.mu
	if err := l.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("open log in %s: %w", dir, err), l.release())
	}
	return l, nil
}

func (l *Log) open() error {
	if err := l.fs.MkdirAll(l.dir); err != nil {
		return err
	}
	lock, err := l.fs.Lock(l.path(lockName))
	if err != nil {
		return err
	}
	l.lock = lock
	if err := l.openState(); err != nil {
		return err
	}
	if err := l.recover(); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.prepareNext()
	return nil
}

// openState opens the state file, or makes one.
func (l *Log) openState() (err error) {
	path := l.path(stateName)
	l.state, err = openState(l.fs, path, true)
	if errors.Is(err, fs.ErrNotExist) {
		l.state, err = createState(l.fs, l.dir, path)
	}
	return err
}

func (l *Log) path(name string) string { return filepath.Join(l.dir, name) }

// FirstOffset returns the offset of the first record kept; the end offset if
// there is none.
func (l *Log) FirstOffset() uint64 {
	if segments := *l.segments.Load(); len(segments) > 0 {
		return segments[0].before.Offset
	}
	return l.end.Load()
}

// EndOffset returns the offset after the last readable record: under SyncAlways
// the last durable one, else the last appended one.
func (l *Log) EndOffset() uint64 { return l.end.Load() }

// Sync makes durable what was appended before the call. It fails if the log has
// failed.
func (l *Log) Sync() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return ErrClosed
	}
	return l.syncLocked()
}

// syncLocked is Sync; l.mu is held, but not during the system calls.
func (l *Log) syncLocked() error {
	// One at a time: a sync that fails is reported to one caller only.
	for l.syncing {
		l.changed.Wait()
	}
	target := l.written
	if l.failed != nil || l.durable.Load() >= target.Index {
		return l.failed
	}
	l.syncing = true
	var unsealed []*segment
	for _, s := range *l.segments.Load() {
		if !s.sealed {
			unsealed = append(unsealed, s)
		}
	}
	l.mu.Unlock()
	var err error
	for _, s := range unsealed {
		err = errors.Join(err, s.file.Sync())
	}
	l.mu.Lock()
	l.syncing = false
	l.changed.Broadcast()
	if err != nil {
		return l.fail(fmt.Errorf("sync: %w", err))
	}
	if l.failed != nil {
		return l.failed
	}
	l.markDurable(target.Index)
	return nil
}

// markDurable raises the durable mark. l.mu is held.
func (l *Log) markDurable(index uint64) {
	if index > l.durable.Load() {
		l.durable.Store(index)
		l.armIdle()
	}
}

// fail makes err final, unless something was before. l.mu is held.
func (l *Log) fail(err error) error {
	if l.failed == nil {
		l.failed = fmt.Errorf("%w: %w", ErrFailed, err)
		l.opts.Logger.Error("log failed; no appends until it is opened again", "dir", l.dir, "err", err)
	}
	return l.failed
}

// usable says why the log takes no appends. l.mu is held.
func (l *Log) usable() error {
	if l.closed {
		return ErrClosed
	}
	return l.failed
}

// Close finishes the appends that have begun, makes everything durable and
// releases the directory. Leases stay valid. A second Close returns ErrClosed.
func (l *Log) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return ErrClosed
	}
	l.closed = true
	l.done.Store(true)
	l.changed.Broadcast()
	l.drain()
	l.stopTasks()
	err := l.syncLocked()
	if err == nil {
		err = l.saveClean()
	}
	l.mu.Unlock()
	if err = errors.Join(err, l.release()); err != nil {
		return fmt.Errorf("close log in %s: %w", l.dir, err)
	}
	return nil
}

// saveClean notes what lets the next open scan nothing. l.mu is held and all
// other work has stopped.
func (l *Log) saveClean() error {
	for _, s := range *l.segments.Load() {
		var err error
		switch {
		case s.sealed:
		case s == l.active:
			err = s.ix.seal(s.coverage())
		default: // the task that should have done it was stopped
			err = l.seal(s)
		}
		if err != nil {
			return err
		}
	}
	return l.saveDurable()
}

// saveDurable saves how far the log is durable, if that has changed.
func (l *Log) saveDurable() error {
	l.stateMu.Lock()
	defer l.stateMu.Unlock()
	durable := l.durable.Load()
	if l.state.mark == durable {
		return nil
	}
	return l.state.saveMark(durable, true)
}

// release lets go of all files. Nothing else runs any more.
func (l *Log) release() error {
	var err error
	if l.ready != nil {
		err = errors.Join(err, l.ready.file.Close(), l.fs.Remove(l.ready.path))
	}
	if segments := l.segments.Load(); segments != nil {
		for _, s := range *segments {
			err = errors.Join(err, s.release())
		}
	}
	if l.state != nil {
		err = errors.Join(err, l.state.file.Close())
	}
	if l.lock != nil {
		err = errors.Join(err, l.lock.Close())
	}
	return err
}

// task is background work that is waiting or running.
type task struct {
	stop func() bool
}

// background has run called once after d, without l.mu, unless the log is closed
// before. Close waits for it. l.mu is held.
func (l *Log) background(d time.Duration, run func()) {
	if l.closed {
		return
	}
	t := &task{}
	l.tasks[t] = struct{}{}
	t.stop = l.opts.Executor.After(d, func() {
		l.mu.Lock()
		closed := l.closed
		l.mu.Unlock()
		if !closed {
			run()
		}
		l.mu.Lock()
		delete(l.tasks, t)
		l.changed.Broadcast()
		l.mu.Unlock()
	})
}

// closing is ErrClosed once Close has begun, for background work that takes long.
func (l *Log) closing() error {
	if l.done.Load() {
		return ErrClosed
	}
	return nil
}

// stopTasks cancels the background work that has not begun and waits for the
// rest. l.mu is held, and let go of in between.
func (l *Log) stopTasks() {
	for t := range l.tasks {
		if t.stop() {
			delete(l.tasks, t)
		}
	}
	for len(l.tasks) > 0 {
		l.changed.Wait()
	}
}

// publish makes s the last of the segments that readers see.
func (l *Log) publish(s *segment) {
	l.segments.Store(new(append(slices.Clone(*l.segments.Load()), s)))
}
