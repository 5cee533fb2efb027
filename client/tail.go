package client

import (
	"context"
	"fmt"
	"time"
)

// TailOptions say how a [Tail] fetches. The zero value is good.
type TailOptions struct {
	// MaxBytes is about how many bytes of records are fetched at a time, and twice that
	// is held; 0 means 1 MiB.
	MaxBytes int
	// MinBytes is how many bytes of records the server waits for, but no longer than
	// Wait; 0 means 1: a record is delivered as soon as it is there.
	MinBytes int
	// Wait is how long one request waits at the end of the log before the next one is
	// made; 0 or less means 10 s. It is cut to half of Options.StallTimeout.
	Wait time.Duration
}

const defaultTailWait = 10 * time.Second

// Tail reads the log from an offset on, and waits at its end for more. It has a
// connection of its own, which is made anew when it is lost, and has the next records on
// their way while those at hand are read. Each record is verified by its entry's
// checksum, and no offset is left out or comes twice.
//
// A Tail is not safe for concurrent use, but Close is, beside Next.
type Tail struct {
	client *Client
	link   *link
	fetch  FetchOptions

	cur  *cursor // of the last answer; nil: it is used up
	rec  Record
	end  uint64
	from uint64 // the offset of the next fetch

	way      *underWay // nil: none is
	patience patience  // with attempts that have failed since the last answer
	hasty    time.Time // since when answers have had nothing, and come at once; zero: they do not
	err      error     // for good
	stopped  error     // the context's, of the last Next

	life    context.Context // ends with Close
	endLife context.CancelFunc
}

// underWay is a fetch without an answer.
type underWay struct {
	conn   *conn
	since  time.Time
	answer chan fetchAnswer
}

type fetchAnswer struct {
	fetched *Fetched
	err     error
}

// Tail returns an iterator over all records from an offset on:
//
//	t := c.Tail(0, client.TailOptions{})
//	defer t.Close()
//	for t.Next(ctx) {
//		use(t.Record())
//	}
//	return t.Err()
//
// It connects when Next is first called. Close must be called.
func (c *Client) Tail(offset uint64, o TailOptions) *Tail {
	t := &Tail{
		client: c, link: c.borrow(), from: offset,
		fetch: FetchOptions{MaxBytes: o.MaxBytes, MinBytes: o.MinBytes, Wait: orDefault(max(o.Wait, 0), defaultTailWait)},
	}
	t.life, t.endLife = context.WithCancel(context.Background())
	return t
}

// Next goes to the next record, and waits until there is one. It returns false when the
// context ends, and can then be called again with another; when the tail or its client is
// closed; and, for good, when the log does not have the offset or what the server sent is
// damaged. [Tail.Err] says which. Connections that are lost are not reported, unless
// Options.NoRetry is set.
func (t *Tail) Next(ctx context.Context) bool {
	t.stopped = nil
	for t.err == nil {
		if t.cur != nil {
			ok, err := t.cur.next(&t.rec)
			if ok {
				return true
			}
			if t.err = err; err != nil {
				break
			}
			t.cur = nil
		}
		if t.life.Err() != nil {
			t.fail(ctx, ErrClosed)
		} else if !t.refill(ctx) {
			break
		}
	}
	return false
}

// Record returns the record that Next went to. Its bytes stay as they are; to keep a few
// for long, clone them, since they are parts of the much larger bytes that were fetched.
func (t *Tail) Record() Record { return t.rec }

// End returns the end offset of the log, as of the last answer: how far the tail is
// behind.
func (t *Tail) End() uint64 { return t.end }

// Err returns why Next returned false: the context's error, [ErrClosed], one that wraps
// [ErrCorrupt], or an [*OpError]. It is nil after a Next that returned true.
func (t *Tail) Err() error {
	if t.err != nil {
		return t.err
	}
	return t.stopped
}

