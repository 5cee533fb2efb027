package storage

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/zue-log/zue/storage/executor"
	"github.com/zue-log/zue/storage/vfs"
)

// small makes segments that a few records fill.
var small = Options{SegmentBytes: MinSegmentBytes, IndexInterval: 256}

func open(t *testing.T, dir string, o Options) *Log {
	t.Helper()
	l, err := Open(dir, o)
	require.NoError(t, err)
	return l
}

func appendValue(t *testing.T, l *Log, value string) uint64 {
	t.Helper()
	off, err := l.Append(Record{Value: []byte(value)})
	require.NoError(t, err)
	return off
}

// checkValues checks that the log has these values, and no more.
func checkValues(t *testing.T, l *Log, values ...string) {
	t.Helper()
	require.EqualValues(t, len(values), l.EndOffset())
	for i, want := range values {
		require.Equal(t, want, readValue(t, l, uint64(i)))
	}
}

func readValue(t *testing.T, l *Log, off uint64) string {
	t.Helper()
	rec, lease, err := l.Read(off)
	require.NoError(t, err)
	defer lease.Release()
	require.Equal(t, off, rec.Offset)
	return string(rec.Value)
}

func TestAppendAndRead(t *testing.T) {
	l := open(t, t.TempDir(), Options{})
	defer l.Close()
	records := []Record{
		{Timestamp: 1000, Key: []byte("k"), Value: []byte("v"), Headers: []RecordHeader{{Key: []byte("h"), Value: nil}, {Key: []byte{}, Value: []byte("x")}}},
		{Timestamp: 900, Key: nil, Value: []byte{}},
		{Timestamp: 5000, Key: []byte{}, Value: nil},
		{Timestamp: -7, Key: bytes.Repeat([]byte("K"), 70_000), Value: bytes.Repeat([]byte("V"), 1<<20)},
	}
	first, err := l.Append(records...)
	require.NoError(t, err)
	require.EqualValues(t, 0, first)
	first, err = l.Append(Record{Value: []byte("later")})
	require.NoError(t, err)
	require.EqualValues(t, 4, first)
	require.EqualValues(t, 5, l.EndOffset())
	require.EqualValues(t, 0, l.FirstOffset())
	for i, want := range records {
		want.Offset = uint64(i)
		got, lease, err := l.Read(uint64(i))
		require.NoError(t, err)
		require.Equal(t, want, got)
		lease.Release()
	}
	rec, lease, err := l.Read(4)
	require.NoError(t, err)
	require.InDelta(t, time.Now().UnixMilli(), rec.Timestamp, 60_000)
	lease.Release()

	_, _, err = l.Read(5)
	var oe *OffsetError
	require.ErrorAs(t, err, &oe)
	require.ErrorIs(t, err, ErrOutOfRange)
	require.Equal(t, OffsetError{Offset: 5, First: 0, End: 5}, *oe)
}

func TestAppendRefusals(t *testing.T) {
	l := open(t, t.TempDir(), Options{})
	_, err := l.Append()
	require.Error(t, err)
	_, err = l.Append(Record{Value: make([]byte, MaxBodyBytes)})
	require.ErrorIs(t, err, ErrTooLarge)
	require.EqualValues(t, 0, appendValue(t, l, "x"))
	require.NoError(t, l.Close())
	_, err = l.Append(Record{})
	require.ErrorIs(t, err, ErrClosed)
	require.ErrorIs(t, l.Sync(), ErrClosed)
	require.ErrorIs(t, l.Close(), ErrClosed)
	_, _, err = l.Read(0)
	require.ErrorIs(t, err, ErrClosed)
}

func TestLeaseOutlivesClose(t *testing.T) {
	l := open(t, t.TempDir(), Options{})
	appendValue(t, l, "still here")
	rec, lease, err := l.Read(0)
	require.NoError(t, err)
	require.NoError(t, l.Close())
	require.Equal(t, "still here", string(rec.Value))
	lease.Release()
}

func TestOptions(t *testing.T) {
	_, err := Open(t.TempDir(), Options{SegmentBytes: 1, IndexInterval: 1})
	require.ErrorContains(t, err, "segment size")
	require.ErrorContains(t, err, "index interval")
	for _, s := range []string{"always", "never", "interval=50ms"} {
		p, err := ParseSyncPolicy(s)
		require.NoError(t, err)
		require.Equal(t, s, p.String())
	}
	for _, s := range []string{"", "sometimes", "interval=", "interval=-1s", "interval=5"} {
		_, err := ParseSyncPolicy(s)
		require.Error(t, err, s)
	}
	require.Equal(t, SyncAlways(), SyncInterval(-1))
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, Options{})
	_, err := Open(dir, Options{})
	require.ErrorIs(t, err, vfs.ErrLocked)
	require.ErrorContains(t, err, fmt.Sprint(os.Getpid()))
	require.NoError(t, l.Close())
	require.NoError(t, open(t, dir, Options{}).Close())
}

