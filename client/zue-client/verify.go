package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/zue-log/zue/client"
	"github.com/zue-log/zue/net/wire"
)

func (a *app) verifyCommand() *cobra.Command {
	var from, to uint64
	cmd := &cobra.Command{
		Use:   "verify <host> <port> [--from <offset>] [--to <offset>]",
		Short: "Compare the nodes' logs",
		Long: `verify compares what the nodes have in their logs, at the offsets that all have: by a chain, a
hash over all entries up to one, which each node has stored with it. If they differ, it says from
which offset on, and which node has what there. The exit status is 0 when all nodes have the same,
and 1 when they differ, or when one could not be asked.

It compares what was appended, in some twenty requests to each node, however long the log is. It
does not read the records: damage on a disk is found when they are read, and when a node is told
to check its files.

With --json it prints {"same":true,"from":0,"to":1000,"nodes":[1,2,3],"not_compared":[]}, where
to is the offset behind the last. If they differ, there are more members: "offset", from which on
they do, and "places", with what each node has there.`,
		Example: `  zue-client cluster verify 127.0.0.1 9000
  zue-client cluster verify 127.0.0.1 9000 --from 5000 --to 6000`,
		Args: wantArgs("host", "port"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.parseServer(cmd, args[0], args[1])
			if err != nil {
				return err
			}
			if to <= from {
				return &usageError{fmt.Sprintf("--to %d is not behind --from %d", to, from), cmd}
			}
			return a.verify(cmd.Context(), s, from, to)
		},
	}
	cmd.Flags().Uint64Var(&from, "from", 0, "compare from this offset on (default: from the first that all nodes keep)")
	cmd.Flags().Uint64Var(&to, "to", math.MaxUint64, "compare up to the one before this offset (default: all that all nodes have committed)")
	cmd.Flags().Lookup("to").DefValue = "0" // which is not shown, unlike the largest number
	return cmd
}

// verification is what has come of comparing nodes.
type verification struct {
	Same        bool     `json:"same"`
	From        uint64   `json:"from"`
	To          uint64   `json:"to"`
	Nodes       []uint16 `json:"nodes"`
	NotCompared []uint16 `json:"not_compared"`
	Offset      *uint64  `json:"offset,omitempty"` // from which on they differ
	Places      []placed `json:"places,omitempty"`
}

// placed is the entry that a node has at an offset.
type placed struct {
	Node  uint16 `json:"node"`
	Index uint64 `json:"index"`
	Term  uint64 `json:"term"`
	First uint64 `json:"first_offset"`
	Next  uint64 `json:"next_offset"`
	Chain string `json:"chain"` // 16 hexadecimal digits: not all JSON readers have 64 bits
}

func (a *app) verify(ctx context.Context, s server, from, to uint64) error {
	sv, _, err := a.survey(ctx, s)
	if err != nil {
		return err
	}
	c, err := a.compare(ctx, sv)
	if err != nil {
		return err
	}
	defer c.close()
	v, err := c.verify(ctx, from, to)
	if err != nil {
		return err
	}
	for _, n := range sv.nodes {
		if n.err != nil {
			fmt.Fprintf(a.stderr, "zue-client: node %d was not compared: %s\n", n.node, printable(n.err.Error()))
		} else if !takesPart(&n) {
			fmt.Fprintf(a.stderr, "zue-client: node %d was not compared: it is %s\n", n.node, printable(n.status.Role))
		}
	}
	if err := a.say(v.text(), v); err != nil {
		return err
	}
	if !v.Same || slices.ContainsFunc(sv.nodes, func(n nodeView) bool { return n.err != nil }) {
		return errSaid
	}
	return nil
}

// takesPart says whether a node has answered, and has a log that is the cluster's.
func takesPart(n *nodeView) bool {
	return n.status != nil && n.status.Role != roleWaiting && n.status.Role != roleJoining && n.status.Role != roleRemoved
}

// comparison asks nodes for their chains.
type comparison struct {
	app     *app
	nodes   []nodeView
	clients []*client.Client
	others  []uint16 // that are not compared
}

// compare connects to all nodes that can be compared. There must be two.
func (a *app) compare(ctx context.Context, sv *survey) (*comparison, error) {
	c := &comparison{app: a, others: []uint16{}}
	for _, n := range sv.nodes {
		if !takesPart(&n) {
			c.others = append(c.others, n.node)
			continue
		}
		cl, err := a.dialAddresses(ctx, []string{n.status.Address}, client.Options{NoRetry: true})
		if err != nil {
			c.close()
			return nil, fmt.Errorf("node %d: %w", n.node, err)
		}
		c.nodes, c.clients = append(c.nodes, n), append(c.clients, cl)
	}
	if len(c.nodes) < 2 {
		c.close()
		return nil, fmt.Errorf("nothing to compare: of %d nodes, %d have answered and take part", len(sv.nodes), len(c.nodes))
	}
	return c, nil
}

func (c *comparison) close() {
	for _, cl := range c.clients {
		_ = cl.Close() // nothing is lost with it
	}
}

