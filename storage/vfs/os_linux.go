package vfs

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

func datasync(f *os.File) error {
	return retryEINTR(func() error { return unix.Fdatasync(int(f.Fd())) })
}

// allocate reserves n bytes from at on. Some file systems (NFS, older overlay
// and FUSE ones) have no fallocate: they get zeros.
func allocate(f *os.File, at, n int64) error {
	err := retryEINTR(func() error { return unix.Fallocate(int(f.Fd()), 0, at, n) })
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return writeZeros(f, at, n)
	}
	return err
}
