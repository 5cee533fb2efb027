package transport

import (
	"cmp"
	"errors"
	"net"
	"os"
	"syscall"
	"time"
)

// tcpUserTimeout is TCP_USER_TIMEOUT of linux/tcp.h, which package syscall has not.
const tcpUserTimeout = 18

// setUserTimeout has the kernel give a connection up whose other end acknowledges nothing of what
// it was sent for that long. Otherwise it takes many minutes.
func setUserTimeout(c *net.TCPConn, d time.Duration) {
	raw, err := c.SyscallConn()
	if err != nil {
		return // it is closed
	}
	_ = raw.Control(func(fd uintptr) { // without it, write deadlines remain
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, int(d.Milliseconds()))
	})
}

// directly returns what writes to a connection as much as it takes at once; nil if it is not TCP's.
func directly(conn net.Conn) func(b []byte) (n int, err error) {
	c, ok := conn.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return nil // it is closed
	}
	return func(b []byte) (n int, err error) {
		closed := raw.Write(func(fd uintptr) bool {
			for {
				if n, err = syscall.Write(int(fd), b); err != syscall.EINTR {
					return true // it does not wait until there is room
				}
			}
		})
		n = max(n, 0)
		if err == syscall.EAGAIN {
			err = nil
		}
		if errors.Is(closed, os.ErrDeadlineExceeded) {
			closed = nil // it is for writes that wait
		}
		return n, cmp.Or(closed, err)
	}
}
