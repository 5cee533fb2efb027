package replication

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zue-log/zue/storage"
	"github.com/zue-log/zue/storage/vfs"
)

// withLoad has something happen to a cluster of n nodes that clients use, and holds all that
// they were told against every node.
func withLoad(t *testing.T, n int, lines string, happen func(c *cluster, l *load), flags ...string) {
	t.Helper()
	c := newCluster(t, n, lines, flags...)
	c.leader()
	l := c.startLoad(8)
	l.more(200)
	happen(c, l)
	l.more(200)
	l.check()
}

// sizes runs a test with three nodes and with five.
func sizes(t *testing.T, do func(t *testing.T, n int)) {
	for _, n := range []int{3, 5} {
		t.Run(fmt.Sprintf("%d nodes", n), func(t *testing.T) { do(t, n) })
	}
}

func TestKillLeader(t *testing.T) {
	sizes(t, func(t *testing.T, n int) {
		withLoad(t, n, quick, func(c *cluster, l *load) {
			for range 3 {
				led := c.leader()
				led.kill()
				l.more(100)
				led.start()
				c.whole()
			}
		})
	})
}

func TestKillFollower(t *testing.T) {
	sizes(t, func(t *testing.T, n int) {
		withLoad(t, n, quick, func(c *cluster, l *load) {
			for range 3 {
				down := c.nodes[c.leader().id%n]
				down.kill()
				l.more(200)
				down.start()
				c.whole()
			}
		})
	})
}

func TestKillMajorityAndBack(t *testing.T) {
	sizes(t, func(t *testing.T, n int) {
		withLoad(t, n, quick, func(c *cluster, l *load) {
			led := c.leader()
			for i := range n/2 + 1 {
				c.nodes[(led.id-1+i)%n].kill()
			}
			before := l.acknowledged()
			require.LessOrEqual(t, l.acknowledged()-before, 8, "what was under way")
			for _, n := range c.nodes {
				n.start()
			}
			c.whole()
		})
	})
}

func TestKillAllAtOnce(t *testing.T) {
	withLoad(t, 3, quick, func(c *cluster, l *load) {
		for range 3 {
			for _, n := range c.nodes {
				n.kill()
			}
			for _, n := range c.nodes {
				n.start()
			}
			l.more(100)
		}
	})
}

// A leader that stops for a while is overtaken, and cannot acknowledge anything when it goes on.
func TestPauseLeader(t *testing.T) {
	withLoad(t, 3, quick, func(c *cluster, l *load) {
		for range 3 {
			led := c.leader()
			led.signal(syscall.SIGSTOP)
			var others []*node
			for _, n := range c.nodes {
				if n != led {
					others = append(others, n)
				}
			}
			require.NotEqual(t, led, c.leader(others...))
			l.more(100)
			led.signal(syscall.SIGCONT)
			c.whole()
		}
	})
}

func TestCutLinks(t *testing.T) {
	for name, cut := range map[string]func(c *cluster, led, other int){
		"leader cut off":                  func(c *cluster, led, other int) { c.isolate(led) },
		"follower cut off":                func(c *cluster, led, other int) { c.isolate(other) },
		"leader is not heard":             func(c *cluster, led, other int) { c.oneWay(led, true) },
		"leader hears nothing":            func(c *cluster, led, other int) { c.oneWay(led, false) },
		"follower is not heard":           func(c *cluster, led, other int) { c.oneWay(other, true) },
		"follower hears nothing":          func(c *cluster, led, other int) { c.oneWay(other, false) },
		"between the leader and one only": func(c *cluster, led, other int) { c.cut(led, other, true); c.cut(other, led, true) },
	} {
		t.Run(name, func(t *testing.T) {
			withLoad(t, 3, quick, func(c *cluster, l *load) {
				led := c.leader()
				cut(c, led.id, led.id%3+1)
				l.more(200)
				c.heal()
				c.whole()
			})
		})
	}
}

// oneWay cuts all that a node says, or all that it hears.
func (c *cluster) oneWay(id int, says bool) {
	for ends, k := range c.links {
		if says && ends[0] == id || !says && ends[1] == id {
			k.set(true)
		}
	}
}

// Each node in turn is stopped in order and started again; nothing that clients ask for fails.
func TestRollingRestart(t *testing.T) {
	sizes(t, func(t *testing.T, n int) {
		withLoad(t, n, steady, func(c *cluster, l *load) {
			for _, n := range c.nodes {
				n.stop()
				l.more(50)
				n.start()
				c.whole()
			}
			require.Zero(t, l.maybe, "%v: a leader that is stopped in order hands over, and answers what it has taken", l.why)
		})
	})
}

func TestWipedNode(t *testing.T) {
	sizes(t, func(t *testing.T, n int) {
		withLoad(t, n, quick, func(c *cluster, l *load) {
			for _, leads := range []bool{true, false} {
				led := c.leader()
				lost := led
				if !leads {
					lost = c.nodes[led.id%n]
				}
				before, err := lost.status()
				require.NoError(t, err)
				lost.kill()
				lost.wipe()
				lost.start()
				l.more(100)
				c.whole()
				after, err := lost.status()
				require.NoError(t, err)
				require.NotEqual(t, before.Cluster.Incarnation, after.Cluster.Incarnation)
			}
		})
	})
}

