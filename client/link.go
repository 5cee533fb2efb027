package client

import (
	"context"
	"errors"
	"fmt"
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
	turn   chan struct{} // held by whoever connects

	mu       sync.Mutex
	conn     *conn  // nil, or the last one; it may be of no more use
	next     int    // which of the client's addresses is to be tried
	leader   string // to be tried before that, unless ""
	failures int    // attempts to connect in a row that have failed
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
	return l.target()
}

// target is what address returns. l.mu is held.
func (l *link) target() string {
	if l.leader != "" {
		return l.leader
	}
	return l.client.addresses[l.next]
}

// get returns a connection that is up, as far as is known. It connects if there is none,
// and goes on trying until ctx ends; with Options.NoRetry, once at each address.
func (l *link) get(ctx context.Context) (*conn, error) {
	if l.client.opts.NoRetry {
		return l.connect(ctx, len(l.client.addresses))
	}
	return l.connect(ctx, 0)
}

// connect is get with at most so many attempts; 0 means no limit. When ctx has ended, its
// error is in the tree of what is returned, whatever else went wrong.
func (l *link) connect(ctx context.Context, limit int) (*conn, error) {
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
	var last, errs []error // of the last round of all addresses, and of this one
	for attempt := 1; ; attempt++ {
		c, err := l.attempt(ctx)
		if err == nil || errors.Is(err, ErrClosed) {
			return c, err
		}
		stop := ended(ctx)
		if stop != nil && len(last) > 0 {
			return nil, fmt.Errorf("%w, after: %w", stop, joined(last))
		}
		if errs = append(errs, err); attempt == limit || stop != nil {
			err := joined(errs)
			if stop != nil && !errors.Is(err, stop) {
				err = fmt.Errorf("%w, after: %w", stop, err)
			}
			return nil, err
		}
		l.mu.Lock()
		failures := l.failures
		l.mu.Unlock()
		if failures%len(l.client.addresses) != 0 {
			continue // the next address need not wait
		}
		if stop := l.client.pause(ctx, failures/len(l.client.addresses)); stop != nil {
			return nil, fmt.Errorf("%w, after: %w", stop, joined(errs))
		}
		last, errs = errs, nil
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

// attempt connects to the link's target. If it cannot, the target becomes the next one.
func (l *link) attempt(ctx context.Context) (*conn, error) {
	c := l.client
	l.mu.Lock()
	address := l.target()
	l.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, c.opts.DialTimeout)
	defer cancel()
	defer context.AfterFunc(c.closed, cancel)()
	cn, err := dialConn(ctx, address, c.opts)
	if err == nil && !c.adopt(cn) {
		cn.Close()
		err = ErrClosed
	} else if err != nil && c.closed.Err() != nil {
		err = ErrClosed
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.failures++
		l.advance()
		return nil, err
	}
	l.conn, l.failures = cn, 0
	return cn, nil
}

// advance makes another target. l.mu is held.
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
	var refusal *wire.Error
	if errors.As(err, &refusal) && refusal.Code == wire.CodeInsufficientISR {
		return false
	}
	leader := ""
	if op := (*OpError)(nil); errors.As(err, &op) {
		leader = op.Leader
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn != c {
		return true
	}
	lost := !c.usable()
	c.retire()
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

// pause waits before the attempt after the n-th that failed. The error says why it is of
// no use.
func (c *Client) pause(ctx context.Context, n int) error {
	d := c.opts.MaxBackoff
	if shift := n - 1; shift < 32 && c.opts.Backoff<<max(shift, 0)>>max(shift, 0) == c.opts.Backoff {
		d = min(d, c.opts.Backoff<<max(shift, 0))
	}
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
