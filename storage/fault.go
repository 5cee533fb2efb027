package storage

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
)

// ErrFault is wrapped by a *[FaultError].
var ErrFault = errors.New("fault in a mapped file")

// FaultError reports an access to a mapped file that the operating system could
// not serve. The process would die of it (SIGBUS) outside this library: see
// [Log.Read] for what that means to who holds a lease.
type FaultError struct {
	Path string // of the mapped file, or of the segment whose index it is
}

// Error implements error.
func (e *FaultError) Error() string {
	return e.Path + ": access to the mapped file failed: I/O error, or the file was truncated by someone else"
}

// Unwrap returns ErrFault.
func (e *FaultError) Unwrap() error { return ErrFault }

// catchFault makes an error of a fault in a mapping. Whatever touches mapped bytes
// does so in a function that begins with
//
//	defer catchFault(path, &err, debug.SetPanicOnFault(true))
//
// where err is its result. Other panics go on. It costs a few nanoseconds and
// allocates only when there is a fault.
func catchFault(path string, err *error, old bool) {
	debug.SetPanicOnFault(old)
	r := recover()
	if r == nil {
		return
	}
	// Only faults at an address have this method: a nil dereference does not.
	fault, ok := r.(interface {
		runtime.Error
		Addr() uintptr
	})
	if !ok {
		panic(r)
	}
	*err = fmt.Errorf("%w (at %#x)", &FaultError{Path: path}, fault.Addr())
}
