package transport

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zue-log/zue/net/wire"
)

// Who is not who the other expects is refused, both say why, in words that tell what to do, and
// neither goes on saying it.
func TestRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		change           func(a, b *Options)
		dialer, acceptor string
	}{
		"another secret": {
			change:   func(a, b *Options) { a.Secret, b.Secret = []byte("one"), []byte("two") },
			dialer:   "node 2 has another cluster secret than this node: give all nodes the same",
			acceptor: `node 1 has hung up: \"node 2 has another cluster secret than node 1`,
		},
		"no secret here": {
			change:   func(a, b *Options) { b.Secret = []byte("two") },
			dialer:   "node 2 has a cluster secret, and this node has none: give all nodes the same, or none",
			acceptor: `node 1 has hung up: \"node 2 has a cluster secret, and node 1 has none`,
		},
		"no secret there": {
			change:   func(a, b *Options) { a.Secret = []byte("one") },
			dialer:   "this node has a cluster secret, and node 2 sent no proof: give all nodes the same secret, or none",
			acceptor: `node 1 has hung up: \"node 1 has a cluster secret, and node 2 sent no proof`,
		},
		"another node's address": {
			change:   func(a, b *Options) { a.Addresses = map[uint16]string{3: "2"} },
			dialer:   `node 3 has hung up: \"node 1 wants to reach node 3, and this is node 2: compare the addresses`,
			acceptor: "node 1 wants to reach node 3, and this is node 2: compare the addresses",
		},
		"unknown": {
			change:   func(a, b *Options) { b.Addresses = map[uint16]string{7: "7"} },
			dialer:   `node 2 has hung up: \"node 2 does not know of node 1: compare the lists`,
			acceptor: "this node does not know of node 1: compare the lists",
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, f *fabric) {
				a, b := &node{}, &node{}
				oa, ob := f.options(a, 1, 2), f.options(b, 2, 1)
				c.change(&oa, &ob)
				f.start(b, ob)
				f.start(a, oa, "unreachable")
				wait(time.Minute)
				require.False(t, a.Links()[0].Urgent.Connected)
				unquoted := strings.ReplaceAll(a.Links()[0].Urgent.LastError, `"`, `\"`)
				require.Contains(t, unquoted, c.dialer)
				require.Equal(t, 2, a.log.count("\n"), "one line for each lane:\n%s", a.log.String())
				refused := 0
				for line := range strings.Lines(b.log.String()) {
					if strings.Contains(line, "node not admitted") {
						refused++
						require.Contains(t, strings.ReplaceAll(line, `\\\"`, `\"`), c.acceptor)
					}
				}
				require.Equal(t, 1, refused, b.log.String())
				require.Greater(t, f.dialed("2"), 50, "they go on trying")
				require.Positive(t, a.lost(sorted(oa.Addresses)[0]))
			})
		})
	}
}

// What comes from a node of another release, or what is no node at all, is refused with words.
func TestMalformedHandshakes(t *testing.T) {
	hello := wire.PeerHello{Version: wire.PeerVersion, From: 1, To: 2, Nonce: make([]byte, 16)}
	later := hello
	later.Version = 9
	itself := hello
	itself.From = 2
	challenge := wire.PeerChallenge{Version: 1, Node: 2, Nonce: make([]byte, 16)}
	laterChallenge, another := challenge, challenge
	laterChallenge.Version, another.Node = 9, 3
	welcome := wire.PeerWelcome{}.AppendTo(nil)
	beyond := append(challenge.AppendTo(nil), 1, 0, 0, 0, 0x25, 2, 0, 0, 0, 0x25, 0)
	for name, c := range map[string]struct {
		say  []byte
		want string
		dial bool // the dialer is tested
	}{
		"later hello":      {later.AppendTo(nil), "node 1 speaks version 9 of the messages between nodes, and this node version 1", false},
		"itself":           {itself.AppendTo(nil), "there is another node 2", false},
		"malformed hello":  {[]byte{2, 0, 0, 0, 0x22, 1}, "malformed peer_hello", false},
		"no proof":         {append(hello.AppendTo(nil), welcome...), "node 1 has sent peer_welcome, which does not belong here", false},
		"malformed proof":  {append(hello.AppendTo(nil), 1, 0, 0, 0, 0x24), "malformed peer_proof", false},
		"malformed error":  {append(hello.AppendTo(nil), 1, 0, 0, 0, 0xFF), "malformed error", false},
		"far too long":     {append(hello.AppendTo(nil), 0, 0, 1, 0, 0x24), "beyond the limit", false},
		"a pause":          {hello.AppendTo(nil), "i/o timeout", false},
		"later challenge":  {laterChallenge.AppendTo(nil), "node 2 speaks version 9 of the messages between nodes, and this node version 1", true},
		"another node":     {another.AppendTo(nil), "at the address of node 2 there is node 3", true},
		"a client's":       {wire.AppendResponse{}.AppendTo(nil), "node 2 has sent append_response, which does not belong here", true},
		"malformed":        {[]byte{1, 0, 0, 0, 0x23}, "malformed peer_challenge", true},
		"long welcome":     {append(beyond[:len(beyond)-11:len(beyond)-11], 2, 0, 0, 0, 0x25, 0), "malformed peer_welcome", true},
		"another's frame":  {append(challenge.AppendTo(nil), challenge.AppendTo(nil)...), "node 2 has sent peer_challenge", true},
		"nothing":          {nil, "i/o timeout", true},
		"a server's words": {(&wire.Error{Code: wire.CodeOverloaded, Message: "too many"}).AppendTo(nil), `node 2 has hung up: "too many"`, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				x, y := net.Pipe()
				result := make(chan error, 1)
				tr, err := New(Options{Self: 2, Addresses: map[uint16]string{1: "1"}, Dial: nowhere, Receive: func(uint16, wire.Frame, bool) error { return nil }})
				require.NoError(t, err)
				go func() {
					if c.dial {
						_, err := (&Transport{o: Options{Self: 1}}).greet(y, 2, Urgent)
						y.Close()
						result <- err
					} else {
						result <- serve(tr, y)
					}
				}()
				go drain(x)
				_, _ = x.Write(c.say)
				got := <-result
				tr.Close()
				x.Close()
				require.ErrorContains(t, got, c.want)
			})
		})
	}
}

// nowhere is a network without anybody.
func nowhere(context.Context, string) (net.Conn, error) {
	return nil, errors.New("nobody is there")
}

func drain(conn net.Conn) {
	b := make([]byte, 100)
	for {
		if _, err := conn.Read(b); err != nil {
			return
		}
	}
}

// However many strangers there are, and whatever they say, the log has a bounded number of lines.
func TestRefusalsAreBounded(t *testing.T) {
	r := refusals{}
	now := time.Now()
	lines := 0
	for i := range 100_000 {
		if r.news(uint16(i), time.Duration(i).String(), now) {
			lines++
		}
	}
	require.Equal(t, maxRefusals, lines)
	require.False(t, r.news(1, "new", now))
	require.True(t, r.news(1, "new", now.Add(refusalPause)))
	require.False(t, r.news(1, "new", now.Add(time.Hour)))
}
