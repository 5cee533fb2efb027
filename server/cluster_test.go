package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zue-log/zue/net/wire"
	"github.com/zue-log/zue/replication/conf"
	"github.com/zue-log/zue/replication/core"
	"github.com/zue-log/zue/storage"
	"github.com/zue-log/zue/storage/batch"
	"github.com/zue-log/zue/tests/programs"
)

const patience = 30 * time.Second

// testCluster is a cluster in this process, on real files.
type testCluster struct {
	t     testing.TB
	conf  conf.Conf
	nodes []*testNode
	tune  func(*MemberOptions)
}

// testNode is one of its nodes, up or down.
type testNode struct {
	*testCluster
	id   core.NodeID
	addr string
	dir  string
	log  *programs.Output
	*Member
}

// startCluster starts a cluster of n nodes.
func startCluster(t testing.TB, n int, tune ...func(*MemberOptions)) *testCluster {
	t.Helper()
	c := &testCluster{t: t, tune: func(*MemberOptions) {}}
	if len(tune) > 0 {
		c.tune = tune[0]
	}
	var lines strings.Builder
	var listeners []net.Listener
	for i := range n {
		l := programs.Listen(t)
		listeners = append(listeners, l)
		role := "follower"
		if i == 0 {
			role = "leader"
		}
		fmt.Fprintf(&lines, "node %d 127.0.0.1 %d %s\n", i+1, l.Addr().(*net.TCPAddr).Port, role)
	}
	lines.WriteString("election_timeout 2000\nheartbeat 300\nmax_lag 1000000\n")
	var err error
	c.conf, err = conf.Parse([]byte(lines.String()))
	require.NoError(t, err)
	for i, l := range listeners {
		node := &testNode{testCluster: c, id: core.NodeID(i + 1), addr: l.Addr().String(), dir: filepath.Join(t.TempDir(), "data"), log: &programs.Output{}}
		c.nodes = append(c.nodes, node)
		node.startOn(l)
	}
	t.Cleanup(func() {
		for _, node := range c.nodes {
			if node.Member != nil {
				node.stop()
			}
			if t.Failed() {
				t.Logf("log of node %d:\n%s", node.id, node.log)
			}
		}
	})
	return c
}

func (n *testNode) options(l net.Listener) MemberOptions {
	logger := slog.New(slog.NewTextHandler(n.log, nil))
	o := MemberOptions{
		Dir: n.dir, Conf: n.conf, Self: n.id, Listener: l.(Listener),
		Storage: storage.Options{SegmentBytes: 1 << 20, Logger: logger},
	}
	n.tune(&o)
	return o
}

func (n *testNode) startOn(l net.Listener) {
	n.t.Helper()
	var err error
	n.Member, err = StartMember(n.options(l))
	require.NoError(n.t, err)
}

// start starts a node that was stopped.
func (n *testNode) start() {
	n.t.Helper()
	n.startOn(n.listen())
}

func (n *testNode) listen() net.Listener {
	n.t.Helper()
	l, err := net.Listen("tcp", n.addr)
	require.NoError(n.t, err)
	return l
}

// stop stops it in order.
func (n *testNode) stop() {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	m := n.Member
	n.Member = nil
	require.NoError(n.t, m.Stop(ctx))
}

func (n *testNode) dial() *peer { return newPeer(n.t, n.addr) }

// eventually waits until something holds.
func (c *testCluster) eventually(what string, holds func() error) {
	c.t.Helper()
	for deadline := time.Now().Add(patience); ; <-time.After(5 * time.Millisecond) {
		err := holds()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("%s: not within %v: %v", what, patience, err)
		}
	}
}

// leader waits until all nodes that are up agree on a leader.
func (c *testCluster) leader() (led *testNode) {
	c.t.Helper()
	c.eventually("a leader", func() error {
		led = nil
		for _, n := range c.nodes {
			if n.Member == nil {
				continue
			}
			st := n.Status()
			if id := st.Cluster.Leader; id == 0 || led != nil && core.NodeID(id) != led.id {
				return fmt.Errorf("node %d says that %d leads", n.id, id)
			}
			led = c.nodes[st.Cluster.Leader-1]
		}
		if led.Member == nil || led.Status().Role != "leader" {
			return errors.New("it does not lead any more")
		}
		return nil
	})
	return led
}