// flip flips a bit in the middle of an entry on a node's disk.
func (n *node) flip(offset uint64) {
	n.t.Helper()
	found := errors.New("found")
	err := storage.Walk(vfs.OS{}, n.dir, storage.WalkOptions{}, func(item storage.Item) error {
		e, ok := item.(*storage.EntryItem)
		if !ok || e.Entry.Offset > offset || e.Entry.Offset+uint64(e.Entry.Span) <= offset {
			return nil
		}
		f, err := os.OpenFile(e.Path, os.O_RDWR, 0)
		require.NoError(n.t, err)
		defer f.Close()
		var b [1]byte
		at := e.Position + e.Size - 24
		_, err = f.ReadAt(b[:], at)
		require.NoError(n.t, err)
		b[0] ^= 0x10
		_, err = f.WriteAt(b[:], at)
		require.NoError(n.t, err)
		return found
	})
	require.ErrorIs(n.t, err, found)
}

// A node is taken out of the membership, and comes back as a new one, while clients go on.
func TestRemoveAndAllow(t *testing.T) {
	withLoad(t, 3, quick, func(c *cluster, l *load) {
		led := c.leader()
		out := c.nodes[led.id%3]
		port, id := strconv.Itoa(led.port), strconv.Itoa(out.id)
		c.eventually("the node removed", func() error {
			if r := run(t, "cluster", "remove", "127.0.0.1", port, id); r.code != 0 {
				return errors.New(r.stderr)
			}
			return nil
		})
		c.eventually("two voters", func() error {
			st, err := led.status()
			if err == nil && (len(st.Cluster.Voters) != 2 || st.Cluster.Changing || st.Cluster.Quorum != 2) {
				err = fmt.Errorf("%+v", st.Cluster)
			}
			return err
		})
		l.more(100)
		out.stop()
		out.wipe()
		out.start()
		l.more(100)
		r := run(t, "cluster", "allow", "127.0.0.1", port, id)
		require.Zero(t, r.code, r.stderr)
		c.whole()
	})
}

// A bit that flips in what a minority has committed is not served, and is mended while the node
// runs; nobody need do anything.
func TestBitFlipInACommittedSegment(t *testing.T) {
	withLoad(t, 3, steady, func(c *cluster, l *load) {
		big := strings.Repeat("x", 1000)
		l.appendAll(numbered(big, 100)...)
		c.whole()
		led, err := c.leader().status()
		require.NoError(t, err)
		for _, n := range c.nodes {
			before, err := n.status()
			require.NoError(t, err)
			at := led.CommittedOffset - 100
			want, err := c.nodes[n.id%3].only().Read(t.Context(), at)
			require.NoError(t, err)
			n.flip(at)
			only := n.only()
			c.eventually("the record readable again", func() error {
				rec, err := only.Read(t.Context(), at)
				if err == nil {
					require.Equal(t, string(want.Value), string(rec.Value))
				}
				return err
			})
			after, err := n.status()
			require.NoError(t, err)
			require.Equal(t, before.Cluster.Incarnation, after.Cluster.Incarnation)
		}
	}, "--segment-size", "64KiB")
}

// Damage in what a node must scan when it starts: it puts the directory aside, and joins anew.
func TestDamageThatIsFoundAtStart(t *testing.T) {
	withLoad(t, 3, quick, func(c *cluster, l *load) {
		hurt := c.nodes[c.leader().id%3]
		hurt.kill()
		st, err := c.leader().status()
		require.NoError(t, err)
		// In the segment that is being written: a log soon leaves its first, which was made in haste.
		segments, err := filepath.Glob(filepath.Join(hurt.dir, "*.log"))
		require.NoError(t, err)
		begins, err := strconv.ParseUint(strings.TrimSuffix(filepath.Base(slices.Max(segments)), ".log"), 10, 64)
		require.NoError(t, err)
		hurt.flip(begins + (st.CommittedOffset-begins)/4)
		hurt.start()
		l.more(100)
		c.whole()
		aside, err := filepath.Glob(hurt.dir + ".damaged-*")
		require.NoError(t, err)
		require.Len(t, aside, 1, "%s", hurt.log)
	})
}

var partition = flag.Duration("partition", 0, "for how long TestLongPartition cuts a minority off at least")

// A minority that is cut off for long, with the leader or without, catches up from the leader, in
// one go.
func TestLongPartition(t *testing.T) {
	for _, n := range []int{3, 5} {
		for first, name := range []string{"the leader", "followers"} {
			t.Run(fmt.Sprintf("%d nodes, %s", n, name), func(t *testing.T) {
				withLoad(t, n, quick, func(c *cluster, l *load) {
					led := c.leader()
					var away []*node
					for i := range (n - 1) / 2 {
						away = append(away, c.nodes[(led.id-1+first+i)%n])
						c.isolate(away[i].id)
					}
					began := time.Now()
					// A leader that is cut off takes appends, of which nobody knows what becomes, until
					// it has noticed; and followers send clients there.
					for _, a := range away {
						c.eventually(fmt.Sprintf("node %d knows of no leader", a.id), func() error {
							if st, err := a.status(); err != nil || st.Cluster.Leader != 0 {
								return fmt.Errorf("status %+v, %v", st, err)
							}
							return nil
						})
					}
					big := strings.Repeat("y", 10_000)
					l.appendAll(numbered(big, 1000)...)
					l.more(500)
					for time.Since(began) < *partition {
						l.more(100)
					}
					c.heal()
					c.whole()
				}, "--segment-size", "1MiB")
			})
		}
	}
}

