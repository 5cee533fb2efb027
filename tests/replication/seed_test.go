package replication

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zue-log/zue/net/wire"
)

const (
	// quick is settings with which a test need not wait long for an election.
	quick = "heartbeat 200\ntimeout 2000\nmax_lag 50\nelection_timeout 500\n"
	// steady is settings for a test that has none, and is not to have one since the machine is busy, or
	// a disk slow. Leaders are followed at once when they are stopped in order.
	steady = "heartbeat 200\ntimeout 20000\nmax_lag 50\nelection_timeout 2000\n"
)

// appendAll appends values through the whole cluster, one after the other.
func (c *cluster) appendAll(values ...string) (offsets []uint64) {
	c.t.Helper()
	cl := c.dial()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	for _, v := range values {
		offset, err := cl.Append(ctx, nil, []byte(v))
		require.NoError(c.t, err)
		offsets = append(offsets, offset)
	}
	return offsets
}

func numbered(prefix string, n int) (values []string) {
	for i := range n {
		values = append(values, fmt.Sprintf("%s%d", prefix, i))
	}
	return values
}

// equal waits until the cluster is whole, and all nodes have just these values.
func (c *cluster) equal(want []string) {
	c.t.Helper()
	c.settled()
	for _, n := range c.nodes {
		require.Equal(c.t, want, n.values(), "node %d", n.id)
	}
}

// A record that was appended by the program is read from each node by it.
func TestBasic(t *testing.T) {
	c := newCluster(t, 3, steady)
	led := c.leader()
	require.Equal(t, 1, led.id, "the one that cluster.conf calls leader stands first")
	r := run(t, "append", "127.0.0.1", strconv.Itoa(led.port), "key", "value")
	require.Zero(t, r.code, r.stderr)
	require.Equal(t, "0", r.stdout)
	c.settled()
	for _, n := range c.nodes {
		r := run(t, "read", "127.0.0.1", strconv.Itoa(n.port), "0")
		require.Zero(t, r.code, r.stderr)
		require.Equal(t, "value", r.stdout)
	}
}

func TestOneFollowerDown(t *testing.T) {
	c := newCluster(t, 3, steady)
	led := c.leader()
	c.nodes[led.id%3].kill()
	values := numbered("v", 100)
	for i, offset := range c.appendAll(values...) {
		require.EqualValues(t, i, offset)
	}
	for _, n := range c.up() {
		c.eventually("all on the nodes that are up", func() error {
			if st, err := n.status(); err != nil || st.CommittedOffset != 100 {
				return fmt.Errorf("ends at %d, %w", st.CommittedOffset, err)
			}
			return nil
		})
		require.Equal(t, values, n.values())
	}
}

// Without a quorum nothing is acknowledged, and the error says whether it may be in the log.
func TestQuorumFailure(t *testing.T) {
	c := newCluster(t, 3, quick)
	led := c.leader()
	c.appendAll("before")
	for _, n := range c.nodes {
		if n != led {
			n.kill()
		}
	}
	alone := led.only()
	seen := map[wire.Code]bool{}
	// First it does not know yet: the append is in its log, and maybe will be in that of others.
	// Then it knows, and takes nothing, or leads no more.
	for deadline := time.Now().Add(patience); !seen[wire.CodeInsufficientISR] && !seen[wire.CodeNotLeader]; {
		require.True(t, time.Now().Before(deadline), "%v", seen)
		_, err := alone.Append(t.Context(), nil, []byte("during"))
		require.Error(t, err)
		code := codeOf(err)
		require.Contains(t, []wire.Code{wire.CodeQuorumFailed, wire.CodeReplicationTimeout, wire.CodeInsufficientISR, wire.CodeNotLeader}, code, "%v", err)
		seen[code] = true
	}
	st, err := led.status()
	require.NoError(t, err)
	require.EqualValues(t, 1, st.CommittedOffset, "readers see only what is committed")
	for _, n := range c.nodes {
		n.start()
	}
	c.leader()
	c.appendAll("after")
	c.settled()
	values := c.nodes[0].values()
	require.Equal(t, "before", values[0])
	require.Equal(t, "after", values[len(values)-1])
}

func TestCatchUpAfterRestart(t *testing.T) {
	c := newCluster(t, 3, steady)
	led := c.leader()
	down := c.nodes[led.id%3]
	values := numbered("a", 50)
	c.appendAll(values...)
	down.kill()
	more := numbered("b", 500)
	c.appendAll(more...)
	down.start()
	c.equal(append(values, more...))
}

// A leader that is cut off has a tail that nobody else has. When it is back, that is gone, and
// the log is the others'.
func TestRecoveryOnOffsetMismatch(t *testing.T) {
	c := newCluster(t, 3, quick)
	old := c.leader()
	c.appendAll("common")
	c.settled()
	c.isolate(old.id)
	var wg sync.WaitGroup
	for i := range 5 {
		cl := old.only()
		wg.Go(func() {
			_, err := cl.Append(t.Context(), nil, []byte(fmt.Sprint("lost ", i)))
			if err == nil {
				t.Errorf("an append on a leader that is cut off was acknowledged")
			}
		})
	}
	wg.Wait()
	var others []*node
	for _, n := range c.nodes {
		if n != old {
			others = append(others, n)
		}
	}
	led := c.leader(others...)
	cl := led.only()
	for i := range 10 {
		_, err := cl.Append(t.Context(), nil, []byte(fmt.Sprint("kept ", i)))
		require.NoError(t, err)
	}
	c.heal()
	c.equal(append([]string{"common"}, numbered("kept ", 10)...))
}

