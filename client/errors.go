package client

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/zue-log/zue/net/wire"
)

var (
	// ErrNotApplied is in the tree of an append's error when the records are surely
	// not in the log: appending them again cannot make them two.
	ErrNotApplied = errors.New("surely not appended")

	// ErrMaybeApplied is in the tree of an append's error when the records may be
	// in the log, now or later: appending them again may make them two.
	ErrMaybeApplied = errors.New("may or may not have been appended")

	// ErrElsewhere is in the tree of an error when another server may do what this
	// one has refused: [OpError.Leader] may say which.
	ErrElsewhere = errors.New("try another server")

	// ErrClosed is why requests fail that were under way at, or made after,
	// [Client.Close], [Producer.Close] or [Tail.Close].
	ErrClosed = errors.New("client is closed")

	// ErrStalled is why requests fail when nothing was received or sent for
	// [Options.StallTimeout] although answers were due.
	ErrStalled = errors.New("the server does not answer")

	// ErrProtocol is why requests fail when the server sent what no request asked
	// for, or what is no frame. What speaks there may not be a Zue server.
	ErrProtocol = errors.New("not an answer of a Zue server")

	// ErrCorrupt is why records cannot be had that were fetched: their checksums are
	// wrong, or their offsets are not those that follow.
	ErrCorrupt = errors.New("fetched records are damaged")
)

// Op is what a client was doing when it failed.
type Op string

// The operations of a client.
const (
	// OpDial is connecting.
	OpDial Op = "connect"
	// OpAppend is appending one record, or a batch.
	OpAppend Op = "append"
	// OpRead is reading one record.
	OpRead Op = "read"
	// OpFetch is fetching records from an offset on.
	OpFetch Op = "fetch"
	// OpOffsetForTime is asking for the offset for a time.
	OpOffsetForTime Op = "offset for time"
	// OpStatus is asking for the status.
	OpStatus Op = "status"
	// OpBarrier is asking for an end offset that is not stale.
	OpBarrier Op = "barrier"
	// OpProducerID is asking for the id of an idempotent producer.
	OpProducerID Op = "producer id"
	// OpChain is asking for the chain at an offset.
	OpChain Op = "chain"
	// OpTransfer is having another node lead.
	OpTransfer Op = "transfer leadership"
	// OpRemove is removing a node from a cluster.
	OpRemove Op = "remove node"
	// OpAllow is letting a node join a cluster.
	OpAllow Op = "allow node"
)

// OpError is the error of everything in this package that talks to a server. It
// unwraps to its cause, for appends to [ErrNotApplied] or [ErrMaybeApplied], and to
// [ErrElsewhere] if the cause is a server's refusal that another may not share.
type OpError struct {
	// Op is what was being done.
	Op Op
	// Address is the server's, as given to Dial or as another server named it.
	Address string
	// Offset is the one asked for; it has a meaning for OpRead, OpFetch and OpChain only.
	Offset uint64
	// Outcome is ErrNotApplied or ErrMaybeApplied for OpAppend, nil for others.
	Outcome error
	// Leader is the address of the server that leads, if this one has refused because
	// it does not, and its message names one; else "".
	Leader string
	// Err is the cause: a *wire.Error when the server answered, else what
	// happened to the connection, the context or the record.
	Err error
}

func newOpError(op Op, address string, offset uint64, outcome, err error) *OpError {
	e := &OpError{Op: op, Address: address, Offset: offset, Err: err}
	if op == OpAppend {
		e.Outcome = outcome
	}
	var refusal *wire.Error
	if errors.As(err, &refusal) && refusal.Code == wire.CodeNotLeader {
		e.Leader = addressIn(refusal.Message)
	}
	return e
}

// Error implements error.
func (e *OpError) Error() string {
	switch {
	case e.Op == OpRead || e.Op == OpFetch || e.Op == OpChain:
		return fmt.Sprintf("%s offset %d from %s: %v", e.Op, e.Offset, e.Address, e.Err)
	case e.Op == OpTransfer || e.Op == OpRemove || e.Op == OpAllow:
		return fmt.Sprintf("%s by %s: %v", e.Op, e.Address, e.Err)
	case e.Op == OpOffsetForTime || e.Op == OpStatus || e.Op == OpBarrier || e.Op == OpProducerID:
		return fmt.Sprintf("%s from %s: %v", e.Op, e.Address, e.Err)
	case e.Outcome != nil:
		return fmt.Sprintf("%s to %s: %v: %v", e.Op, e.Address, e.Outcome, e.Err)
	}
	return fmt.Sprintf("%s to %s: %v", e.Op, e.Address, e.Err)
}

// Unwrap gives the cause, the outcome and ErrElsewhere to errors.Is and errors.As.
func (e *OpError) Unwrap() []error {
	tree := []error{e.Err}
	if e.Outcome != nil {
		tree = append(tree, e.Outcome)
	}
	var refusal *wire.Error
	if errors.As(e.Err, &refusal) && (refusal.Code == wire.CodeNotLeader || refusal.Code == wire.CodeOverloaded) {
		tree = append(tree, ErrElsewhere)
	}
	return tree
}

// addressIn returns the first "host:port" in a text, "" if there is none. Not_leader's
// text is the only place where a server can name the leader.
func addressIn(text string) string {
	for word := range strings.FieldsSeq(text) {
		word = strings.Trim(word, ",.;()\"'<>")
		host, port, err := net.SplitHostPort(word)
		if err != nil || host == "" {
			continue
		}
		if n, err := strconv.ParseUint(port, 10, 16); err == nil && n > 0 {
			return word
		}
	}
	return ""
}
