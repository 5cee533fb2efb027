package replication

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zue-log/zue/client"
	"github.com/zue-log/zue/net/wire"
	"github.com/zue-log/zue/tests/programs"
)

// patience is how long a cluster may take for what it has all it needs for.
const patience = 60 * time.Second

// cluster is some zue-servers. Each has a cluster.conf of its own, in which the others are where
// the links to them are, so that each direction between two nodes can be cut by itself.
type cluster struct {
	t     testing.TB
	nodes []*node // by number, from 1
	links map[[2]int]*link
}

// node is one zue-server, up or down.
type node struct {
	*cluster
	id    int
	port  int
	dir   string
	conf  string
	flags []string
	log   *programs.Output
	p     *process // nil: it is down
}

// newCluster makes a cluster of n nodes and starts it. lines are added to cluster.conf.
func newCluster(t testing.TB, n int, lines string, flags ...string) *cluster {
	t.Helper()
	c := &cluster{t: t, links: map[[2]int]*link{}}
	dir := t.TempDir()
	for i, port := range programs.FreePorts(t, n) {
		c.nodes = append(c.nodes, &node{
			cluster: c, id: i + 1, port: port, flags: flags, log: &programs.Output{},
			dir: filepath.Join(dir, fmt.Sprintf("node%d", i+1)), conf: filepath.Join(dir, fmt.Sprintf("cluster%d.conf", i+1)),
		})
	}
	for _, from := range c.nodes {
		var conf strings.Builder
		for _, to := range c.nodes {
			port, role := to.port, "follower"
			if to != from {
				c.links[[2]int{from.id, to.id}], port = newLink(t, to.address())
			}
			if to.id == 1 {
				role = "leader"
			}
			fmt.Fprintf(&conf, "node %d 127.0.0.1 %d %s\n", to.id, port, role)
		}
		conf.WriteString(lines)
		require.NoError(t, os.WriteFile(from.conf, []byte(conf.String()), 0o600))
	}
	t.Cleanup(func() {
		for _, n := range c.nodes {
			n.kill()
			if t.Failed() {
				t.Logf("log of node %d:\n%s", n.id, n.log)
			}
		}
	})
	for _, n := range c.nodes {
		n.start()
	}
	return c
}

func (n *node) address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(n.port)) }

// start starts the node, if it is down.
func (n *node) start() {
	n.t.Helper()
	n.startWith()
}

// startWith starts the node by a command that takes another as its last arguments.
func (n *node) startWith(command ...string) {
	n.t.Helper()
	if n.p == nil {
		args := append(command, programs.Server, strconv.Itoa(n.port), n.dir, n.conf, strconv.Itoa(n.id))
		n.p = start(n.t, n.log, append(args, n.flags...)...)
	}
}

// kill is kill -9.
func (n *node) kill() {
	if n.p != nil {
		_ = n.p.end(n.t, syscall.SIGKILL)
		n.p = nil
	}
}

// stop stops the node in order.
func (n *node) stop() {
	n.t.Helper()
	p := n.p
	n.p = nil
	require.NoError(n.t, p.end(n.t, syscall.SIGTERM), "%s", n.log)
}

// wipe takes the disk of a node that is down away.
func (n *node) wipe() {
	n.t.Helper()
	require.Nil(n.t, n.p)
	require.NoError(n.t, os.RemoveAll(n.dir))
}

func (n *node) signal(sig syscall.Signal) {
	n.t.Helper()
	require.NoError(n.t, n.p.cmd.Process.Signal(sig))
}

// cut cuts, or mends, what one node says to another.
func (c *cluster) cut(from, to int, cut bool) { c.links[[2]int{from, to}].set(cut) }

// isolate cuts a node off from all others, both ways.
func (c *cluster) isolate(id int) {
	for ends, k := range c.links {
		if ends[0] == id || ends[1] == id {
			k.set(true)
		}
	}
}

// heal mends all links.
func (c *cluster) heal() {
	for _, k := range c.links {
		k.set(false)
	}
}

// connect is how clients connect: to a node itself, though the one that tells them of it, as the
// leader, has the address of a link. A link takes connections to nodes that are down, and loses
// what is sent when it is cut, neither of which happens to clients here.
func (c *cluster) connect(ctx context.Context, address string) (net.Conn, error) {
	for _, k := range c.links {
		if k.listener.Addr().String() == address {
			address = k.target
		}
	}
	return new(net.Dialer).DialContext(ctx, "tcp", address)
}

// only returns a client of the node alone, which tries nothing twice.
func (n *node) only() *client.Client {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), patience)
	defer cancel()
	c, err := client.Dial(ctx, []string{n.address()}, client.Options{NoRetry: true, DialTimeout: 5 * time.Second, Dial: n.connect})
	require.NoError(n.t, err)
	n.t.Cleanup(func() { _ = c.Close() })
	return c
}

