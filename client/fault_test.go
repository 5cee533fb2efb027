package client

import (
	"bytes"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zue-log/zue/client/internal/wiretest"
	"github.com/zue-log/zue/net/wire"
)

// piped returns a client of a server behind a pipe, for synctest; wrap may break
// the client's end.
func piped(t *testing.T, o wiretest.Options, opts Options, wrap func(net.Conn) net.Conn) (*conn, *wiretest.Server) {
	t.Helper()
	near, far := net.Pipe()
	s := wiretest.StartUnheard(t, o)
	s.Serve(far)
	if wrap != nil {
		near = wrap(near)
	}
	c := newConn(near, "pipe", opts)
	t.Cleanup(c.Close)
	return c, s
}

// The time that a function takes is not the server's: its answers are there.
func TestSlowCallbackIsNoStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const stall = time.Second
		c, _ := piped(t, wiretest.Options{Script: func(n int, f wire.Frame) *wiretest.Action {
			if n == 1 {
				<-time.After(5 * stall / 2) // in time, counted from the function's end
			}
			return nil
		}}, Options{StallTimeout: stall}, nil)
		slow, errs := make(chan struct{}), make(chan error, 2)
		require.NoError(t, c.AppendAsync(t.Context(), nil, nil, func(_ uint64, err error) {
			close(slow)
			<-time.After(2 * stall)
			errs <- err
		}))
		<-slow
		require.NoError(t, c.AppendAsync(t.Context(), nil, nil, func(_ uint64, err error) { errs <- err }))
		require.NoError(t, <-errs)
		require.NoError(t, <-errs)
		require.NoError(t, c.Err())
	})
}

// stoppedConn is of a process that is stopped within its first read, and goes on
// when the deadline is long past: such a read does not look at what has come.
type stoppedConn struct {
	net.Conn
	stop <-chan time.Time
}

func (c *stoppedConn) Read(b []byte) (int, error) {
	if c.stop != nil {
		<-c.stop
		c.stop = nil
		return 0, os.ErrDeadlineExceeded
	}
	return c.Conn.Read(b)
}

func TestStoppedProcessFindsItsAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const stall = time.Second
		c, s := piped(t, wiretest.Options{}, Options{StallTimeout: stall}, func(conn net.Conn) net.Conn {
			return &stoppedConn{Conn: conn, stop: time.After(2 * stall)}
		})
		offset, err := c.Append(t.Context(), nil, nil)
		require.NoError(t, err)
		require.Zero(t, offset)
		require.Len(t, s.Records(), 1)
	})
}

// deafConn never looks at what has come, for its deadline is always past.
type deafConn struct {
	net.Conn
	reads int
}

func (c *deafConn) Read([]byte) (int, error) {
	c.reads++
	return 0, os.ErrDeadlineExceeded
}

func TestLateLookIsNotRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		conn := &deafConn{Conn: near}
		c := newConn(conn, "pipe", Options{StallTimeout: time.Second})
		<-c.down
		require.ErrorIs(t, c.Err(), ErrStalled)
		c.Close()
		require.NoError(t, far.Close())
		require.Equal(t, 2, conn.reads)
	})
}

// What answers a request that was never sent is no server.
func TestAnswerBeforeItsRequest(t *testing.T) {
	for name, reply := range map[string][]byte{
		"answer": wire.AppendResponse{Offset: 5}.AppendTo(nil),
		"error":  (&wire.Error{Code: wire.CodeLogFull}).AppendTo(nil),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, far := net.Pipe()
				c := newConn(near, "pipe", Options{})
				errs := make(chan error, 2)
				for range 2 {
					// A pipe takes the first chunk of the first frame, and
					// no more: nobody reads at its other end.
					require.NoError(t, c.AppendAsync(t.Context(), nil, make([]byte, 2*writeChunk), func(_ uint64, err error) { errs <- err }))
				}
				synctest.Wait()
				_, err := far.Write(reply)
				require.NoError(t, err)
				for range 2 {
					err := <-errs
					requireOutcome(t, ErrNotApplied, err)
					if name == "answer" {
						require.ErrorIs(t, err, ErrProtocol)
					} else {
						require.ErrorContains(t, err, "the server gave the connection up: log_full")
					}
				}
				require.Error(t, c.Err())
				c.Close()
				require.NoError(t, far.Close())
			})
		})
	}
}

// heldMemory returns the bytes in use, once they are no more than limit or, if they
// stay above it, after a while.
func heldMemory(limit uint64) uint64 {
	var m runtime.MemStats
	for deadline := time.Now().Add(5 * time.Second); ; {
		runtime.GC()
		runtime.ReadMemStats(&m)
		if m.HeapAlloc <= limit || time.Now().After(deadline) {
			return m.HeapAlloc
		}
	}
}

func TestIdleClientHoldsNoLargeAnswer(t *testing.T) {
	const large = 5 << 20
	s := wiretest.Start(t, wiretest.Options{})
	s.Append(nil, make([]byte, large))
	clients := make([]*conn, 4)
	for i := range clients {
		clients[i] = dial(t, s, Options{})
	}
	runtime.GC() // twice, for what is in pools
	before := heldMemory(0x7fffffffffffffff)
	for _, c := range clients {
		_, err := c.Read(t.Context(), 0)
		require.NoError(t, err)
	}
	require.Less(t, heldMemory(before+large), before+large, "four clients")
	runtime.KeepAlive(clients)
}

// A function that ends the receiver's goroutine takes no other answer along.
func TestGoexitInACallback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		c := newConn(near, "pipe", Options{})
		var errs []error
		var wg sync.WaitGroup
		for i := range 6 {
			wg.Add(1)
			require.NoError(t, c.AppendAsync(t.Context(), nil, nil, func(_ uint64, err error) {
				defer wg.Done()
				errs = append(errs, err)
				if i != 3 {
					runtime.Goexit()
				}
			}))
		}
		requests := make([]byte, 6*wire.AppendRequest{}.Size())
		_, err := io.ReadFull(far, requests)
		require.NoError(t, err)
		_, err = far.Write(bytes.Repeat(wire.AppendResponse{}.AppendTo(nil), 3))
		require.NoError(t, err)
		wg.Wait()
		require.Len(t, errs, 6)
		require.NoError(t, errs[0])
		for _, err := range errs[1:] {
			requireOutcome(t, ErrMaybeApplied, err)
			require.ErrorContains(t, err, "Goexit")
		}
		_, err = c.Append(t.Context(), nil, nil)
		requireOutcome(t, ErrNotApplied, err)
		c.Close()
		require.NoError(t, far.Close())
	})
}

func TestDoneAndErr(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := piped(t, wiretest.Options{}, Options{}, nil)
		_, err := c.Append(t.Context(), nil, nil)
		require.NoError(t, err)
		select {
		case <-c.down:
			t.Fatal("lost")
		default:
		}
		require.NoError(t, c.Err())
		s.Close() // while nothing is asked
		<-c.down
		require.ErrorContains(t, c.Err(), "the server closed the connection")

		c, _ = piped(t, wiretest.Options{}, Options{}, nil)
		c.Close()
		<-c.down
		require.Equal(t, ErrClosed, c.Err())
	})
}
