package wire

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

// PeerVersion is the version of the messages between nodes that this package speaks.
const PeerVersion = 1

// Limits and sizes of frames between nodes, in bytes.
const (
	// MaxPeerFrame is the greatest value of the length field of a frame of [TypeReplicate]:
	// 64 KiB more than [MaxLargeFrame]. The longest entry of a log is what a client's frame
	// held, and what one read of the server has brought behind that, so at most
	// [MaxBatchBody] and 64 KiB; the rest is for what is said about it. A node that made a
	// longer entry could not replicate it.
	MaxPeerFrame = MaxLargeFrame + 64<<10

	// PeerHeaderSize is the size of what is in front of the payload of a frame between nodes:
	// see [SealPeerFrame].
	PeerHeaderSize = HeaderSize + typeSize

	// MinNonce and MaxNonce bound the nonces of a handshake.
	MinNonce = 16
	MaxNonce = 32

	// ProofSize is the size of a proof: one of [PeerProofs].
	ProofSize = sha256.Size
)

// Lane is one of the two connections by which a node sends to another one.
type Lane uint8

// The lanes.
const (
	// LaneUrgent is for what is small and must not wait, such as votes and heartbeats.
	LaneUrgent Lane = iota
	// LaneBulk is for entries.
	LaneBulk
	// Lanes is how many there are.
	Lanes = iota
)

// String returns "urgent", "bulk", or the number of one that there is not.
func (l Lane) String() string {
	switch l {
	case LaneUrgent:
		return "urgent"
	case LaneBulk:
		return "bulk"
	}
	return fmt.Sprintf("lane %d", uint8(l))
}

// PeerHello is the first message of a node that has dialed another one. The answer is a
// [PeerChallenge] or an [Error].
type PeerHello struct {
	Version  uint32 // PeerVersion
	From, To uint16 // the node that has dialed, and the one that it wants to reach
	Lane     Lane
	// Nonce is random and never used again, of [MinNonce] to [MaxNonce] bytes.
	Nonce []byte
}

// PeerChallenge answers a [PeerHello]. The dialer goes on with a [PeerProof], or with an
// [Error] that says why it does not.
type PeerChallenge struct {
	Version uint32 // PeerVersion
	Node    uint16 // the node that was reached
	Nonce   []byte // like that of the hello
	// Proof is the acceptor's, by [PeerProofs]; empty if it has no secret.
	Proof []byte
}

// PeerProof answers a [PeerChallenge]. The answer is a [PeerWelcome] or an [Error].
type PeerProof struct {
	// Proof is the dialer's, by [PeerProofs]; empty if it has no secret.
	Proof []byte
}

// PeerWelcome says that a dialer was accepted: from here on it sends, and the acceptor does
// not.
type PeerWelcome struct{}

// AppendTo appends the frame to dst and returns the longer slice. The nonce must have the
// length that it may have.
func (m PeerHello) AppendTo(dst []byte) []byte {
	dst = appendHeader(dst, TypePeerHello, 4+2+2+1+lengthSize+len(m.Nonce))
	dst = binary.LittleEndian.AppendUint32(dst, m.Version)
	dst = binary.LittleEndian.AppendUint16(dst, m.From)
	dst = binary.LittleEndian.AppendUint16(dst, m.To)
	return appendBytes(append(dst, byte(m.Lane)), m.Nonce)
}

// AppendTo appends the frame to dst and returns the longer slice. Nonce and proof must have
// the lengths that they may have.
func (m PeerChallenge) AppendTo(dst []byte) []byte {
	dst = appendHeader(dst, TypePeerChallenge, 4+2+2*lengthSize+len(m.Nonce)+len(m.Proof))
	dst = binary.LittleEndian.AppendUint32(dst, m.Version)
	dst = binary.LittleEndian.AppendUint16(dst, m.Node)
	return appendBytes(appendBytes(dst, m.Nonce), m.Proof)
}

// AppendTo appends the frame to dst and returns the longer slice. The proof must have the
// length that it may have.
func (m PeerProof) AppendTo(dst []byte) []byte {
	return appendBytes(appendHeader(dst, TypePeerProof, lengthSize+len(m.Proof)), m.Proof)
}

// AppendTo appends the frame to dst and returns the longer slice.
func (PeerWelcome) AppendTo(dst []byte) []byte { return appendHeader(dst, TypePeerWelcome, 0) }

