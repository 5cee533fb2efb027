package replication

import (
	"context"
	"sync/atomic"

	"github.com/zue-log/zue/replication/core"
)

const (
	// maxFeed bounds the messages that wait for a feed: more than raft has under way to a node.
	maxFeed = 256
	// maxUnsent bounds the bytes that a feed has handed to the transport and that are not sent
	// yet: enough for the network to be busy while the next are read, and no more, since they
	// are of no use if the connection is lost.
	maxUnsent = 4 << 20
)

// feed sends one node what must be read from the log first, and what may not overtake that. It
// has a goroutine of its own, so that neither the disk nor the network of a node that is behind
// has anybody else wait.
type feed struct {
	node  *Node
	queue chan fed
	// waiting is how many messages there are that the transport does not have yet. The node's
	// goroutine adds to it, so where it finds none it may send past the feed.
	waiting atomic.Int64
	// lost counts how often messages to the node got lost: then all that wait are useless, since
	// raft begins again behind what the node has.
	lost   atomic.Uint64
	unsent atomic.Int64
	sent   chan struct{} // has one when unsent has become less
}

// fed is a message that waits, and lost as it was then.
type fed struct {
	message *core.Message
	lost    uint64
}

func newFeed(n *Node) *feed {
	return &feed{node: n, queue: make(chan fed, maxFeed), sent: make(chan struct{}, 1)}
}

// put hands a message over; false says that there is no room.
func (f *feed) put(m *core.Message) bool {
	f.waiting.Add(1)
	select {
	case f.queue <- fed{m, f.lost.Load()}:
		return true
	default:
		f.waiting.Add(-1)
		return false
	}
}

// run is the feed's goroutine, until its queue is closed; messages are dropped when ctx has ended.
func (f *feed) run(ctx context.Context) {
	for next := range f.queue {
		if ctx.Err() == nil && next.lost == f.lost.Load() {
			f.send(ctx, next.message)
		}
		f.waiting.Add(-1)
	}
}

func (f *feed) send(ctx context.Context, m *core.Message) {
	n := f.node
	if !m.Stored() {
		n.opts.Transport.Send([]*core.Message{m}, nil)
		return
	}
	// Before they are read: what has been verified is not to wait.
	if m.Behind() && n.pace.wait(ctx) != nil || !f.room(ctx) {
		return
	}
	loaded, release, err := m.Load(n.log)
	if err != nil {
		f.lost.Add(1)
		_ = n.submit(ctx, func(c *core.Core) { c.Unloaded(m, err) }) // if it has ended, nobody need know
	}
	if loaded == nil {
		return
	}
	size := loaded.Bytes()
	if m.Behind() {
		n.pace.spend(size)
	}
	f.unsent.Add(int64(size))
	n.opts.Transport.Send([]*core.Message{loaded}, func() {
		release()
		f.unsent.Add(int64(-size))
		select {
		case f.sent <- struct{}{}:
		default: // it knows
		}
	})
}

// room waits until little is unsent; false says that ctx has ended.
func (f *feed) room(ctx context.Context) bool {
	for f.unsent.Load() > maxUnsent {
		select {
		case <-f.sent:
		case <-ctx.Done():
			return false
		}
	}
	return true
}
