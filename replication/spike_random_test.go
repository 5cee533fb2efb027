package replication_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
)

// randomRun drives a cluster by chance.
type randomRun struct {
	*cluster
	// old is to be replaced by next, a new id; 0 when no replacement is under way. An old
	// one that was wiped is gone already.
	old, next, ids uint64
}

func newRandomRun(t *testing.T, seed uint64) *randomRun {
	opts := clusterOptions{checks: true, async: seed%2 == 0}
	opts.storage.IndexInterval = 64 << (seed / 2 % 7)
	if seed%3 == 0 {
		opts.storage.RetentionBytes = 5 << 14
	}
	return &randomRun{cluster: newCluster(t, seed, 3, opts), ids: 3}
}

// TestSpikeRandom has everything happen that may, at any moment: after each restart a
// node has what it owes (see debt), each leader has all that is committed, no two nodes
// disagree on what is, and in the end all are equal and have each acknowledged record
// once. A failure names its seed; -spike.seed replays it.
func TestSpikeRandom(t *testing.T) {
	first, n := uint64(1), *spikeSeeds
	if *spikeSeed != 0 {
		first, n = *spikeSeed, 1
	}
	var sum clusterStats
	var committed, proposed int
	for seed := first; seed < first+n; seed++ {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			r := newRandomRun(t, seed)
			r.run()
			sum.add(&r.stats)
			committed += len(r.values)
			proposed += r.sent
		})
	}
	t.Logf("%d records proposed, %d committed; %+v", proposed, committed, sum)
	if n >= 10 && !t.Failed() {
		for what, count := range map[string]int{
			"committed": committed, "crashes": sum.crashes, "faults": sum.faults, "torn": sum.torn, "failed opens": sum.failedOpens, "elections": sum.elections,
			"confs": sum.confs, "snapshots": sum.snapshots, "truncations": sum.truncations, "resets": sum.resets - 3*int(n),
			"pipelined writes": sum.pendingWrites - 1, "pipelined applies": sum.pendingApplies - 1,
		} {
			require.Positive(t, count, what)
		}
	}
}

// Without this no seed could be replayed.
func TestSpikeIsRepeatable(t *testing.T) {
	for seed := uint64(1); seed <= 2; seed++ {
		one, two := newRandomRun(t, seed), (*randomRun)(nil)
		one.run()
		two = newRandomRun(t, seed)
		two.run()
		require.Equal(t, one.trace, two.trace)
	}
}

func (s *clusterStats) add(o *clusterStats) {
	for _, f := range []struct{ to, from *int }{
		{&s.truncations, &o.truncations}, {&s.resets, &o.resets}, {&s.saves, &o.saves},
		{&s.entriesReads, &o.entriesReads}, {&s.stored, &o.stored}, {&s.crashes, &o.crashes}, {&s.torn, &o.torn},
		{&s.failedOpens, &o.failedOpens}, {&s.kills, &o.kills}, {&s.faults, &o.faults}, {&s.elections, &o.elections}, {&s.confs, &o.confs},
		{&s.snapshots, &o.snapshots}, {&s.patched, &o.patched}, {&s.reports, &o.reports},
		{&s.resetsDone, &o.resetsDone}, {&s.resetsUndone, &o.resetsUndone},
	} {
		*f.to += *f.from
	}
	s.stateBytes = max(s.stateBytes, o.stateBytes)
	s.pendingWrites = max(s.pendingWrites, o.pendingWrites)
	s.pendingApplies = max(s.pendingApplies, o.pendingApplies)
}

func (r *randomRun) run() {
	for range *spikeSteps {
		r.step()
	}
	for _, n := range r.nodes {
		n.powerOff(0)
	}
	r.converge(func() bool {
		r.manage()
		return r.next == 0
	})
	for _, n := range r.nodes { // and once more from what the disks have
		require.NoError(r.t, n.log.Close())
		n.kill()
	}
	r.converge(always)
	sent := r.sent
	r.grow(r.leader().id, 3, 1000)
	r.converge(always)
	for i := sent + 1; i <= r.sent; i++ {
		require.Equal(r.t, fmt.Sprintf("key %d", i), r.values[uint64(len(r.values)-1-(r.sent-i))])
	}
}

// any returns some node.
func (r *randomRun) any() *node { return r.nodes[r.rng.IntN(len(r.nodes))] }

