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
	crashSeeds  = flag.Uint64("crash.seeds", 60, "how many seeds TestCrash runs")
	crashRounds = flag.Int("crash.rounds", 12, "crashes and reopenings for each seed")
)

// crashRun drives one log through appends, crashes and reopenings, beside a model.
// Everything is decided by the seed.
type crashRun struct {
	t    *testing.T
	rng  *rand.Rand
	disk *vfs.Mem
	ex   *executor.Manual
	o    Options
	l    *Log

	values  []string // all records of the log, as far as the model knows
	durable int      // that many must survive
}

// TestCrash checks, after each of many random crashes, that what was acknowledged
// as durable is there, that nothing is there which was not appended, and that
// offsets are dense. A failure names its seed; -crash.seed replays it.
func TestCrash(t *testing.T) {
	first, n := uint64(1), *crashSeeds
	if *crashSeed != 0 {
		first, n = *crashSeed, 1
	}
	for seed := first; seed < first+n; seed++ {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			r := &crashRun{t: t, rng: rand.New(rand.NewPCG(seed, 0)), disk: vfs.NewMem(), ex: executor.NewManual(time.Unix(1, 0))}
			r.o = Options{SegmentBytes: MinSegmentBytes << r.rng.IntN(2), IndexInterval: 64 << r.rng.IntN(6), FS: r.disk, Executor: r.ex}
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

func (r *crashRun) round() {
	l, err := Open("d", r.o)
	require.NoError(r.t, err)
	r.l = l
	r.check()
	for range r.rng.IntN(80) {
		r.step()
	}
	if r.rng.IntN(4) == 0 {
		require.NoError(r.t, r.l.Close())
		r.durable = len(r.values)
		return
	}
	// The old log is left as the crash found it; its disk is no longer used.
	rng := r.rng
	if rng.IntN(4) == 0 {
		rng = nil
	}
	r.disk = r.disk.Crash(rng)
	r.o.FS = r.disk
	r.ex = executor.NewManual(r.ex.Now())
	r.o.Executor = r.ex
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
}

func (r *crashRun) step() {
	switch n := r.rng.IntN(20); {
	case n < 12:
		r.append(false)
	case n < 13:
		r.append(true)
	case n < 16:
		r.ex.Step()
	case n < 17:
		r.ex.Advance(time.Duration(r.rng.IntN(2000)) * time.Millisecond)
	case n < 18:
		require.NoError(r.t, r.l.Sync())
		r.durable = len(r.values)
	default:
		if len(r.values) > 0 {
			i := r.rng.IntN(len(r.values))
			require.Equal(r.t, r.values[i], readValue(r.t, r.l, uint64(i)))
		}
	}
}

// append appends a few records, on a full disk if asked.
func (r *crashRun) append(full bool) {
	records := make([]Record, 1+r.rng.IntN(5))
	var values []string
	for i := range records {
		v := fmt.Sprintf("%d %s", len(r.values)+i, bytes.Repeat([]byte{byte('a' + r.rng.IntN(26))}, r.rng.IntN(900)))
		records[i].Value = []byte(v)
		values = append(values, v)
	}
	if full {
		r.disk.Inject(func(op vfs.Op, _ string) error {
			if op == vfs.OpAllocate {
				return syscall.ENOSPC
			}
			return nil
		})
		defer r.disk.Inject(nil)
	}
	first, err := r.l.Append(records...)
	if full && errors.Is(err, syscall.ENOSPC) {
		return
	}
	require.NoError(r.t, err)
	require.EqualValues(r.t, len(r.values), first)
	r.values = append(r.values, values...)
	if r.o.Sync.always() {
		r.durable = len(r.values)
	}
}
