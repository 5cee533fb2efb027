package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zue-log/zue/client"
	"github.com/zue-log/zue/client/internal/wiretest"
	"github.com/zue-log/zue/net/wire"
)

// at runs a command, some words of which come before the host and the port of a node, and
// others after them.
func at(t *testing.T, s *wiretest.Server, before, after string) result {
	t.Helper()
	args := append(strings.Fields(before), "127.0.0.1", s.Port())
	return runCommand(t.Context(), strings.NewReader("1\n2\n3\n"), append(args, strings.Fields(after)...)...)
}

func fill(c *wiretest.Cluster, records int) {
	for i := range records {
		c.Nodes[0].Append(nil, fmt.Append(nil, i))
	}
}

// Whatever node is named, appends go to the leader.
func TestAppendsGoToTheLeader(t *testing.T) {
	c := wiretest.StartCluster(t, 3)
	require.Equal(t, ok("0\n"), at(t, c.Nodes[2], "append", "k v"))
	require.Equal(t, ok("1 3\n"), at(t, c.Nodes[1], "append", "--stdin"))
	require.Equal(t, ok("4 6\n"), at(t, c.Nodes[1], "append", "--stdin --idempotent"))
	got := at(t, c.Nodes[1], "bench", "--work produce --clients 2 --duration 20ms")
	require.Equal(t, exitOK, got.code, got.stderr)
	require.Equal(t, ok("1\n"), at(t, c.Nodes[2], "read", "1"))

	c.Lead(0) // an election
	time.AfterFunc(200*time.Millisecond, func() { c.Lead(2) })
	before := len(c.Nodes[0].Records())
	require.Equal(t, ok(fmt.Sprintf("%d %d\n", before, before+2)), at(t, c.Nodes[0], "append", "--stdin"))
	require.Equal(t, exitOK, at(t, c.Nodes[0], "append", "k v").code)

	c.Lead(0)
	for range 20 {
		got = at(t, c.Nodes[0], "append", "k v --timeout 2s")
		if !strings.Contains(got.stderr, "may or may not") { // it was not just being asked again
			break
		}
	}
	require.Equal(t, exitFailed, got.code)
	require.Contains(t, got.stderr, "zue-client: given up after 2s: append to "+c.Nodes[0].Address()+": surely not appended: context deadline exceeded, after: not_leader: no leader is known\nhint: no node that could be reached leads")
	got = at(t, c.Nodes[0], "append", "--stdin --timeout 2s")
	require.Equal(t, exitFailed, got.code)
	require.Contains(t, got.stderr, "knows of no node that leads")
}

// A command goes on when the node that is named is down, and others are known.
func TestNodeThatIsDown(t *testing.T) {
	c := wiretest.StartCluster(t, 3)
	fill(c, 1)
	c.Nodes[2].Close()
	others := "--node " + c.Nodes[1].Address() + " --node " + c.Nodes[0].Address()
	for _, args := range [][2]string{
		{"append", "k v"}, {"append", "--stdin"}, {"read", "0"}, {"status", ""},
		{"bench", "--work read --clients 1 --duration 5ms"}, {"cluster transfer", "1"}, {"cluster allow", "9"},
	} {
		got := at(t, c.Nodes[2], args[0], args[1]+" "+others)
		require.Equal(t, exitOK, got.code, "%v: %s", args, got.stderr)
		got = at(t, c.Nodes[2], args[0], args[1])
		require.Equal(t, exitFailed, got.code, args)
		require.Contains(t, got.stderr, "refused", args)
	}
	t.Setenv(nodesVariable, c.Nodes[1].Address()+", "+c.Nodes[0].Address())
	require.Equal(t, exitOK, at(t, c.Nodes[2], "read", "0").code)
	t.Setenv(nodesVariable, "localhost")
	got := at(t, c.Nodes[0], "read", "0")
	require.Equal(t, exitUsage, got.code)
	require.Contains(t, got.stderr, `ZUE_NODES "localhost": want host:port`)
	require.Equal(t, exitUsage, at(t, c.Nodes[0], "read", "0 --node h:0").code)
	require.Equal(t, exitOK, at(t, c.Nodes[0], "read", "0 --node "+c.Nodes[1].Address()).code, "the command line counts more")
}

