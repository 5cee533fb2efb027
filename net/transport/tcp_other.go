//go:build !linux

package transport

import (
	"net"
	"time"
)

// setUserTimeout does nothing: only Linux has such a timeout.
func setUserTimeout(*net.TCPConn, time.Duration) {}
