//go:build !linux

package transport

import (
	"net"
	"time"
)

// setUserTimeout does nothing: only Linux has such a timeout.
func setUserTimeout(*net.TCPConn, time.Duration) {}

// directly returns nil: what is sent is handed to the link's goroutine.
func directly(net.Conn) func(b []byte) (n int, err error) { return nil }
