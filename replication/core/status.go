package core

import "go.etcd.io/raft/v3"

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
	// Changing says that a change of membership may be under way.
	Changing bool
	// Missing are the nodes that a cluster's first start waits for.
	Missing []NodeID
	// Replicas are the other members, as the leader sees them; nil if this node does not lead.
	Replicas []Replica
}

// Replica is a node as the leader sees it.
type Replica struct {
	Peer PeerID
	// Lag is by how many records it is behind, Known says whether that is known.
	Lag   uint64
	Known bool
	// InSync says that it was heard of lately, and is behind by MaxLag records at most.
	InSync bool
	// Silent is for how many ticks nothing was heard of it.
	Silent uint64
	// First, Commit and End are offsets that it has reported.
	First, Commit, End uint64
}

// Status returns how the node is.
func (c *Core) Status() Status {
	s := Status{Self: c.st.self, Role: RoleWaiting, Cluster: c.st.cluster, Leader: c.leader, Last: c.last.Index, Committed: c.visible, End: c.last.Offset}
	if c.lost {
		s.Role = RoleJoining
	}
	if c.rn == nil {
		if c.st.phase < phaseActive {
			s.Missing = c.missing()
		}
		return s
	}
	conf := c.conf()
	voter := false
	for _, id := range conf.GetVoters() {
		s.Voters = append(s.Voters, PeerID(id))
		voter = voter || PeerID(id) == c.st.self
	}
	for _, id := range conf.GetVotersOutgoing() {
		s.Outgoing = append(s.Outgoing, PeerID(id))
	}
	for _, id := range conf.GetLearners() {
		s.Learners = append(s.Learners, PeerID(id))
	}
	s.Term, s.Changing = c.term, c.confPending > c.raft.applied || len(s.Outgoing) > 0
	switch {
	case c.role == raft.StateLeader:
		s.Role = RoleLeader
	case c.st.phase == phaseJoining:
		s.Role = RoleJoining
	case !voter:
		s.Role = RoleRemoved
	case c.role == raft.StateFollower:
		s.Role = RoleFollower
	default:
		s.Role = RoleCandidate
	}
	if s.Role == RoleLeader {
		for _, p := range members(conf) {
			if p != c.st.self {
				s.Replicas = append(s.Replicas, c.replica(p))
			}
		}
	}
	return s
}

func (c *Core) replica(p PeerID) Replica {
	r := Replica{Peer: p, Silent: c.ticks - c.led}
	if known := c.peers[p]; known != nil && known.heard > 0 {
		r.Silent = c.ticks + 1 - known.heard
		r.First, r.Commit, r.End = known.first, known.commit, known.end
	}
	r.Lag, r.Known = c.lag(p)
	r.InSync = c.caughtUp(p)
	return r
}
