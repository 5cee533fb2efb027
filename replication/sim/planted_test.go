//go:build planted

package sim

import (
	"testing"
	"time"
)

// TestPlantedBugs plants bugs, each of which must be found, within so many seeds. It shows
// that the simulator can see what it looks for.
func TestPlantedBugs(t *testing.T) {
	for _, b := range []struct {
		bug    string
		first  uint64 // seed to begin with: rare ones are not looked for from 1 on
		within uint64
		nodes  int
	}{
		{"acknowledge before fsync", 1, 5, 0},
		{"serve above commit", 1, 5, 0},
		{"membership at append", 1, 20, 0},
		{"chain lost at install", 1, 20, 0},
		{"vote not saved", 1, 60, 0},
		{"old incarnation", 1, 60, 0},
		{"vote while blank", 1, 60, 0},
		{"no producer rollback", 540, 100, 3},
		{"boundary term lost", 1, 200, 0},
		{"suffix stays", 1540, 100, 3},
		{"recovery not synced", 1, 300, 0},
		{"barrier before commit", 1, 300, 1},
		{"loss not noticed", 290, 100, 5},
		{"asks before it votes", 3007001, 100, 7},
	} {
		t.Run(b.bug, func(t *testing.T) {
			t.Setenv("ZUE_PLANTED", b.bug)
			for n := range b.within {
				if _, err := Run(Options{Seed: b.first + n, Nodes: b.nodes, Duration: 30 * time.Second}); err != nil {
					t.Logf("found by seed %d from %d on: %.200v", n+1, b.first, err)
					return
				}
			}
			t.Errorf("not found by %d seeds from %d on", b.within, b.first)
		})
	}
}