// fixed is a survey of three nodes whose statuses are always the same; change may change it.
func fixed(change func(sv *survey)) *survey {
	sv := &survey{}
	for node := uint16(1); node <= 3; node++ {
		st := &client.Status{Status: wire.Status{
			Role: "follower", Version: "0.2.0", FirstOffset: uint64(node) * 100, CommittedOffset: 5000, EndOffset: 5000,
			Cluster: &wire.ClusterStatus{ID: "00000000000000c1", Node: node, Term: 7, Leader: 1, Quorum: 2, Voters: []uint16{1, 2, 3}},
		}}
		st.JSON = st.Response().JSON
		sv.nodes = append(sv.nodes, nodeView{node: node, address: fmt.Sprintf("10.0.0.%d:9001", node), status: st})
	}
	sv.leader = sv.nodes[0].status
	sv.leader.Role = roleLeader
	for node := uint16(2); node <= 3; node++ {
		sv.leader.Cluster.Replicas = append(sv.leader.Cluster.Replicas, wire.ReplicaStatus{
			Node: node, Kind: "voter", InSync: true, Lag: new(uint64), LastContactMillis: 120 * int64(node)})
	}
	if change != nil {
		change(sv)
	}
	return sv
}

// down has a node of a survey not answer.
func down(sv *survey, node int) {
	sv.nodes[node-1].status, sv.nodes[node-1].err = nil, errors.New("connection refused")
	if node == 1 {
		sv.leader = nil
	}
}

func TestStatusTable(t *testing.T) {
	sv := fixed(nil)
	require.Empty(t, sv.warnings())
	require.Equal(t, `cluster 00000000000000c1: node 1 leads in term 7; 3 of 3 voters are in sync, an append needs 2

node  address        role      term  first  committed  end   lag  in sync  last contact  version
1     10.0.0.1:9001  leader    7     100    5000       5000  -    yes      -             0.2.0
2     10.0.0.2:9001  follower  7     200    5000       5000  0    yes      240ms ago     0.2.0
3     10.0.0.3:9001  follower  7     300    5000       5000  0    yes      360ms ago     0.2.0
`, string(sv.text(nil)))

	sv = fixed(func(sv *survey) {
		down(sv, 3)
		sv.leader.Cluster.Replicas[1] = wire.ReplicaStatus{Node: 3, LastContactMillis: 61_500}
		sv.leader.Warnings = []string{"its disk is slow\x1b[2J", "no syncs"}
		sv.nodes[1].status.Warnings = []string{"no syncs"}
		sv.nodes[1].status.Failed = "disk full"
		sv.nodes[1].status.Cluster.ID = "00000000000000c2"
		sv.nodes = append(sv.nodes, nodeView{node: 4, err: errors.New("no address")})
	})
	require.Equal(t, `cluster 00000000000000c1: node 1 leads in term 7; 2 of 3 voters are in sync, an append needs 2

node  address        role       term  first  committed  end   lag      in sync  last contact  version
1     10.0.0.1:9001  leader     7     100    5000       5000  -        yes      -             0.2.0
2     10.0.0.2:9001  follower   7     200    5000       5000  0        yes      240ms ago     0.2.0
3     10.0.0.3:9001  no answer  -     -      -          -     unknown  no       1m1.5s ago    -
4     -              no answer  -     -      -          -     -        -        -             -

WARNING: node 1: its disk is slow\x1b[2J
WARNING: nodes 1, 2: no syncs
WARNING: node 2 takes no appends until it is started again: disk full
WARNING: node 2 is of cluster 00000000000000c2, others are of 00000000000000c1: is its data directory another one's?
WARNING: node 3 does not answer: connection refused
WARNING: node 4 does not answer: no address
`, string(sv.text(sv.warnings())))

	sv = fixed(func(sv *survey) { down(sv, 1) })
	require.Equal(t, `node  address        role       term  first  committed  end   lag  in sync  last contact  version
1     10.0.0.1:9001  no answer  -     -      -          -     -    -        -             -
2     10.0.0.2:9001  follower   7     200    5000       5000  -    -        -             0.2.0
3     10.0.0.3:9001  follower   7     300    5000       5000  -    -        -             0.2.0

WARNING: node 1 does not answer: connection refused
WARNING: no node that answers leads, so nothing can be appended: an election takes a second or two; longer than that, look whether most nodes are up
`, string(sv.text(sv.warnings())))
}

