package integration

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"regexp"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// memory returns how much memory the server has for itself, in bytes: what is mapped from
// files is the system's to take back.
func (s *server) memory() int64 {
	s.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	require.NoError(s.t, err)
	m := regexp.MustCompile(`RssAnon:\s+(\d+) kB`).FindSubmatch(b)
	require.NotNil(s.t, m)
	n, err := strconv.ParseInt(string(m[1]), 10, 64)
	require.NoError(s.t, err)
	return n << 10
}

// hostile is a client that means no good. It goes on until the connection breaks or the
// test closes it.
type hostile func(c net.Conn, rng *rand.Rand)

// hostiles are all sorts of them. The first record of the log has 10 MiB.
var hostiles = map[string]hostile{
	"random bytes": func(c net.Conn, rng *rand.Rand) {
		b := make([]byte, 4096)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		_, _ = c.Write(b)
		_, _ = c.Read(b)
	},
	"large frames that never end": func(c net.Conn, _ *rand.Rand) {
		frame := appendFrame(nil, make([]byte, 10<<20-9))
		_, _ = c.Write(frame[:len(frame)-1])
		_, _ = c.Read(frame)
	},
	"huge lengths": func(c net.Conn, rng *rand.Rand) {
		b := binary.LittleEndian.AppendUint32(nil, rng.Uint32())
		_, _ = c.Write(append(b, 1, 2, 3))
		_, _ = c.Read(b)
	},
	"half a header, and no more": func(c net.Conn, _ *rand.Rand) {
		_, _ = c.Write([]byte{9, 0})
		_, _ = c.Read(make([]byte, 1))
	},
	"large reads, no answer taken": func(c net.Conn, _ *rand.Rand) {
		for {
			if _, err := c.Write(bytes.Repeat(readFrame(0), 1000)); err != nil {
				return
			}
		}
	},
	"small appends, no answer taken": func(c net.Conn, _ *rand.Rand) {
		for {
			if _, err := c.Write(bytes.Repeat(appendFrame(nil, []byte("x")), 1000)); err != nil {
				return
			}
		}
	},
	"fetches that wait": func(c net.Conn, _ *rand.Rand) {
		le := binary.LittleEndian
		b := []byte{25, 0, 0, 0, 0x34, 0, 0, 0, 0}
		b = le.AppendUint64(b, 0)
		b = le.AppendUint32(b, 1<<31)
		b = le.AppendUint32(b, 1<<31)
		b = le.AppendUint32(b, 1<<31)
		_, _ = c.Write(bytes.Repeat(b, 100))
		_, _ = c.Read(b)
	},
	"half closed": func(c net.Conn, _ *rand.Rand) {
		_, _ = c.Write(appendFrame(nil, []byte("y"))[:5])
		_ = c.(*net.TCPConn).CloseWrite()
		_, _ = c.Read(make([]byte, 100))
	},
}

// TestHostileClients has some 200 of them at once, while others want to be served, and the
// server's memory must stay within what ARCHITECTURE.md says: twice the 64 MiB for large requests, 64 KiB
// for each client, and storage's 30 MiB, with something for the program itself. (Without a bound for
// large requests it is twice that.)
func TestHostileClients(t *testing.T) {
	const each, bound = 25, 250 << 20
	s := startServer(t, t.TempDir(), "--sync", "never", "--max-request-memory", "64MiB")
	good := s.dial()
	large := make([]byte, 10<<20-9)
	_, err := good.append(nil, large)
	require.NoError(t, err)

	var wg sync.WaitGroup
	var conns []net.Conn
	for name, attack := range hostiles {
		for i := range each {
			c, err := net.Dial("tcp", s.addr())
			require.NoError(t, err, name)
			conns = append(conns, c)
			wg.Go(func() { attack(c, rand.New(rand.NewPCG(uint64(i), 0))) })
		}
	}
	var most int64
	begin, slowest := time.Now(), time.Duration(0)
	for i := 0; time.Since(begin) < 3*time.Second; i++ {
		start := time.Now()
		value := fmt.Appendf(nil, "good %d", i)
		offset, err := good.append(nil, value)
		require.NoError(t, err)
		_, got := good.read(offset)
		require.Equal(t, value, got)
		slowest = max(slowest, time.Since(start))
		most = max(most, s.memory())
	}
	t.Logf("%d hostile clients: at most %d MiB, slowest append and read %s", each*len(hostiles), most>>20, slowest)
	require.Less(t, most, int64(bound))
	for _, c := range conns {
		_ = c.Close()
	}
	wg.Wait()
	require.NoError(t, good.Close())
	require.NoError(t, s.stop(syscall.SIGTERM))
}

// TestIdleConnections opens as many as there may be files, up to 10,000.
func TestIdleConnections(t *testing.T) {
	var limit syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit))
	// Go raises the soft limit to the hard one by itself, here and in the server.
	n := int(min(limit.Cur-200, 10_000))
	s := startServer(t, t.TempDir())
	before := s.memory()
	for range n {
		c, err := net.Dial("tcp", s.addr())
		require.NoError(t, err)
		defer c.Close()
	}
	// The last to come is served, so that all have been accepted.
	c := s.dial()
	_, err := c.append(nil, []byte("x"))
	require.NoError(t, err)
	each := (s.memory() - before) / int64(n)
	t.Logf("%d idle connections: %d bytes each", n, each)
	require.Less(t, each, int64(24<<10))
	require.NoError(t, s.stop(syscall.SIGTERM))
}
