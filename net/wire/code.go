package wire

import "fmt"

// Code says why a request was refused. New codes take new numbers, so a client
// must expect numbers it does not know.
type Code uint8

// The codes of an [Error]. PROTOCOL.md says for each what a client should do.
const (
	// CodeUnknown is for failures that have no code of their own.
	CodeUnknown Code = 0x00
	// CodeInvalidOffset is for an offset beyond the end of the log, or before
	// the first record that is still kept.
	CodeInvalidOffset Code = 0x01
	// CodeRecordNotFound is for an offset within the log that has no record
	// (any more).
	CodeRecordNotFound Code = 0x02
	// CodeIOError is for a failure of the server's disk.
	CodeIOError Code = 0x03
	// CodeSerialization is for a record that could not be encoded or decoded.
	CodeSerialization Code = 0x04
	// CodeInvalidMessage is for a frame that is malformed, too large, or of a
	// type which the server does not know.
	CodeInvalidMessage Code = 0x05
	// CodeLogFull is for a log that takes no more records.
	CodeLogFull Code = 0x06
	// CodeUnknownLog is for a request that names a log which the server does not have.
	CodeUnknownLog Code = 0x07
	// CodeOverloaded is for a connection, or a request, that the server refuses
	// because it has too many.
	CodeOverloaded Code = 0x08
	// CodeProducerFenced is for a batch of a producer's epoch before the newest that has
	// appended.
	CodeProducerFenced Code = 0x09
	// CodeSequenceGap is for a producer's batch before which one is missing.
	CodeSequenceGap Code = 0x0A
	// CodeDuplicateForgotten is for a producer's batch that comes before those which are
	// remembered: it is in the log, unless it was refused when it was sent first.
	CodeDuplicateForgotten Code = 0x0B
	// CodeNotLeader is for an append sent to a node that does not lead.
	CodeNotLeader Code = 0x10
	// CodeQuorumFailed is for an append whose leader lost leadership or quorum
	// before it was committed. It may yet be.
	CodeQuorumFailed Code = 0x11
	// CodeReplicationTimeout is for an append that was not committed in time. It
	// may yet be.
	CodeReplicationTimeout Code = 0x12
	// CodeOffsetMismatch is for an append or replication that names another
	// offset than the log's next.
	CodeOffsetMismatch Code = 0x13
	// CodeInsufficientISR is for an append refused because too few replicas are
	// in sync.
	CodeInsufficientISR Code = 0x14
	// CodeChangeRefused is for a change of a cluster's leader or membership that cannot be
	// made as things are.
	CodeChangeRefused Code = 0x15
)

// String returns the name of the code, such as "invalid_offset", or its number,
// such as "code 0x42", when it has none here.
func (c Code) String() string {
	switch c {
	case CodeUnknown:
		return "unknown"
	case CodeInvalidOffset:
		return "invalid_offset"
	case CodeRecordNotFound:
		return "record_not_found"
	case CodeIOError:
		return "io_error"
	case CodeSerialization:
		return "serialization_error"
	case CodeInvalidMessage:
		return "invalid_message"
	case CodeLogFull:
		return "log_full"
	case CodeUnknownLog:
		return "unknown_log"
	case CodeOverloaded:
		return "overloaded"
	case CodeProducerFenced:
		return "producer_fenced"
	case CodeSequenceGap:
		return "sequence_gap"
	case CodeDuplicateForgotten:
		return "duplicate_forgotten"
	case CodeNotLeader:
		return "not_leader"
	case CodeQuorumFailed:
		return "quorum_failed"
	case CodeReplicationTimeout:
		return "replication_timeout"
	case CodeOffsetMismatch:
		return "offset_mismatch"
	case CodeInsufficientISR:
		return "insufficient_isr"
	case CodeChangeRefused:
		return "change_refused"
	}
	return fmt.Sprintf("code 0x%02x", uint8(c))
}

// MaybeApplied reports whether an append answered with this code may be in the
// log all the same, now or later. False means surely not: the record can be sent
// again without becoming two. Codes not known here count as maybe.
func (c Code) MaybeApplied() bool {
	switch c {
	case CodeInvalidOffset, CodeRecordNotFound, CodeSerialization, CodeInvalidMessage,
		CodeLogFull, CodeUnknownLog, CodeOverloaded, CodeProducerFenced, CodeSequenceGap, CodeNotLeader, CodeOffsetMismatch,
		CodeInsufficientISR, CodeChangeRefused:
		return false
	}
	// unknown, io_error (a failed sync leaves the record where a restart may find
	// it), quorum_failed, replication_timeout, and what later servers invent.
	return true
}
