package wire

import (
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// golden names each file of testdata and the message whose frame it holds.
var golden = map[string]any{
	"append_request":               AppendRequest{Key: []byte("key"), Value: []byte("value")},
	"append_request_null_key":      AppendRequest{Value: []byte("value")},
	"append_request_empty_key":     AppendRequest{Key: []byte{}, Value: []byte("value")},
	"append_request_empty_value":   AppendRequest{Key: []byte("key"), Value: []byte{}},
	"append_response":              AppendResponse{Offset: 5},
	"append_response_large_offset": AppendResponse{Offset: 0x0123456789abcdef},
	"read_request":                 ReadRequest{Offset: 5},
	"read_response":                ReadResponse{Key: []byte("key"), Value: []byte("value")},
	"read_response_null_key":       ReadResponse{Value: []byte("value")},
	"read_response_empty":          ReadResponse{Key: []byte{}, Value: []byte{}},
	"error_invalid_offset":         &Error{Code: CodeInvalidOffset, Message: "offset 7 is beyond the end"},
	"error_no_message":             &Error{Code: CodeNotLeader},

	"hello_request":               HelloRequest{Version: 1, Client: "zue-client/0.2.0"},
	"hello_request_credentials":   HelloRequest{Version: 1, Features: 5, Client: "c", Credentials: []byte("secret")},
	"hello_response":              HelloResponse{Version: 1, Server: "zue-server/0.2.0", MaxFrame: MaxLargeFrame},
	"batch_append_request":        BatchAppendRequest{Checksum: 0x833b048f, Body: []byte("a batch")},
	"batch_append_request_if":     BatchAppendRequest{Log: 3, Conditional: true, EndOffset: 7, Checksum: 0x833b048f, Body: []byte("a batch")},
	"batch_append_response":       BatchAppendResponse{First: 7, Count: 3, Term: 1, Copies: 1},
	"batch_append_response_again": BatchAppendResponse{First: 7, Count: 3, Term: 9, Copies: 2, Duplicate: true},
	"fetch_request":               FetchRequest{Offset: 5, MaxBytes: 1 << 20, MinBytes: 1, WaitMillis: 500},
	"fetch_response":              FetchResponse{First: 2, End: 9, Format: 1, Seed: 0x5eed, Entries: []byte("entries!")},
	"fetch_response_none":         FetchResponse{First: 2, End: 9, Entries: []byte{}},
	"offset_for_time_request":     OffsetForTimeRequest{Timestamp: 1_700_000_000_123},
	"offset_for_time_response":    OffsetForTimeResponse{Offset: 5},
	"status_request":              StatusRequest{},
	"status_response":             StatusResponse{JSON: []byte(`{"role":"standalone"}`)},
	"barrier_request":             BarrierRequest{},
	"producer_request":            ProducerRequest{},
	"producer_response":           ProducerResponse{ID: 7},
	"barrier_response":            BarrierResponse{End: 9},

	"peer_hello":          peerHello,
	"peer_hello_bulk":     PeerHello{Version: 1, From: 1, To: 0xFFFE, Lane: LaneBulk, Nonce: count(0, 32)},
	"peer_challenge":      peerChallenge,
	"peer_challenge_open": PeerChallenge{Version: 1, Node: 2, Nonce: count(0x10, 16), Proof: []byte{}},
	"peer_proof":          peerProof,
	"peer_proof_open":     PeerProof{Proof: []byte{}},
	"peer_welcome":        PeerWelcome{},

	"transfer_request":  TransferRequest{Node: 2},
	"transfer_response": TransferResponse{Node: 2},
	"chain_request":     ChainRequest{Offset: 5},
	"chain_response":    ChainResponse{Index: 4, Term: 2, First: 3, Next: 7, Chain: 0x0123456789abcdef},
	"remove_request":    RemoveRequest{Node: 3},
	"remove_response":   RemoveResponse{},
	"allow_request":     AllowRequest{Node: 4},
	"allow_response":    AllowResponse{},
}

func TestGoldenFilesEncodeAndDecode(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("testdata", "*.hex"))
	require.NoError(t, err)
	require.Len(t, files, len(golden), "each file has its message here, and the other way round")
	for name, message := range golden {
		t.Run(name, func(t *testing.T) {
			want := readHex(t, filepath.Join("testdata", name+".hex"))
			require.Equal(t, want, encode(t, message))

			d := NewDecoder(strings.NewReader(string(want)), 0)
			require.NoError(t, d.Fill())
			frame, ok, err := d.Next()
			require.NoError(t, err)
			require.True(t, ok)
			got, err := parse(frame)
			require.NoError(t, err)
			// Equal tells a nil key from an empty one.
			require.Equal(t, message, got)
		})
	}
}

