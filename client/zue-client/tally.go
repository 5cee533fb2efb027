package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/zue-log/zue/client"
)

// tally counts what became of the lines of --stdin. Answers come in the order of
// the lines; lines are counted from 1.
type tally struct {
	answered uint64 // lines whose fate is settled, one way or another

	stored      uint64 // lines that are surely stored
	first, last uint64 // the first and last of their offsets
	bytes       uint64 // their bytes in the input

	prefix     uint64 // lines 1 to prefix are surely stored
	prefixLast uint64 // the offset of line prefix

	failedLine uint64 // the first that is not surely stored; 0: none
	failure    error  // and why

	unknown   uint64 // lines of which nobody knows
	lastMaybe uint64 // no line after this one is stored
}

// add settles the next line, which took up size bytes of the input.
func (t *tally) add(offset uint64, size int, err error) {
	t.answered++
	if err == nil {
		if t.stored == 0 {
			t.first = offset
		}
		t.last = offset
		t.stored++
		t.bytes += uint64(size)
		t.lastMaybe = t.answered
		if t.failedLine == 0 {
			t.prefix, t.prefixLast = t.answered, offset
		}
		return
	}
	if t.failedLine == 0 {
		t.failedLine, t.failure = t.answered, err
	}
	if !errors.Is(err, client.ErrNotApplied) {
		t.unknown++
		t.lastMaybe = t.answered
	}
}

// maybe returns the lines, from one to another, of which at least one may be stored,
// but not each surely is; 0 and 0 when there are none.
func (t *tally) maybe() (from, to uint64) {
	if t.lastMaybe == t.prefix {
		return 0, 0
	}
	return t.prefix + 1, t.lastMaybe
}

// report says which lines are stored, which are not, and of which it is unknown,
// when not all of the input was stored.
func (t *tally) report() string {
	var b strings.Builder
	switch t.prefix {
	case 0:
		b.WriteString("0 lines are surely stored")
	case 1:
		fmt.Fprintf(&b, "1 line is surely stored, at offset %d", t.first)
	default:
		fmt.Fprintf(&b, "%d lines are surely stored, at offsets %d to %d", t.prefix, t.first, t.prefixLast)
	}
	if from, to := t.maybe(); from > 0 {
		tail := to - from + 1
		later := t.stored - t.prefix
		if t.unknown == tail {
			fmt.Fprintf(&b, "\nfrom line %d to line %d it is unknown", from, to)
		} else {
			fmt.Fprintf(&b, "\nof lines %d to %d, %d are stored, %d are not, and of %d it is unknown",
				from, to, later, tail-later-t.unknown, t.unknown)
		}
	}
	fmt.Fprintf(&b, "\nfrom line %d on nothing is stored", t.lastMaybe+1)
	return b.String()
}
