package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/zue-log/zue/net/wire"
	"github.com/zue-log/zue/replication"
	"github.com/zue-log/zue/replication/core"
)

// manageTimeout is how long a request about the cluster may wait for the node's goroutine.
const manageTimeout = 5 * time.Second

// barrier answers a barrier request.
func (c *session) barrier() error {
	k := c.server.cluster
	if k == nil {
		// A server without replication acknowledges what it shows, and nothing else.
		c.out = wire.BarrierResponse{End: c.server.log.EndOffset()}.AppendTo(c.out)
		return nil
	}
	if err := c.flush(); err != nil { // answers to earlier requests need not wait for it
		return err
	}
	end, err := k.node.Barrier(c.server.waits)
	switch {
	case err == nil:
		c.out = wire.BarrierResponse{End: end}.AppendTo(c.out)
	case errors.Is(err, core.ErrOverloaded):
		c.refuse(wire.CodeOverloaded, "too many barriers are under way: try again")
	case errors.Is(err, core.ErrQuorumFailed):
		c.refuse(wire.CodeNotLeader, "leadership has changed meanwhile: try again")
	case errors.Is(err, core.ErrNoLeader):
		c.refuse(wire.CodeNotLeader, fmt.Sprintf("no leader has answered this node within %v: try again, or another node", k.conf.Timeout))
	default:
		c.refuse(wire.CodeNotLeader, "this node stops: ask another node")
	}
	return nil
}

// chain answers a request for the chain up to the entry of an offset, from this node's log.
func (c *session) chain(offset uint64) {
	log := c.server.log
	index, err := log.FindEntry(offset)
	if err != nil {
		c.refuse(codeOf(err), err.Error())
		return
	}
	before, err := log.PlaceAfter(index - 1)
	if err != nil {
		c.refuse(codeOf(err), err.Error())
		return
	}
	place, err := log.PlaceAfter(index)
	if err != nil {
		c.refuse(codeOf(err), err.Error())
		return
	}
	c.out = wire.ChainResponse{Index: place.Index, Term: place.Term, First: before.Offset, Next: place.Offset, Chain: place.Chain}.AppendTo(c.out)
}

// manage answers a request to change who leads the cluster, or who is in it.
func (c *session) manage(f wire.Frame) error {
	var log wire.LogID
	var do func(ctx context.Context, k *cluster) error
	var err error
	switch f.Type {
	case wire.TypeTransferRequest:
		var m wire.TransferRequest
		m, err = wire.ParseTransferRequest(f.Payload)
		log, do = m.Log, func(ctx context.Context, k *cluster) error {
			st, err := k.node.Status(ctx)
			if err == nil && st.Role == core.RoleLeader {
				err = k.reachable(core.NodeID(m.Node))
			}
			to := core.NodeID(0)
			if err == nil {
				to, err = k.node.Transfer(ctx, core.NodeID(m.Node))
			}
			if err == nil {
				c.out = wire.TransferResponse{Node: uint16(to)}.AppendTo(c.out)
			}
			return err
		}
	case wire.TypeRemoveRequest:
		var m wire.RemoveRequest
		m, err = wire.ParseRemoveRequest(f.Payload)
		log, do = m.Log, func(ctx context.Context, k *cluster) error {
			err := k.node.Remove(ctx, core.NodeID(m.Node))
			if err == nil {
				c.out = wire.RemoveResponse{}.AppendTo(c.out)
			}
			return err
		}
	default:
		var m wire.AllowRequest
		m, err = wire.ParseAllowRequest(f.Payload)
		log, do = m.Log, func(ctx context.Context, k *cluster) error {
			err := k.allow(ctx, core.NodeID(m.Node))
			if err == nil {
				c.out = wire.AllowResponse{}.AppendTo(c.out)
			}
			return err
		}
	}
	if err != nil || c.unknownLog(log) {
		return err
	}
	k := c.server.cluster
	if k == nil {
		c.refuse(wire.CodeChangeRefused, "this server is no node of a cluster: there is no leader and no membership to change")
		return nil
	}
	ctx, cancel := context.WithTimeout(c.server.waits, manageTimeout)
	defer cancel()
	if err := do(ctx, k); err != nil {
		c.refuse(k.refusedChange(ctx, err))
	}
	return nil
}

// allow lets a node join that no membership has had.
func (k *cluster) allow(ctx context.Context, id core.NodeID) error {
	st, err := k.node.Status(ctx)
	if err != nil {
		return err
	}
	if st.Role != core.RoleLeader {
		return core.ErrNotLeader
	}
	if _, known := k.conf.Node(id); !known {
		return fmt.Errorf("node %d is not in the cluster.conf of node %d, which leads: add its line on all nodes and start them again, one after the other; then have it join", id, k.self)
	}
	if slices.ContainsFunc(st.Voters, func(p core.PeerID) bool { return p.Node() == id }) {
		return fmt.Errorf("node %d is a member already", id)
	}
	return k.node.Allow(ctx, id)
}

// reachable says why a node cannot be handed leadership; nil if nothing is known against it.
func (k *cluster) reachable(id core.NodeID) error {
	if id == 0 || id == k.self {
		return nil
	}
	if _, known := k.conf.Node(id); !known {
		return fmt.Errorf("node %d is no node of this cluster", id)
	}
	for _, l := range k.peers.links() {
		if l.node == id && !l.up && l.trouble != "" {
			return fmt.Errorf("node %d cannot be handed leadership: there is no link to it: %s", id, l.trouble)
		}
	}
	return nil
}

// refusedChange is the answer for a change that could not be made.
func (k *cluster) refusedChange(ctx context.Context, err error) (wire.Code, string) {
	switch {
	case errors.Is(err, core.ErrNotLeader):
		var leader core.NodeID
		if st, err := k.node.Status(ctx); err == nil {
			leader = st.Leader.Node()
		}
		return wire.CodeNotLeader, k.elsewhere(leader)
	case errors.Is(err, replication.ErrStopped), ctx.Err() != nil:
		return wire.CodeNotLeader, "this node stops, or does not answer in time: ask another node"
	}
	return wire.CodeChangeRefused, err.Error()
}
