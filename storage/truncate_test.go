package storage

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zue-log/zue/storage/executor"
	"github.com/zue-log/zue/storage/vfs"
)

// TestTruncateSuffix cuts at every entry, in the active segment and in sealed ones, with
// readers holding leases, and goes on from there.
func TestTruncateSuffix(t *testing.T) {
	for index := uint64(0); index <= 100; index += 7 {
		dir := t.TempDir()
		l := open(t, dir, small)
		for i := range 100 {
			appendValue(t, l, recordValue(i))
		}
		require.Greater(t, len(*l.segments.Load()), 2)
		rec, lease, err := l.Read(99)
		require.NoError(t, err)
		want, err := l.PlaceAfter(index)
		require.NoError(t, err)
		require.NoError(t, l.TruncateSuffix(index))
		require.Equal(t, want, l.LastPlace())
		checkAll(t, l, int(index))
		_, _, err = l.Read(index)
		require.ErrorIs(t, err, ErrOutOfRange)
		for i := index; i < 120; i++ {
			require.Equal(t, i, appendValue(t, l, recordValue(int(i))))
		}
		checkAll(t, l, 120)
		require.Equal(t, recordValue(99), string(rec.Value), "under a lease")
		lease.Release()
		require.NoError(t, l.Close())
		l = open(t, dir, small)
		require.Zero(t, l.Recovery())
		checkAll(t, l, 120)
		require.NoError(t, l.Close())
	}
}

// TestTruncateSuffixAtEachStep cuts the power before each operation of a truncation that
// goes back over several segments.
func TestTruncateSuffixAtEachStep(t *testing.T) {
	for step := 1; ; step++ {
		mem := vfs.NewMem()
		o := Options{FS: mem, SegmentBytes: MinSegmentBytes, Executor: executor.NewManual(time.Unix(1, 0))}
		l := open(t, "d", o)
		for i := range 100 {
			appendValue(t, l, recordValue(i))
		}
		o.Executor.(*executor.Manual).Advance(time.Minute) // seals, and notes what is durable
		left := step
		mem.Inject(func(op vfs.Op, _ string) error {
			if left--; left <= 0 {
				return errPowerOff
			}
			return nil
		})
		err := l.TruncateSuffix(10)
		mem.Inject(nil)
		unchanged := err != nil && !errors.Is(err, ErrFailed)
		if unchanged {
			checkAll(t, l, 100)
		}
		for seed := range uint64(4) {
			o.FS, o.Executor = mem.Crash(rand.New(rand.NewPCG(seed, uint64(step)))), executor.NewManual(time.Unix(2, 0))
			again := open(t, "d", o)
			end := int(again.EndOffset())
			switch {
			case err == nil:
				require.Equal(t, 10, end)
			case unchanged:
				require.Equal(t, 100, end)
			default:
				require.GreaterOrEqual(t, end, 10)
			}
			checkAll(t, again, end)
			require.NoError(t, again.Close())
		}
		if err == nil {
			require.Greater(t, step, 10)
			require.NoError(t, l.Close())
			return
		}
	}
}

func TestTruncatePrefix(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, small)
	for i := range 100 {
		appendValue(t, l, recordValue(i))
	}
	rec, lease, err := l.Read(0)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return l.Metrics().Seals == l.Metrics().Rolls-1 }, 10*time.Second, time.Millisecond)
	require.NoError(t, l.TruncatePrefix(50))
	first := l.FirstOffset()
	require.Positive(t, first)
	require.LessOrEqual(t, first, uint64(50))
	_, _, err = l.Read(first - 1)
	require.ErrorIs(t, err, ErrOutOfRange)
	require.Equal(t, recordValue(0), string(rec.Value), "under a lease")
	lease.Release()
	for i := first; i < 100; i++ {
		require.Equal(t, recordValue(int(i)), readValue(t, l, i))
	}
	logs, err := filepath.Glob(filepath.Join(dir, "*.log"))
	require.NoError(t, err)
	require.Equal(t, segmentName(first), filepath.Base(logs[0]))
	require.NoError(t, l.TruncatePrefix(1000), "the active segment stays")
	active := l.FirstOffset()
	require.Less(t, active, uint64(100))
	require.EqualValues(t, 100, appendValue(t, l, recordValue(100)))
	require.NoError(t, l.Close())
	l = open(t, dir, small)
	require.Equal(t, active, l.FirstOffset())
	require.Zero(t, l.Recovery())
	require.NoError(t, l.Close())

	// What is missing is not taken for removed.
	require.NoError(t, os.Remove(filepath.Join(dir, segmentName(active))))
	_, err = Open(dir, small)
	require.ErrorIs(t, err, ErrCorrupt)
}

