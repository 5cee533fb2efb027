package client

import (
	"errors"
	"fmt"
)

var (
	// ErrNotApplied is in the tree of an append's error when the record is surely
	// not in the log: appending it again cannot make it two.
	ErrNotApplied = errors.New("surely not appended")

	// ErrMaybeApplied is in the tree of an append's error when the record may be
	// in the log, now or later: appending it again may make it two.
	ErrMaybeApplied = errors.New("may or may not have been appended")

	// ErrClosed is why requests fail that were under way at, or made after,
	// [Client.Close].
	ErrClosed = errors.New("client is closed")

	// ErrStalled is why requests fail when nothing was received or sent for
	// [Options.StallTimeout] although answers were due.
	ErrStalled = errors.New("the server does not answer")

	// ErrProtocol is why requests fail when the server sent what no request asked
	// for, or what is no frame. What speaks there may not be a Zue server.
	ErrProtocol = errors.New("not an answer of a Zue server")
)

// Op is what a client was doing when it failed.
type Op string

// The operations of a client.
const (
	// OpDial is connecting.
	OpDial Op = "connect"
	// OpAppend is appending one record.
	OpAppend Op = "append"
	// OpRead is reading one record.
	OpRead Op = "read"
)

// OpError is the error of everything in this package that talks to a server. It
// unwraps to its cause and, for appends, to [ErrNotApplied] or [ErrMaybeApplied].
type OpError struct {
	// Op is what was being done.
	Op Op
	// Address is the server's, as given to Dial.
	Address string
	// Offset is the one asked for; it has a meaning for OpRead only.
	Offset uint64
	// Outcome is ErrNotApplied or ErrMaybeApplied for OpAppend, nil for others.
	Outcome error
	// Err is the cause: a *wire.Error when the server answered, else what
	// happened to the connection, the context or the record.
	Err error
}

// Error implements error.
func (e *OpError) Error() string {
	switch {
	case e.Op == OpRead:
		return fmt.Sprintf("read offset %d from %s: %v", e.Offset, e.Address, e.Err)
	case e.Outcome != nil:
		return fmt.Sprintf("%s to %s: %v: %v", e.Op, e.Address, e.Outcome, e.Err)
	}
	return fmt.Sprintf("%s to %s: %v", e.Op, e.Address, e.Err)
}

// Unwrap gives the cause and the outcome to errors.Is and errors.As.
func (e *OpError) Unwrap() []error {
	if e.Outcome == nil {
		return []error{e.Err}
	}
	return []error{e.Err, e.Outcome}
}