// whole waits until all nodes are voters, in sync, and show readers up to end.
func (c *testCluster) whole(end uint64) {
	c.t.Helper()
	c.eventually("all nodes up to date", func() error {
		leaders := 0
		for _, n := range c.nodes {
			st := n.Status()
			if st.CommittedOffset != end || len(st.Cluster.Voters) != len(c.nodes) || st.Cluster.Changing || len(st.Cluster.Learners) > 0 {
				return fmt.Errorf("node %d: %s, committed %d, not %d; voters %v", n.id, st.Role, st.CommittedOffset, end, st.Cluster.Voters)
			}
			if st.Role == "leader" {
				leaders++
				if st.Cluster.InSync != len(c.nodes) {
					return fmt.Errorf("%d are in sync", st.Cluster.InSync)
				}
			}
		}
		if leaders != 1 {
			return fmt.Errorf("%d lead", leaders)
		}
		return nil
	})
}

// followers returns those that do not lead.
func (c *testCluster) followers(led *testNode) (f []*testNode) {
	for _, n := range c.nodes {
		if n != led {
			f = append(f, n)
		}
	}
	return f
}

// append appends a record, and returns its offset.
func (p *peer) append(value string) uint64 {
	p.t.Helper()
	b, err := wire.AppendRequest{Value: []byte(value)}.AppendTo(nil)
	require.NoError(p.t, err)
	_, err = p.c.Write(b)
	require.NoError(p.t, err)
	return p.offset()
}

// offset takes the answer to an append.
func (p *peer) offset() uint64 {
	p.t.Helper()
	f := p.frame()
	if f.Type == wire.TypeError {
		e, _ := wire.ParseError(f.Payload)
		p.t.Fatal(e)
	}
	m, err := wire.ParseAppendResponse(f.Payload)
	require.NoError(p.t, err)
	return m.Offset
}

// value reads the value at an offset.
func (p *peer) value(offset uint64) string {
	p.t.Helper()
	p.send(wire.ReadRequest{Offset: offset})
	f := p.frame()
	require.Equal(p.t, wire.TypeReadResponse, f.Type, "%q", f.Payload)
	m, err := wire.ParseReadResponse(f.Payload)
	require.NoError(p.t, err)
	return string(m.Value)
}

// barrier asks for an end offset that is not stale.
func (p *peer) barrier() uint64 {
	p.t.Helper()
	p.send(wire.BarrierRequest{})
	f := p.frame()
	require.Equal(p.t, wire.TypeBarrierResponse, f.Type, "%q", f.Payload)
	m, err := wire.ParseBarrierResponse(f.Payload)
	require.NoError(p.t, err)
	return m.End
}

func TestCluster(t *testing.T) {
	c := startCluster(t, 3)
	led := c.leader()
	p := led.dial()
	require.EqualValues(t, 0, p.append("a"))
	require.Equal(t, wire.BatchAppendResponse{First: 1, Count: 2, Term: led.Status().Cluster.Term, Copies: 2}, atLeastTwo(p.batch(encoded(batch.CodecZstd, "b", "c"))))

	m := encoded(batch.CodecNone, "d")
	m.Conditional, m.EndOffset = true, 2
	p.sendBatch(m)
	require.Contains(t, p.refused(wire.CodeOffsetMismatch), "it ends at 3")
	m.EndOffset = 3
	require.EqualValues(t, 3, p.batch(m).First)
	m = encoded(batch.CodecNone, "x")
	m.Checksum++
	p.sendBatch(m)
	require.Contains(t, p.refused(wire.CodeInvalidMessage), "checksum")

	for _, n := range c.nodes {
		q := n.dial()
		require.EqualValues(t, 4, q.barrier(), "a barrier waits until this node has it")
		for i, want := range []string{"a", "b", "c", "d"} {
			require.Equal(t, want, q.value(uint64(i)))
		}
		if n != led {
			b, err := wire.AppendRequest{Value: []byte("x")}.AppendTo(nil)
			require.NoError(t, err)
			_, err = q.c.Write(bytes.Repeat(b, 2))
			require.NoError(t, err)
			require.Equal(t, fmt.Sprintf("this node does not lead: send it to node %d at %s", led.id, led.addr), q.refused(wire.CodeNotLeader))
			q.refused(wire.CodeNotLeader)
			q.send(wire.ProducerRequest{})
			require.Contains(t, q.refused(wire.CodeNotLeader), led.addr)
		}
		require.NotEmpty(t, q.fetch(wire.FetchRequest{Offset: 2, MaxBytes: 1 << 20}).Entries)
	}
	c.whole(4)
}

