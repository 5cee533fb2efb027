package transport

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/zue-log/zue/net/wire"
)

const (
	// maxBatchBytes and maxBatchParts bound what is written by one system call: more saves
	// nothing, and the next deadline comes later.
	maxBatchBytes = 512 << 10
	maxBatchParts = 1024 // IOV_MAX
	// maxDirect is the longest frame that its sender writes: a longer one costs him more than to
	// hand it over, which is two changes from one goroutine, and mostly thread, to another.
	maxDirect = 4 << 10
)

// link sends frames to a peer on a lane. Its goroutine dials, and writes, but for what a sender
// can write himself: see writeDirect.
type link struct {
	t     *Transport
	peer  *peer
	lane  Lane
	limit int           // of queue, in bytes
	wake  chan struct{} // has one when there is something in queue, and there was not

	mu        sync.Mutex
	queue     queue
	conn      net.Conn                        // nil: there is none
	direct    func(b []byte) (n int, _ error) // writes to it what it takes at once; nil: it cannot
	writing   bool                            // somebody writes to it
	left      queued                          // what he has not written of the last frame, if it has a size
	closed    bool
	connected bool
	lastError string
	sent      uint64
	sentBytes uint64
	dropped   uint64

	// The goroutine's own.
	said  string      // what was logged last: upText, or why it is down
	parts [][]byte    // of frames that are being written
	dones []func()    // of those that have one
	rest  net.Buffers // what is not written yet of these
}

// upText is what said is while the link is up.
const upText = "up"

func newLink(t *Transport, p *peer, lane Lane) *link {
	limit := t.o.MaxQueueBytes
	if lane == Urgent {
		limit = max(limit/urgentShare, 1)
	}
	return &link{t: t, peer: p, lane: lane, limit: limit, wake: make(chan struct{}, 1)}
}

// send queues a frame. Where there is no room, the urgent lane drops the oldest, since what is
// urgent is of no use when it is late, and raft goes by the newest; the bulk lane drops the new
// one, since those before it are of no use to who lacks any of them.
func (l *link) send(frame net.Buffers, done func()) bool {
	size, err := frameSize(frame)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil || l.closed {
		l.dropped++
		if err != nil && l.lastError != err.Error() {
			l.lastError = err.Error()
			l.t.o.Logger.Error("a frame cannot be sent", "node", l.peer.id, "lane", l.lane, "err", err)
		}
		return false
	}
	// Lent memory may be a mapped file's: to copy that could be a fatal signal, and a system call
	// is not.
	if l.direct != nil && done == nil && !l.writing && l.left.size == 0 && l.queue.len() == 0 && size <= maxDirect {
		l.writeDirect(frame)
		return true
	}
	dropped := l.dropped
	for l.queue.len() > 0 && l.queue.cost()+size+frameCost > l.limit {
		l.dropped++
		if l.lane == Bulk {
			l.peer.unreachable()
			return false
		}
		l.queue.front().end()
		l.queue.pop()
	}
	if l.dropped > dropped {
		l.peer.unreachable()
	}
	l.queue.push(queued{frame, size, done})
	if l.queue.len() == 1 {
		l.rouse()
	}
	return true
}

// writeDirect writes a frame in the sender's goroutine, as far as that does not block; the link's
// does the rest. l.mu is held, and let go of in between.
func (l *link) writeDirect(frame net.Buffers) {
	conn, direct := l.conn, l.direct
	l.writing = true
	l.mu.Unlock()
	b := frame[0]
	if len(frame) > 1 {
		b = slices.Concat(frame...)
	}
	n, err := direct(b)
	if err != nil {
		_ = conn.Close() // the link's goroutine sees to it
	}
	l.mu.Lock()
	l.writing = false
	switch {
	case n == len(b):
		l.sent++
		l.sentBytes += uint64(n)
	case err != nil || l.conn != conn:
		l.dropped++
	default:
		l.left = queued{frame: net.Buffers{b[n:]}, size: len(b) - n}
	}
	if l.left.size > 0 || l.queue.len() > 0 {
		l.rouse()
	}
}

// rouse has the link's goroutine see what there is to write.
func (l *link) rouse() {
	select {
	case l.wake <- struct{}{}:
	default: // it has not been seen yet
	}
}

// run keeps the link up until the transport is closed.
func (l *link) run() {
	o := &l.t.o
	wait := o.Backoff
	for l.t.ctx.Err() == nil {
		up, err := l.connect()
		if l.t.ctx.Err() != nil {
			return
		}
		l.down(err)
		// One that is hung up on as soon as it has connected has not got through, either.
		if up >= o.MaxBackoff {
			wait = o.Backoff
		}
		pause := time.NewTimer(wait/2 + rand.N(wait/2+1))
		select {
		case <-pause.C:
		case <-l.t.ctx.Done():
			pause.Stop()
		}
		wait = min(2*wait, max(o.MaxBackoff, o.Backoff))
	}
}