func TestStatusOfACluster(t *testing.T) {
	c := wiretest.StartCluster(t, 3)
	fill(c, 7)
	got := at(t, c.Nodes[1], "status", "--check")
	require.Equal(t, exitOK, got.code, got.stderr)
	for i, n := range c.Nodes {
		require.Regexp(t, fmt.Sprintf(`(?m)^%d +%s +(leader|follower) +3 +0 +7 +7 `, i+1, n.Address()), got.stdout)
	}
	require.NotContains(t, got.stdout, "WARNING")

	c.Nodes[2].Close()
	got = at(t, c.Nodes[1], "status", "")
	require.Equal(t, exitOK, got.code, got.stderr)
	require.Regexp(t, `(?m)^3 +\S+ +no answer `, got.stdout)
	require.Contains(t, got.stdout, "WARNING: node 3 does not answer: connect to "+c.Nodes[2].Address())
	require.Equal(t, exitFailed, at(t, c.Nodes[1], "status", "--check").code)
	require.Empty(t, got.stderr)

	got = at(t, c.Nodes[1], "status", "--json")
	require.Equal(t, exitOK, got.code)
	var all struct {
		Leader   int
		Warnings []string
		Nodes    []struct {
			Node    int
			Address string
			Status  *wire.Status
			Error   string
		}
	}
	require.NoError(t, json.Unmarshal([]byte(got.stdout), &all), got.stdout)
	require.Equal(t, 1, all.Leader)
	require.Len(t, all.Warnings, 1)
	require.Len(t, all.Nodes, 3)
	require.Equal(t, c.Nodes[0].Address(), all.Nodes[0].Address)
	require.Equal(t, "leader", all.Nodes[0].Status.Role)
	require.Nil(t, all.Nodes[2].Status)
	require.Contains(t, all.Nodes[2].Error, "refused")
}

// Nodes that the one named does not know are found by others; an address of another node's is
// noticed, and a member without one is shown.
func TestStatusOfNodesWithOtherConfigurations(t *testing.T) {
	c := wiretest.StartCluster(t, 4)
	c.ChangeStatus(func(node int, s *wire.Status) {
		switch s.Cluster.Voters = []uint16{1, 2, 3, 4, 5}; node {
		case 1:
			s.Cluster.Nodes = s.Cluster.Nodes[:2]
		case 2:
			s.Cluster.Nodes[3].Address = c.Nodes[2].Address()
		}
		s.Warnings = []string{"cluster.conf is not as the membership is"}
	})
	got := at(t, c.Nodes[0], "status", "--check")
	require.Equal(t, exitFailed, got.code)
	require.Regexp(t, `(?m)^3 .* follower `, got.stdout)
	require.Contains(t, got.stdout, "node 4 does not answer: "+c.Nodes[2].Address()+" is node 3\n")
	require.Contains(t, got.stdout, "node 5 does not answer: it is a member, and no cluster.conf has its address\n")
	require.Contains(t, got.stdout, "WARNING: nodes 1, 2, 3: cluster.conf is not as the membership is\n")
}

func TestStatusCheckStandalone(t *testing.T) {
	port, _ := startServer(t)
	require.Equal(t, exitOK, runCommand(t.Context(), nil, "status", "127.0.0.1", port, "--check").code)
	for _, command := range []string{"cluster can-stop 127.0.0.1 %s 1", "cluster verify 127.0.0.1 %s"} {
		got := runCommand(t.Context(), nil, strings.Fields(fmt.Sprintf(command, port))...)
		require.Equal(t, exitFailed, got.code)
		require.Contains(t, got.stderr, "it is a server without a cluster")
	}
}

