// Package executor runs the storage engine's background work and tells it the
// time, so that a test or a simulator can decide when each happens.
package executor

import (
	"sync/atomic"
	"time"
)

// Executor runs tasks later. Its methods may be called concurrently.
type Executor interface {
	// Now returns the current time.
	Now() time.Time
	// After has task run once, on a goroutine that is not the caller's, when d
	// has passed; at once when d is not positive. stop prevents that, and
	// reports whether it did: false means that the task has begun, or ended.
	After(d time.Duration, task func()) (stop func() bool)
}

// System is the wall clock, and a goroutine for each task.
type System struct{}

// Now implements [Executor].
func (System) Now() time.Time { return time.Now() }

// After implements [Executor].
func (System) After(d time.Duration, task func()) (stop func() bool) {
	if d > 0 {
		return time.AfterFunc(d, task).Stop
	}
	// Not a timer: a goroutine that is ready at once starts sooner.
	var claimed atomic.Bool
	go func() {
		if claimed.CompareAndSwap(false, true) {
			task()
		}
	}()
	return func() bool { return claimed.CompareAndSwap(false, true) }
}
