package wire

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// AppendRequest asks for a record to be appended to the log. The answer is an
// [AppendResponse] or an [Error].
type AppendRequest struct {
	// Key may be nil (the null key) or empty, which is something else.
	Key []byte
	// Value may be empty; nil is encoded as empty.
	Value []byte
}

// AppendResponse says that a record is in the log, as durable as the server's
// settings promise.
type AppendResponse struct {
	// Offset is the number of the record in the log, from 0.
	Offset uint64
}

// ReadRequest asks for the record at an offset. The answer is a [ReadResponse]
// or an [Error].
type ReadRequest struct {
	// Offset is the number of the record in the log, from 0.
	Offset uint64
}

// ReadResponse holds the record that a [ReadRequest] asked for.
type ReadResponse struct {
	// Key may be nil (the null key) or empty, which is something else.
	Key []byte
	// Value may be empty; nil is encoded as empty.
	Value []byte
}

// Error is a server's refusal. *Error is an error, so clients find it with
// errors.As in whatever they got.
type Error struct {
	// Code is for programs.
	Code Code
	// Message is for people: UTF-8, at most [MaxErrorMessage] bytes on the wire.
	Message string
}

// Error implements error: the code's name, and the message if there is one.
func (e *Error) Error() string {
	if e.Message == "" {
		return e.Code.String()
	}
	return e.Code.String() + ": " + e.Message
}

// RecordSizeError says that a record does not fit in a frame.
type RecordSizeError struct {
	// KeyLen and ValueLen are the lengths of key and value in bytes; their sum is
	// beyond [MaxRecord].
	KeyLen, ValueLen int
}

// Error implements error.
func (e *RecordSizeError) Error() string {
	return fmt.Sprintf("record of %d bytes (key %d, value %d) does not fit in a frame: at most %d",
		uint64(e.KeyLen)+uint64(e.ValueLen), e.KeyLen, e.ValueLen, MaxRecord)
}

// MalformedError says that a payload is not the message its frame's type says it
// is. Framing is intact: the next frame can be read.
type MalformedError struct {
	// Type is the type of the message that the payload was taken for.
	Type Type
	// Reason says which field is wrong, and how.
	Reason string
}

// Error implements error.
func (e *MalformedError) Error() string {
	return "malformed " + e.Type.String() + ": " + e.Reason
}

// CheckRecord returns a [*RecordSizeError] if a record of this key and value does
// not fit in a frame, and nil if it does.
func CheckRecord(key, value []byte) error {
	// Compared one by one, so that no sum can overflow.
	if len(key) > MaxRecord || len(value) > MaxRecord-len(key) {
		return &RecordSizeError{KeyLen: len(key), ValueLen: len(value)}
	}
	return nil
}

// Size returns the number of bytes that the frame takes on the wire, its length
// field included. It is meaningful for records that fit in a frame.
func (m AppendRequest) Size() int { return recordFrameSize(m.Key, m.Value) }

// AppendTo appends the frame to dst and returns the longer slice. A record that
// does not fit in a frame is refused with a [*RecordSizeError], and dst is
// returned as it was.
func (m AppendRequest) AppendTo(dst []byte) ([]byte, error) {
	return appendRecordFrame(dst, TypeAppendRequest, m.Key, m.Value)
}

// AppendTo appends the frame to dst and returns the longer slice.
func (m AppendResponse) AppendTo(dst []byte) []byte {
	dst = appendHeader(dst, TypeAppendResponse, offsetSize)
	return binary.LittleEndian.AppendUint64(dst, m.Offset)
}

// AppendTo appends the frame to dst and returns the longer slice.
func (m ReadRequest) AppendTo(dst []byte) []byte {
	dst = appendHeader(dst, TypeReadRequest, offsetSize)
	return binary.LittleEndian.AppendUint64(dst, m.Offset)
}

// Size returns the number of bytes that the frame takes on the wire, its length
// field included.
func (m ReadRequest) Size() int { return HeaderSize + typeSize + offsetSize }

// Size returns the number of bytes that the frame takes on the wire, its length
// field included. It is meaningful for records that fit in a frame.
func (m ReadResponse) Size() int { return recordFrameSize(m.Key, m.Value) }

// AppendTo appends the frame to dst and returns the longer slice. A record that
// does not fit in a frame is refused with a [*RecordSizeError], and dst is
// returned as it was.
func (m ReadResponse) AppendTo(dst []byte) ([]byte, error) {
	return appendRecordFrame(dst, TypeReadResponse, m.Key, m.Value)
}

// AppendHeaderTo appends all of the frame but the value, which is to be sent behind it,
// and returns the longer slice: so a long value need not be copied. Errors are those of
// [ReadResponse.AppendTo].
func (m ReadResponse) AppendHeaderTo(dst []byte) ([]byte, error) {
	return appendRecordHeader(dst, TypeReadResponse, m.Key, m.Value)
}

// AppendTo appends the frame to dst and returns the longer slice. The message is
// made to fit: bytes that are not UTF-8 become U+FFFD, and what is beyond
// [MaxErrorMessage] is cut off at the end of a character.
func (e *Error) AppendTo(dst []byte) []byte {
	message := truncateText(e.Message, MaxErrorMessage)
	dst = slices.Grow(dst, HeaderSize+typeSize+codeSize+lengthSize+len(message))
	dst = appendHeader(dst, TypeError, codeSize+lengthSize+len(message))
	dst = append(dst, byte(e.Code))
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(message)))
	return append(dst, message...)
}

