package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/zue-log/zue/net/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// frame returns a frame in several parts.
func frame(t wire.Type, parts ...string) net.Buffers {
	f := net.Buffers{make([]byte, wire.PeerHeaderSize)}
	for _, p := range parts {
		f = append(f, []byte(p))
	}
	if err := wire.SealPeerFrame(t, f); err != nil {
		panic(err)
	}
	return f
}

// got is a frame that a node has received.
type got struct {
	from    uint16
	typ     wire.Type
	payload string
}

// buffer is a log that may be read while it is written.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func (b *buffer) count(s string) int { return strings.Count(b.String(), s) }

// node is a node of a test, with a server that hands its peers over.
type node struct {
	*Transport
	log buffer // what its logger has been given

	mu          sync.Mutex
	got         []got
	unreachable map[uint16]int
}

func (n *node) received() []got {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]got(nil), n.got...)
}

func (n *node) lost(id uint16) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.unreachable[id]
}

// fabric is a network in memory. An address is a node's number.
type fabric struct {
	t     *testing.T
	tasks sync.WaitGroup

	mu    sync.Mutex
	nodes map[string]*node
	dials map[string]int
}

func newFabric(t *testing.T) *fabric {
	return &fabric{t: t, nodes: map[string]*node{}, dials: map[string]int{}}
}

var errNobody = errors.New("nobody is there")

func (f *fabric) dial(_ context.Context, address string) (net.Conn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dials[address]++
	n := f.nodes[address]
	if n == nil {
		return nil, errNobody
	}
	a, b := net.Pipe()
	f.tasks.Go(func() { serve(n.Transport, b) })
	return a, nil
}

// dialed returns how often an address was dialed.
func (f *fabric) dialed(address string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dials[address]
}

// serve does what a server does with a connection that begins with a peer hello.
func serve(t *Transport, conn net.Conn) error {
	dec := wire.NewDecoder(conn, wire.MaxLargeFrame)
	f, err := next(dec)
	if err != nil {
		conn.Close()
		return err
	}
	return t.Serve(conn, dec, f)
}

// options are those of a node that knows of others.
func (f *fabric) options(n *node, self uint16, others ...uint16) Options {
	n.unreachable = map[uint16]int{}
	o := Options{
		Self: self, Addresses: map[uint16]string{}, Dial: f.dial,
		Logger: slog.New(slog.NewTextHandler(&n.log, nil)),
		Receive: func(from uint16, fr wire.Frame, _ bool) error {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.got = append(n.got, got{from, fr.Type, string(fr.Payload)})
			return nil
		},
		Unreachable: func(to uint16) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.unreachable[to]++
		},
	}
	for _, id := range others {
		o.Addresses[id] = fmt.Sprint(id)
	}
	return o
}

// start starts a node, which is at an address of its number, or at another one.
func (f *fabric) start(n *node, o Options, address ...string) {
	var err error
	n.Transport, err = New(o)
	require.NoError(f.t, err)
	f.mu.Lock()
	f.nodes[append(address, fmt.Sprint(o.Self))[0]] = n
	f.mu.Unlock()
}

// stop ends a node.
func (f *fabric) stop(n *node) {
	f.mu.Lock()
	delete(f.nodes, fmt.Sprint(n.o.Self))
	f.mu.Unlock()
	n.Close()
}

// end ends all nodes.
func (f *fabric) end() {
	f.mu.Lock()
	nodes := f.nodes
	f.nodes = map[string]*node{}
	f.mu.Unlock()
	for _, n := range nodes {
		n.Close()
	}
	f.tasks.Wait()
}

// inBubble runs a test with time of its own, on a fabric.
func inBubble(t *testing.T, test func(t *testing.T, f *fabric)) {
	synctest.Test(t, func(t *testing.T) {
		f := newFabric(t)
		defer f.end()
		test(t, f)
	})
}

