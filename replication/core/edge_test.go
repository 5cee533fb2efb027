package core_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/zue-log/zue/replication/core"
	"github.com/zue-log/zue/replication/producer"
	"github.com/zue-log/zue/storage"
	"github.com/zue-log/zue/storage/batch"
	"github.com/zue-log/zue/storage/vfs"
)

func idem(t *testing.T, id int64, seq int32, size int) *core.Append {
	body := batch.Append(nil, []batch.Record{{Value: make([]byte, size)}}, 1)
	require.NoError(t, batch.SetProducer(body, id, 0, seq))
	return &core.Append{Body: body, Checksum: batch.Checksum(body), Tag: "append"}
}

// A batch that is sent again is a duplicate, also when retention has removed it.
func TestDuplicateThatRetentionHasRemoved(t *testing.T) {
	s := three(t)
	n := s.nodes[0]
	p := &core.Append{Tag: "producer"}
	n.core.Append(p)
	s.settle()
	require.NoError(t, p.Err)
	a := idem(t, int64(p.Index), 0, 100)
	n.core.Append(a)
	s.settle()
	require.NoError(t, a.Err)
	for range 200 {
		n.core.Append(values(string(make([]byte, 20000))))
		s.settle()
	}
	s.tick(nil, 5)
	require.NoError(t, n.log.TruncatePrefix(n.log.EndOffset()))
	require.Greater(t, n.log.FirstOffset(), a.First)
	b := idem(t, int64(p.Index), 0, 100)
	n.core.Append(b)
	require.NoError(t, n.core.Err())
}

// What may have been lost while appends were not synced may be missing when they are, too.
func TestUnsyncedThenSynced(t *testing.T) {
	s := three(t)
	n := s.nodes[2]
	n.unsynced, n.bootID = true, "one"
	n.disk.UnlockAll()
	n.core, n.writes, n.begun = nil, nil, 0
	n.boot()
	s.settle()
	s.tick(nil, 30)
	self := n.core.Status().Self
	n.crash()
	n.unsynced, n.bootID = false, "two"
	n.boot()
	s.settle()
	require.NotEqual(t, self, n.core.Status().Self, "keeps its identity after an unclean reboot of an unsynced run")
}

// Appends whose time is up take up memory until the disk has them.
func TestStalledDiskBoundsMemory(t *testing.T) {
	s := &story{t: t, quorum: 1, cut: map[[2]core.NodeID]bool{}, names: map[core.PeerID]string{}}
	s.nodes = []*actor{{story: s, id: 1, disk: vfs.NewMem()}}
	s.nodes[0].boot()
	s.tick(nil, 30)
	n := s.nodes[0]
	require.Equal(t, core.RoleLeader, n.core.Status().Role)
	n.held = true
	accepted := 0
	for range 5 {
		for range 40 {
			a := values(string(make([]byte, 2<<20)))
			n.core.Append(a)
			if a.Err == nil {
				accepted += len(a.Body)
			}
			s.settle()
		}
		s.tick(nil, 31)
	}
	require.LessOrEqual(t, accepted, 70<<20)
}

