package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/zue-log/zue/net/wire"
	"github.com/zue-log/zue/storage"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"
)

const (
	// acceptPause is how long the server waits after a failed accept, which is
	// mostly for want of file descriptors.
	acceptPause = 50 * time.Millisecond
	// writeTimeout is how long a client may take for writeChunk bytes of its answers
	// before it is dropped.
	writeTimeout = 30 * time.Second
	// frameTimeout is how long a client may send nothing within a frame.
	frameTimeout = 30 * time.Second
	writeChunk   = 64 << 10
	// drainPause is how long a connection of a stopping server may send nothing
	// before it is closed, drainTime how long it may go on sending.
	drainPause = 20 * time.Millisecond
	drainTime  = 2 * time.Second
	// maxAcceptWaiting is how long connections may go on coming to a listener that is to be closed.
	maxAcceptWaiting = time.Second
)

// ErrStopped is returned by Serve after Shutdown.
var ErrStopped = errors.New("server has been stopped")

// Server serves one log on any number of listeners. Its methods may be called
// concurrently.
type Server struct {
	log          *storage.Log
	opts         Options
	logger       *slog.Logger
	frameTimeout time.Duration
	writeTimeout time.Duration
	started      time.Time
	copies       uint32 // what receipts say
	memory       *semaphore.Weighted
	producers    producers
	cluster      *cluster        // nil: this is no node of one
	waits        context.Context // ends when the server stops
	endWaits     context.CancelFunc

	mu        sync.Mutex
	stopping  bool
	stopped   chan struct{} // closed when stopping is set
	listeners map[net.Listener]struct{}
	sessions  map[*session]struct{}
	running   sync.WaitGroup // sessions and scrubs
	serving   sync.WaitGroup // Serve calls, which begin sessions
	scrubbing sync.Once
	peers     sync.WaitGroup // connections of other nodes
	peerCount int
}

// Options configures a server. The zero value is the default configuration.
type Options struct {
	// Logger gets a line for each event that an operator should know of. Default: none.
	Logger *slog.Logger
	// MaxConnections is how many clients may be connected at once; a further one is told
	// so and hung up on. Default: DefaultMaxConnections.
	MaxConnections int
	// MaxRequestBytes bounds the memory, in bytes, for frames of more than 64 KiB that
	// are being received, and for answers as long that do not come from a mapped file, from
	// MinRequestBytes: those beyond it wait until there is room, and are refused after
	// 30 s. Default: DefaultMaxRequestBytes.
	MaxRequestBytes int64
	// ScrubInterval is the time between two scrubs: each reads the whole log, logs what is
	// damaged, and has a cluster's node mend it. Negative: there are none. Default:
	// DefaultScrubInterval.
	ScrubInterval time.Duration
	// ScrubRate is how many bytes a second a scrub reads at most. Default: DefaultScrubRate.
	ScrubRate int64
	// Sync is the policy that the log was opened with, which receipts and the status
	// tell of. Default: storage.SyncAlways.
	Sync storage.SyncPolicy
}

// Defaults and bounds of Options.
const (
	DefaultMaxConnections  = 20_000
	DefaultMaxRequestBytes = 256 << 20
	// MinRequestBytes is what the largest frame takes.
	MinRequestBytes = bufferFactor * (wire.HeaderSize + wire.MaxLargeFrame)
)

// Validate reports every fault of o at once.
func (o *Options) Validate() error {
	var errs []error
	if o.MaxConnections < 0 {
		errs = append(errs, fmt.Errorf("at most %d connections: want 1 or more, or 0 for %d", o.MaxConnections, DefaultMaxConnections))
	}
	if o.MaxRequestBytes != 0 && o.MaxRequestBytes < MinRequestBytes {
		errs = append(errs, fmt.Errorf("%d bytes for requests: want %d or more, or 0 for %d", o.MaxRequestBytes, int64(MinRequestBytes), int64(DefaultMaxRequestBytes)))
	}
	if o.ScrubRate < 0 {
		errs = append(errs, fmt.Errorf("a scrub of %d bytes a second: want 1 or more, or 0 for %d", o.ScrubRate, DefaultScrubRate))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("server options: %w", err)
	}
	return nil
}

// New returns a server of log that stands alone: see [StartMember] for one of a cluster. The log
// stays the caller's to close, after Shutdown. The error is that of Options.Validate.
func New(log *storage.Log, o Options) (*Server, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.MaxConnections == 0 {
		o.MaxConnections = DefaultMaxConnections
	}
	if o.MaxRequestBytes == 0 {
		o.MaxRequestBytes = DefaultMaxRequestBytes
	}
	if o.ScrubInterval == 0 {
		o.ScrubInterval = DefaultScrubInterval
	}
	if o.ScrubRate == 0 {
		o.ScrubRate = DefaultScrubRate
	}
	s := &Server{
		memory:       semaphore.NewWeighted(o.MaxRequestBytes),
		frameTimeout: frameTimeout,
		writeTimeout: writeTimeout,
		log:          log,
		opts:         o,
		logger:       o.Logger,
		started:      time.Now(),
		stopped:      make(chan struct{}),
		listeners:    map[net.Listener]struct{}{},
		sessions:     map[*session]struct{}{},
	}
	if o.Sync == storage.SyncAlways() {
		s.copies = standaloneCopies
	}
	s.waits, s.endWaits = context.WithCancel(context.Background())
	return s, nil
}

