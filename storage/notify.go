package storage

import (
	"context"
	"sync"
	"sync/atomic"
)

// notifier lets any number of goroutines wait until something has changed. While
// nobody waits, notify is one atomic load. The zero notifier is ready for use.
type notifier struct {
	waiting atomic.Int64
	mu      sync.Mutex
	changed chan struct{} // closed at the next notify; nil: nobody has asked for it
}

// notify wakes all who wait. The change must have been stored, atomically, before.
func (n *notifier) notify() {
	if n.waiting.Load() > 0 {
		n.wake()
	}
}

func (n *notifier) wake() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.changed != nil {
		close(n.changed)
		n.changed = nil
	}
}

// wait returns nil once ready does, which it asks at once and after each notify,
// or the error of ctx once that is done.
func (n *notifier) wait(ctx context.Context, ready func() bool) error {
	if ready() {
		return nil
	}
	// First be counted, then have a channel, then ask: whoever makes a change
	// after the question sees the count and closes the channel.
	n.waiting.Add(1)
	defer n.waiting.Add(-1)
	for {
		changed := n.next()
		if ready() {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// next returns the channel that the next notify closes.
func (n *notifier) next() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.changed == nil {
		n.changed = make(chan struct{})
	}
	return n.changed
}
