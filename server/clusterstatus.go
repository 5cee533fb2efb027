package server

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/zue-log/zue/net/wire"
	"github.com/zue-log/zue/replication/core"
	"github.com/zue-log/zue/storage"
)

// statusTimeout is how long a status may wait for the node's goroutine.
const statusTimeout = 2 * time.Second

// fill adds how the cluster is to a status, which has what the log says.
func (k *cluster) fill(st *wire.Status, sync storage.SyncPolicy) {
	c := &wire.ClusterStatus{Node: uint16(k.self), Address: k.address(k.self), Voters: []uint16{}}
	st.Cluster, st.SyncMeaning = c, k.meaning(sync)
	c.InSyncChanges = k.changes()
	ctx, cancel := context.WithTimeout(context.Background(), statusTimeout)
	defer cancel()
	s, err := k.node.Status(ctx)
	if err != nil {
		st.Role = "stopped"
		if failed := k.node.Err(); failed != nil && st.Failed == "" {
			st.Failed = failed.Error()
		}
		if ctx.Err() != nil {
			st.Warnings = append(st.Warnings, fmt.Sprintf("the node did not answer within %v", statusTimeout))
		}
		return
	}
	st.Role, st.EndOffset = string(s.Role), s.End
	if s.Cluster != 0 {
		c.ID, c.Incarnation = fmt.Sprintf("%016x", s.Cluster), incarnation(s.Self)
	}
	c.Quorum = s.Quorum
	c.Term, c.Leader, c.LeaderAddress = s.Term, uint16(s.Leader.Node()), k.address(s.Leader.Node())
	c.Voters, c.Learners = numbers(s.Voters), numbers(s.Learners)
	c.Changing, c.Damaged, c.Mended = s.Changing, s.Damage, s.Mended
	for _, n := range s.Missing {
		c.Missing = append(c.Missing, uint16(n))
	}
	k.fillReplicas(c, &s)
	links := k.peers.links()
	k.fillNodes(c, links)
	st.Warnings = append(st.Warnings, k.warnings(st, &s, links, sync)...)
}

// numbers returns the nodes of peers, each once, ascending.
func numbers(peers []core.PeerID) []uint16 {
	n := make([]uint16, 0, len(peers))
	for _, p := range peers {
		n = append(n, uint16(p.Node()))
	}
	slices.Sort(n)
	return slices.Compact(n)
}

func incarnation(p core.PeerID) string { return fmt.Sprintf("%012x", p.Incarnation()) }

func (k *cluster) fillReplicas(c *wire.ClusterStatus, s *core.Status) {
	if s.Role != core.RoleLeader {
		return
	}
	c.InSync = 1
	for i := range s.Replicas {
		r := &s.Replicas[i]
		to := wire.ReplicaStatus{
			Node: uint16(r.Peer.Node()), Incarnation: incarnation(r.Peer), Address: k.address(r.Peer.Node()), Kind: "learner", InSync: r.InSync,
			LastContactMillis: (time.Duration(r.Silent) * k.tick()).Milliseconds(), First: r.First, Committed: r.Commit, End: r.End,
		}
		if slices.Contains(s.Voters, r.Peer) {
			to.Kind = "voter"
			if r.InSync {
				c.InSync++
			}
		}
		if r.Known {
			to.Lag = &r.Lag
		}
		c.Replicas = append(c.Replicas, to)
	}
}

func (k *cluster) fillNodes(c *wire.ClusterStatus, links []peerLink) {
	for _, n := range k.conf.Nodes {
		to := wire.NodeStatus{Node: uint16(n.ID), Address: n.Address(), Connected: n.ID == k.self}
		for i := range links {
			if l := &links[i]; l.node == n.ID {
				to.Connected = l.up
				to.Trouble = l.trouble
			}
		}
		c.Nodes = append(c.Nodes, to)
	}
}

// tick is the time between two ticks of the node.
func (k *cluster) tick() time.Duration { return tickOf(k.conf.ElectionTimeout) }

// warnings are what an operator should look at.
func (k *cluster) warnings(st *wire.Status, s *core.Status, links []peerLink, sync storage.SyncPolicy) (w []string) {
	warn := func(is bool, format string, args ...any) {
		if is {
			w = append(w, fmt.Sprintf(format, args...))
		}
	}
	c := st.Cluster
	warn(s.Role == core.RoleWaiting && len(s.Missing) > 0,
		"the cluster has not begun: for its first start all nodes of cluster.conf must be up, and this one waits for %s", k.nodeList(s.Missing))
	warn(s.Role == core.RoleJoining, "this node has begun anew and is being brought up to date; until it is, it neither votes nor counts for the quorum")
	warn(s.Role == core.RoleRemoved, "this node was removed from the membership and gets no more records: stop it")
	warn(s.Role != core.RoleWaiting && s.Role != core.RoleRemoved && s.Leader == 0, "no leader is known: appends are refused")
	warn(s.Role == core.RoleLeader && c.InSync < c.Quorum,
		"%d replicas are in sync, and the quorum is %d: appends are refused", c.InSync, c.Quorum)
	if len(s.Voters) > 0 {
		k.compareConf(s, warn)
	}
	for i := range links {
		l := &links[i]
		if l.up {
			continue
		}
		trouble := ""
		if l.trouble != "" {
			trouble = ": " + l.trouble
		}
		warn(true, "there is no link to %s since %s%s", k.nodeList([]core.NodeID{l.node}), l.since.UTC().Format(time.RFC3339), trouble)
	}
	warn(s.Damage > 0, "%d places of the log are damaged, and are being mended with what other nodes have", s.Damage)
	warn(sync != storage.SyncAlways(), "--sync is %s: a record is acknowledged before it is on a disk, and is lost if as many machines as have it crash at once", sync)
	return append(w, k.notes()...)
}

// compareConf warns where cluster.conf differs from the membership, which is what counts.
func (k *cluster) compareConf(s *core.Status, warn func(bool, string, ...any)) {
	members := append(numbers(s.Voters), numbers(s.Learners)...)
	for _, n := range k.conf.Nodes {
		warn(!slices.Contains(members, uint16(n.ID)),
			"cluster.conf has node %d, which is not in the membership: remove it there, or have it join (zue-client cluster allow)", n.ID)
	}
	for _, n := range members {
		_, ok := k.conf.Node(core.NodeID(n))
		warn(!ok, "node %d is in the membership, but not in this node's cluster.conf: add it there, or remove it (zue-client cluster remove)", n)
	}
}

// meaning says in plain words what a policy promises in the cluster.
func (k *cluster) meaning(p storage.SyncPolicy) string {
	if p == storage.SyncAlways() {
		return fmt.Sprintf("an acknowledged record is on the disks of %s", k.copies())
	}
	return fmt.Sprintf("an acknowledged record is in the memory of %s, and gets to their disks later: it survives crashes of servers, but not one of all those machines at once", k.copies())
}

// copies says on how many nodes an acknowledged record is.
func (k *cluster) copies() string {
	if k.conf.Quorum == 0 {
		return "a majority of the nodes"
	}
	return fmt.Sprintf("%d nodes", k.conf.Quorum)
}
