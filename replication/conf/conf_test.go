package conf

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestParse(t *testing.T) {
	c, err := Parse([]byte("\ufeff# a cluster\nnode 1 192.168.1.10 9001 leader\r\n\tnode  2 [::1]\t9002 follower # two\nnode 3 c.example 9003 follower\n\n" +
		"quorum 3\ntimeout 500\nmax_lag 10\nheartbeat 200\nelection static\nelection_timeout 300"))
	require.NoError(t, err)
	require.Equal(t, Conf{
		Nodes:  []Node{{1, "192.168.1.10", 9001, true}, {2, "::1", 9002, false}, {3, "c.example", 9003, false}},
		Quorum: 3, Timeout: 500 * time.Millisecond, MaxLag: 10, Heartbeat: 200 * time.Millisecond, Static: true, ElectionTimeout: 300 * time.Millisecond,
	}, c)
	require.Equal(t, "[::1]:9002", c.Nodes[1].Address())
	require.EqualValues(t, 1, c.Preferred())
	n, ok := c.Node(3)
	require.True(t, ok)
	require.Equal(t, "c.example", n.Host)
	_, ok = c.Node(4)
	require.False(t, ok)
}

func TestDefaults(t *testing.T) {
	c, err := Parse([]byte("node 5 h 1 leader\nnode 2 h 2 follower\nnode 3 h 3 follower\nnode 4 h 4 follower"))
	require.NoError(t, err)
	require.Zero(t, c.Quorum, "a majority of the members")
	require.Equal(t, 5*time.Second, c.Timeout)
	require.EqualValues(t, 1000, c.MaxLag)
	require.Equal(t, 2*time.Second, c.Heartbeat)
	require.Equal(t, time.Second, c.ElectionTimeout)
	require.False(t, c.Static)
}

// All faults are told at once, each with its line.
func TestFaults(t *testing.T) {
	for text, want := range map[string]string{
		"": `there is no node: want a line such as "node 1 127.0.0.1 9001 leader"`,
		"node 1 h 9001 follower\nnode 1 h 9001 follower\nquorum 3": `line 2: node 1 is on line 1 already
line 2: address h:9001 is on line 1 already
no node is the leader: want exactly one, which stands first
line 3: quorum 3 of 2 nodes: want a majority or more, 2 to 2`,
		"node x h 0 boss\nnode 2 h 9\nwhat 3\nnode 3 h 70000 leader\nnode 4 h 1 leader\nquorum\nquorum 0\nquorum 2\ntimeout -1\nelection maybe\nelection_timeout 1": `line 1: node "x": want a number from 1 to 65534
line 1: port "0": want a number from 1 to 65535
line 1: "boss": want leader or follower
line 2: a node wants a number, a host, a port, and leader or follower: 3 words, not 4
line 3: "what" is none of node, quorum, timeout, max_lag, heartbeat, election and election_timeout
line 4: port "70000": want a number from 1 to 65535
line 5: the leader is on line 4 already
line 6: quorum wants one value, not 0
line 7: quorum "0": want a number from 1 to 31
line 8: quorum is on line 7 already
line 9: timeout "-1": want a number from 1 to 86400000
line 10: election "maybe": want auto or static
line 11: election_timeout "1": want a number from 50 to 86400000`,
	} {
		_, err := Parse([]byte(text))
		var faults *Error
		require.ErrorAs(t, err, &faults)
		require.Equal(t, want, err.Error())
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("node 1 h 9001 leader\nquorum 1"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := Parse(text)
		if err != nil {
			require.NotEmpty(t, err.Error())
			return
		}
		require.NotZero(t, c.Preferred())
		require.True(t, c.Quorum == 0 || c.Quorum >= len(c.Nodes)/2+1)
		require.LessOrEqual(t, c.Quorum, len(c.Nodes))
	})
}
