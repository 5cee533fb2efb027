package server

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zue-log/zue/net/wire"
	"github.com/zue-log/zue/storage"
	"github.com/zue-log/zue/storage/batch"
)

// large is the frame of an append of so many bytes.
func large(n int) []byte {
	b, err := wire.AppendRequest{Value: make([]byte, n)}.AppendTo(nil)
	if err != nil {
		panic(err)
	}
	return b
}

// free says whether n bytes of the memory for requests are free.
func (s *Server) hasMemory(n int64) bool {
	ok := s.memory.TryAcquire(n)
	if ok {
		s.memory.Release(n)
	}
	return ok
}

// A client that sends large frames without a pause has the time for each that is its due.
func TestLargeFramesWithoutAPause(t *testing.T) {
	addr, _, _ := start(t, storage.Options{}, func(s *Server) { s.frameTimeout = time.Second })
	c := dial(t, addr)
	frame := large(70_000)
	half := len(frame) / 2
	_, err := c.Write(frame[:half])
	require.NoError(t, err)
	// The rest of one, and half of the next, for longer than one may take: 2.1 s.
	for began := time.Now(); time.Since(began) < 3*time.Second; {
		_, err = c.Write(append(append([]byte(nil), frame[half:]...), frame[:half]...))
		require.NoError(t, err)
		_, err = io.ReadFull(c, make([]byte, 13))
		require.NoError(t, err)
		<-time.After(20 * time.Millisecond) // a pause that it may make
	}
}

// Each large frame takes what it needs, not what the one before it did.
func TestEachLargeFrameIsPaidFor(t *testing.T) {
	addr, s, _ := start(t, storage.Options{})
	c := dial(t, addr)
	one, ten := large(70_000), large(10<<20-100)
	_, err := c.Write(one[:60_000])
	require.NoError(t, err)
	require.Eventually(t, func() bool { return !s.hasMemory(DefaultMaxRequestBytes) }, 10*time.Second, time.Millisecond)
	_, err = c.Write(append(one[60_000:], ten[:10_000]...))
	require.NoError(t, err)
	_, err = io.ReadFull(c, make([]byte, 13))
	require.NoError(t, err)
	require.Eventually(t, func() bool { return !s.hasMemory(DefaultMaxRequestBytes - 10<<20) }, 10*time.Second, time.Millisecond)
	_, err = c.Write(ten[10_000:])
	require.NoError(t, err)
	_, err = io.ReadFull(c, make([]byte, 13))
	require.NoError(t, err)
	require.Eventually(t, func() bool { return s.hasMemory(DefaultMaxRequestBytes) }, 10*time.Second, time.Millisecond)
}

// A request that was answered takes up nothing while the one behind it waits.
func TestWaitingFetchTakesUpNoMemory(t *testing.T) {
	addr, s, _ := start(t, storage.Options{})
	c := dial(t, addr)
	b := large(7 << 20)
	_, err := c.Write(b[:len(b)-50_000])
	require.NoError(t, err)
	fetch := wire.FetchRequest{Offset: 1, MaxBytes: 1 << 20, MinBytes: 1, WaitMillis: 20_000}
	_, err = c.Write(fetch.AppendTo(b[len(b)-50_000:]))
	require.NoError(t, err)
	_, err = io.ReadFull(c, make([]byte, 13))
	require.NoError(t, err)
	require.Eventually(t, func() bool { return s.hasMemory(DefaultMaxRequestBytes) }, 10*time.Second, time.Millisecond)
}

// A stopping server answers a large request that has arrived.
func TestShutdownAnswersALargeRequest(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s, log, served := startOn(t, l, storage.Options{})
	p := newPeer(t, l.Addr().String())
	p.send(wire.BarrierRequest{})
	require.Equal(t, wire.TypeBarrierResponse, p.frame().Type) // the session runs
	p.send(wire.FetchRequest{MaxBytes: 1 << 20, MinBytes: 1, WaitMillis: 20_000})
	_, err = p.c.Write(large(200_000))
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- s.Shutdown(context.Background()) }()
	require.Equal(t, wire.TypeFetchResponse, p.frame().Type)
	require.Equal(t, wire.TypeAppendResponse, p.frame().Type)
	require.NoError(t, p.c.Close())
	require.NoError(t, <-done)
	require.ErrorIs(t, <-served, ErrStopped)
	require.NoError(t, log.Close())
}

// Nothing follows a write that has failed: nobody knows how much of it was written.
func TestNothingFollowsAFailedWrite(t *testing.T) {
	_, s, _ := start(t, storage.Options{}, func(s *Server) { s.writeTimeout = time.Second })
	near, far := net.Pipe()
	s.open(far)
	defer near.Close()
	b, err := wire.AppendRequest{Value: []byte("v")}.AppendTo(nil)
	require.NoError(t, err)
	b = wire.FetchRequest{Offset: 1, MaxBytes: 1 << 20, MinBytes: 1, WaitMillis: 100}.AppendTo(b)
	_, err = near.Write(b)
	require.NoError(t, err)
	_, err = io.ReadFull(near, make([]byte, 5))
	require.NoError(t, err)
	require.Eventually(t, func() bool { return s.count() == 0 }, 30*time.Second, 10*time.Millisecond, "the server gives up")
	rest, err := io.ReadAll(near)
	require.NoError(t, err)
	require.Empty(t, rest)
}

// What is not sent from a mapped file is paid for, as long as its client does not take it.
func TestUnreadAnswersArePaidFor(t *testing.T) {
	addr, s, log := start(t, storage.Options{Compression: batch.CodecZstd})
	const size = 9 << 20
	_, err := log.Append(storage.Record{Key: make([]byte, size), Value: []byte("v")})
	require.NoError(t, err)
	_, err = log.Append(storage.Record{Value: make([]byte, size)})
	require.NoError(t, err)
	for offset := range uint64(2) {
		c := dial(t, addr)
		require.NoError(t, c.SetReadBuffer(256<<10))
		_, err := c.Write(wire.ReadRequest{Offset: offset}.AppendTo(nil))
		require.NoError(t, err)
		require.Eventually(t, func() bool { return !s.hasMemory(DefaultMaxRequestBytes - size) }, 10*time.Second, time.Millisecond)
		_, err = io.ReadFull(c, make([]byte, size))
		require.NoError(t, err)
		require.Eventually(t, func() bool { return s.hasMemory(DefaultMaxRequestBytes) }, 10*time.Second, time.Millisecond)
	}
}

// A fetch of no bytes waits as others do, and has an entry.
func TestFetchOfNoBytes(t *testing.T) {
	addr, _, log := start(t, storage.Options{})
	p := newPeer(t, addr)
	p.send(wire.FetchRequest{MinBytes: 1, WaitMillis: 20_000})
	go func() { _, _ = log.Append(storage.Record{Value: []byte("v")}) }()
	m, err := wire.ParseFetchResponse(p.frame().Payload)
	require.NoError(t, err)
	require.NotEmpty(t, m.Entries)
}
