package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zue-log/zue/storage/executor"
	"github.com/zue-log/zue/storage/vfs"
)

func TestVerifyDirectory(t *testing.T) {
	const n = 25
	disk := memLog(t, n, false)
	ctx := t.Context()
	r, err := Verify(ctx, disk, "log", WalkOptions{})
	require.NoError(t, err)
	require.Equal(t, Report{Segments: 4, Sealed: 3, Entries: n, Records: n, Bytes: r.Bytes, EndOffset: n, Indexes: [4]int{4}}, r)

	logs := memSegments(t, disk)
	memWrite(t, disk, logs[0], []byte{0xff}, 3000)
	memWrite(t, disk, logs[2], []byte{0xff}, 3000)
	memWrite(t, disk, logs[3], []byte{0xff}, 70)
	r, err = Verify(ctx, disk, "log", WalkOptions{Batches: true})
	require.NoError(t, err)
	require.EqualValues(t, n-3, r.Entries)
	require.Len(t, r.Damage, 3)
	for i, path := range []string{logs[0], logs[2], logs[3]} {
		require.Equal(t, path, r.Damage[i].Path)
		require.ErrorIs(t, r.Damage[i], ErrCorrupt)
	}
	require.EqualValues(t, 2, r.Damage[0].Index)
	require.EqualValues(t, 1, r.Damage[0].Offset)

	stopped, cancel := context.WithCancel(ctx)
	cancel()
	_, err = Verify(stopped, disk, "log", WalkOptions{})
	require.ErrorIs(t, err, context.Canceled)
	require.Zero(t, disk.InUse())
}

func TestLogVerify(t *testing.T) {
	const n = 25
	disk := memLog(t, n, false)
	l := open(t, "log", Options{FS: disk, SegmentBytes: MinSegmentBytes, Executor: executor.NewManual(time.Unix(1, 0))})
	logs := memSegments(t, disk)
	memWrite(t, disk, logs[1], []byte{0xff}, 3000)
	memWrite(t, disk, logs[2], []byte{0xff}, 70)
	var seen []*CorruptionError
	r, err := l.Verify(t.Context(), func(e *CorruptionError) { seen = append(seen, e) })
	require.NoError(t, err)
	require.Equal(t, 4, r.Segments)
	require.EqualValues(t, n-2, r.Entries)
	require.Equal(t, r.Damage, seen)
	require.Len(t, seen, 2)
	require.EqualValues(t, 9, seen[0].Index)
	require.EqualValues(t, 15, seen[1].Index)

	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = l.Verify(stopped, nil)
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, l.Close())
	_, err = l.Verify(t.Context(), nil)
	require.ErrorIs(t, err, ErrClosed)
	require.Zero(t, disk.InUse())
}

// TestLogVerifyWhileAppending scrubs an open log while it grows, is cut at both ends,
// and is read.
func TestLogVerifyWhileAppending(t *testing.T) {
	o := small
	o.Sync = SyncNever()
	l := open(t, t.TempDir(), o)
	defer l.Close()
	var done atomic.Bool
	var group sync.WaitGroup
	group.Go(func() {
		defer done.Store(true)
		for i := range 2000 {
			appendValue(t, l, fmt.Sprint(i, strings.Repeat("z", i%700)))
			switch i % 400 {
			case 200:
				require.NoError(t, l.TruncateSuffix(l.LastPlace().Index-20))
			case 399:
				require.NoError(t, l.TruncatePrefix(l.EndOffset()-100))
			}
		}
	})
	for !done.Load() {
		r, err := l.Verify(t.Context(), nil)
		require.NoError(t, err)
		require.Empty(t, r.Damage)
		runtime.Gosched()
	}
	group.Wait()
	r, err := l.Verify(t.Context(), nil)
	require.NoError(t, err)
	require.Empty(t, r.Damage)
	require.Equal(t, l.EndOffset(), r.EndOffset)
	require.Equal(t, l.EndOffset()-l.FirstOffset(), r.Records)
}

