package main

import (
	"math"
	"os"
	"runtime/debug"
)

const (
	// collectAt is GOGC's default here: little of a server's memory lives, since records are in
	// mapped files, so that five times as much is still little, and it is collected a quarter as
	// often as with Go's 100.
	collectAt = 400
	// ownMemory is a generous bound of what lives beside large requests, in bytes: queues to
	// other nodes, appends under way, and entries that are remembered.
	ownMemory = 512 << 20
)

// tuneCollector sets how Go's garbage collector works, as far as the environment (GOGC,
// GOMEMLIMIT) does not: seldom, but if very much lives, as often as by Go's defaults.
func tuneCollector(requestMemory int64) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(collectAt)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(2 * (ownMemory + min(requestMemory, math.MaxInt64/4)))
	}
}
