package integration

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zue-log/zue/client"
	"github.com/zue-log/zue/storage"
)

var soakRounds = flag.Int("soak.rounds", 6, "how often TestSoak kills the server")

// soak is several producers that append to a server which is killed now and then.
type soak struct {
	t    *testing.T
	addr atomic.Pointer[string] // of the server that runs now; nil: none
	stop chan struct{}
}

// dial connects to the server that runs now.
func (s *soak) dial(ctx context.Context, _ string) (net.Conn, error) {
	addr := s.addr.Load()
	if addr == nil {
		return nil, errors.New("no server runs")
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", *addr)
}

// produce appends the values "name/number" until the test is over, and returns how many
// were acknowledged.
func (s *soak) produce(name int) (acked int) {
	c, err := client.Dial(s.t.Context(), []string{"soak:1"}, client.Options{Dial: s.dial, Backoff: time.Millisecond, MaxBackoff: 10 * time.Millisecond})
	if err != nil {
		s.t.Error(err)
		return 0
	}
	defer c.Close()
	p, err := c.Producer(client.ProducerOptions{MaxBytes: 500, MaxBuffered: 20_000, Idempotent: true, Timeout: 5 * time.Minute})
	if err != nil {
		s.t.Error(err)
		return 0
	}
	for n := 0; ; n++ {
		select {
		case <-s.stop:
			_ = p.Close() // waits for the answers
			return acked
		default:
		}
		err := p.Send(s.t.Context(), client.Record{Value: fmt.Appendf(nil, "%d/%d", name, n)}, func(_ uint64, err error) {
			if err != nil {
				s.t.Errorf("%d/%d: %v", name, n, err)
			}
			acked++
		})
		if err != nil {
			s.t.Errorf("%d/%d: %v", name, n, err)
			<-s.stop
		}
	}
}

// TestSoak kills the server again and again under load. In the end each record that was
// acknowledged is in the log, none is there twice, and those of each producer are in order.
func TestSoak(t *testing.T) {
	dir := t.TempDir()
	s := &soak{t: t, stop: make(chan struct{})}
	const producers = 4
	var acked [producers]int
	var wg sync.WaitGroup
	start := func() *server {
		server := startServer(t, dir, "--segment-size", "1MiB")
		addr := server.addr()
		s.addr.Store(&addr)
		return server
	}
	server := start()
	for i := range producers {
		wg.Go(func() { acked[i] = s.produce(i) })
	}
	rng := rand.New(rand.NewPCG(7, 7))
	load := func() { time.Sleep(time.Duration(100+rng.IntN(400)) * time.Millisecond) } // not a wait for something
	for range *soakRounds {
		load()
		s.addr.Store(nil)
		server.kill()
		server = start()
	}
	load()
	close(s.stop)
	wg.Wait()
	require.NoError(t, server.stop(syscall.SIGTERM))

	l, err := storage.Open(dir, storage.Options{ReadOnly: true})
	require.NoError(t, err)
	var next [producers]int
	it, err := l.Iterate(0)
	require.NoError(t, err)
	for it.Next() {
		var name, number int
		_, err := fmt.Sscanf(string(it.Record().Value), "%d/%d", &name, &number)
		require.NoError(t, err)
		require.Equal(t, next[name], number, "producer %d at offset %d", name, it.Record().Offset)
		next[name]++
	}
	require.NoError(t, it.Err())
	it.Close()
	total := 0
	for i := range producers {
		require.Equal(t, acked[i], next[i], "producer %d", i)
		total += acked[i]
	}
	require.Positive(t, total)
	t.Logf("%d records acknowledged, each in the log once", total)
	require.NoError(t, l.Close())
}