// atLeastTwo makes a receipt of two copies of one that has more.
func atLeastTwo(m wire.BatchAppendResponse) wire.BatchAppendResponse {
	m.Copies = min(m.Copies, 2)
	return m
}

func TestClusterProducers(t *testing.T) {
	c := startCluster(t, 3)
	led := c.leader()
	p := led.dial()
	a, b := p.producer(), p.producer()
	require.NotEqual(t, a, b)
	require.EqualValues(t, 0, p.batch(produced(a, 0, 0, "a", "b")).First)
	again := p.batch(produced(a, 0, 0, "a", "b"))
	require.True(t, again.Duplicate)
	require.EqualValues(t, 0, again.First)
	p.sendBatch(produced(a, 0, 3, "x"))
	require.Contains(t, p.refused(wire.CodeSequenceGap), "the next is 2")
	// Several of one producer are under way at a time.
	for i := range int32(5) {
		p.sendBatch(produced(a, 0, 2+i, "c"))
	}
	for i := range uint64(5) {
		require.Equal(t, 2+i, p.receipt().First)
	}
	// Another leader knows them.
	led.stop()
	p = c.leader().dial()
	require.True(t, p.batch(produced(a, 0, 6, "c")).Duplicate)
	require.EqualValues(t, 7, p.batch(produced(a, 0, 7, "d")).First)
	led.start()
	c.whole(8)
}

// TestClusterPipelines has several sessions append without waiting, records and batches: each is
// answered in its order, and all are there once.
func TestClusterPipelines(t *testing.T) {
	c := startCluster(t, 3, func(o *MemberOptions) {
		o.Storage.SegmentBytes, o.Conf.ElectionTimeout = 16<<20, 5*time.Second // none is to lose its leadership by it
	})
	led := c.leader()
	const sessions, requests = 6, 3000
	var seen sync.Map
	var all sync.WaitGroup
	for s := range sessions {
		p := led.dial()
		require.NoError(t, p.c.SetDeadline(time.Now().Add(patience)))
		all.Go(func() {
			var b []byte
			for i := range requests {
				if i%10 == 9 {
					b, _ = encoded(batch.CodecNone, fmt.Sprintf("%d/%d", s, i), strings.Repeat("x", 500)).AppendTo(b)
				} else {
					b, _ = wire.AppendRequest{Value: fmt.Appendf(nil, "%d/%d", s, i)}.AppendTo(b)
				}
			}
			var sent sync.WaitGroup
			sent.Go(func() { _, _ = p.c.Write(b) })
			defer sent.Wait()
			last := int64(-1)
			for i := range requests {
				var offset uint64
				if i%10 == 9 {
					offset = p.receipt().First
				} else {
					offset = p.offset()
				}
				if int64(offset) <= last {
					t.Errorf("session %d, request %d: offset %d behind %d", s, i, offset, last)
				}
				last = int64(offset)
				if other, is := seen.LoadOrStore(offset, fmt.Sprintf("%d/%d", s, i)); is {
					t.Errorf("offset %d is that of %v, too", offset, other)
				}
			}
		})
	}
	all.Wait()
	end := uint64(sessions * (requests + requests/10))
	c.whole(end)
	for _, n := range c.nodes {
		q := n.dial()
		seen.Range(func(offset, value any) bool {
			if offset.(uint64)%97 == 0 {
				require.Equal(t, value, q.value(offset.(uint64)))
			}
			return true
		})
	}
}

// TestClusterStop stops the leader in order: another one leads, and appends go on.
func TestClusterStop(t *testing.T) {
	c := startCluster(t, 3)
	led := c.leader()
	p := led.dial()
	for i := range uint64(10) {
		require.Equal(t, i, p.append("x"))
	}
	c.whole(10)
	led.stop()
	require.Contains(t, led.log.String(), "leadership was handed over")
	require.Contains(t, p.refused(wire.CodeOverloaded), "this node stops")
	next := c.leader()
	require.NotSame(t, led, next)
	require.EqualValues(t, 10, next.dial().append("y"))
	led.start()
	c.whole(11)
	require.Equal(t, "y", led.dial().value(10))
}

