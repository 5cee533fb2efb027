package transport

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zue-log/zue/net/wire"
)

// Lane is one of the two connections by which a node sends to another one.
type Lane = wire.Lane

// The lanes.
const (
	// Urgent is for what is small and must not wait: votes, heartbeats.
	Urgent = wire.LaneUrgent
	// Bulk is for entries.
	Bulk = wire.LaneBulk
)

// Defaults of [Options].
const (
	DefaultMaxQueueBytes = 64 << 20
	DefaultDialTimeout   = 2 * time.Second
	DefaultBackoff       = 20 * time.Millisecond
	DefaultMaxBackoff    = time.Second
)

const (
	// handshakeTimeout is how long a handshake may take, after the hello.
	handshakeTimeout = 5 * time.Second
	// stallTimeout is how long the other end may take nothing of what it is sent.
	stallTimeout = 10 * time.Second
	// reportPause is the least time between two calls of Unreachable for a peer.
	reportPause = 100 * time.Millisecond
	// urgentShare is which part of MaxQueueBytes the urgent lane has.
	urgentShare = 16
	// frameCost is what a frame takes of MaxQueueBytes beside its bytes: about what it takes
	// of memory.
	frameCost = 128
	// maxHandshakeFrame is the greatest length field in a handshake: that of an error.
	maxHandshakeFrame = 4 << 10
)

// ErrClosed is returned by [Transport.Serve] after [Transport.Close].
var ErrClosed = errors.New("transport has been closed")

// Options configure a [Transport].
type Options struct {
	// Self is this node's number, not 0, and Addresses are those of all others, as Dial
	// takes them.
	Self      uint16
	Addresses map[uint16]string
	// Secret is the cluster's, which all nodes must have, or none; it should be random, of
	// 16 bytes or more. See the package's documentation for what it does not do.
	Secret []byte

	// Receive is called with each frame that a node sends: in order, and one at a time, for
	// each node and lane. Its types are those of [wire.Type.IsPeer]. The payload is valid until
	// Receive returns. While it blocks, that lane is not read from; the other node gives the
	// connection up after 10 s, and makes another one. An error closes the connection. It must
	// return when Close is called, or Close would wait for it. More says that another frame, or
	// the beginning of one, has arrived on that lane already.
	Receive func(from uint16, f wire.Frame, more bool) error
	// Unreachable is called when a connection to a node was lost, or could not be made, or
	// frames for it were dropped: by a goroutine for each node, at most once in 100 ms. It
	// must return when Close is called. Default: nothing is.
	Unreachable func(to uint16)
	// Logger gets a line when a link has come up for good (that is, for MaxBackoff), when it
	// is down for another reason than the last time, and when a node is refused. Default:
	// none.
	Logger *slog.Logger

	// MaxQueueBytes bounds the frames that wait to be sent to a node on the bulk lane, with
	// 128 bytes for each; the urgent lane may have a sixteenth of it. A single frame is taken
	// whatever its size. Default: [DefaultMaxQueueBytes].
	MaxQueueBytes int
	// Dial connects to an address within DialTimeout. Default: TCP.
	Dial func(ctx context.Context, address string) (net.Conn, error)
	// DialTimeout is how long to wait for a connection. Default: [DefaultDialTimeout].
	DialTimeout time.Duration
	// Backoff is about how long to wait after the first failure to connect, twice as long
	// after each one more, and MaxBackoff the most. Half of it is left to chance. Defaults:
	// [DefaultBackoff], [DefaultMaxBackoff].
	Backoff, MaxBackoff time.Duration
}