func (r *randomRun) step() {
	switch n, k := r.any(), r.rng.IntN(200); {
	case k < 60:
		for range min(1+r.rng.IntN(8), len(r.net)) {
			r.deliver(r.rng.IntN(min(len(r.net), 1+r.rng.IntN(4)))) // out of order now and then
		}
	case k < 140:
		r.some(n)
	case k < 155:
		r.tick()
	case k < 172:
		r.proposeAnywhere()
	case k < 180:
		n.do(func() { n.ex.Step() })
	case k < 182:
		if k := 1 + r.rng.IntN(40); r.rng.IntN(3) > 0 {
			n.powerOff(k)
		} else {
			n.failOnce(k)
		}
	case k < 183 && n.rn != nil:
		if r.rng.IntN(2) == 0 {
			n.crash()
		} else {
			n.kill()
		}
	case k < 191:
		if n.rn == nil {
			n.powerOff(r.rng.IntN(4) / 3 * r.rng.IntN(20))
			n.start()
		}
	case k < 194:
		r.partition()
	case k < 196:
		n.do(func() { r.truncatePrefix(n) })
	default:
		r.rare(n)
	}
}

// some has n do some of what it has to do, in any order that raft allows.
func (r *randomRun) some(n *node) {
	for range 1 + r.rng.IntN(4) {
		switch r.rng.IntN(3) {
		case 0:
			n.finish()
		case 1:
			n.applyNext()
		default:
			n.ready()
		}
	}
}

// proposeAnywhere proposes to whoever believes that it leads: one that does not any more
// gets a tail that nobody else has.
func (r *randomRun) proposeAnywhere() {
	for _, n := range r.nodes {
		if n.rn == nil || !n.leads {
			continue
		}
		for range 1 + r.rng.IntN(4) {
			size := r.rng.IntN(3000)
			if r.rng.IntN(30) == 0 {
				size = 20000 // longer than a segment
			}
			n.propose(1+r.rng.IntN(3), size)
		}
	}
}

func (r *randomRun) partition() {
	switch r.rng.IntN(6) {
	case 0, 1, 2, 3:
		r.heal()
		r.loss = 0
	case 4:
		r.loss = 5 + r.rng.IntN(30)
	default:
		id := r.any().id
		if leader := r.leader(); leader != nil && r.rng.IntN(2) == 0 {
			id = leader.id
		}
		r.isolate(id)
	}
}

func (r *randomRun) truncatePrefix(n *node) {
	first, end := n.log.FirstOffset(), n.log.EndOffset()
	if err := n.log.TruncatePrefix(first + r.rng.Uint64N(end-first+1)); err != nil {
		require.True(r.t, n.off || n.hurt, "%v", err)
	}
}

// rare is what need not happen often.
func (r *randomRun) rare(n *node) {
	leader := r.leader()
	switch k := r.rng.IntN(8); {
	case k < 4:
		r.manage()
	case k == 4 && n.rn != nil:
		_ = n.rn.Campaign()
	case k == 5 && leader != nil:
		leader.rn.TransferLeader(n.id)
	case k == 6 && len(r.net) > 0: // a message comes twice
		r.net = append(r.net, r.net[r.rng.IntN(len(r.net))])
	case k == 7 && r.next == 0 && r.rng.IntN(4) == 0:
		r.replace(n)
	}
}

// replace begins to have n replaced by a new node, because its disk is gone or just so.
func (r *randomRun) replace(n *node) {
	r.ids++
	r.old, r.next = n.id, r.ids
	wiped := r.rng.IntN(2) == 0
	if wiped {
		r.remove(n.id)
	}
	r.note("%d is to replace %d, wiped: %t", r.next, r.old, wiped)
	r.add(r.next).start()
}

// manage has the leader take the next step in the replacement of a node.
func (r *randomRun) manage() {
	leader := r.leader()
	if r.next == 0 || leader == nil {
		return
	}
	cs := leader.rl.confAt(leader.rl.applied)
	voter, left := slices.Contains(cs.GetVoters(), r.next), !slices.Contains(cs.GetVoters(), r.old)
	var cc pb.ConfChangeI
	switch {
	case len(cs.GetVotersOutgoing()) > 0: // raft leaves the joint membership by itself
		return
	case voter && left:
		r.note("%d has replaced %d", r.next, r.old)
		r.remove(r.old)
		r.old, r.next = 0, 0
		return
	case !slices.Contains(cs.GetLearners(), r.next):
		cc = &pb.ConfChange{Type: pb.ConfChangeAddLearnerNode.Enum(), NodeId: new(r.next)}
	case leader.rn.Status().Progress[r.next].Match+5 < r.last:
		return // it has still to catch up
	default:
		cc = &pb.ConfChangeV2{Changes: []*pb.ConfChangeSingle{
			{Type: pb.ConfChangeAddNode.Enum(), NodeId: new(r.next)},
			{Type: pb.ConfChangeRemoveNode.Enum(), NodeId: new(r.old)},
		}}
	}
	if err := leader.rn.ProposeConfChange(cc); err != nil {
		require.ErrorIs(r.t, err, raft.ErrProposalDropped)
	}
}
