package sim

import (
	"errors"
	"fmt"
	"time"

	"github.com/zue-log/zue/replication/core"
	"github.com/zue-log/zue/replication/history"
	"github.com/zue-log/zue/replication/producer"
	"github.com/zue-log/zue/storage"
	"github.com/zue-log/zue/storage/batch"
)

// client makes one request at a time.
type client struct {
	*world
	id     int
	sent   int // values
	target int // of nodes
	busy   bool
	turn   uint64 // tells the answers to its request from those to earlier ones

	producer int64 // its id; -1: none yet
	sequence int32
	// probing is called instead of making another request; nil: it is not.
	probing func()
}

const clientPatience = 4 * time.Second

// next has the client make its next request, unless it is to stop.
func (c *client) next() {
	c.busy = false
	if c.stop {
		return
	}
	c.busy = true
	switch k := c.rng.IntN(20); {
	case k < 8:
		c.append(&request{})
	case k < 14 && !c.plan.retention: // which makes producers be forgotten
		c.idempotent()
	case k < 15:
		c.append(&request{conditional: true, end: uint64(max(0, len(c.values)-c.rng.IntN(2)))})
	case k < 18:
		c.read()
	default:
		c.barrier()
	}
}

// done ends a request.
func (c *client) done() {
	c.turn++
	if c.probing != nil {
		c.probing()
		return
	}
	c.after(c.between(0, 300*time.Millisecond), c.next)
}

// node returns the node that the client talks to.
func (c *client) node() *node { return c.nodes[c.target%len(c.nodes)] }

// ask has do happen at the client's node, which gets to call answer at the client; when no
// answer comes in time, lost is called.
func (c *client) ask(do func(n *node, answer func(func())), lost func()) {
	c.turn++
	turn, n := c.turn, c.node()
	c.after(clientPatience, func() {
		if c.turn == turn {
			c.turn++
			c.target++
			lost()
		}
	})
	if c.chance(c.plan.loss) {
		return
	}
	c.after(c.between(0, c.plan.delay), func() {
		if n.core == nil {
			return
		}
		n.ifAlive(n.life, func() {
			do(n, func(f func()) {
				if c.chance(c.plan.loss) {
					return
				}
				c.after(c.between(0, c.plan.delay), func() {
					if c.turn == turn {
						c.turn++ // patience has not run out
						f()
					}
				})
			})
			n.drain()
		})
	})
}

// request is what a client wants appended.
type request struct {
	values      []string
	body        []byte
	conditional bool
	end         uint64
	retried     bool // an idempotent one
	op          int  // in the history
}

// make makes the batch of a request.
func (c *client) make(r *request) {
	records := make([]batch.Record, 1+c.rng.IntN(4))
	for i := range records {
		c.sent++
		value := fmt.Sprintf("%d.%d", c.id, c.sent)
		if c.rng.IntN(20) == 0 {
			value += fmt.Sprintf(":%0*d", c.rng.IntN(6000), 0)
		}
		r.values = append(r.values, value)
		records[i].Value = []byte(value)
	}
	r.body = batch.Append(nil, records, 1+c.now.Milliseconds())
}

// append appends a new batch, once.
func (c *client) append(r *request) {
	c.make(r)
	r.op = c.call(history.Append, r.values)
	c.tryAppend(r, func(err error) { c.returned(r, 0, err) }, c.done)
}

// tryAppend sends a request to append. failed is called when it surely or perhaps was not
// appended, and then after.
func (c *client) tryAppend(r *request, failed func(error), after func()) {
	c.stats.Appends++
	c.ask(func(n *node, answer func(func())) {
		a := &core.Append{Body: r.body, Checksum: batch.Checksum(r.body), Conditional: r.conditional, EndOffset: r.end}
		a.Tag = func(a *core.Append) {
			answer(func() {
				if a.Err != nil {
					c.follow(a)
					failed(a.Err)
					after()
					return
				}
				if a.Duplicate {
					c.stats.Duplicates++
				}
				c.acknowledged(r, a.First)
				c.done()
			})
		}
		n.core.Append(a)
	}, func() {
		failed(errLost)
		after()
	})
}

var errLost = errors.New("no answer")

