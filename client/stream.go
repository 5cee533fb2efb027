package client

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/zue-log/zue/net/wire"
)

const (
	// writeChunk bounds one write, so that progress on a slow network is seen.
	writeChunk = 128 << 10
	// lostGrace is how long answers are still received after sending has failed:
	// the server may have acknowledged much, and said why it hung up.
	lostGrace = time.Second
	// lastLook is how long answers are waited for after the time in which they
	// were due: long enough to read what is there already.
	lastLook = 100 * time.Millisecond
)

// sendAll is the sender's goroutine: it writes all frames that have gathered while
// the last write was going on, until the connection is lost.
func (c *conn) sendAll() {
	var spare []byte
	for {
		select {
		case <-c.wake:
		case <-c.down:
			return
		}
		for {
			c.mu.Lock()
			frames := c.out
			c.out = spare[:0]
			c.mu.Unlock()
			spare = frames[:0]
			if cap(spare) > c.opts.MaxInFlightBytes {
				spare = nil
			}
			if len(frames) == 0 {
				break
			}
			if err := c.send(frames); err != nil {
				c.lose(fmt.Errorf("connection lost while sending: %w", err))
				return
			}
		}
	}
}

func (c *conn) send(frames []byte) error {
	for len(frames) > 0 {
		chunk := frames[:min(len(frames), writeChunk)]
		c.mu.Lock()
		c.offered += uint64(len(chunk)) // now, since the answer may be faster than Write
		c.mu.Unlock()
		n, err := c.conn.Write(chunk)
		c.mu.Lock()
		c.sent += uint64(n)
		if c.err == nil && n > 0 && c.queue.count > 0 {
			c.expectProgress()
		}
		c.mu.Unlock()
		if err == nil && n < len(chunk) {
			err = io.ErrShortWrite
		}
		if err != nil {
			return err
		}
		frames = frames[n:]
	}
	return nil
}

// errExited is why a connection is lost whose receiver a callback has ended.
var errExited = errors.New("a function called with an answer has called runtime.Goexit")

// receiveAll is the receiver's goroutine: it hands answers to their calls until
// the connection is lost, and then fails the calls that are left.
func (c *conn) receiveAll(senderDone <-chan struct{}) {
	// Deferred, because a callback may call runtime.Goexit, as t.FailNow does:
	// the other calls are still owed an answer.
	defer close(c.gone)
	defer c.tearDown(senderDone)
	c.lose(c.receive())
}

func (c *conn) tearDown(senderDone <-chan struct{}) {
	if p := recover(); p != nil {
		panic(p) // at once: a program that is about to end calls nobody back
	}
	c.lose(errExited) // unless receive has returned, and so said better
	c.hangUp()
	// Only when the sender has stopped is it known how much was sent.
	<-senderDone
	var left callQueue
	for _, q := range c.taken[c.ended:] {
		q.end = 0 // something has answered it, so it counts as sent
		left.push(q)
	}
	c.mu.Lock()
	for c.queue.count > 0 {
		left.push(c.queue.pop())
	}
	c.queue, c.inFlight, c.out = callQueue{}, 0, nil
	sent, err := c.sent, c.err
	c.mu.Unlock()
	c.taken, c.ended = nil, 0
	c.failAll(&left, sent, err)
}

// failAll fails calls of a connection that has taken so many bytes, also when one
// of their functions calls runtime.Goexit.
func (c *conn) failAll(left *callQueue, sent uint64, err error) {
	defer func() {
		if p := recover(); p != nil {
			panic(p) // as in tearDown
		}
		if left.count > 0 {
			c.failAll(left, sent, err)
		}
	}()
	for left.count > 0 {
		q := left.pop()
		// A server never sees a frame that was not sent whole.
		outcome := ErrNotApplied
		if q.end <= sent {
			outcome = ErrMaybeApplied
		}
		c.fail(q, outcome, err)
	}
}

// receive answers calls until the connection ends, and says why it did.
func (c *conn) receive() error {
	d := wire.NewDecoder(c.conn, wire.MaxLargeFrame)
	var frames []wire.Frame
	for {
		var lost error
		for lost == nil {
			f, ok, err := d.Next()
			if err != nil {
				lost = fmt.Errorf("%w: %w", ErrProtocol, err)
			}
			if !ok {
				break
			}
			frames = append(frames, f)
		}
		c.take(len(frames))
		for i, q := range c.taken {
			c.ended++ // before its function is called, which may never return
			if err := c.answer(q, frames[i]); err != nil {
				return err
			}
		}
		if lost == nil && len(c.taken) < len(frames) {
			lost = unasked(frames[len(c.taken)])
		}
		if lost != nil {
			return lost
		}
		clear(c.taken) // what their functions hold is not ours to keep
		clear(frames)  // a large payload would stay for as long as the client is idle
		c.taken, c.ended, frames = c.taken[:0], 0, frames[:0]
		if err := c.fill(d); err != nil {
			return receiveError(err)
		}
	}
}

