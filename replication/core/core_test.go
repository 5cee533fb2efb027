package core_test

import (
	"testing"
	"testing/cryptotest"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/zue-log/zue/replication/core"
	"github.com/zue-log/zue/storage/batch"
	"github.com/zue-log/zue/storage/vfs"
)

// three returns a cluster in which node 1 leads.
func three(t *testing.T) *story {
	cryptotest.SetGlobalRandom(t, 1)
	s := &story{t: t, quorum: 2, cut: map[[2]core.NodeID]bool{}, names: map[core.PeerID]string{}, now: time.Unix(1, 0)}
	for id := range 3 {
		s.nodes = append(s.nodes, &actor{story: s, id: core.NodeID(id + 1), disk: vfs.NewMem()})
	}
	for _, n := range s.nodes {
		n.boot()
	}
	s.tick(nil, 10)
	require.Equal(t, core.RoleLeader, s.nodes[0].core.Status().Role)
	return s
}

func values(values ...string) *core.Append {
	records := make([]batch.Record, len(values))
	for i, v := range values {
		records[i].Value = []byte(v)
	}
	body := batch.Append(nil, records, 1)
	return &core.Append{Body: body, Checksum: batch.Checksum(body), Tag: "append"}
}

// A leader that names a commit beyond a follower's last entry goes by what that has said to
// have: it has lost it, and must not stay the one that said so.
func TestAskedToCommitBeyondTheLastEntry(t *testing.T) {
	s := three(t)
	one, two := s.nodes[0].core.Status(), s.nodes[1].core.Status()
	beat := func(commit uint64) {
		require.NoError(t, s.nodes[1].core.Step(&core.Message{
			Kind: core.KindRaft, From: 1, To: 2, Cluster: one.Cluster,
			Raft: &pb.Message{Type: pb.MsgHeartbeat.Enum(), From: new(uint64(one.Self)), To: new(uint64(two.Self)), Term: new(one.Term), Commit: new(commit)},
		}))
	}
	beat(two.Last)
	require.Equal(t, two.Self, s.nodes[1].core.Status().Self)
	beat(two.Last + 1)
	s.settle()
	now := s.nodes[1].core.Status()
	require.NotEqual(t, two.Self, now.Self)
	require.Equal(t, core.RoleJoining, now.Role)
	s.tick(nil, 20)
	require.Equal(t, core.RoleFollower, s.nodes[1].core.Status().Role)
	require.Contains(t, s.nodes[0].core.Status().Voters, now.Self)
	require.NotContains(t, s.nodes[0].core.Status().Voters, two.Self)
}

// raft drops proposals while leadership is being handed over, and not only then: it is
// answered as surely not appended, and is not.
func TestAppendWhileLeadershipIsHandedOver(t *testing.T) {
	s := three(t)
	led := s.nodes[0]
	s.nodes[1].held = true // it cannot catch up, so the transfer does not end
	led.core.Append(values("a"))
	s.settle()
	_, err := led.core.Transfer(2)
	require.NoError(t, err)
	a := values("b")
	led.core.Append(a)
	require.ErrorIs(t, a.Err, core.ErrNotLeader)
	end := led.core.Status().End
	s.nodes[1].held = false
	s.tick(nil, 5)
	require.Equal(t, core.RoleLeader, s.nodes[1].core.Status().Role)
	require.Equal(t, end, s.nodes[1].core.Status().End)
}

// Appends that have no room are refused before raft sees them.
func TestOverloaded(t *testing.T) {
	s := three(t)
	led := s.nodes[0]
	led.held, s.nodes[1].held, s.nodes[2].held = true, true, true
	var refused *core.Append
	for range 40 {
		a := values(string(make([]byte, 2<<20)))
		led.core.Append(a)
		s.settle()
		if a.Err != nil {
			refused = a
			break
		}
	}
	require.NotNil(t, refused)
	require.ErrorIs(t, refused.Err, core.ErrOverloaded)
	led.held, s.nodes[1].held, s.nodes[2].held = false, false, false
	s.settle()
	a := values("small")
	led.core.Append(a)
	s.settle()
	require.NoError(t, a.Err)
}

