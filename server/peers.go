package server

import (
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/zue-log/zue/net/wire"
)

// Connections of other nodes come to the same port as those of clients, and begin with a peer's
// hello. A session whose first frame that is becomes a peer's: it counts as no client any more,
// and outlives Shutdown, until the transport is closed.

const (
	// extraConnections is how many connections beyond MaxConnections a node of a cluster takes
	// to see whether they are peers': so clients cannot keep those out.
	extraConnections = 64
	// helloTimeout is how long each of them may take to show it.
	helloTimeout = 2 * time.Second
	// maxPeers bounds the connections of other nodes, each of which has two, and of those that
	// say they are.
	maxPeers = 256
)

// peerHello is how a session ends that is a peer's.
type peerHello struct{ frame wire.Frame }

// Error implements error.
func (*peerHello) Error() string { return "the connection is another node's" }

// errTooMany is how a session ends that is no peer's, where there are too many clients.
var errTooMany = errors.New("too many connections")

// isPeer says whether a frame makes the session a peer's.
func (c *session) isPeer(f wire.Frame, first bool) bool {
	return f.Type == wire.TypePeerHello && first && c.server.cluster != nil
}

// refusePeer answers a peer's hello that cannot be served.
func (c *session) refusePeer() {
	text := "a node's hello must be the first on its connection"
	if c.server.cluster == nil {
		text = "this server is no node of a cluster: it was started without a cluster.conf"
	}
	c.refuse(wire.CodeInvalidMessage, text)
}

// servePeer has the transport serve a session that is a peer's, and which is no client's any
// more.
func (s *Server) servePeer(c *session, hello wire.Frame) {
	defer func() {
		s.mu.Lock()
		s.peerCount--
		s.mu.Unlock()
		s.peers.Done()
	}()
	err := c.conn.SetDeadline(time.Time{})
	if err == nil {
		err = s.cluster.peers.Serve(c.conn, c.dec, hello)
	}
	_ = c.conn.Close()
	if err != nil && err != io.EOF && !errors.Is(err, net.ErrClosed) {
		s.logger.Debug("another node's connection has ended", "address", c.conn.RemoteAddr().String(), "err", err)
	}
}

// becomesPeer takes a session out of those that are clients'; false: the server stops, or there
// are too many.
func (s *Server) becomesPeer(c *session) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping || s.peerCount >= maxPeers {
		return false
	}
	s.peerCount++
	s.peers.Add(1)
	delete(s.sessions, c) // Shutdown does not touch it any more
	return true
}

// turnAwayText is what a client is told of which there are too many.
func (s *Server) turnAwayText() string {
	return fmt.Sprintf("this server has %d connections, and takes no more", s.opts.MaxConnections)
}
