package server

import (
	"context"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zue-log/zue/net/wire"
	"github.com/zue-log/zue/replication/conf"
	"github.com/zue-log/zue/storage"
	"github.com/zue-log/zue/tests/programs"
)

// lazy is a listener that accepts nobody until it is to stop, as on a busy machine.
type lazy struct {
	*net.TCPListener
	once sync.Once
	stop chan struct{}
}

func (l *lazy) SetDeadline(at time.Time) error {
	err := l.TCPListener.SetDeadline(at)
	if !at.IsZero() {
		l.once.Do(func() { close(l.stop) })
	}
	return err
}

func (l *lazy) Accept() (net.Conn, error) {
	<-l.stop
	return l.TCPListener.Accept()
}

func listenLazily(t *testing.T) *lazy {
	return &lazy{TCPListener: programs.Listen(t).(*net.TCPListener), stop: make(chan struct{})}
}

// awaitServe waits until Serve has begun.
func (s *Server) awaitServe(t *testing.T) {
	require.Eventually(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.listeners) == 1
	}, 30*time.Second, time.Millisecond)
}

// Who has connected before a server stops, and waits to be accepted, has his answer as all others
// have: if the connection were reset he could not know whether his record was appended.
func TestShutdownAnswersWhoWaits(t *testing.T) {
	l := listenLazily(t)
	s, log, served := startOn(t, l, storage.Options{})
	s.awaitServe(t)
	gone := dial(t, l.Addr().String()) // before he is accepted
	require.NoError(t, gone.SetLinger(0))
	require.NoError(t, gone.Close())
	var clients []net.Conn
	for range 10 {
		c := dial(t, l.Addr().String())
		send(t, c, "09000000 01 00000000 00000000")
		clients = append(clients, c)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- s.Shutdown(context.Background()) }()
	for _, c := range clients {
		expect(t, c, "09000000 02")
	}
	require.NoError(t, <-stopped)
	require.ErrorIs(t, <-served, ErrStopped)
	require.EqualValues(t, len(clients), log.EndOffset())
	require.NoError(t, log.Close())
	_, err := net.Dial("tcp", l.Addr().String())
	require.Error(t, err, "it does not listen any more")
}

// Who waits when a member's life ends waits for its next one.
func TestTurnLeavesWhoWaits(t *testing.T) {
	l := listenLazily(t)
	defer l.Close()
	turn, err := takeTurn(l)
	require.NoError(t, err)
	s, log, served := startOn(t, turn, storage.Options{})
	s.awaitServe(t)
	c := dial(t, l.Addr().String())
	require.NoError(t, turn.Close())
	require.NoError(t, s.Shutdown(context.Background()))
	<-served
	require.NoError(t, log.Close())
	_, err = takeTurn(l)
	require.NoError(t, err)
	require.NoError(t, l.TCPListener.SetDeadline(time.Now().Add(20*time.Second)))
	next, err := l.TCPListener.Accept()
	require.NoError(t, err)
	defer next.Close()
	require.Equal(t, c.LocalAddr().String(), next.RemoteAddr().String())
}

// So has a client of a cluster's node.
func TestMemberThatStopsAnswersWhoWaits(t *testing.T) {
	parsed, err := conf.Parse([]byte("node 1 127.0.0.1 1 leader"))
	require.NoError(t, err)
	l := listenLazily(t)
	m, err := StartMember(MemberOptions{Dir: filepath.Join(t.TempDir(), "data"), Conf: parsed, Self: 1, Listener: l})
	require.NoError(t, err)
	m.life.server.awaitServe(t)
	p := newPeer(t, l.Addr().String())
	p.send(wire.StatusRequest{})
	stopped := make(chan error, 1)
	go func() { stopped <- m.Stop(context.Background()) }()
	require.Equal(t, wire.TypeStatusResponse, p.frame().Type)
	require.NoError(t, <-stopped)
	_, err = net.Dial("tcp", l.Addr().String())
	require.Error(t, err, "it does not listen any more")
}