// Close ends the tail, and a Next that waits. Further calls do nothing. The error is
// always nil.
func (t *Tail) Close() error {
	t.endLife()
	t.link.drop()
	return nil
}

// refill gets the next answer. It reports false if there is none, having set err or
// stopped.
func (t *Tail) refill(ctx context.Context) bool {
	// Waiting to connect, or to try again, ends with Close, too.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(t.life, cancel)()
	for {
		if t.way == nil {
			conn, err := t.link.get(ctx)
			if err != nil {
				t.fail(ctx, newOpError(OpFetch, t.link.address(), t.from, nil, err))
				return false
			}
			if err := t.request(ctx, conn); err != nil {
				if !t.recover(ctx, conn, err) {
					return false
				}
				continue
			}
		}
		select {
		case a := <-t.way.answer:
			way := t.way
			t.way = nil
			if a.err == nil {
				return t.take(ctx, a.fetched, time.Since(way.since))
			}
			if !t.recover(ctx, way.conn, a.err) {
				return false
			}
		case <-ctx.Done():
			t.fail(ctx, ctx.Err())
			return false
		}
	}
}

// fail notes why there is no next record, for good unless only the context has ended.
func (t *Tail) fail(ctx context.Context, err error) {
	switch {
	case t.life.Err() != nil:
		t.link.drop() // it may have been made after Close had dropped the one before
		t.err = ErrClosed
	case t.client.closed.Err() != nil:
		t.err = ErrClosed
	case ctx.Err() != nil:
		t.stopped = err
	default:
		t.err = err
	}
}

// request makes a fetch on a connection.
func (t *Tail) request(ctx context.Context, c *conn) error {
	answer := make(chan fetchAnswer, 1)
	w := &waiting[*Fetched]{parseFetched(t.from), func(f *Fetched, err error) { answer <- fetchAnswer{f, err} }}
	if err := c.start(ctx, t.client.fetchRequest(t.from, t.fetch), w); err != nil {
		return err
	}
	t.way = &underWay{c, time.Now(), answer}
	return nil
}

// hasty is an answer without records that comes sooner: its server does not wait for any.
const hasty = 5 * time.Millisecond

// take has Next read an answer that took so long, and puts the next fetch on its way. It
// reports false if the context has ended, having set err or stopped.
func (t *Tail) take(ctx context.Context, f *Fetched, took time.Duration) bool {
	t.patience, t.end = patience{}, f.End
	t.client.learn(f.End)
	t.cur = newCursor(f.Raw, f.Offset)
	t.from = f.Next()
	if len(f.Raw.Bytes) == 0 && took < hasty {
		if t.hasty.IsZero() {
			t.hasty = time.Now()
		}
		if err := t.client.pause(ctx, t.hasty); err != nil {
			t.fail(ctx, err)
			return false
		}
	} else {
		t.hasty = time.Time{}
	}
	if c := t.link.current(); c != nil {
		// It need not wait for room, and if it fails the next refill sees to it.
		_ = t.request(context.Background(), c)
	}
	return true
}

// recover prepares another attempt. It reports false if there is to be none, having set
// err or stopped.
func (t *Tail) recover(ctx context.Context, c *conn, err error) bool {
	if ctx.Err() != nil || !t.client.worthRetrying(err) && !t.lagging(err) {
		t.fail(ctx, err)
		return false
	}
	if stop := t.patience.wait(ctx, t.client, t.link.leave(c, err)); stop != nil {
		t.fail(ctx, newOpError(OpFetch, c.address, t.from, nil, fmt.Errorf("%w, after: %w", stop, cause(err))))
		return false
	}
	return true
}

// mostLag is for how long a server may lack what another has shown.
const mostLag = 3 * time.Second

// lagging says whether a server may have refused the offset because it has not yet what
// another has shown: it is asked again, and others are, but not for ever.
func (t *Tail) lagging(err error) bool {
	return t.client.behind(err, t.from) && (t.patience.since.IsZero() || time.Since(t.patience.since) < mostLag)
}
