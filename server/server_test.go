package server

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zue-log/zue/net/wire"
	"github.com/zue-log/zue/storage"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start serves a new log and returns where; the test's end stops it. tune changes the
// server before it begins.
func start(t testing.TB, o storage.Options, tune ...func(*Server)) (addr string, s *Server, log *storage.Log) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s, log, served := startOn(t, l, o, tune...)
	t.Cleanup(func() {
		require.NoError(t, s.Shutdown(context.Background()))
		require.ErrorIs(t, <-served, ErrStopped)
		require.NoError(t, log.Close())
	})
	return l.Addr().String(), s, log
}

// startOn is start on a listener. To stop the server, see what Serve returns, and close the log is
// the caller's.
func startOn(t testing.TB, l net.Listener, o storage.Options, tune ...func(*Server)) (s *Server, log *storage.Log, served chan error) {
	t.Helper()
	log, err := storage.Open(t.TempDir(), o)
	require.NoError(t, err)
	s, err = New(log, Options{Sync: o.Sync})
	require.NoError(t, err)
	for _, f := range tune {
		f(s)
	}
	served = make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	return s, log, served
}

func dial(t testing.TB, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	require.NoError(t, c.SetDeadline(time.Now().Add(20*time.Second)))
	return c.(*net.TCPConn)
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	require.NoError(t, err)
	return b
}

// expect reads exactly the bytes that want gives in hex.
func expect(t testing.TB, c net.Conn, want string) {
	t.Helper()
	w := unhex(t, want)
	got := make([]byte, len(w))
	_, err := io.ReadFull(c, got)
	require.NoError(t, err)
	require.Equal(t, hex.EncodeToString(w), hex.EncodeToString(got))
}

func send(t testing.TB, c net.Conn, text string) {
	t.Helper()
	_, err := c.Write(unhex(t, text))
	require.NoError(t, err)
}

// expectError reads an error response with the code.
func expectError(t testing.TB, c net.Conn, code wire.Code) string {
	t.Helper()
	var head [5]byte
	_, err := io.ReadFull(c, head[:])
	require.NoError(t, err)
	require.EqualValues(t, wire.TypeError, head[4])
	payload := make([]byte, binary.LittleEndian.Uint32(head[:])-1)
	_, err = io.ReadFull(c, payload)
	require.NoError(t, err)
	e, err := wire.ParseError(payload)
	require.NoError(t, err)
	require.Equal(t, code, e.Code, e.Message)
	return e.Message
}

// TestBytes holds the server to the original messages, byte by byte.
func TestBytes(t *testing.T) {
	addr, _, _ := start(t, storage.Options{})
	c := dial(t, addr)
	// key "k", value "val" -> offset 0
	send(t, c, "0d000000 01 01000000 6b 03000000 76616c")
	expect(t, c, "09000000 02 0000000000000000")
	// null key, value "v" -> offset 1
	send(t, c, "0a000000 01 ffffffff 01000000 76")
	expect(t, c, "09000000 02 0100000000000000")
	// empty key, empty value -> offset 2
	send(t, c, "09000000 01 00000000 00000000")
	expect(t, c, "09000000 02 0200000000000000")

	send(t, c, "09000000 03 0000000000000000")
	expect(t, c, "0d000000 04 01000000 6b 03000000 76616c")
	send(t, c, "09000000 03 0100000000000000")
	expect(t, c, "0a000000 04 ffffffff 01000000 76")
	send(t, c, "09000000 03 0200000000000000")
	expect(t, c, "09000000 04 00000000 00000000")

	send(t, c, "09000000 03 0300000000000000")
	require.Contains(t, expectError(t, c, wire.CodeInvalidOffset), "offset 3")
	send(t, c, "09000000 03 ffffffffffffffff")
	expectError(t, c, wire.CodeInvalidOffset)
}

// TestBadFrames sends what is malformed inside a whole frame: an error each, and
// the connection lives.
func TestBadFrames(t *testing.T) {
	addr, _, _ := start(t, storage.Options{})
	c := dial(t, addr)
	for _, bad := range []string{
		"01000000 01",                         // append without a payload
		"05000000 01 feffffff",                // key length -2
		"0a000000 01 ffffffff 05000000 76",    // value longer than the frame
		"0b000000 01 ffffffff 01000000 76 00", // a byte too many
		"0a000000 01 ffffffff ffffffff 76",    // null value
		"05000000 03 00000000",                // half an offset
		"09000000 02 0000000000000000",        // a response
		"01000000 00",                         // unknown types
		"02000000 7e 00", "06000000 ff 00 00000000",
	} {
		send(t, c, bad)
		require.NotEmpty(t, expectError(t, c, wire.CodeInvalidMessage), bad)
	}
	send(t, c, "0a000000 01 ffffffff 01000000 76")
	expect(t, c, "09000000 02 0000000000000000")
}

