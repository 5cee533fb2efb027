package storage

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zue-log/zue/storage/batch"
	"github.com/zue-log/zue/storage/executor"
	"github.com/zue-log/zue/storage/vfs"
)

var (
	crashSeed   = flag.Uint64("crash.seed", 0, "run TestCrash with this seed only")
	crashSeeds  = flag.Uint64("crash.seeds", 100, "how many seeds TestCrash runs")
	crashRounds = flag.Int("crash.rounds", 15, "openings of the log for each seed")
)

var errPowerOff = errors.New("power is off")

// crashRun drives one log through all that changes it, faults, crashes and reopenings,
// beside a model. Everything is decided by the seed.
type crashRun struct {
	t    *testing.T
	rng  *rand.Rand
	disk *vfs.Mem
	ex   *executor.Manual
	o    Options
	l    *Log

	base    int      // the offset of values[0]
	values  []string // all records that may be in the log
	durable int      // the log ends at that offset or later
	first   int      // the first offset kept, at least
	asked   int      // and at most, unless retention is on
	resets  []int    // offsets at which an interrupted reset may have left an empty log
	user    []string // what SetState may have left, the last that is sure first

	// What goes wrong in this round, at the operation that brings left to 0.
	left  int
	once  error // that operation fails with this
	power bool  // or the power goes off, and all that follow fail
	fired bool
}

