package storage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zue-log/zue/storage/vfs"
)

// full has no file get blocks any more.
func full(mem *vfs.Mem) {
	mem.Inject(func(op vfs.Op, _ string) error {
		if op == vfs.OpAllocate {
			return syscall.ENOSPC
		}
		return nil
	})
}

// appendControl appends a control entry of n bytes.
func appendControl(l *Log, n int) error {
	b := make([]byte, n)
	_, err := l.AppendEntries(NewEntry(l.LastPlace().Index+1, 1, KindControl, b)).Wait()
	return err
}

// filesOf returns what is in the directory d.
func filesOf(t *testing.T, mem *vfs.Mem) []string {
	t.Helper()
	names, err := mem.List("d")
	require.NoError(t, err)
	return names
}

// TestFullDiskGrow has a segment of control entries grow when there is no space.
func TestFullDiskGrow(t *testing.T) {
	mem := vfs.NewMem()
	l := open(t, "d", Options{FS: mem, Executor: manual(), SegmentBytes: MinSegmentBytes})
	for range 10 {
		require.NoError(t, appendControl(l, 1000))
	}
	before := filesOf(t, mem)
	full(mem)
	var err error
	for range 10 {
		if err = appendControl(l, 1000); err != nil {
			break
		}
	}
	require.True(t, IsFull(err), "%v", err)
	require.Equal(t, before, filesOf(t, mem), "nothing is left of the attempt")
	mem.Inject(nil)
	for range 10 {
		require.NoError(t, appendControl(l, 1000))
	}
	require.NoError(t, l.Close())
	l = open(t, "d", Options{FS: mem, Executor: manual(), SegmentBytes: MinSegmentBytes})
	require.Greater(t, l.LastPlace().Index, uint64(20))
}

// TestFullDiskTruncate cuts off the log's end when there is no space for a copy of the
// rest, and then when there is one because the next segment was made before.
func TestFullDiskTruncate(t *testing.T) {
	mem, ex := vfs.NewMem(), manual()
	l := open(t, "d", Options{FS: mem, Executor: ex, SegmentBytes: MinSegmentBytes})
	for i := range 5 {
		appendValue(t, l, fmt.Sprint(i))
	}
	before := filesOf(t, mem)
	full(mem)
	err := l.TruncateSuffix(2)
	require.True(t, IsFull(err), "%v", err)
	require.EqualValues(t, 5, l.EndOffset())
	require.Equal(t, before, filesOf(t, mem))
	mem.Inject(nil)
	ex.Advance(0)
	require.NotNil(t, l.ready)
	full(mem)
	require.NoError(t, l.TruncateSuffix(2))
	require.EqualValues(t, 2, appendValue(t, l, "new"))
	checkValues(t, l, "0", "1", "new")
	require.NoError(t, l.Close())
}

// TestFullDiskEarlyRoll has segments that could be left, for their age or because they
// were made in haste, when there is no space for others.
func TestFullDiskEarlyRoll(t *testing.T) {
	for _, age := range []time.Duration{0, time.Hour} {
		mem, ex := vfs.NewMem(), manual()
		l := open(t, "d", Options{FS: mem, Executor: ex, SegmentBytes: 8 << 20, SegmentAge: age})
		full(mem)
		// Nothing could be made: the first segment cannot either.
		_, err := l.Append(Record{Value: []byte("a")})
		require.True(t, IsFull(err), "%v", err)
		mem.Inject(nil)
		appendValue(t, l, "a")
		full(mem)
		ex.Advance(2 * time.Hour) // the next cannot be made
		appendValue(t, l, "b")
		require.EqualValues(t, 1, l.Metrics().Rolls)
		mem.Inject(nil)
		ex.Advance(0)
		full(mem)
		appendValue(t, l, "c")
		require.EqualValues(t, 2, l.Metrics().Rolls, "the next was there")
		checkValues(t, l, "a", "b", "c")
		require.NoError(t, l.Close())
	}
}

// closeFS makes files whose Close fails while fail is set.
type closeFS struct {
	vfs.FS
	fail *bool
}

type closeFile struct {
	vfs.File
	fail *bool
}

func (f closeFS) Create(name string) (vfs.File, error) {
	g, err := f.FS.Create(name)
	if err != nil {
		return nil, err
	}
	return closeFile{g, f.fail}, nil
}

func (f closeFile) Close() error {
	if err := f.File.Close(); err != nil || !*f.fail {
		return err
	}
	return syscall.EIO
}

// TestGrowCloseFails has the file of a segment that was replaced fail to close.
func TestGrowCloseFails(t *testing.T) {
	fail := false
	dir := t.TempDir()
	l := open(t, dir, Options{FS: closeFS{vfs.OS{}, &fail}, Executor: manual(), SegmentBytes: MinSegmentBytes})
	fail = true
	var err error
	n := 0
	for ; err == nil && n < 20; n++ {
		err = appendControl(l, 1000)
	}
	require.ErrorIs(t, err, ErrFailed)
	require.ErrorIs(t, err, syscall.EIO)
	fail = false
	require.ErrorIs(t, appendControl(l, 1000), ErrFailed)
	require.Error(t, l.Close())
	l = open(t, dir, Options{SegmentBytes: MinSegmentBytes})
	require.EqualValues(t, n-1, l.LastPlace().Index)
}