// A membership that is saved late does not show readers the log that a snapshot is about to replace.
func TestNothingIsShownBeforeAReset(t *testing.T) {
	s := three(t)
	for _, w := range []string{"a", "b"} {
		s.nodes[0].core.Append(values(w))
		s.settle()
	}
	s.tick(nil, 3)
	n := s.nodes[1]
	one, st := s.nodes[0].core.Status(), n.core.Status()
	s.nodes[0].core, s.nodes[2].core = nil, nil // from now on we are the leader
	last, term := st.Last, one.Term
	ents, lease, err := n.log.ReadEntries(nil, last, last, 1<<20)
	require.NoError(t, err)
	body := append([]byte(nil), ents[0].Body...)
	lease.Release()
	env := append([]byte{1}, 0, 0, 0, 0, 0, 0, 0, 0)
	sum := batch.Checksum(body)
	for i := range 4 {
		env[1+i] = byte(sum >> (8 * i))
		env[5+i] = byte(sum >> (8 * i))
	}
	data := append(env, body...)
	cc := &pb.ConfChangeV2{Changes: []*pb.ConfChangeSingle{{Type: pb.ConfChangeAddLearnerNode.Enum(), NodeId: new(uint64(4)<<48 | 7)}}}
	ccb, err := proto.Marshal(cc)
	require.NoError(t, err)
	step := func(m *pb.Message) {
		m.From, m.To = new(uint64(one.Self)), new(uint64(st.Self))
		require.NoError(t, n.core.Step(&core.Message{Kind: core.KindRaft, From: 1, To: 2, Cluster: one.Cluster, Raft: m}))
	}
	ents2 := []*pb.Entry{{Index: new(last + 1), Term: new(term), Type: pb.EntryConfChangeV2.Enum(), Data: ccb}}
	for i := range uint64(3) {
		ents2 = append(ents2, &pb.Entry{Index: new(last + 2 + i), Term: new(term), Type: pb.EntryNormal.Enum(), Data: data})
	}
	step(&pb.Message{Type: pb.MsgApp.Enum(), Term: new(term), Index: new(last), LogTerm: new(term), Commit: new(last + 1), Entries: ents2})
	// entries durable
	out := n.core.Ready()
	for _, w := range out.Writes {
		require.NoError(t, w.Begin(n.log))
		require.NoError(t, w.Finish(n.log))
		n.core.Written(w, nil)
	}
	out = n.core.Ready() // applies the conf change: save pending
	pending := out.Writes
	// a leader of the next term whose log begins at last+20
	step(&pb.Message{Type: pb.MsgSnap.Enum(), Term: new(term + 1), Snapshot: &pb.Snapshot{
		Data:     []byte{100, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8},
		Metadata: &pb.SnapshotMetadata{Index: new(last + 20), Term: new(term + 1), ConfState: &pb.ConfState{Voters: []uint64{uint64(one.Self), uint64(st.Self)}}},
	}})
	out = n.core.Ready()
	reset := out.Writes
	require.Len(t, reset, 2) // and what is to be answered then
	require.NotNil(t, reset[0].Reset())
	before := n.log.EndOffset()
	for _, w := range pending {
		require.NoError(t, w.Begin(n.log))
		require.NoError(t, w.Finish(n.log))
		n.core.Written(w, nil)
	}
	require.LessOrEqual(t, n.log.EndOffset(), before, "uncommitted entries are shown")
}

// A membership without voters would be the end of the log.
func TestTheLastVoterStays(t *testing.T) {
	s := &story{t: t, quorum: 1, cut: map[[2]core.NodeID]bool{}, names: map[core.PeerID]string{}}
	s.nodes = []*actor{{story: s, id: 1, disk: vfs.NewMem()}}
	n := s.nodes[0]
	n.boot()
	s.tick(nil, 30)
	require.Equal(t, core.RoleLeader, n.core.Status().Role)
	require.ErrorContains(t, n.core.Remove(1), "0 voters would be left")
	s.settle()
	require.NoError(t, n.core.Err())
}

// A node that is alone goes on with what it has: nobody else has more.
func TestUnsyncedNodeAlone(t *testing.T) {
	s := &story{t: t, quorum: 1, cut: map[[2]core.NodeID]bool{}, names: map[core.PeerID]string{}}
	s.nodes = []*actor{{story: s, id: 1, disk: vfs.NewMem(), unsynced: true, bootID: "one"}}
	n := s.nodes[0]
	n.boot()
	s.tick(nil, 30)
	require.Equal(t, core.RoleLeader, n.core.Status().Role)
	n.core.Append(values("a"))
	s.settle()
	require.NoError(t, n.log.Sync())
	s.tick(nil, 60)
	n.crash()
	n.bootID = "two"
	n.boot()
	s.tick(nil, 3000)
	require.Equal(t, core.RoleLeader, n.core.Status().Role)
}

// A welcome of a cluster whose founder was wiped since does not strand who gets it late.
func TestLateWelcome(t *testing.T) {
	s := &story{t: t, quorum: 2, cut: map[[2]core.NodeID]bool{}, names: map[core.PeerID]string{}}
	for id := range 3 {
		s.nodes = append(s.nodes, &actor{story: s, id: core.NodeID(id + 1), disk: vfs.NewMem()})
	}
	for _, n := range s.nodes {
		n.boot()
	}
	n := s.nodes[0]
	var late []*core.Message
	// keep what node 1 says once it is active
	s.take = func(m *core.Message) bool {
		if m.From != 1 || m.Phase != 2 && m.Kind != core.KindRaft {
			return false
		}
		if m.Kind == core.KindWelcome {
			late = append(late, m)
		}
		return true
	}
	for i := 0; i < 20 && len(late) == 0; i++ {
		s.tick(nil, 1)
	}
	require.NotEmpty(t, late)
	n.crash()
	n.disk = vfs.NewMem()
	n.boot()
	done := false
	s.take = func(m *core.Message) bool {
		if !done && m.From == 1 && m.Phase == 2 { // it has founded again: the late one overtakes this
			done = true
			for _, l := range late {
				if l.To == 2 {
					_ = s.nodes[1].core.Step(l)
				}
			}
		}
		return false
	}
	s.tick(nil, 60)
	require.True(t, done)
	s.tick(nil, 1000)
	require.Equal(t, s.nodes[0].core.Status().Cluster, s.nodes[1].core.Status().Cluster)
}

