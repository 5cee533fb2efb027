package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"github.com/zue-log/zue/client"
	"github.com/zue-log/zue/net/wire"
)

// hint says what to do about an error, or nothing.
func hint(err error) string {
	var located *locatedError
	if errors.As(err, &located) {
		return located.hint()
	}
	var refusal *wire.Error
	if errors.As(err, &refusal) {
		return codeHint(refusal.Code)
	}
	var op *client.OpError
	if !errors.As(err, &op) {
		return ""
	}
	var dns *net.DNSError
	switch {
	case errors.Is(err, context.Canceled):
		return ""
	case errors.As(err, &dns):
		return "is the host's name right?"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "is zue-server running there, on this port? Other nodes of a cluster can be named with --node, or in ZUE_NODES"
	case errors.Is(err, client.ErrProtocol):
		return "is it a zue-server that listens on this port?"
	case op.Op == client.OpDial:
		return "is the host up, and does the network let this port through?"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, client.ErrStalled), errors.Is(err, os.ErrDeadlineExceeded):
		return "the server is stuck or slow; --timeout waits longer" + maybeHint(err)
	}
	return "is the server still running? Its log says why it hung up" + maybeHint(err)
}

// locatedError is an invalid_offset, and where the log is.
type locatedError struct {
	error             // what the server said
	server     server // that said it
	offset     uint64 // that was asked for
	first, end uint64 // of the log
}

func (e *locatedError) Unwrap() error { return e.error }

func (e *locatedError) hint() string {
	switch {
	case e.offset < e.first:
		return fmt.Sprintf("older records were removed by retention; the log begins at %d", e.first)
	case e.offset >= e.end:
		return fmt.Sprintf("it is not appended yet; the next record gets offset %d, and \"zue-client tail %s %s --from %d\" waits for it",
			e.end, e.server.host, e.server.port, e.end)
	}
	return "it is there by now; ask again"
}

// locate adds to an invalid_offset where the log is, which the server is asked for: its
// message is a text. Other errors, and what it does not tell, stay as they are.
func (a *app) locate(ctx context.Context, c *client.Client, s server, err error) error {
	var refusal *wire.Error
	var op *client.OpError
	if !errors.As(err, &refusal) || refusal.Code != wire.CodeInvalidOffset || !errors.As(err, &op) {
		return err
	}
	st, failed := c.Status(ctx)
	if failed != nil {
		return err
	}
	return &locatedError{error: err, server: s, offset: op.Offset, first: st.FirstOffset, end: st.EndOffset}
}

func maybeHint(err error) string {
	if errors.Is(err, client.ErrMaybeApplied) {
		return ". Look at the end of the log before you append it again"
	}
	return ""
}

func codeHint(c wire.Code) string {
	switch c {
	case wire.CodeInvalidOffset:
		return "read an offset within the log; on a follower, it may come a little later"
	case wire.CodeNotLeader:
		return "no node that could be reached leads: are most nodes of the cluster up? \"zue-client status\" shows them"
	case wire.CodeInsufficientISR:
		return "try again when enough nodes of the cluster are up"
	case wire.CodeQuorumFailed, wire.CodeReplicationTimeout:
		return "are enough nodes of the cluster up? Look at the end of the log before you append it again"
	case wire.CodeChangeRefused:
		return "\"zue-client status\" shows how the cluster is"
	case wire.CodeIOError:
		return "look at the server's log and disk"
	case wire.CodeLogFull:
		return "make room on the server"
	case wire.CodeInvalidMessage:
		return "are client and server of fitting versions?"
	}
	return ""
}
