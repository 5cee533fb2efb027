package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zue-log/zue/net/wire"
	"github.com/zue-log/zue/replication/conf"
	"github.com/zue-log/zue/storage"
	"github.com/zue-log/zue/storage/batch"
	"github.com/zue-log/zue/storage/vfs"
)

// failing is a file system whose writes and syncs fail from some time on.
type failing struct {
	vfs.OS
	err atomic.Pointer[error]
	// at, if it is not empty, is the only thing whose writing fails, the first time.
	at string
}

func (f *failing) fail(err error) { f.err.Store(&err) }

func (f *failing) fault(p []byte) error {
	err := f.err.Load()
	if err == nil || f.at != "" && (!bytes.Contains(p, []byte(f.at)) || !f.err.CompareAndSwap(err, nil)) {
		return nil
	}
	return *err
}

// Create implements vfs.FS.
func (f *failing) Create(name string) (vfs.File, error) {
	file, err := f.OS.Create(name)
	return failingFile{file, f}, errors.Join(err, f.fault(nil))
}

// Open implements vfs.FS.
func (f *failing) Open(name string, writable bool) (vfs.File, error) {
	file, err := f.OS.Open(name, writable)
	if err != nil {
		return nil, err
	}
	return failingFile{file, f}, nil
}

type failingFile struct {
	vfs.File
	fs *failing
}

// WriteAt implements vfs.File.
func (f failingFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.fs.fault(p); err != nil {
		return 0, err
	}
	return f.File.WriteAt(p, off)
}

// WriteSync implements vfs.File.
func (f failingFile) WriteSync(p []byte, off int64) error {
	if err := f.fs.fault(p); err != nil {
		return err
	}
	return f.File.WriteSync(p, off)
}

// Sync implements vfs.File.
func (f failingFile) Sync() error {
	return errors.Join(f.fs.fault(nil), f.File.Sync())
}

// ended waits until a member has, and returns why.
func (n *testNode) ended() error {
	n.t.Helper()
	m := n.Member
	n.Member = nil
	select {
	case <-m.Done():
		return m.Err()
	case <-time.After(patience):
		n.t.Fatal("it does not end")
		return nil
	}
}

// TestClusterDiskFails has the leader's disk fail: its node ends and says why, another one leads,
// and no more than the append under way is in doubt.
func TestClusterDiskFails(t *testing.T) {
	disks := map[int]*failing{}
	c := startCluster(t, 3, func(o *MemberOptions) {
		if disks[int(o.Self)] == nil {
			disks[int(o.Self)] = &failing{}
		}
		o.Storage.FS = disks[int(o.Self)]
	})
	led := c.leader()
	p := led.dial()
	p.append("a")
	c.whole(1)
	disks[int(led.id)].fail(syscall.EIO)
	b, err := wire.AppendRequest{Value: []byte("b")}.AppendTo(nil)
	require.NoError(t, err)
	_, err = p.c.Write(b)
	require.NoError(t, err)
	p.refused(wire.CodeQuorumFailed)
	err = led.ended()
	require.ErrorIs(t, err, syscall.EIO)
	require.ErrorContains(t, err, "see to the disk, and start it again")
	next := c.leader()
	q := next.dial()
	end := q.append("c") + 1
	require.GreaterOrEqual(t, end, uint64(2))

	delete(disks, int(led.id)) // another disk
	led.start()
	c.whole(end)
}

// TestClusterDamagedWhileRunning has a node find damage that it cannot go on with: it puts its
// directory aside and begins anew, on the same port.
func TestClusterDamagedWhileRunning(t *testing.T) {
	disks := map[int]*failing{}
	c := startCluster(t, 3, func(o *MemberOptions) {
		disks[int(o.Self)] = &failing{at: "what is damaged"}
		o.Storage.FS = disks[int(o.Self)]
	})
	led := c.leader()
	p := led.dial()
	p.append("a")
	c.whole(1)
	n := c.followers(led)[0]
	was := n.Status().Cluster.Incarnation
	disks[int(n.id)].fail(fmt.Errorf("as a test has it: %w", storage.ErrCorrupt))
	p.append("what is damaged")
	c.eventually("put aside", func() error {
		aside, err := filepath.Glob(n.dir + ".damaged-*")
		if len(aside) == 0 {
			return errors.Join(errors.New("it is not"), err)
		}
		return nil
	})
	c.eventually("another incarnation", func() error {
		if is := n.Status().Cluster.Incarnation; is == was {
			return errors.New(is)
		}
		return nil
	})
	c.whole(2)
	require.Equal(t, "what is damaged", n.dial().value(1))
}

// TestClusterSecret has a node with another secret than the others.
func TestClusterSecret(t *testing.T) {
	secret := "one"
	c := startCluster(t, 3, func(o *MemberOptions) { o.Secret = []byte(secret) })
	led := c.leader()
	led.dial().append("a")
	c.whole(1)
	n := c.followers(led)[0]
	n.stop()
	secret = "another"
	n.start()
	c.eventually("a warning", func() error {
		if w := strings.Join(n.Status().Warnings, "\n"); !strings.Contains(w, "there is no link to") || !strings.Contains(w, "secret") {
			return errors.New(w)
		}
		return nil
	})
	n.stop()
	secret = "one"
	n.start()
	c.whole(1)
}

