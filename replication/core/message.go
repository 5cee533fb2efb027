package core

import (
	"errors"
	"fmt"

	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/zue-log/zue/storage"
)

// ErrMessage is wrapped by the error for a message that makes no sense.
var ErrMessage = errors.New("message is malformed")

// Kind is what a [Message] is.
type Kind byte

// Kinds of messages.
const (
	// KindRaft is a message of raft's.
	KindRaft Kind = 1 + iota
	// KindHello says who a node is and how far it is, and asks for the same.
	KindHello
	// KindWelcome answers a hello with the same of the other node.
	KindWelcome
	// KindPromise asks a node that never was a member to be a founder.
	KindPromise
	// KindPromised says that it is one, durably.
	KindPromised
	// KindJoin asks the leader to have a node join in a new incarnation.
	KindJoin
	// KindReport says how far a follower is.
	KindReport
	// KindStand asks a node to stand for election, where elections are static.
	KindStand
	// KindFetch asks for entries that are damaged in the sender's log.
	KindFetch
	// KindEntries answers that with some of them, from the first on.
	KindEntries
	lastKind = KindEntries
)

// Message is what one node's core says to another's. Those of a pair of nodes may be lost,
// come twice, and overtake one another; raft is faster if they do not. A message must not
// change once it was handed out, and may be shared by both ends.
type Message struct {
	Kind     Kind
	From, To NodeID
	Cluster  uint64 // 0 before there is one
	// Peer is the sender: all kinds but KindRaft.
	Peer PeerID
	// Raft is set for KindRaft.
	Raft *pb.Message
	// Phase is how far the sender is: KindHello, KindWelcome.
	Phase byte
	// Founders are those of the cluster that is being founded, or was: KindHello,
	// KindWelcome, KindPromise, KindPromised.
	Founders []PeerID
	// Nonce is chosen by a hello, and repeated by the welcome that answers it.
	Nonce uint64
	// First, Commit and End are offsets: KindReport.
	First, Commit, End uint64
	// FirstIndex and LastIndex are those of the first and last entry asked for: KindFetch, KindEntries.
	FirstIndex, LastIndex uint64
	// Entries are from FirstIndex on, as raft's: KindEntries.
	Entries []*pb.Entry

	// The sender's own: see Behind, and Load.
	behind bool
	loaded []storage.Entry // the first of the entries; those that are unread have their bodies here
}

// Behind says that the message is [Message.Stored], and that nobody waits for the node to acknowledge
// its entries: the node is not in sync, or has damage that is to be mended with them.
func (m *Message) Behind() bool { return m.behind }

// check says what is wrong with a message to node self.
func (m *Message) check(self NodeID) error {
	if m.To != self || m.From == self || m.From == 0 || m.From > MaxNodeID {
		return fmt.Errorf("message from node %d to node %d, at node %d: %w", m.From, m.To, self, ErrMessage)
	}
	if m.Kind < KindRaft || m.Kind > lastKind || (m.Kind == KindRaft) != (m.Raft != nil) {
		return fmt.Errorf("message of kind %d from node %d: %w", m.Kind, m.From, ErrMessage)
	}
	if m.Kind != KindRaft && m.Peer.Node() != m.From {
		return fmt.Errorf("message of peer %v from node %d: %w", m.Peer, m.From, ErrMessage)
	}
	// A ReadIndex may have been forwarded.
	if n := PeerID(m.Raft.GetFrom()).Node(); m.Kind == KindRaft && (n == 0 || n > MaxNodeID) {
		return fmt.Errorf("message of peer %v from node %d: %w", PeerID(m.Raft.GetFrom()), m.From, ErrMessage)
	}
	return nil
}
