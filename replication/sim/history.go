package sim

import (
	"math"
	"time"

	"github.com/anishathalye/porcupine"
)

// opKind is what an operation of a client's is.
type opKind int

const (
	opAppend opKind = iota
	opRead
	opBarrier
)

// operation is one of a client's, for porcupine.
type operation struct {
	client  int
	kind    opKind
	values  []string
	called  time.Duration
	at      time.Duration // when it returned; 0: it did not
	offset  uint64
	count   int
	refused bool // it surely was not appended
}

func (o *operation) finish(at time.Duration, offset uint64, count int) {
	o.at, o.offset, o.count = at, offset, count
}

// history is what clients have done.
type history struct{ operations []*operation }

// call notes that a client calls, and returns the operation's number.
func (c *client) call(kind opKind, values []string) int {
	c.operations = append(c.operations, &operation{client: c.id, kind: kind, values: values, called: c.now})
	return len(c.operations) - 1
}

// returned notes how a request to append has ended.
func (c *client) returned(r *request, first uint64, err error) {
	o := c.operations[r.op]
	if err == nil {
		o.finish(c.now, first, len(r.values))
	} else if !maybe(err) {
		o.refused = true
	}
}

// model is a log as clients see it, of which only the length can differ: what is at an
// offset is known. An append makes it longer, from the offset it was given on; a read finds
// it longer than the offset; a barrier finds its end. So it is linearizable if there is an
// order of all operations, in which none comes before one that had returned when it was
// called, and each finds the log as it says.
var model = porcupine.Model{
	Init: func() any { return uint64(0) },
	Step: func(state, input, output any) (bool, any) {
		length, o := state.(uint64), input.(*operation)
		switch o.kind {
		case opAppend:
			return length == o.offset, length + uint64(o.count)
		case opRead:
			return length > o.offset, length
		}
		return length == o.offset, length
	},
}

// checkHistory checks that what clients have seen is linearizable.
func (w *world) checkHistory() {
	var ops []porcupine.Operation
	for _, o := range w.operations {
		end := int64(o.at)
		if o.kind == opAppend {
			at, ok := w.where[o.values[0]]
			if o.refused && ok {
				w.violated("%q is at %d, and was refused", o.values[0], at)
			}
			if !ok && o.at > 0 {
				w.violated("%q was acknowledged, and is not in the log", o.values[0])
			}
			if !ok {
				continue // it never took effect
			}
			o.offset, o.count = at, len(o.values)
			if o.at == 0 {
				end = math.MaxInt64 // it took effect some time
			}
		} else if o.at == 0 {
			continue // it has seen nothing
		}
		ops = append(ops, porcupine.Operation{ClientId: o.client, Input: o, Call: int64(o.called), Return: end})
	}
	switch porcupine.CheckOperationsTimeout(model, ops, 30*time.Second) {
	case porcupine.Illegal:
		w.violated("what the clients have seen is not linearizable")
	case porcupine.Unknown:
		w.stats.Unchecked++
	}
}
