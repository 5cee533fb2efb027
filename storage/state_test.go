package storage

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zue-log/zue/storage/vfs"
)

// zzStuckState makes a log whose state's second copy was not made durable (EIO), and
// that was opened again by a new process.
func failSecondStateSync(mem *vfs.Mem) {
	n := 0
	mem.Inject(func(op vfs.Op, name string) error {
		if op == vfs.OpSync && strings.HasSuffix(name, stateName) {
			if n++; n == 2 {
				return syscall.EIO
			}
		}
		return nil
	})
}

// tearNextState has the power fail within the next write of the state.
func tearNextState(mem *vfs.Mem) {
	off := false
	mem.Inject(func(op vfs.Op, name string) error {
		if off || op == vfs.OpWrite && strings.HasSuffix(name, stateName) {
			off = true
			return errPowerOff
		}
		return nil
	})
}

var errKilled = errors.New("killed")

// killFS has the process die before the arm'th sync of the state file: nothing is done
// any more, and nothing that was written counts as clean.
type killFS struct {
	*vfs.Mem
	arm int
}

type killFile struct {
	vfs.File
	fs *killFS
}

func (f *killFS) Open(name string, w bool) (vfs.File, error) {
	g, err := f.Mem.Open(name, w)
	if err != nil || !strings.HasSuffix(name, stateName) {
		return g, err
	}
	return killFile{g, f}, nil
}

func (f killFile) Sync() error {
	if f.fs.arm > 0 {
		if f.fs.arm--; f.fs.arm == 0 {
			return errKilled
		}
	}
	return f.File.Sync()
}

// TestStateStays counts what 200 power failures leave of the state in the three
// histories above; it fails if any is not "one" or "two".
func TestStateStays(t *testing.T) {
	state := func(s string) []byte { return []byte(s + strings.Repeat(s[:1], 1500)) }
	for _, how := range []string{"EIO", "killed"} {
		mem := vfs.NewMem()
		fsys := &killFS{Mem: mem}
		l := open(t, "d", Options{FS: fsys, Executor: manual(), SegmentBytes: MinSegmentBytes})
		require.NoError(t, l.SetState(state("zero")))
		require.NoError(t, l.Close())
		l = open(t, "d", Options{FS: fsys, Executor: manual(), SegmentBytes: MinSegmentBytes})
		if how == "EIO" {
			failSecondStateSync(mem)
		} else {
			fsys.arm = 2
		}
		require.Error(t, l.SetState(state("one")))
		mem.Inject(nil)
		fsys.arm = 0
		mem.UnlockAll()
		l = open(t, "d", Options{FS: fsys, Executor: manual(), SegmentBytes: MinSegmentBytes})
		require.Equal(t, string(state("one")), string(l.State()))
		tearNextState(mem)
		require.Error(t, l.SetState(state("two")))
		mem.Inject(nil)
		got := map[string]int{}
		for seed := range uint64(200) {
			disk := mem.Crash(rand.New(rand.NewPCG(seed, 0)))
			again, err := Open("d", Options{FS: disk, Executor: manual(), SegmentBytes: MinSegmentBytes})
			if err != nil {
				got["refused"]++
				continue
			}
			got[string(again.State())[:3]]++
			require.NoError(t, again.Close())
		}
		require.Zero(t, got["refused"]+got["zer"], "%s: %v", how, got)
	}
}

// TestOriginStays: the same with the log's origin: a log is refused as corrupt.
func TestOriginStays(t *testing.T) {
	mem, ex := vfs.NewMem(), manual()
	o := Options{FS: mem, Executor: ex, SegmentBytes: MinSegmentBytes}
	l := open(t, "d", o)
	for i := range 100 {
		appendValue(t, l, recordValue(i))
	}
	ex.Advance(2 * time.Second)
	state := func(s string) []byte { return []byte(s + strings.Repeat(s[:1], 1500)) }
	require.NoError(t, l.SetState(state("zero")))
	failSecondStateSync(mem)
	require.ErrorIs(t, l.TruncatePrefix(60), ErrFailed)
	mem.Inject(nil)
	_ = l.Close()
	mem.UnlockAll()
	l = open(t, "d", o) // removes the segments before the new origin, durably
	require.Positive(t, l.FirstOffset())
	tearNextState(mem)
	require.Error(t, l.SetState(state("two")))
	mem.Inject(nil)
	for seed := range uint64(50) {
		disk := mem.Crash(rand.New(rand.NewPCG(seed, 0)))
		again, err := Open("d", Options{FS: disk, Executor: manual(), SegmentBytes: MinSegmentBytes})
		require.NoError(t, err, "seed %d: no byte is damaged", seed)
		require.NoError(t, again.Close())
	}
}

// fullFS is a disk without space: only what was allocated before can be written.
type fullFS struct {
	*vfs.Mem
	full bool
}

type fullFile struct {
	vfs.File
	fs   *fullFS
	name string
}

func (f *fullFS) Open(name string, w bool) (vfs.File, error) {
	g, err := f.Mem.Open(name, w)
	return fullFile{g, f, name}, err
}

func (f fullFile) WriteAt(p []byte, off int64) (int, error) {
	size, _ := f.File.Size()
	if f.fs.full && (off+int64(len(p))+4095)&^4095 > (size+4095)&^4095 {
		return 0, syscall.ENOSPC
	}
	return f.File.WriteAt(p, off)
}

// TestStateWithoutBlocks: the power failed just after the state file was made, before
// its blocks were durable; the next Open does not allocate them. A full disk then makes
// the log fail where nothing needs space.
func TestStateWithoutBlocks(t *testing.T) {
	mem := vfs.NewMem()
	require.NoError(t, mem.MkdirAll("d"))
	f, err := mem.Create("d/" + stateName)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	fsys := &fullFS{Mem: mem}
	l := open(t, "d", Options{FS: fsys, Executor: manual(), SegmentBytes: MinSegmentBytes})
	for i := range 5 {
		appendValue(t, l, fmt.Sprint(i))
	}
	fsys.full = true
	last := l.LastPlace()
	require.NoError(t, l.TruncateSuffix(last.Index-1))
	require.NoError(t, l.Close())
}