// TestManySegments goes through rolls, seals and reopening, for each policy.
func TestManySegments(t *testing.T) {
	for _, policy := range []SyncPolicy{SyncAlways(), SyncNever(), SyncInterval(time.Millisecond)} {
		t.Run(policy.String(), func(t *testing.T) {
			dir := t.TempDir()
			o := small
			o.Sync = policy
			rng := rand.New(rand.NewPCG(1, 2))
			var want []string
			for range 3 {
				l := open(t, dir, o)
				require.EqualValues(t, len(want), l.EndOffset())
				require.Zero(t, l.Recovery(), "a clean close leaves nothing to do")
				for range 150 {
					records := make([]Record, 1+rng.IntN(4))
					for i := range records {
						v := fmt.Sprint(len(want), string(bytes.Repeat([]byte("."), rng.IntN(600))))
						if rng.IntN(50) == 0 {
							v += string(make([]byte, 2*MinSegmentBytes)) // longer than a segment
						}
						records[i].Value = []byte(v)
						want = append(want, v)
					}
					first, err := l.Append(records...)
					require.NoError(t, err)
					require.EqualValues(t, len(want)-len(records), first)
				}
				for i, v := range want {
					require.Equal(t, v, readValue(t, l, uint64(i)))
				}
				require.NoError(t, l.Sync())
				require.NoError(t, l.Close())
			}
			logs, err := filepath.Glob(filepath.Join(dir, "*.log"))
			require.NoError(t, err)
			require.Greater(t, len(logs), 20)
			temps, err := filepath.Glob(filepath.Join(dir, "*.tmp"))
			require.NoError(t, err)
			require.Empty(t, temps)
		})
	}
}

func TestConcurrentAppendsAndReads(t *testing.T) {
	l := open(t, t.TempDir(), small)
	defer l.Close()
	const writers, each = 16, 200
	var wg sync.WaitGroup
	offsets := make([][]uint64, writers)
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				off, err := l.Append(Record{Value: fmt.Appendf(nil, "%d/%d", w, i)})
				if err != nil {
					t.Error(err)
					return
				}
				offsets[w] = append(offsets[w], off)
				// What is acknowledged can be read at once.
				rec, lease, err := l.Read(off)
				if err != nil || string(rec.Value) != fmt.Sprintf("%d/%d", w, i) {
					t.Errorf("read %d: %q, %v", off, rec.Value, err)
				}
				lease.Release()
			}
		})
	}
	wg.Wait()
	seen := map[uint64]bool{}
	for w := range offsets {
		require.Len(t, offsets[w], each)
		for _, off := range offsets[w] {
			require.False(t, seen[off])
			seen[off] = true
		}
	}
	require.EqualValues(t, writers*each, l.EndOffset())
}

// TestGroupCommit holds one sync and sees that the appends which come meanwhile
// share the next one.
func TestGroupCommit(t *testing.T) {
	mem := vfs.NewMem()
	// On a manual executor only, so that nothing else syncs; but the committer
	// is a task as well, and is stepped below.
	ex := executor.NewManual(time.Unix(1, 0))
	l := open(t, "d", Options{FS: mem, SegmentBytes: MinSegmentBytes, Executor: ex})
	appendValue(t, l, "begins the segment")
	ex.Advance(0)

	var syncs atomic.Int32
	entered, leave := make(chan struct{}), make(chan struct{})
	mem.Inject(func(op vfs.Op, name string) error {
		if op != vfs.OpSync || filepath.Base(name) == stateName {
			return nil
		}
		if syncs.Add(1) == 1 {
			close(entered)
			<-leave
		}
		return nil
	})
	var wg sync.WaitGroup
	wg.Go(func() { appendValue(t, l, "the lone one") })
	<-entered
	for range 20 {
		wg.Go(func() { appendValue(t, l, "of the group") })
	}
	require.Eventually(t, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.tail.place.Index == 22
	}, 10*time.Second, time.Millisecond)
	require.EqualValues(t, 1, l.EndOffset(), "nothing is shown before it is durable")
	close(leave)
	require.Eventually(t, ex.Step, 10*time.Second, time.Millisecond)
	wg.Wait()
	require.EqualValues(t, 2, syncs.Load())
	// The group formed before entry 2 was durable; its last header says that it is.
	start, _ := lastEntry(t, l.active.b)
	h, err := parseEntryHeader(l.active.b[start:], l.active.seed)
	require.NoError(t, err)
	require.EqualValues(t, 22, h.index)
	require.EqualValues(t, 2, h.mark)
	mem.Inject(nil)
	require.NoError(t, l.Close())
}

