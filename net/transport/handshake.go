package transport

import (
	"crypto/hmac"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/zue-log/zue/net/wire"
)

// refusal is why one end of a handshake does not go on, or what the other has said of that.
type refusal struct {
	text string // for this node's log
	// tell is for the other node; empty if that has refused.
	tell string
	code wire.Code
}

func (r *refusal) Error() string { return r.text }

// refuse returns a refusal that says of self, and of another node, what format does.
func refuse(self, other uint16, format string) *refusal {
	names := strings.NewReplacer("SELF", "this node", "OTHER", fmt.Sprintf("node %d", other))
	tell := strings.NewReplacer("SELF", fmt.Sprintf("node %d", self), "OTHER", fmt.Sprintf("node %d", other))
	return &refusal{text: names.Replace(format), tell: tell.Replace(format)}
}

// malformed returns the refusal of a frame that is no message of a handshake.
func malformed(err error) *refusal {
	return &refusal{text: err.Error(), tell: err.Error(), code: wire.CodeInvalidMessage}
}

// tellRefusal tells the other end, if it does not know yet, why this one hangs up.
func tellRefusal(conn net.Conn, err error) {
	if r := (*refusal)(nil); errors.As(err, &r) && r.tell != "" {
		_, _ = conn.Write((&wire.Error{Code: r.code, Message: r.tell}).AppendTo(nil)) // or it does without
	}
}

// next returns the next frame.
func next(dec *wire.Decoder) (wire.Frame, error) {
	for {
		f, ok, err := dec.Next()
		if ok || err != nil {
			return f, err
		}
		if err := dec.Fill(); err != nil {
			return wire.Frame{}, err
		}
	}
}

// unexpected makes an error of a frame that should not have come. What the other end says when
// it hangs up is no fault of its.
func unexpected(f wire.Frame, from uint16) error {
	if f.Type != wire.TypeError {
		return malformed(fmt.Errorf("node %d has sent %v, which does not belong here", from, f.Type))
	}
	e, err := wire.ParseError(f.Payload)
	if err != nil {
		return malformed(err)
	}
	return &refusal{text: fmt.Sprintf("node %d has hung up: %.300q", from, e.Message)}
}

// explain says why a connection has ended in words that are the same each time that this is
// the cause: without the ports, which are not.
func explain(err error, node uint16) string {
	var op *net.OpError
	switch {
	case err == nil, errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Sprintf("node %d has closed the connection", node)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Sprintf("node %d did not answer, or take what it was sent, in time", node)
	case errors.As(err, &op) && op.Err != nil:
		return op.Op + ": " + op.Err.Error()
	}
	return err.Error()
}

// isClosed says whether an error is that of a connection that this end has closed.
func isClosed(err error) bool {
	return errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe)
}

// greet is the dialer's part of the handshake.
func (t *Transport) greet(conn net.Conn, to uint16, lane Lane) (*wire.Decoder, error) {
	if err := conn.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return nil, err
	}
	dec := wire.NewDecoder(conn, maxHandshakeFrame)
	hello := wire.PeerHello{Version: wire.PeerVersion, From: t.o.Self, To: to, Lane: lane, Nonce: nonce()}
	if _, err := conn.Write(hello.AppendTo(nil)); err != nil {
		return nil, err
	}
	proof, err := t.meet(dec, hello)
	if err != nil {
		tellRefusal(conn, err)
		return nil, err
	}
	if _, err := conn.Write(wire.PeerProof{Proof: proof}.AppendTo(nil)); err != nil {
		return nil, err
	}
	f, err := next(dec)
	if err != nil {
		return nil, err
	}
	if f.Type != wire.TypePeerWelcome {
		return nil, unexpected(f, to)
	}
	if _, err := wire.ParsePeerWelcome(f.Payload); err != nil {
		return nil, malformed(err)
	}
	return dec, conn.SetDeadline(time.Time{})
}

