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
)

// sendAll is the sender's goroutine: it writes all frames that have gathered while
// the last write was going on, until the connection is lost.
func (c *Client) sendAll() {
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

func (c *Client) send(frames []byte) error {
	for len(frames) > 0 {
		chunk := frames[:min(len(frames), writeChunk)]
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

// receiveAll is the receiver's goroutine: it hands answers to their calls until
// the connection is lost, and then fails the calls that are left.
func (c *Client) receiveAll(senderDone <-chan struct{}) {
	c.lose(c.receive())
	c.hangUp()
	// Only when the sender has stopped is it known how much was sent.
	<-senderDone
	c.mu.Lock()
	left, sent := c.queue, c.sent
	c.queue, c.inFlight, c.out = callQueue{}, 0, nil
	err := c.err
	c.mu.Unlock()
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
func (c *Client) receive() error {
	d := wire.NewDecoder(c.conn, wire.MaxFrame)
	var frames []wire.Frame
	var calls []call
	for {
		frames = frames[:0]
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
		calls = c.take(calls[:0], len(frames))
		for i, q := range calls {
			if err := c.answer(q, frames[i]); err != nil {
				return c.abandon(calls[i+1:], err)
			}
		}
		clear(calls)
		if lost == nil && len(calls) < len(frames) {
			lost = unasked(frames[len(calls)])
		}
		if lost != nil {
			return lost
		}
		if err := d.Fill(); err != nil {
			return receiveError(err)
		}
	}
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

// take takes the n oldest calls out of the queue, or all if there are fewer, and
// makes room for others.
func (c *Client) take(calls []call, n int) []call {
	c.mu.Lock()
	for range min(n, c.queue.count) {
		q := c.queue.pop()
		c.inFlight -= q.size
		calls = append(calls, q)
	}
	if c.err == nil {
		c.expectProgress()
	}
	c.mu.Unlock()
	if len(calls) > 0 {
		signal(c.space)
	}
	return calls
}

// abandon fails calls that were taken out of the queue, but whose answers cannot
// be trusted. It returns the error.
func (c *Client) abandon(calls []call, err error) error {
	for _, q := range calls {
		c.fail(q, ErrMaybeApplied, err)
	}
	return err
}

// answer ends a call with the frame that is its answer. The error, which the call
// has got as well, says that the stream makes no sense from here on.
func (c *Client) answer(q call, f wire.Frame) error {
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
	if q.read != nil {
		m, err := wire.ParseReadResponse(f.Payload)
		if err != nil {
			return c.distrust(q, err)
		}
		q.read(newRecord(q.offset, m), nil)
		return nil
	}
	m, err := wire.ParseAppendResponse(f.Payload)
	if err != nil {
		return c.distrust(q, err)
	}
	q.appended(m.Offset, nil)
	return nil
}

func (c *Client) distrust(q call, err error) error {
	err = fmt.Errorf("%w: %w", ErrProtocol, err)
	c.fail(q, ErrMaybeApplied, err)
	return err
}

// fail ends a call with an error; outcome is for appends.
func (c *Client) fail(q call, outcome, err error) {
	if q.read != nil {
		q.read(Record{}, c.readError(q.offset, err))
		return
	}
	q.appended(0, c.appendError(outcome, err))
}

// lose notes why the connection is of no more use, if nothing was noted before:
// from then on no request is let in, and the sender stops. The receiver goes on for
// a moment.
func (c *Client) lose(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err = err
	close(c.down)
	// A failed deadline is a dead connection, which the receiver will see.
	_ = c.conn.SetReadDeadline(time.Now().Add(lostGrace))
}

// hangUp closes the connection, which ends the sender's and the receiver's waiting.
func (c *Client) hangUp() {
	// All bytes that matter have been answered, or never will be.
	c.closing.Do(func() { _ = c.conn.Close() })
}

// expectProgress begins the time in which something must come, if an answer is
// due, and ends it if none is. c.mu is held.
func (c *Client) expectProgress() {
	if c.opts.StallTimeout == 0 {
		return
	}
	var deadline time.Time
	if c.queue.count > 0 {
		deadline = time.Now().Add(c.opts.StallTimeout)
	}
	_ = c.conn.SetReadDeadline(deadline) // as in lose
}

func receiveError(err error) error {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return ErrStalled
	case errors.Is(err, io.EOF):
		return fmt.Errorf("the server closed the connection: %w", err)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("the server closed the connection within an answer: %w", err)
	}
	return fmt.Errorf("connection lost while receiving: %w", err)
}
