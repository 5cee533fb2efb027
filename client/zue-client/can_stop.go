package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

func (a *app) canStopCommand() *cobra.Command {
	return a.nodeCommand(&cobra.Command{
		Use:   "can-stop <host> <port> <id>",
		Short: "Say whether a node can be stopped without harm",
		Long: `can-stop asks all nodes, and says in a line whether the node of that number can be stopped
now, and appends go on: yes if all other nodes are in sync, as many as the quorum are left, and
no change of the membership is under way on any of them; otherwise no, and why. The exit status
is 0 for yes and 1 for no.

Before each node of a rolling restart, ask again until it says yes.

With --json it prints {"node":2,"can_stop":false,"reasons":["..."]}.`,
		Example: `  zue-client cluster can-stop 127.0.0.1 9000 2
  until zue-client cluster can-stop 127.0.0.1 9000 2; do sleep 1; done`,
	}, 1, a.canStop)
}

func (a *app) canStop(ctx context.Context, s server, node uint16) error {
	sv, _, err := a.survey(ctx, s)
	if err != nil {
		return err
	}
	reasons, answer := sv.againstStopping(node), "no"
	can := len(reasons) == 0
	if can {
		reasons, answer = []string{sv.forStopping(node)}, "yes"
	}
	for i := range reasons {
		reasons[i] = printable(reasons[i])
	}
	err = a.say(fmt.Sprintf("%s: %s\n", answer, strings.Join(reasons, "; ")), struct {
		Node    uint16   `json:"node"`
		CanStop bool     `json:"can_stop"`
		Reasons []string `json:"reasons"`
	}{node, can, reasons})
	if err == nil && !can {
		return errSaid
	}
	return err
}

// againstStopping returns why a node must not be stopped; nil if it may.
func (sv *survey) againstStopping(node uint16) (reasons []string) {
	no := func(format string, args ...any) { reasons = append(reasons, fmt.Sprintf(format, args...)) }
	if sv.view(node) == nil {
		no("node %d is no node of this cluster", node)
		return reasons
	}
	for _, n := range sv.nodes {
		if n.node == node {
			continue
		}
		// A node that has not heard that a change is complete still votes by the old membership.
		switch {
		case sv.leader != nil && !sv.member(n.node):
			// It has no say, and nothing waits for it.
		case n.err != nil:
			no("node %d does not answer: %v", n.node, n.err)
		case n.status.Failed != "":
			no("node %d takes no appends until it is started again: %s", n.node, n.status.Failed)
		case n.status.Role == roleWaiting || n.status.Role == roleJoining:
			no("node %d is %s", n.node, n.status.Role)
		case n.status.Cluster.Changing:
			no("a change of the membership is under way on node %d", n.node)
		}
	}
	if sv.leader == nil {
		no("no node that answers leads")
		return reasons
	}
	c := sv.leader.Cluster
	for _, n := range sv.nodes {
		if n.node == node || n.err != nil || !sv.member(n.node) {
			continue
		}
		if other := n.status.Cluster; other.ID != c.ID {
			no("node %d is of another cluster, %s", n.node, other.ID)
		} else if n.status.Role != roleRemoved && !sameNodes(other.Voters, c.Voters) {
			no("node %d knows another membership (voters %v) than the leader (%v)", n.node, other.Voters, c.Voters)
		}
	}
	left := 0
	for _, v := range c.Voters {
		r := sv.replica(v)
		switch {
		case v == node:
		case v == c.Node || r != nil && r.InSync:
			left++
		case r == nil:
			no("the leader knows nothing of node %d", v)
		case r.Lag == nil:
			no("node %d is not in sync: by how much it is behind is not known", v)
		default:
			no("node %d is not in sync: %d records behind, heard of %d ms ago", v, *r.Lag, r.LastContactMillis)
		}
	}
	if need := sv.needed(); left < need {
		no("%d of %d voters would be left in sync, and an append needs %d", left, len(c.Voters), need)
	}
	return reasons
}

// member says whether a node is in the membership, as the leader knows it.
func (sv *survey) member(node uint16) bool {
	c := sv.leader.Cluster
	return slices.Contains(c.Voters, node) || slices.Contains(c.Learners, node)
}

// needed is how many voters there must be in sync: the quorum, and a majority in any case.
func (sv *survey) needed() int {
	return max(sv.leader.Cluster.Quorum, len(sv.leader.Cluster.Voters)/2+1)
}

func sameNodes(a, b []uint16) bool {
	a, b = slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b))
	return slices.Equal(a, b)
}

// forStopping says why a node may be stopped.
func (sv *survey) forStopping(node uint16) string {
	c := sv.leader.Cluster
	if !slices.Contains(c.Voters, node) {
		return fmt.Sprintf("node %d is no voter; %d of %d voters are in sync, and an append needs %d", node, sv.inSync(), len(c.Voters), sv.needed())
	}
	left := len(c.Voters) - 1 // as all others are in sync
	text := fmt.Sprintf("without node %d, %d of %d voters are in sync, and an append needs %d", node, left, len(c.Voters), sv.needed())
	if c.Node == node {
		text += "; it leads, and hands that over when it is stopped by SIGTERM"
	}
	return text
}
