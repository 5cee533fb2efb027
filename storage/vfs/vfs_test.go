package vfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestContract holds both file systems to what the interface says.
func TestContract(t *testing.T) {
	t.Run("OS", func(t *testing.T) { contract(t, OS{}, t.TempDir()) })
	t.Run("Mem", func(t *testing.T) { contract(t, NewMem(), "root") })
}

func contract(t *testing.T, fsys FS, root string) {
	dir := filepath.Join(root, "a", "b")
	_, err := fsys.List(dir)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NoError(t, fsys.MkdirAll(dir))
	require.NoError(t, fsys.MkdirAll(dir), "it may exist")

	name := filepath.Join(dir, "f")
	_, err = fsys.Open(name, true)
	require.ErrorIs(t, err, fs.ErrNotExist)
	f, err := fsys.Create(name)
	require.NoError(t, err)
	_, err = fsys.Create(name)
	require.ErrorIs(t, err, fs.ErrExist)

	require.NoError(t, f.Allocate(10_000))
	require.NoError(t, f.Allocate(5), "never shrinks")
	size, err := f.Size()
	require.NoError(t, err)
	require.EqualValues(t, 10_000, size)
	m, err := f.Map(10_000, true)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte("hello"), 5000)
	require.NoError(t, err)
	require.Equal(t, "\x00hello\x00", string(m.Bytes()[4999:5006]), "a mapping sees writes at once")
	copy(m.Bytes()[5000:], "J")
	b := make([]byte, 5)
	n, err := f.ReadAt(b, 5000)
	require.NoError(t, err)
	require.Equal(t, "Jello", string(b[:n]))
	n, err = f.ReadAt(b, 9998)
	require.Equal(t, 2, n)
	require.ErrorIs(t, err, io.EOF)
	require.NoError(t, f.WriteSync([]byte("c"), 5000))
	require.Equal(t, "cello", string(m.Bytes()[5000:5005]))
	require.NoError(t, f.Sync())
	require.NoError(t, m.Close())
	_, err = f.Map(10_001, false)
	if _, ok := fsys.(*Mem); ok {
		require.Error(t, err)
	}
	require.NoError(t, f.Truncate(5003))
	size, err = f.Size()
	require.NoError(t, err)
	require.EqualValues(t, 5003, size)
	require.NoError(t, f.Close())

	r, err := fsys.Open(name, false)
	require.NoError(t, err)
	_, err = r.WriteAt([]byte("x"), 0)
	require.Error(t, err, "open for reading only")
	require.NoError(t, r.Close())

	other := filepath.Join(dir, "g")
	require.NoError(t, fsys.Rename(name, other))
	require.NoError(t, fsys.SyncDir(dir))
	names, err := fsys.List(dir)
	require.NoError(t, err)
	require.Equal(t, []string{"g"}, names)
	require.NoError(t, fsys.Remove(other))
	require.ErrorIs(t, fsys.Remove(other), fs.ErrNotExist)

	lock, err := fsys.Lock(filepath.Join(dir, "lock"), false)
	require.NoError(t, err)
	_, err = fsys.Lock(filepath.Join(dir, "lock"), false)
	require.ErrorIs(t, err, ErrLocked)
	require.NoError(t, lock.Close())
	lock, err = fsys.Lock(filepath.Join(dir, "lock"), false)
	require.NoError(t, err)
	require.NoError(t, lock.Close())
}

func content(t *testing.T, fsys FS, name string) string {
	t.Helper()
	f, err := fsys.Open(name, false)
	require.NoError(t, err)
	size, err := f.Size()
	require.NoError(t, err)
	b := make([]byte, size)
	_, err = f.ReadAt(b, 0)
	if !errors.Is(err, io.EOF) {
		require.NoError(t, err)
	}
	return string(b)
}

func TestMemCrashLosesWhatWasNotSynced(t *testing.T) {
	m := NewMem()
	require.NoError(t, m.MkdirAll("d"))
	f, err := m.Create("d/f")
	require.NoError(t, err)
	_, err = f.WriteAt([]byte("one"), 0)
	require.NoError(t, err)
	require.NoError(t, f.Sync())
	_, err = m.Crash(nil).Open("d/f", false)
	require.ErrorIs(t, err, fs.ErrNotExist, "the name was not synced")
	require.NoError(t, m.SyncDir("d"))
	_, err = f.WriteAt([]byte("two"), 0)
	require.NoError(t, err)
	require.Equal(t, "one", content(t, m.Crash(nil), "d/f"))
	require.NoError(t, m.Rename("d/f", "d/g"))
	require.Equal(t, "one", content(t, m.Crash(nil), "d/f"), "the rename was not synced")
	require.Equal(t, "two", content(t, m, "d/g"))

	// By chance, any subset survives, and the same seed gives the same one.
	seen := map[string]bool{}
	for seed := range uint64(50) {
		name := func(c *Mem) string { names, _ := c.List("d"); return names[0] }
		c := m.Crash(rand.New(rand.NewPCG(seed, 0)))
		got := name(c) + content(t, c, "d/"+name(c))
		seen[got] = true
		again := m.Crash(rand.New(rand.NewPCG(seed, 0)))
		require.Equal(t, got, name(again)+content(t, again, "d/"+name(again)))
	}
	require.Equal(t, map[string]bool{"fone": true, "ftwo": true, "gone": true, "gtwo": true}, seen)
}

