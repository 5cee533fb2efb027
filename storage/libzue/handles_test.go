//go:build cgo

package main

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestHandlesAreNotGivenOutTwice(t *testing.T) {
	table := newTable[int](5, maxHandles)
	seen := map[uint64]bool{0: true}
	for n := range 1000 {
		h, ok := table.put(n)
		require.True(t, ok)
		require.False(t, seen[h])
		seen[h] = true
		got, ok := table.get(h)
		require.True(t, ok)
		require.Equal(t, n, got)
		if n%3 == 0 {
			continue // so that there are both new slots and old ones
		}
		got, ok = table.take(h)
		require.True(t, ok)
		require.Equal(t, n, got)
		_, ok = table.get(h)
		require.False(t, ok)
		_, ok = table.take(h)
		require.False(t, ok)
		table.replace(h, 7) // nothing
	}
	require.EqualValues(t, 334, table.used)
	require.Len(t, table.takeAll(func(n int) bool { return n < 500 }), 167)
	require.Len(t, table.takeAll(func(int) bool { return true }), 167)
	require.Empty(t, table.takeAll(func(int) bool { return true }))
}

func TestNoOtherNumberIsAHandle(t *testing.T) {
	table, other := newTable[int](1, maxHandles), newTable[int](2, maxHandles)
	h, _ := table.put(1)
	_, ok := other.get(h)
	require.False(t, ok)
	for bit := range 64 {
		_, ok := table.get(h ^ 1<<bit)
		require.False(t, ok, "bit %d", bit)
	}
	for _, h := range []uint64{0, 1, 1<<64 - 1, 1 << 60, 1<<60 | 1<<slotBits - 1} {
		_, ok := table.get(h)
		require.False(t, ok)
		_, ok = table.take(h)
		require.False(t, ok)
	}
}

func TestHandlesHaveALimit(t *testing.T) {
	table := newTable[struct{}](1, maxHandles)
	var h uint64
	for range chunkSize * maxChunks {
		var ok bool
		h, ok = table.put(struct{}{})
		require.True(t, ok)
	}
	_, ok := table.put(struct{}{})
	require.False(t, ok)
	table.take(h)
	_, ok = table.put(struct{}{})
	require.True(t, ok)
}

// A slot whose generations are used up is not used again.
func TestGenerationsDoNotWrap(t *testing.T) {
	table := newTable[int](1, maxHandles)
	first, _ := table.put(1)
	table.take(first)
	table.slot(first).generation = maxGeneration - 1
	last, _ := table.put(2)
	require.Equal(t, first&(1<<slotBits-1), last&(1<<slotBits-1))
	table.take(last)
	next, _ := table.put(3)
	require.NotEqual(t, last&(1<<slotBits-1), next&(1<<slotBits-1))
}

func TestHandlesConcurrently(t *testing.T) {
	table := newTable[int](1, maxHandles)
	var all sync.WaitGroup
	for worker := range 8 {
		all.Go(func() {
			var stale uint64
			for n := range 2000 {
				h, _ := table.put(worker<<16 | n)
				if got, ok := table.get(h); !ok || got != worker<<16|n {
					t.Errorf("handle %#x: %d, %t", h, got, ok)
				}
				if _, ok := table.get(stale); ok {
					t.Errorf("stale handle %#x is good", stale)
				}
				table.take(h)
				stale = h
			}
		})
	}
	all.Wait()
	require.LessOrEqual(t, table.used, uint32(8))
}

func TestATableHasALimit(t *testing.T) {
	table := newTable[int](1, 2)
	first, ok := table.put(0)
	require.True(t, ok)
	_, ok = table.put(1)
	require.True(t, ok)
	_, ok = table.put(2)
	require.False(t, ok)
	table.take(first)
	_, ok = table.put(3)
	require.True(t, ok)
}