// readHex reads a file of hexadecimal bytes, in which # begins a comment.
func readHex(t testing.TB, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	var digits strings.Builder
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		digits.WriteString(strings.Join(strings.Fields(line), ""))
	}
	b, err := hex.DecodeString(digits.String())
	require.NoError(t, err)
	return b
}

// encode returns the frame of any message.
func encode(t testing.TB, message any) []byte {
	t.Helper()
	var b []byte
	var err error
	switch m := message.(type) {
	case interface{ AppendTo([]byte) ([]byte, error) }:
		b, err = m.AppendTo(nil)
	case interface{ AppendTo([]byte) []byte }:
		b = m.AppendTo(nil)
	default:
		t.Fatalf("no message: %T", message)
	}
	require.NoError(t, err)
	if m, ok := message.(interface{ Size() int }); ok {
		require.Len(t, b, m.Size())
	}
	return b
}

// parse parses the payload of a frame of any known type.
func parse(f Frame) (any, error) {
	switch f.Type {
	case TypeAppendRequest:
		return ParseAppendRequest(f.Payload)
	case TypeAppendResponse:
		return ParseAppendResponse(f.Payload)
	case TypeReadRequest:
		return ParseReadRequest(f.Payload)
	case TypeReadResponse:
		return ParseReadResponse(f.Payload)
	case TypePeerHello:
		return ParsePeerHello(f.Payload)
	case TypePeerChallenge:
		return ParsePeerChallenge(f.Payload)
	case TypePeerProof:
		return ParsePeerProof(f.Payload)
	case TypePeerWelcome:
		return ParsePeerWelcome(f.Payload)
	case TypeHelloRequest:
		return ParseHelloRequest(f.Payload)
	case TypeHelloResponse:
		return ParseHelloResponse(f.Payload)
	case TypeBatchAppendRequest:
		return ParseBatchAppendRequest(f.Payload)
	case TypeBatchAppendResponse:
		return ParseBatchAppendResponse(f.Payload)
	case TypeFetchRequest:
		return ParseFetchRequest(f.Payload)
	case TypeFetchResponse:
		return ParseFetchResponse(f.Payload)
	case TypeOffsetForTimeRequest:
		return ParseOffsetForTimeRequest(f.Payload)
	case TypeOffsetForTimeResponse:
		return ParseOffsetForTimeResponse(f.Payload)
	case TypeStatusRequest:
		return ParseStatusRequest(f.Payload)
	case TypeStatusResponse:
		return ParseStatusResponse(f.Payload)
	case TypeBarrierRequest:
		return ParseBarrierRequest(f.Payload)
	case TypeBarrierResponse:
		return ParseBarrierResponse(f.Payload)
	case TypeProducerRequest:
		return ParseProducerRequest(f.Payload)
	case TypeProducerResponse:
		return ParseProducerResponse(f.Payload)
	case TypeTransferRequest:
		return ParseTransferRequest(f.Payload)
	case TypeTransferResponse:
		return ParseTransferResponse(f.Payload)
	case TypeChainRequest:
		return ParseChainRequest(f.Payload)
	case TypeChainResponse:
		return ParseChainResponse(f.Payload)
	case TypeRemoveRequest:
		return ParseRemoveRequest(f.Payload)
	case TypeRemoveResponse:
		return ParseRemoveResponse(f.Payload)
	case TypeAllowRequest:
		return ParseAllowRequest(f.Payload)
	case TypeAllowResponse:
		return ParseAllowResponse(f.Payload)
	case TypeError:
		return ParseError(f.Payload)
	}
	return nil, &MalformedError{Type: f.Type, Reason: "not a type of this package"}
}
