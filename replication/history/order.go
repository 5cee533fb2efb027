package history

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"
)

// never is when an append returned of which nobody was told.
const never = time.Duration(math.MaxInt64)

// order decides whether operations, of which the appends have their Offset, are linearizable. It can
// do so for millions, which porcupine cannot, since where each append comes is known: to look for an
// order is only to look for moments.
//
// Each append takes effect at a moment between its call and its return, and none before that of the
// append with the offsets before. A barrier that found offset e takes effect behind the append that
// ends there, and before the one that begins there; a read of offset o behind the append that has it.
// If each append takes effect as early as that allows, and is still too late for somebody, then it
// is in any order: whoever is early cannot make another one late.
func order(operations []*Operation) error {
	byOffset := func(a, b *Operation) int { return cmp.Compare(a.Offset, b.Offset) }
	kinds := map[Kind][]*Operation{}
	for _, o := range operations {
		kinds[o.Kind] = append(kinds[o.Kind], o)
	}
	for _, ops := range kinds {
		slices.SortStableFunc(ops, byOffset)
	}
	barriers, reads := kinds[Barrier], kinds[Read]
	length, now := uint64(0), time.Duration(math.MinInt64) // when it came to that
	// see has the barriers of that length take effect, each for itself, and what comes behind all.
	see := func() error {
		since := now
		for ; len(barriers) > 0 && barriers[0].Offset <= length; barriers = barriers[1:] {
			b := barriers[0]
			if b.Offset < length {
				return fmt.Errorf("a barrier found %d, where no append ends", b.Offset)
			}
			if since > b.Returned {
				return fmt.Errorf("client %d's barrier of %v to %v found %d, which the log had at %v at the earliest", b.Client, b.Called, b.Returned, b.Offset, since)
			}
			now = max(now, b.Called)
		}
		return nil
	}
	for _, a := range kinds[Append] {
		if err := see(); err != nil {
			return err
		}
		if a.Offset != length {
			return fmt.Errorf("%q is at %d, and the log before it ends at %d", a.Values[0], a.Offset, length)
		}
		returned := a.Returned
		if returned == 0 {
			returned = never
		}
		if now = max(now, a.Called); now > returned {
			return fmt.Errorf("%q was appended at %d from %v to %v, and what came before it or was seen before it is of %v at the earliest", a.Values[0], a.Offset, a.Called, returned, now)
		}
		length += uint64(len(a.Values))
		for ; len(reads) > 0 && reads[0].Offset < length; reads = reads[1:] {
			if r := reads[0]; now > r.Returned {
				return fmt.Errorf("client %d's read of %v to %v found offset %d, which is of %v at the earliest", r.Client, r.Called, r.Returned, r.Offset, now)
			}
		}
	}
	if err := see(); err != nil {
		return err
	}
	for _, late := range [][]*Operation{barriers, reads} {
		if len(late) > 0 {
			return fmt.Errorf("offset %d was found, and the log ends at %d", late[0].Offset, length)
		}
	}
	return nil
}
