package storage

import (
	"errors"
	"fmt"
	"io"
	"runtime/debug"

	"github.com/zue-log/zue/storage/vfs"
)

const (
	// walkChunk is how many bytes a walk reads at a time: so many stay in a
	// processor's cache until they have been summed.
	walkChunk = 256 << 10
	// walkBlock is what cannot be read where anything in it cannot.
	walkBlock = 4096
)

// unreadableError says that the bytes of a file from position from up to to
// cannot be read.
type unreadableError struct {
	from, to int64
	err      error
}

func (e *unreadableError) Error() string {
	return fmt.Sprintf("bytes %d to %d cannot be read: %v", e.from, e.to-1, e.err)
}

func (e *unreadableError) Unwrap() error { return e.err }

// walkSource is where a walk gets the bytes of a segment from.
type walkSource interface {
	// read returns the n bytes from pos on, fewer only at the end of the file,
	// which stay in place until the next read or forget. If some cannot be read
	// it fails with an *unreadableError for the first of them.
	read(pos, n int64) ([]byte, error)
	// forget has the next read see the file as it is then.
	forget()
}

// fileSource reads a file by system calls: unlike a mapping, that can neither
// fault nor break when the file is cut short by the log that owns it.
type fileSource struct {
	file  vfs.File
	start int64
	buf   []byte           // the file's bytes from start on
	bad   *unreadableError // what comes right behind buf, if it cannot be read
}

func (s *fileSource) read(pos, n int64) ([]byte, error) {
	if pos < s.start || pos+n > s.start+int64(len(s.buf)) {
		s.fill(pos, n)
	}
	b := s.buf[pos-s.start:]
	if int64(len(b)) >= n {
		return b[:n:n], nil
	}
	if s.bad != nil {
		return nil, s.bad
	}
	return b, nil
}

func (s *fileSource) forget() { s.start, s.buf, s.bad = 0, s.buf[:0], nil }

// fill reads at least n bytes from pos on, or up to the first that cannot be read.
func (s *fileSource) fill(pos, n int64) {
	size := max(n, walkChunk)
	if int64(cap(s.buf)) < size {
		s.buf = make([]byte, size)
	}
	s.start, s.bad = pos, nil
	s.buf = s.buf[:size]
	k, err := s.file.ReadAt(s.buf, pos)
	if err != nil && !errors.Is(err, io.EOF) {
		k = s.fillBlocks(k)
	}
	s.buf = s.buf[:k]
}

// fillBlocks goes on block by block with a read that failed after k bytes, until one
// fails by itself. It returns how many bytes there are.
func (s *fileSource) fillBlocks(k int) int {
	for k < len(s.buf) {
		at := s.start + int64(k)
		end := at&^(walkBlock-1) + walkBlock
		n, err := s.file.ReadAt(s.buf[k:min(int64(len(s.buf)), end-s.start)], at)
		k += n
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			s.bad = &unreadableError{from: at + int64(n), to: end, err: err}
			break
		}
	}
	return k
}

// mappedSource hands out mapped bytes, after a look whether they can be read.
// Since that may change, its user must catch faults all the same.
type mappedSource struct {
	path     string
	b        []byte
	from, to int64 // looked at, and good
}

func (s *mappedSource) read(pos, n int64) ([]byte, error) {
	end := min(pos+n, int64(len(s.b)))
	if pos >= end {
		return nil, nil
	}
	if pos < s.from || end > s.to {
		to, err := s.touch(pos, min(max(end, pos+walkChunk), int64(len(s.b))))
		s.from, s.to = pos, to
		if to < end {
			at := to &^ (walkBlock - 1)
			return nil, &unreadableError{from: at, to: at + walkBlock, err: err}
		}
	}
	return s.b[pos:end:end], nil
}

func (s *mappedSource) forget() {}

// touch reads a byte of each block from pos up to to, and returns the position of
// the first that cannot be read, or to.
func (s *mappedSource) touch(pos, to int64) (at int64, err error) {
	defer catchFault(s.path, &err, debug.SetPanicOnFault(true))
	var seen byte
	for at = pos; at < to; at = at&^(walkBlock-1) + walkBlock {
		seen |= s.b[at]
	}
	touched(seen)
	return to, nil
}

// touched keeps the compiler from leaving out the reads of what it is given.
//
//go:noinline
func touched(byte) {}
