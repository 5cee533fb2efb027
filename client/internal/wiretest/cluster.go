package wiretest

import (
	"fmt"
	"hash/fnv"
	"sync"
	"testing"

	"github.com/zue-log/zue/net/wire"
)

// Cluster is some servers that share a log, of which one leads, or none. Its methods are safe
// for concurrent use.
type Cluster struct {
	// Nodes are the servers; node 1 is the first.
	Nodes []*Server

	mu     sync.Mutex
	leader int // number of a node; 0: none
	hook   func(node int, f wire.Frame) *Action
	change func(node int, s *wire.Status)
	forged map[int]uint64 // offsets from which nodes have another log
}

// StartCluster starts a cluster of so many nodes, of which the first leads. It is closed when
// the test ends.
func StartCluster(t testing.TB, nodes int) *Cluster {
	t.Helper()
	c := &Cluster{leader: 1, forged: map[int]uint64{}}
	log := newMemoryLog()
	c.mu.Lock() // until all nodes are there
	defer c.mu.Unlock()
	for i := range nodes {
		c.Nodes = append(c.Nodes, Start(t, Options{log: log, Script: func(_ int, f wire.Frame) *Action { return c.act(i+1, f) }}))
	}
	return c
}

// Addresses returns the nodes' addresses.
func (c *Cluster) Addresses() (addresses []string) {
	for _, n := range c.Nodes {
		addresses = append(addresses, n.Address())
	}
	return addresses
}

// Lead has a node lead; 0: none.
func (c *Cluster) Lead(node int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leader = node
}

// Hook has a function asked about each request before the cluster answers it; nil: it answers.
// The function is called by one goroutine at a time, and must not call the cluster.
func (c *Cluster) Hook(hook func(node int, f wire.Frame) *Action) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hook = hook
}

// ChangeStatus has a function change what each node says of itself.
func (c *Cluster) ChangeStatus(change func(node int, s *wire.Status)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.change = change
}

// Forge has a node give chains, from an offset on, of another log than the others.
func (c *Cluster) Forge(node int, offset uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forged[node] = offset
}

// act is the script of a node; nil: the log answers.
func (c *Cluster) act(node int, f wire.Frame) *Action {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.hook != nil {
		if a := c.hook(node, f); a != nil {
			return a
		}
	}
	switch f.Type {
	case wire.TypeAppendRequest, wire.TypeBatchAppendRequest, wire.TypeProducerRequest,
		wire.TypeTransferRequest, wire.TypeRemoveRequest, wire.TypeAllowRequest:
		if c.leader != node {
			return c.notLeader()
		}
	}
	switch f.Type {
	case wire.TypeProducerRequest:
		return &Action{Reply: wire.ProducerResponse{ID: 7}.AppendTo(nil)}
	case wire.TypeBarrierRequest:
		return &Action{Reply: wire.BarrierResponse{End: c.end()}.AppendTo(nil)}
	case wire.TypeTransferRequest:
		return c.transfer(f)
	case wire.TypeRemoveRequest:
		return &Action{Reply: wire.RemoveResponse{}.AppendTo(nil)}
	case wire.TypeAllowRequest:
		return &Action{Reply: wire.AllowResponse{}.AppendTo(nil)}
	case wire.TypeChainRequest:
		return c.chain(node, f)
	case wire.TypeStatusRequest:
		return &Action{Reply: c.status(node).Response().AppendTo(nil)}
	}
	return nil
}

// notLeader is the answer of a node that does not lead. c.mu is held, here and below.
func (c *Cluster) notLeader() *Action {
	if c.leader == 0 {
		return Refuse(wire.CodeNotLeader, "no leader is known")
	}
	return Refuse(wire.CodeNotLeader, fmt.Sprintf("node %d at %s leads", c.leader, c.Nodes[c.leader-1].Address()))
}

func (c *Cluster) end() uint64 { return uint64(len(c.Nodes[0].Records())) }

func (c *Cluster) transfer(f wire.Frame) *Action {
	m, err := wire.ParseTransferRequest(f.Payload)
	if err != nil || int(m.Node) > len(c.Nodes) {
		return Refuse(wire.CodeChangeRefused, fmt.Sprintf("node %d is no voter that is in sync", m.Node))
	}
	if m.Node == 0 {
		m.Node = uint16(c.leader%len(c.Nodes) + 1)
	}
	c.leader = int(m.Node)
	return &Action{Reply: wire.TransferResponse{Node: m.Node}.AppendTo(nil)}
}

// chain answers as if the log were of entries of four records.
func (c *Cluster) chain(node int, f wire.Frame) *Action {
	const span = 4
	m, err := wire.ParseChainRequest(f.Payload)
	end := c.end()
	if err != nil || m.Offset >= end {
		return Refuse(wire.CodeInvalidOffset, fmt.Sprintf("offset %d is beyond the end", m.Offset))
	}
	a := wire.ChainResponse{Index: m.Offset/span + 1, Term: 1, First: m.Offset / span * span}
	a.Next = min(a.First+span, end)
	h := fnv.New64()
	for _, r := range c.Nodes[0].Records()[:a.Next] {
		_, _ = h.Write(r.Value)
	}
	if from, ok := c.forged[node]; ok && from < a.Next {
		_, _ = h.Write([]byte("forged"))
	}
	a.Chain = h.Sum64()
	return &Action{Reply: a.AppendTo(nil)}
}

func (c *Cluster) status(node int) wire.Status {
	s := wire.Status{
		Role: "follower", Version: "1.2.3", Storage: "0.1.0", Protocol: wire.ProtocolVersion, Uptime: 61,
		Sync: "always", SyncMeaning: "an acknowledged record is on disk",
		CommittedOffset: c.end(), EndOffset: c.end(),
		Cluster: &wire.ClusterStatus{ID: "00000000000000c1", Node: uint16(node), Term: 3, Leader: uint16(c.leader), Quorum: len(c.Nodes)/2 + 1},
	}
	cl := s.Cluster
	cl.Address = c.Nodes[node-1].Address()
	for i, n := range c.Nodes {
		cl.Voters = append(cl.Voters, uint16(i+1))
		cl.Nodes = append(cl.Nodes, wire.NodeStatus{Node: uint16(i + 1), Address: n.Address(), Connected: true})
	}
	if c.leader > 0 {
		cl.LeaderAddress = c.Nodes[c.leader-1].Address()
	}
	if c.leader == node {
		s.Role, cl.InSync = "leader", len(c.Nodes)
		for i, n := range c.Nodes {
			if i+1 != node {
				cl.Replicas = append(cl.Replicas, wire.ReplicaStatus{
					Node: uint16(i + 1), Address: n.Address(), Kind: "voter", InSync: true, Lag: new(uint64),
					LastContactMillis: 120, Committed: s.CommittedOffset, End: s.EndOffset,
				})
			}
		}
	}
	if c.change != nil {
		c.change(node, &s)
	}
	return s
}
