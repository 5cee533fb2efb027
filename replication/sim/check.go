package sim

import (
	"context"
	"slices"
	"time"

	"github.com/zue-log/zue/replication/core"
	"github.com/zue-log/zue/replication/history"
	"github.com/zue-log/zue/storage"
)

// checker is what is known of the cluster as a whole.
type checker struct {
	// places are behind committed entries, as who was first has shown them; values are
	// their records', by offset.
	places        map[uint64]storage.Place
	values        map[uint64]string
	where         map[string]uint64 // offsets of values
	lastCommitted uint64
	leaders       map[uint64]core.PeerID // by term
	// acked is the last entry of which an append was acknowledged.
	acked      storage.Place
	probed     bool
	unread     map[uint64]bool // offsets that only a damaged node has shown
	operations []*history.Operation
}

func newChecker() checker {
	return checker{
		places: map[uint64]storage.Place{}, values: map[uint64]string{}, where: map[string]uint64{},
		leaders: map[uint64]core.PeerID{}, unread: map[uint64]bool{},
	}
}

// debts are what a node has made durable, and so must still have after a crash.
type debts struct {
	chains map[uint64]uint64 // of entries, by index
	last   uint64            // the largest
	former map[uint64]uint64 // what it had before its disk was taken away
	lostAt time.Duration     // when that was, last
	// begunTerms are of entries that may be durable, too, by index; takenFrom is from where
	// on a write that has begun takes entries back: 0, none does.
	begunTerms map[uint64]uint64
	takenFrom  uint64
	blind      uint64 // up to where entries may have been durable that are damaged
	damaged    bool   // a bit was flipped: nothing is owed
	flipped    uint64 // in that life
	shown      uint64 // up to where it was checked what readers see
}

// owe notes what a write that is to begin takes back.
func (n *node) owe(w *core.Write) {
	if p := w.Reset(); p != nil {
		n.stats.Resets++
		n.shown = 0
		n.chains, n.last = map[uint64]uint64{}, 0
		n.takenFrom = 1
		return
	}
	if n.begunTerms == nil {
		n.begunTerms = map[uint64]uint64{}
	}
	first, _ := w.Span()
	defer func() {
		for _, e := range w.Entries() {
			n.begunTerms[e.Index] = e.Term
		}
	}()
	if w.TakesBack() {
		n.stats.Truncations++
		// One that a leader before the last has had may be committed by others meanwhile, and
		// not on the word of this node, which hears of the leader in between first.
		if p, ok := n.places[first]; ok && n.chains[first] == p.Chain && n.durableOn(p)-1 < n.majority() {
			n.violated("node %d removes entry %d, which is committed, and has it on %d other nodes only", n.id, first, n.durableOn(p)-1)
		}
		// If that fails half-way, all of it may be there yet.
		n.takenFrom = first
		for i := first; i <= n.last; i++ {
			delete(n.chains, i)
		}
		n.last = min(n.last, first-1)
	}
}

// paid notes that a write is durable.
func (n *node) paid(w *core.Write) {
	if w.TakesBack() {
		n.takenFrom, n.begunTerms = 0, map[uint64]uint64{}
		for _, w := range n.writes[:n.begun] {
			for _, e := range w.Entries() {
				n.begunTerms[e.Index] = e.Term
			}
		}
	}
	if p := w.Reset(); p != nil {
		n.chains = map[uint64]uint64{p.Index: p.Chain}
		n.last = p.Index
	}
	if first, last := w.Span(); first > 0 {
		n.note("%d: durable up to %d", n.id, last)
		n.notePaid(first, last)
	}
}

// notePaid notes entries that are durable.
func (n *node) notePaid(first, last uint64) {
	if n.chains == nil {
		n.chains = map[uint64]uint64{}
	}
	for i := first; i <= last; i++ {
		p, err := n.log.PlaceAfter(i)
		if err != nil {
			if n.damaged {
				n.blind = max(n.blind, i) // it was made durable, and damaged
				continue
			}
			n.violated("node %d: entry %d, which is durable: %v", n.id, i, err)
		}
		n.chains[i] = p.Chain
	}
	n.last = last
}

