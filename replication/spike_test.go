package replication_test

import (
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zue-log/zue/storage"
	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
)

var (
	spikeSeed  = flag.Uint64("spike.seed", 0, "run TestSpikeRandom with this seed only")
	spikeSeeds = flag.Uint64("spike.seeds", 20, "how many seeds TestSpikeRandom runs")
	spikeSteps = flag.Int("spike.steps", 6000, "steps of each seed")
	spikeTrace = flag.Bool("spike.trace", false, "log all that happens")
)

// elect makes node id the leader: nobody may be left who would vote against it.
func (c *cluster) elect(id uint64) {
	require.NoError(c.t, c.node(id).rn.Campaign())
	c.settle()
	require.Equal(c.t, raft.StateLeader, c.node(id).rn.BasicStatus().RaftState)
}

// grow has node id propose n entries of about size bytes, and settles.
func (c *cluster) grow(id uint64, n, size int) {
	for range n {
		require.True(c.t, c.node(id).propose(1, size))
		c.settle()
	}
}

// deposed is a cluster whose node 1 was cut off as the leader, with n entries of size
// bytes that nobody else has, while 2 and 3 have gone on.
func deposed(t *testing.T, seed int, opts clusterOptions, n, size int) *cluster {
	c := newCluster(t, uint64(seed), 3, opts)
	c.elect(1)
	c.grow(1, 3, 100)
	c.isolate(1)
	c.grow(1, n, size)
	c.elect(2)
	c.grow(2, 2, 100)
	require.Greater(t, c.node(1).log.LastPlace().Index, c.last, "its tail is longer, and not committed")
	return c
}

// always is for those who have nothing else to wait for.
func always() bool { return true }

// atEachOperation calls run with 1, 2, 3, ... until the power did not go off before
// that operation of the file system.
func atEachOperation(t *testing.T, run func(k int) *cluster) {
	k := 1
	for run(k).stats.crashes > 0 {
		k++
	}
	t.Logf("the power went off before each of %d operations", k-1)
	require.Greater(t, k, 8)
}

// A deposed leader's uncommitted tail is replaced, and its offsets are given out again.
func TestSpikeConflictingSuffix(t *testing.T) {
	for _, async := range []bool{false, true} {
		t.Run(fmt.Sprintf("async=%t", async), func(t *testing.T) {
			c := deposed(t, 1, clusterOptions{async: async}, 5, 100)
			end := c.node(1).log.LastPlace()
			c.converge(always)
			require.Equal(t, 1, c.stats.truncations)
			require.Less(t, c.node(1).log.LastPlace().Index, end.Index)
			c.grow(2, 5, 100)
			c.converge(always)
			require.EqualValues(t, 10, c.node(1).log.EndOffset())
			require.Greater(t, c.node(1).log.LastPlace().Index, end.Index, "the same indexes and offsets have other entries")
		})
	}
}

func TestSpikeConflictingSuffixPowerOff(t *testing.T) {
	atEachOperation(t, func(k int) *cluster {
		c := deposed(t, k, clusterOptions{async: k%2 == 0}, 5, 100)
		c.node(1).rl.hooks.truncate = func() { c.node(1).powerOff(k) }
		c.converge(always)
		return c
	})
}

// segments returns how many segments n's log has.
func (n *node) segments() (count int) {
	names, err := n.disk.List(dir)
	require.NoError(n.t, err)
	for _, name := range names {
		if strings.HasSuffix(name, ".log") {
			count++
		}
	}
	return count
}

// The tail that goes spans several segments, sealed or only rolled.
func TestSpikeTruncationAcrossSegments(t *testing.T) {
	for _, sealed := range []bool{true, false} {
		t.Run(fmt.Sprintf("sealed=%t", sealed), func(t *testing.T) {
			c := deposed(t, 1, clusterOptions{}, 16, 4000)
			n := c.node(1)
			require.GreaterOrEqual(t, n.segments(), 4)
			if sealed {
				n.ex.Advance(0)
				require.GreaterOrEqual(t, n.log.Metrics().Seals, uint64(3))
			}
			c.heal()
			c.node(2).rn.Tick() // whose heartbeat is how 1 hears of it
			c.settle()
			require.Equal(t, 1, n.segments())
			require.Equal(t, c.node(2).log.LastPlace(), n.log.LastPlace())
			c.grow(2, 16, 4000)
			c.converge(always)
			require.Equal(t, 1, c.stats.truncations)
		})
	}
}

