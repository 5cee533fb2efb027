package transport

import (
	"context"
	"net"
	"time"
)

// keepAlive notices within 14 s that the other end of a silent connection is gone.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 3 * time.Second, Count: 3}

func dialTCP(ctx context.Context, address string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", address)
}

// tune sets what a connection between nodes needs; one that is not TCP's stays as it is.
func tune(conn net.Conn) {
	if c, ok := conn.(*net.TCPConn); ok {
		_ = c.SetKeepAliveConfig(keepAlive) // without it, write deadlines remain
		setUserTimeout(c, stallTimeout)
	}
}
