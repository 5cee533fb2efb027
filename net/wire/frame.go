package wire

import (
	"encoding/binary"
	"fmt"
)

// Limits and sizes of the protocol, in bytes.
const (
	// HeaderSize is the size of the length field in front of each frame.
	HeaderSize = 4

	// MaxFrame is the greatest value of the length field for the messages of
	// this package: type and payload together. A whole frame on the wire is at
	// most HeaderSize + MaxFrame bytes.
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
	// TypeError marks an [Error].
	TypeError Type = 0xFF
)

// String returns the name of the type, such as "append_request", or its number,
// such as "type 0x42", when it has none here.
func (t Type) String() string {
	switch t {
	case TypeAppendRequest:
		return "append_request"
	case TypeAppendResponse:
		return "append_response"
	case TypeReadRequest:
		return "read_request"
	case TypeReadResponse:
		return "read_response"
	case TypeError:
		return "error"
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