// TestLostFraming sends lengths that no frame has: one error, and the end. What
// came before is answered, though it came in the same segment.
func TestLostFraming(t *testing.T) {
	addr, _, _ := start(t, storage.Options{})
	for i, bad := range []string{"00000000", "ffffffff", "0100a000 01"} {
		c := dial(t, addr)
		send(t, c, "0a000000 01 ffffffff 01000000 76"+bad+strings.Repeat("00", 5000))
		expect(t, c, fmt.Sprintf("09000000 02 %02x00000000000000", i))
		expectError(t, c, wire.CodeInvalidMessage)
		_, err := c.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
	}
}

// TestPipelining sends many requests before it reads an answer, cut at every
// place that a network might cut.
func TestPipelining(t *testing.T) {
	addr, _, log := start(t, storage.Options{})
	c := dial(t, addr)
	var in []byte
	const n = 9000 // more than one batch
	for i := range n {
		var err error
		in, err = wire.AppendRequest{Value: fmt.Append(nil, i)}.AppendTo(in)
		require.NoError(t, err)
		if i%100 == 99 {
			in = wire.ReadRequest{Offset: uint64(i)}.AppendTo(in)
		}
	}
	sent := make(chan error, 1)
	go func() {
		var err error
		for step := 1; len(in) > 0 && err == nil; step = step*3%7919 + 1 {
			k := min(step, len(in))
			_, err = c.Write(in[:k])
			in = in[k:]
		}
		sent <- err
	}()
	for i := range n {
		expect(t, c, hex.EncodeToString(wire.AppendResponse{Offset: uint64(i)}.AppendTo(nil)))
		if i%100 == 99 {
			want, err := wire.ReadResponse{Value: fmt.Append(nil, i)}.AppendTo(nil)
			require.NoError(t, err)
			expect(t, c, hex.EncodeToString(want))
		}
	}
	require.NoError(t, <-sent)
	require.EqualValues(t, n, log.EndOffset())
}

func TestLargestRecord(t *testing.T) {
	addr, _, _ := start(t, storage.Options{})
	c := dial(t, addr)
	value := bytes.Repeat([]byte{7}, wire.MaxRecord-1)
	in, err := wire.AppendRequest{Key: []byte("k"), Value: value}.AppendTo(nil)
	require.NoError(t, err)
	require.Len(t, in, wire.MaxFrame+wire.HeaderSize)
	for i := range 3 {
		_, err = c.Write(in)
		require.NoError(t, err)
		expect(t, c, fmt.Sprintf("09000000 02 %02x00000000000000", i))
	}
	_, err = c.Write(wire.ReadRequest{Offset: 1}.AppendTo(nil))
	require.NoError(t, err)
	got := make([]byte, len(in))
	_, err = io.ReadFull(c, got)
	require.NoError(t, err)
	require.EqualValues(t, wire.TypeReadResponse, got[4])
	require.True(t, bytes.Equal(in[5:], got[5:]))
}

func TestHalfFrameAndAway(t *testing.T) {
	addr, s, _ := start(t, storage.Options{})
	for range 20 {
		c := dial(t, addr)
		send(t, c, "0d000000 01 01000000 6b 03")
		require.NoError(t, c.Close())
	}
	require.Eventually(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.sessions) == 0
	}, 10*time.Second, time.Millisecond)
	c := dial(t, addr)
	send(t, c, "0a000000 01 ffffffff 01000000 76")
	expect(t, c, "09000000 02 0000000000000000")
}

func TestShutdownEndsIdleAndHalfSentConnections(t *testing.T) {
	addr, s, _ := start(t, storage.Options{})
	idle, half := dial(t, addr), dial(t, addr)
	send(t, half, "0a000000 01 ffffffff 01000000 76 0a0000")
	expect(t, half, "09000000 02 0000000000000000")
	send(t, idle, "09000000 03 0000000000000000")
	expect(t, idle, "0a000000 04 ffffffff 01000000 76")
	require.NoError(t, s.Shutdown(context.Background()))
	for _, c := range []net.Conn{idle, half} {
		_, err := c.Read(make([]byte, 1))
		require.Error(t, err)
	}
	l2, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.ErrorIs(t, s.Serve(l2), ErrStopped)
}

