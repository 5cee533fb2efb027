package executor

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestSystem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ran := make(chan string, 3)
		start := System{}.Now()
		System{}.After(time.Second, func() { ran <- "later" })
		stopped := System{}.After(time.Second, func() { ran <- "stopped" })
		stop := System{}.After(0, func() { ran <- "now" })
		require.True(t, stopped())
		require.Equal(t, "now", <-ran)
		synctest.Wait()
		require.False(t, stop(), "it has run")
		require.Equal(t, "later", <-ran)
		require.Equal(t, time.Second, System{}.Now().Sub(start))
		require.Empty(t, ran)
	})
}

func TestManual(t *testing.T) {
	start := time.Unix(100, 0)
	m := NewManual(start)
	var ran []string
	note := func(s string) func() { return func() { ran = append(ran, s+" "+m.Now().Sub(start).String()) } }
	m.After(2*time.Second, note("c"))
	m.After(time.Second, func() {
		note("a")()
		m.After(500*time.Millisecond, note("b"))
	})
	m.After(2*time.Second, note("d"))
	stop := m.After(time.Second, note("stopped"))
	require.False(t, m.Step(), "nothing is due")
	require.True(t, stop())
	require.False(t, stop())
	m.After(0, note("first"))
	require.True(t, m.Step())
	m.Advance(3 * time.Second)
	require.Equal(t, []string{"first 0s", "a 1s", "b 1.5s", "c 2s", "d 2s"}, ran)
	require.Equal(t, start.Add(3*time.Second), m.Now())
}