// What is not kept any more cannot be sent: a node that was away for so long begins where the
// others' logs do.
func TestInstallBelowTheFirstKeptOffset(t *testing.T) {
	c := newCluster(t, 3, steady, "--segment-size", "64KiB", "--retention-size", "256KiB")
	led := c.leader()
	away := c.nodes[led.id%3]
	c.appendAll("a", "b", "c")
	c.whole()
	away.kill()
	c.appendAll(numbered(strings.Repeat("z", 10_000), 100)...)
	st, err := led.status()
	require.NoError(t, err)
	require.Greater(t, st.FirstOffset, uint64(3))
	away.start()
	end := c.settled()
	st, err = away.status()
	require.NoError(t, err)
	require.NotZero(t, st.FirstOffset)
	rec, err := away.only().Read(t.Context(), end-1)
	require.NoError(t, err)
	require.True(t, strings.HasSuffix(string(rec.Value), "z99"))
}

// A node whose disk is full ends, and says why; the others go on. With space it goes on, too.
func TestFullDisk(t *testing.T) {
	if out, err := exec.Command("unshare", "-rm", "mount", "-t", "tmpfs", "-o", "size=1m", "none", "/mnt").CombinedOutput(); err != nil {
		t.Skipf("no file system of one's own can be mounted here: %v: %s", err, out)
	}
	withLoad(t, 3, steady, func(c *cluster, l *load) {
		full := c.nodes[c.leader().id%3]
		full.kill()
		full.wipe()
		require.NoError(t, os.Mkdir(full.dir, 0o700))
		full.startWith("unshare", "-rm", "sh", "-c", `mount -t tmpfs -o size=1m none "$1" && shift && exec "$@"`, "sh", full.dir)
		c.whole()
		l.appendAll(numbered(strings.Repeat("f", 10_000), 300)...)
		select {
		case <-full.p.done:
		case <-time.After(patience):
			t.Fatal("its disk is full, and it runs on")
		}
		require.Equal(t, 1, full.p.cmd.ProcessState.ExitCode())
		require.Contains(t, full.log.String(), "no space left on device")
		full.p = nil
		l.more(200)
		full.start()
		c.whole()
	}, "--segment-size", "64KiB")
}

var soak = flag.Duration("soak", 0, "how long TestRandomFaults runs; 0: 20 s")

// TestRandomFaults has one thing after another happen, at random, to a cluster under load.
func TestRandomFaults(t *testing.T) {
	length := *soak
	if length == 0 {
		length = 20 * time.Second
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	c := newCluster(t, 3+2*rng.IntN(2), quick, "--segment-size", "256KiB")
	c.leader()
	l := c.startLoad(8)
	counts := map[string]int{}
	for end := time.Now().Add(length); time.Now().Before(end); {
		counts[c.fault(rng, l)]++
		c.heal()
		for _, n := range c.nodes {
			n.start()
			n.signal(syscall.SIGCONT)
		}
		c.whole()
		l.more(50)
	}
	l.check()
	var kinds []string
	for k, n := range counts {
		kinds = append(kinds, fmt.Sprintf("%s %d", k, n))
	}
	slices.Sort(kinds)
	t.Logf("faults: %s", strings.Join(kinds, ", "))
}

// fault has something happen, and some time pass.
func (c *cluster) fault(rng *rand.Rand, l *load) string {
	pause := func() { <-time.After(time.Duration(rng.IntN(2000)) * time.Millisecond) }
	n := c.nodes[rng.IntN(len(c.nodes))]
	switch rng.IntN(9) {
	case 0:
		n.kill()
		pause()
		return "killed"
	case 1:
		c.leader().kill()
		pause()
		return "leader killed"
	case 2:
		for _, n := range c.nodes {
			if rng.IntN(2) == 0 {
				n.kill()
			}
		}
		pause()
		return "several killed"
	case 3:
		n.signal(syscall.SIGSTOP)
		pause()
		n.signal(syscall.SIGCONT)
		return "paused"
	case 4:
		c.isolate(n.id)
		pause()
		return "cut off"
	case 5:
		c.oneWay(n.id, rng.IntN(2) == 0)
		pause()
		return "cut one way"
	case 6:
		n.kill()
		n.wipe()
		return "wiped"
	case 7:
		n.stop()
		pause()
		return "stopped"
	}
	if end := uint64(l.acknowledged()); end > 10 {
		n.kill()
		n.flip(rng.Uint64N(end / 2))
		return "bit flipped"
	}
	return "nothing"
}