// connect makes a connection, and writes to it what there is as long as it lasts. It returns
// for how long that was, and why it has ended.
func (l *link) connect() (up time.Duration, err error) {
	ctx, cancel := context.WithTimeout(l.t.ctx, l.t.o.DialTimeout)
	conn, err := l.t.o.Dial(ctx, l.peer.address)
	cancel()
	if err != nil {
		return 0, err
	}
	if !l.t.track(conn) {
		return 0, ErrClosed
	}
	defer l.t.release(conn)
	tune(conn)
	dec, err := l.t.greet(conn, l.peer.id, l.lane)
	if err != nil {
		return 0, err
	}
	since := time.Now()
	l.mu.Lock()
	l.connected, l.conn, l.direct = true, conn, directly(conn)
	l.mu.Unlock()

	var reading error
	ended := make(chan struct{})
	l.t.tasks.Go(func() {
		defer close(ended)
		reading = watch(dec, l.peer.id)
		_ = conn.Close() // so that a write ends, too
	})
	writing := l.write(conn, ended)
	_ = conn.Close()
	<-ended
	up = time.Since(since)
	// Of two errors that which came first tells more, or what the other end has said.
	if refused := (*refusal)(nil); writing == nil || isClosed(writing) || errors.As(reading, &refused) {
		return up, reading
	}
	return up, writing
}

// watch reads what an acceptor sends: nothing, as long as all is well.
func watch(dec *wire.Decoder, from uint16) error {
	f, err := next(dec)
	if err != nil {
		return err
	}
	return unexpected(f, from)
}

// write writes frames until that fails, or the other end has closed the connection, or the
// transport is closed; then it returns nil.
func (l *link) write(conn net.Conn, ended <-chan struct{}) error {
	lasts := time.NewTimer(l.t.o.MaxBackoff)
	defer lasts.Stop()
	for {
		frames, bytes := l.take()
		if frames == 0 {
			select {
			case <-l.wake:
			case <-lasts.C:
				l.up()
			case <-ended:
				return nil
			case <-l.t.ctx.Done():
				return nil
			}
			continue
		}
		err := l.writeParts(conn)
		clear(l.parts) // those of large frames must not be kept
		for _, done := range l.dones {
			done()
		}
		clear(l.dones)
		if err != nil {
			l.mu.Lock()
			l.writing, l.direct = false, nil // or others would go on in the middle of a frame
			l.dropped += uint64(frames)
			l.mu.Unlock()
			return err
		}
		l.mu.Lock()
		l.writing = false
		l.sent += uint64(frames)
		l.sentBytes += uint64(bytes)
		l.mu.Unlock()
		select {
		case <-lasts.C:
			l.up()
		default:
		}
	}
}

// take moves frames from the queue to parts, at least one if there is any, unless a sender is
// writing; he says when he is done. If there are any, the caller writes from then on.
func (l *link) take() (frames, bytes int) {
	l.parts, l.dones = l.parts[:0], l.dones[:0]
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.writing {
		return 0, 0
	}
	add := func(f *queued) {
		l.parts = append(l.parts, f.frame...)
		if f.done != nil {
			l.dones = append(l.dones, f.done)
		}
		bytes += f.size
		frames++
	}
	if l.left.size > 0 {
		add(&l.left)
		l.left = queued{}
	}
	for l.queue.len() > 0 {
		f := l.queue.front()
		if frames > 0 && (bytes+f.size > maxBatchBytes || len(l.parts)+len(f.frame) > maxBatchParts) {
			break
		}
		add(f)
		l.queue.pop()
	}
	l.writing = frames > 0
	return frames, bytes
}

// writeParts writes parts. It gives up when nothing at all was taken for stallTimeout.
func (l *link) writeParts(conn net.Conn) error {
	l.rest = l.parts
	for {
		if err := conn.SetWriteDeadline(time.Now().Add(stallTimeout)); err != nil {
			return err
		}
		n, err := l.rest.WriteTo(conn)
		if err == nil {
			return conn.SetWriteDeadline(time.Time{}) // or writeDirect would not write any more
		}
		if n == 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
	}
}

// up notes that a connection lasts.
func (l *link) up() {
	if l.said != upText {
		l.said = upText
		l.t.o.Logger.Info("link is up", "node", l.peer.id, "lane", l.lane, "address", l.peer.address)
	}
}

// down notes why there is no connection, and drops what waits for one: it is of no use when
// it comes late, or behind what was lost.
func (l *link) down(err error) {
	text := explain(err, l.peer.id)
	l.mu.Lock()
	l.connected, l.lastError = false, text
	l.clear()
	l.mu.Unlock()
	if l.said != text {
		l.said = text
		l.t.o.Logger.Warn("link is down", "node", l.peer.id, "lane", l.lane, "address", l.peer.address, "err", text)
	}
	l.peer.unreachable()
}

// close drops what waits, for good.
func (l *link) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed, l.connected = true, false
	l.clear()
}

// clear drops the connection, and what waits for it. l.mu is held.
func (l *link) clear() {
	l.conn, l.direct = nil, nil
	l.dropped += uint64(l.queue.clear())
	if l.left.size > 0 {
		l.dropped++
		l.left = queued{}
	}
}

func (l *link) status() LaneStatus {
	l.mu.Lock()
	defer l.mu.Unlock()
	return LaneStatus{
		Connected: l.connected, LastError: l.lastError, QueuedBytes: l.queue.bytes,
		Sent: l.sent, SentBytes: l.sentBytes, Dropped: l.dropped,
	}
}
