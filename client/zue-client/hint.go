package main

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"

	"github.com/zue-log/zue/client"
	"github.com/zue-log/zue/net/wire"
)

// hint says what to do about an error, or nothing.
func hint(err error) string {
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
		return "is zue-server running there, on this port?"
	case errors.Is(err, client.ErrProtocol):
		return "is it a zue-server that listens on this port?"
	case op.Op == client.OpDial:
		return "is the host up, and does the network let this port through?"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, client.ErrStalled), errors.Is(err, os.ErrDeadlineExceeded):
		return "the server is stuck or slow; --timeout waits longer" + maybeHint(err)
	}
	return "is the server still running? Its log says why it hung up" + maybeHint(err)
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
		return "append to the leader"
	case wire.CodeInsufficientISR:
		return "try again when enough nodes of the cluster are up"
	case wire.CodeQuorumFailed, wire.CodeReplicationTimeout:
		return "are enough nodes of the cluster up? Look at the end of the log before you append it again"
	case wire.CodeIOError:
		return "look at the server's log and disk"
	case wire.CodeLogFull:
		return "make room on the server"
	case wire.CodeInvalidMessage:
		return "are client and server of fitting versions?"
	}
	return ""
}