// TestSparseFile looks at files that are longer than any segment.
func TestSparseFile(t *testing.T) {
	mem := vfs.NewMem()
	l := open(t, "d", Options{FS: mem, Executor: manual(), SegmentBytes: MinSegmentBytes})
	appendValue(t, l, "x")
	require.NoError(t, l.Close())
	_, err := Open("d", Options{FS: sizedFS{mem}, Executor: manual()})
	require.ErrorIs(t, err, ErrCorrupt)
}

// sizedFS has segments seem to be of 1 TiB.
type sizedFS struct{ vfs.FS }

type sizedFile struct{ vfs.File }

func (f sizedFS) Open(name string, writable bool) (vfs.File, error) {
	g, err := f.FS.Open(name, writable)
	if err != nil || !strings.HasSuffix(name, ".log") {
		return g, err
	}
	return sizedFile{g}, nil
}

func (sizedFile) Size() (int64, error) { return 1 << 40, nil }
func (f sizedFile) Map(int, bool) (vfs.Mapping, error) {
	return nil, errors.New("mapped")
}

// countLines counts the lines of a logger.
type countLines struct {
	slog.Handler
	n *atomic.Int64
}

func (c countLines) Handle(context.Context, slog.Record) error { c.n.Add(1); return nil }
func (c countLines) Enabled(context.Context, slog.Level) bool  { return true }

// TestFullDiskIsNotTriedAllTheTime: while the disk is full each append tries to make the next segment,
// and logs a warning.
func TestFullDiskIsNotTriedAllTheTime(t *testing.T) {
	mem, ex := vfs.NewMem(), manual()
	var lines atomic.Int64
	l := open(t, "d", Options{FS: mem, Executor: ex, SegmentBytes: 1 << 20, Logger: slog.New(countLines{slog.DiscardHandler, &lines})})
	appendValue(t, l, "x")
	creates := 0
	mem.Inject(func(op vfs.Op, _ string) error {
		if op == vfs.OpCreate {
			creates++
		}
		if op == vfs.OpAllocate {
			return syscall.ENOSPC
		}
		return nil
	})
	for i := range 1000 {
		appendValue(t, l, fmt.Sprint(i)) // there is room for them
		ex.Advance(0)
	}
	require.EqualValues(t, 1, lines.Load())
	require.Equal(t, 1, creates)
	mem.Inject(nil)
	ex.Advance(2 * time.Second)
	appendValue(t, l, "x")
	ex.Advance(0)
	require.NotNil(t, l.ready)
	require.NoError(t, l.Close())
}

// TestFullDiskRename has a directory that cannot grow: nothing is left of the segment that
// was to begin, and appends work again afterwards.
func TestFullDiskRename(t *testing.T) {
	for _, skip := range []int{0, 1} { // the index's name, the segment's
		mem := vfs.NewMem()
		l := open(t, "d", Options{FS: mem, Executor: manual(), SegmentBytes: MinSegmentBytes})
		before, left := filesOf(t, mem), skip
		mem.Inject(func(op vfs.Op, _ string) error {
			if op != vfs.OpRename {
				return nil
			}
			if left--; left >= 0 {
				return nil
			}
			return syscall.ENOSPC
		})
		_, err := l.Append(Record{Value: []byte("a")})
		require.True(t, IsFull(err), "%v", err)
		require.Equal(t, before, filesOf(t, mem))
		mem.Inject(nil)
		appendValue(t, l, "a")
		checkValues(t, l, "a")
		require.NoError(t, l.Close())
		require.Zero(t, mem.InUse())
	}
}

// TestEarlyRollKeepsItsSegment: a segment is begun in haste (the next one is being made still); the
// next one is there before that group is written, which takes it; an entry that was to
// leave the hasty segment for it has none, and a full disk keeps it out although the
// segment before it is empty.
func TestEarlyRollKeepsItsSegment(t *testing.T) {
	mem, ex := vfs.NewMem(), manual()
	l := open(t, "d", Options{FS: mem, Executor: ex, SegmentBytes: 8 << 20})
	value := make([]byte, 3<<20)
	_, err := l.Append(Record{Value: value}) // has the next one made, by a task
	require.NoError(t, err)
	_, err = l.Append(Record{Value: value})
	require.NoError(t, err)
	a := l.AppendAsync(Record{Value: value}) // does not fit
	require.True(t, l.tail.cold)
	require.True(t, ex.Step()) // the task has made it
	require.NotNil(t, l.ready)
	full(mem)
	b := l.AppendAsync(Record{Value: []byte("b")})
	_, err = a.Wait()
	require.NoError(t, err)
	_, err = b.Wait()
	require.NoError(t, err, "5 MiB are free in the active segment")
}