// The cut is where a segment begins: the ones behind it go, and the one before it, which
// is sealed or was only left, stays as it is.
func TestSpikeTruncationAtSegmentBoundary(t *testing.T) {
	const size = 3000
	probe := newCluster(t, 1, 3, clusterOptions{})
	probe.elect(1)
	fit := 0
	for ; probe.node(1).segments() < 2; fit++ {
		probe.grow(1, 1, size)
	}
	fit-- // the last one is in the second segment
	for _, sealed := range []bool{true, false} {
		c := newCluster(t, 1, 3, clusterOptions{})
		c.elect(1)
		c.grow(1, fit, size)
		n := c.node(1)
		require.Equal(t, 1, n.segments())
		before := n.log.LastPlace()
		c.isolate(1)
		c.grow(1, 1, size)
		require.Equal(t, 2, n.segments())
		c.grow(1, 12, size)
		if sealed {
			n.ex.Advance(0)
		}
		c.elect(2)
		require.Equal(t, before.Index+1, c.last, "only the new leader's first entry has come after it")
		c.heal()
		c.node(2).rn.Tick()
		c.settle()
		require.Equal(t, 1, c.stats.truncations)
		if sealed {
			require.Equal(t, 2, n.segments(), "what came next began a segment")
		} else {
			require.Equal(t, 1, n.segments(), "there was room for what came next")
		}
		c.grow(2, 8, 4000)
		c.converge(always)
	}
}

func TestSpikeTruncationAcrossSegmentsPowerOff(t *testing.T) {
	atEachOperation(t, func(k int) *cluster {
		c := deposed(t, k, clusterOptions{async: k%2 == 0}, 16, 4000)
		if k%4 < 2 {
			c.idle(2 * time.Second) // long enough for the durable mark to be saved
		}
		c.node(1).rl.hooks.truncate = func() { c.node(1).powerOff(k) }
		c.converge(always)
		return c
	})
}

// The longer log of the lower term loses, also where its owner is the one who votes.
func TestSpikeStaleLongerTail(t *testing.T) {
	for _, async := range []bool{false, true} {
		t.Run(fmt.Sprintf("async=%t", async), func(t *testing.T) {
			c := newCluster(t, 1, 3, clusterOptions{async: async})
			c.elect(1)
			c.grow(1, 3, 100)
			c.isolate(1)
			c.grow(1, 20, 2000) // a long tail of the first term
			c.elect(2)          // by 3, which is all that 2 has with it
			c.isolate(2)
			c.grow(2, 2, 100) // a short one of the second
			c.isolate(3)
			long, short := c.node(1).log.LastPlace(), c.node(2).log.LastPlace()
			require.Greater(t, long.Index, short.Index)
			require.Less(t, long.Term, short.Term)

			for _, id := range []uint64{1, 2} {
				c.node(id).crash() // neither leads any more
				require.True(t, c.node(id).start())
			}
			for range 3 {
				require.NoError(t, c.node(1).rn.Campaign())
				c.settle()
				require.NotEqual(t, raft.StateLeader, c.node(1).rn.BasicStatus().RaftState)
			}
			c.elect(2) // by 1
			require.Equal(t, c.node(2).log.LastPlace(), c.node(1).log.LastPlace())
			c.converge(always)
			require.Equal(t, 1, c.stats.truncations)
		})
	}
}

// Tails of several terms, each longer and older than the next: every leader that was cut
// off comes back in turn.
func TestSpikeTailsOfManyTerms(t *testing.T) {
	c := newCluster(t, 1, 7, clusterOptions{})
	c.elect(1)
	c.grow(1, 2, 100)
	for id := uint64(1); id <= 3; id++ {
		c.isolate(id)
		c.grow(id, 15-4*int(id), 3000)
		// Those cut off before vote, but keep their tails.
		require.NoError(t, c.node(id+1).rn.Campaign())
		for c.leader() == nil || c.leader().id != id+1 {
			for _, n := range c.nodes {
				n.work()
			}
			for i := len(c.net) - 1; i >= 0; i-- {
				if typ := c.net[i].GetType(); typ == pb.MsgVote || typ == pb.MsgVoteResp {
					c.deliver(i)
				}
			}
			c.net = nil
		}
	}
	for _, n := range c.nodes {
		n.work()
	}
	c.net = nil
	c.converge(always)
	require.GreaterOrEqual(t, c.stats.truncations, 3)
}