// TestShutdownCutsOffSlowReaders has a client that takes no answers.
func TestShutdownCutsOffSlowReaders(t *testing.T) {
	addr, s, log := start(t, storage.Options{})
	_, err := log.Append(storage.Record{Value: make([]byte, 8<<20)})
	require.NoError(t, err)
	c := dial(t, addr)
	for range 16 {
		_, err := c.Write(wire.ReadRequest{Offset: 0}.AppendTo(nil))
		require.NoError(t, err)
	}
	require.Eventually(t, func() bool {
		_, err := c.Read(make([]byte, 1)) // the first answer has begun
		return err == nil
	}, 10*time.Second, time.Millisecond)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, s.Shutdown(ctx), context.DeadlineExceeded)
}

func TestCodes(t *testing.T) {
	require.Equal(t, wire.CodeInvalidOffset, codeOf(&storage.OffsetError{}))
	require.Equal(t, wire.CodeIOError, codeOf(&storage.CorruptionError{}))
	require.Equal(t, wire.CodeIOError, codeOf(errors.New("x")))
	require.Equal(t, wire.CodeSerialization, codeOf(storage.ErrTooLarge))
}

func BenchmarkPipelinedAppends(b *testing.B) {
	for _, policy := range []storage.SyncPolicy{storage.SyncAlways(), storage.SyncNever()} {
		b.Run("sync="+policy.String(), func(b *testing.B) {
			addr, _, _ := start(b, storage.Options{Sync: policy})
			c := dial(b, addr)
			require.NoError(b, c.SetDeadline(time.Time{}))
			frame, err := wire.AppendRequest{Value: make([]byte, 100)}.AppendTo(nil)
			require.NoError(b, err)
			const inFlight = 1024
			in := bytes.Repeat(frame, inFlight)
			out := make([]byte, inFlight*13)
			b.ReportAllocs()
			b.ResetTimer()
			for n := b.N; n > 0; n -= inFlight {
				k := min(n, inFlight)
				if _, err := c.Write(in[:k*len(frame)]); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(c, out[:k*13]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestShutdownAnswersWhatHasArrived stops the server while many requests are on
// their way: each that was appended is answered, and the end is an EOF, not a reset.
func TestShutdownAnswersWhatHasArrived(t *testing.T) {
	addr, s, log := start(t, storage.Options{})
	c := dial(t, addr)
	send(t, c, "0a000000 01 ffffffff 01000000 76")
	expect(t, c, "09000000 02 0000000000000000") // so it has been accepted
	var in []byte
	const n = 2000
	for range n {
		in = append(in, unhex(t, "0a000000 01 ffffffff 01000000 76")...)
	}
	_, err := c.Write(in)
	require.NoError(t, err)
	require.NoError(t, s.Shutdown(context.Background()))
	out, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Zero(t, len(out)%13)
	require.EqualValues(t, log.EndOffset(), 1+len(out)/13)
	require.Equal(t, n, len(out)/13)
}

func TestFailedLogIsAnIOErrorWhateverTheCause(t *testing.T) {
	require.Equal(t, wire.CodeLogFull, codeOf(fmt.Errorf("x: %w", syscall.ENOSPC)))
	require.Equal(t, wire.CodeIOError, codeOf(fmt.Errorf("%w: %w", storage.ErrFailed, syscall.ENOSPC)))
}

// TestClientThatStopsWithinAFrame is hung up on; one that is idle between frames is
// not.
func TestClientThatStopsWithinAFrame(t *testing.T) {
	addr, _, _ := start(t, storage.Options{}, func(s *Server) { s.frameTimeout = 2 * time.Second })
	idle, half := dial(t, addr), dial(t, addr)
	for i, c := range []net.Conn{idle, half} {
		send(t, c, "0a000000 01 ffff")
		send(t, c, "ffff 01000000 76")
		expect(t, c, fmt.Sprintf("09000000 02 %02x00000000000000", i))
	}
	send(t, half, "0a000000 01 ff")
	_, err := half.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF) // after more than the time that idle has been idle
	send(t, idle, "09000000 03 0000000000000000")
	expect(t, idle, "0a000000 04 ffffffff 01000000 76")
}