// ParsePeerHello parses the payload of a frame of [TypePeerHello]. The nonce is a part of
// payload. The error is a [*MalformedError].
func ParsePeerHello(payload []byte) (PeerHello, error) {
	p := parser{t: TypePeerHello, b: payload}
	m := PeerHello{Version: p.uint32("version"), From: p.uint16("sender"), To: p.uint16("recipient"), Lane: Lane(p.uint8("lane"))}
	if m.Lane >= Lanes {
		p.fail(fmt.Sprintf("lane is %d, not 0 or 1", m.Lane))
	}
	m.Nonce = p.nonce()
	return m, p.end()
}

// ParsePeerChallenge parses the payload of a frame of [TypePeerChallenge]. Nonce and proof
// are parts of payload. The error is a [*MalformedError].
func ParsePeerChallenge(payload []byte) (PeerChallenge, error) {
	p := parser{t: TypePeerChallenge, b: payload}
	m := PeerChallenge{Version: p.uint32("version"), Node: p.uint16("node"), Nonce: p.nonce(), Proof: p.proof()}
	return m, p.end()
}

// ParsePeerProof parses the payload of a frame of [TypePeerProof]. The proof is a part of
// payload. The error is a [*MalformedError].
func ParsePeerProof(payload []byte) (PeerProof, error) {
	p := parser{t: TypePeerProof, b: payload}
	m := PeerProof{p.proof()}
	return m, p.end()
}

// ParsePeerWelcome parses the payload of a frame of [TypePeerWelcome], which is empty. The
// error is a [*MalformedError].
func ParsePeerWelcome(payload []byte) (PeerWelcome, error) {
	return PeerWelcome{}, checkEnd(TypePeerWelcome, payload)
}

func (p *parser) uint16(field string) uint16 {
	if b := p.take(2, field); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

func (p *parser) nonce() []byte {
	b := p.bytes("nonce", MaxNonce, false)
	if p.err == nil && len(b) < MinNonce {
		p.fail(fmt.Sprintf("nonce of length %d: at least %d", len(b), MinNonce))
	}
	return b
}

func (p *parser) proof() []byte {
	b := p.bytes("proof", ProofSize, false)
	if p.err == nil && len(b) != 0 && len(b) != ProofSize {
		p.fail(fmt.Sprintf("proof of length %d: want 0 or %d", len(b), ProofSize))
	}
	return b
}

// PeerProofs returns what the two ends of a connection between nodes prove with that they
// have the same secret: HMAC-SHA-256, with the secret as its key, over who proves it (so that
// a proof cannot be sent back to where it came from), and all that both have said: versions,
// ids, lane, nonces. Compare proofs with hmac.Equal, which takes the same time wherever they
// differ. Both are nil without a secret.
func PeerProofs(secret []byte, hello PeerHello, challenge PeerChallenge) (dialer, acceptor []byte) {
	if len(secret) == 0 {
		return nil, nil
	}
	var said []byte
	said = binary.LittleEndian.AppendUint32(said, hello.Version)
	said = binary.LittleEndian.AppendUint32(said, challenge.Version)
	said = binary.LittleEndian.AppendUint16(said, hello.From)
	said = binary.LittleEndian.AppendUint16(said, hello.To)
	said = append(said, byte(hello.Lane))
	said = appendBytes(appendBytes(said, hello.Nonce), challenge.Nonce)
	prove := func(role string) []byte {
		h := hmac.New(sha256.New, secret)
		h.Write(appendBytes(nil, []byte(role)))
		h.Write(said)
		return h.Sum(nil)
	}
	return prove("zue peer dialer"), prove("zue peer acceptor")
}

// IsPeer reports whether frames of the type carry what nodes say to one another once they are
// connected: their payloads are replication's.
func (t Type) IsPeer() bool {
	switch t {
	case TypeReplicate, TypeReplicateResponse, TypeHeartbeat, TypeHeartbeatResponse:
		return true
	}
	return false
}

// SealPeerFrame makes a frame of a payload in parts, whose first has [PeerHeaderSize] bytes
// in front for the header, which is written there. The error, which changes nothing, says
// that the payload does not fit: [MaxPeerFrame] less the type for [TypeReplicate], else
// [MaxFrame] less that.
func SealPeerFrame(t Type, frame [][]byte) error {
	size := -PeerHeaderSize
	for _, part := range frame {
		size += len(part)
	}
	if len(frame) == 0 || len(frame[0]) < PeerHeaderSize {
		return fmt.Errorf("frame of %v: its first part has no room for a header", t)
	}
	if limit := t.limit(MaxPeerFrame) - typeSize; size > limit {
		return fmt.Errorf("%v with a payload of %d bytes does not fit in a frame: at most %d", t, size, limit)
	}
	appendHeader(frame[0][:0], t, size)
	return nil
}
