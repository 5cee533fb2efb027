package core

import (
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/tracker"
)

// Role is what a node is in its cluster.
type Role string

// Roles of nodes.
const (
	// RoleWaiting is that of a node that is in no cluster yet: see [Status.Missing].
	RoleWaiting Role = "waiting"
	// RoleJoining is that of a node that is not a voter yet.
	RoleJoining   Role = "joining"
	RoleFollower  Role = "follower"
	RoleCandidate Role = "candidate"
	RoleLeader    Role = "leader"
	// RoleRemoved is that of a node that is not in the membership any more.
	RoleRemoved Role = "removed"
)

// Status is how a node is.
type Status struct {
	Self    PeerID
	Role    Role
	Cluster uint64 // 0: none yet
	Term    uint64
	Leader  PeerID // 0: none is known
	// Last is the index of the last entry, Committed that of the last which readers see, and
	// End the offset behind the last record, committed or not.
	Last, Committed uint64
	End             uint64
	// Voters and Learners are the membership. Outgoing are the voters before, as long as a
	// change needs their majority, too.
	Voters, Learners, Outgoing []PeerID
	// Quorum is on how many voters an append must be durable to be acknowledged.
	Quorum int
	// Changing says that a change of membership may be under way.
	Changing bool
	// Missing are the nodes that a cluster's first start waits for.
	Missing []NodeID
	// Damage is how many places of the log are known to be damaged and not mended yet, and
	// Mended how many entries have been since the core was made.
	Damage int
	Mended uint64
	// Replicas are the other members, as the leader sees them; nil if this node does not lead.
	Replicas []Replica
}

// Replica is a node as the leader sees it.
type Replica struct {
	Peer PeerID
	// Lag is by how many records it is behind, Known says whether that is known.
	Lag   uint64
	Known bool
	// InSync says that it was heard of lately, and is behind by MaxLag records at most, not
	// counting those of the last election timeout.
	InSync bool
	// Silent is for how many ticks nothing was heard of it.
	Silent uint64
	// First, Commit and End are offsets that it has reported.
	First, Commit, End uint64
}

// Standing is a node's place in its cluster: the part of its [Status] that an operator is told
// of when it changes.
type Standing struct {
	Self   PeerID
	Role   Role
	Term   uint64 // 0 while raft does not run
	Leader PeerID // 0: none is known
	Voters int    // in the membership
}

// Standing returns the node's place in its cluster. It costs little.
func (c *Core) Standing() Standing {
	s := Standing{Self: c.st.self, Role: RoleWaiting, Leader: c.leader}
	if c.lost {
		s.Role = RoleJoining
	}
	if c.rn == nil {
		return s
	}
	voters := c.conf().GetVoters()
	s.Term, s.Voters = c.term, len(voters)
	switch {
	case c.role == raft.StateLeader:
		s.Role = RoleLeader
	case c.st.phase == phaseJoining:
		s.Role = RoleJoining
	case !slices.Contains(voters, uint64(c.st.self)):
		s.Role = RoleRemoved
	case c.role == raft.StateFollower:
		s.Role = RoleFollower
	default:
		s.Role = RoleCandidate
	}
	return s
}

func peerIDs(ids []uint64) (peers []PeerID) {
	for _, id := range ids {
		peers = append(peers, PeerID(id))
	}
	return peers
}

// Damage returns how many places of the log are known to be damaged, and are neither mended nor
// given up. It costs little.
func (c *Core) Damage() int {
	n := len(c.damage)
	if c.mend != nil {
		n++
	}
	return n
}

// Status returns how the node is.
func (c *Core) Status() Status {
	standing := c.Standing()
	s := Status{
		Self: standing.Self, Role: standing.Role, Cluster: c.st.cluster, Term: standing.Term, Leader: standing.Leader,
		Last: c.last.Index, Committed: c.visible, End: c.last.Offset,
		Damage: c.Damage(), Mended: c.mended,
	}
	if c.rn == nil {
		if c.st.phase < phaseActive {
			s.Missing = c.missing()
		}
		return s
	}
	conf := c.conf()
	s.Voters, s.Outgoing, s.Learners = peerIDs(conf.GetVoters()), peerIDs(conf.GetVotersOutgoing()), peerIDs(conf.GetLearners())
	s.Quorum = c.quorum()
	s.Changing = c.confPending > c.raft.applied || len(s.Outgoing) > 0
	if s.Role == RoleLeader {
		matches := map[PeerID]uint64{}
		c.rn.WithProgress(func(id uint64, _ raft.ProgressType, pr tracker.Progress) { matches[PeerID(id)] = pr.Match })
		for _, p := range members(conf) {
			if p != c.st.self {
				s.Replicas = append(s.Replicas, c.replica(p, matches[p]))
			}
		}
	}
	return s
}

func (c *Core) replica(p PeerID, match uint64) Replica {
	r := Replica{Peer: p, Silent: c.ticks - c.led}
	if known := c.peers[p]; known != nil && known.heard > 0 {
		r.Silent = c.ticks + 1 - known.heard
		r.First, r.Commit, r.End = known.first, known.commit, known.end
	}
	r.Lag, r.Known = c.lag(match)
	r.InSync = c.caughtUp(p, match)
	return r
}
