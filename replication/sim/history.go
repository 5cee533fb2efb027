package sim

import (
	"time"

	"github.com/zue-log/zue/replication/history"
)

// call notes that a client calls, and returns the operation's number.
func (c *client) call(kind history.Kind, values []string) int {
	c.operations = append(c.operations, &history.Operation{Client: c.id, Kind: kind, Values: values, Called: c.now})
	return len(c.operations) - 1
}

// answered notes what a client was answered.
func (c *client) answered(op int, offset uint64) {
	o := c.operations[op]
	o.Returned, o.Offset = c.now, offset
}

// returned notes how a request to append has ended.
func (c *client) returned(r *request, first uint64, err error) {
	if err == nil {
		c.answered(r.op, first)
	} else if !maybe(err) {
		c.operations[r.op].Refused = true
	}
}

// checkHistory checks that what clients have seen is linearizable.
func (w *world) checkHistory() {
	confirmed, err := history.Check(w.operations, w.where, 30*time.Second)
	if err != nil {
		w.violated("%v", err)
	}
	if !confirmed {
		w.stats.Unconfirmed++
	}
}