func TestCanStopForEachReason(t *testing.T) {
	replica := func(sv *survey, node uint16) *wire.ReplicaStatus { return sv.replica(node) }
	for _, c := range []struct {
		name   string
		node   uint16
		change func(sv *survey)
		want   []string // nil: yes
	}{
		{"a follower", 2, nil, nil},
		{"the leader", 1, nil, nil},
		{"it is down already", 2, func(sv *survey) { down(sv, 2); replica(sv, 2).InSync = false }, nil},
		{"it is no voter, being removed", 3, func(sv *survey) {
			for _, n := range sv.nodes {
				n.status.Cluster.Voters = []uint16{1, 2}
			}
			sv.nodes[2].status.Role = roleRemoved
		}, nil},
		{"not known", 9, nil, []string{"node 9 is no node of this cluster"}},
		{"another one is down", 2, func(sv *survey) { down(sv, 3); replica(sv, 3).InSync = false }, []string{
			"node 3 does not answer: connection refused", "node 3 is not in sync: 0 records behind, heard of 360 ms ago",
			"1 of 3 voters would be left in sync, and an append needs 2"}},
		{"another one lags", 2, func(sv *survey) { replica(sv, 3).InSync = false; *replica(sv, 3).Lag = 5000 }, []string{
			"node 3 is not in sync: 5000 records behind, heard of 360 ms ago", "1 of 3 voters would be left in sync, and an append needs 2"}},
		{"nobody knows how another one is", 2, func(sv *survey) { replica(sv, 3).InSync = false; replica(sv, 3).Lag = nil }, []string{
			"node 3 is not in sync: by how much it is behind is not known", "1 of 3 voters would be left in sync, and an append needs 2"}},
		{"a large quorum", 2, func(sv *survey) { sv.leader.Cluster.Quorum = 3 }, []string{"2 of 3 voters would be left in sync, and an append needs 3"}},
		{"a change on the leader", 2, func(sv *survey) { sv.leader.Cluster.Changing = true }, []string{"a change of the membership is under way on node 1"}},
		{"a change on a follower", 2, func(sv *survey) { sv.nodes[2].status.Cluster.Changing = true }, []string{"a change of the membership is under way on node 3"}},
		{"a change on itself", 2, func(sv *survey) { sv.nodes[1].status.Cluster.Changing = true }, nil},
		{"an old membership", 2, func(sv *survey) { sv.nodes[2].status.Cluster.Voters = []uint16{1, 2} }, []string{
			"node 3 knows another membership (voters [1 2]) than the leader ([1 2 3])"}},
		{"another cluster", 2, func(sv *survey) { sv.nodes[2].status.Cluster.ID = "c2" }, []string{"node 3 is of another cluster, c2"}},
		{"another one joins", 2, func(sv *survey) { sv.nodes[2].status.Role = roleJoining }, []string{"node 3 is joining"}},
		{"another one has failed", 2, func(sv *survey) { sv.nodes[2].status.Failed = "disk" }, []string{"node 3 takes no appends until it is started again: disk"}},
		{"nobody leads", 2, func(sv *survey) { sv.leader = nil }, []string{"no node that answers leads"}},
		{"the leader has no replica", 2, func(sv *survey) { sv.leader.Cluster.Replicas = sv.leader.Cluster.Replicas[:1] }, []string{
			"the leader knows nothing of node 3", "1 of 3 voters would be left in sync, and an append needs 2"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			sv := fixed(c.change)
			require.Equal(t, c.want, sv.againstStopping(c.node))
			if c.want == nil {
				require.NotEmpty(t, sv.forStopping(c.node))
			}
		})
	}
}

func TestCanStopCommand(t *testing.T) {
	c := wiretest.StartCluster(t, 3)
	require.Equal(t, ok("yes: without node 2, 2 of 3 voters are in sync, and an append needs 2\n"), at(t, c.Nodes[1], "cluster can-stop", "2"))
	require.Equal(t, ok("yes: without node 1, 2 of 3 voters are in sync, and an append needs 2; it leads, and hands that over when it is stopped by SIGTERM\n"),
		at(t, c.Nodes[1], "cluster can-stop", "1"))
	c.ChangeStatus(func(node int, s *wire.Status) { s.Cluster.Changing = node == 3 })
	require.Equal(t, result{code: exitFailed, stdout: "no: a change of the membership is under way on node 3\n"}, at(t, c.Nodes[1], "cluster can-stop", "2"))
	require.Equal(t, result{code: exitFailed, stdout: `{"node":2,"can_stop":false,"reasons":["a change of the membership is under way on node 3"]}` + "\n"},
		at(t, c.Nodes[1], "cluster can-stop", "2 --json"))
	for _, args := range []string{"", "0", "two", "65535"} {
		require.Equal(t, exitUsage, at(t, c.Nodes[1], "cluster can-stop", args).code, args)
	}
	c.Nodes[1].Close()
	require.Equal(t, exitFailed, at(t, c.Nodes[1], "cluster can-stop", "2").code)
}

func TestChangesOfAClusterCommands(t *testing.T) {
	c := wiretest.StartCluster(t, 3)
	require.Equal(t, ok("node 3 leads\n"), at(t, c.Nodes[1], "cluster transfer", "3"))
	require.Equal(t, ok("{\"leader\":1}\n"), at(t, c.Nodes[1], "cluster transfer", "0 --json"))
	require.Equal(t, ok("node 3 is being removed\n"), at(t, c.Nodes[1], "cluster remove", "3"))
	require.Equal(t, ok("{\"node\":4}\n"), at(t, c.Nodes[1], "cluster allow", "4 --json"))
	got := at(t, c.Nodes[1], "cluster transfer", "9")
	require.Equal(t, result{exitFailed, "", "zue-client: transfer leadership by " + c.Nodes[0].Address() + ": change_refused: node 9 is no voter that is in sync\n" +
		"hint: \"zue-client status\" shows how the cluster is\n"}, got)

	c.Hook(func(_ int, f wire.Frame) *wiretest.Action { // it comes to nothing
		if f.Type == wire.TypeTransferRequest {
			return &wiretest.Action{Reply: wire.TransferResponse{Node: 2}.AppendTo(nil)}
		}
		return nil
	})
	got = at(t, c.Nodes[1], "cluster transfer", "2 --timeout 2s")
	require.Equal(t, exitFailed, got.code)
	require.Contains(t, got.stderr, "node 2 was to lead, and "+c.Nodes[1].Address()+" does not say so after 2s, but that node 1 does")
	for _, args := range []string{"cluster", "cluster status", "cluster remove 127.0.0.1 9000 0", "cluster allow 127.0.0.1 9000", "cluster verify 127.0.0.1 9000 --from 5 --to 5"} {
		got := runCommand(t.Context(), nil, strings.Fields(args)...)
		require.Equal(t, exitUsage, got.code, args)
		require.Contains(t, got.stderr, "127.0.0.1 9000", args)
	}
}

