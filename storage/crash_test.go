package storage

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zue-log/zue/storage/executor"
	"github.com/zue-log/zue/storage/vfs"
)

var (
	crashSeed   = flag.Uint64("crash.seed", 0, "run TestCrash with this seed only")
	crashSeeds  = flag.Uint64("crash.seeds", 100, "how many seeds TestCrash runs")
	crashRounds = flag.Int("crash.rounds", 15, "openings of the log for each seed")
)

var errPowerOff = errors.New("power is off")

// crashRun drives one log through appends, faults, crashes and reopenings, beside a
// model. Everything is decided by the seed.
type crashRun struct {
	t    *testing.T
	rng  *rand.Rand
	disk *vfs.Mem
	ex   *executor.Manual
	o    Options
	l    *Log

	values  []string // all records that may be in the log
	durable int      // that many must be

	// What goes wrong in this round, at the operation that brings left to 0.
	left  int
	once  error // that operation fails with this
	power bool  // or the power goes off, and all that follow fail
	fired bool
}

// TestCrash checks, after each of many random faults and crashes, that what was
// acknowledged as durable is there, that nothing is there which was not appended,
// that offsets are dense, and that nothing is left behind the tail. The power may
// go off before any single operation of the file system, in Open, too; any one may
// fail; the process may be killed with its page cache left, or the machine crash
// and lose any subset of what was not synced. A failure names its seed;
// -crash.seed replays it.
func TestCrash(t *testing.T) {
	first, n := uint64(1), *crashSeeds
	if *crashSeed != 0 {
		first, n = *crashSeed, 1
	}
	for seed := first; seed < first+n; seed++ {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			r := &crashRun{t: t, rng: rand.New(rand.NewPCG(seed, 0)), disk: vfs.NewMem(), ex: executor.NewManual(time.Unix(1, 0))}
			r.o = Options{SegmentBytes: MinSegmentBytes << r.rng.IntN(2), IndexInterval: 64 << r.rng.IntN(6)}
			switch r.rng.IntN(4) {
			case 0:
				r.o.Sync = SyncNever()
			case 1:
				r.o.Sync = SyncInterval(time.Millisecond)
			}
			for range *crashRounds {
				r.round()
			}
		})
	}
}

// plan decides what goes wrong in a round.
func (r *crashRun) plan() {
	r.left, r.once, r.power, r.fired = 2+r.rng.IntN(250), nil, false, false
	switch r.rng.IntN(4) {
	case 0:
		r.left = -1
	case 1:
		r.once = syscall.EIO
	case 2:
		r.once = syscall.ENOSPC
	default:
		r.power = true
	}
	r.disk.Inject(func(op vfs.Op, _ string) error {
		if op == vfs.OpRead {
			return nil
		}
		if r.fired && r.power {
			return errPowerOff
		}
		if r.left--; r.left != 0 {
			return nil
		}
		r.fired = true
		if r.power {
			return errPowerOff
		}
		return r.once
	})
}

func (r *crashRun) round() {
	r.plan()
	r.ex = executor.NewManual(r.ex.Now().Add(time.Second))
	r.o.FS, r.o.Executor, r.l = r.disk, r.ex, nil
	l, err := Open("d", r.o)
	if err != nil {
		require.True(r.t, r.fired, "open: %v", err)
	} else {
		r.l = l
		r.check()
		for n := r.rng.IntN(80); n > 0 && !(r.fired && r.power) && err == nil; n-- {
			err = r.step()
		}
	}
	if r.fired && !r.power {
		r.ex.Advance(0) // what is in the background goes on after a failure
	}
	if r.l != nil && !(r.fired && r.power) && r.rng.IntN(3) == 0 {
		if err := r.l.Close(); err == nil {
			r.durable = len(r.values)
		} else {
			require.True(r.t, r.fired, "close: %v", err)
		}
	}
	r.disk.Inject(nil)
	r.end()
}

// end kills the process, or crashes the machine.
func (r *crashRun) end() {
	if r.rng.IntN(3) == 0 {
		r.disk.UnlockAll()
		return
	}
	rng := r.rng
	if rng.IntN(4) == 0 {
		rng = nil
	}
	r.disk = r.disk.Crash(rng)
}

// check compares the reopened log with the model.
func (r *crashRun) check() {
	end := int(r.l.EndOffset())
	require.GreaterOrEqual(r.t, end, r.durable, "acknowledged records are lost")
	require.LessOrEqual(r.t, end, len(r.values), "records out of nowhere")
	r.values = r.values[:end]
	r.durable = end // recovery made it so
	for i := range r.values {
		require.Equal(r.t, r.values[i], readValue(r.t, r.l, uint64(i)))
	}
	if s := r.l.active; s != nil && !s.sealed {
		require.True(r.t, isZero(s.b[s.end.Load():]), "leftovers behind the tail")
	}
}

// step does one thing; an error is one that ends the use of the log.
func (r *crashRun) step() error {
	switch n := r.rng.IntN(20); {
	case n < 12:
		return r.append()
	case n < 15:
		r.ex.Step()
	case n < 17:
		r.ex.Advance(time.Duration(r.rng.IntN(2000)) * time.Millisecond)
	case n < 18:
		if err := r.l.Sync(); err != nil {
			return err
		}
		r.durable = len(r.values)
	default:
		if end := int(r.l.EndOffset()); end > 0 {
			i := r.rng.IntN(end)
			require.Equal(r.t, r.values[i], readValue(r.t, r.l, uint64(i)))
		}
	}
	return nil
}

func (r *crashRun) append() error {
	records := make([]Record, 1+r.rng.IntN(5))
	var values []string
	for i := range records {
		n := r.rng.IntN(900)
		if r.rng.IntN(80) == 0 {
			n = 2 * MinSegmentBytes // may be longer than a segment
		}
		v := fmt.Sprintf("%d %s", len(r.values)+i, bytes.Repeat([]byte{byte('a' + r.rng.IntN(26))}, n))
		records[i].Value = []byte(v)
		values = append(values, v)
	}
	first, err := r.l.Append(records...)
	switch {
	case errors.Is(err, ErrFailed):
		r.values = append(r.values, values...) // perhaps
		return err
	case err != nil:
		require.True(r.t, r.fired, "append: %v", err)
		require.Equal(r.t, IsFull(err), r.once == syscall.ENOSPC)
		return nil // nothing has been appended, and the log goes on
	}
	require.EqualValues(r.t, len(r.values), first)
	r.values = append(r.values, values...)
	if r.o.Sync.always() {
		r.durable = len(r.values)
	}
	return nil
}