// A batch that no log takes is refused before raft has it.
func TestTooLargeABatch(t *testing.T) {
	s := three(t)
	n := s.nodes[0]
	body := batch.Append(nil, []batch.Record{{Value: make([]byte, 3<<20)}, {Value: make([]byte, 30<<20)}}, 1)
	a := &core.Append{Body: body, Checksum: batch.Checksum(body), Tag: "append"}
	n.core.Append(a)
	require.ErrorIs(t, a.Err, storage.ErrTooLarge)
	s.settle()
	for _, n := range s.nodes {
		require.NoError(t, n.core.Err())
	}
}

// A follower that gets several changes of membership at once does not have the second in its
// log, durably, before the commit of the first: if it is started anew in between, it must not
// go by a membership that is two changes old (the simulator's seed 60,772, once).
func TestChangesOfMembershipBehindTheirCommits(t *testing.T) {
	s := three(t)
	n := s.nodes[1]
	one, st := s.nodes[0].core.Status(), n.core.Status()
	change := func(i uint64) *pb.Entry {
		data, err := proto.Marshal(&pb.ConfChangeV2{Changes: []*pb.ConfChangeSingle{{Type: pb.ConfChangeAddLearnerNode.Enum(), NodeId: new(uint64(4)<<48 | i)}}})
		require.NoError(t, err)
		return &pb.Entry{Index: new(st.Last + i), Term: new(one.Term), Type: pb.EntryConfChangeV2.Enum(), Data: data}
	}
	empty := &pb.Entry{Index: new(st.Last + 2), Term: new(one.Term), Type: pb.EntryNormal.Enum()}
	require.NoError(t, n.core.Step(&core.Message{Kind: core.KindRaft, From: 1, To: 2, Cluster: one.Cluster, Raft: &pb.Message{
		Type: pb.MsgApp.Enum(), From: new(uint64(one.Self)), To: new(uint64(st.Self)), Term: new(one.Term),
		Index: new(st.Last), LogTerm: new(one.Term), Commit: new(st.Last + 1), Entries: []*pb.Entry{change(1), empty, change(3)},
	}}))
	writes := n.core.Ready().Writes
	require.GreaterOrEqual(t, len(writes), 2)
	last := writes[len(writes)-1]
	first, _ := last.Span()
	require.Equal(t, st.Last+3, first, "the second change is in a write of its own")
	require.True(t, last.Exclusive(), "which begins when those before it are durable")
	for _, w := range writes[:len(writes)-1] {
		require.NoError(t, w.Begin(n.log))
		require.NoError(t, w.Finish(n.log))
		n.core.Written(w, nil)
	}
	n.disk = n.disk.Crash(nil)
	n.core, n.writes, n.begun = nil, nil, 0
	s.nodes[0].core, s.nodes[2].core = nil, nil
	n.boot()
	s.settle()
	require.Equal(t, st.Last+1, n.core.Status().Committed, "the first is known to be committed")
	require.Len(t, n.core.Status().Learners, 1)
}

// The way out of a joint membership is not lost when a transfer of leadership was under way at
// that moment, though nothing else is appended.
func TestJointMembershipIsLeft(t *testing.T) {
	s := three(t)
	led, two, three := s.nodes[0], s.nodes[1], s.nodes[2]
	three.crash()
	three.disk = vfs.NewMem()
	s.tick(nil, 1)
	s.take = func(m *core.Message) bool { return m.Kind == core.KindRaft && m.Raft.GetType() == pb.MsgTimeoutNow }
	three.boot()
	// The learner's promotion, which replaces its former incarnation, waits for the second's disk.
	for range 100 {
		s.tick(nil, 1)
		if len(led.core.Status().Learners) > 0 {
			break
		}
	}
	two.held = true
	for range 100 {
		s.tick(nil, 1)
		if led.core.Status().Changing {
			break
		}
	}
	require.True(t, led.core.Status().Changing)
	_, err := led.core.Transfer(2)
	require.NoError(t, err)
	two.held = false
	s.settle()
	require.NotEmpty(t, led.core.Status().Outgoing, "it was not left at once")
	s.tick(nil, 30)
	st := led.core.Status()
	require.Equal(t, core.RoleLeader, st.Role)
	require.Empty(t, st.Outgoing)
	require.False(t, st.Changing)
	require.Contains(t, st.Voters, three.core.Status().Self)
}

