package main

import (
	"math"
	"runtime/debug"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTuneCollector(t *testing.T) {
	limit, percent := debug.SetMemoryLimit(-1), debug.SetGCPercent(100)
	defer func() {
		debug.SetMemoryLimit(limit)
		debug.SetGCPercent(percent)
	}()
	debug.SetMemoryLimit(math.MaxInt64)
	t.Setenv("GOGC", "")
	t.Setenv("GOMEMLIMIT", "")
	tuneCollector(3, 0)
	require.EqualValues(t, 3*4608<<20, debug.SetMemoryLimit(-1))
	require.Equal(t, collectAt, debug.SetGCPercent(100))

	debug.SetMemoryLimit(math.MaxInt64)
	t.Setenv("GOGC", "100") // Go itself has read it, as the program began
	t.Setenv("GOMEMLIMIT", "off")
	tuneCollector(1, 256<<20)
	require.EqualValues(t, math.MaxInt64, debug.SetMemoryLimit(-1))
	require.Equal(t, 100, debug.SetGCPercent(100))
}