func TestVerifyFindsADifference(t *testing.T) {
	c := wiretest.StartCluster(t, 3)
	fill(c, 1000)
	require.Equal(t, ok("the same: nodes 1, 2, 3, at offsets 0 to 999\n"), at(t, c.Nodes[1], "cluster verify", ""))
	require.Equal(t, ok(`{"same":true,"from":100,"to":200,"nodes":[1,2,3],"not_compared":[]}`+"\n"),
		at(t, c.Nodes[1], "cluster verify", "--from 100 --to 200 --json"))
	for _, planted := range []uint64{0, 3, 4, 517, 998, 999} {
		c.Forge(2, planted)
		got := at(t, c.Nodes[0], "cluster verify", "")
		require.Equal(t, exitFailed, got.code)
		require.Empty(t, got.stderr)
		first := planted / 4 * 4 // of its entry
		require.Regexp(t, fmt.Sprintf(`^nodes 1, 2, 3 DIFFER from offset %d on \(compared were 0 to 999\)
  nodes 1, 3: entry %d of term 1, offsets %d to %d, chain [0-9a-f]{16}
  node 2: entry %d of term 1, offsets %d to %d, chain [0-9a-f]{16}
  keep the data directories`, first, planted/4+1, first, first+3, planted/4+1, first, first+3), got.stdout)
	}

	c.Forge(2, 517) // in the entry of 516 to 519
	got := at(t, c.Nodes[0], "cluster verify", "--json")
	var v verification
	require.NoError(t, json.Unmarshal([]byte(got.stdout), &v))
	require.EqualValues(t, 516, *v.Offset)
	require.Len(t, v.Places, 3)
	require.NotEqual(t, v.Places[0].Chain, v.Places[1].Chain)
	require.Equal(t, exitOK, at(t, c.Nodes[0], "cluster verify", "--to 516").code)
	require.Contains(t, at(t, c.Nodes[0], "cluster verify", "--from 600").stdout, "DIFFER from offset 600 on (compared were 600 to 999)\n  that is the first that was compared: they may differ before it\n")
}

// Nodes need not have the same: compared is what all have.
func TestVerifyOfWhatAllHave(t *testing.T) {
	c := wiretest.StartCluster(t, 4)
	fill(c, 100)
	c.ChangeStatus(func(node int, s *wire.Status) {
		s.FirstOffset, s.CommittedOffset = uint64(node)*10, 90-uint64(node)
		if node == 4 {
			s.Role = roleJoining
		}
	})
	got := at(t, c.Nodes[0], "cluster verify", "")
	require.Equal(t, result{exitOK, "the same: nodes 1, 2, 3, at offsets 30 to 86\n", "zue-client: node 4 was not compared: it is joining\n"}, got)
	require.Contains(t, at(t, c.Nodes[0], "cluster verify", "--to 5").stderr, "nothing to compare: node 1 has offsets from 10 to before 89, node 2 ")

	asked := 0
	c.Hook(func(node int, f wire.Frame) *wiretest.Action { // retention is faster
		if f.Type == wire.TypeChainRequest {
			if asked++; asked == 1 {
				return wiretest.Refuse(wire.CodeInvalidOffset, "before the first")
			}
		}
		return nil
	})
	require.Equal(t, exitOK, at(t, c.Nodes[0], "cluster verify", "").code)
	c.Nodes[2].Close()
	got = at(t, c.Nodes[0], "cluster verify", "")
	require.Equal(t, exitFailed, got.code, "one was not asked")
	require.Equal(t, "the same: nodes 1, 2, at offsets 20 to 87\n", got.stdout)
	require.Contains(t, got.stderr, "node 3 was not compared: connect to ")
	c.Nodes[1].Close()
	require.Contains(t, at(t, c.Nodes[0], "cluster verify", "").stderr, "nothing to compare: of 4 nodes, 1 have answered and take part")
}
