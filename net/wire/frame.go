package wire

import (
	"encoding/binary"
	"fmt"
)

// Limits and sizes of the protocol, in bytes.
const (
	// HeaderSize is the size of the length field in front of each frame.
	HeaderSize = 4

	// MaxFrame is the greatest value of the length field, type and payload together,
	// for all but three messages of this package: see [MaxLargeFrame], [MaxPeerFrame]. A whole frame on
	// the wire is HeaderSize bytes longer.
	MaxFrame = 10 << 20

	// MaxRecord is the greatest sum of key and value that a record may have: it
	// then fills a frame. The bound is the same for [AppendRequest] and
	// [ReadResponse], so whatever was appended can be read back.
	MaxRecord = MaxFrame - typeSize - 2*lengthSize

	// MaxErrorMessage is the greatest length of the text of an [Error].
	MaxErrorMessage = MaxFrame - typeSize - codeSize - lengthSize
)

const (
	typeSize   = 1
	codeSize   = 1
	lengthSize = 4 // of the i32 in front of keys, values and texts
	offsetSize = 8
)

// Type is the number that says which message a frame holds.
type Type uint8

// The types of the messages of this package. Others are reserved (see
// PROTOCOL.md) or unknown; a [Decoder] passes them all on.
const (
	// TypeAppendRequest marks an [AppendRequest].
	TypeAppendRequest Type = 0x01
	// TypeAppendResponse marks an [AppendResponse].
	TypeAppendResponse Type = 0x02
	// TypeReadRequest marks a [ReadRequest].
	TypeReadRequest Type = 0x03
	// TypeReadResponse marks a [ReadResponse].
	TypeReadResponse Type = 0x04
	// TypeReplicate marks entries of a log, or a snapshot, from one node to another.
	TypeReplicate Type = 0x10
	// TypeReplicateResponse marks what a node says to those.
	TypeReplicateResponse Type = 0x11
	// TypeHeartbeat marks any other message from one node to another: they are small.
	TypeHeartbeat Type = 0x20
	// TypeHeartbeatResponse marks a node's answer to a leader's heartbeat.
	TypeHeartbeatResponse Type = 0x21
	// TypePeerHello marks a [PeerHello].
	TypePeerHello Type = 0x22
	// TypePeerChallenge marks a [PeerChallenge].
	TypePeerChallenge Type = 0x23
	// TypePeerProof marks a [PeerProof].
	TypePeerProof Type = 0x24
	// TypePeerWelcome marks a [PeerWelcome].
	TypePeerWelcome Type = 0x25
	// TypeHelloRequest marks a [HelloRequest].
	TypeHelloRequest Type = 0x30
	// TypeHelloResponse marks a [HelloResponse].
	TypeHelloResponse Type = 0x31
	// TypeBatchAppendRequest marks a [BatchAppendRequest].
	TypeBatchAppendRequest Type = 0x32
	// TypeBatchAppendResponse marks a [BatchAppendResponse].
	TypeBatchAppendResponse Type = 0x33
	// TypeFetchRequest marks a [FetchRequest].
	TypeFetchRequest Type = 0x34
	// TypeFetchResponse marks a [FetchResponse].
	TypeFetchResponse Type = 0x35
	// TypeOffsetForTimeRequest marks an [OffsetForTimeRequest].
	TypeOffsetForTimeRequest Type = 0x36
	// TypeOffsetForTimeResponse marks an [OffsetForTimeResponse].
	TypeOffsetForTimeResponse Type = 0x37
	// TypeStatusRequest marks a [StatusRequest].
	TypeStatusRequest Type = 0x38
	// TypeStatusResponse marks a [StatusResponse].
	TypeStatusResponse Type = 0x39
	// TypeBarrierRequest marks a [BarrierRequest].
	TypeBarrierRequest Type = 0x3A
	// TypeBarrierResponse marks a [BarrierResponse].
	TypeBarrierResponse Type = 0x3B
	// TypeProducerRequest marks a [ProducerRequest].
	TypeProducerRequest Type = 0x3C
	// TypeProducerResponse marks a [ProducerResponse].
	TypeProducerResponse Type = 0x3D
	// TypeTransferRequest marks a [TransferRequest].
	TypeTransferRequest Type = 0x3E
	// TypeTransferResponse marks a [TransferResponse].
	TypeTransferResponse Type = 0x3F
	// TypeChainRequest marks a [ChainRequest].
	TypeChainRequest Type = 0x40
	// TypeChainResponse marks a [ChainResponse].
	TypeChainResponse Type = 0x41
	// TypeRemoveRequest marks a [RemoveRequest].
	TypeRemoveRequest Type = 0x42
	// TypeRemoveResponse marks a [RemoveResponse].
	TypeRemoveResponse Type = 0x43
	// TypeAllowRequest marks an [AllowRequest].
	TypeAllowRequest Type = 0x44
	// TypeAllowResponse marks an [AllowResponse].
	TypeAllowResponse Type = 0x45
	// TypeError marks an [Error].
	TypeError Type = 0xFF
)

