package wire

import (
	"bytes"
	"crypto/hmac"
	"encoding/hex"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
)

const peerSecret = "the cluster's secret"

var (
	peerHello     = PeerHello{Version: 1, From: 1, To: 2, Lane: LaneUrgent, Nonce: count(0, 16)}
	peerChallenge = PeerChallenge{Version: 1, Node: 2, Nonce: count(0x10, 16), Proof: unhex("56ead1f1bf0f2384a4f7199443cc5c60d421095af64eea11c5d841781f0656fb")}
	peerProof     = PeerProof{Proof: unhex("26da8ffeb3ad7d93939059ef48740519b4da475072b071f5818ebd1dbca9fb7a")}
)

// count returns n bytes, each one more than that before.
func count(from byte, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = from + byte(i)
	}
	return b
}

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

// The golden files have the proofs that the secret gives, and nothing that a proof is about can
// be changed without changing it.
func TestPeerProofs(t *testing.T) {
	dialer, acceptor := PeerProofs([]byte(peerSecret), peerHello, peerChallenge)
	require.Equal(t, peerProof.Proof, dialer)
	require.Equal(t, peerChallenge.Proof, acceptor)
	seen := [][]byte{dialer, acceptor}
	for name, change := range map[string]func(*string, *PeerHello, *PeerChallenge){
		"secret":             func(s *string, _ *PeerHello, _ *PeerChallenge) { *s = "another secret" },
		"hello's version":    func(_ *string, h *PeerHello, _ *PeerChallenge) { h.Version++ },
		"from":               func(_ *string, h *PeerHello, _ *PeerChallenge) { h.From = 3 },
		"to":                 func(_ *string, h *PeerHello, _ *PeerChallenge) { h.To = 3 },
		"lane":               func(_ *string, h *PeerHello, _ *PeerChallenge) { h.Lane = LaneBulk },
		"dialer's nonce":     func(_ *string, h *PeerHello, _ *PeerChallenge) { h.Nonce = count(1, 16) },
		"longer nonce":       func(_ *string, h *PeerHello, c *PeerChallenge) { h.Nonce, c.Nonce = count(0, 17), c.Nonce[1:] },
		"acceptor's nonce":   func(_ *string, _ *PeerHello, c *PeerChallenge) { c.Nonce = count(1, 16) },
		"acceptor's version": func(_ *string, _ *PeerHello, c *PeerChallenge) { c.Version++ },
	} {
		secret, hello, challenge := peerSecret, peerHello, peerChallenge
		change(&secret, &hello, &challenge)
		dialer, acceptor := PeerProofs([]byte(secret), hello, challenge)
		for _, proof := range [][]byte{dialer, acceptor} {
			for _, other := range seen {
				require.False(t, hmac.Equal(proof, other), name)
			}
			seen = append(seen, proof)
		}
	}
	dialer, acceptor = PeerProofs(nil, peerHello, peerChallenge)
	require.Nil(t, dialer)
	require.Nil(t, acceptor)
}

func TestSealPeerFrame(t *testing.T) {
	frame := [][]byte{append(make([]byte, PeerHeaderSize), "pay"...), []byte("load")}
	require.NoError(t, SealPeerFrame(TypeHeartbeat, frame))
	require.Equal(t, rawFrame(0x20, []byte("payload")), bytes.Join(frame, nil))
	require.ErrorContains(t, SealPeerFrame(TypeHeartbeat, nil), "no room")
	require.ErrorContains(t, SealPeerFrame(TypeHeartbeat, [][]byte{make([]byte, PeerHeaderSize-1), []byte("payload")}), "no room")

	large := [][]byte{make([]byte, PeerHeaderSize), make([]byte, MaxPeerFrame-1)}
	require.NoError(t, SealPeerFrame(TypeReplicate, large))
	whole := bytes.Join(large, nil)
	for limit, ok := range map[int]bool{MaxPeerFrame: true, 1 << 30: true, MaxLargeFrame: false, 0: false} {
		frames, err := readAll(t, NewDecoder(bytes.NewReader(whole), limit))
		if ok {
			require.Equal(t, io.EOF, err)
			require.Len(t, frames, 1)
		} else {
			require.ErrorContains(t, err, "beyond the limit")
		}
	}
	require.ErrorContains(t, SealPeerFrame(TypeHeartbeat, large), "does not fit")
	require.ErrorContains(t, SealPeerFrame(TypeReplicate, append(large, []byte{1})), "does not fit in a frame: at most 10616831")
	require.Equal(t, whole[:PeerHeaderSize], large[0], "an error changes nothing")
}

// What one limit refuses is read when it was raised meanwhile, as for a client that turns out to
// be a node.
func TestDecoderSetMaxFrame(t *testing.T) {
	d := NewDecoder(bytes.NewReader(append(rawFrame(1, nil), rawFrame(TypeReplicate, make([]byte, 99))...)), 50)
	require.NoError(t, d.Fill())
	_, ok, err := d.Next()
	require.NoError(t, err)
	require.True(t, ok)
	d.SetMaxFrame(100)
	_, ok, err = d.Next()
	require.NoError(t, err)
	require.True(t, ok)
	d.SetMaxFrame(0)
	require.Equal(t, MaxFrame, d.maxFrame)
}

func TestPeerTypes(t *testing.T) {
	for typ, peer := range map[Type]bool{0x10: true, 0x11: true, 0x20: true, 0x21: true, 0x22: false, 0x01: false, 0xFF: false} {
		require.Equal(t, peer, typ.IsPeer(), typ)
	}
	require.Equal(t, "replicate_response", Type(0x11).String())
	require.Equal(t, "bulk", LaneBulk.String())
	require.Equal(t, "urgent", LaneUrgent.String())
	require.Equal(t, "lane 2", Lane(2).String())
	require.EqualValues(t, 2, Lanes)
}