// change has the leader propose a change of membership.
func (c *cluster) change(changes string) {
	cs, err := pb.ConfChangesFromString(changes)
	require.NoError(c.t, err)
	require.NoError(c.t, c.leader().rn.ProposeConfChange(&pb.ConfChangeV2{Changes: cs}))
	c.settle()
}

// A node that has lost its disk rejoins under a new id, as a learner, and then takes the
// place of what it was. The power may go off on it at any moment.
func TestSpikeWipedNode(t *testing.T) {
	atEachOperation(t, func(k int) *cluster {
		c := newCluster(t, uint64(k), 3, clusterOptions{async: k%2 == 0})
		c.elect(1)
		c.grow(1, 12, 4000)
		c.remove(3)
		n := c.add(4)
		n.powerOff(k)
		n.start()
		c.change("l4")
		c.converge(always)
		require.Positive(t, c.stats.snapshots)
		require.Positive(t, c.stats.patched, "the first snapshot is of before the node was added")
		c.change("v4 r3") // leaves the joint membership by itself
		c.converge(func() bool { return len(c.leader().rn.Status().Config.Voters[1]) == 0 })
		require.NoError(t, pb.EnsureConfState(&pb.ConfState{Voters: []uint64{1, 2, 4}}).Equivalent(n.rl.confAt(n.rl.applied)))
		n.powerOff(0)
		// The new voter and one other are a majority.
		c.isolate(1)
		c.elect(4)
		c.grow(4, 3, 100)
		c.converge(always)
		return c
	})
}

// Under its old id a wiped node would be a voter that has forgotten what it
// acknowledged: raft refuses to go on.
func TestSpikeWipedNodeUnderItsOldID(t *testing.T) {
	c := newCluster(t, 1, 3, clusterOptions{})
	c.elect(1)
	c.grow(1, 3, 100)
	c.remove(3)
	require.True(t, c.add(3).start())
	c.node(1).rn.Tick()
	require.Panics(t, c.settle)
}

// A follower that was away while the leader has removed what it lacks.
func TestSpikeBelowFirstKept(t *testing.T) {
	atEachOperation(t, func(k int) *cluster {
		c := newCluster(t, uint64(k), 3, clusterOptions{async: k%2 == 0})
		c.elect(1)
		c.grow(1, 6, 4000)
		c.isolate(3)
		c.grow(1, 16, 4000)
		for _, id := range []uint64{1, 2} {
			n := c.node(id)
			n.ex.Advance(0) // seals
			require.NoError(t, n.log.TruncatePrefix(n.log.EndOffset()))
			require.Greater(t, n.log.FirstPlace().Index, c.node(3).log.LastPlace().Index)
		}
		c.node(3).powerOff(k)
		c.converge(always)
		require.Equal(t, c.node(1).log.FirstPlace(), c.node(3).log.FirstPlace())
		c.node(3).powerOff(0)
		c.isolate(1)
		c.elect(3)
		c.grow(3, 8, 4000)
		c.converge(always)
		return c
	})
}

// The same with a tail of its own that goes on, several segments long, behind where the
// leader's log begins by now: nothing of it may be left behind the reset, and the
// segments that come next have names that its own had.
func TestSpikeBelowFirstKeptWithTail(t *testing.T) {
	var done, undone int
	atEachOperation(t, func(k int) *cluster {
		c := deposed(t, k, clusterOptions{async: k%2 == 0}, 24, 4000)
		if k%4 < 2 {
			c.idle(2 * time.Second) // long enough for the durable mark to be saved
		}
		c.grow(2, 8, 4000)
		for _, id := range []uint64{2, 3} {
			n := c.node(id)
			n.ex.Advance(0)
			require.NoError(t, n.log.TruncatePrefix(n.log.EndOffset()))
			require.Greater(t, n.log.FirstOffset(), uint64(3))
		}
		first, last := c.node(2).log.FirstPlace(), c.node(1).log.LastPlace()
		require.Greater(t, last.Index, first.Index+10)
		c.node(1).rl.hooks.reset = func() { c.node(1).powerOff(k) }
		c.converge(always)
		require.Equal(t, first, c.node(1).log.FirstPlace())
		c.node(1).powerOff(0)
		c.grow(2, 12, 4000)
		c.converge(always)
		done, undone = done+c.stats.resetsDone, undone+c.stats.resetsUndone
		return c
	})
	require.Positive(t, done, "the reset, and the state with it")
	require.Positive(t, undone, "neither")
}

