package integration

import (
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
	"github.com/zue-log/zue/net/wire"
	"github.com/zue-log/zue/storage"
	"github.com/zue-log/zue/storage/batch"
)

var soakRounds = flag.Int("soak.rounds", 6, "how often TestSoak kills the server")

// soak is several producers that append to a server which is killed now and then.
type soak struct {
	t    *testing.T
	addr atomic.Pointer[string] // of the server that runs now; nil: none
	stop chan struct{}
}

// link is a connection of one producer.
type link struct {
	net.Conn
	*wire.Decoder
}

// connect waits for a server and connects to it; nil once the test is over.
func (s *soak) connect() *link {
	for {
		select {
		case <-s.stop:
			return nil
		case <-time.After(time.Millisecond):
		}
		addr := s.addr.Load()
		if addr == nil {
			continue
		}
		if c, err := net.Dial("tcp", *addr); err == nil {
			return &link{c, wire.NewDecoder(c, wire.MaxLargeFrame)}
		}
	}
}

// ask sends a frame and returns the answer.
func (l *link) ask(frame []byte) (wire.Frame, error) {
	if _, err := l.Write(frame); err != nil {
		return wire.Frame{}, err
	}
	for {
		f, ok, err := l.Next()
		if err != nil || ok {
			return f, err
		}
		if err := l.Fill(); err != nil {
			return wire.Frame{}, err
		}
	}
}

// produce appends batches of the producer until the test is over, each until it is
// acknowledged, and returns how many records were.
func (s *soak) produce(name int, duplicates *atomic.Int64) (acked int) {
	rng := rand.New(rand.NewPCG(uint64(name), 0))
	var id int64 = -1
	var frame []byte
	var n int
	for l := s.connect(); l != nil; l = s.connect() {
		for {
			if id < 0 {
				f, err := l.ask(wire.ProducerRequest{}.AppendTo(nil))
				if err != nil {
					break
				}
				m, err := wire.ParseProducerResponse(f.Payload)
				if err != nil {
					s.t.Errorf("producer: %v", err)
					return acked
				}
				id = m.ID
			}
			if frame == nil {
				n = 1 + rng.IntN(20)
				frame = produced(id, name, acked, n)
			}
			f, err := l.ask(frame)
			if err != nil {
				break // and send the same again to the next server
			}
			m, err := wire.ParseBatchAppendResponse(f.Payload)
			if f.Type != wire.TypeBatchAppendResponse || err != nil {
				s.t.Errorf("answer of type %s: %q", f.Type, f.Payload)
				return acked
			}
			if m.Duplicate {
				duplicates.Add(1)
			}
			frame, acked = nil, acked+n
		}
		_ = l.Close()
	}
	return acked
}

// produced is the frame of a batch of n records "name/number" from the number first on.
func produced(id int64, name, first, n int) []byte {
	records := make([]batch.Record, n)
	for i := range records {
		records[i].Value = fmt.Appendf(nil, "%d/%d", name, first+i)
	}
	body := batch.Append(nil, records, 1)
	err := batch.SetProducer(body, id, 0, int32(first))
	frame, err2 := wire.BatchAppendRequest{Checksum: batch.Checksum(body), Body: body}.AppendTo(nil)
	if err := errors.Join(err, err2); err != nil {
		panic(err)
	}
	return frame
}

// TestSoak kills the server again and again under load. In the end each record that was
// acknowledged is in the log, none is there twice, and those of each producer are in order.
func TestSoak(t *testing.T) {
	dir := t.TempDir()
	s := &soak{t: t, stop: make(chan struct{})}
	const producers = 4
	var acked [producers]int
	var duplicates atomic.Int64
	var wg sync.WaitGroup
	for i := range producers {
		wg.Go(func() { acked[i] = s.produce(i, &duplicates) })
	}
	rng := rand.New(rand.NewPCG(7, 7))
	for range *soakRounds {
		server := startServer(t, dir, "--segment-size", "1MiB")
		addr := server.addr()
		s.addr.Store(&addr)
		time.Sleep(time.Duration(100+rng.IntN(400)) * time.Millisecond) // load, not a wait for something
		s.addr.Store(nil)
		server.kill()
	}
	server := startServer(t, dir)
	addr := server.addr()
	s.addr.Store(&addr)
	time.Sleep(200 * time.Millisecond)
	close(s.stop)
	// Each ends when it finds its connection gone.
	require.NoError(t, server.stop(syscall.SIGTERM))
	wg.Wait()

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
		// A batch may be there whose receipt was lost at the end.
		require.GreaterOrEqual(t, next[i], acked[i], "producer %d", i)
		require.LessOrEqual(t, next[i], acked[i]+20)
		total += acked[i]
	}
	require.Positive(t, total)
	t.Logf("%d records acknowledged, %d batches told as sent again", total, duplicates.Load())
	require.NoError(t, l.Close())
}
