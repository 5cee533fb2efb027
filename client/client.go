package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zue-log/zue/net/wire"
	"github.com/zue-log/zue/storage/batch"
)

// Record is one record: its offset, its time, a key and a value that may be null, and
// headers. A nil Key or Value is the null one, which is not the same as an empty one.
type Record = batch.Record

// Client is a client of the servers of one log. It is safe for concurrent use. It keeps a
// connection to one of them, which all requests share but appends when that server does not
// lead: they have one to the leader. Each [Tail] and each [Client.Fetch] that waits has one
// more. A connection that is lost is made anew, there or at the next address, when it is
// needed.
//
// [Client.Close] must be called in any case.
type Client struct {
	addresses []string
	opts      Options
	main      *link // for all that any server answers
	lead      *link // for what only the leader does

	known atomic.Uint64 // an end offset that the log has had for sure

	closed  context.Context // ends with Close
	endLife context.CancelFunc
	tasks   sync.WaitGroup // those of spawn

	mu        sync.Mutex
	conns     []*conn // that may not have ended yet; nil once closed
	idle      []*link // for requests that may wait
	producers map[*Producer]struct{}
}

// maxIdle is how many connections are kept for requests that may wait.
const maxIdle = 4

// Dial connects to one of the servers at addresses ("host:port"; an IPv6 host stands in
// brackets): the first that can be connected to, each being tried once, and the next one also
// when one has said nothing for 250 ms. The address of one node of a cluster does; with
// several, the client begins, and goes on, when one is down. The context bounds the connecting
// only. The error is that of [Options.Validate], or has an [*OpError] for each address.
func Dial(ctx context.Context, addresses []string, opts Options) (*Client, error) {
	if err := opts.Validate(); err != nil {
		return nil, fmt.Errorf("client options: %w", err)
	}
	if len(addresses) == 0 {
		return nil, errors.New("client: no address to connect to")
	}
	c := &Client{
		addresses: slices.Clone(addresses), opts: opts.withDefaults(),
		conns: []*conn{}, producers: map[*Producer]struct{}{},
	}
	c.closed, c.endLife = context.WithCancel(context.Background())
	c.main = c.newLink()
	if _, err := c.main.connect(ctx, true); err != nil {
		_ = c.Close() // there is nothing to lose yet
		return nil, err
	}
	c.lead = c.newLink() // begins where main is
	c.main.peer, c.lead.peer = c.lead, c.main
	return c, nil
}

// Address returns the address of the server to which the client is connected, or which it
// will try next.
func (c *Client) Address() string { return c.main.address() }

// LeaderAddress returns the address of the server to which the client sends appends: of the one
// that leads, as far as it knows by what has become of those before.
func (c *Client) LeaderAddress() string { return c.lead.address() }

// Close closes all connections, producers and tails without waiting for answers: requests
// under way fail with [ErrClosed]. It returns when no goroutine of the client is left. It
// must not be called from a function given to [Producer.Send]. Further calls do nothing.
// The error is always nil.
func (c *Client) Close() error {
	c.endLife()
	c.mu.Lock()
	conns := c.conns
	c.conns, c.idle = nil, nil
	var producers []*Producer
	for p := range c.producers {
		producers = append(producers, p)
	}
	c.mu.Unlock()
	for _, cn := range conns {
		cn.Close()
	}
	for _, p := range producers {
		p.abort()
	}
	c.tasks.Wait()
	return nil
}

// spawn calls a function in a goroutine, for whose end Close waits; false if it is too late for
// that.
func (c *Client) spawn(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conns == nil {
		return false
	}
	c.tasks.Go(f)
	return true
}

// adopt has Close close a connection; false if it is too late for that.
func (c *Client) adopt(cn *conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conns == nil {
		return false
	}
	c.conns = slices.DeleteFunc(c.conns, func(old *conn) bool {
		select {
		case <-old.gone:
			return true
		default:
			return false
		}
	})
	c.conns = append(c.conns, cn)
	return true
}

// borrow returns a link for a request that may wait, and so would hold up others.
func (c *Client) borrow() *link {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.idle); n > 0 {
		l := c.idle[n-1]
		c.idle = c.idle[:n-1]
		return l
	}
	return c.newLink()
}

// giveBack ends a loan. A link with an answer due is of no use to others.
func (c *Client) giveBack(l *link, due bool) {
	c.mu.Lock()
	keep := !due && c.conns != nil && len(c.idle) < maxIdle
	if keep {
		c.idle = append(c.idle, l)
	}
	c.mu.Unlock()
	l.mu.Lock()
	cn := l.conn
	l.mu.Unlock()
	if !keep && cn != nil {
		cn.lose(errRetired) // nobody else uses it
		cn.hangUp()
	}
}