// TestClusterWiped takes a node's directory away: it rejoins, and gets everything anew.
func TestClusterWiped(t *testing.T) {
	c := startCluster(t, 3)
	led := c.leader()
	p := led.dial()
	p.append("a")
	c.whole(1)
	n := c.followers(led)[0]
	before := n.Status().Cluster.Incarnation
	n.stop()
	require.NoError(t, os.RemoveAll(n.dir))
	p.append("b")
	n.start()
	c.whole(2)
	require.NotEqual(t, before, n.Status().Cluster.Incarnation)
	require.Equal(t, "a", n.dial().value(0))
}

// TestClusterDamaged damages a node's log where Open must scan it: the directory is put aside, and
// the node rejoins.
func TestClusterDamaged(t *testing.T) {
	c := startCluster(t, 3)
	led := c.leader()
	p := led.dial()
	for range 100 {
		p.append(strings.Repeat("a", 100))
	}
	c.whole(100)
	n := c.followers(led)[0]
	n.stop()
	damageScanned(t, n.dir)
	n.start()
	c.whole(100)
	aside, err := filepath.Glob(n.dir + ".damaged-*")
	require.NoError(t, err)
	require.Len(t, aside, 1)
	require.Contains(t, n.log.String(), "put_aside="+aside[0])
	require.Contains(t, strings.Join(n.Status().Warnings, "\n"), aside[0])
	require.Equal(t, strings.Repeat("a", 100), n.dial().value(50))
}

// damage changes a byte in the middle of the first segment.
func damage(t *testing.T, dir string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, fmt.Sprintf("%020d.log", 0)), os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	b := make([]byte, 1000)
	_, err = f.ReadAt(b, 4000)
	require.NoError(t, err)
	at := bytes.Index(b, bytes.Repeat([]byte("a"), 100))
	require.Positive(t, at)
	_, err = f.WriteAt([]byte("b"), 4000+int64(at))
	require.NoError(t, err)
}

// damageScanned damages a log that nobody has open where Open must scan it.
func damageScanned(t *testing.T, dir string) {
	t.Helper()
	damage(t, dir)
	require.NoError(t, os.Remove(filepath.Join(dir, fmt.Sprintf("%020d.index", 0))))
}

// TestClusterMends flips a bit in a committed record on one node after another: readers there wait a
// moment, and get what the others have.
func TestClusterMends(t *testing.T) {
	c := startCluster(t, 3)
	p := c.leader().dial()
	for range 100 {
		p.append(strings.Repeat("a", 100))
	}
	c.whole(100)
	for _, n := range c.nodes {
		damage(t, n.dir)
		q := n.dial()
		for i := range uint64(100) {
			require.Equal(t, strings.Repeat("a", 100), q.value(i))
		}
		st := n.Status()
		require.EqualValues(t, 1, st.Cluster.Mended, "%v", st.Warnings)
		require.Zero(t, st.Cluster.Damaged)
	}
}

// TestOneNodeIsNotPutAside damages the log of a cluster's only member.
func TestOneNodeIsNotPutAside(t *testing.T) {
	c := startCluster(t, 1)
	n := c.leader()
	p := n.dial()
	for range 100 {
		p.append(strings.Repeat("a", 100))
	}
	n.stop()
	damageScanned(t, n.dir)
	_, err := StartMember(n.options(n.listen()))
	require.ErrorIs(t, err, storage.ErrCorrupt)
	require.ErrorContains(t, err, "it is the only member of its cluster")
	aside, err := filepath.Glob(n.dir + ".damaged-*")
	require.NoError(t, err)
	require.Empty(t, aside)
}

