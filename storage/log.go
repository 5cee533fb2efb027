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
	first    atomic.Pointer[Place] // what the first entry kept follows
	// epoch tells readers that the log's end was cut off: see beginCut.
	epoch atomic.Uint64
	grown notifier    // of end, epoch and done
	unzip unzipped    // the last compressed body that was read
	done  atomic.Bool // Close has been called

	syncs, syncTime, corruptions atomic.Int64
	temps                        atomic.Int64 // how many temporary files have been named

	// durable is the index up to which all entries are known to be durable.
	durable atomic.Uint64

	stateMu sync.Mutex
	state   *stateFile // guarded by stateMu, which may be taken with mu held

	mending sync.Mutex // held by Mend throughout; mu may be taken with it held

	mu        sync.Mutex
	changed   sync.Cond // of mu: the queue, the committer or a task has moved on
	tail      tail      // where the next entry goes: behind all that are queued
	queue     []*group
	queued    int // bytes in queue
	commits   committerState
	spare     *group // to be used again, for its buffer
	paused    int    // that many keep appends out
	written   Place  // after the last entry written
	crowded   bool   // several appends were in the last group
	groups    int64  // that are in the active segment, of those this process wrote
	committed uint64 // what Commit was told
	shown     uint64 // the last committed entry that readers see
	counts    Metrics
	failed    error
	closed    bool
	tasks     map[*task]struct{}
	ready     *readySegment             // the next segment's file, if it is made already
	syncing   bool                      // a Sync, a sealing or a removal is under way
	preparing bool                      // a task makes the next segment's file
	retry     backoff                   // when that has failed
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
	// cold says that it was needed before it could be filled with zeros, which
	// makes appends and syncs dearer.
	cold bool
}

// Open opens the log in dir, creating both if there is none, and recovers what a
// crash left: it cuts off what was never made durable (see [Log.Recovery]) and
// makes the rest so. With Options.ReadOnly it changes nothing. It fails with an error that wraps
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
		l.report(err)
		return nil, errors.Join(fmt.Errorf("open log in %s: %w", dir, err), l.release())
	}
	if hook := opts.Events.Recovered; hook != nil {
		hook(l.recovery)
	}
	return l, nil
}

func (l *Log) open() error {
	if !l.opts.ReadOnly {
		if err := l.fs.MkdirAll(l.dir); err != nil {
			return err
		}
	}
	lock, err := l.fs.Lock(l.path(lockName), l.opts.ReadOnly)
	if l.opts.ReadOnly && errors.Is(err, fs.ErrNotExist) {
		err = nil // a copy without its lock: nobody writes to it
	}
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
	if l.opts.ReadOnly {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.armRetention()
	if l.durable.Load() > 0 {
		l.armIdle()
	}
	return nil
}

// openState opens the state file, or makes one.
func (l *Log) openState() (err error) {
	path := l.path(stateName)
	l.state, err = openState(l.fs, path, !l.opts.ReadOnly)
	if errors.Is(err, fs.ErrNotExist) && !l.opts.ReadOnly {
		l.state, err = createState(l.fs, l.dir, path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		l.state, err = &stateFile{path: path}, nil // recovery says so
	}
	return err
}

func (l *Log) path(name string) string { return filepath.Join(l.dir, name) }

// FirstOffset returns the offset of the first record kept; the end offset if
// there is none.
func (l *Log) FirstOffset() uint64 { return l.first.Load().Offset }

// EndOffset returns the offset after the last readable record: under SyncAlways
// the last durable one, else the last appended one; with Options.ManualCommit the last
// of those that is committed, too.
func (l *Log) EndOffset() uint64 { return l.end.Load() }

// FirstPlace returns what the first entry kept follows.
func (l *Log) FirstPlace() Place { return *l.first.Load() }

// LastPlace returns where the log ends: what the next entry will follow, once all that
// are pending are appended. Under SyncAlways the entries before it are durable.
func (l *Log) LastPlace() Place {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.written
}

// State returns a copy of what SetState was last given; nil if that was empty, or it never
// was.
func (l *Log) State() []byte {
	l.stateMu.Lock()
	defer l.stateMu.Unlock()
	return append([]byte(nil), l.state.now.user...)
}

// SetState keeps b, at most MaxStateBytes long, in the log's directory for its user,
// durably: after a crash either b is there or what was before. Replication keeps its
// term and vote there. It costs two syncs. An error that wraps ErrFailed leaves open
// which it will be: as for appends, the log must be opened again.
func (l *Log) SetState(b []byte) error {
	if len(b) > MaxStateBytes {
		return fmt.Errorf("set state of %d bytes: %w (at most %d bytes)", len(b), ErrTooLarge, MaxStateBytes)
	}
	l.mu.Lock()
	err := l.usable()
	l.mu.Unlock()
	if err != nil {
		return err
	}
	l.stateMu.Lock()
	if l.done.Load() {
		l.stateMu.Unlock()
		return ErrClosed // release may have closed the file
	}
	err = l.state.change(func(s *state) { s.user = slices.Clone(b) })
	l.stateMu.Unlock()
	if err != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.fail(fmt.Errorf("set state: %w", err))
	}
	return nil
}

// Sync makes durable what was appended before the call, what AppendAsync has returned a
// Pending for included, unless that Pending has an error. It fails, with ErrFailed, if the
// log has failed, and with ErrClosed and ErrReadOnly.
func (l *Log) Sync() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return ErrClosed
	}
	if l.opts.ReadOnly {
		return ErrReadOnly
	}
	l.drain()
	return l.syncLocked()
}

