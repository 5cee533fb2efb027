package client

import (
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zue-log/zue/client/internal/wiretest"
	"github.com/zue-log/zue/net/wire"
)

// brokenConn takes a number of bytes, and breaks within the write that goes beyond.
type brokenConn struct {
	net.Conn
	room int
}

var errBroken = errors.New("cable cut")

func (c *brokenConn) Write(b []byte) (int, error) {
	if len(b) <= c.room {
		c.room -= len(b)
		return c.Conn.Write(b)
	}
	n, err := c.Conn.Write(b[:c.room])
	c.room -= n
	if err == nil {
		err = errBroken
	}
	return n, err
}

// A write that breaks in the middle of a frame tells the records that may have been
// appended from those that surely were not.
func TestPartialWrite(t *testing.T) {
	for _, reply := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) { partialWrite(t, reply) })
	}
}

func partialWrite(t *testing.T, reply bool) {
	arrived := 0
	frame := wire.AppendRequest{Value: []byte("value")}.Size()
	c, s := piped(t, wiretest.Options{Script: func(n int, f wire.Frame) *wiretest.Action {
		arrived++
		if reply {
			return nil
		}
		return &wiretest.Action{Ignore: true}
	}}, Options{}, func(conn net.Conn) net.Conn { return &brokenConn{Conn: conn, room: 3*frame + frame/2} })
	var errs [6]error
	var wg sync.WaitGroup
	for i := range errs {
		wg.Add(1)
		err := c.AppendAsync(t.Context(), nil, []byte("value"), func(_ uint64, err error) {
			defer wg.Done()
			errs[i] = err
		})
		if err != nil {
			errs[i] = err
			wg.Done()
		}
	}
	wg.Wait()
	c.Close()
	for i, err := range errs {
		switch {
		case i < 3 && reply:
			require.NoError(t, err, "answers are received after sending has failed")
		case i < 3:
			requireOutcome(t, ErrMaybeApplied, err)
			require.ErrorIs(t, err, errBroken)
		default:
			requireOutcome(t, ErrNotApplied, err)
			require.ErrorIs(t, err, errBroken)
			require.ErrorContains(t, err, "append to pipe: surely not appended: connection lost while sending")
		}
	}
	s.Close()
	require.Equal(t, 3, arrived)
}

// shortConn breaks the contract of io.Writer.
type shortConn struct{ net.Conn }

func (c shortConn) Write(b []byte) (int, error) { return c.Conn.Write(b[:1]) }

func TestShortWriteIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := piped(t, wiretest.Options{}, Options{}, func(conn net.Conn) net.Conn { return shortConn{conn} })
		_, err := c.Append(t.Context(), nil, []byte("value"))
		requireOutcome(t, ErrNotApplied, err)
		require.ErrorIs(t, err, io.ErrShortWrite)
	})
}

// An error that no request asked for, as from a server that takes no more
// connections, is reported by whoever comes next.
func TestUnaskedAnswers(t *testing.T) {
	for _, f := range []struct {
		frame []byte
		check func(error)
	}{
		{(&wire.Error{Code: wire.CodeUnknown, Message: "too many connections"}).AppendTo(nil), func(err error) {
			var refusal *wire.Error
			require.ErrorAs(t, err, &refusal)
			require.Equal(t, "too many connections", refusal.Message)
		}},
		{wire.AppendResponse{}.AppendTo(nil), func(err error) { require.ErrorIs(t, err, ErrProtocol) }},
	} {
		near, far := net.Pipe()
		c := newConn(near, "pipe", Options{})
		_, err := far.Write(f.frame)
		require.NoError(t, err)
		<-c.down
		_, err = c.Append(t.Context(), nil, nil)
		requireOutcome(t, ErrNotApplied, err)
		f.check(err)
		c.Close()
		require.NoError(t, far.Close())
	}
}

func TestServerEndsWithinAnAnswer(t *testing.T) {
	near, far := net.Pipe()
	c := newConn(near, "pipe", Options{})
	_, err := far.Write([]byte{9, 0, 0, 0, 2, 1})
	require.NoError(t, err)
	require.NoError(t, far.Close())
	<-c.down
	_, err = c.Read(t.Context(), 3)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	c.Close()
}

// A large request is let through alone, and is not starved by small ones.
func TestRequestLargerThanTheWindow(t *testing.T) {
	s := wiretest.Start(t, wiretest.Options{})
	c := dial(t, s, Options{StallTimeout: time.Minute, MaxInFlightBytes: 1000})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := c.Append(t.Context(), nil, make([]byte, 100)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 10 {
		_, err := c.Append(t.Context(), nil, make([]byte, 100_000))
		require.NoError(t, err)
	}
	close(stop)
	wg.Wait()
}

func TestCallQueueKeepsOrder(t *testing.T) {
	var q callQueue
	next, want := uint64(0), uint64(0)
	for round := range 200 {
		for range round % 37 {
			q.push(call{offset: next})
			next++
		}
		for range min(q.count, round%31) {
			require.Equal(t, want, q.pop().offset)
			want++
		}
	}
	for q.count > 0 {
		require.Equal(t, want, q.pop().offset)
		want++
	}
	require.Equal(t, next, want)
}