// verify compares the nodes from one offset to before another, as far as all have that.
func (c *comparison) verify(ctx context.Context, from, to uint64) (*verification, error) {
	for attempt := 0; ; attempt++ {
		v := &verification{From: from, To: to, NotCompared: c.others}
		for _, n := range c.nodes {
			v.Nodes = append(v.Nodes, n.node)
			v.From, v.To = max(v.From, n.status.FirstOffset), min(v.To, n.status.CommittedOffset)
		}
		if v.From >= v.To {
			return nil, fmt.Errorf("nothing to compare: %s", c.ranges())
		}
		err := c.search(ctx, v)
		// Retention may have removed the first of them meanwhile.
		if err == nil || attempt == 3 || !isCode(err, wire.CodeInvalidOffset) {
			return v, err
		}
		if err := c.refresh(ctx); err != nil {
			return nil, err
		}
	}
}

func isCode(err error, code wire.Code) bool {
	var refusal *wire.Error
	return errors.As(err, &refusal) && refusal.Code == code
}

// ranges says what each node has.
func (c *comparison) ranges() string {
	has := make([]string, len(c.nodes))
	for i, n := range c.nodes {
		has[i] = fmt.Sprintf("node %d has offsets from %d to before %d", n.node, n.status.FirstOffset, n.status.CommittedOffset)
	}
	return strings.Join(has, ", ")
}

// refresh asks the nodes anew what they have.
func (c *comparison) refresh(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.app.timeout)
	defer cancel()
	for i := range c.nodes {
		st, err := c.clients[i].Status(ctx)
		if err != nil {
			return err
		}
		c.nodes[i].status = &st
	}
	return nil
}

// search finds the first offset at which the nodes differ: once they do, they do for good.
func (c *comparison) search(ctx context.Context, v *verification) error {
	var failed error
	differ := func(offset uint64) []client.Place {
		places, err := c.places(ctx, offset)
		if failed = errors.Join(failed, err); err != nil || !slices.ContainsFunc(places, func(p client.Place) bool { return p != places[0] }) {
			return nil
		}
		return places
	}
	if differ(v.To-1) == nil {
		v.Same = failed == nil
		return failed
	}
	// The span is of fewer than 2^63 offsets in any log that there can be.
	span := int(min(v.To-v.From, math.MaxInt))
	first := v.From + uint64(sort.Search(span-1, func(i int) bool { return failed == nil && differ(v.From+uint64(i)) != nil }))
	places := differ(first)
	if failed != nil {
		return failed
	}
	v.Offset = &first
	for i, p := range places {
		v.Places = append(v.Places, placed{c.nodes[i].node, p.Index, p.Term, p.First, p.Next, fmt.Sprintf("%016x", p.Chain)})
	}
	return nil
}

// places asks all nodes, at once, for the entry that holds an offset.
func (c *comparison) places(ctx context.Context, offset uint64) ([]client.Place, error) {
	ctx, cancel := context.WithTimeout(ctx, c.app.timeout)
	defer cancel()
	places, errs := make([]client.Place, len(c.nodes)), make([]error, len(c.nodes))
	var wg sync.WaitGroup
	for i := range c.nodes {
		wg.Go(func() {
			if places[i], errs[i] = c.clients[i].Chain(ctx, offset); errs[i] != nil {
				errs[i] = fmt.Errorf("node %d: %w", c.nodes[i].node, errs[i])
			}
		})
	}
	wg.Wait()
	return places, errors.Join(errs...)
}

// text is the result in words.
func (v *verification) text() string {
	nodes := numbers(v.Nodes)
	if v.Same {
		return fmt.Sprintf("the same: nodes %s, at offsets %d to %d\n", nodes, v.From, v.To-1)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "nodes %s DIFFER from offset %d on (compared were %d to %d)\n", nodes, *v.Offset, v.From, v.To-1)
	if *v.Offset == v.From && v.From > 0 {
		b.WriteString("  that is the first that was compared: they may differ before it\n")
	}
	for _, group := range v.groups() {
		p, word := group[0], "node"
		var who []uint16
		for _, g := range group {
			who = append(who, g.Node)
		}
		if len(who) > 1 {
			word = "nodes"
		}
		fmt.Fprintf(&b, "  %s %s: entry %d of term %d, offsets %d to %d, chain %s\n", word, numbers(who), p.Index, p.Term, p.First, p.Next-1, p.Chain)
	}
	b.WriteString("  keep the data directories of all nodes before you do anything: acknowledged records may be in one only\n")
	return b.String()
}

// groups are the places of nodes that have the same, the largest group first.
func (v *verification) groups() (groups [][]placed) {
	for _, p := range v.Places {
		same := func(g []placed) bool { q := g[0]; q.Node = p.Node; return q == p }
		if i := slices.IndexFunc(groups, same); i >= 0 {
			groups[i] = append(groups[i], p)
		} else {
			groups = append(groups, []placed{p})
		}
	}
	slices.SortStableFunc(groups, func(a, b []placed) int { return len(b) - len(a) })
	return groups
}

func numbers(nodes []uint16) string {
	words := make([]string, len(nodes))
	for i, n := range nodes {
		words[i] = fmt.Sprint(n)
	}
	return strings.Join(words, ", ")
}
