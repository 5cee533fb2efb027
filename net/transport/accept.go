package transport

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"

	"github.com/zue-log/zue/net/wire"
)

// Serve takes over a connection that was accepted, and whose first frame, just taken from dec,
// was a peer hello. It runs the handshake, and then receives until the connection ends, which it
// always closes. It returns why it has ended: nil when the other node has closed it between two
// frames, or another connection of that node has replaced it; ErrClosed after Close.
func (t *Transport) Serve(conn net.Conn, dec *wire.Decoder, hello wire.Frame) error {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return errors.Join(ErrClosed, conn.Close())
	}
	t.tasks.Add(1)
	t.conns[conn] = struct{}{}
	t.served++
	order := t.served
	t.mu.Unlock()
	defer t.tasks.Done()
	defer t.release(conn)

	tune(conn)
	dec.SetMaxFrame(maxHandshakeFrame)
	if err := conn.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return fmt.Errorf("handshake with a node: %w", err)
	}
	h, err := t.admit(conn, dec, hello)
	if err == nil {
		_, err = conn.Write(wire.PeerWelcome{}.AppendTo(nil))
	}
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	if t.ctx.Err() != nil {
		return ErrClosed
	}
	if err != nil {
		tellRefusal(conn, err)
		t.noteFailure(h.From, conn, err)
		return fmt.Errorf("handshake with node %d: %w", h.From, err)
	}
	dec.SetMaxFrame(wire.MaxPeerFrame)
	return t.serve(conn, dec, h, order)
}

// serve receives from a node that has been admitted, by a connection that is newer than those
// of a lower order.
func (t *Transport) serve(conn net.Conn, dec *wire.Decoder, h wire.PeerHello, order uint64) error {
	in := &t.peers[h.From].in[h.Lane]
	replaced := make(chan struct{})
	if !t.replace(in, h.From, conn, order, replaced) {
		return nil // a newer one was quicker
	}
	err := t.receiveInTurn(dec, h.From, in, replaced)
	t.mu.Lock()
	last := in.conn == conn
	if last {
		in.conn = nil
	}
	t.mu.Unlock()
	switch {
	case t.ctx.Err() != nil:
		return ErrClosed
	case err == io.EOF, !last && isClosed(err):
		return nil
	}
	if conn.SetWriteDeadline(time.Now().Add(partingTimeout)) == nil {
		tellRefusal(conn, &refusal{tell: err.Error(), code: wire.CodeUnknown})
	}
	return fmt.Errorf("receive from node %d: %w", h.From, err)
}

// replace makes a connection that by which a node sends on a lane, unless there is a newer one,
// and closes the one before. When it is itself replaced, the channel is closed.
func (t *Transport) replace(in *incoming, from uint16, conn net.Conn, order uint64, replaced chan struct{}) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.refusals, from)
	if in.conn != nil {
		if in.order > order {
			return false
		}
		_ = in.conn.Close()
		close(in.replaced)
	}
	in.conn, in.order, in.replaced = conn, order, replaced
	return true
}

// receiveInTurn receives when the connection before has been done with, which may be waiting in
// Receive: so of a node that connects anew again and again there are two connections at most, and
// what it sends stays in order.
func (t *Transport) receiveInTurn(dec *wire.Decoder, from uint16, in *incoming, replaced <-chan struct{}) error {
	select {
	case in.turn <- struct{}{}:
	case <-replaced:
		return net.ErrClosed
	case <-t.ctx.Done():
		return net.ErrClosed
	}
	defer func() { <-in.turn }()
	return t.receive(dec, from, in)
}

// partingTimeout is how long it may take to tell a node why it is hung up on.
const partingTimeout = time.Second

// receive hands over frames until there are no more.
func (t *Transport) receive(dec *wire.Decoder, from uint16, in *incoming) error {
	for {
		for {
			f, ok, err := dec.Next()
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			if !f.Type.IsPeer() {
				return unexpected(f, from)
			}
			if err := t.o.Receive(from, f, dec.Buffered() > 0); err != nil {
				return err
			}
			in.received.Add(1)
			in.bytes.Add(uint64(wire.PeerHeaderSize + len(f.Payload)))
		}
		if err := dec.Fill(); err != nil {
			return err
		}
	}
}

const (
	// maxRefusals bounds the nodes of which is known that they were refused, since anybody may
	// claim to be any.
	maxRefusals = 64
	// refusalPause is the least time between two lines about one of them, since anybody may
	// see to it that there is always something new.
	refusalPause = time.Second
)

// refusals says what was logged of nodes that have been refused, by their number, which may be
// wrong.
type refusals map[uint16]said

// said is a line of the log.
type said struct {
	text string
	at   time.Time
}

// news notes a refusal, and says whether it is to be logged.
func (r refusals) news(from uint16, text string, now time.Time) bool {
	last, known := r[from]
	if !known && len(r) >= maxRefusals || known && (last.text == text || now.Sub(last.at) < refusalPause) {
		return false
	}
	r[from] = said{text, now}
	return true
}

// noteFailure logs that a node was not admitted: if it was refused, and that is new, as a
// warning.
func (t *Transport) noteFailure(from uint16, conn net.Conn, err error) {
	level := slog.LevelDebug
	if refused := (*refusal)(nil); errors.As(err, &refused) {
		t.mu.Lock()
		if t.refusals.news(from, err.Error(), time.Now()) {
			level = slog.LevelWarn
		}
		t.mu.Unlock()
	}
	t.o.Logger.Log(t.ctx, level, "node not admitted", "node", from, "remote", conn.RemoteAddr().String(), "err", err)
}
