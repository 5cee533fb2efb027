package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zue-log/zue/client/internal/wiretest"
	"github.com/zue-log/zue/net/wire"
)

// counted counts the requests of each type to each node.
type counted struct {
	mu sync.Mutex
	n  map[int]map[wire.Type]int
}

func count(c *wiretest.Cluster) *counted {
	k := &counted{n: map[int]map[wire.Type]int{}}
	c.Hook(func(node int, f wire.Frame) *wiretest.Action {
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.n[node] == nil {
			k.n[node] = map[wire.Type]int{}
		}
		k.n[node][f.Type]++
		return nil
	})
	return k
}

func (k *counted) of(node int, t wire.Type) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.n[node][t]
}

// Reads stay at the node that was given, and appends go to the one that leads.
func TestReadsStayAndAppendsFollow(t *testing.T) {
	cluster := wiretest.StartCluster(t, 3)
	k := count(cluster)
	c := dialClient(t, quick, cluster.Addresses()[1])
	ctx := within(t, time.Minute)
	for i := range uint64(5) {
		offset, err := c.Append(ctx, nil, fmt.Append(nil, i))
		require.NoError(t, err)
		require.Equal(t, i, offset)
		rec, err := c.Read(ctx, i)
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint(i), string(rec.Value))
	}
	require.Equal(t, cluster.Addresses()[1], c.Address())
	require.Equal(t, cluster.Addresses()[0], c.LeaderAddress())
	require.Equal(t, 5, k.of(2, wire.TypeReadRequest))
	require.Contains(t, []int{1, 2}, k.of(2, wire.TypeAppendRequest), "it has said who leads, twice if connecting there took so long that it was asked again")
	require.Equal(t, 5, k.of(1, wire.TypeAppendRequest))

	cluster.Lead(3) // between two appends
	for range 3 {
		_, err := c.Append(ctx, nil, nil)
		require.NoError(t, err)
	}
	require.Contains(t, []int{6, 7}, k.of(1, wire.TypeAppendRequest), "as there")
	require.Equal(t, 3, k.of(3, wire.TypeAppendRequest))
	require.Equal(t, cluster.Addresses()[1], c.Address())
	require.Len(t, cluster.Nodes[0].Records(), 8)
}

// When the server leads, all requests share a connection.
func TestOneConnectionToTheLeader(t *testing.T) {
	var dials atomic.Int32
	s := startReal(t)
	opts := quick
	opts.Dial = func(ctx context.Context, address string) (net.Conn, error) {
		dials.Add(1)
		return dialTCP(ctx, address)
	}
	c := dialClient(t, opts, s.address)
	use := func() {
		_, err := c.Append(within(t, time.Minute), nil, nil)
		require.NoError(t, err)
		_, err = c.Read(within(t, time.Minute), 0)
		require.NoError(t, err)
	}
	use()
	require.EqualValues(t, 1, dials.Load())
	s.stop()
	s.start()
	require.Eventually(t, func() bool { return c.main.current() == nil }, time.Minute, time.Millisecond)
	use()
	require.EqualValues(t, 2, dials.Load(), "the one that was lost is made anew once")
}

// What this client has appended it can read, even if its server is behind.
func TestReadsWhatItHasAppended(t *testing.T) {
	cluster := wiretest.StartCluster(t, 2)
	cluster.Hook(func(node int, f wire.Frame) *wiretest.Action {
		if node == 2 && (f.Type == wire.TypeReadRequest || f.Type == wire.TypeFetchRequest) {
			return wiretest.Refuse(wire.CodeInvalidOffset, "beyond the end")
		}
		if f.Type == wire.TypeFetchRequest {
			return &wiretest.Action{Reply: wire.FetchResponse{End: 1}.AppendTo(nil)}
		}
		return nil
	})
	c := dialClient(t, quick, cluster.Addresses()[1])
	ctx := within(t, time.Minute)
	_, err := c.Read(ctx, 0)
	require.ErrorContains(t, err, "from "+cluster.Addresses()[1]+": invalid_offset", "nobody has said that it is there")
	_, err = c.Append(ctx, nil, []byte("mine"))
	require.NoError(t, err)
	rec, err := c.Read(ctx, 0)
	require.NoError(t, err)
	require.Equal(t, "mine", string(rec.Value))
	_, err = c.Fetch(ctx, 1, FetchOptions{Wait: time.Minute})
	require.NoError(t, err)
	_, err = c.Fetch(ctx, 2, FetchOptions{})
	require.ErrorContains(t, err, "from "+cluster.Addresses()[1])
}

