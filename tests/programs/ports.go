package programs

import (
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"testing"
)

// Listen listens on a port of 127.0.0.1 that hardly anybody else gets when the listener is closed: it
// is not among those that Linux by default gives to whoever asks for any, this process does not get it
// again, and another process of tests with a chance of 1 in 20,000. So a server that starts again finds
// its port free, and one that is down is not taken for another test's.
func Listen(t testing.TB) net.Listener {
	t.Helper()
	return row(t, 1)[0]
}

// FreePorts returns ports in a row that nobody has at the moment, nor gets, as [Listen] has them.
func FreePorts(t testing.TB, n int) (ports []int) {
	t.Helper()
	for _, l := range row(t, n) {
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
		_ = l.Close()
	}
	return ports
}

// given are the ports that this process was given: those of FreePorts may be free when others are
// looked for.
var (
	givenMu sync.Mutex
	given   = map[int]bool{}
)

// row listens on n ports in a row.
func row(t testing.TB, n int) []net.Listener {
	t.Helper()
	givenMu.Lock()
	defer givenMu.Unlock()
	for range 10_000 {
		var listeners []net.Listener
		for port := 10_000 + rand.IntN(20_000); len(listeners) < n && !given[port]; port++ {
			l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
			if err != nil {
				break
			}
			listeners = append(listeners, l)
		}
		if len(listeners) == n {
			for _, l := range listeners {
				given[l.Addr().(*net.TCPAddr).Port] = true
			}
			return listeners
		}
		for _, l := range listeners {
			_ = l.Close()
		}
	}
	t.Fatalf("there are no %d free ports in a row", n)
	return nil
}
