package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

func TestParseRefusesMalformedPayloads(t *testing.T) {
	i32 := func(n int32) string { return string(binary.LittleEndian.AppendUint32(nil, uint32(n))) }
	for _, c := range []struct {
		name    string
		typ     Type
		payload string
		reason  string
	}{
		{"empty", TypeAppendRequest, "", "payload ends in the length of the key"},
		{"half a key length", TypeAppendRequest, "\x01\x00", "payload ends in the length of the key"},
		{"key beyond the payload", TypeAppendRequest, i32(4) + "abc", "key of length 4, but 3 bytes follow"},
		{"huge key", TypeAppendRequest, i32(math.MaxInt32) + "abc", "key of length 2147483647, but 3 bytes follow"},
		{"key length -2", TypeAppendRequest, i32(-2) + i32(0), "key of length -2"},
		{"least key length", TypeAppendRequest, i32(math.MinInt32) + i32(0), "key of length -2147483648"},
		{"no value length", TypeAppendRequest, i32(1) + "k", "payload ends in the length of the value"},
		{"null value", TypeAppendRequest, i32(-1) + i32(-1), "value of length -1"},
		{"value beyond the payload", TypeAppendRequest, i32(-1) + i32(1), "value of length 1, but 0 bytes follow"},
		{"trailing bytes", TypeAppendRequest, i32(-1) + i32(1) + "vv", "1 bytes too many"},
		{"short offset", TypeAppendResponse, "1234567", "payload ends in the offset"},
		{"long offset", TypeAppendResponse, "123456789", "1 bytes too many"},
		{"short offset", TypeReadRequest, "", "payload ends in the offset"},
		{"long offset", TypeReadRequest, "123456789", "1 bytes too many"},
		{"key length -2", TypeReadResponse, i32(-2) + i32(0), "key of length -2"},
		{"trailing bytes", TypeReadResponse, i32(0) + i32(0) + "v", "1 bytes too many"},
		{"no code", TypeError, "", "payload ends in the code"},
		{"no message length", TypeError, "\x01", "payload ends in the length of the message"},
		{"null message", TypeError, "\x01" + i32(-1), "message of length -1"},
		{"message beyond the payload", TypeError, "\x01" + i32(2) + "m", "message of length 2, but 1 bytes follow"},
		{"trailing bytes", TypeError, "\x01" + i32(0) + "m", "1 bytes too many"},
		{"half a recipient", TypePeerHello, "vers1122"[:7], "payload ends in the recipient"},
		{"unknown lane", TypePeerHello, "vers1122\x02" + i32(16) + strings.Repeat("n", 16), "lane is 2, not 0 or 1"},
		{"short nonce", TypePeerHello, "vers1122\x00" + i32(15) + strings.Repeat("n", 15), "nonce of length 15: at least 16"},
		{"long nonce", TypePeerChallenge, "vers11" + i32(33) + strings.Repeat("n", 33), "nonce of length 33: at most 32"},
		{"half a proof", TypePeerProof, i32(16) + strings.Repeat("p", 16), "proof of length 16: want 0 or 32"},
		{"trailing bytes", TypePeerWelcome, "X", "1 bytes too many"},
		{"half a node", TypeTransferRequest, "log1n", "payload ends in the node"},
		{"trailing bytes", TypeRemoveRequest, "log1noX", "1 bytes too many"},
		{"no chain", TypeChainResponse, strings.Repeat("8 bytes.", 4), "payload ends in the chain"},
		{"trailing bytes", TypeAllowResponse, "X", "1 bytes too many"},
	} {
		t.Run(c.typ.String()+" "+c.name, func(t *testing.T) {
			_, err := parse(Frame{Type: c.typ, Payload: []byte(c.payload)})
			var malformed *MalformedError
			require.ErrorAs(t, err, &malformed)
			require.Equal(t, c.typ, malformed.Type)
			require.Equal(t, c.reason, malformed.Reason)
			require.EqualError(t, err, "malformed "+c.typ.String()+": "+c.reason)
		})
	}
}

func TestParsedFieldsAliasThePayloadAndCannotReachEachOther(t *testing.T) {
	frame := encode(t, AppendRequest{Key: []byte("key"), Value: []byte("value")})
	m, err := ParseAppendRequest(frame[HeaderSize+1:])
	require.NoError(t, err)
	require.Same(t, &frame[HeaderSize+1+4], &m.Key[0])
	_ = append(m.Key, "XXXXX"...)
	require.Equal(t, "value", string(m.Value))
}

