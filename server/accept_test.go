package server

import (
	"context"
	"net"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/zue-log/zue/net/wire"
	"github.com/zue-log/zue/replication/conf"
	"github.com/zue-log/zue/storage"
	"github.com/zue-log/zue/tests/programs"
)

// lazy is a listener that does not accept until it is told to, as on a busy machine.
type lazy struct {
	*net.TCPListener
	gate chan struct{}
}

func (l *lazy) Accept() (net.Conn, error) {
	<-l.gate
	return l.TCPListener.Accept()
}

func listenLazily(t *testing.T) *lazy {
	return &lazy{programs.Listen(t).(*net.TCPListener), make(chan struct{})}
}

// Who has connected before a server stops, and waits to be accepted, has his answer as all others
// have: if the connection were reset he could not know whether his record was appended.
func TestShutdownAnswersWhoWaits(t *testing.T) {
	log, err := storage.Open(t.TempDir(), storage.Options{})
	require.NoError(t, err)
	s, err := New(log, Options{})
	require.NoError(t, err)
	l := listenLazily(t)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	var clients []net.Conn
	for range 10 {
		c := dial(t, l.Addr().String())
		send(t, c, "09000000 01 00000000 00000000")
		clients = append(clients, c)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- s.Shutdown(context.Background()) }()
	<-s.stopped
	close(l.gate)
	for _, c := range clients {
		expect(t, c, "09000000 02")
	}
	require.NoError(t, <-stopped)
	require.ErrorIs(t, <-served, ErrStopped)
	require.EqualValues(t, len(clients), log.EndOffset())
	require.NoError(t, log.Close())
	_, err = net.Dial("tcp", l.Addr().String())
	require.Error(t, err, "it does not listen any more")
}

// So has a client of a cluster's node.
func TestMemberThatStopsAnswersWhoWaits(t *testing.T) {
	parsed, err := conf.Parse([]byte("node 1 127.0.0.1 1 leader"))
	require.NoError(t, err)
	l := listenLazily(t)
	m, err := StartMember(MemberOptions{Dir: filepath.Join(t.TempDir(), "data"), Conf: parsed, Self: 1, Listener: l})
	require.NoError(t, err)
	p := newPeer(t, l.Addr().String())
	p.send(wire.StatusRequest{})
	stopped := make(chan error, 1)
	go func() { stopped <- m.Stop(context.Background()) }()
	<-m.life.server.stopped
	close(l.gate)
	require.Equal(t, wire.TypeStatusResponse, p.frame().Type)
	require.NoError(t, <-stopped)
	_, err = net.Dial("tcp", l.Addr().String())
	require.Error(t, err, "it does not listen any more")
}
