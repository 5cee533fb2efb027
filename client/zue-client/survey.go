package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/zue-log/zue/client"
	"github.com/zue-log/zue/net/wire"
)

// surveyTimeout is how long a node other than the one named may take to answer, if --timeout
// is not less.
const surveyTimeout = 2 * time.Second

// nodeView is what a node says of itself.
type nodeView struct {
	node    uint16
	address string // "": nobody knows it
	status  *client.Status
	err     error // why there is no status
}

// survey is how the nodes of a cluster say they are.
type survey struct {
	nodes  []nodeView     // ascending
	leader *client.Status // that of the leader; nil if no node that answers leads
}

// errNoCluster is the error of a server that is no node of a cluster.
var errNoCluster = errors.New("it is a server without a cluster")

// survey asks all nodes of the cluster that a server is a node of. The error is that of asking the
// server itself, or errNoCluster, with its status.
func (a *app) survey(ctx context.Context, s server) (*survey, client.Status, error) {
	var asked client.Status
	err := a.ask(ctx, s, s.reading(), func(ctx context.Context, c *client.Client) (err error) {
		asked, err = c.Status(ctx)
		return err
	})
	if err != nil {
		return nil, asked, err
	}
	if asked.Cluster == nil {
		return nil, asked, fmt.Errorf("%s: %w", asked.Address, errNoCluster)
	}
	sv := &survey{nodes: []nodeView{{node: asked.Cluster.Node, address: cmp.Or(asked.Cluster.Address, asked.Address), status: &asked}}}
	for a.askUnknown(ctx, sv) { // what they say may name others
	}
	sv.addMembers()
	slices.SortFunc(sv.nodes, func(x, y nodeView) int { return cmp.Compare(x.node, y.node) })
	for i := range sv.nodes {
		st := sv.nodes[i].status
		if st != nil && st.Role == roleLeader && (sv.leader == nil || st.Cluster.Term > sv.leader.Cluster.Term) {
			sv.leader = st
		}
	}
	return sv, asked, nil
}

// Roles of nodes, as they call them.
const (
	roleLeader  = "leader"
	roleJoining = "joining"
	roleWaiting = "waiting"
	roleRemoved = "removed"
)

// view returns what a node says of itself; nil if it is not known.
func (sv *survey) view(node uint16) *nodeView {
	for i := range sv.nodes {
		if sv.nodes[i].node == node {
			return &sv.nodes[i]
		}
	}
	return nil
}

// replica returns how the leader sees a node; nil if it does not, or there is none.
func (sv *survey) replica(node uint16) *wire.ReplicaStatus {
	if sv.leader == nil {
		return nil
	}
	var found *wire.ReplicaStatus
	for i := range sv.leader.Cluster.Replicas {
		// A node in two incarnations is as the better one: the other is about to be removed.
		if r := &sv.leader.Cluster.Replicas[i]; r.Node == node && (found == nil || r.InSync) {
			found = r
		}
	}
	return found
}

// askUnknown asks those nodes, all at once, of which others have said the address, and that
// were not asked. It reports whether there were any.
func (a *app) askUnknown(ctx context.Context, sv *survey) bool {
	var fresh []nodeView
	for _, known := range sv.nodes {
		if known.status == nil {
			continue
		}
		for _, n := range known.status.Cluster.Nodes {
			if sv.view(n.Node) == nil && !slices.ContainsFunc(fresh, func(f nodeView) bool { return f.node == n.Node }) {
				fresh = append(fresh, nodeView{node: n.Node, address: n.Address})
			}
		}
	}
	var wg sync.WaitGroup
	for i := range fresh {
		wg.Go(func() { fresh[i].status, fresh[i].err = a.askNode(ctx, &fresh[i]) })
	}
	wg.Wait()
	sv.nodes = append(sv.nodes, fresh...)
	return len(fresh) > 0
}

// askNode asks a node for its status.
func (a *app) askNode(ctx context.Context, n *nodeView) (*client.Status, error) {
	timeout := min(a.timeout, surveyTimeout)
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	c, err := client.Dial(ctx, []string{n.address}, client.Options{NoRetry: true, DialTimeout: timeout, StallTimeout: timeout})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	st, err := c.Status(ctx)
	switch {
	case err != nil:
		return nil, err
	case st.Cluster == nil:
		return nil, fmt.Errorf("%s: %w", n.address, errNoCluster)
	case st.Cluster.Node != n.node:
		return nil, fmt.Errorf("%s is node %d", n.address, st.Cluster.Node)
	}
	return &st, nil
}

// addMembers adds members of which no node has said the address.
func (sv *survey) addMembers() {
	for _, known := range slices.Clone(sv.nodes) {
		if known.status == nil {
			continue
		}
		for _, m := range slices.Concat(known.status.Cluster.Voters, known.status.Cluster.Learners) {
			if sv.view(m) == nil {
				sv.nodes = append(sv.nodes, nodeView{node: m, err: errors.New("it is a member, and no cluster.conf has its address")})
			}
		}
	}
}

// warnings are what an operator should look at: what nodes say of themselves, once where several say
// the same, and what none of them can know.
func (sv *survey) warnings() []string {
	var out []string
	add := func(format string, args ...any) {
		if w := printable(fmt.Sprintf(format, args...)); !slices.Contains(out, w) {
			out = append(out, w)
		}
	}
	id := ""
	says := map[string][]string{} // which nodes
	for _, n := range sv.nodes {
		if n.err == nil {
			for _, w := range n.status.Warnings {
				says[w] = append(says[w], fmt.Sprint(n.node))
			}
		}
	}
	for _, n := range sv.nodes {
		if n.err != nil {
			add("node %d does not answer: %v", n.node, n.err)
			continue
		}
		if n.status.Failed != "" {
			add("node %d takes no appends until it is started again: %s", n.node, n.status.Failed)
		}
		for _, w := range n.status.Warnings {
			if nodes := says[w]; len(nodes) > 1 {
				add("nodes %s: %s", strings.Join(nodes, ", "), w) // once
			} else {
				add("node %d: %s", n.node, w)
			}
		}
		if other := n.status.Cluster.ID; other != "" {
			if id != "" && other != id {
				add("node %d is of cluster %s, others are of %s: is its data directory another one's?", n.node, other, id)
			}
			id = cmp.Or(id, other)
		}
	}
	if sv.leader == nil {
		add("no node that answers leads, so nothing can be appended: an election takes a second or two; longer than that, look whether most nodes are up")
	}
	return out
}