func TestRetention(t *testing.T) {
	t.Run("by size", func(t *testing.T) {
		ex := executor.NewManual(time.Unix(1, 0))
		l := open(t, "d", Options{FS: vfs.NewMem(), Executor: ex, SegmentBytes: MinSegmentBytes, RetentionBytes: 3 * MinSegmentBytes})
		for i := range 200 {
			appendValue(t, l, recordValue(i))
			ex.Advance(0)
			require.LessOrEqual(t, l.Metrics().FileBytes, int64(4*MinSegmentBytes))
		}
		require.Greater(t, l.FirstOffset(), uint64(100))
		require.NoError(t, l.Close())
	})
	t.Run("by age", func(t *testing.T) {
		ex := executor.NewManual(time.Unix(1, 0))
		l := open(t, "d", Options{FS: vfs.NewMem(), Executor: ex, SegmentBytes: MinSegmentBytes, RetentionAge: time.Hour})
		for i := range 100 {
			appendValue(t, l, recordValue(i))
			ex.Advance(time.Minute)
		}
		first := l.FirstOffset()
		require.InDelta(t, 100-60, int(first), 40, "whole segments only")
		require.Positive(t, first)
		require.Equal(t, recordValue(99), readValue(t, l, 99))
		ex.Advance(2 * time.Hour)
		require.Greater(t, l.FirstOffset(), first, "nobody need append for it")
		require.NoError(t, l.Close())
	})
	t.Run("not what is not committed", func(t *testing.T) {
		ex := executor.NewManual(time.Unix(1, 0))
		l := open(t, "d", Options{FS: vfs.NewMem(), Executor: ex, SegmentBytes: MinSegmentBytes, RetentionBytes: 1, ManualCommit: true})
		for i := range 100 {
			appendValue(t, l, recordValue(i))
			ex.Advance(0)
		}
		require.Zero(t, l.FirstOffset())
		require.NoError(t, l.TruncatePrefix(90))
		require.Zero(t, l.FirstOffset())
		require.NoError(t, l.Commit(50))
		require.NoError(t, l.TruncatePrefix(90))
		require.LessOrEqual(t, l.FirstOffset(), uint64(50))
		require.Positive(t, l.FirstOffset())
		require.NoError(t, l.Close())
	})
}

func TestReset(t *testing.T) {
	mem := vfs.NewMem()
	o := Options{FS: mem, SegmentBytes: MinSegmentBytes}
	l := open(t, "d", o)
	for i := range 100 {
		appendValue(t, l, recordValue(i))
	}
	rec, lease, err := l.Read(7)
	require.NoError(t, err)
	require.NoError(t, l.SetState([]byte("old")))
	for _, p := range []Place{{Index: 1000, Term: 9, Offset: 5000, Chain: 77}, {Index: 500, Term: 7, Offset: 20, Chain: 3}} {
		state := fmt.Sprint("of ", p.Index)
		require.NoError(t, l.Reset(p, []byte(state)))
		require.Equal(t, p, l.LastPlace())
		require.Equal(t, p, l.FirstPlace())
		require.Equal(t, recordValue(7), string(rec.Value), "under a lease")
		_, _, err = l.Read(7)
		require.ErrorIs(t, err, ErrOutOfRange)
		require.NoError(t, l.Close())
		l = open(t, "d", o)
		require.Equal(t, p, l.LastPlace())
		require.Equal(t, state, string(l.State()))
		require.Equal(t, p.Offset, appendValue(t, l, "next"))
		require.Equal(t, p.Index+1, l.LastPlace().Index)
		require.NoError(t, l.Close())
		l = open(t, "d", o)
		require.Equal(t, "next", readValue(t, l, p.Offset))
	}
	lease.Release()
	require.NoError(t, l.Close())
	require.Zero(t, mem.InUse())
}