// Serve accepts connections on l, which it closes, until Shutdown; then it
// returns ErrStopped. It fails otherwise only if l does for good. Those who have connected by
// then are still accepted if l has SetDeadline and is a [syscall.Conn], as a [net.TCPListener].
func (s *Server) Serve(l net.Listener) error {
	s.mu.Lock()
	if s.stopping {
		s.mu.Unlock()
		return errors.Join(ErrStopped, l.Close())
	}
	s.listeners[l] = struct{}{}
	s.serving.Add(1)
	s.mu.Unlock()
	defer s.serving.Done()
	s.scrubbing.Do(func() {
		if s.opts.ScrubInterval > 0 {
			s.running.Add(1)
			go s.scrub()
		}
	})
	defer func() {
		s.mu.Lock()
		delete(s.listeners, l)
		s.mu.Unlock()
		_ = l.Close() // stopAccepting may have closed it already
	}()
	for {
		conn, err := l.Accept()
		if err == nil {
			s.open(conn)
			continue
		}
		select {
		case <-s.stopped:
			if !errors.Is(err, net.ErrClosed) {
				s.acceptWaiting(l)
			}
			return ErrStopped
		default:
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("accept on %s: %w", l.Addr(), err)
		}
		s.logger.Warn("could not accept a connection", "listener", l.Addr().String(), "err", err)
		select {
		case <-s.stopped:
		case <-time.After(acceptPause):
		}
	}
}

// deadliner is a listener whose Accept can be ended without closing it, as a [net.TCPListener]'s.
type deadliner interface{ SetDeadline(time.Time) error }

// acceptWaiting accepts the connections that the system has for a listener which is closed next.
// Their clients have connected, and may have sent requests, of which they could not know what
// became if the system reset them. It asks the system whether there are some, without waiting:
// Accept would look for none when its deadline has passed, which on a busy machine comes before
// those that have come meanwhile. The listener must be a [syscall.Conn]; else nobody is accepted.
func (s *Server) acceptWaiting(l net.Listener) {
	sc, ok := l.(syscall.Conn)
	d, can := l.(deadliner)
	if !ok || !can {
		return
	}
	end := time.Now().Add(maxAcceptWaiting)
	raw, err := sc.SyscallConn()
	if err != nil || d.SetDeadline(end) != nil {
		return
	}
	for time.Now().Before(end) {
		waiting := 0
		var failed error
		err := raw.Control(func(fd uintptr) {
			waiting, failed = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		})
		if err == nil && failed == unix.EINTR {
			continue
		}
		if err != nil || waiting <= 0 {
			return
		}
		conn, err := l.Accept()
		if err != nil {
			s.logger.Warn("could not accept a connection of those that waited when the server stopped", "listener", l.Addr().String(), "err", err)
			return
		}
		s.open(conn)
	}
}

// open starts the session of a new connection. Its caller is Serve, for which Shutdown waits
// before it waits for sessions.
func (s *Server) open(conn net.Conn) {
	c := newSession(s, conn)
	if n := s.count(); n >= s.opts.MaxConnections {
		if s.cluster == nil || n >= s.opts.MaxConnections+extraConnections || conn.SetReadDeadline(time.Now().Add(helloTimeout)) != nil {
			s.turnAway(c)
			return
		}
		c.extra = true
	}
	s.mu.Lock()
	s.running.Add(1)
	s.sessions[c] = struct{}{}
	s.mu.Unlock()
	go func() {
		hello := c.run()
		s.mu.Lock()
		delete(s.sessions, c)
		s.mu.Unlock()
		s.running.Done()
		if hello != nil {
			s.servePeer(c, hello.frame)
		}
	}()
}

// count returns how many sessions there are.
func (s *Server) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sessions)
}

// turnAway tells a client that there are too many, if that takes no time, and hangs up.
func (s *Server) turnAway(c *session) {
	s.logger.Warn("connection refused: there are too many", "client", c.conn.RemoteAddr().String(), "max_connections", s.opts.MaxConnections)
	c.refuse(wire.CodeOverloaded, s.turnAwayText())
	// A new connection's buffer is empty: the write does not wait.
	if c.conn.SetWriteDeadline(time.Now().Add(time.Second)) == nil {
		_, _ = c.conn.Write(c.out)
	}
	_ = c.conn.Close()
}

// stopAccepting closes the listeners, when the connections that wait there are accepted. Sessions
// go on.
func (s *Server) stopAccepting() {
	s.mu.Lock()
	if !s.stopping {
		s.stopping = true
		close(s.stopped)
		for l := range s.listeners { // Accept ends by it, and Serve
			if d, ok := l.(deadliner); !ok || d.SetDeadline(time.Unix(1, 0)) != nil {
				_ = l.Close()
			}
		}
	}
	s.mu.Unlock()
	s.serving.Wait()
}

// Shutdown accepts who has connected, and nobody after that, has the requests answered that
// have arrived, closes each connection when it has sent nothing for some 20 ms, or after
// 2 s, and waits for that. When ctx ends first the connections are closed at once, and the
// error is ctx's. Connections of other nodes stay until the cluster's transport is closed.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stopAccepting()
	s.mu.Lock()
	s.endWaits()
	for c := range s.sessions {
		c.finish()
	}
	s.mu.Unlock()

	done := make(chan struct{})
	go func() {
		s.running.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	if s.cluster != nil {
		s.cluster.cut()
	}
	s.mu.Lock()
	for c := range s.sessions {
		_ = c.conn.Close()
	}
	s.mu.Unlock()
	<-done
	return fmt.Errorf("server stopped with requests unanswered: %w", ctx.Err())
}
