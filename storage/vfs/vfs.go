// Package vfs is the file system as the storage engine sees it: few calls, each
// with its durability stated, so that the engine runs unchanged on a disk ([OS])
// and on a simulated one ([Mem]) that loses what was not synced.
//
// The idea of a crash-clone file system comes from Pebble's vfs.MemFS.
package vfs

import (
	"errors"
	"io"
)

// ErrLocked is returned (wrapped) by [FS.Lock] when another holder has the lock.
var ErrLocked = errors.New("locked by another process")

// FS is a file system. Its methods may be called concurrently. Errors for files
// that do not exist, or do already, satisfy errors.Is with io/fs.ErrNotExist and
// io/fs.ErrExist; a full disk with syscall.ENOSPC.
type FS interface {
	// MkdirAll makes dir and its missing parents, durably.
	MkdirAll(dir string) error
	// List returns the names in dir, sorted.
	List(dir string) ([]string, error)
	// Create makes an empty file, open for reading and writing, and fails if
	// the name is taken. The name is durable after SyncDir.
	Create(name string) (File, error)
	// Open opens an existing file for reading and, if asked, writing.
	Open(name string, writable bool) (File, error)
	// Rename gives a file a new name, replacing a file of that name. Durable
	// after SyncDir.
	Rename(oldName, newName string) error
	// Remove deletes a name. Durable after SyncDir.
	Remove(name string) error
	// SyncDir makes the creations, renames and removals in dir durable.
	SyncDir(dir string) error
	// Lock takes a lock that dies with the process. Closing the result releases
	// it. It does not wait: if the lock is taken it fails with ErrLocked. A
	// shared lock excludes exclusive ones only, and its file must exist; an
	// exclusive one creates the file when needed.
	Lock(name string, shared bool) (io.Closer, error)
}

// File is an open file. Its methods may be called concurrently, but for Close.
type File interface {
	io.ReaderAt
	// WriteAt writes all of p or fails.
	io.WriterAt
	// Size returns the length in bytes.
	Size() (int64, error)
	// Truncate sets the length; bytes gained are zeros without blocks of
	// their own.
	Truncate(size int64) error
	// Allocate grows the file to at least size bytes with real blocks, so that
	// no later write or store below size can fail for want of space.
	Allocate(size int64) error
	// Sync makes contents and length durable (fdatasync). After it has failed
	// nothing is known about what was written since the last success.
	Sync() error
	// WriteSync writes all of p and makes it durable, with what of the length and
	// of the file's metadata it takes to read it back, but not what else was
	// written: for that it waits only where the system cannot do with less.
	WriteSync(p []byte, off int64) error
	// Map maps the first length bytes, which must exist, shared with all
	// other users of the file.
	Map(length int, writable bool) (Mapping, error)
	// Close closes the file; its mappings stay valid.
	Close() error
}

// Mapping is a mapped file region.
type Mapping interface {
	// Bytes is the region. It must not be touched after Close, nor beyond the
	// file's end if the file was truncated meanwhile.
	Bytes() []byte
	// Store copies p to position off of a writable mapping, within it. It may be
	// called while the file is being synced.
	Store(p []byte, off int64)
	// Close unmaps the region. It must be called once.
	Close() error
}
