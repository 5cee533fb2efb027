package storage

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestNotifier has many wait for each step of a counter.
func TestNotifier(t *testing.T) {
	var n notifier
	var counter atomic.Int64
	const steps, waiters = 200, 32
	var wg sync.WaitGroup
	for range waiters {
		wg.Go(func() {
			for want := int64(1); want <= steps; want++ {
				if err := n.wait(t.Context(), func() bool { return counter.Load() >= want }); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range steps {
		counter.Add(1)
		n.notify()
	}
	wg.Wait()
	require.Zero(t, n.waiting.Load())

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, n.wait(ctx, func() bool { return false }), context.Canceled)
	require.NoError(t, n.wait(ctx, func() bool { return true }))
	require.Zero(t, testing.AllocsPerRun(100, n.notify))
}
