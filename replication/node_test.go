package replication

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/goleak"

	"github.com/zue-log/zue/replication/core"
	"github.com/zue-log/zue/storage"
	"github.com/zue-log/zue/storage/batch"
	"github.com/zue-log/zue/storage/vfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// hub is a network in memory.
type hub struct {
	mu    sync.Mutex
	nodes map[core.NodeID]chan *core.Message
}

// port is a node's end of the hub.
type port struct{ *hub }

func (p port) Send(messages []*core.Message, done func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if done != nil { // they are read from the log, and are the sender's
		for i, m := range messages {
			var err error
			if messages[i], err = core.DecodeMessage(bytes.Join(m.Encode(0), nil)); err != nil {
				panic(err)
			}
		}
		done()
	}
	for _, m := range messages {
		if to := p.nodes[m.To]; to != nil {
			select {
			case to <- m:
			default: // there is no room
			}
		}
	}
}

// member is a node of a test's cluster.
type member struct {
	*Node
	t   *testing.T
	hub *hub
	id  core.NodeID
	dir string
	log *storage.Log
	end context.CancelFunc
	in  sync.WaitGroup
}

func (m *member) start() {
	var err error
	m.log, err = storage.Open(m.dir, storage.Options{ManualCommit: true, SegmentBytes: 1 << 20})
	require.NoError(m.t, err)
	m.Node, err = Start(Options{
		Tick: 10 * time.Millisecond, Transport: port{m.hub},
		Core: core.Config{
			Self: m.id, Nodes: []core.NodeID{1, 2, 3}, Preferred: 1, Quorum: 2, MaxLag: 10_000, RecentBytes: 1 << 10,
			ElectionTicks: 500, ReportTicks: 20, TimeoutTicks: 1000, Log: m.log, Rand: rand.New(rand.NewPCG(rand.Uint64(), 1)),
		},
	})
	require.NoError(m.t, err)
	messages := make(chan *core.Message, 10_000)
	m.hub.mu.Lock()
	m.hub.nodes[m.id] = messages
	m.hub.mu.Unlock()
	ctx, end := context.WithCancel(context.Background())
	m.end = end
	node := m.Node
	m.in.Go(func() {
		for {
			select {
			case msg := <-messages:
				_ = node.Step(ctx, msg, len(messages) > 0) // it may have stopped
			case <-ctx.Done():
				return
			}
		}
	})
}

func (m *member) stop() {
	if m.Node == nil {
		return
	}
	m.hub.mu.Lock()
	delete(m.hub.nodes, m.id)
	m.hub.mu.Unlock()
	m.Node.Stop()
	m.end()
	m.in.Wait()
	require.NoError(m.t, m.log.Close())
	m.Node = nil
}

// startThree starts a cluster.
func startThree(t *testing.T) []*member {
	h := &hub{nodes: map[core.NodeID]chan *core.Message{}}
	var members []*member
	for id := range core.NodeID(3) {
		m := &member{t: t, hub: h, id: id + 1, dir: t.TempDir()}
		m.start()
		t.Cleanup(m.stop)
		members = append(members, m)
	}
	return members
}

// leader waits for a leader among nodes that are up.
func leader(t *testing.T, members []*member) (led *member) {
	require.Eventually(t, func() bool {
		for _, m := range members {
			if m.Node == nil {
				continue
			}
			if s, err := m.Status(t.Context()); err == nil && s.Role == core.RoleLeader {
				led = m
				return true
			}
		}
		return false
	}, 30*time.Second, 5*time.Millisecond)
	return led
}