// Messages that make no sense are refused, and do no harm.
func TestMalformedMessages(t *testing.T) {
	s := three(t)
	n := s.nodes[1]
	st, one := n.core.Status(), s.nodes[0].core.Status()
	raft := func(m *pb.Message) *core.Message {
		m.From, m.To, m.Term = new(uint64(one.Self)), new(uint64(st.Self)), new(one.Term)
		return &core.Message{Kind: core.KindRaft, From: 1, To: 2, Cluster: one.Cluster, Raft: m}
	}
	for name, m := range map[string]*core.Message{
		"nothing":          {},
		"to another":       {Kind: core.KindHello, From: 1, To: 3, Peer: one.Self},
		"from itself":      {Kind: core.KindHello, From: 2, To: 2, Peer: st.Self},
		"no kind":          {Kind: 99, From: 1, To: 2, Peer: one.Self},
		"another's name":   {Kind: core.KindJoin, From: 1, To: 2, Peer: st.Self},
		"raft without":     {Kind: core.KindRaft, From: 1, To: 2},
		"a proposal":       raft(&pb.Message{Type: pb.MsgProp.Enum(), Entries: []*pb.Entry{{}}}),
		"an election":      raft(&pb.Message{Type: pb.MsgHup.Enum()}),
		"a damaged entry":  raft(&pb.Message{Type: pb.MsgApp.Enum(), Entries: []*pb.Entry{{Data: []byte("\x01aaaaaaaabody")}}}),
		"a short envelope": raft(&pb.Message{Type: pb.MsgApp.Enum(), Entries: []*pb.Entry{{Data: []byte("abc")}}}),
	} {
		require.ErrorIs(t, n.core.Step(m), core.ErrMessage, name)
	}
	s.tick(nil, 3)
	require.NoError(t, n.core.Err())
	require.Equal(t, st.Self, n.core.Status().Self)
}

// Without syncs, a node whose machine has been started anew may have lost what it has said to
// have; not if it was stopped in order.
func TestUnsyncedNodeAfterAReboot(t *testing.T) {
	s := three(t)
	n := s.nodes[2]
	self := n.core.Status().Self
	n.unsynced, n.bootID = true, "one"
	restart := func(clean bool) core.PeerID {
		if clean {
			n.core.Close()
			s.settle()
		}
		n.disk.UnlockAll()
		n.core, n.writes, n.begun = nil, nil, 0
		n.boot()
		s.settle()
		s.tick(nil, 30)
		require.Equal(t, core.RoleFollower, n.core.Status().Role)
		return n.core.Status().Self
	}
	require.Equal(t, self, restart(true), "stopped in order")
	require.Equal(t, self, restart(false), "killed, in the same boot")
	n.bootID = "two"
	second := restart(false)
	require.NotEqual(t, self, second, "the machine was started anew")
	n.bootID = "three"
	require.Equal(t, second, restart(true), "it was, but the node was stopped in order")
}

// What is under way to followers is no lag, however much it is; what they lack for longer is.
func TestWhatIsUnderWayIsNoLag(t *testing.T) {
	s := three(t)
	s.tick(nil, 10)
	led := s.nodes[0]
	s.nodes[1].held, s.nodes[2].held = true, true
	var many []string
	for range 300 { // MaxLag is 100
		many = append(many, "v")
	}
	led.core.Append(values(many...))
	s.settle()
	more := values("more")
	led.core.Append(more)
	s.settle()
	require.NoError(t, more.Err, "it waits with the others")

	s.tick(nil, 12)
	refused := values("too much")
	led.core.Append(refused)
	s.settle()
	require.ErrorIs(t, refused.Err, core.ErrInsufficientISR)

	s.nodes[1].held, s.nodes[2].held = false, false
	s.settle()
	s.tick(nil, 1)
	again := values("again")
	led.core.Append(again)
	s.settle()
	require.NoError(t, again.Err)
	require.NoError(t, more.Err)
	require.EqualValues(t, 302, led.log.EndOffset())
}