// TestDataDirs gives nodes directories that are not theirs.
func TestDataDirs(t *testing.T) {
	c := startCluster(t, 1)
	n := c.leader()
	n.dial().append("a")
	require.NoError(t, CheckStandalone(filepath.Join(n.dir, "none")))
	err := CheckStandalone(n.dir)
	require.ErrorIs(t, err, ErrDataDir)
	require.ErrorContains(t, err, "is that of node 1 of cluster "+n.Status().Cluster.ID)
	n.stop()

	o := n.options(n.listen())
	o.Conf.Nodes, o.Self = append(o.Conf.Nodes, conf.Node{ID: 2, Host: "127.0.0.1", Port: 1}), 2
	_, err = StartMember(o)
	require.ErrorIs(t, err, ErrDataDir)
	require.ErrorContains(t, err, "is that of node 1")

	o = n.options(n.listen())
	o.Dir = t.TempDir()
	log, err := storage.Open(o.Dir, storage.Options{})
	require.NoError(t, err)
	require.NoError(t, CheckStandalone(o.Dir))
	_, err = log.Append(storage.Record{Value: []byte("a")})
	require.NoError(t, err)
	require.NoError(t, log.Close())
	require.NoError(t, CheckStandalone(o.Dir))
	_, err = StartMember(o)
	require.ErrorIs(t, err, ErrDataDir)
	require.ErrorContains(t, err, "without replication")
	n.start()
}

// TestClusterStatus looks at what nodes say of themselves.
func TestClusterStatus(t *testing.T) {
	c := startCluster(t, 3)
	led := c.leader()
	led.dial().append("a")
	c.whole(1)
	for _, n := range c.nodes {
		st := n.Status()
		require.Equal(t, led.Status().Cluster.ID, st.Cluster.ID)
		require.Len(t, st.Cluster.ID, 16)
		require.EqualValues(t, n.id, st.Cluster.Node)
		require.Equal(t, n.addr, st.Cluster.Address)
		require.EqualValues(t, led.id, st.Cluster.Leader)
		require.Equal(t, led.addr, st.Cluster.LeaderAddress)
		require.Equal(t, []uint16{1, 2, 3}, st.Cluster.Voters)
		require.Equal(t, 2, st.Cluster.Quorum)
		require.Equal(t, "an acknowledged record is on the disks of a majority of the nodes", st.SyncMeaning)
		require.Empty(t, st.Warnings)
		if n != led {
			require.Equal(t, "follower", st.Role)
			require.Empty(t, st.Cluster.Replicas)
		}
	}
	c.eventually("reports", func() error {
		for _, r := range led.Status().Cluster.Replicas {
			if !r.InSync || r.Kind != "voter" || r.Lag == nil || *r.Lag != 0 || r.End != 1 || r.Committed != 1 {
				return fmt.Errorf("%+v", r)
			}
		}
		return nil
	})
	n := c.followers(led)[0]
	n.stop()
	c.eventually("a replica out of sync", func() error {
		if st := led.Status(); st.Cluster.InSync != 2 || st.Cluster.InSyncChanges < 3 {
			return fmt.Errorf("%d are in sync, %d changes", st.Cluster.InSync, st.Cluster.InSyncChanges)
		}
		return nil
	})
	require.Contains(t, led.log.String(), "replica is not in sync any more")
	other := c.followers(led)[1]
	other.stop()
	c.eventually("a warning", func() error {
		st := led.Status()
		if w := strings.Join(st.Warnings, "\n"); !strings.Contains(w, "appends are refused") {
			return fmt.Errorf("%s: %q", st.Role, w)
		}
		return nil
	})
	n.start()
	other.start()
	c.whole(1)
}

// TestWaitingCluster starts one of three nodes: it says for whom it waits.
func TestWaitingCluster(t *testing.T) {
	c := startCluster(t, 3)
	for _, n := range c.nodes {
		n.stop()
		require.NoError(t, os.RemoveAll(n.dir))
	}
	n := c.nodes[1]
	n.start()
	c.eventually("what it waits for", func() error {
		if st := n.Status(); st.Role != "waiting" || len(st.Cluster.Missing) != 2 {
			return fmt.Errorf("%+v", st.Cluster)
		}
		return nil
	})
	w := strings.Join(n.Status().Warnings, "\n")
	require.Contains(t, w, "node 1 at "+c.nodes[0].addr+", node 3 at "+c.nodes[2].addr)
	p := n.dial()
	b, err := wire.AppendRequest{Value: []byte("x")}.AppendTo(nil)
	require.NoError(t, err)
	_, err = p.c.Write(b)
	require.NoError(t, err)
	require.Contains(t, p.refused(wire.CodeNotLeader), "knows of no leader")
	c.nodes[0].start()
	c.nodes[2].start()
	c.whole(0)
}

