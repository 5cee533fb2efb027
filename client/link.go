package client

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/zue-log/zue/net/wire"
)

// link is a connection that is made anew when it is lost, to one of the client's
// addresses or to the one that a server has named as the leader's. It is safe for
// concurrent use.
type link struct {
	client *Client
	peer   *link         // nil, or one whose connection it takes if that is to where it would go
	turn   chan struct{} // held by whoever connects

	mu     sync.Mutex
	conn   *conn     // nil, or the last one; it may be of no more use
	next   int       // which of the client's addresses is to be tried
	leader string    // to be tried before that, unless ""
	since  time.Time // since when no attempt to connect has succeeded; zero: the last one has
}

func (c *Client) newLink() *link {
	l := &link{client: c, turn: make(chan struct{}, 1)}
	if c.main != nil {
		c.main.mu.Lock()
		defer c.main.mu.Unlock()
		l.next, l.leader = c.main.next, c.main.leader
	}
	return l
}

// current returns the connection if it is up, else nil.
func (l *link) current() *conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn != nil && l.conn.usable() {
		return l.conn
	}
	return nil
}

// address is where the link is connected, or will try to.
func (l *link) address() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.targets()[0].address
}

// target is an address to be tried.
type target struct {
	address string
	listed  int // which of the client's addresses it is; -1: it is the leader's, and none of them
}

// targets returns the addresses to be tried, in order. l.mu is held.
func (l *link) targets() []target {
	addresses := l.client.addresses
	targets := make([]target, 0, len(addresses)+1)
	if l.leader != "" {
		targets = append(targets, target{l.leader, -1})
	}
	for i := range addresses {
		n := (l.next + i) % len(addresses)
		targets = append(targets, target{addresses[n], n})
	}
	return targets
}

// get returns a connection that is up, as far as is known. It connects if there is none,
// and goes on trying until ctx ends; with Options.NoRetry, once at each address.
func (l *link) get(ctx context.Context) (*conn, error) {
	return l.connect(ctx, l.client.opts.NoRetry)
}

// connect is get that tries each address once, or until ctx ends. When ctx has ended, its
// error is in the tree of what is returned, whatever else went wrong.
func (l *link) connect(ctx context.Context, once bool) (*conn, error) {
	if c := l.current(); c != nil {
		return c, nil
	}
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-l.client.closed.Done():
		return nil, ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if c := l.current(); c != nil {
		return c, nil
	}
	l.mu.Lock()
	if l.conn != nil { // it was lost; perhaps its server was, too
		l.conn = nil
		l.advance()
	}
	l.mu.Unlock()
	var last error // of the round before
	for {
		c, err := l.round(ctx)
		if err == nil || errors.Is(err, ErrClosed) {
			return c, err
		}
		stop := ended(ctx)
		if stop != nil && last != nil {
			return nil, after(stop, last)
		}
		if stop != nil && !errors.Is(err, stop) {
			err = after(stop, err)
		}
		if stop != nil || once {
			return nil, err
		}
		l.mu.Lock()
		since := l.since
		l.mu.Unlock()
		if stop := l.client.pause(ctx, since); stop != nil {
			return nil, after(stop, err)
		}
		last = err
	}
}

// ended returns why a context has ended, or nil. Its deadline counts when it has passed: what
// dials has the same one, and may see it before the context does, as "i/o timeout".
func ended(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if deadline, ok := ctx.Deadline(); ok && !time.Now().Before(deadline) {
		return context.DeadlineExceeded
	}
	return nil
}

// joined is errors.Join that leaves a single error as it is.
func joined(errs []error) error {
	if len(errs) == 1 {
		return errs[0]
	}
	return errors.Join(errs...)
}

// headStart is how long an attempt to connect goes on alone: a machine that is down answers
// nothing, and the next address need not wait for DialTimeout because of it.
const headStart = 250 * time.Millisecond

// dialled is what has come of an attempt to connect.
type dialled struct {
	target int
	conn   *conn
	shared bool // it is the peer's
	err    error
}