func TestFullDisk(t *testing.T) {
	mem := vfs.NewMem()
	ex := executor.NewManual(time.Unix(1, 0))
	o := small
	o.FS, o.Executor = mem, ex
	l := open(t, "d", o)
	appendValue(t, l, "a")
	full := true
	mem.Inject(func(op vfs.Op, _ string) error {
		if full && op == vfs.OpAllocate {
			return syscall.ENOSPC
		}
		return nil
	})
	var err error
	n := uint64(1)
	for ; err == nil; n++ {
		_, err = l.Append(Record{Value: make([]byte, 1000)})
	}
	n--
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.True(t, IsFull(err))
	require.NotErrorIs(t, err, ErrFailed)
	require.Equal(t, n, l.EndOffset())
	require.Equal(t, "a", readValue(t, l, 0))
	_, err = l.Append(Record{Value: make([]byte, 1000)})
	require.ErrorIs(t, err, syscall.ENOSPC, "still full")
	require.Equal(t, n, appendValue(t, l, "small"), "what fits into the segment still goes in")

	full = false
	require.Equal(t, n+1, appendValue(t, l, string(make([]byte, 1000))))
	mem.Inject(nil)
	require.NoError(t, l.Close())
	l = open(t, "d", o)
	require.Equal(t, n+2, l.EndOffset())
	require.NoError(t, l.Close())
}

func TestFailedSyncIsFinal(t *testing.T) {
	mem := vfs.NewMem()
	l := open(t, "d", Options{FS: mem, SegmentBytes: MinSegmentBytes})
	appendValue(t, l, "a")
	bad := errors.New("bad disk")
	mem.Inject(func(op vfs.Op, name string) error {
		if op == vfs.OpSync && filepath.Base(name) != stateName {
			return bad
		}
		return nil
	})
	_, err := l.Append(Record{Value: []byte("b")})
	require.ErrorIs(t, err, ErrFailed)
	require.ErrorIs(t, err, bad)
	mem.Inject(nil)
	_, err = l.Append(Record{Value: []byte("c")})
	require.ErrorIs(t, err, ErrFailed)
	require.Equal(t, "a", readValue(t, l, 0))
	require.EqualValues(t, 1, l.EndOffset())
	require.ErrorIs(t, l.Close(), ErrFailed)

	// The page cache still has "b", so it is there after all: it was never
	// reported as lost.
	l = open(t, "d", Options{FS: mem, SegmentBytes: MinSegmentBytes})
	require.EqualValues(t, 2, l.EndOffset())
	// And by now it is durable, although a sync after a failed one proves
	// nothing: recovery wrote it again.
	after := mem.Crash(nil)
	require.NoError(t, l.Close())
	l = open(t, "d", Options{FS: after, SegmentBytes: MinSegmentBytes})
	require.Equal(t, "b", readValue(t, l, 1))
	require.NoError(t, l.Close())
}

func TestBackgroundWorkWaitsForItsExecutor(t *testing.T) {
	mem := vfs.NewMem()
	ex := executor.NewManual(time.Unix(1, 0))
	l := open(t, "d", Options{FS: mem, Executor: ex, SegmentBytes: MinSegmentBytes})
	has := func(names ...string) {
		t.Helper()
		got, err := mem.List("d")
		require.NoError(t, err)
		require.Equal(t, names, got)
	}
	ex.Advance(0)
	has("state")
	appendValue(t, l, "a")
	has("00000000000000000000.index", "00000000000000000000.log", "state")
	require.True(t, ex.Step())
	has("00000000000000000000.index", "00000000000000000000.log", "segment-3.tmp", "segment-4.tmp", "state")
	// Idle: the durable mark is noted.
	require.Zero(t, l.state.mark)
	ex.Advance(idleAfter)
	require.EqualValues(t, 1, l.state.mark)
	require.NoError(t, l.Close())
}

