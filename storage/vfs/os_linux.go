package vfs

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

func datasync(f *os.File) error {
	return retryEINTR(func() error { return unix.Fdatasync(int(f.Fd())) })
}

// writeSync has each write wait for its own bytes.
func writeSync(f *os.File, p []byte, off int64) error {
	for len(p) > 0 {
		var n int
		err := retryEINTR(func() (err error) {
			n, err = unix.Pwritev2(int(f.Fd()), [][]byte{p}, off, unix.RWF_DSYNC)
			return err
		})
		if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
			return writeThenSync(f, p, off)
		}
		if err != nil {
			return err
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// allocate gives f, which has have bytes, blocks for size, also for holes in it.
// Some file systems (NFS, older overlay and FUSE ones) have no fallocate: what the
// file gains there is written.
func allocate(f *os.File, have, size int64) error {
	err := retryEINTR(func() error { return unix.Fallocate(int(f.Fd()), 0, 0, size) })
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return writeZeros(f, have, max(size-have, 0))
	}
	return err
}