// round tries each target once, and takes the first connection that comes about. The next
// one is begun when one has failed, or has come to nothing for headStart.
func (l *link) round(ctx context.Context) (*conn, error) {
	l.mu.Lock()
	targets := l.targets()
	l.mu.Unlock()
	dialling, cancel := context.WithCancel(ctx)
	defer context.AfterFunc(l.client.closed, cancel)()
	defer cancel() // of those that are too late
	results := make(chan dialled, len(targets))
	errs := make([]error, len(targets))
	next := time.NewTimer(0)
	defer next.Stop()
	begun, over := 0, 0
	for over < begun || begun == 0 || begun < len(targets) && ctx.Err() == nil {
		select {
		case <-next.C:
			if begun == len(targets) || begun > 0 && ctx.Err() != nil {
				continue
			}
			t := begun
			begun++
			next.Reset(headStart)
			if c := l.shared(targets[t].address); c != nil {
				results <- dialled{target: t, conn: c, shared: true}
			} else if !l.client.spawn(func() { results <- l.dial(dialling, t, targets[t].address) }) {
				return nil, ErrClosed
			}
		case d := <-results:
			over++
			if d.err == nil {
				l.abandon(results, begun-over)
				return l.take(d.conn, targets[d.target]), nil
			}
			errs[d.target] = d.err
			next.Reset(0)
		}
	}
	if l.client.closed.Err() != nil {
		return nil, ErrClosed
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leader = ""
	if l.since.IsZero() {
		l.since = time.Now()
	}
	return nil, joined(slices.DeleteFunc(errs, func(err error) bool { return err == nil }))
}

// shared returns the peer's connection if it is to an address, else nil.
func (l *link) shared(address string) *conn {
	if l.peer == nil {
		return nil
	}
	if c := l.peer.current(); c != nil && c.address == address {
		return c
	}
	return nil
}

// dial makes one attempt to connect.
func (l *link) dial(ctx context.Context, target int, address string) dialled {
	ctx, cancel := context.WithTimeout(ctx, l.client.opts.DialTimeout)
	defer cancel()
	c, err := dialConn(ctx, address, l.client.opts)
	if err == nil && !l.client.adopt(c) {
		c.Close()
		err = ErrClosed
	}
	return dialled{target: target, conn: c, err: err}
}

// abandon closes what so many attempts may still bring that are under way.
func (l *link) abandon(results <-chan dialled, underWay int) {
	if underWay == 0 {
		return
	}
	l.client.spawn(func() { // a client that is closed closes them itself
		for range underWay {
			if d := <-results; d.err == nil && !d.shared {
				d.conn.Close()
			}
		}
	})
}

// take makes a connection the link's.
func (l *link) take(c *conn, t target) *conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conn, l.since = c, time.Time{}
	if t.listed >= 0 {
		l.next, l.leader = t.listed, ""
	}
	return c
}

// advance has another target be the first. l.mu is held.
func (l *link) advance() {
	if l.leader != "" {
		l.leader = ""
		return
	}
	l.next = (l.next + 1) % len(l.client.addresses)
}

// leave gives a connection up on which a request has failed, unless another request has
// done so, or the error does not speak against the server. soon says that a better one is
// known, and need not wait.
func (l *link) leave(c *conn, err error) (soon bool) {
	if stays(err) {
		return false
	}
	leader := ""
	if op := (*OpError)(nil); errors.As(err, &op) {
		leader = op.Leader
	}
	shared := l.shared(c.address) == c
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn != c {
		return true
	}
	lost := !c.usable()
	if !shared { // else the peer's requests go on there
		c.retire()
	}
	l.conn = nil
	if leader == "" || leader == c.address {
		l.advance()
		return lost
	}
	if i := slices.Index(l.client.addresses, leader); i >= 0 {
		l.next, l.leader = i, ""
		return true
	}
	if c.address == l.client.addresses[l.next] {
		l.advance() // if that leader cannot be reached, this server is not asked again at once
	}
	l.leader = leader
	return true
}

// stays says that an error is no reason to go to another server: it is that of one that leads.
func stays(err error) bool {
	var refusal *wire.Error
	return errors.As(err, &refusal) && (refusal.Code == wire.CodeInsufficientISR || refusal.Code == wire.CodeReplicationTimeout)
}

// drop closes the connection, and waits for its end. The link can be used again.
func (l *link) drop() {
	l.mu.Lock()
	c := l.conn
	l.conn = nil
	l.mu.Unlock()
	if c != nil {
		c.Close()
	}
}

// impatience is which part of the time for which something has failed it is left alone before
// the next attempt: what works again is found out by that much later at most. An election
// takes a second or two, so an append goes on some 100 ms after it.
const impatience = 20

// pause waits before another attempt at what has failed since then. The error says why that
// is of no use.
func (c *Client) pause(ctx context.Context, since time.Time) error {
	d := min(max(time.Since(since)/impatience, c.opts.Backoff), c.opts.MaxBackoff)
	d -= rand.N(d/2 + 1)
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-c.closed.Done():
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// patience decides how soon a request goes on that has failed. The zero value is for one that
// has not.
type patience struct {
	since  time.Time // when it failed first
	hopped bool      // it has gone on at once since the last pause
}

// wait waits before another attempt; not at all if that is worth it, but only once before each
// pause, because two servers may name each other. The error is that of pause.
func (p *patience) wait(ctx context.Context, c *Client, soon bool) error {
	if p.since.IsZero() {
		p.since = time.Now()
	}
	if p.hopped = soon && !p.hopped; p.hopped {
		return nil
	}
	return c.pause(ctx, p.since)
}
