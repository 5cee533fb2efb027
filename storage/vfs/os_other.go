//go:build !linux

package vfs

import "os"

// datasync uses fsync where there is no fdatasync; on Darwin Go's Sync is
// F_FULLFSYNC, which is what reaches the disk there.
func datasync(f *os.File) error { return f.Sync() }

func writeSync(f *os.File, p []byte, off int64) error { return writeThenSync(f, p, off) }

func allocate(f *os.File, have, size int64) error { return writeZeros(f, have, max(size-have, 0)) }