// ParseAppendRequest parses the payload of a frame of [TypeAppendRequest]. Key and
// Value are parts of payload. The error is a [*MalformedError].
func ParseAppendRequest(payload []byte) (AppendRequest, error) {
	key, value, err := parseRecord(TypeAppendRequest, payload)
	return AppendRequest{Key: key, Value: value}, err
}

// ParseAppendResponse parses the payload of a frame of [TypeAppendResponse]. The
// error is a [*MalformedError].
func ParseAppendResponse(payload []byte) (AppendResponse, error) {
	offset, err := parseOffset(TypeAppendResponse, payload)
	return AppendResponse{Offset: offset}, err
}

// ParseReadRequest parses the payload of a frame of [TypeReadRequest]. The error
// is a [*MalformedError].
func ParseReadRequest(payload []byte) (ReadRequest, error) {
	offset, err := parseOffset(TypeReadRequest, payload)
	return ReadRequest{Offset: offset}, err
}

// ParseReadResponse parses the payload of a frame of [TypeReadResponse]. Key and
// Value are parts of payload. The error is a [*MalformedError].
func ParseReadResponse(payload []byte) (ReadResponse, error) {
	key, value, err := parseRecord(TypeReadResponse, payload)
	return ReadResponse{Key: key, Value: value}, err
}

// ParseError parses the payload of a frame of [TypeError]. The message is a copy.
// Bytes in it that are not UTF-8 become U+FFFD: a broken text must not cost the
// client the code. The error is a [*MalformedError].
func ParseError(payload []byte) (*Error, error) {
	if len(payload) < codeSize {
		return nil, malformed(TypeError, "payload ends in the code")
	}
	message, rest, err := takeBytes(TypeError, "message", payload[codeSize:], false)
	if err == nil {
		err = checkEnd(TypeError, rest)
	}
	if err != nil {
		return nil, err
	}
	return &Error{Code: Code(payload[0]), Message: strings.ToValidUTF8(string(message), "\uFFFD")}, nil
}

func recordFrameSize(key, value []byte) int {
	return HeaderSize + typeSize + 2*lengthSize + len(key) + len(value)
}

func appendRecordFrame(dst []byte, t Type, key, value []byte) ([]byte, error) {
	if err := CheckRecord(key, value); err != nil {
		return dst, err
	}
	dst, err := appendRecordHeader(slices.Grow(dst, recordFrameSize(key, value)), t, key, value)
	return append(dst, value...), err
}

// appendRecordHeader appends all of the frame of a record but the value.
func appendRecordHeader(dst []byte, t Type, key, value []byte) ([]byte, error) {
	if err := CheckRecord(key, value); err != nil {
		return dst, err
	}
	dst = appendHeader(dst, t, 2*lengthSize+len(key)+len(value))
	keyLen := int32(len(key))
	if key == nil {
		keyLen = -1
	}
	dst = binary.LittleEndian.AppendUint32(dst, uint32(keyLen))
	dst = append(dst, key...)
	return binary.LittleEndian.AppendUint32(dst, uint32(len(value))), nil
}

func parseRecord(t Type, payload []byte) (key, value []byte, err error) {
	key, rest, err := takeBytes(t, "key", payload, true)
	if err != nil {
		return nil, nil, err
	}
	value, rest, err = takeBytes(t, "value", rest, false)
	if err != nil {
		return nil, nil, err
	}
	if err := checkEnd(t, rest); err != nil {
		return nil, nil, err
	}
	return key, value, nil
}

func parseOffset(t Type, payload []byte) (uint64, error) {
	if len(payload) < offsetSize {
		return 0, malformed(t, "payload ends in the offset")
	}
	if err := checkEnd(t, payload[offsetSize:]); err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(payload), nil
}

// takeBytes takes an i32 length and that many bytes off the front of b. The
// field is nil only for a length of -1, which is allowed where nullable is set.
func takeBytes(t Type, name string, b []byte, nullable bool) (field, rest []byte, err error) {
	if len(b) < lengthSize {
		return nil, nil, malformed(t, "payload ends in the length of the "+name)
	}
	n := int32(binary.LittleEndian.Uint32(b))
	b = b[lengthSize:]
	if n == -1 && nullable {
		return nil, b, nil
	}
	if n < 0 {
		return nil, nil, malformed(t, fmt.Sprintf("%s of length %d", name, n))
	}
	if int(n) > len(b) {
		return nil, nil, malformed(t, fmt.Sprintf("%s of length %d, but %d bytes follow", name, n, len(b)))
	}
	// The capacity is cut too, so that appending to a key cannot reach the value.
	return b[:n:n], b[n:], nil
}

func checkEnd(t Type, rest []byte) error {
	if len(rest) > 0 {
		return malformed(t, fmt.Sprintf("%d bytes too many", len(rest)))
	}
	return nil
}

func malformed(t Type, reason string) error { return &MalformedError{Type: t, Reason: reason} }

// truncateText makes s valid UTF-8 of at most limit bytes.
func truncateText(s string, limit int) string {
	if len(s) > limit {
		// Cut before it is made valid, so that a huge text is not copied whole.
		s = cutAtRune(s, limit)
	}
	// U+FFFD is longer than the byte it stands for.
	return cutAtRune(strings.ToValidUTF8(s, "\uFFFD"), limit)
}

func cutAtRune(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	end := limit
	// A character has at most 4 bytes; in bytes that are not UTF-8 there may be
	// no boundary to find, and then any place is as good.
	for i := 0; i < utf8.UTFMax && end > 0; i++ {
		if utf8.RuneStart(s[end]) {
			return s[:end]
		}
		end--
	}
	return s[:limit]
}