// dial returns a client of the whole cluster. One that hears nothing of a server for 3 s goes
// elsewhere.
func (c *cluster) dial() *client.Client {
	c.t.Helper()
	var addresses []string
	for _, n := range c.nodes {
		addresses = append(addresses, n.address())
	}
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	all, err := client.Dial(ctx, addresses, client.Options{StallTimeout: 3 * time.Second, Dial: c.connect})
	require.NoError(c.t, err)
	c.t.Cleanup(func() { _ = all.Close() })
	return all
}

// status asks the node how it is.
func (n *node) status() (wire.Status, error) {
	ctx, cancel := context.WithTimeout(n.t.Context(), 10*time.Second)
	defer cancel()
	c, err := client.Dial(ctx, []string{n.address()}, client.Options{NoRetry: true})
	if err != nil {
		return wire.Status{}, err
	}
	defer c.Close()
	st, err := c.Status(ctx)
	if err == nil && st.Cluster == nil {
		err = errors.New("it is no node of a cluster")
	}
	return st.Status, err
}

// eventually waits until something holds.
func (c *cluster) eventually(what string, holds func() error) {
	c.t.Helper()
	var last error
	ok := func() bool {
		last = holds()
		return last == nil
	}
	for deadline := time.Now().Add(patience); !ok(); <-time.After(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			c.t.Fatalf("%s: not within %v: %v", what, patience, last)
		}
	}
}

// up returns the nodes that are.
func (c *cluster) up() (up []*node) {
	for _, n := range c.nodes {
		if n.p != nil {
			up = append(up, n)
		}
	}
	return up
}

// leader waits until those nodes, or all that are up, agree on who of them leads.
func (c *cluster) leader(of ...*node) (led *node) {
	c.t.Helper()
	if len(of) == 0 {
		of = c.up()
	}
	c.eventually("a leader", func() error {
		led = nil
		for _, n := range of {
			st, err := n.status()
			if err != nil {
				return err
			}
			if st.Cluster.Leader == 0 || led != nil && int(st.Cluster.Leader) != led.id {
				return fmt.Errorf("node %d says that %d leads", n.id, st.Cluster.Leader)
			}
			led = c.nodes[st.Cluster.Leader-1]
		}
		for _, n := range of {
			if n == led {
				return nil
			}
		}
		return fmt.Errorf("%d leads, which is none of them", led.id)
	})
	return led
}

// whole waits until all nodes are well: one leads, all are voters, and in sync.
func (c *cluster) whole() {
	c.t.Helper()
	c.eventually("a whole cluster", func() error {
		_, err := c.standing()
		return err
	})
}

// settled waits until all nodes are well, and have the same; nobody must append meanwhile. It
// returns where they end.
func (c *cluster) settled() (end uint64) {
	c.t.Helper()
	c.eventually("all nodes equal", func() error {
		all, err := c.standing()
		if err != nil {
			return err
		}
		end = all[0].EndOffset
		for i, st := range all {
			if st.CommittedOffset != end || st.EndOffset != end {
				return fmt.Errorf("node %d ends at %d, of which %d are committed, node 1 at %d", i+1, st.EndOffset, st.CommittedOffset, end)
			}
		}
		return nil
	})
	return end
}

// standing returns how all nodes are, or why they are not well.
func (c *cluster) standing() (all []wire.Status, err error) {
	leaders := 0
	for _, n := range c.nodes {
		st, err := n.status()
		switch {
		case err != nil:
			return nil, fmt.Errorf("node %d: %w", n.id, err)
		case len(st.Cluster.Voters) != len(c.nodes) || st.Cluster.Changing || len(st.Cluster.Learners) > 0:
			return nil, fmt.Errorf("node %d: the membership is %v, learners %v, changing %t", n.id, st.Cluster.Voters, st.Cluster.Learners, st.Cluster.Changing)
		case st.Role == "leader":
			leaders++
			if st.Cluster.InSync != len(c.nodes) {
				return nil, fmt.Errorf("node %d leads: %d are in sync", n.id, st.Cluster.InSync)
			}
		case st.Role != "follower":
			return nil, fmt.Errorf("node %d is %s", n.id, st.Role)
		}
		all = append(all, st)
	}
	if leaders != 1 {
		return nil, fmt.Errorf("%d lead", leaders)
	}
	return all, nil
}

// values returns all that the node has, by offset, which must begin with 0.
func (n *node) values() []string {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), patience)
	defer cancel()
	st, err := n.only().Status(ctx)
	require.NoError(n.t, err)
	return n.valuesBelow(st.CommittedOffset)
}

// valuesBelow returns the values of the records below end.
func (n *node) valuesBelow(end uint64) (values []string) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), patience)
	defer cancel()
	tail := n.only().Tail(0, client.TailOptions{})
	defer tail.Close()
	for uint64(len(values)) < end {
		require.True(n.t, tail.Next(ctx), "node %d, offset %d: %v", n.id, len(values), tail.Err())
		rec := tail.Record()
		require.EqualValues(n.t, len(values), rec.Offset)
		values = append(values, string(rec.Value))
	}
	return values
}