// What a node refuses because it does not lead goes to the leader, and nothing else does.
func TestBarrierThatNeedsTheLeader(t *testing.T) {
	cluster := wiretest.StartCluster(t, 2)
	cluster.Nodes[0].Append(nil, nil)
	cluster.Hook(func(node int, f wire.Frame) *wiretest.Action {
		if node == 2 && f.Type == wire.TypeBarrierRequest {
			return wiretest.Refuse(wire.CodeNotLeader, "node 1 at "+cluster.Nodes[0].Address()+" leads")
		}
		return nil
	})
	c := dialClient(t, quick, cluster.Addresses()[1])
	end, err := c.Barrier(within(t, time.Minute))
	require.NoError(t, err)
	require.EqualValues(t, 1, end)
	require.Equal(t, cluster.Addresses()[1], c.Address())
}

// With NoRetry the next append goes where the one before was sent.
func TestNoRetryGoesToTheLeaderNextTime(t *testing.T) {
	cluster := wiretest.StartCluster(t, 2)
	c := dialClient(t, Options{NoRetry: true}, cluster.Addresses()[1])
	_, err := c.Append(t.Context(), nil, nil)
	requireOutcome(t, ErrNotApplied, err)
	require.ErrorIs(t, err, ErrElsewhere)
	_, err = c.Append(t.Context(), nil, nil)
	require.NoError(t, err)
}

// An append waits for an election, and goes on soon after it, whomever it asks meanwhile.
func TestAppendWaitsForAnElection(t *testing.T) {
	for name, stale := range map[string]bool{"no leader is known": false, "the old one is named": true} {
		t.Run(name, func(t *testing.T) {
			cluster := wiretest.StartCluster(t, 3)
			addresses := cluster.Addresses()
			c := dialClient(t, Options{}, addresses...)
			_, err := c.Append(t.Context(), nil, nil)
			require.NoError(t, err)
			if cluster.Lead(0); stale {
				cluster.Lead(1)
			}
			cluster.Nodes[0].Close()
			var elected atomic.Int64
			time.AfterFunc(1500*time.Millisecond, func() {
				elected.Store(time.Now().UnixNano())
				cluster.Lead(3)
			})
			_, err = c.Append(within(t, time.Minute), nil, nil)
			if errors.Is(err, ErrMaybeApplied) { // it was sent before the end of the connection was seen
				_, err = c.Append(within(t, time.Minute), nil, nil)
			}
			require.NoError(t, err)
			late := time.Since(time.Unix(0, elected.Load()))
			t.Logf("%v after the election", late)
			require.Less(t, late, 5*time.Second)
			require.Equal(t, addresses[2], c.LeaderAddress())
		})
	}
}

// The pauses of an election are short ones.
func TestPausesOfAnElection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := bubbled(t, wiretest.Options{}, Options{})
		since := time.Now()
		for time.Since(since) < 10*time.Second {
			began := time.Now()
			require.NoError(t, c.pause(t.Context(), since))
			most := max(50*time.Millisecond, began.Sub(since)/20)
			require.LessOrEqual(t, time.Since(began), most)
			require.GreaterOrEqual(t, time.Since(began), most/2)
		}
	})
}