// do sends a request on a link, and again if it surely has done nothing and that is worth
// trying, until the context ends. What a server refuses because it does not lead goes to the
// leader, and only that.
func do[T any](ctx context.Context, l *link, r *request, parse func([]byte) (T, error)) (T, error) {
	var none T
	var p patience
	var before error // what has come of the attempt before
	for {
		cn, err := l.get(ctx)
		if err != nil {
			return none, newOpError(r.op, l.address(), r.offset, ErrNotApplied, after(err, before))
		}
		v, err := roundTrip(ctx, cn, r, parse)
		if err == nil {
			return v, nil
		}
		stop := ctx.Err()
		if stop != nil && errors.Is(err, stop) { // which says nothing against the server
			if before == nil || r.op != OpAppend || errors.Is(err, ErrMaybeApplied) {
				return none, err // of others it is not known whether this attempt was sent
			}
			return none, newOpError(r.op, cn.address, r.offset, ErrNotApplied, after(cause(err), before))
		}
		if l == l.client.main && refusedWith(err, wire.CodeNotLeader) {
			l = l.client.lead
		}
		if !l.client.worthRetrying(err) {
			if errors.Is(err, ErrElsewhere) {
				l.leave(cn, err) // the next request may go there
			}
			answered := errors.As(err, new(*wire.Error))
			if l.client.closed.Err() != nil && !answered && !errors.Is(err, ErrClosed) && !errors.Is(err, ErrMaybeApplied) {
				err = newOpError(r.op, cn.address, r.offset, ErrNotApplied, after(ErrClosed, cause(err)))
			}
			return none, err
		}
		if soon := l.leave(cn, err); stop == nil {
			stop = p.wait(ctx, l.client, soon)
		}
		before = cause(err)
		if stop != nil {
			return none, newOpError(r.op, cn.address, r.offset, ErrNotApplied, after(stop, before))
		}
	}
}

// after has an error say what went wrong before it, if anything did: why a request was still
// being tried when its context ended.
func after(err, before error) error {
	if before == nil {
		return err
	}
	return fmt.Errorf("%w, after: %w", err, before)
}

// refusedWith says whether an error is a server's refusal of that code.
func refusedWith(err error, code wire.Code) bool {
	var refusal *wire.Error
	return errors.As(err, &refusal) && refusal.Code == code
}

// cause returns what is behind an error of a request.
func cause(err error) error {
	if op := (*OpError)(nil); errors.As(err, &op) {
		return op.Err
	}
	return err
}

// worthRetrying says whether a request that failed may be sent again, and whether there
// is hope in that. Requests other than appends may always.
func (c *Client) worthRetrying(err error) bool {
	if c.opts.NoRetry || c.closed.Err() != nil || errors.Is(err, ErrMaybeApplied) || errors.Is(err, ErrProtocol) {
		return false
	}
	var refusal *wire.Error
	if errors.As(err, &refusal) {
		switch refusal.Code {
		case wire.CodeNotLeader, wire.CodeInsufficientISR, wire.CodeOverloaded:
			return true
		}
		return false
	}
	return true // the connection was lost, or given up
}

// Append appends a record and returns its offset. key and value may be reused when it
// returns; a nil key is the null key. Many appends at a time, from as many goroutines, go
// over one connection; [Producer] is for a loop of them.
//
// An append goes to the leader. One that surely was not carried out is made again, until the
// context ends: when its frame was not sent whole, or a server has refused it because it does
// not lead, has too few replicas in sync, or too many connections. All errors are
// [*OpError]s. When the context ends after the request was sent, it is not taken back, and
// the error is [ErrMaybeApplied]; so it is when leadership or the connection went meanwhile.
func (c *Client) Append(ctx context.Context, key, value []byte) (uint64, error) {
	r, err := appendRequest(key, value)
	if err != nil {
		return 0, newOpError(OpAppend, c.LeaderAddress(), 0, ErrNotApplied, err)
	}
	offset, err := do(ctx, c.lead, r, parseOffset)
	if err == nil {
		c.learn(offset + 1)
	}
	return offset, err
}

// learn notes an end offset that the log has.
func (c *Client) learn(end uint64) {
	for known := c.known.Load(); end > known && !c.known.CompareAndSwap(known, end); known = c.known.Load() {
	}
}