// wait lets time pass until nothing happens any more.
func wait(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func TestFramesArriveInOrderOnBothLanes(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fabric) {
		a, b, c := &node{}, &node{}, &node{}
		f.start(a, f.options(a, 1, 2, 3))
		f.start(b, f.options(b, 2, 1, 3))
		f.start(c, f.options(c, 3, 1, 2))
		wait(5 * time.Second)
		const n = 3000 // more than a system call writes
		for i := range n {
			require.True(t, a.Send(2, Bulk, frame(wire.TypeReplicate, fmt.Sprint(i), " bulk"), nil))
			require.True(t, a.Send(2, Urgent, frame(wire.TypeHeartbeat, fmt.Sprint(i), " urgent"), nil))
		}
		require.True(t, c.Send(2, Urgent, frame(wire.TypeHeartbeatResponse), nil))
		synctest.Wait()
		counts := map[string]int{}
		for _, g := range b.received() {
			switch g.typ {
			case wire.TypeReplicate:
				require.Equal(t, got{1, wire.TypeReplicate, fmt.Sprintf("%d bulk", counts["bulk"])}, g)
				counts["bulk"]++
			case wire.TypeHeartbeat:
				require.Equal(t, got{1, wire.TypeHeartbeat, fmt.Sprintf("%d urgent", counts["urgent"])}, g)
				counts["urgent"]++
			default:
				require.Equal(t, got{3, wire.TypeHeartbeatResponse, ""}, g)
			}
		}
		require.Equal(t, map[string]int{"bulk": n, "urgent": n}, counts)

		links := a.Links()
		require.Len(t, links, 2)
		require.EqualValues(t, 2, links[0].Node)
		require.Equal(t, "2", links[0].Address)
		bulk := links[0].Bulk
		require.True(t, bulk.Connected && bulk.Accepted)
		require.EqualValues(t, n, bulk.Sent)
		require.Zero(t, bulk.QueuedBytes+int(bulk.Dropped))
		require.EqualValues(t, 3, links[1].Node)
		from := b.Links()[0]
		require.EqualValues(t, 1, from.Node)
		require.Equal(t, bulk.Sent, from.Bulk.Received)
		require.Equal(t, bulk.SentBytes, from.Bulk.ReceivedBytes)
	})
}

func TestNothingIsSentTo(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fabric) {
		a := &node{}
		f.start(a, f.options(a, 1, 2))
		require.False(t, a.Send(3, Urgent, frame(wire.TypeHeartbeat), nil), "an unknown node")
		require.False(t, a.Send(1, Urgent, frame(wire.TypeHeartbeat), nil), "itself")
		require.False(t, a.Send(2, 2, frame(wire.TypeHeartbeat), nil), "a lane that there is not")
		for name, bad := range map[string]net.Buffers{
			"nothing":       nil,
			"no header":     {[]byte("1234")},
			"wrong length":  append(frame(wire.TypeHeartbeat), []byte("x")),
			"a client's":    {wire.ReadRequest{}.AppendTo(nil)},
			"not sealed":    {make([]byte, 100)},
			"far too large": {append([]byte{0xff, 0xff, 0xff, 0x7f, 0x10}, make([]byte, 100)...)},
		} {
			require.False(t, a.Send(2, Bulk, bad, nil), name)
		}
		require.EqualValues(t, 6, a.Links()[0].Bulk.Dropped)
		require.Contains(t, a.log.String(), "cannot be sent")
		a.Close()
		require.False(t, a.Send(2, Urgent, frame(wire.TypeHeartbeat), nil), "a transport that was closed")
		a.Close()
		conn, _ := net.Pipe()
		require.ErrorIs(t, a.Serve(conn, wire.NewDecoder(conn, 0), wire.Frame{}), ErrClosed)
	})
}

func TestValidate(t *testing.T) {
	_, err := New(Options{
		Self: 0, Addresses: map[uint16]string{0: "x", 2: ""}, MaxQueueBytes: -1, DialTimeout: -1, Backoff: -1, MaxBackoff: -1,
	})
	for _, want := range []string{"Self is 0", "node 0", "address of node 2 is empty", "Receive", "MaxQueueBytes", "DialTimeout", "Backoff is", "MaxBackoff is"} {
		require.ErrorContains(t, err, want)
	}
	_, err = New(Options{Self: 1, Addresses: map[uint16]string{1: "x"}, Receive: func(uint16, wire.Frame, bool) error { return nil }})
	require.ErrorContains(t, err, "node 1, which is this one")
}

// An error of Receive closes the connection, the other node says why, and comes again.
func TestReceiveRefuses(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fabric) {
		a, b := &node{}, &node{}
		f.start(a, f.options(a, 1, 2))
		o := f.options(b, 2, 1)
		receive := o.Receive
		o.Receive = func(from uint16, fr wire.Frame, more bool) error {
			if string(fr.Payload) == "bad" {
				return errors.New("not that")
			}
			return receive(from, fr, more)
		}
		f.start(b, o)
		wait(3 * time.Second)
		before := a.lost(2)
		require.True(t, a.Send(2, Bulk, frame(wire.TypeReplicate, "bad"), nil))
		synctest.Wait()
		require.Contains(t, a.log.String(), `node 2 has hung up: \"not that\"`)
		require.Equal(t, 1, a.lost(2)-before)
		wait(time.Second)
		require.True(t, a.Send(2, Bulk, frame(wire.TypeReplicate, "good"), nil))
		synctest.Wait()
		require.Equal(t, []got{{1, wire.TypeReplicate, "good"}}, b.received())
	})
}