// A machine that is down, and does not even refuse, does not hold up what others can do.
func TestNodeThatAnswersNothing(t *testing.T) {
	cluster := wiretest.StartCluster(t, 2)
	opts := Options{Dial: func(ctx context.Context, address string) (net.Conn, error) {
		if address == "dead:1" {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return dialTCP(ctx, address)
	}, DialTimeout: 30 * time.Second}
	began := time.Now()
	c := dialClient(t, opts, "dead:1", cluster.Addresses()[1])
	_, err := c.Append(within(t, time.Minute), nil, nil)
	require.NoError(t, err)
	require.Less(t, time.Since(began), opts.DialTimeout)
	require.Equal(t, cluster.Addresses()[1], c.Address())
}

// Of two connections that come about, one is kept.
func TestSlowConnectionIsClosed(t *testing.T) {
	slow, fast := wiretest.Start(t, wiretest.Options{}), wiretest.Start(t, wiretest.Options{})
	dialled := make(chan net.Conn, 1)
	opts := Options{Dial: func(ctx context.Context, address string) (net.Conn, error) {
		if address == fast.Address() {
			return dialTCP(ctx, address)
		}
		<-ctx.Done() // somebody else was faster
		nc, err := dialTCP(context.Background(), address)
		dialled <- nc
		return nc, err
	}}
	c := dialClient(t, opts, slow.Address(), fast.Address())
	require.Equal(t, fast.Address(), c.Address())
	nc := <-dialled
	require.Eventually(t, func() bool { return nc.SetDeadline(time.Time{}) != nil }, time.Minute, time.Millisecond, "it is open")
}

// The leader dies with appends under way: what may be in the log is said to be, and the next
// append goes to the new leader.
func TestLeaderDies(t *testing.T) {
	cluster := wiretest.StartCluster(t, 3)
	c := dialClient(t, quick, cluster.Addresses()[0], cluster.Addresses()[1])
	cluster.Hook(func(node int, f wire.Frame) *wiretest.Action {
		if node == 1 && f.Type == wire.TypeAppendRequest {
			return &wiretest.Action{ApplyAndHang: true}
		}
		return nil
	})
	_, err := c.Append(t.Context(), nil, []byte("last words"))
	requireOutcome(t, ErrMaybeApplied, err)
	cluster.Nodes[0].Close()
	cluster.Lead(3)
	offset, err := c.Append(within(t, time.Minute), nil, nil)
	require.NoError(t, err)
	require.EqualValues(t, 1, offset)
}

// An idempotent producer goes on through deaths of leaders, without loss, doubling or disorder.
func TestIdempotentProducerThroughFailovers(t *testing.T) {
	cluster := wiretest.StartCluster(t, 3)
	var batches atomic.Int32
	cluster.Hook(func(node int, f wire.Frame) *wiretest.Action {
		if f.Type != wire.TypeBatchAppendRequest {
			return nil
		}
		switch n := batches.Add(1); {
		case n%40 == 0:
			return &wiretest.Action{ApplyAndHang: true}
		case n%40 == 20:
			return &wiretest.Action{Hang: true}
		case n%40 == 10:
			return wiretest.Refuse(wire.CodeQuorumFailed, "leadership went")
		case n%40 == 30:
			return wiretest.Refuse(wire.CodeReplicationTimeout, "5s")
		}
		return nil
	})
	c := dialClient(t, quick, cluster.Addresses()[1], cluster.Addresses()[2])
	p := newProducer(t, c, ProducerOptions{MaxBytes: 200, Idempotent: true})
	const records = 3000
	for i := range records {
		if i%500 == 250 {
			cluster.Lead(0)
			time.AfterFunc(20*time.Millisecond, func() { cluster.Lead(1 + i/500%3) })
		}
		require.NoError(t, p.Send(t.Context(), Record{Value: fmt.Append(nil, i)}, func(offset uint64, err error) {
			if err != nil || offset != uint64(i) {
				t.Errorf("%d: offset %d, %v", i, offset, err)
			}
		}))
	}
	require.NoError(t, p.Flush(t.Context()))
	for i, r := range cluster.Nodes[0].Records() {
		require.Equal(t, fmt.Sprint(i), string(r.Value))
	}
	require.Len(t, cluster.Nodes[0].Records(), records)
}

func TestClusterRequests(t *testing.T) {
	cluster := wiretest.StartCluster(t, 3)
	for i := range 10 {
		cluster.Nodes[0].Append(nil, fmt.Append(nil, i))
	}
	c := dialClient(t, quick, cluster.Addresses()[1])
	ctx := within(t, time.Minute)
	to, err := c.Transfer(ctx, 3)
	require.NoError(t, err)
	require.EqualValues(t, 3, to)
	to, err = c.Transfer(ctx, 0)
	require.NoError(t, err)
	require.EqualValues(t, 1, to)
	_, err = c.Transfer(ctx, 9)
	require.ErrorContains(t, err, "transfer leadership by "+cluster.Addresses()[0]+": change_refused: node 9")
	require.NotErrorIs(t, err, ErrNotApplied, "that is about appends")
	require.NoError(t, c.Remove(ctx, 3))
	require.NoError(t, c.Allow(ctx, 4))

	at, err := c.Chain(ctx, 5)
	require.NoError(t, err)
	require.Equal(t, Place{Index: 2, Term: 1, First: 4, Next: 8, Chain: at.Chain}, at)
	_, err = c.Chain(ctx, 10)
	require.ErrorContains(t, err, "chain offset 10 from "+cluster.Addresses()[1]+": invalid_offset")
}