func TestTruncationRefusals(t *testing.T) {
	l := open(t, "d", Options{FS: vfs.NewMem(), SegmentBytes: MinSegmentBytes})
	require.NoError(t, l.TruncateSuffix(5), "there is nothing behind it")
	require.NoError(t, l.TruncatePrefix(5))
	require.NoError(t, l.Reset(Place{Index: 10, Term: 2, Offset: 4}, nil))
	appendValue(t, l, "a")
	require.ErrorIs(t, l.TruncateSuffix(9), ErrNoEntry)
	require.NoError(t, l.TruncateSuffix(10))
	require.Equal(t, l.FirstPlace(), l.LastPlace())
	require.Error(t, l.SetState(make([]byte, MaxStateBytes+1)))
	require.NoError(t, l.SetState(make([]byte, MaxStateBytes)))
	require.ErrorIs(t, l.Reset(Place{}, make([]byte, MaxStateBytes+1)), ErrTooLarge)
	require.EqualValues(t, 10, l.LastPlace().Index)
	require.NoError(t, l.Close())
	for name, err := range map[string]error{"suffix": l.TruncateSuffix(0), "prefix": l.TruncatePrefix(0), "reset": l.Reset(Place{}, nil), "state": l.SetState(nil)} {
		require.ErrorIs(t, err, ErrClosed, name)
	}
}

// TestUnsureStateIsFinal: when it is not known where the log begins, or what its user's
// state is, nothing may be built on either.
func TestUnsureStateIsFinal(t *testing.T) {
	bad := errors.New("bad disk")
	for name, do := range map[string]func(l *Log) error{
		"prefix": func(l *Log) error { return l.TruncatePrefix(50) },
		"state":  func(l *Log) error { return l.SetState([]byte("x")) },
	} {
		mem := vfs.NewMem()
		ex := executor.NewManual(time.Unix(1, 0))
		l := open(t, "d", Options{FS: mem, SegmentBytes: MinSegmentBytes, Executor: ex})
		for i := range 100 {
			appendValue(t, l, recordValue(i))
		}
		ex.Advance(0)
		mem.Inject(func(op vfs.Op, path string) error {
			if op == vfs.OpSync && filepath.Base(path) == stateName {
				return bad
			}
			return nil
		})
		require.ErrorIs(t, do(l), ErrFailed, name)
		_, err := l.Append(Record{})
		require.ErrorIs(t, err, bad, name)
		mem.Inject(nil)
		require.Error(t, l.Close())
		l = open(t, "d", Options{FS: mem, SegmentBytes: MinSegmentBytes})
		require.EqualValues(t, 100, l.EndOffset())
		require.NoError(t, l.Close())
	}
}

// TestTruncateUnderLoad truncates at both ends while records are appended and read.
func TestTruncateUnderLoad(t *testing.T) {
	l := open(t, t.TempDir(), Options{SegmentBytes: MinSegmentBytes, Sync: SyncNever()})
	stop := make(chan struct{})
	done := make(chan error, 3)
	repeat := func(step func() error) {
		for {
			if err := step(); err != nil {
				done <- err
				return
			}
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
		}
	}
	appended := 0
	go repeat(func() error {
		_, err := l.Append(Record{Value: fmt.Appendf(nil, "%d %s", appended, make([]byte, 400))})
		appended++
		return err
	})
	for range 2 {
		go repeat(func() error {
			first, end := l.FirstOffset(), l.EndOffset()
			for _, offset := range []uint64{first, (first + end) / 2, end - 1} {
				_, lease, err := l.Read(offset)
				lease.Release()
				if err != nil && !errors.Is(err, ErrOutOfRange) {
					return err
				}
			}
			return nil
		})
	}
	for i := range 60 {
		last := l.LastPlace()
		begin := l.FirstPlace()
		if last.Index > begin.Index+20 {
			require.NoError(t, l.TruncateSuffix(last.Index-uint64(i%20)))
		}
		require.NoError(t, l.TruncatePrefix((l.FirstOffset()+l.EndOffset())/2))
	}
	close(stop)
	for range 3 {
		require.NoError(t, <-done)
	}
	require.NoError(t, l.Close())
}

// TestReadBesideReset looks for records, which the log never has, while it is reset to
// begin behind them.
func TestReadBesideReset(t *testing.T) {
	l := open(t, "d", Options{FS: vfs.NewMem(), Executor: manual(), SegmentBytes: MinSegmentBytes})
	appendValue(t, l, "x")
	stop, bad := make(chan struct{}), make(chan error, 1)
	go func() {
		defer close(bad)
		for {
			_, _, err := l.Read(1000)
			if !errors.Is(err, ErrOutOfRange) {
				bad <- err
				return
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
	for i := range uint64(200) {
		require.NoError(t, l.Reset(Place{Index: 50 + i, Term: 1, Offset: 2000 + i}, nil))
		appendValue(t, l, "y")
	}
	close(stop)
	require.NoError(t, <-bad)
	require.NoError(t, l.Close())
}