// A node that is started anew is found again, and what waited is not sent to it.
func TestRestart(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fabric) {
		a, b := &node{}, &node{}
		f.start(b, f.options(b, 2, 1))
		f.start(a, f.options(a, 1, 2))
		wait(3 * time.Second)
		f.stop(b)
		synctest.Wait()
		require.False(t, a.Links()[0].Bulk.Connected)
		require.False(t, a.Links()[0].Bulk.Accepted)
		require.Equal(t, "node 2 has closed the connection", a.Links()[0].Bulk.LastError)
		require.Equal(t, 1, a.lost(2), "once for both lanes")
		require.True(t, a.Send(2, Bulk, frame(wire.TypeReplicate, "stale"), nil))
		wait(time.Minute)
		require.EqualValues(t, 1, a.Links()[0].Bulk.Dropped)
		b = &node{}
		f.start(b, f.options(b, 2, 1))
		wait(3 * time.Second)
		require.True(t, a.Send(2, Bulk, frame(wire.TypeReplicate, "fresh"), nil))
		synctest.Wait()
		require.Equal(t, []got{{1, wire.TypeReplicate, "fresh"}}, b.received())
		// A minute of failures, and two lanes: up, closed, nobody there, up.
		require.Equal(t, 2*4, a.log.count("\n"), a.log.String())
		require.Equal(t, 2, a.log.count(errNobody.Error()))
	})
}

// overTCP starts nodes 1 and 2 over TCP, with listeners as a server's. What comes to either goes to
// receive.
func overTCP(t *testing.T, receive func(from uint16, f wire.Frame)) (nodes [2]*Transport) {
	var listeners [2]net.Listener
	var tasks sync.WaitGroup
	for i := range listeners {
		var err error
		listeners[i], err = net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
	}
	for i := range nodes {
		var err error
		nodes[i], err = New(Options{
			Self: uint16(1 + i), Addresses: map[uint16]string{uint16(2 - i): listeners[1-i].Addr().String()}, Secret: []byte("secret"),
			Receive: func(from uint16, f wire.Frame, _ bool) error {
				receive(from, f)
				return nil
			},
		})
		require.NoError(t, err)
		tasks.Go(func() {
			for {
				conn, err := listeners[i].Accept()
				if err != nil {
					return
				}
				tasks.Go(func() { _ = serve(nodes[i], conn) })
			}
		})
	}
	t.Cleanup(func() {
		for i := range nodes {
			require.NoError(t, listeners[i].Close())
			nodes[i].Close()
		}
		tasks.Wait()
	})
	return nodes
}

// Over TCP frames of all sizes arrive.
func TestTCP(t *testing.T) {
	received := make(chan string, 100)
	nodes := overTCP(t, func(from uint16, f wire.Frame) {
		received <- fmt.Sprintf("%d %v %d", from, f.Type, len(f.Payload))
	})
	sizes := []int{0, 1, 1 << 10, 100 << 10, wire.MaxPeerFrame - 1}
	for _, size := range sizes {
		f := net.Buffers{make([]byte, wire.PeerHeaderSize), make([]byte, size)}
		require.NoError(t, wire.SealPeerFrame(wire.TypeReplicate, f))
		// At first what is sent may be dropped, since the other one does not listen yet.
		for sent := false; !sent; {
			require.True(t, nodes[0].Send(2, Bulk, f, nil))
			select {
			case r := <-received:
				require.Equal(t, fmt.Sprintf("1 replicate %d", size), r)
				sent = true
			case <-time.After(10 * time.Second):
				require.Equal(t, sizes[0], size)
			}
		}
	}
}

// A deadline of the link's goroutine that has passed is no reason for a sender to give the connection
// up.
func TestSendersWriteAfterADeadline(t *testing.T) {
	received := make(chan string, 100)
	nodes := overTCP(t, func(_ uint16, f wire.Frame) { received <- string(f.Payload) })
	long := strings.Repeat("x", 2*maxDirect)
	for sent := false; !sent; {
		nodes[0].Send(2, Bulk, frame(wire.TypeReplicate, long), nil)
		select {
		case <-received:
			sent = true
		case <-time.After(100 * time.Millisecond):
		}
	}
	l := nodes[0].peers[2].out[Bulk]
	require.Eventually(t, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return !l.writing
	}, 10*time.Second, time.Millisecond)
	l.mu.Lock()
	conn := l.conn
	l.mu.Unlock()
	dropped := l.t.Links()[0].Bulk.Dropped
	require.NoError(t, conn.SetWriteDeadline(time.Now().Add(-time.Second)))
	require.True(t, nodes[0].Send(2, Bulk, frame(wire.TypeReplicate, "short"), nil))
	select {
	case got := <-received:
		for got == long {
			got = <-received // of before
		}
		require.Equal(t, "short", got)
	case <-time.After(20 * time.Second):
		t.Fatal("it was dropped")
	}
	require.Equal(t, dropped, l.t.Links()[0].Bulk.Dropped)
}