// ask has 3 answer the request for a vote that node from has sent.
func (c *cluster) ask(from uint64) {
	i := slices.IndexFunc(c.net, func(m *pb.Message) bool { return m.GetFrom() == from && m.GetTo() == 3 })
	require.Equal(c.t, pb.MsgVote, c.net[i].GetType())
	c.deliver(i)
	c.node(3).work()
}

// A node that has voted does not vote again in that term, whatever happens to it.
func TestSpikeVoteOutlivesCrash(t *testing.T) {
	for _, async := range []bool{false, true} {
		c := newCluster(t, 1, 3, clusterOptions{async: async})
		for _, id := range []uint64{1, 2} {
			require.NoError(t, c.node(id).rn.Campaign())
			c.node(id).work()
		}
		c.ask(1)
		c.node(3).crash()
		require.True(t, c.node(3).start())
		c.ask(2)
		c.settle()
		require.Equal(t, raft.StateLeader, c.node(1).rn.BasicStatus().RaftState)
		require.Equal(t, 1, c.stats.elections)
		c.converge(always)
	}
}

// Nor if it knew that term already, from one whom it did not vote for.
func TestSpikeVoteInKnownTermOutlivesCrash(t *testing.T) {
	c := newCluster(t, 1, 3, clusterOptions{})
	c.elect(1)
	c.isolate(2)
	c.grow(1, 1, 100)
	c.node(1).crash()
	require.True(t, c.node(1).start())
	c.heal()
	for _, id := range []uint64{1, 2} {
		require.NoError(t, c.node(id).rn.Campaign())
		c.node(id).work()
	}
	c.ask(2)
	require.Equal(t, ballot{term: 3}, c.node(3).voted)
	c.ask(1)
	require.Equal(t, ballot{3, 1}, c.node(3).voted)
	c.node(3).crash()
	require.True(t, c.node(3).start())
	c.converge(always)
}

// A member that has acknowledged a change of membership knows after a crash that the
// one before is committed (see raftLog.finish). Otherwise it would elect by the members
// of two changes ago, who need not have a voter in common with a majority of now.
func TestSpikeMembershipOutlivesCrash(t *testing.T) {
	c := newCluster(t, 1, 3, clusterOptions{async: true})
	c.elect(1)
	c.grow(1, 1, 100)
	leader, behind := c.node(1), c.node(3)
	c.isolate(2)
	require.True(t, c.add(4).start())
	require.True(t, c.add(5).start())

	require.NoError(t, leader.rn.ProposeConfChange(&pb.ConfChange{Type: pb.ConfChangeAddNode.Enum(), NodeId: new(uint64(4))}))
	leader.work()
	for behind.log.LastPlace() != leader.log.LastPlace() { // it gets that entry,
		c.deliver(0)
		behind.ready()
		behind.finish()
	}
	for range c.net {
		c.deliver(0)
	}
	c.side[3] = 2 // but does not hear that it is committed
	c.settle()
	require.Len(t, leader.rl.confAt(leader.rl.applied).GetVoters(), 4)
	require.Len(t, behind.rl.confAt(behind.rl.applied).GetVoters(), 3)

	c.side[3] = 0
	require.NoError(t, leader.rn.ProposeConfChange(&pb.ConfChange{Type: pb.ConfChangeAddNode.Enum(), NodeId: new(uint64(5))}))
	leader.rn.Tick()
	for range 10 { // only with the next change, which it acknowledges. It applies neither.
		leader.work()
		c.node(4).work()
		for range c.net {
			c.deliver(0)
		}
		behind.ready()
		behind.finish()
	}
	require.Len(t, leader.rl.confAt(leader.rl.applied).GetVoters(), 5)
	require.Len(t, behind.rl.confAt(behind.rl.applied).GetVoters(), 3)
	behind.crash()
	c.settle()
	c.grow(1, 3, 100) // by 1, 4 and 5

	c.isolate(2, 3)
	require.True(t, behind.start())
	c.settle()
	require.NoError(t, behind.rn.Campaign())
	c.settle()
	require.NotEqual(t, raft.StateLeader, behind.rn.BasicStatus().RaftState)
	c.converge(always)
}