// TestNodes has three nodes take appends, lose their leader, and go on; all that was
// acknowledged is on all of them in the end.
func TestNodes(t *testing.T) {
	members := startThree(t)
	var mu sync.Mutex
	acked := map[uint64]string{}
	add := func(offset uint64, value string) {
		mu.Lock()
		defer mu.Unlock()
		if was, ok := acked[offset]; ok {
			t.Errorf("offset %d was given to %q and to %q", offset, was, value)
		}
		acked[offset] = value
	}
	appendSome := func(led *member, name string) {
		var wg sync.WaitGroup
		for w := range 4 {
			wg.Go(func() {
				for i := range 200 {
					value := fmt.Sprintf("%s/%d/%d", name, w, i)
					if i%4 > 0 {
						done := make(chan error, 1)
						if !led.AppendRecords([]storage.Record{{Value: []byte(value)}}, func(offset uint64, a *core.Append) {
							if a.Err == nil {
								add(offset, value)
							}
							done <- a.Err
						}) {
							t.Error("no room")
							return
						}
						if err := <-done; err != nil {
							t.Errorf("%s: %v", value, err)
						}
						continue
					}
					a := newAppend([]byte(value))
					if err := led.Append(context.Background(), a); err != nil {
						t.Errorf("%s: %v", value, err)
						continue
					}
					add(a.First, value)
				}
			})
		}
		wg.Wait()
	}
	led := leader(t, members)
	appendSome(led, "first")
	end, err := led.Barrier(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 800, end)

	follower := members[led.id%3]
	a := newAppend(nil)
	require.ErrorIs(t, follower.Append(t.Context(), a), core.ErrNotLeader)
	require.Equal(t, led.id, a.Leader)
	end, err = follower.Barrier(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 800, end)

	_, err = led.Transfer(t.Context(), follower.id)
	require.NoError(t, err)
	require.Eventually(t, func() bool { s, err := follower.Status(t.Context()); return err == nil && s.Role == core.RoleLeader }, 30*time.Second, time.Millisecond)
	led.stop()
	appendSome(leader(t, members), "second")
	led.start()
	for _, m := range members {
		require.Eventually(t, func() bool { return m.log.EndOffset() == 1600 }, 30*time.Second, time.Millisecond)
		for offset, value := range acked {
			rec, lease, err := m.log.Read(offset)
			require.NoError(t, err)
			require.Equal(t, value, string(rec.Value))
			lease.Release()
		}
	}
}

// What waits when a node stops is answered.
func TestStopAnswers(t *testing.T) {
	members := startThree(t)
	led := leader(t, members)
	for _, m := range members {
		if m != led {
			m.stop()
		}
	}
	answers := make(chan error, 10)
	node := led.Node // which stop takes from it
	for range 10 {
		go func() {
			answers <- node.Append(context.Background(), newAppend(nil))
		}()
	}
	led.stop()
	for range 10 {
		err := <-answers
		require.True(t, errors.Is(err, core.ErrStopped) || errors.Is(err, core.ErrNotLeader) || errors.Is(err, core.ErrInsufficientISR) || errors.Is(err, core.ErrQuorumFailed), "%v", err)
	}
	require.ErrorIs(t, node.Err(), ErrStopped)
	require.False(t, node.AppendRecords([]storage.Record{{}}, nil))
	_, err := node.Status(t.Context())
	require.ErrorIs(t, err, ErrStopped)
	_, err = Start(Options{})
	require.Error(t, err)
}

// hold keeps the core busy until it is released.
func (n *Node) hold() (release func()) {
	held, until := make(chan struct{}), make(chan struct{})
	go func() {
		_ = n.submit(context.Background(), func(*core.Core) {
			close(held)
			<-until
		})
	}()
	<-held
	return func() { close(until) }
}

// nowhere is the network of a node that is alone.
type nowhere struct{}

func (nowhere) Send([]*core.Message, func()) {}

// newAppend returns an append of one record.
func newAppend(value []byte) *core.Append {
	body := batch.Append(nil, []storage.Record{{Value: value}}, 1)
	return &core.Append{Body: body, Checksum: batch.Checksum(body)}
}

