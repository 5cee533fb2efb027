package transport

import (
	"math/rand/v2"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

// The queue does what a slice does, in memory that follows what waits.
func TestQueue(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 0))
	var q queue
	var model []queued
	most := 0
	for i := range 100_000 {
		switch n := rng.IntN(1000); {
		case n == 0:
			require.Equal(t, len(model), q.clear())
			model = nil
		case n < 500+(i/1000%3-1)*20:
			f := queued{frame: net.Buffers{[]byte{byte(i)}}, size: i}
			q.push(f)
			model = append(model, f)
		case len(model) > 0:
			require.Equal(t, model[0], *q.front())
			q.pop()
			model = model[1:]
		}
		most = max(most, len(model))
		require.Equal(t, len(model), q.len())
		require.LessOrEqual(t, cap(q.frames), 4*max(most, 16))
		bytes := 0
		for _, f := range model {
			bytes += f.size
		}
		require.Equal(t, bytes, q.bytes)
	}
	for q.len() > 0 {
		q.pop()
	}
	for _, f := range q.frames[:cap(q.frames)] {
		require.Nil(t, f.frame, "what has been taken is not kept")
	}
}