func TestSyncIntervalBoundsTheLoss(t *testing.T) {
	mem := vfs.NewMem()
	ex := executor.NewManual(time.Unix(1, 0))
	o := Options{FS: mem, Executor: ex, SegmentBytes: MinSegmentBytes, Sync: SyncInterval(50 * time.Millisecond)}
	l := open(t, "d", o)
	appendValue(t, l, "begins the segment, which is durable at once")
	appendValue(t, l, "a")
	require.Equal(t, "a", readValue(t, l, 1), "readable before it is durable")
	lost := open(t, "d", Options{FS: mem.Crash(nil), SegmentBytes: MinSegmentBytes})
	require.EqualValues(t, 1, lost.EndOffset())
	require.NoError(t, lost.Close())
	ex.Advance(50 * time.Millisecond)
	kept := open(t, "d", Options{FS: mem.Crash(nil), SegmentBytes: MinSegmentBytes})
	require.EqualValues(t, 2, kept.EndOffset())
	require.NoError(t, kept.Close())
	require.NoError(t, l.Close())
}

// TestNothingLeaks makes each operation of a short life fail, one at a time, and
// counts what is open after Close.
func TestNothingLeaks(t *testing.T) {
	for nth := 1; ; nth++ {
		mem := vfs.NewMem()
		ex := executor.NewManual(time.Unix(1, 0))
		o := Options{FS: mem, Executor: ex, SegmentBytes: MinSegmentBytes}
		left := nth
		var failed string
		mem.Inject(func(op vfs.Op, name string) error {
			if left--; left == 0 {
				failed = string(op) + " " + name
				return syscall.EIO
			}
			return nil
		})
		for range 2 {
			l, err := Open("d", o)
			if err != nil {
				continue
			}
			for range 40 {
				_, _ = l.Append(Record{Value: make([]byte, 1000)}) // one of them fails
				ex.Step()
			}
			_ = l.Close() // or this does
			require.ErrorIs(t, l.Close(), ErrClosed)
		}
		require.Zero(t, mem.InUse(), "after %s failed", failed)
		if failed == "" {
			require.Greater(t, nth, 100)
			return
		}
	}
}

// TestStress has appenders, readers and syncers at work until Close, with the disk
// full now and then; afterwards all that was acknowledged is there.
func TestStress(t *testing.T) {
	for _, policy := range []SyncPolicy{SyncAlways(), SyncNever(), SyncInterval(100 * time.Microsecond)} {
		t.Run(policy.String(), func(t *testing.T) {
			mem := vfs.NewMem()
			var calls atomic.Int64
			mem.Inject(func(op vfs.Op, _ string) error {
				if op == vfs.OpAllocate && calls.Add(1)%7 == 0 {
					return syscall.ENOSPC
				}
				return nil
			})
			o := Options{FS: mem, SegmentBytes: MinSegmentBytes, Sync: policy}
			s := stress{l: open(t, "d", o), enough: make(chan struct{})}
			var wg sync.WaitGroup
			for w := range 8 {
				wg.Go(func() { s.appends(t, w) })
			}
			for range 2 {
				wg.Go(func() { s.syncsAndReads(t) })
			}
			<-s.enough
			require.NoError(t, s.l.Close())
			wg.Wait()
			mem.Inject(nil)
			require.Zero(t, mem.InUse())
			l := open(t, "d", o)
			require.EqualValues(t, s.count.Load(), l.EndOffset())
			s.acked.Range(func(off, v any) bool { return assert.Equal(t, v, readValue(t, l, off.(uint64))) })
			require.NoError(t, l.Close())
		})
	}
}

// stress is what the callers of TestStress share.
type stress struct {
	l      *Log
	acked  sync.Map // values by offset
	count  atomic.Int64
	enough chan struct{} // closed when so many are appended
}

// appends appends until the log is closed.
func (s *stress) appends(t *testing.T, w int) {
	for i := 0; ; i++ {
		v := fmt.Sprintf("%d/%d %s", w, i, bytes.Repeat([]byte("x"), i%50*20))
		off, err := s.l.Append(Record{Value: []byte(v)})
		switch {
		case IsFull(err):
			continue
		case errors.Is(err, ErrClosed):
			return
		case err != nil:
			t.Error(err)
			return
		}
		if _, twice := s.acked.Swap(off, v); twice {
			t.Errorf("offset %d was given twice", off)
		}
		if s.count.Add(1) == 3000 {
			close(s.enough)
		}
	}
}

// syncsAndReads does both until the log is closed.
func (s *stress) syncsAndReads(t *testing.T) {
	for {
		err := s.l.Sync()
		if end := s.l.EndOffset(); err == nil && end > 0 {
			var lease Lease
			if _, lease, err = s.l.Read(end / 2); err == nil {
				lease.Release()
			}
		}
		if errors.Is(err, ErrClosed) {
			return
		}
		if err != nil {
			t.Error(err)
			return
		}
	}
}
