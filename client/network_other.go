//go:build !linux

package client

import "syscall"

// limitUnacknowledged is for Linux only: elsewhere Options.StallTimeout ends such a connection.
func limitUnacknowledged(string, string, syscall.RawConn) error { return nil }