// Writes that have begun and are not finished, of several terms at once: each waits for
// those before it, and a truncation for all.
func TestSpikeAsyncPipeline(t *testing.T) {
	c := newCluster(t, 1, 3, clusterOptions{async: true})
	c.elect(1)
	c.isolate(1)
	n := c.node(1)
	for range 6 {
		require.True(t, n.propose(1, 4000))
		require.True(t, n.ready())
	}
	require.Len(t, n.pending, 6)
	before := n.log.Metrics().Entries
	c.remove(1) // so that settle lets its writes wait
	c.elect(2)
	c.grow(2, 3, 100)
	c.nodes = append([]*node{n}, c.nodes...)
	c.heal()
	c.node(2).rn.Tick()
	for range 40 {
		for _, o := range c.nodes[1:] {
			o.work()
		}
		for range c.net {
			c.deliver(0)
		}
		n.ready()
	}
	require.Greater(t, len(n.pending), 6, "raft has waited for nothing")
	require.Equal(t, before+6, n.log.Metrics().Entries, "the cut has, for what was to be cut off")
	require.Equal(t, 1, c.stats.truncations)
	c.converge(always)
}

// Elections without a record in between: a segment without a record cannot be left, since
// the next would have its name, so it grows. Then most of it goes.
func TestSpikeControlEntriesOnly(t *testing.T) {
	c := newCluster(t, 1, 3, clusterOptions{})
	for i := range uint64(300) {
		c.elect(1 + i%2)
	}
	require.Equal(t, 1, c.node(1).segments())
	require.Zero(t, c.node(1).log.LastPlace().Offset)
	require.Greater(t, c.node(1).log.LastPlace().Index*64, uint64(storage.MinSegmentBytes), "it has grown")
	c.isolate(2)
	for range 300 { // a tail of changes of membership, none of which can be committed
		require.NoError(t, c.node(2).rn.ProposeConfChange(&pb.ConfChange{Type: pb.ConfChangeAddLearnerNode.Enum(), NodeId: new(uint64(9))}))
		c.settle()
	}
	c.elect(1)
	c.converge(always)
	require.Equal(t, 1, c.stats.truncations)
	c.grow(1, 30, 4000)
	c.converge(always)
	require.Greater(t, c.node(2).segments(), 2)
}

// What replication keeps of memberships in the log's state grows with the segments that
// have one of their own, not with the changes.
func TestSpikeMembershipHistoryIsBounded(t *testing.T) {
	const changes = 900
	c := newCluster(t, 1, 1, clusterOptions{})
	c.elect(1)
	n := c.node(1)
	for i := range changes / 2 {
		// Each learner has an id of its own, so that no membership is taken for another.
		for j, what := range []string{"l%d", "r%d"} {
			c.change(fmt.Sprintf(what, 10+i))
			if i%50 == 49 && i/50%2 == j { // each kind of change has some last in a segment
				c.grow(1, 6, 4000)
			}
		}
	}
	require.Len(t, c.confs, changes+1)
	starts := n.log.Starts()
	require.Greater(t, len(starts), 5)
	require.Less(t, len(starts), 30)
	require.LessOrEqual(t, len(n.rl.saved.confs), len(starts)+1)
	require.Less(t, n.stats.stateBytes, 400)
	all := hardState{confs: c.confs}
	require.Greater(t, len(all.encode()), storage.MaxStateBytes, "all would not fit")
	t.Logf("%d changes, %d segments: %d memberships kept, at most %d bytes of state", changes, len(starts), len(n.rl.saved.confs), n.stats.stateBytes)

	n.kill()
	require.True(t, n.start())
	c.elect(1)
	require.Equal(t, starts, n.log.Starts())
	n.ex.Advance(0) // seals
	for _, p := range starts {
		require.NoError(t, n.log.TruncatePrefix(p.Offset))
		require.Equal(t, p, n.log.FirstPlace())
		s, err := n.rl.Snapshot()
		require.NoError(t, err)
		require.NoError(t, newestConf(c.confs, p.Index).Equivalent(s.GetMetadata().GetConfState()))
	}
	c.change("l9")
	require.Len(t, n.rl.saved.confs, 2, "where the log begins now, and the newest")
}
