package client

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/zue-log/zue/net/wire"
)

// Record is what the log holds at an offset.
type Record struct {
	// Offset is the number of the record in the log, from 0.
	Offset uint64
	// Key is nil for the null key, which is not the same as an empty key.
	Key []byte
	// Value may be empty.
	Value []byte
}

// Client is one connection to one server. It is safe for concurrent use.
//
// When the connection is lost, all requests under way and all later ones fail; a
// new Client is to be dialled. [Client.Close] must be called in any case.
type Client struct {
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

	closing sync.Once
	tasks   sync.WaitGroup // the sender and the receiver

	mu       sync.Mutex
	err      error // why the connection is of no more use; set once
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

// Dial connects to the server at address ("host:port"; an IPv6 host stands in
// brackets). The context bounds the connecting only. The error is an [*OpError],
// or what [Options.Validate] says.
func Dial(ctx context.Context, address string, opts Options) (*Client, error) {
	if err := opts.Validate(); err != nil {
		return nil, fmt.Errorf("client options: %w", err)
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, &OpError{Op: OpDial, Address: address, Err: err}
	}
	return newClient(conn, address, opts), nil
}

func newClient(conn net.Conn, address string, opts Options) *Client {
	c := &Client{
		address: address,
		conn:    conn,
		opts:    opts.withDefaults(),
		turn:    make(chan struct{}, 1),
		space:   make(chan struct{}, 1),
		wake:    make(chan struct{}, 1),
		down:    make(chan struct{}),
	}
	senderDone := make(chan struct{})
	c.tasks.Go(func() {
		defer close(senderDone)
		c.sendAll()
	})
	c.tasks.Go(func() { c.receiveAll(senderDone) })
	return c
}

// Address returns the server's address as it was given to Dial.
func (c *Client) Address() string { return c.address }

// Done returns a channel that is closed when the connection is lost or the client
// closed: from then on all new requests fail. Those under way may still get their
// answers, for a moment. [Client.Err] says why.
func (c *Client) Done() <-chan struct{} { return c.down }

// Err returns nil while the connection is up, and why it is not once
// [Client.Done] is closed: [ErrClosed] after Close, [ErrStalled], [ErrProtocol] or
// what happened to the connection. It stays the same from then on.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close closes the connection without waiting for answers: requests under way
// fail with [ErrClosed]. It returns when all of them have, and when no goroutine of
// the client is left. It must not be called from a function given to
// [Client.AppendAsync]. Further calls do nothing. The error is always nil.
func (c *Client) Close() error {
	c.lose(ErrClosed)
	c.hangUp()
	c.tasks.Wait()
	return nil
}

// Append appends a record and returns its offset. key and value may be reused when
// it returns; a nil key is the null key.
//
// The context bounds the waiting. When it ends after the request was queued, the
// request is not taken back, and the error is [ErrMaybeApplied]. All errors are
// [*OpError]s.
func (c *Client) Append(ctx context.Context, key, value []byte) (uint64, error) {
	type result struct {
		offset uint64
		err    error
	}
	answer := make(chan result, 1)
	err := c.AppendAsync(ctx, key, value, func(offset uint64, err error) { answer <- result{offset, err} })
	if err != nil {
		return 0, err
	}
	select {
	case r := <-answer:
		return r.offset, r.err
	case <-ctx.Done():
	}
	select {
	case r := <-answer: // both happened, and this one says more
		return r.offset, r.err
	default:
		return 0, c.appendError(ErrMaybeApplied, ctx.Err())
	}
}

// AppendAsync queues a record to be appended, and calls done with its offset or
// its error when that is known. key and value may be reused when AppendAsync
// returns; a nil key is the null key.
//
// It waits while [Options.MaxInFlight] or [Options.MaxInFlightBytes] are reached;
// the context bounds that waiting only. When it returns an error, an [*OpError]
// with [ErrNotApplied], the record was not queued and done is not called.
// Otherwise done is called exactly once, also when the connection is lost or the
// client closed.
//
// Records queued by one goroutine reach the log in that order, and done is called
// in that order, from a goroutine of the client that receives nothing meanwhile:
// done must be quick. It must not call AppendAsync, [Client.Append], [Client.Read]
// or [Client.Close] of the same client, nor wait for what does: these wait for that
// goroutine, so done would wait for itself. A panic in done ends the program; with
// [runtime.Goexit], which t.FailNow calls, done gives the connection up.
func (c *Client) AppendAsync(ctx context.Context, key, value []byte, done func(offset uint64, err error)) error {
	if err := wire.CheckRecord(key, value); err != nil {
		return c.appendError(ErrNotApplied, err)
	}
	q := call{
		want: wire.TypeAppendResponse, appended: done,
		size: wire.AppendRequest{Key: key, Value: value}.Size(),
	}
	if err := c.submit(ctx, q, key, value); err != nil {
		return c.appendError(ErrNotApplied, err)
	}
	return nil
}

// Read reads the record at an offset. The context bounds the waiting. The record's
// key and value are the caller's. All errors are [*OpError]s; an offset that the
// log does not have is a *wire.Error.
func (c *Client) Read(ctx context.Context, offset uint64) (Record, error) {
	type result struct {
		record Record
		err    error
	}
	answer := make(chan result, 1)
	q := call{
		want: wire.TypeReadResponse, offset: offset,
		size: wire.ReadRequest{Offset: offset}.Size(),
		read: func(record Record, err error) { answer <- result{record, err} },
	}
	if err := c.submit(ctx, q, nil, nil); err != nil {
		return Record{}, c.readError(offset, err)
	}
	select {
	case r := <-answer:
		return r.record, r.err
	case <-ctx.Done():
	}
	select {
	case r := <-answer:
		return r.record, r.err
	default:
		return Record{}, c.readError(offset, ctx.Err())
	}
}

// submit waits until there is room for a call, encodes its request and queues it.
// key and value are those of an append. An error says that nothing was queued.
func (c *Client) submit(ctx context.Context, q call, key, value []byte) error {
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
	for !c.hasRoom(q.size) {
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
	if q.read != nil {
		c.out = wire.ReadRequest{Offset: q.offset}.AppendTo(c.out)
	} else {
		out, err := wire.AppendRequest{Key: key, Value: value}.AppendTo(c.out)
		if err != nil {
			return err
		}
		c.out = out
	}
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
func (c *Client) hasRoom(size int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.queue.count == 0 {
		return true
	}
	return c.queue.count < c.opts.MaxInFlight && size <= c.opts.MaxInFlightBytes-c.inFlight
}

func (c *Client) appendError(outcome, err error) error {
	return &OpError{Op: OpAppend, Address: c.address, Outcome: outcome, Err: err}
}

func (c *Client) readError(offset uint64, err error) error {
	return &OpError{Op: OpRead, Address: c.address, Offset: offset, Err: err}
}

// newRecord copies a record out of the receiver's buffer, in one allocation.
func newRecord(offset uint64, m wire.ReadResponse) Record {
	r := Record{Offset: offset}
	both := bytes.Join([][]byte{m.Key, m.Value}, nil)
	if m.Key != nil {
		r.Key = both[:len(m.Key):len(m.Key)]
	}
	r.Value = both[len(m.Key):]
	return r
}

// signal leaves a signal in a channel of capacity 1, unless one is there already.
func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
