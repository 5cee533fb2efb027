package core

import (
	"math/rand/v2"
)

// Identity is what a log's state says of its node, for who must know before the log is opened,
// or when it cannot be.
type Identity struct {
	// Peer is the node in its incarnation, and Cluster the cluster's id; 0 for a blank log.
	Peer    PeerID
	Cluster uint64
	// Member says that the node is, was, or is to become a member: not only a founder of a
	// cluster that perhaps never was.
	Member bool
	// Alone says that there is no other voter: what this node has lost nobody has.
	Alone bool
}

// ReadIdentity reads a state, as a log's State returns it, or a walk. The error wraps
// ErrState.
func ReadIdentity(state []byte) (Identity, error) {
	st, err := decodeState(state)
	if err != nil {
		return Identity{}, err
	}
	c := Core{st: st}
	return Identity{
		Peer: st.self, Cluster: st.cluster, Member: st.phase >= phaseActive,
		Alone: st.phase == phaseActive && c.alone(),
	}, nil
}

// Rejoin returns the state for an empty log of a node that has lost the one with this identity: it
// is to join that cluster anew, in an incarnation that rng draws, and no other cluster. One
// without might found a new one, if all nodes had lost their logs, and nobody would notice that it
// is empty. It is for SetState of the empty log.
func (id Identity) Rejoin(rng *rand.Rand) []byte {
	st := state{phase: phaseJoining, cluster: id.Cluster, self: newPeerID(id.Peer.Node(), rng.Uint64())}
	return st.encode()
}