// TestManage changes who leads and who is in the cluster.
func TestManage(t *testing.T) {
	c := startCluster(t, 3)
	led := c.leader()
	p := led.dial()
	p.append("a")
	p.append("b")
	c.whole(2)
	var chains []wire.ChainResponse
	for _, n := range c.nodes {
		q := n.dial()
		q.send(wire.ChainRequest{Offset: 1})
		m, err := wire.ParseChainResponse(q.frame().Payload)
		require.NoError(t, err)
		require.EqualValues(t, 1, m.First)
		require.EqualValues(t, 2, m.Next)
		chains = append(chains, m)
		q.send(wire.ChainRequest{Offset: 2})
		q.refused(wire.CodeInvalidOffset)
		if n != led {
			q.send(wire.TransferRequest{Node: uint16(n.id)})
			require.Contains(t, q.refused(wire.CodeNotLeader), led.addr)
			q.send(wire.AllowRequest{Node: 4})
			require.Contains(t, q.refused(wire.CodeNotLeader), led.addr)
		}
	}
	require.Equal(t, chains[0], chains[1])
	require.Equal(t, chains[0], chains[2])
	p.send(wire.AllowRequest{Node: 4})
	require.Contains(t, p.refused(wire.CodeChangeRefused), "node 4 is not in the cluster.conf")
	p.send(wire.AllowRequest{Node: uint16(led.id)})
	require.Contains(t, p.refused(wire.CodeChangeRefused), "a member already")
	p.send(wire.TransferRequest{Node: 9})
	require.Contains(t, p.refused(wire.CodeChangeRefused), "node 9 is no node of this cluster")
	p.send(wire.RemoveRequest{Node: 9})
	require.Contains(t, p.refused(wire.CodeChangeRefused), "it is no member")
	next := c.followers(led)[1]
	p.send(wire.TransferRequest{Node: uint16(next.id)})
	m, err := wire.ParseTransferResponse(p.frame().Payload)
	require.NoError(t, err)
	require.EqualValues(t, next.id, m.Node)
	c.eventually("another leader", func() error {
		if st := next.Status(); st.Role != "leader" {
			return errors.New(st.Role)
		}
		return nil
	})
}

// TestStandaloneIsNoNode asks a server without replication for what only a cluster has.
func TestStandaloneIsNoNode(t *testing.T) {
	addr, _, _ := start(t, storage.Options{})
	p := newPeer(t, addr)
	p.send(wire.TransferRequest{})
	require.Contains(t, p.refused(wire.CodeChangeRefused), "no node of a cluster")
	send(t, p.c, "01000000 22")
	require.Contains(t, p.refused(wire.CodeInvalidMessage), "without a cluster.conf")
	send(t, p.c, "0a000000 01 ffffffff 01000000 76")
	require.EqualValues(t, 0, p.offset())
}

// BenchmarkClusterAppends is one client of three nodes in this process, with 1,024 appends of 100 B
// in flight.
func BenchmarkClusterAppends(b *testing.B) {
	c := startCluster(b, 3, func(o *MemberOptions) { o.Storage.SegmentBytes, o.Conf.ElectionTimeout = 64<<20, 5*time.Second })
	conn := c.leader().dial().c
	require.NoError(b, conn.SetDeadline(time.Time{}))
	frame, err := wire.AppendRequest{Value: make([]byte, 100)}.AppendTo(nil)
	require.NoError(b, err)
	const inFlight = 1024
	b.ReportAllocs()
	b.ResetTimer()
	var sender sync.WaitGroup
	window := make(chan struct{}, inFlight)
	sender.Go(func() {
		out := bytes.Repeat(frame, inFlight)
		for n := b.N; n > 0; {
			window <- struct{}{}
			k := 1
			for k < min(n, inFlight) && len(window) < inFlight {
				window <- struct{}{}
				k++
			}
			if _, err := conn.Write(out[:k*len(frame)]); err != nil {
				b.Error(err)
				return
			}
			n -= k
		}
	})
	in := make([]byte, 13*inFlight)
	for n := b.N * 13; n > 0; {
		k, err := conn.Read(in[:min(n, len(in))])
		if err != nil {
			b.Fatal(err)
		}
		for range (n+12)/13 - (n-k+12)/13 {
			<-window
		}
		n -= k
	}
	sender.Wait()
	b.StopTimer()
	c.whole(uint64(b.N))
}
