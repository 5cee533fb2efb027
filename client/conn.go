package client

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// conn is one connection to one server, on which requests are pipelined. It is safe
// for concurrent use. When it is lost, all requests under way and all later ones fail.
type conn struct {
	address string
	conn    net.Conn
	opts    Options

	// turn is held by the one request that is being put into the queue, and by
	// it alone while it waits for room: others stand in line behind it, so that
	// small requests cannot starve a large one.
	turn  chan struct{}
	space chan struct{} // a signal of capacity 1: there may be room
	wake  chan struct{} // a signal of capacity 1: there is something to send
	down  chan struct{} // closed once err is set
	gone  chan struct{} // closed when all calls have ended

	closing sync.Once
	tasks   sync.WaitGroup // the sender and the receiver

	mu       sync.Mutex
	err      error // why the connection is of no more use; set once
	retired  bool  // it takes no more requests, and ends with the last
	queue    callQueue
	inFlight int    // bytes of the frames of all calls in the queue
	out      []byte // frames to be sent
	queued   uint64 // bytes ever put into out
	offered  uint64 // bytes ever given to the connection to be sent
	sent     uint64 // bytes ever taken by the connection

	deadline   time.Time // of receiving; the zero time is none
	lookedLate bool      // after the connection was lost, see lookOnceMore

	// taken are the calls whose answers are at hand, in order, of which the first
	// ended have had theirs. Both are the receiver's own.
	taken []call
	ended int
}

// errRetired is why a connection takes no more requests that has been given up for
// another.
var errRetired = errors.New("the connection has been given up for one to another server")

// dialConn connects to the server at address. The context bounds the connecting only.
func dialConn(ctx context.Context, address string, opts Options) (*conn, error) {
	dial := opts.Dial
	if dial == nil {
		dial = dialTCP
	}
	nc, err := dial(ctx, address)
	if err != nil {
		return nil, &OpError{Op: OpDial, Address: address, Err: err}
	}
	return newConn(nc, address, opts), nil
}

// newConn makes a conn of a connection, with options whose StallTimeout 0 is no limit.
func newConn(nc net.Conn, address string, opts Options) *conn {
	c := &conn{
		address: address,
		conn:    nc,
		opts:    opts.withWindow(),
		turn:    make(chan struct{}, 1),
		space:   make(chan struct{}, 1),
		wake:    make(chan struct{}, 1),
		down:    make(chan struct{}),
		gone:    make(chan struct{}),
	}
	senderDone := make(chan struct{})
	c.tasks.Go(func() {
		defer close(senderDone)
		c.sendAll()
	})
	c.tasks.Go(func() { c.receiveAll(senderDone) })
	return c
}

// Err returns nil while the connection is up, and why it is not once down is closed.
func (c *conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// usable says whether a new request has a chance.
func (c *conn) usable() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err == nil && !c.retired
}

// Close closes the connection without waiting for answers: requests under way fail
// with ErrClosed. It returns when all of them have, and when no goroutine is left, so
// it must not be called from a waiter.
func (c *conn) Close() {
	c.lose(ErrClosed)
	c.hangUp()
	c.tasks.Wait()
}

// retire has the connection take no more requests, and end when those under way have
// their answers. It does not wait for that.
func (c *conn) retire() {
	c.mu.Lock()
	c.retired = true
	idle := c.queue.count == 0
	c.mu.Unlock()
	if idle {
		c.lose(errRetired)
		c.hangUp()
	}
}

// start queues a request whose answer w will get. It waits while the window is full;
// the context bounds that waiting only. When it returns an error, an *OpError, nothing
// was queued, and w gets nothing.
//
// Requests queued by one goroutine are carried out, and answered, in that order. w must
// be quick, and must not wait for another request of this conn, or for its Close: these
// wait for the goroutine that calls it. With runtime.Goexit, which t.FailNow calls, it
// gives the connection up.
func (c *conn) start(ctx context.Context, r *request, w waiter) error {
	if err := c.submit(ctx, r, w); err != nil {
		return c.opError(r.op, r.offset, ErrNotApplied, err)
	}
	return nil
}

// roundTrip sends a request and waits for its answer. When the context ends before that
// comes, the request is not taken back.
func roundTrip[T any](ctx context.Context, c *conn, r *request, parse func([]byte) (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	var none T
	answer := make(chan result, 1)
	w := &waiting[T]{parse, func(value T, err error) { answer <- result{value, err} }}
	if err := c.start(ctx, r, w); err != nil {
		return none, err
	}
	select {
	case a := <-answer:
		return a.value, a.err
	case <-ctx.Done():
	}
	select {
	case a := <-answer: // both happened, and this one says more
		return a.value, a.err
	default:
		return none, c.opError(r.op, r.offset, ErrMaybeApplied, ctx.Err())
	}
}

// submit waits until there is room for a request, encodes and queues it. An error says
// that nothing was queued.
func (c *conn) submit(ctx context.Context, r *request, w waiter) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-c.down:
		return c.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
	for !c.hasRoom(r.size) {
		select {
		case <-c.space:
		case <-c.down:
			return c.Err()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	if c.retired {
		return errRetired
	}
	before := len(c.out)
	out, err := r.encode(c.out)
	if err != nil {
		return err
	}
	c.out = out
	q := call{op: r.op, offset: r.offset, want: r.want, size: len(out) - before, waiter: w}
	c.queued += uint64(q.size)
	q.end = c.queued
	c.queue.push(q)
	c.inFlight += q.size
	if c.queue.count == 1 {
		c.expectProgress()
	}
	signal(c.wake)
	return nil
}

// hasRoom reports whether a frame of this size may be queued. While c.turn is held,
// true stays true.
func (c *conn) hasRoom(size int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.queue.count == 0 {
		return true
	}
	return c.queue.count < c.opts.MaxInFlight && size <= c.opts.MaxInFlightBytes-c.inFlight
}

// opError makes an error of a cause; outcome is for appends.
func (c *conn) opError(op Op, offset uint64, outcome, err error) error {
	return newOpError(op, c.address, offset, outcome, err)
}

// signal leaves a signal in a channel of capacity 1, unless one is there already.
func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
