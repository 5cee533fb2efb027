package main

import (
	"os"
	"runtime/debug"

	"github.com/zue-log/zue/server"
)

const (
	// collectAt is GOGC's default here: little of a server's memory lives, since records are in
	// mapped files, so that five times as much is still little, and it is collected a quarter as
	// often as with Go's 100.
	collectAt = 400
	// ownMemory is a generous bound of what lives beside large requests, in bytes: queues to
	// other nodes, appends under way, entries that are remembered, and the buffers of 20,000
	// connections.
	ownMemory = 2 << 30
)

// tuneCollector sets how Go's garbage collector works, as far as the environment (GOGC,
// GOMEMLIMIT) does not: seldom, but if very much lives, about as often as by Go's defaults. It is for
// so many nodes, each with so many bytes for large requests, 0 for the default.
func tuneCollector(nodes, requestMemory int64) {
	if requestMemory == 0 {
		requestMemory = server.DefaultMaxRequestBytes
	}

	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(collectAt)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(2 * nodes * (ownMemory + min(requestMemory, 1<<40)))
	}
}
