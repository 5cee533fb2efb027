package server

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zue-log/zue/net/wire"
	"github.com/zue-log/zue/storage"
)

const (
	// flushBytes is how much answer gathers before it is written while more
	// requests are at hand.
	flushBytes = 64 << 10
	// maxBatchRecords and maxBatchBytes bound the appends taken into one entry.
	maxBatchRecords = 4096
	maxBatchBytes   = 4 << 20
	// lingerTime and lingerBytes bound what is read and thrown away behind the
	// last answer: closing with bytes unread would reset the connection, and the
	// client might never see that answer. A client has less of the time when the
	// server stops, since it may be idle and never close.
	lingerTime     = time.Second
	lingerStopping = 100 * time.Millisecond
	lingerBytes    = 1 << 20
)

// session answers the requests of one connection, in order, on one goroutine. It
// takes all requests that one read brought, appends runs of them as one entry,
// and writes their answers at once.
type session struct {
	server *Server
	conn   net.Conn
	dec    *wire.Decoder
	out    []byte

	batch      []storage.Record // appends not yet made; they point into dec's buffer
	batchBytes int
	pooled     *buffers // where batch and out came from; nil while idle

	within bool         // a read deadline is set, for the rest of a frame
	stopBy atomic.Int64 // set by finish: the Unix time, in ns, to have ended by
}

func newSession(s *Server, conn net.Conn) *session {
	return &session{server: s, conn: conn, dec: wire.NewDecoder(conn, wire.MaxFrame)}
}

// finish has run answer what has arrived and return. It may be called beside run.
func (c *session) finish() {
	now := time.Now()
	c.stopBy.Store(now.Add(drainTime).UnixNano())
	_ = c.conn.SetReadDeadline(now.Add(drainPause))
}

// fill reads more requests. It gives up on a client that stops within a frame and, in
// a stopping server, on one that pauses.
func (c *session) fill() error {
	if within := c.dec.Buffered() > 0; within || c.within {
		c.within = within
		var deadline time.Time
		if within {
			deadline = time.Now().Add(c.server.frameTimeout)
		}
		if err := c.conn.SetReadDeadline(deadline); err != nil {
			return err
		}
	}
	// After that, or it might undo the deadline that finish sets. That one may
	// also have passed while requests were being answered, and more have arrived.
	if stopBy := c.stopBy.Load(); stopBy != 0 {
		now := time.Now()
		if now.UnixNano() > stopBy {
			return os.ErrDeadlineExceeded
		}
		if err := c.conn.SetReadDeadline(now.Add(drainPause)); err != nil {
			return err
		}
	}
	return c.dec.Fill()
}

// run serves until the client goes, or what it sends cannot be understood any
// more, or finish.
func (c *session) run() {
	defer c.conn.Close()
	err := c.serve()
	var frame *wire.FrameError
	switch {
	case errors.As(err, &frame):
		c.refuse(wire.CodeInvalidMessage, frame.Error()+"; closing the connection")
		if c.flush() == nil {
			c.linger(lingerTime)
		}
	case errors.Is(err, os.ErrDeadlineExceeded) && c.stopBy.Load() != 0:
		c.linger(lingerStopping)
	case err == io.EOF:
	default:
		c.server.logger.Debug("connection lost", "client", c.conn.RemoteAddr().String(), "err", err)
	}
}

func (c *session) serve() error {
	for {
		for {
			f, ok, err := c.dec.Next()
			if err != nil {
				c.appendBatch()
				return err
			}
			if !ok {
				break
			}
			if err := c.handle(f); err != nil {
				return err
			}
		}
		c.appendBatch()
		if err := c.flush(); err != nil {
			return err
		}
		c.rest()
		if err := c.fill(); err != nil {
			return err
		}
	}
}

