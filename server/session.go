package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zue-log/zue/net/wire"
	"github.com/zue-log/zue/storage"
	"github.com/zue-log/zue/storage/batch"
)

const (
	// smallFrame is the largest frame, in bytes, that takes nothing of the server's
	// budget: each session's buffer holds it.
	smallFrame = 64 << 10
	// bufferFactor is how much larger than a frame its buffer can be: while it grows
	// there are two.
	bufferFactor = 2
	// slowestBytes is how many bytes a second of a large frame must come, on the whole:
	// or those who trickle them would keep others from sending any.
	slowestBytes = 64 << 10
	// flushBytes is how much answer gathers before it is written while more
	// requests are at hand.
	flushBytes = 64 << 10
	// lingerTime and lingerBytes bound what is read and thrown away behind the
	// last answer: closing with bytes unread would reset the connection, and the
	// client might never see that answer. A client has less of the time when the
	// server stops, since it may be idle and never close.
	lingerTime     = time.Second
	lingerStopping = 100 * time.Millisecond
	lingerBytes    = 1 << 20
)

// session answers the requests of one connection, in order, on one goroutine. It
// takes all requests that one read brought, appends runs of single records as one entry,
// has all that they append made durable together, and writes their answers at once.
type session struct {
	server *Server
	conn   net.Conn
	raw    syscall.RawConn // nil: there is none
	dec    *wire.Decoder
	out    []byte

	appends appends
	pooled  *buffers // where appends' slices and out came from; nil while idle

	within bool         // a read deadline is set, for the rest of a frame
	budget int64        // bytes that a large frame has taken of the server's
	until  time.Time    // when that must be there
	taken  bool         // it is, and is being answered
	broken error        // why nothing can be written any more
	begun  bool         // a request has come
	extra  bool         // it is one too many, but if it is another node's
	stopBy atomic.Int64 // set by finish: the Unix time, in ns, to have ended by
}

func newSession(s *Server, conn net.Conn) *session {
	c := &session{server: s, conn: conn, dec: wire.NewDecoder(conn, wire.MaxLargeFrame)}
	if sc, ok := conn.(syscall.Conn); ok {
		c.raw, _ = sc.SyscallConn() // without it, arrived says no
	}
	return c
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
	if c.broken != nil {
		return c.broken // and what the node has not let go of stays in the buffer
	}
	if err := c.reserve(); err != nil {
		return err
	}
	if within := c.dec.Buffered() > 0; (within || c.within) && !c.extra { // whose deadline is for all of a frame
		c.within = within
		var deadline time.Time
		if within {
			deadline = time.Now().Add(c.server.frameTimeout)
			if c.budget > 0 && c.until.Before(deadline) {
				deadline = c.until
			}
		}
		if err := c.conn.SetReadDeadline(deadline); err != nil {
			return err
		}
	}
	for {
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
		err := c.dec.Fill()
		if c.stopBy.Load() == 0 || !errors.Is(err, os.ErrDeadlineExceeded) || !c.arrived() {
			return err
		} // a busy machine sees the deadline and what came before it at once
	}
}

// errOverloaded is why a session ends whose large frame, or long answer, the server has no
// memory for.
var errOverloaded = errors.New("too much memory is taken up by requests")

// reserve takes memory for the frame that has begun, if it is large. While there is none the
// client is not read from.
func (c *session) reserve() error {
	c.release()
	size := c.dec.FrameSize()
	if size <= smallFrame || c.budget > 0 {
		return nil
	}
	n := int64(bufferFactor * size)
	if err := c.acquire(n); err != nil {
		return err
	}
	c.budget = n
	c.until = time.Now().Add(c.server.frameTimeout + time.Duration(size)*time.Second/slowestBytes)
	return nil
}

// acquire takes n bytes of the server's memory, and waits for them while holding none.
func (c *session) acquire(n int64) error {
	if c.server.memory.TryAcquire(n) {
		return nil
	}
	ctx, cancel := context.WithTimeout(c.server.waits, c.server.frameTimeout)
	defer cancel()
	if c.server.memory.Acquire(ctx, n) != nil {
		return errOverloaded
	}
	return nil
}

// release gives back what reserve took for a frame that has been answered, or needs its
// payload no more.
func (c *session) release() {
	if c.taken {
		c.taken = false
		c.dec.Release()
		c.free()
	}
}

// free gives back what reserve took.
func (c *session) free() {
	c.server.memory.Release(c.budget)
	c.budget = 0
}

// run serves until the client goes, or what it sends cannot be understood any
// more, or finish. It closes the connection, but if that turns out to be another node's: then it
// returns the hello.
func (c *session) run() *peerHello {
	defer c.free()
	err := c.serve()
	var hello *peerHello
	if errors.As(err, &hello) && c.server.becomesPeer(c) {
		return hello
	}
	defer c.conn.Close()
	c.end(err)
	return nil
}

// end says the last things on a connection.
func (c *session) end(err error) {
	var frame *wire.FrameError
	switch {
	case c.extra:
		c.server.turnAway(c)
	case errors.As(err, &frame):
		c.refuse(wire.CodeInvalidMessage, frame.Error()+"; closing the connection")
		if c.flush() == nil {
			c.linger(lingerTime)
		}
	case err == errOverloaded:
		c.refuse(wire.CodeOverloaded, err.Error()+"; closing the connection")
		if c.flush() == nil {
			c.linger(lingerTime)
		}
	case errors.Is(err, os.ErrDeadlineExceeded) && c.stopBy.Load() != 0:
		if c.server.cluster != nil {
			// A request that is on its way has its answer by it, and its client goes on
			// elsewhere; to one that is idle it says the same.
			c.refuse(wire.CodeOverloaded, "this node stops: go on with another one")
			if c.flush() != nil {
				return
			}
		}
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
				c.settle()
				return err
			}
			if !ok {
				break
			}
			c.taken = c.taken || c.budget > 0
			if c.extra && !c.isPeer(f, true) {
				return errTooMany
			}
			if err := c.handle(f); err != nil {
				return err
			}
		}
		// What has arrived meanwhile shares the sync.
		if c.dec.Full() && c.appends.any() && c.mayHaveMore() && c.arrived() {
			c.submitRecords()
		} else {
			c.settle()
			if err := c.flush(); err != nil {
				return err
			}
			c.rest()
		}
		if err := c.fill(); err != nil {
			return err
		}
	}
}