// drain commits what is queued, or waits until it is committed. l.mu is held, and let go
// of in between.
func (l *Log) drain() {
	last := l.tail.place.Index
	done := func() bool { return l.written.Index >= last }
	for !done() {
		switch {
		case l.commits == committerRunning:
			l.changed.Wait()
		case len(l.queue) > 0:
			l.commitUntil(done)
		default:
			return // what was queued has failed
		}
	}
}

// syncLocked is Sync; l.mu is held, but not during the system calls.
func (l *Log) syncLocked() error {
	l.awaitSync()
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
		err = errors.Join(err, l.timedSync(s, s.end.Load()))
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
	l.noteDurable()
	return nil
}

// awaitSync waits until no Sync, sealing or removal is under way: a sync that fails is
// reported to one caller only, so they exclude each other. l.mu is held, and let go of in
// between.
func (l *Log) awaitSync() {
	for l.syncing {
		l.changed.Wait()
	}
}

// noteDurable saves the durable mark as far as that costs no wait: it outlives the
// process, so that the next open need not doubt what was synced. l.mu is held.
func (l *Log) noteDurable() {
	if !l.stateMu.TryLock() {
		return
	}
	defer l.stateMu.Unlock()
	if durable := l.durable.Load(); l.state.mark < durable {
		_ = l.state.saveMark(durable, false) // without it recovery can tell less
	}
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
		if hook := l.opts.Events.Failed; hook != nil {
			hook(l.failed)
		}
	}
	return l.failed
}

// usable says why the log takes no appends. l.mu is held.
func (l *Log) usable() error {
	switch {
	case l.closed:
		return ErrClosed
	case l.opts.ReadOnly:
		return ErrReadOnly
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
	l.grown.notify()
	l.quiesce()
	l.stopTasks()
	var err error
	if !l.opts.ReadOnly {
		if err = l.syncLocked(); err == nil {
			err = l.saveClean()
		}
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
	if l.state.mark == durable && l.state.noted {
		return nil
	}
	return l.state.saveMark(durable, true)
}

// release lets go of all files. Nothing else runs any more.
func (l *Log) release() error {
	var err error
	if l.ready != nil {
		err = errors.Join(err, l.ready.discard(l.fs))
	}
	if segments := l.segments.Load(); segments != nil {
		for _, s := range *segments {
			err = errors.Join(err, s.release())
		}
	}
	if l.state != nil && l.state.file != nil {
		l.stateMu.Lock()
		err = errors.Join(err, l.state.file.Close())
		l.stateMu.Unlock()
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

// publish makes segments, which nobody changes any more, those that readers see. l.mu
// is held.
func (l *Log) publish(segments []*segment) { l.segments.Store(&segments) }