// Validate reports every fault of o at once.
func (o *Options) Validate() error {
	var errs []error
	fault := func(is bool, format string, args ...any) {
		if is {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	fault(o.Self == 0, "Self is 0: want a node's number")
	for _, id := range sorted(o.Addresses) {
		fault(id == 0, "there is an address of node 0")
		fault(id == o.Self && id != 0, "there is an address of node %d, which is this one", id)
		fault(o.Addresses[id] == "", "the address of node %d is empty", id)
	}
	fault(o.Receive == nil, "Receive must be set")
	fault(o.MaxQueueBytes < 0, "MaxQueueBytes is %d: want more than 0, or 0 for %d", o.MaxQueueBytes, DefaultMaxQueueBytes)
	fault(o.DialTimeout < 0, "DialTimeout is %v: want more than 0, or 0 for %v", o.DialTimeout, DefaultDialTimeout)
	fault(o.Backoff < 0, "Backoff is %v: want more than 0, or 0 for %v", o.Backoff, DefaultBackoff)
	fault(o.MaxBackoff < 0, "MaxBackoff is %v: want more than 0, or 0 for %v", o.MaxBackoff, DefaultMaxBackoff)
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("transport options: %w", err)
	}
	return nil
}

func (o *Options) setDefaults() {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Dial == nil {
		o.Dial = dialTCP
	}
	setDefault(&o.MaxQueueBytes, DefaultMaxQueueBytes)
	setDefault(&o.DialTimeout, DefaultDialTimeout)
	setDefault(&o.Backoff, DefaultBackoff)
	setDefault(&o.MaxBackoff, DefaultMaxBackoff)
}

func setDefault[T int | time.Duration](v *T, value T) {
	if *v == 0 {
		*v = value
	}
}

func sorted[V any](m map[uint16]V) []uint16 {
	ids := make([]uint16, 0, len(m))
	for id := range m {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// Transport has a link to each other node. Its methods may be called concurrently.
type Transport struct {
	o     Options
	peers map[uint16]*peer
	ctx   context.Context // ends with Close
	end   context.CancelFunc
	tasks sync.WaitGroup // goroutines, and calls of Serve

	mu       sync.Mutex
	closed   bool
	conns    map[net.Conn]struct{} // all that are open, for Close
	served   uint64                // how many connections Serve was given
	refusals refusals
}

// peer is another node.
type peer struct {
	id      uint16
	address string
	out     [wire.Lanes]*link
	in      [wire.Lanes]incoming
	lost    chan struct{} // has one when Unreachable is to be called
}

// incoming is what comes from a peer on a lane.
type incoming struct {
	// Guarded by Transport.mu. The connection is nil if there is none.
	conn     net.Conn
	order    uint64        // which connection of all it is
	replaced chan struct{} // is closed when another one takes its place

	turn            chan struct{} // has one while a connection is received from
	received, bytes atomic.Uint64
}

// New begins to dial all other nodes. The error is that of [Options.Validate].
func New(o Options) (*Transport, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	o.setDefaults()
	t := &Transport{o: o, peers: map[uint16]*peer{}, conns: map[net.Conn]struct{}{}, refusals: refusals{}}
	t.ctx, t.end = context.WithCancel(context.Background())
	for id, address := range o.Addresses {
		p := &peer{id: id, address: address, lost: make(chan struct{}, 1)}
		for lane := range Lane(wire.Lanes) {
			p.out[lane] = newLink(t, p, lane)
			p.in[lane].turn = make(chan struct{}, 1)
		}
		t.peers[id] = p
	}
	for _, p := range t.peers {
		for _, l := range p.out {
			t.tasks.Go(l.run)
		}
		if o.Unreachable != nil {
			t.tasks.Go(func() { t.report(p) })
		}
	}
	return t, nil
}

// Send has a frame sent to a node, behind those that were sent on that lane before. It never
// blocks. False says that it was dropped: there is no room, the node is unknown, what was given
// is no frame that nodes send (see [wire.SealPeerFrame]), or the transport has been closed. True
// does not say that it will arrive.
//
// The parts of the frame are one frame together. They, and what they point to, must stay
// unchanged until they have been written or dropped, and may be shared. If true was returned and
// done is not nil, it is called then, once: perhaps before Send returns. It must be quick, and
// must not call the transport.
func (t *Transport) Send(to uint16, lane Lane, frame net.Buffers, done func()) bool {
	p := t.peers[to]
	if p == nil || lane >= wire.Lanes {
		return false
	}
	return p.out[lane].send(frame, done)
}

// report calls Unreachable for a peer.
func (t *Transport) report(p *peer) {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-pause.C:
		case <-t.ctx.Done():
			return
		}
		select {
		case <-p.lost:
			t.o.Unreachable(p.id)
		case <-t.ctx.Done():
			return
		}
		pause.Reset(reportPause)
	}
}

// unreachable has Unreachable called.
func (p *peer) unreachable() {
	select {
	case p.lost <- struct{}{}:
	default: // it will be
	}
}

// Link is how the two lanes to, and from, another node are.
type Link struct {
	Node    uint16
	Address string
	Urgent  LaneStatus
	Bulk    LaneStatus
}

// LaneStatus is how one lane is. The counts are since the transport was made.
type LaneStatus struct {
	// Connected says that the other node takes what it is sent, and Accepted that it may send
	// here.
	Connected, Accepted bool
	// LastError is why there is no connection to the other node, or, if there is one, why
	// there was none before; empty if there always was.
	LastError string
	// QueuedBytes are those of frames that wait to be written.
	QueuedBytes int
	// Frames and bytes that were written, that have come, and frames that were dropped.
	Sent, SentBytes, Received, ReceivedBytes, Dropped uint64
}

// Links returns how the links to all other nodes are, in order of their numbers.
func (t *Transport) Links() []Link {
	links := make([]Link, 0, len(t.peers))
	for _, id := range sorted(t.peers) {
		p := t.peers[id]
		links = append(links, Link{Node: id, Address: p.address, Urgent: t.status(p, Urgent), Bulk: t.status(p, Bulk)})
	}
	return links
}

func (t *Transport) status(p *peer, lane Lane) LaneStatus {
	s := p.out[lane].status()
	in := &p.in[lane]
	s.Received, s.ReceivedBytes = in.received.Load(), in.bytes.Load()
	t.mu.Lock()
	s.Accepted = in.conn != nil
	t.mu.Unlock()
	return s
}

// Close closes all connections, drops what waits, and returns when all goroutines have ended,
// and all calls of Serve, Receive and Unreachable have returned: none of these may call it.
func (t *Transport) Close() {
	t.end() // first, so that nobody takes what follows for a fault
	t.mu.Lock()
	t.closed = true
	for conn := range t.conns {
		_ = conn.Close()
	}
	t.mu.Unlock()
	t.tasks.Wait()
	for _, p := range t.peers {
		for _, l := range p.out {
			l.close()
		}
	}
}

// track has Close close a connection. It returns false if that has been called, and the
// connection is closed.
func (t *Transport) track(conn net.Conn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		_ = conn.Close()
		return false
	}
	t.conns[conn] = struct{}{}
	return true
}

// release closes a connection.
func (t *Transport) release(conn net.Conn) {
	_ = conn.Close()
	t.mu.Lock()
	delete(t.conns, conn)
	t.mu.Unlock()
}