// collect checks that a log that was just opened has what it owes. Opening has made durable
// what it has.
func (n *node) collect() {
	first, last := n.log.FirstPlace(), n.log.LastPlace()
	if n.last > 0 && !n.damaged {
		p, err := n.log.PlaceAfter(n.last)
		if err != nil || p.Chain != n.chains[n.last] {
			n.violated("node %d owes entry %d: has %+v to %+v, %v", n.id, n.last, first, last, err)
		}
	}
	if n.takenFrom == 0 && !n.damaged {
		for i := max(n.last, first.Index) + 1; i <= last.Index; i++ {
			if p, err := n.log.PlaceAfter(i); err == nil && p.Term != n.begunTerms[i] {
				n.violated("node %d has entry %d of term %d, which was taken back or never there", n.id, i, p.Term)
			}
		}
	}
	n.takenFrom, n.begunTerms = 0, nil
	if n.damaged {
		n.formerly() // the end may have been taken for torn: see storage's FORMAT.md
	}
	n.chains = map[uint64]uint64{first.Index: first.Chain}
	n.last = first.Index
	n.notePaid(first.Index+1, last.Index)
}

// formerly notes what was durable, and may not be any more.
func (n *node) formerly() {
	if n.former == nil {
		n.former = map[uint64]uint64{}
	}
	for i, c := range n.chains {
		n.former[i] = c
	}
}

// forget notes that the disk is gone.
func (n *node) forget() {
	n.formerly()
	n.chains, n.last, n.damaged, n.lostAt = nil, 0, false, n.now
	n.begunTerms, n.takenFrom = nil, 0
}

// durableOn returns on how many nodes an entry is durable, or was until the disk was gone.
func (w *world) durableOn(p storage.Place) (count int) {
	for _, n := range w.nodes {
		if n.chains[p.Index] == p.Chain || n.former[p.Index] == p.Chain || n.blind >= p.Index {
			count++
		}
	}
	return count
}

// mayLose says whether a node may lose what it has: a majority of the voters, without it, must
// be well, and have all that was acknowledged. So must one of the voters to come, if the leader
// may make one more of a learner at any moment.
func (w *world) mayLose(x *node) bool {
	_, leader, ok := w.leader()
	if !ok || leader.Changing {
		return false
	}
	memberships := [][]core.PeerID{leader.Voters, leader.Outgoing}
	for _, p := range leader.Learners {
		if w.mayGrow(leader.Voters, p) {
			memberships = append(memberships, append(slices.Clone(leader.Voters), p))
		}
	}
	for _, voters := range memberships {
		well := 0
		for _, p := range voters {
			n := w.nodes[p.Node()-1]
			if n == x || n.core == nil {
				continue
			}
			// One that has not heard that a change is complete still goes by the one before.
			if s := n.core.Status(); s.Self == p && !s.Changing && slices.Equal(s.Voters, leader.Voters) && n.well() {
				well++
			}
		}
		if len(voters) > 0 && well < len(voters)/2+1 {
			return false
		}
	}
	return true
}

// mayGrow says whether the leader may make a learner one more voter, by what it may believe of
// those it has: see core's canBeLost. What a node said before it was lost may be under way, and
// then counts for a while.
func (w *world) mayGrow(voters []core.PeerID, learner core.PeerID) bool {
	const longest = 3*time.Second + 2*reportTicks*tick + time.Second
	believed := 0
	for _, p := range voters {
		if p.Node() == learner.Node() {
			return false // it takes the place of that one
		}
		n := w.nodes[p.Node()-1]
		if n.core == nil || n.core.Status().Self == p || w.now-n.lostAt < longest {
			believed++
		}
	}
	return believed >= min((len(voters)+1)/2+1, len(voters))
}

// well says whether a node has all that was acknowledged, and nothing that is damaged.
func (n *node) well() bool {
	return (n.acked.Index == 0 || n.chains[n.acked.Index] == n.acked.Chain) && (!n.damaged || n.heal())
}

// heal says whether a node on whose disk a bit was flipped has nothing that is damaged.
func (n *node) heal() bool {
	if n.life == n.flipped {
		return false // it may be in memory only, as of an index
	}
	if n.whole() && n.log.LastPlace().Index >= n.acked.Index {
		n.damaged = false
	}
	return !n.damaged
}

// whole says whether none of a node's entries is damaged.
func (n *node) whole() bool {
	report, err := n.log.Verify(context.Background(), nil)
	return err == nil && len(report.Damage) == 0
}