// follow has the client talk to the leader.
func (c *client) follow(a *core.Append) {
	if a.Leader > 0 {
		c.target = int(a.Leader) - 1
	} else {
		c.target++
	}
}

// acknowledged checks an offset that was given to a request.
func (c *client) acknowledged(r *request, first uint64) {
	for i, v := range r.values {
		if got := c.values[first+uint64(i)]; got != v && !(got == "" && c.unread[first]) {
			c.violated("client %d is told that %q is at %d, where %q is", c.id, v, first+uint64(i), got)
		}
	}
	if r.conditional && first != r.end {
		c.violated("client %d appended at %d, on the condition that it be %d", c.id, first, r.end)
	}
	c.returned(r, first, nil)
	if r.retried {
		c.sequence += int32(len(r.values))
	}
}

// idempotent appends a batch, as often as it takes.
func (c *client) idempotent() {
	if c.producer < 0 {
		c.ask(func(n *node, answer func(func())) {
			n.core.Append(&core.Append{Tag: func(a *core.Append) {
				answer(func() {
					if a.Err == nil {
						c.producer, c.sequence = int64(a.Index), 0
						for _, other := range c.clients {
							if other != c && other.producer == c.producer {
								c.violated("producer %d is given out twice", c.producer)
							}
						}
					} else {
						c.follow(a)
					}
					c.done()
				})
			}})
		}, c.done)
		return
	}
	r := &request{retried: true}
	c.make(r)
	if err := batch.SetProducer(r.body, c.producer, 0, c.sequence); err != nil {
		c.violated("%v", err)
	}
	r.op = c.call(history.Append, r.values)
	c.retry(r)
}

func (c *client) retry(r *request) {
	c.tryAppend(r, func(err error) {
		if errors.Is(err, producer.ErrGap) || errors.Is(err, producer.ErrForgotten) || errors.Is(err, producer.ErrFenced) {
			c.violated("client %d, sequence %d: %v", c.id, c.sequence, err)
		}
	}, func() {
		c.after(c.between(0, 500*time.Millisecond), func() { c.retry(r) })
	})
}

// read reads a record anywhere: it is there, and what was committed, or not there.
func (c *client) read() {
	offset := uint64(c.rng.IntN(len(c.values) + 3))
	c.target = c.rng.IntN(len(c.nodes))
	op := c.call(history.Read, nil)
	c.ask(func(n *node, answer func(func())) {
		rec, lease, err := n.log.Read(offset)
		value := ""
		if err == nil {
			value = string(rec.Value)
			lease.Release()
		} else if !errors.Is(err, storage.ErrOutOfRange) && !n.damaged {
			c.violated("node %d: read %d: %v", n.id, offset, err)
		}
		answer(func() {
			c.stats.Reads++
			if err == nil {
				if c.values[offset] != value && !n.damaged {
					c.violated("client %d reads %q at %d, where %q is", c.id, value, offset, c.values[offset])
				}
				c.answered(op, offset)
			}
			c.done()
		})
	}, c.done)
}

// barrier asks for an end offset that is not stale.
func (c *client) barrier() {
	op := c.call(history.Barrier, nil)
	c.ask(func(n *node, answer func(func())) {
		n.core.Barrier(&core.Barrier{Tag: func(b *core.Barrier) {
			answer(func() {
				if b.Err == nil {
					c.stats.Barriers++
					c.answered(op, b.End)
				}
				c.done()
			})
		}})
	}, c.done)
}

// probe appends until that succeeds, beginning with the end of all faults.
func (w *world) probe() {
	c := &client{world: w, id: len(w.clients), producer: -1}
	var try func()
	try = func() {
		r := &request{}
		c.make(r)
		r.op = c.call(history.Append, r.values)
		c.tryAppend(r, func(err error) { c.returned(r, 0, err) }, func() { c.after(100*time.Millisecond, try) })
	}
	c.probing = func() { w.probed = true }
	w.after(0, try)
}

// maybe says whether an append that has failed may be in the log.
func maybe(err error) bool {
	return err == errLost || errors.Is(err, core.ErrQuorumFailed) || errors.Is(err, core.ErrReplicationTimeout) || errors.Is(err, core.ErrStopped)
}