// TestCrash checks, after each of many random faults and crashes, that what was
// acknowledged as durable is there, that nothing is there which was not appended or
// was taken back, that offsets are dense, that nothing is left behind the tail, and
// that no flipped bit makes a wrong record. The power may go off before any single
// operation of the file system, in Open, too; any one may fail; the process may be
// killed with its page cache left, or the machine crash and lose any subset of what
// was not synced. A failure names its seed; -crash.seed replays it.
func TestCrash(t *testing.T) {
	first, n := uint64(1), *crashSeeds
	if *crashSeed != 0 {
		first, n = *crashSeed, 1
	}
	for seed := first; seed < first+n; seed++ {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			r := &crashRun{t: t, rng: rand.New(rand.NewPCG(seed, 0)), disk: vfs.NewMem(), ex: executor.NewManual(time.Unix(1, 0)), user: []string{""}}
			r.o = Options{SegmentBytes: MinSegmentBytes << r.rng.IntN(2), IndexInterval: 64 << r.rng.IntN(6)}
			switch r.rng.IntN(4) {
			case 0:
				r.o.Sync = SyncNever()
			case 1:
				r.o.Sync = SyncInterval(time.Millisecond)
			}
			r.o.ManualCommit = r.rng.IntN(4) == 0
			if r.rng.IntN(4) == 0 {
				r.o.RetentionBytes = 5 * MinSegmentBytes
			}
			if r.rng.IntN(4) == 0 {
				r.o.SegmentAge = time.Second
			}
			if r.rng.IntN(4) == 0 {
				r.o.Compression = batch.CodecSnappy
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
	r.disk.Inject(func(op vfs.Op, name string) error {
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
		r.logf("fails: %s %s, power %t, %v", op, name, r.power, r.once)
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
			r.durable = r.end()
		} else {
			require.True(r.t, r.fired, "close: %v", err)
		}
	}
	r.disk.Inject(nil)
	r.stop()
}

// logf notes a step of the one seed that is being replayed.
func (r *crashRun) logf(format string, args ...any) {
	if *crashSeed != 0 {
		r.t.Logf(format, args...)
	}
}

// end is the offset behind all that may be in the log.
func (r *crashRun) end() int { return r.base + len(r.values) }

// stop kills the process, or crashes the machine.
func (r *crashRun) stop() {
	if r.rng.IntN(3) == 0 {
		r.logf("killed")
		r.disk.UnlockAll()
		return
	}
	r.logf("crash")
	rng := r.rng
	if rng.IntN(4) == 0 {
		rng = nil
	}
	r.disk = r.disk.Crash(rng)
	if r.rng.IntN(4) == 0 {
		report, err := Verify(r.t.Context(), r.disk, "d", WalkOptions{Batches: true})
		require.True(r.t, err == nil && len(report.Damage) == 0 || errors.Is(err, fs.ErrNotExist), "verify: %v, %v", err, report.Damage)
	}
	if r.rng.IntN(4) == 0 {
		r.flip(r.disk.Crash(nil))
	}
}

// check compares the reopened log with the model.
func (r *crashRun) check() {
	if r.o.ManualCommit {
		require.NoError(r.t, r.l.Commit(r.l.LastPlace().Index))
	}
	first, end := int(r.l.FirstOffset()), int(r.l.EndOffset())
	r.logf("opened: %d to %d; model: %d, durable %d, %d to %d; %+v", first, end, r.base, r.durable, r.first, r.end(), r.l.Recovery())
	if first == end && slices.Contains(r.resets, end) {
		r.base, r.values, r.durable, r.first, r.asked = end, nil, end, end, end
	}
	r.resets = nil
	require.GreaterOrEqual(r.t, end, r.durable, "acknowledged records are lost")
	require.LessOrEqual(r.t, end, r.end(), "records out of nowhere")
	require.GreaterOrEqual(r.t, first, r.first, "removed records are back")
	if r.o.RetentionBytes == 0 {
		require.LessOrEqual(r.t, first, r.asked, "records removed that nobody asked for")
	}
	r.first, r.asked = first, max(r.asked, first)
	r.values = r.values[:end-r.base]
	r.durable = end // recovery made it so
	for i := first; i < end; i++ {
		require.Equal(r.t, r.values[i-r.base], readValue(r.t, r.l, uint64(i)))
	}
	if s := r.l.active; s != nil && !s.sealed {
		require.True(r.t, isZero(s.b[s.end.Load():]), "leftovers behind the tail")
	}
	user := string(r.l.State())
	require.Contains(r.t, r.user, user)
	r.user = []string{user}
}

// flip opens a copy of the disk with one bit flipped somewhere: it is noticed, or makes no
// difference to what is read. That records are lost must not be noticed: it may be the
// last group, of which nothing says that it was durable.
func (r *crashRun) flip(disk *vfs.Mem) {
	names, err := disk.List("d")
	if err != nil || len(names) == 0 {
		return
	}
	f, err := disk.Open("d/"+names[r.rng.IntN(len(names))], true)
	require.NoError(r.t, err)
	size, err := f.Size()
	require.NoError(r.t, err)
	if size == 0 {
		return
	}
	var b [1]byte
	at := r.rng.Int64N(size)
	_, err = f.ReadAt(b[:], at)
	require.NoError(r.t, err)
	b[0] ^= 1 << r.rng.IntN(8)
	_, err = f.WriteAt(b[:], at)
	require.NoError(r.t, err)
	require.NoError(r.t, f.Sync())

	o := r.o
	o.FS, o.Executor, o.ManualCommit = disk, executor.NewManual(r.ex.Now().Add(time.Second)), false
	l, err := Open("d", o)
	if err != nil {
		require.True(r.t, errors.Is(err, ErrCorrupt) || errors.Is(err, ErrVersion), "open: %v", err)
		return
	}
	for i := l.FirstOffset(); i < l.EndOffset(); i++ {
		rec, lease, err := l.Read(i)
		if err != nil {
			require.ErrorIs(r.t, err, ErrCorrupt)
			continue
		}
		if k := int(i) - r.base; k >= 0 && k < len(r.values) {
			require.Equal(r.t, r.values[k], string(rec.Value))
		}
		lease.Release()
	}
	require.NoError(r.t, l.Close())
}

// step does one thing; an error is one that ends the use of the log.
func (r *crashRun) step() error {
	switch n := r.rng.IntN(60); {
	case n < 30:
		return r.append()
	case n < 36:
		return r.appendMany()
	case n < 43:
		r.ex.Step()
	case n < 48:
		r.ex.Advance(time.Duration(r.rng.IntN(2000)) * time.Millisecond)
	case n < 51:
		if err := r.l.Sync(); err != nil {
			return err
		}
		r.durable = r.end()
	case n < 52:
		return r.truncateSuffix()
	case n < 53:
		return r.truncatePrefix()
	case n < 54 && r.rng.IntN(8) == 0:
		return r.reset()
	case n < 55:
		return r.setState()
	case n < 56:
		return r.mend()
	default:
		first, end := int(r.l.FirstOffset()), int(r.l.EndOffset())
		if end > first {
			i := first + r.rng.IntN(end-first)
			require.Equal(r.t, r.values[i-r.base], readValue(r.t, r.l, uint64(i)))
		}
	}
	return nil
}

// records makes some, and their values.
func (r *crashRun) records() (records []Record, values []string) {
	records = make([]Record, 1+r.rng.IntN(5))
	for i := range records {
		n := r.rng.IntN(900)
		if r.rng.IntN(80) == 0 {
			n = 2 * MinSegmentBytes // may be longer than a segment
		}
		v := fmt.Sprintf("%d %d %s", r.end()+i, r.rng.IntN(100), bytes.Repeat([]byte{byte('a' + r.rng.IntN(26))}, n))
		records[i].Value = []byte(v)
		values = append(values, v)
	}
	return records, values
}

// appended takes note of an append that returned.
func (r *crashRun) appended(values []string, first uint64, err error) error {
	r.logf("appended %d at %d: %v", len(values), r.end(), err)
	switch {
	case errors.Is(err, ErrFailed):
		r.values = append(r.values, values...) // perhaps
		return err
	case err != nil:
		require.True(r.t, r.fired, "append: %v", err)
		require.Equal(r.t, IsFull(err), r.once == syscall.ENOSPC)
		return nil // nothing has been appended, and the log goes on
	}
	require.EqualValues(r.t, r.end(), first)
	r.values = append(r.values, values...)
	if r.o.Sync.always() {
		r.durable = r.end()
	}
	return r.commit()
}

// commit lets readers see what is appended.
func (r *crashRun) commit() error {
	if !r.o.ManualCommit {
		return nil
	}
	return r.l.Commit(r.l.LastPlace().Index)
}

func (r *crashRun) append() error {
	records, values := r.records()
	if r.rng.IntN(3) > 0 {
		first, err := r.l.Append(records...)
		return r.appended(values, first, err)
	}
	body := batch.Append(nil, records, 5)
	first, err := r.l.AppendBatch(body, batch.Checksum(body)).Wait()
	return r.appended(values, first, err)
}

// appendMany has several appends under way at once, or appends several entries, some of
// them control entries.
func (r *crashRun) appendMany() error {
	n := 1 + r.rng.IntN(6)
	if r.rng.IntN(2) == 0 {
		var pending []Pending
		var values [][]string
		before := r.end()
		for range n {
			records, v := r.records()
			for i := range records { // the model does not have those before yet
				records[i].Value = []byte(fmt.Sprint(len(pending), string(records[i].Value)))
				v[i] = string(records[i].Value)
			}
			pending, values = append(pending, r.l.AppendAsync(records...)), append(values, v)
		}
		var failed error
		for i, p := range pending {
			first, err := p.Wait()
			if err := r.appended(values[i], first, err); err != nil {
				failed = err
			}
		}
		require.LessOrEqual(r.t, before, r.end())
		return failed
	}
	p := r.l.LastPlace()
	var entries []Entry
	var values []string
	for i := range n {
		e := Entry{Index: p.Index + uint64(i) + 1, Term: p.Term + 1, Kind: KindControl, Body: bytes.Repeat([]byte("c"), r.rng.IntN(300))}
		if r.rng.IntN(2) == 0 {
			records, v := r.records()
			e.Kind, e.Body = KindData, batch.Append(nil, records, 5)
			values = append(values, v...)
		}
		e.Checksum = batch.Checksum(e.Body)
		entries = append(entries, e)
	}
	var first uint64
	var err error
	if r.rng.IntN(2) == 0 {
		first, err = p.Offset, r.l.WriteEntries(entries...)
	} else {
		first, err = r.l.AppendEntries(entries...).Wait()
	}
	if err != nil && !errors.Is(err, ErrFailed) {
		// Some may have been appended, in order.
		end := int(r.l.LastPlace().Offset)
		values = values[:end-r.end()]
		r.values = append(r.values, values...)
		require.True(r.t, r.fired, "append: %v", err)
		return r.commit()
	}
	return r.appended(values, first, err)
}

func (r *crashRun) truncateSuffix() error {
	last := r.l.LastPlace()
	begin := r.l.FirstPlace().Index
	if r.o.ManualCommit {
		begin = r.l.Metrics().CommittedIndex
		if begin > 0 {
			if err := r.l.TruncateSuffix(begin - 1); !errors.Is(err, ErrFailed) {
				require.ErrorIs(r.t, err, ErrCommitted)
			}
		}
	}
	index := begin + r.rng.Uint64N(last.Index-begin+1)
	p, err := r.l.PlaceAfter(index)
	require.NoError(r.t, err)
	err = r.l.TruncateSuffix(index)
	r.logf("truncated behind entry %d, offset %d of %d: %v", index, p.Offset, last.Offset, err)
	r.durable = min(r.durable, int(p.Offset))
	if err != nil {
		require.True(r.t, r.fired, "truncate suffix: %v", err)
		return err
	}
	require.Equal(r.t, p, r.l.LastPlace())
	r.values = r.values[:int(p.Offset)-r.base]
	return nil
}

func (r *crashRun) truncatePrefix() error {
	first, end := int(r.l.FirstOffset()), int(r.l.EndOffset())
	offset := first + r.rng.IntN(end-first+1)
	r.asked = max(r.asked, offset)
	r.logf("truncating before offset %d", offset)
	if err := r.l.TruncatePrefix(uint64(offset)); err != nil {
		require.True(r.t, r.fired, "truncate prefix: %v", err)
		if errors.Is(err, ErrFailed) {
			return err
		}
	}
	r.first = int(r.l.FirstOffset())
	require.LessOrEqual(r.t, r.first, max(offset, first))
	return nil
}

func (r *crashRun) reset() error {
	p := r.l.LastPlace()
	p = Place{Index: p.Index + 100, Term: p.Term + 1, Offset: uint64(r.end()) + 1000, Chain: r.rng.Uint64()}
	r.resets = append(r.resets, int(p.Offset))
	user := fmt.Sprint(r.rng.Uint64())
	r.user = append(r.user, user)
	r.logf("resetting to offset %d", p.Offset)
	if err := r.l.Reset(p, []byte(user)); err != nil {
		require.True(r.t, r.fired, "reset: %v", err)
		return err
	}
	r.user = []string{user}
	end := int(p.Offset)
	r.base, r.values, r.durable, r.first, r.asked = end, nil, end, end, end
	return nil
}

// mend has entries, or an index, written anew as they are.
func (r *crashRun) mend() error {
	first, last := r.l.FirstPlace().Index+1, r.l.LastPlace().Index
	if last < first {
		return nil
	}
	index := first + r.rng.Uint64N(last-first+1)
	entries, lease, err := r.l.ReadEntries(nil, index, index+r.rng.Uint64N(20), MaxBodyBytes)
	require.NoError(r.t, err)
	defer lease.Release()
	if r.rng.IntN(4) == 0 {
		entries = nil
	}
	err = r.l.Mend(index, entries)
	r.logf("mended %d from entry %d: %v", len(entries), index, err)
	if err != nil {
		require.True(r.t, r.fired, "mend: %v", err)
		require.NotErrorIs(r.t, err, ErrNotProven)
	}
	if errors.Is(err, ErrFailed) {
		return err
	}
	return nil
}

func (r *crashRun) setState() error {
	user := fmt.Sprint(r.rng.Uint64(), string(make([]byte, r.rng.IntN(2000))))
	r.user = append(r.user, user)
	if err := r.l.SetState([]byte(user)); err != nil {
		require.True(r.t, r.fired, "set state: %v", err)
		return err
	}
	r.user = []string{user}
	return nil
}