// meet makes sure that the right node was reached, and returns this one's proof.
func (t *Transport) meet(dec *wire.Decoder, hello wire.PeerHello) (proof []byte, err error) {
	f, err := next(dec)
	if err != nil {
		return nil, err
	}
	if f.Type != wire.TypePeerChallenge {
		return nil, unexpected(f, hello.To)
	}
	c, err := wire.ParsePeerChallenge(f.Payload)
	if err != nil {
		return nil, malformed(err)
	}
	if err := t.checkVersion(c.Version, hello.To); err != nil {
		return nil, err
	}
	if c.Node != hello.To {
		return nil, refuse(t.o.Self, hello.To, fmt.Sprintf("at the address of OTHER there is node %d: compare the addresses that the nodes have been given", c.Node))
	}
	dialer, acceptor := wire.PeerProofs(t.o.Secret, hello, c)
	return dialer, t.checkProof(c.Proof, acceptor, hello.To)
}

func (t *Transport) checkVersion(version uint32, other uint16) error {
	if version == wire.PeerVersion {
		return nil
	}
	return refuse(t.o.Self, other, fmt.Sprintf("OTHER speaks version %d of the messages between nodes, and SELF version %d: run the same release on both", version, wire.PeerVersion))
}

// checkProof compares what another node has sent as its proof with what it should be.
func (t *Transport) checkProof(got, want []byte, other uint16) error {
	switch {
	case len(want) == 0 && len(got) == 0:
		return nil
	case len(want) == 0:
		return refuse(t.o.Self, other, "OTHER has a cluster secret, and SELF has none: give all nodes the same, or none")
	case len(got) == 0:
		return refuse(t.o.Self, other, "SELF has a cluster secret, and OTHER sent no proof: give all nodes the same secret, or none")
	case !hmac.Equal(got, want):
		return refuse(t.o.Self, other, "OTHER has another cluster secret than SELF: give all nodes the same")
	}
	return nil
}

// admit is the acceptor's part of the handshake, once the hello has come.
func (t *Transport) admit(conn net.Conn, dec *wire.Decoder, f wire.Frame) (wire.PeerHello, error) {
	hello, err := wire.ParsePeerHello(f.Payload)
	if err != nil {
		return hello, malformed(err)
	}
	if err := t.checkHello(hello); err != nil {
		return hello, err
	}
	c := wire.PeerChallenge{Version: wire.PeerVersion, Node: t.o.Self, Nonce: nonce()}
	dialer, acceptor := wire.PeerProofs(t.o.Secret, hello, c)
	hello.Nonce = nil // it is the decoder's
	c.Proof = acceptor
	if _, err := conn.Write(c.AppendTo(nil)); err != nil {
		return hello, err
	}
	if f, err = next(dec); err != nil {
		return hello, err
	}
	if f.Type != wire.TypePeerProof {
		return hello, unexpected(f, hello.From)
	}
	p, err := wire.ParsePeerProof(f.Payload)
	if err != nil {
		return hello, malformed(err)
	}
	return hello, t.checkProof(p.Proof, dialer, hello.From)
}

// checkHello says what is wrong with whom a dialer is, or means.
func (t *Transport) checkHello(hello wire.PeerHello) error {
	self, from := t.o.Self, hello.From
	if err := t.checkVersion(hello.Version, from); err != nil {
		return err
	}
	switch {
	case hello.To != self:
		return refuse(self, from, fmt.Sprintf("OTHER wants to reach node %d, and this is node %d: compare the addresses that the nodes have been given", hello.To, self))
	case from == self:
		return refuse(self, from, "there is another OTHER, or this one has its own address for another node's: compare what the nodes have been given")
	case t.peers[from] == nil:
		return refuse(self, from, "SELF does not know of OTHER: compare the lists of nodes that both have been given")
	}
	return nil
}

func nonce() []byte {
	b := make([]byte, wire.MaxNonce)
	_, _ = rand.Read(b) // which never fails
	return b
}
