package sim

import (
	"flag"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var (
	simSeeds = flag.Uint64("sim.seeds", defaultSeeds, "how many seeds TestSeeds runs")
	simSeed  = flag.Uint64("sim.seed", 0, "the only seed that TestSeeds runs, with a log")
)

// logged writes to a test's log.
type logged struct{ t *testing.T }

func (l logged) Write(p []byte) (int, error) {
	l.t.Logf("%s", p[:len(p)-1])
	return len(p), nil
}

// TestSeeds runs simulations. A failure names its seed; -sim.seed replays it.
func TestSeeds(t *testing.T) {
	if *simSeed != 0 {
		r, err := Run(Options{Seed: *simSeed, Log: logged{t}})
		require.NoError(t, err)
		t.Logf("%+v", r)
		return
	}
	var sum Stats
	for seed := uint64(1); seed <= *simSeeds; seed++ {
		r, err := Run(Options{Seed: seed, Duration: 30 * time.Second})
		if err != nil {
			t.Error(err)
		}
		sum.Add(&r.Stats)
	}
	t.Logf("%+v", sum)
}

// Without this no seed could be replayed.
func TestRunsAreRepeatable(t *testing.T) {
	for seed := uint64(1); seed <= 3; seed++ {
		one, err1 := Run(Options{Seed: seed, Duration: 20 * time.Second})
		two, err2 := Run(Options{Seed: seed, Duration: 20 * time.Second})
		require.Equal(t, err1, err2)
		require.Equal(t, one, two)
	}
}