// The leader knows whom it has heard of: one that is silent is not in sync.
func TestHeartbeatAndInSyncStatus(t *testing.T) {
	c := newCluster(t, 3, quick)
	led := c.leader()
	c.settled()
	silent := c.nodes[led.id%3]
	replica := func() (r wire.ReplicaStatus) {
		st, err := led.status()
		require.NoError(t, err)
		for _, r := range st.Cluster.Replicas {
			if int(r.Node) == silent.id {
				return r
			}
		}
		t.Fatalf("node %d is no replica: %+v", silent.id, st.Cluster)
		return r
	}
	require.True(t, replica().InSync)
	silent.signal(syscall.SIGSTOP)
	c.eventually("the node that is silent not in sync", func() error {
		if r := replica(); r.InSync || r.LastContactMillis < 200 {
			return fmt.Errorf("%+v", r)
		}
		return nil
	})
	st, err := led.status()
	require.NoError(t, err)
	require.Equal(t, 2, st.Cluster.InSync)
	require.NotZero(t, st.Cluster.InSyncChanges)
	silent.signal(syscall.SIGCONT)
	c.settled()
	require.Less(t, replica().LastContactMillis, int64(1000))
}

// A follower that is behind by more than max_lag records is not in sync, though it is heard of.
func TestLagDetection(t *testing.T) {
	c := newCluster(t, 3, steady)
	led := c.leader()
	c.settled()
	slow := c.nodes[led.id%3]
	// What the leader says to it gets lost, its own heartbeats do not.
	c.cut(led.id, slow.id, true)
	c.appendAll(numbered("v", 200)...)
	c.eventually("the node that is behind not in sync", func() error {
		st, err := led.status()
		if err != nil {
			return err
		}
		for _, r := range st.Cluster.Replicas {
			if int(r.Node) == slow.id && !r.InSync && r.Lag != nil && *r.Lag >= 50 {
				return nil
			}
		}
		return fmt.Errorf("%+v", st.Cluster.Replicas)
	})
	c.heal()
	c.equal(numbered("v", 200))
}

func TestConcurrentWriters(t *testing.T) {
	c := newCluster(t, 3, steady)
	c.leader()
	var mu sync.Mutex
	at := map[uint64]string{}
	var wg sync.WaitGroup
	for w := range 16 {
		cl := c.dial()
		wg.Go(func() {
			for i := range 50 {
				value := fmt.Sprintf("%d/%d", w, i)
				offset, err := cl.Append(t.Context(), nil, []byte(value))
				mu.Lock()
				if was, ok := at[offset]; err != nil || ok {
					t.Errorf("%s at %d, where %q is: %v", value, offset, was, err)
				}
				at[offset] = value
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	want := make([]string, 16*50)
	for offset, value := range at {
		require.Less(t, offset, uint64(len(want)))
		want[offset] = value
	}
	c.equal(want)
}

func TestNotLeader(t *testing.T) {
	c := newCluster(t, 3, steady)
	led := c.leader()
	for _, n := range c.nodes {
		if n == led {
			continue
		}
		_, err := n.only().Append(t.Context(), nil, []byte("x"))
		require.Equal(t, wire.CodeNotLeader, codeOf(err), "%v", err)
		// The leader is where this node's cluster.conf has it.
		_, port, splitErr := net.SplitHostPort(c.links[[2]int{n.id, led.id}].listener.Addr().String())
		require.NoError(t, splitErr)
		require.Contains(t, err.Error(), "127.0.0.1:"+port)
		// And zue-client goes there.
		r := run(t, "append", "127.0.0.1", strconv.Itoa(n.port), "k", fmt.Sprint("by way of ", n.id))
		require.Zero(t, r.code, r.stderr)
	}
	require.EqualValues(t, 2, c.settled())
}

// A minority that is cut off acknowledges nothing and serves what it has; the majority goes on;
// healed, all are equal.
func TestPartitionAndHealing(t *testing.T) {
	c := newCluster(t, 3, quick)
	for round := range 3 {
		led := c.leader()
		name := fmt.Sprint("round ", round, " ")
		c.appendAll(name + "before")
		end := c.settled()
		c.isolate(led.id)
		var others []*node
		for _, n := range c.nodes {
			if n != led {
				others = append(others, n)
			}
		}
		next := c.leader(others...)
		require.NotEqual(t, led, next)
		_, err := next.only().Append(t.Context(), nil, []byte(name+"during"))
		require.NoError(t, err)
		_, err = led.only().Append(t.Context(), nil, []byte(name+"never"))
		require.Error(t, err)
		rec, err := led.only().Read(t.Context(), end-1)
		require.NoError(t, err)
		require.Equal(t, name+"before", string(rec.Value))
		c.heal()
		c.settled()
		values := c.nodes[0].values()
		require.Equal(t, name+"during", values[len(values)-1])
	}
}