// fill waits for more to be received.
func (c *conn) fill(d *wire.Decoder) error {
	// Not before the answers at hand have been given to their functions: the time
	// that these take is not the server's.
	c.mu.Lock()
	if c.err == nil {
		c.expectProgress()
	}
	retired := c.retired && c.queue.count == 0
	c.mu.Unlock()
	if retired {
		return errRetired
	}
	err := d.Fill()
	if errors.Is(err, os.ErrDeadlineExceeded) && c.lookOnceMore() {
		err = d.Fill()
	}
	return err
}

// lookOnceMore gives receiving a moment more, because a read whose deadline has
// passed does not look at what has come: of a process that was stopped meanwhile,
// as by SIGSTOP, the server's answers may all be there.
func (c *conn) lookOnceMore() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.deadline.After(time.Now()) {
		return true // it was set anew since
	}
	if c.err != nil {
		if c.lookedLate {
			return false // a server that trickles must not make lostGrace endless
		}
		c.lookedLate = true
	}
	c.setDeadline(time.Now().Add(lastLook))
	return true
}

// unasked says what is wrong with an answer that no request waits for.
func unasked(f wire.Frame) error {
	if f.Type == wire.TypeError {
		// A server that takes no more connections may say so unasked.
		if refusal, err := wire.ParseError(f.Payload); err == nil {
			return fmt.Errorf("the server gave the connection up: %w", refusal)
		}
	}
	return fmt.Errorf("%w: %s that no request asked for", ErrProtocol, f.Type)
}

// take takes the n oldest calls out of the queue, or fewer if there are not so many
// that can have been answered, and makes room for others. No server can answer a
// request that was not given to the connection whole.
func (c *conn) take(n int) {
	c.mu.Lock()
	for range n {
		if c.queue.count == 0 || c.queue.oldest().end > c.offered {
			break
		}
		q := c.queue.pop()
		c.inFlight -= q.size
		c.taken = append(c.taken, q)
	}
	c.mu.Unlock()
	if len(c.taken) > 0 {
		signal(c.space)
	}
}

// answer ends a call with the frame that is its answer. The error, which the call
// has got as well, says that the stream makes no sense from here on.
func (c *conn) answer(q call, f wire.Frame) error {
	if f.Type == wire.TypeError {
		refusal, err := wire.ParseError(f.Payload)
		if err != nil {
			return c.distrust(q, err)
		}
		outcome := ErrNotApplied
		if refusal.Code.MaybeApplied() {
			outcome = ErrMaybeApplied
		}
		c.fail(q, outcome, refusal)
		return nil
	}
	if f.Type != q.want {
		return c.distrust(q, fmt.Errorf("%s where %s was due", f.Type, q.want))
	}
	if err := q.waiter.answered(f.Payload); err != nil {
		return c.distrust(q, err)
	}
	return nil
}

func (c *conn) distrust(q call, err error) error {
	err = fmt.Errorf("%w: %w", ErrProtocol, err)
	c.fail(q, ErrMaybeApplied, err)
	return err
}

// fail ends a call with an error; outcome is for appends.
func (c *conn) fail(q call, outcome, err error) {
	q.waiter.failed(c.opError(q.op, q.offset, outcome, err))
}

// lose notes why the connection is of no more use, if nothing was noted before:
// from then on no request is let in, and the sender stops. The receiver goes on for
// a moment.
func (c *conn) lose(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err = err
	close(c.down)
	c.setDeadline(time.Now().Add(lostGrace))
}

// hangUp closes the connection, which ends the sender's and the receiver's waiting.
func (c *conn) hangUp() {
	// All bytes that matter have been answered, or never will be.
	c.closing.Do(func() { _ = c.conn.Close() })
}

// expectProgress begins the time in which something must come, if an answer is
// due, and ends it if none is. c.mu is held.
func (c *conn) expectProgress() {
	if c.opts.StallTimeout == 0 {
		return
	}
	var deadline time.Time
	if c.queue.count > 0 {
		deadline = time.Now().Add(c.opts.StallTimeout)
	}
	c.setDeadline(deadline)
}

// setDeadline sets when receiving is given up. c.mu is held.
func (c *conn) setDeadline(t time.Time) {
	c.deadline = t
	// A failed deadline is a dead connection, which the receiver will see.
	_ = c.conn.SetReadDeadline(t)
}

func receiveError(err error) error {
	switch {
	case errors.Is(err, errRetired):
		return err
	case errors.Is(err, os.ErrDeadlineExceeded):
		return ErrStalled
	case errors.Is(err, io.EOF):
		return fmt.Errorf("the server closed the connection: %w", err)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("the server closed the connection within an answer: %w", err)
	}
	return fmt.Errorf("connection lost while receiving: %w", err)
}