// TestMemWriteSync makes durable what it wrote, the sectors that it lies in and the
// length, and nothing else; a failed one leaves the bytes as a failed Sync does.
func TestMemWriteSync(t *testing.T) {
	m := NewMem()
	f, err := m.Create("f")
	require.NoError(t, err)
	require.NoError(t, m.SyncDir("."))
	require.NoError(t, f.Allocate(3*sectorSize))
	_, err = f.WriteAt([]byte("x"), 0)
	require.NoError(t, err)
	require.NoError(t, f.WriteSync([]byte("y"), sectorSize+1))
	after := content(t, m.Crash(nil), "f")
	require.Len(t, after, 3*sectorSize)
	require.Equal(t, byte(0), after[0])
	require.Equal(t, byte('y'), after[sectorSize+1])
	bad := errors.New("bad")
	m.Inject(func(op Op, _ string) error {
		if op == OpSync {
			return bad
		}
		return nil
	})
	require.ErrorIs(t, f.WriteSync([]byte("z"), sectorSize+1), bad)
	m.Inject(nil)
	require.NoError(t, f.Sync())
	after = content(t, m.Crash(nil), "f")
	require.Equal(t, byte('y'), after[sectorSize+1], "clean, not durable")
	require.Equal(t, "z", content(t, m, "f")[sectorSize+1:sectorSize+2])
}

// TestMemFailedWrite has a write fail half-way.
func TestMemFailedWrite(t *testing.T) {
	m := NewMem()
	f, err := m.Create("f")
	require.NoError(t, err)
	bad := errors.New("bad")
	m.Inject(func(op Op, _ string) error { return bad })
	n, err := f.WriteAt([]byte("abcd"), 0)
	require.ErrorIs(t, err, bad)
	require.Equal(t, 2, n)
	m.Inject(nil)
	require.Equal(t, "ab", content(t, m, "f"))
}

func TestMemFailedSyncLeavesPagesClean(t *testing.T) {
	m := NewMem()
	f, err := m.Create("f")
	require.NoError(t, err)
	require.NoError(t, m.SyncDir("."))
	_, err = f.WriteAt([]byte("lost"), 0)
	require.NoError(t, err)
	bad := errors.New("bad")
	m.Inject(func(op Op, _ string) error {
		if op == OpSync {
			return bad
		}
		return nil
	})
	require.ErrorIs(t, f.Sync(), bad)
	m.Inject(nil)
	require.NoError(t, f.Sync())
	require.Equal(t, "lost", content(t, m, "f"))
	require.Equal(t, "\x00\x00\x00\x00", content(t, m.Crash(nil), "f"))
	_, err = f.WriteAt([]byte("kept"), 0)
	require.NoError(t, err)
	require.NoError(t, f.Sync())
	require.Equal(t, "kept", content(t, m.Crash(nil), "f"))
}

// TestLockedBy says who is in the way.
func TestLockedBy(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lock")
	lock, err := OS{}.Lock(name, false)
	require.NoError(t, err)
	_, err = OS{}.Lock(name, true)
	require.ErrorIs(t, err, ErrLocked)
	require.ErrorContains(t, err, fmt.Sprintf("(process id %d)", os.Getpid()))
	require.NoError(t, lock.Close())
	lock, err = OS{}.Lock(name, true)
	require.NoError(t, err)
	_, err = OS{}.Lock(name, false)
	require.ErrorIs(t, err, ErrLocked)
	require.ErrorContains(t, err, "which reads only")
	require.NoError(t, lock.Close())
}

// TestStandardDescriptors opens files in a process that has closed its standard input: no
// file may take its place.
func TestStandardDescriptors(t *testing.T) {
	if os.Getenv("ZUE_TEST_CLOSED_STDIN") == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestStandardDescriptors$")
		cmd.Env = append(os.Environ(), "ZUE_TEST_CLOSED_STDIN=1")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return
	}
	require.NoError(t, os.Stdin.Close())
	name := filepath.Join(t.TempDir(), "f")
	f, err := OS{}.Create(name)
	require.NoError(t, err)
	require.Greater(t, f.(osFile).Fd(), uintptr(2))
	_, err = f.WriteAt([]byte("x"), 0)
	require.NoError(t, err)
	lock, err := OS{}.Lock(name+".lock", false)
	require.NoError(t, err)
	require.Greater(t, lock.(*os.File).Fd(), uintptr(2))
	require.NoError(t, lock.Close())
	require.NoError(t, f.Close())
	require.Equal(t, "x", content(t, OS{}, name))
}