// newAlone starts a cluster of one. To stop it, and then to close its log, is the caller's.
func newAlone(t *testing.T, fs vfs.FS, tick time.Duration) (*Node, *storage.Log) {
	log, err := storage.Open(t.TempDir(), storage.Options{ManualCommit: true, SegmentBytes: 1 << 20, FS: fs})
	require.NoError(t, err)
	n, err := Start(Options{Tick: tick, Transport: nowhere{}, Core: core.Config{
		Self: 1, Nodes: []core.NodeID{1}, Preferred: 1, Quorum: 1, MaxLag: 10, ElectionTicks: 3, ReportTicks: 1, TimeoutTicks: 10_000,
		Log: log, Rand: rand.New(rand.NewPCG(1, 1)),
	}})
	require.NoError(t, err)
	return n, log
}

// startAlone starts a cluster of one, and waits until it leads.
func startAlone(t *testing.T) *Node { return startAloneOn(t, vfs.OS{}, 5*time.Millisecond) }

// startAloneOn is startAlone on a file system, and with ticks, of the test's.
func startAloneOn(t *testing.T, fs vfs.FS, tick time.Duration) *Node {
	n, log := newAlone(t, fs, tick)
	t.Cleanup(func() {
		n.Stop()
		require.NoError(t, log.Close())
	})
	require.Eventually(t, func() bool {
		s, err := n.Status(t.Context())
		return err == nil && s.Role == core.RoleLeader
	}, 30*time.Second, time.Millisecond)
	return n
}

// A call whose context has ended shares nothing with what the node does for it yet.
func TestContextsThatEnd(t *testing.T) {
	n := startAlone(t)
	for range 2000 {
		ctx, cancel := context.WithCancel(t.Context())
		go cancel()
		s, _ := n.Status(ctx)
		require.NotEqual(t, core.RoleCandidate, s.Role)
		_, _ = n.Transfer(ctx, 1)
	}
}

// Records that are each as long as may be do not become one entry that is too long.
func TestLongRecordsTogether(t *testing.T) {
	n := startAlone(t)
	release := n.hold()
	answers := make(chan error, 2)
	add := func(size int) bool {
		return n.AppendRecords([]storage.Record{{Value: make([]byte, size)}}, func(_ uint64, a *core.Append) { answers <- a.Err })
	}
	require.True(t, add(3<<20))
	require.False(t, add(31<<20), "there is no room beside it")
	release()
	require.NoError(t, <-answers)
	require.True(t, add(31<<20), "alone there is")
	require.NoError(t, <-answers)
	require.Eventually(t, func() bool { return add(33 << 20) }, 10*time.Second, time.Millisecond)
	require.ErrorIs(t, <-answers, storage.ErrTooLarge)
	require.NoError(t, n.Err())
}