// mayHaveMore says whether the session may have more appends under way.
func (c *session) mayHaveMore() bool {
	a := &c.appends
	if c.server.cluster == nil {
		return a.sent+a.bytes < maxUnderWay
	}
	if a.sent+a.bytes >= clusterWindow {
		c.landSome()
	}
	return true
}

// arrived says whether more has, without waiting for it.
func (c *session) arrived() bool {
	if c.raw == nil {
		return false
	}
	n := 0
	err := c.raw.Control(func(fd uintptr) {
		var b [1]byte
		n, _, _ = unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	})
	return err == nil && n > 0
}

// handle takes one request. Its answer is in c.out, or will be after settle.
func (c *session) handle(f wire.Frame) error {
	c.wake()
	first := !c.begun
	c.begun = true
	var err error
	switch f.Type {
	case wire.TypeAppendRequest:
		var m wire.AppendRequest
		if m, err = wire.ParseAppendRequest(f.Payload); err == nil {
			c.takeRecord(&m, len(f.Payload))
			return c.flushIfLarge()
		}
	case wire.TypeBatchAppendRequest:
		var m wire.BatchAppendRequest
		if m, err = wire.ParseBatchAppendRequest(f.Payload); err == nil {
			c.takeBatch(&m)
			return c.flushIfLarge()
		}
	case wire.TypePeerHello:
		if c.isPeer(f, first) {
			return &peerHello{f}
		}
	}
	// A request is answered after, and sees, those before it.
	c.settle()
	if err == nil {
		err = c.answer(f)
	}
	var malformed *wire.MalformedError
	if errors.As(err, &malformed) {
		c.refuse(wire.CodeInvalidMessage, err.Error())
		err = nil
	}
	if err != nil {
		return err
	}
	return c.flushIfLarge()
}

func (c *session) refuse(code wire.Code, message string) {
	c.out = (&wire.Error{Code: code, Message: message}).AppendTo(c.out)
}

// codeOf is the wire's code for an error of the log.
func codeOf(err error) wire.Code {
	if code, ok := producerCode(err); ok {
		return code
	}
	switch {
	case errors.Is(err, storage.ErrFailed):
		return wire.CodeIOError // perhaps appended, whatever the cause
	case errors.Is(err, storage.ErrOutOfRange):
		return wire.CodeInvalidOffset
	case errors.Is(err, storage.ErrTooLarge):
		return wire.CodeSerialization
	case errors.Is(err, batch.ErrMalformed), errors.Is(err, batch.ErrUnsupported), errors.Is(err, batch.ErrTooLarge):
		return wire.CodeInvalidMessage
	case errors.Is(err, storage.ErrNotAtEnd):
		return wire.CodeOffsetMismatch
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
	if err := c.write(c.out, nil); err != nil {
		return err
	}
	c.out = c.out[:0]
	if cap(c.out) > 2*flushBytes {
		c.out = nil // a large answer's buffer is not worth keeping
	}
	return nil
}

// write writes two runs of bytes, one behind the other, by as few system calls as it can.
// After an error nobody knows how much was written: nothing more is.
func (c *session) write(a, b []byte) error {
	for c.broken == nil && len(a)+len(b) > 0 {
		// A deadline for each chunk: a client that takes its answers slowly is
		// not one that takes none.
		n, m := min(len(a), writeChunk), 0
		if n == len(a) {
			m = min(len(b), writeChunk)
		}
		err := c.conn.SetWriteDeadline(time.Now().Add(c.server.writeTimeout))
		if err == nil && m == 0 {
			_, err = c.conn.Write(a[:n])
		} else if err == nil {
			_, err = (&net.Buffers{a[:n], b[:m]}).WriteTo(c.conn)
		}
		if err != nil {
			// Such a timeout is the client's, not that of a stopping server.
			c.broken = fmt.Errorf("write answers: %v", err)
		}
		a, b = a[n:], b[m:]
	}
	return c.broken
}

// buffers are what a busy session has and an idle one does not.
type buffers struct {
	records []storage.Record
	waiting []waiting
	flights []*flight
	out     []byte
}

var pool = sync.Pool{New: func() any { return new(buffers) }}

// wake takes buffers for the requests at hand.
func (c *session) wake() {
	if c.pooled == nil {
		c.pooled = pool.Get().(*buffers)
		c.appends.records, c.appends.waiting, c.out = c.pooled.records[:0], c.pooled.waiting[:0], c.pooled.out[:0]
		c.appends.flights = c.pooled.flights[:0]
	}
}

// rest gives the buffers back, for others to use while this session waits.
func (c *session) rest() {
	if c.pooled != nil {
		c.pooled.records, c.pooled.waiting, c.pooled.out = c.appends.records, c.appends.waiting, c.out
		c.pooled.flights = c.appends.flights
		pool.Put(c.pooled)
		c.pooled, c.appends, c.out = nil, appends{}, nil
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