var typeNames = map[Type]string{
	TypeAppendRequest:         "append_request",
	TypeAppendResponse:        "append_response",
	TypeReadRequest:           "read_request",
	TypeReadResponse:          "read_response",
	TypeReplicate:             "replicate",
	TypeReplicateResponse:     "replicate_response",
	TypeHeartbeat:             "heartbeat",
	TypeHeartbeatResponse:     "heartbeat_response",
	TypePeerHello:             "peer_hello",
	TypePeerChallenge:         "peer_challenge",
	TypePeerProof:             "peer_proof",
	TypePeerWelcome:           "peer_welcome",
	TypeHelloRequest:          "hello_request",
	TypeHelloResponse:         "hello_response",
	TypeBatchAppendRequest:    "batch_append_request",
	TypeBatchAppendResponse:   "batch_append_response",
	TypeFetchRequest:          "fetch_request",
	TypeFetchResponse:         "fetch_response",
	TypeOffsetForTimeRequest:  "offset_for_time_request",
	TypeOffsetForTimeResponse: "offset_for_time_response",
	TypeStatusRequest:         "status_request",
	TypeStatusResponse:        "status_response",
	TypeBarrierRequest:        "barrier_request",
	TypeBarrierResponse:       "barrier_response",
	TypeProducerRequest:       "producer_request",
	TypeProducerResponse:      "producer_response",
	TypeTransferRequest:       "transfer_request",
	TypeTransferResponse:      "transfer_response",
	TypeChainRequest:          "chain_request",
	TypeChainResponse:         "chain_response",
	TypeRemoveRequest:         "remove_request",
	TypeRemoveResponse:        "remove_response",
	TypeAllowRequest:          "allow_request",
	TypeAllowResponse:         "allow_response",
	TypeError:                 "error",
}

// limit is the greatest length of a frame of the type, where maxFrame is that of all.
func (t Type) limit(maxFrame int) int {
	switch t {
	case TypeReplicate:
		return min(maxFrame, MaxPeerFrame)
	case TypeBatchAppendRequest, TypeFetchResponse:
		return min(maxFrame, MaxLargeFrame)
	}
	return min(maxFrame, MaxFrame)
}

// String returns the name of the type, such as "append_request", or its number,
// such as "type 0x7e", when it has none here.
func (t Type) String() string {
	if name, ok := typeNames[t]; ok {
		return name
	}
	return fmt.Sprintf("type 0x%02x", uint8(t))
}

// Frame is one frame of a stream, without its length field. Payload belongs to
// whoever produced the frame; see [Decoder.Next].
type Frame struct {
	Type    Type
	Payload []byte
}

// FrameError says that a length field cannot be that of a frame: it is 0 or
// beyond the limit. Where the next frame begins is then unknown, so nothing more
// can be read from that stream.
type FrameError struct {
	// Length is the value of the length field.
	Length uint32
	// Limit is the greatest length that would have been accepted.
	Limit int
}

// Error implements error.
func (e *FrameError) Error() string {
	if e.Length == 0 {
		return "frame of length 0: not even a type"
	}
	return fmt.Sprintf("frame of length %d is beyond the limit of %d", e.Length, e.Limit)
}

// appendHeader appends the length field and the type of a frame whose payload
// is of the given size, which the caller knows to be within the limit.
func appendHeader(dst []byte, t Type, payload int) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, uint32(typeSize+payload))
	return append(dst, byte(t))
}
