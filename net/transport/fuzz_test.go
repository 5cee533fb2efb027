package transport

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zue-log/zue/net/wire"
)

// script is a connection whose other end says what it says, whatever it hears.
type script struct{ say []byte }

func (s *script) Read(b []byte) (int, error) {
	if len(s.say) == 0 {
		return 0, io.EOF
	}
	n := copy(b, s.say)
	s.say = s.say[n:]
	return n, nil
}

func (*script) Write(b []byte) (int, error)      { return len(b), nil }
func (*script) Close() error                     { return nil }
func (*script) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (*script) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (*script) SetDeadline(time.Time) error      { return nil }
func (*script) SetReadDeadline(time.Time) error  { return nil }
func (*script) SetWriteDeadline(time.Time) error { return nil }

// FuzzHandshake gives any bytes to both ends of the handshake. Nothing panics, and nobody gets in
// without a proof.
func FuzzHandshake(f *testing.F) {
	hello := wire.PeerHello{Version: 1, From: 1, To: 2, Nonce: make([]byte, 16)}.AppendTo(nil)
	challenge := wire.PeerChallenge{Version: 1, Node: 2, Nonce: make([]byte, 16)}
	proof := wire.PeerProof{}.AppendTo(nil)
	heartbeat := frame(wire.TypeHeartbeat, "payload")
	f.Add(append(append(append(hello, proof...), heartbeat[0]...), heartbeat[1]...), false)
	f.Add(append(challenge.AppendTo(nil), wire.PeerWelcome{}.AppendTo(nil)...), false)
	challenge.Proof = make([]byte, wire.ProofSize)
	f.Add(challenge.AppendTo(nil), true)
	f.Add(append(hello, wire.PeerProof{Proof: make([]byte, wire.ProofSize)}.AppendTo(nil)...), true)
	f.Add(append(hello, (&wire.Error{Message: "no"}).AppendTo(nil)...), true)
	f.Fuzz(func(t *testing.T, say []byte, secret bool) {
		o := Options{
			Self: 2, Addresses: map[uint16]string{1: "1"},
			Dial: func(ctx context.Context, _ string) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() },
		}
		if secret {
			o.Secret = []byte("secret")
		}
		o.Receive = func(from uint16, fr wire.Frame, _ bool) error {
			require.False(t, secret)
			require.EqualValues(t, 1, from)
			require.True(t, fr.Type.IsPeer())
			return nil
		}
		tr, err := New(o)
		require.NoError(t, err)
		defer tr.Close()
		_ = serve(tr, &script{say})
		_, err = (&Transport{o: Options{Self: 1, Secret: o.Secret}}).greet(&script{say}, 2, Urgent)
		require.False(t, secret && err == nil)
	})
}
