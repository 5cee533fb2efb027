package server

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sync/semaphore"

	"github.com/zue-log/zue/net/wire"
	"github.com/zue-log/zue/replication"
	"github.com/zue-log/zue/replication/conf"
	"github.com/zue-log/zue/replication/core"
	"github.com/zue-log/zue/storage"
	"github.com/zue-log/zue/storage/batch"
)

// maxInFlightBytes bounds the appends of all sessions that are under way: further ones wait. It
// is half of what the node takes, which counts more for an append than a session does.
const maxInFlightBytes = 32 << 20

// cluster is what makes a server one node of a cluster: its appends go through node, and it says
// in its status how the cluster is. See [StartMember], which puts all of it together.
type cluster struct {
	node  *replication.Node
	self  core.NodeID
	conf  *conf.Conf
	peers *peerNetwork
	// codec is what records that clients append one by one are compressed with.
	codec batch.Codec
	// notes are what else the status warns of, and changes is how often a replica has come to
	// be in sync, or ceased to be.
	notes   func() []string
	changes func() uint64

	room *semaphore.Weighted // for appends under way
	// ended ends with the node, and when the sessions must not wait for it any more: cut sees to
	// that.
	ended context.Context
	cut   context.CancelFunc
}

// address returns "host:port" of a node; empty if cluster.conf does not have it.
func (k *cluster) address(id core.NodeID) string {
	if n, ok := k.conf.Node(id); ok {
		return n.Address()
	}
	return ""
}

// elsewhere says where a request is to be sent that only a leader can carry out. Clients take the
// first "host:port" for the leader's.
func (k *cluster) elsewhere(leader core.NodeID) string {
	switch addr := k.address(leader); {
	case leader == 0:
		return "this node does not lead, and knows of no leader now: try again, or another node"
	case leader == k.self:
		return "this node is handing leadership over: try again"
	case addr == "":
		return fmt.Sprintf("this node does not lead: send it to node %d, whose address this node's cluster.conf does not have", leader)
	default:
		return fmt.Sprintf("this node does not lead: send it to node %d at %s", leader, addr)
	}
}

// refusal is the answer for an append that has failed, when leader is the one that is known.
func (k *cluster) refusal(err error, leader core.NodeID) (wire.Code, string) {
	switch {
	case errors.Is(err, replication.ErrStopped) && errors.Is(err, core.ErrNotLeader):
		return wire.CodeNotLeader, "this node stops, and has appended nothing: send it to another node"
	case errors.Is(err, core.ErrNotLeader):
		return wire.CodeNotLeader, k.elsewhere(leader)
	case errors.Is(err, core.ErrInsufficientISR):
		return wire.CodeInsufficientISR, err.Error()
	case errors.Is(err, core.ErrOverloaded):
		return wire.CodeOverloaded, err.Error()
	case errors.Is(err, core.ErrQuorumFailed), errors.Is(err, core.ErrStopped):
		return wire.CodeQuorumFailed, err.Error()
	case errors.Is(err, core.ErrReplicationTimeout):
		return wire.CodeReplicationTimeout, err.Error()
	}
	return codeOf(err), err.Error()
}

// checkBatch verifies a client's batch as [storage.Log.AppendBatch] would, so that the node need
// not: all of it, and its checksum.
func checkBatch(m *wire.BatchAppendRequest) (batch.Header, error) {
	if len(m.Body) > storage.MaxBodyBytes {
		return batch.Header{}, fmt.Errorf("append of %d bytes: %w (at most %d bytes)", len(m.Body), storage.ErrTooLarge, storage.MaxBodyBytes)
	}
	if got := batch.Checksum(m.Body); got != m.Checksum {
		return batch.Header{}, fmt.Errorf("append batch: %w: checksum is %#x, not %#x", batch.ErrMalformed, got, m.Checksum)
	}
	h, err := batch.Check(m.Body, storage.MaxBodyBytes)
	if err != nil {
		return batch.Header{}, fmt.Errorf("append batch: %w", err)
	}
	return h, nil
}

// nodeList names nodes as an operator is to read of them.
func (k *cluster) nodeList(ids []core.NodeID) string {
	names := make([]string, len(ids))
	for i, id := range ids {
		names[i] = fmt.Sprintf("node %d", id)
		if addr := k.address(id); addr != "" {
			names[i] += " at " + addr
		}
	}
	return strings.Join(names, ", ")
}
