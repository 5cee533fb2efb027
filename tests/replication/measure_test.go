package replication

import (
	"flag"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zue-log/zue/client"
)

var measure = flag.Bool("measure", false, "run the measurements, which print figures and assert none")

// TestFailover prints how long after the leader was killed the next append is acknowledged, with
// default settings.
func TestFailover(t *testing.T) {
	if !*measure {
		t.Skip("a measurement: -measure")
	}
	c := newCluster(t, 3, "")
	c.leader()
	cl := c.dial()
	var took []time.Duration
	for i := range 10 {
		led := c.leader()
		c.whole()
		_, err := cl.Append(t.Context(), nil, []byte("before"))
		require.NoError(t, err)
		led.kill()
		began := time.Now()
		for {
			if _, err := cl.Append(t.Context(), nil, []byte(fmt.Sprint("after ", i))); err == nil {
				break
			}
		}
		took = append(took, time.Since(began).Round(time.Millisecond))
		led.start()
	}
	slices.Sort(took)
	t.Logf("kill -9 of the leader to the next acknowledged append: median %v, most %v, all %v", took[len(took)/2], took[len(took)-1], took)
}

// TestCatchUpCurve prints the rate of appends, and how far a follower is that was wiped, while it
// catches up.
func TestCatchUpCurve(t *testing.T) {
	if !*measure {
		t.Skip("a measurement: -measure")
	}
	const step = 250 * time.Millisecond
	c := newCluster(t, 3, "")
	led := c.leader()
	cl := c.dial()
	value := []byte(strings.Repeat("v", 1024))
	var acked atomic.Int64
	p, err := cl.Producer(client.ProducerOptions{})
	require.NoError(t, err)
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := p.Send(t.Context(), client.Record{Value: value}, func(_ uint64, err error) {
				if err == nil {
					acked.Add(1)
				} else {
					t.Errorf("append: %v", err)
				}
			}); err != nil {
				t.Errorf("send: %v", err)
				return
			}
		}
	}()
	// A log of some size to catch up with.
	for acked.Load() < 400_000 {
		<-time.After(10 * time.Millisecond)
	}
	var before, during, after []int64
	began, last := time.Now(), acked.Load()
	sample := func(name string, to *[]int64, follower *node) (behind int64) {
		<-time.After(step)
		now := acked.Load()
		rate := (now - last) * int64(time.Second/step)
		last = now
		*to = append(*to, rate)
		line := fmt.Sprintf("%6.2f s  %-7s %8d records/s", time.Since(began).Seconds(), name, rate)
		if follower != nil {
			st, err := follower.status()
			all, leadErr := led.status()
			if err == nil && leadErr == nil {
				behind = int64(all.EndOffset) - int64(st.EndOffset)
				line += fmt.Sprintf("  the follower has %8d of %8d, and is %s", st.EndOffset, all.EndOffset, st.Role)
				if st.Role != "follower" {
					behind = max(behind, 1<<40)
				}
			} else {
				behind = 1 << 40
			}
		}
		t.Log(line)
		return behind
	}
	for range 16 {
		sample("before", &before, nil)
	}
	lost := c.nodes[led.id%3]
	lost.kill()
	lost.wipe()
	lost.start()
	for range 400 {
		if behind := sample("during", &during, lost); behind < 20_000 {
			break
		}
	}
	for range 16 {
		sample("after", &after, nil)
	}
	close(stop)
	<-ended
	require.NoError(t, p.Close())
	mean := func(rates []int64) (sum int64) {
		for _, rate := range rates {
			sum += rate
		}
		return sum / int64(len(rates))
	}
	b, d, a := mean(before), mean(during), mean(after)
	t.Logf("means: before %d, during %d (%.0f %% of before), after %d records/s; caught up in %v", b, d, 100*float64(d)/float64(b), a, time.Duration(len(during))*step)
}