// TestLogVerifyFault cuts a mapped file short: the process lives, and what is gone is
// reported.
func TestLogVerifyFault(t *testing.T) {
	dir := t.TempDir()
	logs := fill(t, dir, 100)
	l := open(t, dir, small)
	defer l.Close()
	before, err := l.Verify(t.Context(), nil)
	require.NoError(t, err)
	require.EqualValues(t, 100, before.Entries)
	// It has no name any more, by which it could be read instead.
	f, err := os.OpenFile(logs[1], os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, os.Remove(logs[1]))
	require.NoError(t, f.Truncate(2*walkBlock))
	r, err := l.Verify(t.Context(), nil)
	require.NoError(t, err)
	require.NotEmpty(t, r.Damage)
	require.Equal(t, logs[1], r.Damage[0].Path)
	require.Contains(t, r.Damage[0].Reason, "cannot be read")
	require.Less(t, r.Entries, before.Entries)
	require.Greater(t, r.Entries, uint64(100-30))
}

func TestWalkPermission(t *testing.T) {
	if os.Getuid() == 0 {
		t.Log("root may write anywhere: a file system that refuses stands in")
	}
	disk := memLog(t, 9, false)
	disk.Inject(func(op vfs.Op, _ string) error {
		if op == vfs.OpOpen || op == vfs.OpRead {
			return nil
		}
		return syscall.EROFS
	})
	require.Len(t, walk(t, disk, "log").entries, 9)
	disk.Inject(func(op vfs.Op, name string) error {
		if op == vfs.OpOpen && strings.HasSuffix(name, ".log") {
			return syscall.EACCES
		}
		return nil
	})
	require.ErrorIs(t, Walk(disk, "log", WalkOptions{}, (&walked{}).visit), syscall.EACCES)
}

// BenchmarkVerify checks 1 GiB of records of 1 KiB in the page cache, and half as much
// of records of 100 bytes.
func BenchmarkVerify(b *testing.B) {
	for _, c := range []struct{ size, total int }{{1000, 1 << 30}, {100, 1 << 29}} {
		dir := b.TempDir()
		l, err := Open(dir, Options{Sync: SyncNever()})
		require.NoError(b, err)
		value := make([]byte, c.size)
		for range c.total / (c.size + 128) {
			_, err := l.Append(Record{Value: value})
			require.NoError(b, err)
		}
		check := func(b *testing.B, verify func() (Report, error)) {
			b.ReportAllocs()
			for b.Loop() {
				r, err := verify()
				require.NoError(b, err)
				require.Empty(b, r.Damage)
				b.SetBytes(r.Bytes)
			}
		}
		b.Run(fmt.Sprintf("log/%d", c.size), func(b *testing.B) {
			check(b, func() (Report, error) { return l.Verify(b.Context(), nil) })
		})
		b.Run(fmt.Sprintf("directory/%d", c.size), func(b *testing.B) {
			check(b, func() (Report, error) { return Verify(b.Context(), vfs.OS{}, dir, WalkOptions{}) })
		})
		b.Run(fmt.Sprintf("batches/%d", c.size), func(b *testing.B) {
			check(b, func() (Report, error) { return Verify(b.Context(), vfs.OS{}, dir, WalkOptions{Batches: true}) })
		})
		require.NoError(b, l.Close())
		require.NoError(b, os.RemoveAll(dir))
	}
}

func TestVerifyPaced(t *testing.T) {
	l, err := Open(t.TempDir(), Options{SegmentBytes: 1 << 20})
	require.NoError(t, err)
	defer l.Close()
	for range 50 {
		_, err := l.Append(Record{Value: make([]byte, 100_000)})
		require.NoError(t, err)
	}
	total, calls := int64(0), 0
	report, err := l.VerifyPaced(t.Context(), func(n int64) error {
		total += n
		calls++
		require.Less(t, n, int64(verifyStep+200_000))
		return nil
	}, nil)
	require.NoError(t, err)
	require.Equal(t, report.Bytes, total)
	require.GreaterOrEqual(t, calls, 4)

	stop := errors.New("stop")
	_, err = l.VerifyPaced(t.Context(), func(int64) error { return stop }, nil)
	require.ErrorIs(t, err, stop)
}
