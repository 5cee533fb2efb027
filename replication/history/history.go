// Package history checks what clients of a log have seen, in a simulation or of real servers:
// whether there is an order of all that they did in which each finds the log as it says.
package history

import (
	"errors"
	"fmt"
	"time"

	"github.com/anishathalye/porcupine"
)

// Kind is what an [Operation] is.
type Kind int

// Kinds of operations.
const (
	// Append appends values, the first at Offset, one behind the other.
	Append Kind = iota
	// Read finds a record at Offset. Which one is to be checked elsewhere.
	Read
	// Barrier finds that the log ends at Offset, or did when it was called.
	Barrier
)

// Operation is one of a client's, who waits for each before the next.
type Operation struct {
	Client int
	Kind   Kind
	// Values are what is appended: each is unlike all others, in any operation.
	Values []string
	// Called and Returned are times since some moment. Returned is 0 if no answer came, or one
	// that says that the append may be in the log.
	Called, Returned time.Duration
	// Offset is what was answered; of an append Check finds it out.
	Offset uint64
	// Refused says that an append surely was not carried out, by what was answered.
	Refused bool
}

// model is a log as clients see it, of which only the length can differ: what is at an offset
// is known. An append makes it longer, from the offset it was given on; a read finds it longer
// than the offset; a barrier finds its end. So it is linearizable if there is an order of all
// operations, in which none comes before one that had returned when it was called, and each
// finds the log as it says.
var model = porcupine.Model{
	Init: func() any { return uint64(0) },
	Step: func(state, input, output any) (bool, any) {
		length, o := state.(uint64), input.(*Operation)
		switch o.Kind {
		case Append:
			return length == o.Offset, length + uint64(len(o.Values))
		case Read:
			return length > o.Offset, length
		}
		return length == o.Offset, length
	},
}

// maxConfirmed is how many operations porcupine is given: for each it keeps a bit for each, many times.
const maxConfirmed = 50_000

// Check checks operations against where values are in the log in the end, by offset. The error says
// what cannot be. It sets the Offset of appends. Whether there is an order it decides twice: by a
// search for the moments at which operations take effect, which takes little time however many there
// are, and with [porcupine], if there are not too many for its memory, and for at most as long as
// timeout says; confirmed says that porcupine has decided, too.
//
// [porcupine]: https://github.com/anishathalye/porcupine
func Check(operations []*Operation, where map[string]uint64, timeout time.Duration) (confirmed bool, err error) {
	seen, err := effective(operations, where)
	if err == nil {
		err = order(seen)
	}
	if err != nil {
		return false, fmt.Errorf("what the clients have seen is not linearizable: %w", err)
	}
	if len(seen) > maxConfirmed {
		return false, nil
	}
	ops := make([]porcupine.Operation, len(seen))
	for i, o := range seen {
		ops[i] = porcupine.Operation{ClientId: o.Client, Input: o, Call: int64(o.Called), Return: int64(o.Returned)}
		if o.Returned == 0 {
			ops[i].Return = int64(never) // it took effect some time
		}
	}
	result := porcupine.CheckOperationsTimeout(model, ops, timeout)
	if result == porcupine.Illegal {
		return true, errors.New("what the clients have seen is not linearizable, says porcupine")
	}
	return result == porcupine.Ok, nil
}

// effective returns the operations that have had an effect, or have seen one, and sets the Offset of
// appends.
func effective(operations []*Operation, where map[string]uint64) (seen []*Operation, err error) {
	for _, o := range operations {
		if o.Kind == Append {
			at, ok := where[o.Values[0]]
			switch {
			case o.Refused && ok:
				return nil, fmt.Errorf("%q is at %d, and was refused", o.Values[0], at)
			case !ok && o.Returned > 0 && !o.Refused:
				return nil, fmt.Errorf("%q was acknowledged, and is not in the log", o.Values[0])
			case !ok:
				continue // it never took effect
			case o.Returned > 0 && o.Offset != at:
				return nil, fmt.Errorf("%q was acknowledged at %d, and is at %d", o.Values[0], o.Offset, at)
			}
			o.Offset = at
		} else if o.Returned == 0 {
			continue // it has seen nothing
		}
		seen = append(seen, o)
	}
	return seen, nil
}
