package executor

import (
	"slices"
	"sync"
	"time"
)

// Manual runs nothing by itself: tasks wait until its owner calls Step or
// Advance, and run on the owner's goroutine. Time stands still in between. Tasks
// run in order of their due time, and of submission where that is equal, so a
// single-threaded program on it is deterministic. Its methods may be called
// concurrently, and by tasks.
type Manual struct {
	mu    sync.Mutex
	now   time.Time
	seq   uint64
	tasks []*manualTask // sorted by due, seq
}

type manualTask struct {
	due time.Time
	seq uint64
	run func()
}

// NewManual returns an executor whose clock shows start.
func NewManual(start time.Time) *Manual { return &Manual{now: start} }

// Now implements [Executor].
func (m *Manual) Now() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.now
}

// After implements [Executor].
func (m *Manual) After(d time.Duration, task func()) (stop func() bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seq++
	t := &manualTask{due: m.now.Add(max(d, 0)), seq: m.seq, run: task}
	at, _ := slices.BinarySearchFunc(m.tasks, t, func(a, b *manualTask) int {
		if c := a.due.Compare(b.due); c != 0 {
			return c
		}
		return int(a.seq) - int(b.seq)
	})
	m.tasks = slices.Insert(m.tasks, at, t)
	return func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		i := slices.Index(m.tasks, t)
		if i < 0 {
			return false
		}
		m.tasks = slices.Delete(m.tasks, i, i+1)
		return true
	}
}

// Step runs the first task that is due and reports whether there was one.
func (m *Manual) Step() bool {
	m.mu.Lock()
	if len(m.tasks) == 0 || m.tasks[0].due.After(m.now) {
		m.mu.Unlock()
		return false
	}
	t := m.tasks[0]
	m.tasks = slices.Delete(m.tasks, 0, 1)
	m.mu.Unlock()
	t.run()
	return true
}

// Advance moves the clock forward by d, running each task when its time has
// come, those that they submit included.
func (m *Manual) Advance(d time.Duration) {
	m.mu.Lock()
	until := m.now.Add(d)
	m.mu.Unlock()
	for {
		for m.Step() {
		}
		m.mu.Lock()
		if len(m.tasks) == 0 || m.tasks[0].due.After(until) {
			m.now = until
			m.mu.Unlock()
			return
		}
		m.now = m.tasks[0].due
		m.mu.Unlock()
	}
}