// handle takes one request. Its answer is in c.out, or will be after appendBatch.
func (c *session) handle(f wire.Frame) error {
	c.wake()
	if f.Type == wire.TypeAppendRequest {
		m, err := wire.ParseAppendRequest(f.Payload)
		if err == nil {
			c.batch = append(c.batch, storage.Record{Key: m.Key, Value: m.Value})
			c.batchBytes += len(f.Payload)
			if len(c.batch) >= maxBatchRecords || c.batchBytes >= maxBatchBytes {
				c.appendBatch()
			}
			return c.flushIfLarge()
		}
		c.appendBatch()
		c.refuse(wire.CodeInvalidMessage, err.Error())
		return c.flushIfLarge()
	}
	// A request is answered after, and sees, those before it.
	c.appendBatch()
	switch f.Type {
	case wire.TypeReadRequest:
		m, err := wire.ParseReadRequest(f.Payload)
		if err != nil {
			c.refuse(wire.CodeInvalidMessage, err.Error())
			break
		}
		c.read(m.Offset)
	default:
		c.refuse(wire.CodeInvalidMessage, fmt.Sprintf("%s is no request that this server knows", f.Type))
	}
	return c.flushIfLarge()
}

// appendBatch makes the appends gathered so far, as one entry, and answers them.
func (c *session) appendBatch() {
	if len(c.batch) == 0 {
		return
	}
	first, err := c.server.log.Append(c.batch...)
	for i := range c.batch {
		if err != nil {
			c.refuse(codeOf(err), err.Error())
		} else {
			c.out = wire.AppendResponse{Offset: first + uint64(i)}.AppendTo(c.out)
		}
	}
	clear(c.batch) // no pointers into a buffer that the decoder may let go of
	c.batch, c.batchBytes = c.batch[:0], 0
}

// read answers a read request. A null value, which the original messages cannot
// express, is answered as an empty one.
func (c *session) read(offset uint64) {
	rec, lease, err := c.server.log.Read(offset)
	if err != nil {
		c.refuse(codeOf(err), err.Error())
		return
	}
	defer lease.Release()
	out, err := wire.ReadResponse{Key: rec.Key, Value: rec.Value}.AppendTo(c.out)
	if err != nil {
		c.refuse(wire.CodeSerialization, err.Error())
		return
	}
	c.out = out
}

func (c *session) refuse(code wire.Code, message string) {
	c.out = (&wire.Error{Code: code, Message: message}).AppendTo(c.out)
}

// codeOf is the wire's code for an error of the log.
func codeOf(err error) wire.Code {
	switch {
	case errors.Is(err, storage.ErrFailed):
		return wire.CodeIOError // perhaps appended, whatever the cause
	case errors.Is(err, storage.ErrOutOfRange):
		return wire.CodeInvalidOffset
	case errors.Is(err, storage.ErrTooLarge):
		return wire.CodeSerialization
	case storage.IsFull(err):
		return wire.CodeLogFull
	default:
		return wire.CodeIOError
	}
}

func (c *session) flushIfLarge() error {
	if len(c.out) < flushBytes {
		return nil
	}
	return c.flush()
}

// flush writes the answers gathered so far.
func (c *session) flush() error {
	if len(c.out) == 0 {
		return nil
	}
	for rest := c.out; len(rest) > 0; {
		// A deadline for each chunk: a client that takes its answers slowly is
		// not one that takes none.
		n := min(len(rest), writeChunk)
		if err := c.conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
			return err
		}
		if _, err := c.conn.Write(rest[:n]); err != nil {
			// Such a timeout is the client's, not that of a stopping server.
			return fmt.Errorf("write answers: %v", err)
		}
		rest = rest[n:]
	}
	c.out = c.out[:0]
	if cap(c.out) > 2*flushBytes {
		c.out = nil // a large answer's buffer is not worth keeping
	}
	return nil
}

// buffers are what a busy session has and an idle one does not.
type buffers struct {
	batch []storage.Record
	out   []byte
}

var pool = sync.Pool{New: func() any { return new(buffers) }}

// wake takes buffers for the requests at hand.
func (c *session) wake() {
	if c.pooled == nil {
		c.pooled = pool.Get().(*buffers)
		c.batch, c.out = c.pooled.batch[:0], c.pooled.out[:0]
	}
}

// rest gives the buffers back, for others to use while this session waits.
func (c *session) rest() {
	if c.pooled != nil {
		c.pooled.batch, c.pooled.out = c.batch, c.out
		pool.Put(c.pooled)
		c.pooled, c.batch, c.out = nil, nil, nil
	}
}

// linger closes the connection's sending half and waits, not longer than d, for the
// client to have read what was sent.
func (c *session) linger(d time.Duration) {
	half, ok := c.conn.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	if c.conn.SetReadDeadline(time.Now().Add(d)) == nil {
		_, _ = io.Copy(io.Discard, io.LimitReader(c.conn, lingerBytes))
	}
}