// A disk that stalls under many appends stops nothing but them, and when it then fails the node
// ends.
func TestDiskThatStallsAndFails(t *testing.T) {
	mem := vfs.NewMem()
	log, err := storage.Open("/log", storage.Options{ManualCommit: true, SegmentBytes: 1 << 20, FS: mem})
	require.NoError(t, err)
	n, err := Start(Options{
		Tick: 10 * time.Millisecond, Transport: nowhere{},
		Core: core.Config{
			Self: 1, Nodes: []core.NodeID{1}, Preferred: 1, Quorum: 1, MaxLag: 10_000, RecentBytes: 1 << 10,
			ElectionTicks: 10, ReportTicks: 20, TimeoutTicks: 100_000, Log: log, Rand: rand.New(rand.NewPCG(1, 1)),
		},
	})
	require.NoError(t, err)
	sequence := int32(0)
	next := func() *core.Append {
		body := batch.Append(nil, []storage.Record{{Value: []byte("x")}}, 1)
		require.NoError(t, batch.SetProducer(body, 2, 0, sequence))
		sequence++
		return &core.Append{Body: body, Checksum: batch.Checksum(body)}
	}
	require.Eventually(t, func() bool {
		sequence = 0
		return n.Append(t.Context(), next()) == nil
	}, 30*time.Second, 10*time.Millisecond)
	gate := make(chan struct{})
	mem.Inject(func(op vfs.Op, _ string) error {
		if op != vfs.OpSync {
			return nil
		}
		<-gate
		return syscall.EIO
	})
	// Each batch of a producer is a write of its own, if the one before is not there yet.
	answers := make(chan error, 4000)
	for range 4 {
		release := n.hold()
		for range 1000 {
			require.NoError(t, n.AppendAsync(t.Context(), next(), func(a *core.Append) { answers <- a.Err }))
		}
		release()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err = n.Status(ctx)
	require.NoError(t, err, "the node goes on")
	close(gate)
	select {
	case <-n.Done():
	case <-ctx.Done():
		t.Fatal("the node does not end")
	}
	require.ErrorIs(t, n.Err(), syscall.EIO)
	for range 4000 {
		require.Error(t, <-answers)
	}
	mem.Inject(nil)
	_ = log.Close() // it has failed
}

// still is a node that is alone, leads, and whose time stands still, so that nobody but the test
// has something for its core.
type still struct {
	*Node
	log    *storage.Log
	disk   chan error // what becomes of a sync of entries
	syncs  chan bool  // for each: does who helps do it?
	added  int
	landed chan int // which appends of add were answered; -i: the i-th failed
}

func startStill(t *testing.T) *still {
	mem := vfs.NewMem()
	n, log := newAlone(t, mem, time.Hour)
	s := &still{Node: n, log: log, disk: make(chan error), syncs: make(chan bool, 100), landed: make(chan int, 100)}
	t.Cleanup(func() {
		close(s.disk)
		n.Stop()
		_ = log.Close() // it may have failed
	})
	require.Eventually(t, func() bool {
		require.NoError(t, n.submit(t.Context(), (*core.Core).Tick))
		s, err := n.Status(t.Context())
		require.NoError(t, err)
		return s.Role == core.RoleLeader && s.Committed == s.Last
	}, 30*time.Second, time.Millisecond)
	mem.Inject(func(op vfs.Op, _ string) error {
		stack := debug.Stack()
		if op != vfs.OpSync || !bytes.Contains(stack, []byte(".(*Log).commit(")) {
			return nil // it is no entry's
		}
		s.syncs <- bytes.Contains(stack, []byte(".(*Node).help("))
		return <-s.disk
	})
	return s
}

// settle waits until nobody has anything to do.
func (s *still) settle(t *testing.T) {
	require.Eventually(t, func() bool {
		s.turn.Lock()
		defer s.turn.Unlock()
		if s.waiting() {
			s.rouse() // who came while the test had the turn takes it that somebody sees to this
			return false
		}
		if s.pending > 0 || len(s.wake) > 0 || !s.Node.disk.TryLock() {
			return false
		}
		s.Node.disk.Unlock()
		return true
	}, 30*time.Second, 100*time.Microsecond)
}

// beside has something done beside the test.
func beside(do func()) (done chan struct{}) {
	done = make(chan struct{})
	go func() {
		defer close(done)
		do()
	}()
	return done
}

// add appends a record, and helps.
func (s *still) add(t *testing.T) (helped chan struct{}) {
	s.added++
	i := s.added
	a := newAppend([]byte("v"))
	a.Tag = func(a *core.Append) {
		if a.Err != nil {
			i = -i
		}
		s.landed <- i
	}
	require.NoError(t, s.put(t.Context(), func(c *core.Core) { c.Append(a) }))
	return beside(func() { s.help(true) })
}

// own adds until it is who helps that writes, and not run, which may happen to have the turn. The
// disk has that write then.
func (s *still) own(t *testing.T) (helped chan struct{}) {
	for {
		require.Less(t, s.added, 1000, "it never does")
		s.settle(t)
		helped = s.add(t)
		if <-s.syncs {
			return helped
		}
		s.disk <- nil
		require.Equal(t, s.added, <-s.landed)
		<-helped
	}
}

// Who helps makes a single short write durable himself. Meanwhile the node goes on, and others'
// writes come behind his; one that fails ends the node.
func TestWriteOfOnesOwn(t *testing.T) {
	s := startStill(t)
	first := s.own(t)
	next := s.added
	<-s.add(t) // somebody is writing
	<-s.add(t)
	st, err := s.Status(t.Context())
	require.NoError(t, err, "the node goes on")
	require.Equal(t, core.RoleLeader, st.Role)
	select {
	case <-first:
		t.Fatal("what was not durable was")
	default:
	}
	s.disk <- nil
	<-first
	for next <= s.added {
		select {
		case <-s.syncs:
			s.disk <- nil
		case landed := <-s.landed:
			require.Equal(t, next, landed)
			next++
		}
	}

	last := s.own(t)
	s.disk <- syscall.EIO
	<-last
	<-s.Done()
	require.ErrorIs(t, s.Err(), syscall.EIO)
	require.Equal(t, -s.added, <-s.landed)
}

// Stop waits for the write that one who helps is about, which is in the log then.
func TestStopDuringAWriteOfOnesOwn(t *testing.T) {
	s := startStill(t)
	helped := s.own(t)
	stopped := beside(s.Stop)
	require.Eventually(t, func() bool {
		s.turn.Lock()
		defer s.turn.Unlock()
		return s.closing
	}, 30*time.Second, 100*time.Microsecond)
	select {
	case <-stopped:
		t.Fatal("it did not wait")
	case <-helped:
		t.Fatal("what was not durable was")
	default:
	}
	s.disk <- nil
	<-helped
	<-stopped
	require.ErrorIs(t, s.Err(), ErrStopped)
	require.Equal(t, -s.added, <-s.landed, "it was told that the node stops")
	require.EqualValues(t, s.added, s.log.LastPlace().Offset, "and may find the record there")
}

// What comes while a round ends is seen to, though who had the turn goes to the disk.
func TestNothingWaitsForAWriteOfOnesOwn(t *testing.T) {
	s := startStill(t)
	for own, i := false, 0; !own; i++ { // run may happen to have the turn
		require.Less(t, i, 1000)
		s.settle(t)
		seen := make(chan struct{})
		require.NoError(t, s.put(t.Context(), func(c *core.Core) {
			a := newAppend([]byte("v"))
			a.Tag = func(*core.Append) {}
			c.Append(a)
			refused := newAppend([]byte("v"))
			refused.Conditional, refused.EndOffset = true, 1<<40
			refused.Tag = func(*core.Append) { // it is told of behind the write, by who has the turn
				_ = s.put(t.Context(), func(*core.Core) { close(seen) })
				s.help(false)
			}
			c.Append(refused)
		}))
		helped := beside(func() { s.help(true) })
		own = <-s.syncs
		select {
		case <-seen:
		case <-time.After(20 * time.Second):
			t.Error("it waits for the disk")
		}
		s.disk <- nil
		<-helped
	}
}

// Whether who brings a message may make a short write durable himself.
func TestWhoMayWrite(t *testing.T) {
	s := startStill(t)
	message := func(typ raftpb.MessageType) *core.Message { // it makes no sense, and does no harm
		return &core.Message{Kind: core.KindRaft, From: 9, To: 1, Raft: &raftpb.Message{Type: typ.Enum()}}
	}
	for _, c := range []struct {
		name string
		typ  raftpb.MessageType
		more bool
		size int
		want bool
	}{
		{"entries", raftpb.MsgApp, false, 10, true},
		{"entries, and more at hand", raftpb.MsgApp, true, 10, false},
		{"urgent", raftpb.MsgHeartbeat, false, 10, false},
		{"an answer", raftpb.MsgAppResp, false, 10, false},
		{"a long write", raftpb.MsgApp, false, maxOwn, false},
	} {
		own := false
		for i := 0; i < 20 && !own; i++ { // run may happen to have the turn
			s.settle(t)
			a := newAppend(make([]byte, c.size))
			landed := make(chan error, 1)
			a.Tag = func(a *core.Append) { landed <- a.Err }
			require.NoError(t, s.put(t.Context(), func(c *core.Core) { c.Append(a) }))
			stepped := beside(func() { _ = s.Step(t.Context(), message(c.typ), c.more) })
			own = <-s.syncs
			s.disk <- nil
			require.NoError(t, <-landed)
			<-stepped
		}
		require.Equal(t, c.want, own, c.name)
	}
}

// recorder is a transport that keeps what it is to send.
type recorder struct{ sent []*core.Message }

func (r *recorder) Send(messages []*core.Message, _ func()) { r.sent = append(r.sent, messages...) }

// The news that entries are committed waits for the next entries, which bring it, too.
func TestCommitsWaitForEntries(t *testing.T) {
	to := &recorder{}
	n := &Node{opts: Options{Transport: to}, late: map[core.NodeID]*core.Message{}, lateBy: time.NewTimer(time.Hour)}
	app := func(node core.NodeID, commit uint64, entries ...*raftpb.Entry) *core.Message {
		return &core.Message{Kind: core.KindRaft, To: node, Raft: &raftpb.Message{Type: raftpb.MsgApp.Enum(), Commit: &commit, Entries: entries}}
	}
	beat := &core.Message{Kind: core.KindRaft, To: 2, Raft: &raftpb.Message{Type: raftpb.MsgHeartbeat.Enum()}}
	first, second, other := app(2, 1), app(2, 2), app(3, 1)
	n.send(nil, []*core.Message{first, beat, other})
	require.Equal(t, []*core.Message{beat}, to.sent)
	n.send(nil, []*core.Message{second})
	with := app(3, 2, &raftpb.Entry{})
	n.send(nil, []*core.Message{with})
	require.Equal(t, []*core.Message{beat, with}, to.sent)
	n.sendLate()
	require.Equal(t, []*core.Message{beat, with, second}, to.sent, "the newest; the third node knows")
	n.sendLate()
	require.Len(t, to.sent, 3)
}

// Runs that wait for others to come become an entry in time, though none comes and nothing lands,
// whether they wait from the first moment on or were to become one at once.
func TestRunsDoNotWaitForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := vfs.NewMem()
		n := startAloneOn(t, mem, 100*time.Millisecond)
		gate := make(chan struct{}) // of the disk
		open := sync.OnceFunc(func() { close(gate) })
		defer open()
		mem.Inject(func(op vfs.Op, _ string) error {
			if op == vfs.OpSync {
				<-gate
			}
			return nil
		})
		const flights = 12
		answers := make(chan error, flights)
		add := func() {
			require.True(t, n.AppendRecords([]storage.Record{{Value: []byte("v")}}, func(_ uint64, a *core.Append) { answers <- a.Err }))
		}
		waiting := func() int {
			synctest.Wait()
			n.mu.Lock()
			defer n.mu.Unlock()
			return len(n.gathering.runs)
		}
		for i := range flights - 1 {
			add()
			if i >= gatherShare { // it is less than that part
				require.Equal(t, 1, waiting(), "append %d", i)
				<-time.After(maxGather)
			}
			require.Zero(t, waiting(), "append %d", i)
		}
		// One that is ripe when it comes, and is not any more when somebody sees to it.
		n.turn.Lock()
		n.gathering.inFlight += gatherShare - flights
		add()
		n.gathering.inFlight += flights - gatherShare
		n.turn.Unlock()
		<-time.After(maxGather)
		require.Zero(t, waiting())
		require.Empty(t, answers)
		open()
		for range flights {
			require.NoError(t, <-answers)
		}
		n.Stop()
	})
}

// However much there is to do for the core, its time passes, and it can be stopped.
func TestTimePassesUnderLoad(t *testing.T) {
	n := startAlone(t)
	var rounds atomic.Int64
	var again func(*core.Core)
	again = func(*core.Core) {
		if n.closing {
			return
		}
		rounds.Add(1)
		select {
		case n.inputs <- again: // there is always something
		default:
		}
	}
	require.NoError(t, n.submit(t.Context(), again))
	require.Eventually(t, func() bool {
		n.turn.Lock()
		defer n.turn.Unlock()
		return rounds.Load() > 10_000
	}, 20*time.Second, time.Millisecond)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		n.Stop()
	}()
	select {
	case <-stopped:
	case <-time.After(20 * time.Second):
		t.Fatal("it does not stop")
	}
}
