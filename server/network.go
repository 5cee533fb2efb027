package server

import (
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/zue-log/zue/net/transport"
	"github.com/zue-log/zue/net/wire"
	"github.com/zue-log/zue/replication/conf"
	"github.com/zue-log/zue/replication/core"
)

// peerNetwork carries messages by net/transport.
type peerNetwork struct {
	*transport.Transport
	logger *slog.Logger

	mu    sync.Mutex
	since map[uint16]time.Time // when links first saw that a link was not up
}

// peerLink is how a node's link to another one is.
type peerLink struct {
	node core.NodeID
	up   bool // messages get there
	// since is when it was first seen not to be up, and trouble why it is not; empty if that is
	// not known.
	since   time.Time
	trouble string
}

// networkOptions are what a network needs of its node.
type networkOptions struct {
	conf   *conf.Conf
	self   core.NodeID
	secret []byte
	logger *slog.Logger
	// receive takes a message, and waits while there is no room for it. More says that another one
	// has arrived.
	receive func(m *core.Message, more bool) error
	// unreachable is told that messages to a node get lost.
	unreachable func(core.NodeID)
}

// connectPeers begins to dial the other nodes.
func connectPeers(o networkOptions) (*peerNetwork, error) {
	addresses := map[uint16]string{}
	for _, n := range o.conf.Nodes {
		if n.ID != o.self {
			addresses[uint16(n.ID)] = n.Address()
		}
	}
	t, err := transport.New(transport.Options{
		Self: uint16(o.self), Addresses: addresses, Secret: o.secret, Logger: o.logger,
		Receive: func(from uint16, f wire.Frame, more bool) error {
			m, err := core.DecodeMessage(f.Payload)
			if err != nil {
				return err
			}
			if uint16(m.From) != from {
				return fmt.Errorf("message of node %d from node %d: %w", m.From, from, core.ErrMessage)
			}
			return o.receive(m, more)
		},
		Unreachable: func(to uint16) { o.unreachable(core.NodeID(to)) },
	})
	if err != nil {
		return nil, err
	}
	return &peerNetwork{Transport: t, logger: o.logger, since: map[uint16]time.Time{}}, nil
}

// frameTypes are the types of frames, by the class of what they carry.
var frameTypes = [...]wire.Type{
	core.ClassReplicate:         wire.TypeReplicate,
	core.ClassReplicateResponse: wire.TypeReplicateResponse,
	core.ClassHeartbeat:         wire.TypeHeartbeat,
	core.ClassHeartbeatResponse: wire.TypeHeartbeatResponse,
}

// Send implements replication.Transport. What does not fit, or there is no room for, is dropped,
// which the transport tells the node of.
func (n *peerNetwork) Send(messages []*core.Message, done func()) {
	for _, m := range messages {
		if !n.send(m, done) && done != nil {
			done()
		}
	}
}

// send sends one message, and reports whether it will call done.
func (n *peerNetwork) send(m *core.Message, done func()) bool {
	frame := m.Encode(wire.PeerHeaderSize)
	if err := wire.SealPeerFrame(frameTypes[m.Class()], frame); err != nil {
		// No entry is so long: see takeRecord.
		n.logger.Error("a message is too long to be sent to another node", "node", m.To, "err", err)
		return false
	}
	lane := transport.Bulk
	if m.Urgent() {
		lane = transport.Urgent
	}
	return n.Transport.Send(uint16(m.To), lane, net.Buffers(frame), done)
}

// links says how the links to the other nodes are. One is up when messages get there on both
// lanes.
func (n *peerNetwork) links() (links []peerLink) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, l := range n.Transport.Links() {
		to := peerLink{node: core.NodeID(l.Node), up: l.Urgent.Connected && l.Bulk.Connected}
		if to.up {
			delete(n.since, l.Node)
		} else {
			if n.since[l.Node].IsZero() {
				n.since[l.Node] = time.Now()
			}
			to.since = n.since[l.Node]
			for _, lane := range [2]transport.LaneStatus{l.Urgent, l.Bulk} {
				if !lane.Connected && lane.LastError != "" {
					to.trouble = lane.LastError
				}
			}
		}
		links = append(links, to)
	}
	return links
}