// checkNode checks what a node shows after something has happened to it.
func (n *node) checkNode() {
	s := n.core.Status()
	if s.Role == core.RoleLeader {
		if other, ok := n.leaders[s.Term]; !ok {
			n.leaders[s.Term] = s.Self
			n.stats.Elections++
			n.note("%d: leads in term %d", n.id, s.Term)
		} else if other != s.Self {
			n.violated("%v and %v lead in term %d", other, s.Self, s.Term)
		}
	}
	if n.shown == 0 {
		n.shown = n.log.FirstPlace().Index
	}
	if s.Committed < n.shown && s.Committed != 0 && n.shown > n.log.FirstPlace().Index {
		n.violated("node %d: what is committed went back from %d to %d", n.id, n.shown, s.Committed)
	}
	for i := max(n.shown, n.log.FirstPlace().Index) + 1; i <= s.Committed; i++ {
		p, err := n.log.PlaceAfter(i)
		if err != nil {
			if n.damaged || n.fault.off {
				return
			}
			n.violated("node %d shows entry %d: %v", n.id, i, err)
		}
		if known, ok := n.places[i]; ok {
			if known != p {
				n.violated("node %d shows %+v, another has shown %+v", n.id, p, known)
			}
		} else {
			n.learn(i, p)
		}
	}
	n.shown = max(n.shown, s.Committed)
}

// majority returns on how many nodes at least what is committed must be.
func (w *world) majority() int {
	voters := len(w.nodes) // of which some may have been removed
	for _, n := range w.nodes {
		if n.core == nil {
			continue
		}
		if some := len(n.core.Status().Voters); some > 0 {
			voters = min(voters, some)
		}
	}
	if w.stats.Removals > 0 {
		voters-- // a leader that has not applied the last change commits by the membership before
	}
	return voters/2 + 1
}

// learn notes a committed entry that nobody has shown before.
func (n *node) learn(i uint64, p storage.Place) {
	if on := n.durableOn(p); on < n.majority() {
		n.violated("node %d shows entry %d, which is durable on %d nodes; voters there %v, before %v", n.id, i, on, n.core.Status().Voters, n.core.Status().Outgoing)
	}
	entries, lease, err := n.log.ReadEntries(nil, i, i, 1<<30)
	if err != nil {
		if n.damaged {
			return
		}
		n.violated("node %d: read committed entry %d: %v", n.id, i, err)
	}
	defer lease.Release()
	n.places[i] = p
	n.lastCommitted = max(n.lastCommitted, i)
	e := entries[0]
	if e.Kind != storage.KindData {
		return
	}
	r, err := e.Records()
	if err != nil {
		n.violated("node %d: committed entry %d: %v", n.id, i, err)
	}
	for rec := (storage.Record{}); ; {
		more, err := r.Next(&rec)
		if err != nil {
			n.violated("node %d: committed entry %d: %v", n.id, i, err)
		}
		if !more {
			return
		}
		value := string(rec.Value)
		if at, ok := n.where[value]; ok {
			n.violated("%s is at %d and at %d", value, at, rec.Offset)
		}
		if uint64(len(n.values)) != rec.Offset {
			n.violated("offset %d follows on %d records", rec.Offset, len(n.values))
		}
		n.values[rec.Offset], n.where[value] = value, rec.Offset
		n.stats.Records++
	}
}

// checkAppend checks an append's outcome.
func (n *node) checkAppend(a *core.Append) {
	if a.Err != nil {
		if maybe(a.Err) {
			n.stats.Maybe++
		} else {
			n.stats.Refused++
		}
		return
	}
	n.stats.Acknowledged++
	n.note("%d: acknowledges entry %d, offset %d, duplicate %t", n.id, a.Index, a.First, a.Duplicate)
	p, ok := n.places[a.Index]
	if !ok && n.damaged {
		n.unread[a.First] = true
		return // it could not be read, here
	}
	if !ok {
		n.violated("node %d acknowledges entry %d, which nobody shows", n.id, a.Index)
	}
	if on, need := n.durableOn(p), max(n.plan.quorum, n.majority()); on < need || a.Copies < need {
		n.violated("node %d acknowledges entry %d, which is durable on %d nodes: %d copies", n.id, a.Index, on, a.Copies)
	}
	if p.Index > n.acked.Index {
		n.acked = p
	}
}

// checkEnd reads all logs, which agree, whole.
func (w *world) checkEnd() {
	for _, n := range w.nodes {
		first, end := n.log.FirstOffset(), n.log.EndOffset()
		if end != uint64(len(w.values)) {
			w.violated("node %d ends at %d, and %d records are committed", n.id, end, len(w.values))
		}
		for o := first; o < end; o++ {
			rec, lease, err := n.log.Read(o)
			if err != nil {
				if n.damaged {
					break
				}
				w.violated("node %d: read %d: %v", n.id, o, err)
			}
			// A long entry is verified once while the log is open: see storage.Log.Read.
			if string(rec.Value) != w.values[o] && !n.damaged {
				w.violated("node %d has %q at %d, not %q", n.id, rec.Value, o, w.values[o])
			}
			lease.Release()
		}
	}
	w.checkHistory()
}
