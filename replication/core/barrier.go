package core

import (
	"encoding/binary"
	"errors"
	"slices"

	"go.etcd.io/raft/v3"
)

// ErrNoLeader says that a barrier found nobody who leads in time.
var ErrNoLeader = errors.New("no leader has answered in time")

// Barrier is a request for an end offset that is not stale: all that was acknowledged, to
// anyone, before it was made lies below.
type Barrier struct {
	// Tag is the caller's.
	Tag any

	// End is the offset; Err says why there is none. [Output.Barriers] has both.
	End uint64
	Err error

	id    [24]byte
	index uint64 // 0: raft has not said yet
	since uint64
	asked uint64 // tick at which raft was; 0: it was not
}

// maxBarriers bounds how many wait.
const maxBarriers = 10_000

// Barrier takes a request for a barrier.
func (c *Core) Barrier(b *Barrier) {
	defer c.guard()
	switch {
	case c.err != nil || c.closing:
		b.Err = ErrStopped
	case len(c.barriers) >= maxBarriers:
		b.Err = ErrOverloaded
	}
	if b.Err != nil {
		c.answerBarrier(b)
		return
	}
	b.since = c.ticks
	c.barriers = append(c.barriers, b)
	c.ask(b)
}

// ask asks raft for the commit index of a leader that is one. It may not answer.
func (c *Core) ask(b *Barrier) {
	if c.rn == nil || !c.mayAnswerReadIndex() {
		return // the next tick asks again
	}
	b.asked = c.ticks
	// No other question of anyone must have the same id: the leader keeps them by that.
	c.sequence++
	binary.LittleEndian.PutUint64(b.id[:], uint64(c.st.self))
	binary.LittleEndian.PutUint64(b.id[8:], c.nonce)
	binary.LittleEndian.PutUint64(b.id[16:], c.sequence)
	c.rn.ReadIndex(b.id[:])
}

// mayAnswerReadIndex says whether this node, if it leads, knows what was committed before. A
// single voter's raft answers at once, by a commit that was saved long ago.
func (c *Core) mayAnswerReadIndex() bool {
	c.pump()
	if c.err != nil || c.rn == nil {
		return false
	}
	if c.role != raft.StateLeader || planted("barrier before commit") {
		return true
	}
	p, err := c.placeAfter(c.visible)
	return err == nil && p.Term == c.term
}

// barrierAt notes raft's answer.
func (c *Core) barrierAt(s raft.ReadState) {
	for _, b := range c.barriers {
		if string(b.id[:]) == string(s.RequestCtx) {
			b.index = s.Index
		}
	}
}

// answerBarrier gives a barrier its outcome.
func (c *Core) answerBarrier(b *Barrier) {
	if _, own := b.Tag.(*doubt); own {
		c.doubts = append(c.doubts, b)
		return
	}
	c.out.Barriers = append(c.out.Barriers, b)
}

// doubt is the tag of a barrier of the core's own, by which it finds out whether it still leads
// before it refuses a producer's batch for good: a leader that another one has succeeded does not
// know of what that one has taken.
type doubt struct{ append *Append }

// settleDoubts goes on with the appends that had to wait for that.
func (c *Core) settleDoubts() {
	defer c.guard()
	doubts := c.doubts
	c.doubts = nil
	for _, b := range doubts {
		a := b.Tag.(*doubt).append
		if b.Err != nil || c.closing {
			c.refuse(a, ErrNotLeader)
			continue
		}
		c.propose(a)
	}
}

// answerBarriers answers those whose entries readers see.
func (c *Core) answerBarriers() {
	c.barriers = slices.DeleteFunc(c.barriers, func(b *Barrier) bool {
		if b.index == 0 || b.index > c.visible {
			return false
		}
		b.End = c.log.EndOffset()
		c.answerBarrier(b)
		return true
	})
}

// expireBarriers asks again, since questions and answers get lost, and gives up in time.
func (c *Core) expireBarriers() {
	c.barriers = slices.DeleteFunc(c.barriers, func(b *Barrier) bool {
		if c.ticks-b.since >= uint64(c.cfg.TimeoutTicks) {
			b.Err = ErrNoLeader
			c.answerBarrier(b)
			return true
		}
		return false
	})
	for _, b := range slices.Clone(c.barriers) { // which answers change
		if b.index == 0 && (b.asked == 0 || c.ticks-b.asked >= uint64(c.cfg.ElectionTicks)) {
			c.ask(b)
		}
	}
}