// A leader that does not know yet that it is none any more must not tell a producer that a batch is
// missing, which another leader has taken.
func TestDeposedLeaderDoesNotJudgeProducers(t *testing.T) {
	s := three(t)
	led, two := s.nodes[0], s.nodes[1]
	batchOf := func(sequence int32) *core.Append {
		body := batch.Append(nil, []batch.Record{{Value: []byte("v")}}, 1)
		require.NoError(t, batch.SetProducer(body, 7, 0, sequence))
		return &core.Append{Body: body, Checksum: batch.Checksum(body), Tag: sequence}
	}
	first := batchOf(0)
	led.core.Append(first)
	s.settle()
	require.NoError(t, first.Err)
	for _, other := range []core.NodeID{2, 3} {
		s.cut[[2]core.NodeID{1, other}], s.cut[[2]core.NodeID{other, 1}] = true, true
	}
	s.tick([]core.NodeID{2, 3}, 40)
	next := two
	if s.nodes[2].core.Status().Role == core.RoleLeader {
		next = s.nodes[2]
	}
	second := batchOf(1)
	next.core.Append(second)
	s.settle()
	require.NoError(t, second.Err)

	require.Equal(t, core.RoleLeader, led.core.Status().Role, "it has not noticed")
	third := batchOf(2)
	led.core.Append(third)
	s.settle()
	require.NoError(t, third.Err, "there is no answer yet")
	clear(s.cut)
	s.tick(nil, 5)
	require.ErrorIs(t, third.Err, core.ErrNotLeader)

	again := batchOf(2)
	next.core.Append(again)
	s.settle()
	require.NoError(t, again.Err)
	gap := batchOf(9)
	next.core.Append(gap)
	s.settle()
	s.tick(nil, 1)
	require.ErrorIs(t, gap.Err, producer.ErrGap, "a leader that is one does")
}

// Remove says so when nothing comes of it.
func TestRemoveBesideATransfer(t *testing.T) {
	s := three(t)
	led := s.nodes[0]
	_, err := led.core.Transfer(2)
	require.NoError(t, err)
	require.ErrorIs(t, led.core.Remove(3), core.ErrChanging)
	s.settle()
	require.Equal(t, core.RoleLeader, s.nodes[1].core.Status().Role)
	s.tick(nil, 1)
	require.NoError(t, s.nodes[1].core.Remove(3))
	require.ErrorIs(t, s.nodes[1].core.Remove(1), core.ErrChanging)
	s.tick(nil, 1)
	require.Len(t, s.nodes[1].core.Status().Voters, 2)
}

// However often nodes were replaced, and though the others have been started again since, one
// more can join.
func TestJoinAfterManyChanges(t *testing.T) {
	s := three(t)
	big := string(make([]byte, 1500))
	joined := func() bool {
		st := s.nodes[0].core.Status()
		return !st.Changing && len(st.Learners) == 0 && s.nodes[2].core.Status().Role == core.RoleFollower
	}
	for i := range 150 {
		three := s.nodes[2]
		three.crash()
		three.disk = vfs.NewMem()
		three.boot()
		for n := 0; !joined() || n < 5; n++ {
			require.Less(t, n, 200, "round %d: %+v", i, s.nodes[0].core.Status())
			s.tick(nil, 1)
		}
		for range 8 { // so that segments begin between the changes
			s.nodes[0].core.Append(values(big))
			s.settle()
		}
		if i%20 == 19 {
			for _, n := range s.nodes {
				n.crash()
				n.boot()
			}
			for n := 0; s.nodes[0].core.Status().Role != core.RoleLeader; n++ {
				require.Less(t, n, 500)
				s.tick(nil, 1)
				for _, other := range s.nodes[1:] {
					_, _ = other.core.Transfer(1)
				}
			}
		}
	}
}
