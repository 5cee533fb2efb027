package vfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	mmap "github.com/edsrzf/mmap-go"
	"golang.org/x/sys/unix"
)

// OS is the operating system's file system.
type OS struct{}

// MkdirAll implements [FS].
func (OS) MkdirAll(dir string) error {
	if st, err := os.Stat(dir); err == nil && st.IsDir() {
		return nil
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := (OS{}).MkdirAll(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if st, err := os.Stat(dir); err != nil {
		return err
	} else if !st.IsDir() {
		return &os.PathError{Op: "mkdir", Path: dir, Err: unix.ENOTDIR}
	}
	return OS{}.SyncDir(parent)
}

// List implements [FS].
func (OS) List(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

// Create implements [FS].
func (OS) Create(name string) (File, error) {
	return openOS(name, os.O_RDWR|os.O_CREATE|os.O_EXCL)
}

// Open implements [FS].
func (OS) Open(name string, writable bool) (File, error) {
	if writable {
		return openOS(name, os.O_RDWR)
	}
	return openOS(name, os.O_RDONLY)
}

func openOS(name string, flag int) (File, error) {
	f, err := openFile(name, flag)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

// openFile opens a file under a descriptor that is none of the standard ones. If a
// process has closed those, as daemons do, they are the first to be given out again, and
// what it then writes to its standard error would land in the log. (SQLite does the same.)
func openFile(name string, flag int) (*os.File, error) {
	f, err := os.OpenFile(name, flag, 0o644)
	if err != nil || f.Fd() > 2 {
		return f, err
	}
	defer f.Close() // only its descriptor is given up
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, &os.PathError{Op: "dup", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// Rename implements [FS].
func (OS) Rename(oldName, newName string) error { return os.Rename(oldName, newName) }

// Remove implements [FS].
func (OS) Remove(name string) error { return os.Remove(name) }

// SyncDir implements [FS].
func (OS) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Lock implements [FS] with flock(2). The lock's file holds the holder's process
// id, for the message that a second process gets.
func (OS) Lock(name string, shared bool) (io.Closer, error) {
	flag, how := os.O_RDWR|os.O_CREATE, unix.LOCK_EX
	if shared {
		flag, how = os.O_RDONLY, unix.LOCK_SH
	}
	f, err := openFile(name, flag)
	if err != nil {
		return nil, err
	}
	err = retryEINTR(func() error { return unix.Flock(int(f.Fd()), how|unix.LOCK_NB) })
	if err != nil {
		defer f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, &os.PathError{Op: "flock", Path: name, Err: err}
		}
		return nil, fmt.Errorf("%s: %w%s", name, ErrLocked, holder(f))
	}
	if shared {
		return f, nil
	}
	// The id is only for people: a lock without it is as good.
	if f.Truncate(0) == nil {
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	return f, nil
}

// holder says who has the lock on f that could not be had.
func holder(f *os.File) string {
	if retryEINTR(func() error { return unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) }) == nil {
		return ", which reads only" // it has not left its id
	}
	var pid [20]byte
	n, _ := f.ReadAt(pid[:], 0)
	if id := bytes.TrimSpace(pid[:n]); len(id) > 0 {
		return fmt.Sprintf(" (process id %s)", id)
	}
	return ""
}

type osFile struct{ *os.File }

// Size implements [File].
func (f osFile) Size() (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

// Allocate implements [File].
func (f osFile) Allocate(size int64) error {
	have, err := f.Size()
	if err != nil || size <= 0 {
		return err
	}
	if err := allocate(f.File, have, size); err != nil {
		return &os.PathError{Op: "allocate", Path: f.Name(), Err: err}
	}
	return nil
}

// Sync implements [File].
func (f osFile) Sync() error {
	if err := datasync(f.File); err != nil {
		return &os.PathError{Op: "fdatasync", Path: f.Name(), Err: err}
	}
	return nil
}

// WriteSync implements [File].
func (f osFile) WriteSync(p []byte, off int64) error {
	if err := writeSync(f.File, p, off); err != nil {
		return &os.PathError{Op: "write and sync", Path: f.Name(), Err: err}
	}
	return nil
}

// Map implements [File].
func (f osFile) Map(length int, writable bool) (Mapping, error) {
	prot := mmap.RDONLY
	if writable {
		prot = mmap.RDWR
	}
	m, err := mmap.MapRegion(f.File, length, prot, 0, 0)
	if err != nil {
		return nil, &os.PathError{Op: "mmap", Path: f.Name(), Err: err}
	}
	return &osMapping{m}, nil
}

type osMapping struct{ m mmap.MMap }

func (m *osMapping) Bytes() []byte { return m.m }
func (m *osMapping) Close() error  { return m.m.Unmap() }

func (m *osMapping) Store(p []byte, off int64) { copy(m.m[off:], p) }

// writeZeros gives the file blocks the portable way.
func writeZeros(f *os.File, at, n int64) error {
	zeros := make([]byte, min(n, 1<<20))
	for n > 0 {
		k, err := f.WriteAt(zeros[:min(n, int64(len(zeros)))], at)
		if err != nil {
			return err
		}
		at, n = at+int64(k), n-int64(k)
	}
	return nil
}

// writeThenSync writes p and makes it durable the portable way.
func writeThenSync(f *os.File, p []byte, off int64) error {
	if _, err := f.WriteAt(p, off); err != nil {
		return err
	}
	return datasync(f)
}

func retryEINTR(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