// What its sender writes, as far as the connection takes it, and what the link's goroutine writes
// arrive as one sequence, whoever writes how much of a frame.
func TestSendersWrite(t *testing.T) {
	const n = 4000
	var open atomic.Bool
	gate, all := make(chan struct{}), make(chan struct{})
	next := 0
	nodes := overTCP(t, func(_ uint16, f wire.Frame) {
		if string(f.Payload) == "are you there?" {
			open.Store(true)
			return
		}
		<-gate // so that there is no room at some time, in the middle of a frame
		want := strings.Repeat(fmt.Sprintf("%5d", next), len(f.Payload)/5)
		if string(f.Payload) != want {
			t.Errorf("frame %d has %d bytes: %.20q", next, len(f.Payload), f.Payload)
		}
		if next++; next == n {
			close(all)
		}
	})
	require.Eventually(t, func() bool {
		nodes[0].Send(2, Bulk, frame(wire.TypeReplicate, "are you there?"), nil)
		return open.Load()
	}, 20*time.Second, 10*time.Millisecond)
	var done atomic.Int64
	for i := range n {
		size := 10 + i%700 // times 5 bytes; some are too long for a sender
		if i%50 == 0 {
			size = maxDirect
		}
		text := strings.Repeat(fmt.Sprintf("%5d", i), size)
		require.True(t, nodes[0].Send(2, Bulk, frame(wire.TypeReplicate, text[:len(text)/2], text[len(text)/2:]), func() { done.Add(1) }))
	}
	require.Less(t, done.Load(), int64(n), "the connection did not take all")
	close(gate)
	select {
	case <-all:
	case <-time.After(60 * time.Second):
		t.Fatal("not all have arrived")
	}
	require.Eventually(t, func() bool { return done.Load() == n }, 10*time.Second, time.Millisecond)
	link := nodes[0].Links()[0].Bulk
	require.Zero(t, link.QueuedBytes)
	require.GreaterOrEqual(t, link.Sent, uint64(n))
}

// A connection that Serve is given ends in one of three ways.
func TestServeReturns(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fabric) {
		b := &node{}
		f.start(b, f.options(b, 2, 1))
		dial := func() (net.Conn, chan error) {
			x, y := net.Pipe()
			done := make(chan error, 1)
			f.tasks.Go(func() { done <- serve(b.Transport, y) })
			return x, done
		}
		dialer := &Transport{o: Options{Self: 1}}
		first, firstDone := dial()
		_, err := dialer.greet(first, 2, Urgent)
		require.NoError(t, err)
		second, secondDone := dial()
		_, err = dialer.greet(second, 2, Urgent)
		require.NoError(t, err)
		require.NoError(t, <-firstDone, "it was replaced")
		_, err = first.Read(make([]byte, 1))
		require.Equal(t, io.EOF, err)
		require.True(t, b.Links()[0].Urgent.Accepted)

		// A stranger replaces nobody.
		third, thirdDone := dial()
		_, err = (&Transport{o: Options{Self: 1, Secret: []byte("x")}}).greet(third, 2, Urgent)
		require.ErrorContains(t, err, "this node has a cluster secret, and node 2 sent no proof")
		require.ErrorContains(t, <-thirdDone, "node 1 has a cluster secret, and node 2 sent no proof")
		synctest.Wait()
		require.Empty(t, secondDone)
		require.True(t, b.Links()[0].Urgent.Accepted)

		_, err = second.Write([]byte{1, 0, 0})
		require.NoError(t, err)
		require.NoError(t, second.Close())
		require.ErrorIs(t, <-secondDone, io.ErrUnexpectedEOF)
		require.False(t, b.Links()[0].Urgent.Accepted)

		fourth, fourthDone := dial()
		_, err = dialer.greet(fourth, 2, Bulk)
		require.NoError(t, err)
		synctest.Wait()
		require.NoError(t, fourth.Close())
		require.NoError(t, <-fourthDone)

		fifth, fifthDone := dial()
		_, err = dialer.greet(fifth, 2, Bulk)
		require.NoError(t, err)
		f.stop(b)
		require.ErrorIs(t, <-fifthDone, ErrClosed)
	})
}
