package sim

import (
	"reflect"
	"slices"
	"time"

	"github.com/zue-log/zue/replication/core"
)

// Stats counts what has happened in a run.
type Stats struct {
	Simulated, Settled                                  time.Duration
	Messages, Lost, Doubled, Held                       int
	Loaded, Unloaded                                    int // messages whose entries were read from the log, or could not be
	Crashes, Kills, Stops, Halts, DiskErrors, FullDisks int
	Stalls, Wipes, Flips, Cuts, Transfers, Blackouts    int
	FailedBoots, Repairs, Mended                        int
	Unconfirmed                                         int // histories that porcupine has not decided
	Elections, Removals, Truncations, Resets            int
	Appends, Acknowledged, Maybe, Refused               int
	Duplicates, Reads, Barriers, Records                int
}

// every has do happen again and again, with such a time in between on average.
func (w *world) every(mean time.Duration, do func()) {
	if mean == 0 {
		return
	}
	w.after(time.Duration(w.rng.ExpFloat64()*float64(mean)), func() {
		if !w.calm {
			do()
			w.every(mean, do)
		}
	})
}

// some returns any node that is up; nil if none is.
func (w *world) some() *node {
	if n := w.nodes[w.rng.IntN(len(w.nodes))]; n.core != nil {
		return n
	}
	return nil
}

// onSome has do happen to nodes that are up, now and then.
func (w *world) onSome(mean time.Duration, do func(n *node)) {
	w.every(mean, func() {
		if n := w.some(); n != nil {
			do(n)
		}
	})
}

func (w *world) scheduleFaults() {
	p := w.plan
	w.onSome(p.crashes, func(n *node) {
		if w.rng.IntN(2) == 0 {
			n.crash()
			return
		}
		n.fault.left, n.fault.once = 1+w.rng.IntN(40), false
	})
	w.onSome(p.kills, func(n *node) {
		if w.rng.IntN(3) == 0 {
			n.halt()
		} else {
			n.kill()
		}
	})
	w.onSome(p.halts, func(n *node) {
		n.pausedUntil = w.now + w.between(0, 5*time.Second)
		w.stats.Halts++
		w.note("%d: paused until %v", n.id, n.pausedUntil)
	})
	w.onSome(p.errors, func(n *node) { n.fault.left, n.fault.once = 1+w.rng.IntN(40), true })
	w.onSome(p.fulls, func(n *node) {
		n.fault.full = true
		w.after(w.between(0, 5*time.Second), func() { n.fault.full = false })
	})
	w.every(p.wipes, func() {
		if n := w.nodes[w.rng.IntN(len(w.nodes))]; w.mayLose(n) {
			n.wipe()
		}
	})
	w.every(p.flips, func() {
		if n := w.nodes[w.rng.IntN(len(w.nodes))]; w.mayLose(n) {
			n.flip()
		}
	})
	w.onSome(p.moves, func(n *node) {
		if to, err := n.core.Transfer(core.NodeID(w.rng.IntN(len(w.nodes) + 1))); err == nil {
			w.stats.Transfers++
			w.note("%d: hands over to %d", n.id, to)
		}
		n.drain()
	})
	w.every(p.reshape, w.reshape)
	w.readmit()
	w.every(p.cuts, w.partition)
	if p.blackout {
		w.every(20*time.Second, func() {
			w.stats.Blackouts++
			for _, n := range w.nodes {
				if n.core != nil {
					n.crash()
				}
			}
		})
	}
}

// leader returns what the newest leader says of the cluster; false if there is none.
func (w *world) leader() (leader *node, s core.Status, ok bool) {
	for _, n := range w.nodes {
		if n.core == nil {
			continue
		}
		if st := n.core.Status(); st.Role == core.RoleLeader && st.Term > s.Term {
			leader, s, ok = n, st, true
		}
	}
	return leader, s, ok
}

// reshape removes a node from the membership.
func (w *world) reshape() {
	x := w.nodes[w.rng.IntN(len(w.nodes))]
	leader, _, ok := w.leader()
	if !ok || leader == x || w.now < leader.pausedUntil || !w.mayLose(x) || leader.core.Remove(x.id) != nil {
		return
	}
	w.stats.Removals++
	w.note("%d: removes %d", leader.id, x.id)
	x.removed = true
	leader.drain()
}

// readmit has nodes that were removed come back, with empty disks.
func (w *world) readmit() {
	w.after(time.Second, w.readmit)
	_, s, ok := w.leader()
	if !ok || s.Changing {
		return
	}
	for _, x := range w.nodes {
		if !x.removed {
			continue
		}
		member := false
		for _, p := range slices.Concat(s.Voters, s.Learners) {
			member = member || p.Node() == x.id
		}
		for _, n := range w.nodes {
			if n.core != nil {
				n.core.Allow(x.id)
			}
		}
		if !member && x.core != nil && x.core.Status().Role != core.RoleWaiting && x.core.Status().Role != core.RoleJoining && (w.calm || w.rng.IntN(3) == 0) {
			x.wipe()
		}
	}
}

// handOver has whoever leads hand over to a node.
func (w *world) handOver(id core.NodeID) {
	for _, n := range w.nodes {
		if n.core == nil || w.now < n.pausedUntil {
			continue
		}
		if to, err := n.core.Transfer(id); err == nil {
			w.stats.Transfers++
			w.note("%d: hands over to %d", n.id, to)
			n.drain()
		}
	}
}

// partition cuts the network, both ways or one, for a while.
func (w *world) partition() {
	w.stats.Cuts++
	clear(w.cut)
	if w.rng.IntN(3) == 0 {
		return
	}
	oneWay := w.rng.IntN(3) == 0
	side := w.rng.IntN(1 << len(w.nodes))
	for _, n := range w.nodes { // a leader that is alone gets a tail that nobody else has
		if n.core != nil && w.rng.IntN(2) == 0 && n.core.Status().Role == core.RoleLeader {
			side = 1 << (n.id - 1)
			w.after(w.between(0, 15*time.Second), func() { w.handOver(n.id) }) // it may lead again, without it
		}
	}
	for a := range len(w.nodes) {
		for b := range len(w.nodes) {
			if x, y := side>>a&1, side>>b&1; x != y && (!oneWay || x == 1) {
				w.cut[[2]core.NodeID{core.NodeID(a + 1), core.NodeID(b + 1)}] = true
			}
		}
	}
	w.note("cut: side %b, one way: %t", side, oneWay)
	w.after(w.between(0, 10*time.Second), func() { clear(w.cut) })
}

// Add adds up what has happened in two runs.
func (s *Stats) Add(o *Stats) {
	to, from := reflect.ValueOf(s).Elem(), reflect.ValueOf(o).Elem()
	for i := range to.NumField() {
		to.Field(i).SetInt(to.Field(i).Int() + from.Field(i).Int())
	}
}
