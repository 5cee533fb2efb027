package core

import "fmt"

// NodeID is the number of a node in cluster.conf, from 1 to [MaxNodeID].
type NodeID uint16

// MaxNodeID is the largest number of a node.
const MaxNodeID = 0xFFFE

// PeerID is a node in one of its incarnations: a raft id. A node that may have lost what it
// has acknowledged takes a new one, so that nobody counts on what the old one said. 0 is none.
type PeerID uint64

const incarnationBits = 48

func newPeerID(node NodeID, incarnation uint64) PeerID {
	if planted("old incarnation") {
		incarnation = 1
	}
	return PeerID(uint64(node)<<incarnationBits | incarnation&(1<<incarnationBits-1))
}

// Node returns the node's number.
func (p PeerID) Node() NodeID { return NodeID(p >> incarnationBits) }

// Incarnation returns a random number of 48 bits, which tells the incarnations of a node apart.
func (p PeerID) Incarnation() uint64 { return uint64(p) & (1<<incarnationBits - 1) }

// String returns such as "3/00f1a2b3c4d5".
func (p PeerID) String() string { return fmt.Sprintf("%d/%012x", p.Node(), p.Incarnation()) }