func TestRecordMayFillAFrameAndNoMore(t *testing.T) {
	full := make([]byte, MaxRecord)
	for _, c := range []struct{ key, value []byte }{
		{nil, full}, {full, nil}, {full[:1], full[1:]},
	} {
		frame := encode(t, AppendRequest{Key: c.key, Value: c.value})
		require.Len(t, frame, HeaderSize+MaxFrame)
		require.EqualValues(t, MaxFrame, binary.LittleEndian.Uint32(frame))
		require.Len(t, encode(t, ReadResponse{Key: c.key, Value: c.value}), HeaderSize+MaxFrame)
	}

	dst := []byte("before")
	over := make([]byte, MaxRecord+1)
	for _, c := range []struct{ key, value []byte }{
		{nil, over}, {over, nil}, {full[:1], full}, {over, over},
	} {
		var size *RecordSizeError
		require.ErrorAs(t, CheckRecord(c.key, c.value), &size)
		require.Equal(t, RecordSizeError{KeyLen: len(c.key), ValueLen: len(c.value)}, *size)
		got, err := AppendRequest{Key: c.key, Value: c.value}.AppendTo(dst)
		require.ErrorAs(t, err, &size)
		require.Equal(t, "before", string(got))
		got, err = ReadResponse{Key: c.key, Value: c.value}.AppendTo(dst)
		require.ErrorAs(t, err, &size)
		require.Equal(t, "before", string(got))
	}
	require.EqualError(t, CheckRecord(nil, over),
		"record of 10485752 bytes (key 0, value 10485752) does not fit in a frame: at most 10485751")
}

func TestErrorMessageIsMadeToFit(t *testing.T) {
	for _, c := range []struct {
		name, message, want string
	}{
		{"fits exactly", strings.Repeat("x", MaxErrorMessage), strings.Repeat("x", MaxErrorMessage)},
		{"one too long", strings.Repeat("x", MaxErrorMessage+1), strings.Repeat("x", MaxErrorMessage)},
		{"cut before a character of 3 bytes", strings.Repeat("x", MaxErrorMessage-2) + "€", strings.Repeat("x", MaxErrorMessage-2)},
		{"cut before a character of 4 bytes", strings.Repeat("x", MaxErrorMessage-3) + "😀", strings.Repeat("x", MaxErrorMessage-3)},
		{"not UTF-8", "a\xffb", "a\uFFFDb"},
	} {
		t.Run(c.name, func(t *testing.T) {
			frame := (&Error{Code: CodeIOError, Message: c.message}).AppendTo(nil)
			require.LessOrEqual(t, len(frame), HeaderSize+MaxFrame)
			got, err := ParseError(frame[HeaderSize+1:])
			require.NoError(t, err)
			require.Equal(t, CodeIOError, got.Code)
			require.True(t, c.want == got.Message, "message differs")
		})
	}
	for _, bad := range []string{"\xff", "\x80"} {
		frame := (&Error{Message: strings.Repeat(bad, MaxErrorMessage+1)}).AppendTo(nil)
		require.LessOrEqual(t, len(frame), HeaderSize+MaxFrame)
		got, err := ParseError(frame[HeaderSize+1:])
		require.NoError(t, err)
		require.True(t, utf8.ValidString(got.Message))
	}
}

func TestParseErrorToleratesTextThatIsNotUTF8(t *testing.T) {
	got, err := ParseError([]byte("\x10\x03\x00\x00\x00a\xffb"))
	require.NoError(t, err)
	require.Equal(t, &Error{Code: CodeNotLeader, Message: "a\uFFFDb"}, got)
}

func TestErrorIsAnErrorWithCodeAndMessage(t *testing.T) {
	err := fmt.Errorf("append: %w", &Error{Code: CodeNotLeader, Message: "node 2 leads"})
	require.EqualError(t, err, "append: not_leader: node 2 leads")
	var got *Error
	require.True(t, errors.As(err, &got))
	require.Equal(t, CodeNotLeader, got.Code)
	require.EqualError(t, &Error{Code: CodeLogFull}, "log_full")
}

func TestCodes(t *testing.T) {
	for _, c := range []struct {
		code  Code
		num   uint8
		name  string
		maybe bool
	}{
		{CodeUnknown, 0x00, "unknown", true},
		{CodeInvalidOffset, 0x01, "invalid_offset", false},
		{CodeRecordNotFound, 0x02, "record_not_found", false},
		{CodeIOError, 0x03, "io_error", true},
		{CodeSerialization, 0x04, "serialization_error", false},
		{CodeInvalidMessage, 0x05, "invalid_message", false},
		{CodeLogFull, 0x06, "log_full", false},
		{CodeNotLeader, 0x10, "not_leader", false},
		{CodeQuorumFailed, 0x11, "quorum_failed", true},
		{CodeReplicationTimeout, 0x12, "replication_timeout", true},
		{CodeOffsetMismatch, 0x13, "offset_mismatch", false},
		{CodeInsufficientISR, 0x14, "insufficient_isr", false},
		{CodeChangeRefused, 0x15, "change_refused", false},
		{Code(0x42), 0x42, "code 0x42", true},
	} {
		require.EqualValues(t, c.num, c.code, c.name)
		require.Equal(t, c.name, c.code.String())
		require.Equal(t, c.maybe, c.code.MaybeApplied(), c.name)
	}
}

func TestTypes(t *testing.T) {
	for typ, name := range map[Type]string{
		0x01: "append_request", 0x02: "append_response", 0x03: "read_request",
		0x04: "read_response", 0xFF: "error", 0x7E: "type 0x7e",
	} {
		require.Equal(t, name, typ.String())
	}
}
