package storage

import (
	"errors"
	"fmt"
	"syscall"
)

var (
	// ErrOutOfRange is wrapped by an *[OffsetError].
	ErrOutOfRange = errors.New("offset out of range")
	// ErrCorrupt is wrapped by a *[CorruptionError].
	ErrCorrupt = errors.New("corrupt log")
	// ErrVersion is wrapped by the error for a file of a format version that
	// this library does not know.
	ErrVersion = errors.New("unknown format version")
	// ErrClosed is returned by calls on a log that was closed.
	ErrClosed = errors.New("log is closed")
	// ErrReadOnly is returned by calls that would change a log which was opened
	// with Options.ReadOnly.
	ErrReadOnly = errors.New("log is open for reading only")
	// ErrNotNext is wrapped by the error for an entry whose index is not the next
	// one, or whose term is less than that of the entry before.
	ErrNotNext = errors.New("entry is not the next one")
	// ErrNotAtEnd is wrapped by the error for a conditional append to a log that ends
	// elsewhere.
	ErrNotAtEnd = errors.New("log does not end there")
	// ErrCommitted is wrapped by the error for a truncation that would take back
	// committed entries.
	ErrCommitted = errors.New("entries are committed")
	// ErrNotProven is wrapped by the error for entries that were to mend the log, and are
	// not shown to be those that it had there.
	ErrNotProven = errors.New("the entries are not those that were here")
	// ErrFailed is wrapped, with the cause, by every append after a write or a
	// sync went wrong: what is on disk is unknown until the log is opened
	// again. The append that saw it happen may or may not be in the log then.
	ErrFailed = errors.New("log has failed and must be opened again")
	// ErrTooLarge is wrapped by the error for an append whose entry would be
	// longer than MaxBodyBytes.
	ErrTooLarge = errors.New("records too large for one entry")
)

// OffsetError reports a read of an offset that the log does not have.
type OffsetError struct {
	Offset uint64 // what was asked for
	First  uint64 // the first offset kept
	End    uint64 // the end offset: the last readable one plus one
}

// Error implements error.
func (e *OffsetError) Error() string {
	if e.First == e.End {
		return fmt.Sprintf("offset %d: the log has no records yet (end offset %d)", e.Offset, e.End)
	}
	return fmt.Sprintf("offset %d is not in the log, which has %d to %d", e.Offset, e.First, e.End-1)
}

// Unwrap returns ErrOutOfRange.
func (e *OffsetError) Unwrap() error { return ErrOutOfRange }

// CorruptionError reports bytes that were durable once and are not what was
// written. They are left in place.
type CorruptionError struct {
	Path     string
	Position int64  // of the first bad byte's entry, or header, in the file
	Index    uint64 // the entry that should be there; 0 if unknown
	Offset   uint64 // its first offset, or the record asked for
	Reason   string
}

// Error implements error.
func (e *CorruptionError) Error() string {
	return fmt.Sprintf("%s: corrupt at position %d (entry %d, offset %d): %s", e.Path, e.Position, e.Index, e.Offset, e.Reason)
}

// Unwrap returns ErrCorrupt.
func (e *CorruptionError) Unwrap() error { return ErrCorrupt }

// IsFull reports whether err says that a disk, or a quota, is full and nothing else is
// wrong: appends work again when there is space.
func IsFull(err error) bool {
	return !errors.Is(err, ErrFailed) && (errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT))
}