// TestClusterUnsynced has nodes that sync some time later. One whose machine was started anew
// without a stop in order is a new one.
func TestClusterUnsynced(t *testing.T) {
	boots := map[int]string{1: "a", 2: "a", 3: "a"}
	c := startCluster(t, 3, func(o *MemberOptions) {
		o.Storage.Sync, o.bootID = storage.SyncInterval(10*time.Millisecond), boots[int(o.Self)]
	})
	led := c.leader()
	p := led.dial()
	require.Zero(t, p.batch(encoded(batch.CodecNone, "a")).Copies, "none is on a disk for sure")
	c.whole(1)
	st := led.Status()
	require.Contains(t, st.SyncMeaning, "in the memory of a majority of the nodes")
	require.Contains(t, strings.Join(st.Warnings, "\n"), "--sync is interval=10ms")
	n := c.followers(led)[0]
	was := n.Status().Cluster.Incarnation
	n.stop()
	boots[int(n.id)] = "b"
	n.start()
	c.whole(1)
	require.Equal(t, was, n.Status().Cluster.Incarnation, "it was stopped in order")
}

// TestClusterCompression has records compressed by the session.
func TestClusterCompression(t *testing.T) {
	c := startCluster(t, 1, func(o *MemberOptions) { o.Storage.Compression = batch.CodecZstd })
	n := c.leader()
	p := n.dial()
	value := strings.Repeat("a", 100_000)
	require.Zero(t, p.append(value))
	require.Equal(t, value, n.dial().value(0))
	require.Less(t, len(p.fetch(wire.FetchRequest{MaxBytes: 1 << 20}).Entries), 10_000)
}

// TestClusterStopDoesNotWait stops a leader with an append under way that waits for a node which
// is down: not longer than it is given.
func TestClusterStopDoesNotWait(t *testing.T) {
	c := startCluster(t, 3, func(o *MemberOptions) {
		o.Conf.Quorum, o.Conf.Timeout, o.Conf.Heartbeat = 3, time.Hour, time.Minute
	})
	led := c.leader()
	p := led.dial()
	p.append("a")
	c.whole(1)
	c.followers(led)[0].stop()
	b, err := wire.AppendRequest{Value: []byte("b")}.AppendTo(nil)
	require.NoError(t, err)
	_, err = p.c.Write(b)
	require.NoError(t, err)
	c.eventually("an append under way", func() error {
		if st := led.Status(); st.EndOffset != 2 {
			return fmt.Errorf("it ends at %d", st.EndOffset)
		}
		return nil
	})
	m := led.Member
	led.Member = nil
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond) // not enough to hand over
	defer cancel()
	began := time.Now()
	require.NoError(t, m.Stop(ctx))
	require.Less(t, time.Since(began), patience/2)
}

// TestPeersAmongManyClients has clients take up all connections: nodes get in all the same.
func TestPeersAmongManyClients(t *testing.T) {
	c := startCluster(t, 3, func(o *MemberOptions) { o.Server.MaxConnections = 2 })
	led := c.leader()
	a, b := led.dial(), led.dial()
	require.EqualValues(t, 0, a.append("a"))
	require.EqualValues(t, 1, b.append("b"))
	over := led.dial()
	over.send(wire.ReadRequest{})
	require.Contains(t, over.refused(wire.CodeOverloaded), "2 connections")
	silent := led.dial()
	require.Contains(t, silent.refused(wire.CodeOverloaded), "2 connections")
	c.whole(2)
	c.eventually("two connections", func() error {
		if n := led.Status().Connections; n != 2 {
			return fmt.Errorf("there are %d", n)
		}
		return nil
	})
	n := c.followers(led)[0]
	n.stop()
	n.start()
	c.whole(2)
}

// TestHelloNotFirst sends a node's hello behind something else.
func TestHelloNotFirst(t *testing.T) {
	c := startCluster(t, 1)
	n := c.leader()
	p := n.dial()
	p.append("a")
	hello := wire.PeerHello{Version: wire.PeerVersion, From: 2, To: 1, Nonce: make([]byte, wire.MinNonce)}
	p.send(hello)
	require.Contains(t, p.refused(wire.CodeInvalidMessage), "must be the first")
	require.EqualValues(t, 1, p.append("b"))
	// Of a node that it does not know.
	p = n.dial()
	p.send(hello)
	require.Equal(t, wire.TypeError, p.frame().Type)
}

// TestMemberRefused starts what cannot be.
func TestMemberRefused(t *testing.T) {
	parsed, err := conf.Parse([]byte("node 1 127.0.0.1 1 leader"))
	require.NoError(t, err)
	listen := func() Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		return l.(Listener)
	}
	l := listen()
	_, err = StartMember(MemberOptions{Dir: t.TempDir(), Conf: parsed, Self: 2, Listener: l})
	require.ErrorContains(t, err, "node 2 is not in cluster.conf")
	_, err = l.Accept()
	require.ErrorIs(t, err, net.ErrClosed)
	_, err = StartMember(MemberOptions{Dir: t.TempDir(), Conf: parsed, Self: 1, Listener: listen(), Storage: storage.Options{SegmentBytes: 1}})
	require.ErrorContains(t, err, "segment size")
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err = StartMember(MemberOptions{Dir: file, Conf: parsed, Self: 1, Listener: listen()})
	require.Error(t, err)
}

// TestAllPutAside damages the logs of all nodes: they do not found another cluster, which would be
// empty, but wait for one of their own that has what was there.
func TestAllPutAside(t *testing.T) {
	c := startCluster(t, 3)
	led := c.leader()
	p := led.dial()
	for range 100 {
		p.append(strings.Repeat("a", 100))
	}
	c.whole(100)
	id := led.Status().Cluster.ID
	for _, n := range c.nodes {
		n.stop()
		damageScanned(t, n.dir)
	}
	for _, n := range c.nodes {
		n.start()
	}
	c.eventually("all joining", func() error {
		for _, n := range c.nodes {
			if st := n.Status(); st.Role != "joining" || st.Cluster.ID != id || len(st.Warnings) < 2 {
				return fmt.Errorf("node %d is %s in %s: %q", n.id, st.Role, st.Cluster.ID, st.Warnings)
			}
		}
		return nil
	})
}