// behind says whether a server may have refused a read because it has not yet what is known to
// be in the log up to end.
func (c *Client) behind(err error, end uint64) bool {
	return refusedWith(err, wire.CodeInvalidOffset) && end <= c.known.Load() && !c.opts.NoRetry
}

func appendRequest(key, value []byte) (*request, error) {
	if err := wire.CheckRecord(key, value); err != nil {
		return nil, err
	}
	m := wire.AppendRequest{Key: key, Value: value}
	return &request{op: OpAppend, want: wire.TypeAppendResponse, size: m.Size(), encode: m.AppendTo}, nil
}

func parseOffset(payload []byte) (uint64, error) {
	m, err := wire.ParseAppendResponse(payload)
	return m.Offset, err
}

// Read reads the record at an offset. The context bounds it, with all attempts. The
// record's key and value are the caller's; it has no time and no headers, which
// [Client.Fetch] gives. What this client has appended, or [Client.Barrier] has shown it, it
// reads from the leader when its server does not have it yet. All errors are [*OpError]s; an
// offset that the log does not have is a *wire.Error.
func (c *Client) Read(ctx context.Context, offset uint64) (Record, error) {
	r := &request{
		op: OpRead, offset: offset, want: wire.TypeReadResponse, size: smallRequest,
		encode: infallible(wire.ReadRequest{Offset: offset}),
	}
	parse := func(payload []byte) (Record, error) {
		m, err := wire.ParseReadResponse(payload)
		if err != nil {
			return Record{}, err
		}
		return newRecord(offset, m), nil
	}
	rec, err := do(ctx, c.main, r, parse)
	if err != nil && c.behind(err, offset+1) {
		return do(ctx, c.lead, r, parse)
	}
	return rec, err
}

// infallible makes the encode function of a message that always fits in a frame.
func infallible(m interface{ AppendTo([]byte) []byte }) func([]byte) ([]byte, error) {
	return func(dst []byte) ([]byte, error) { return m.AppendTo(dst), nil }
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

// OffsetForTime returns the lowest offset whose record is of a time not before t, to the
// millisecond, and the end offset if there is none. All errors are [*OpError]s.
func (c *Client) OffsetForTime(ctx context.Context, t time.Time) (uint64, error) {
	ms := t.UnixMilli()
	if time.UnixMilli(ms).Before(t) {
		ms++
	}
	r := &request{
		op: OpOffsetForTime, want: wire.TypeOffsetForTimeResponse, size: smallRequest,
		encode: infallible(wire.OffsetForTimeRequest{Timestamp: ms}),
	}
	return do(ctx, c.main, r, func(payload []byte) (uint64, error) {
		m, err := wire.ParseOffsetForTimeResponse(payload)
		return m.Offset, err
	})
}

// Barrier returns an end offset that is not stale: all that was acknowledged, to anyone,
// before the call lies below it. A follower asks its leader for it; its own log may be behind
// it. All errors are [*OpError]s.
func (c *Client) Barrier(ctx context.Context) (uint64, error) {
	r := &request{op: OpBarrier, want: wire.TypeBarrierResponse, size: smallRequest, encode: infallible(wire.BarrierRequest{})}
	end, err := do(ctx, c.main, r, func(payload []byte) (uint64, error) {
		m, err := wire.ParseBarrierResponse(payload)
		return m.End, err
	})
	if err == nil {
		c.learn(end)
	}
	return end, err
}

// Status is how a server and its log are. A server may say more: see JSON.
type Status struct {
	wire.Status

	// Address is the server's, and JSON all that it has said.
	Address string `json:"-"`
	JSON    []byte `json:"-"`
}

// Status asks the server to which the client is connected how it is, and in a cluster how that
// is as this node sees it. All errors are [*OpError]s.
func (c *Client) Status(ctx context.Context) (Status, error) {
	r := &request{op: OpStatus, want: wire.TypeStatusResponse, size: smallRequest, encode: infallible(wire.StatusRequest{})}
	st, err := do(ctx, c.main, r, func(payload []byte) (Status, error) {
		m, err := wire.ParseStatusResponse(payload)
		if err != nil {
			return Status{}, err
		}
		st := Status{JSON: bytes.Clone(m.JSON)}
		if err := json.Unmarshal(m.JSON, &st); err != nil {
			return Status{}, fmt.Errorf("status: %w", err)
		}
		return st, nil
	})
	st.Address = c.Address()
	return st, err
}
