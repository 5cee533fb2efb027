package client

import (
	"context"
	"net"
	"time"
)

// vanished is after how long a connection is given up whose other end is silent as no living
// machine is, one that has lost its power or its network for example: other machines elect a
// new leader in a second or two, and nobody tells a client that waits for the old one.
const vanished = 8 * time.Second

// dialTCP connects to an address by TCP.
func dialTCP(ctx context.Context, address string) (net.Conn, error) {
	// An idle connection is probed; limitUnacknowledged is for one with bytes under way.
	probes := net.KeepAliveConfig{Enable: true, Idle: vanished - 3*time.Second, Interval: time.Second, Count: 3}
	d := net.Dialer{KeepAliveConfig: probes, Control: limitUnacknowledged}
	return d.DialContext(ctx, "tcp", address)
}
