package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/zue-log/zue/replication/conf"
	"github.com/zue-log/zue/tests/programs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// write makes a file and returns its name.
func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// refused runs the program with arguments that it must refuse, and returns what it says.
func refused(t *testing.T, code int, args ...string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	require.Equal(t, code, run(t.Context(), args, &stdout, &stderr), "%s", &stderr)
	require.Empty(t, stdout.String())
	text, _, _ := strings.Cut(stderr.String(), "\n\nUsage:")
	return strings.TrimSuffix(text, "\n")
}

const threeNodes = `node 1 127.0.0.1 9001 leader
node 2 127.0.0.1 9002 follower
node 3 127.0.0.1 9003 follower
`

func TestClusterUsage(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	good, bad := write(t, "cluster.conf", threeNodes), write(t, "bad.conf", "node 1 127.0.0.1 99999 leader\nnode 1 127.0.0.1 9002 leader\nfoo 3\n")
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"9001", dir, good}, "zue-server: expected 2 arguments, a port and a data directory, or 4, with cluster.conf and a node number, not 3"},
		{[]string{"9005", dir, good, "1"}, "zue-server: port 9005 is not that of node 1 in " + good + ", which is 9001: other nodes and clients go by the file, so give the same in both places"},
		{[]string{"0", dir, good, "1"}, "zue-server: port 0 is not that of node 1 in " + good + ", which is 9001: other nodes and clients go by the file, so give the same in both places"},
		{[]string{"9001", dir, good, "7"}, "zue-server: node 7 is not in " + good + ", which has nodes 1, 2 and 3"},
		{[]string{"9001", dir, good, "one"}, `zue-server: node "one" is not a number from 1 to 65534`},
		{[]string{"x", dir, bad, "0"}, `zue-server: port "x" is not a number from 0 to 65535
` + bad + `:1: port "99999": want a number from 1 to 65535
` + bad + `:2: node 1 is on line 1 already
` + bad + `:2: the leader is on line 1 already
` + bad + `:3: "foo" is none of node, quorum, timeout, max_lag, heartbeat, election and election_timeout
node "0" is not a number from 1 to 65534`},
		{[]string{"9001", dir, bad + "x", "1"}, "zue-server: read the cluster's configuration: open " + bad + "x: no such file or directory"},
		{[]string{"9001", dir, "--cluster-secret-file", good}, "zue-server: --cluster-secret-file: only a cluster's node has a secret: give it a cluster.conf and a node number"},
		{[]string{"9001", dir, "--catch-up-rate=1MiB"}, "zue-server: --catch-up-rate: only a cluster's node has others catch up: give it a cluster.conf and a node number"},
		{[]string{"9001", dir, good, "1", "--cluster-secret-file="}, "zue-server: --cluster-secret-file: the file's name is empty"},
		{[]string{"9001", dir, good, "1", "--listen="}, "zue-server: --listen: the address is empty; 0.0.0.0 is all"},
	} {
		require.Equal(t, c.want, refused(t, exitUsage, c.args...))
	}
	require.NoDirExists(t, dir)
}

func TestSecretFile(t *testing.T) {
	c := config{cluster: &membership{}, secretFile: write(t, "secret", " \n")}
	require.ErrorContains(t, c.readSecret(), "is empty")
	c.secretFile = write(t, "secret", "a secret\n")
	require.NoError(t, c.readSecret())
	require.Equal(t, "a secret", string(c.cluster.secret))
	require.Empty(t, c.warnings)
	require.NoError(t, os.Chmod(c.secretFile, 0o644))
	require.NoError(t, c.readSecret())
	require.Len(t, c.warnings, 1)
	require.Contains(t, c.warnings[0], "everybody on this machine may use it")
	c.secretFile += "x"
	require.Error(t, c.readSecret())
}

// TestListenHost has the node listen where cluster.conf says that it is, or not at all.
func TestListenHost(t *testing.T) {
	listens := func(host, others string) (string, error) {
		parsed, err := conf.Parse([]byte("node 1 " + host + " 9001 leader\n" + others))
		require.NoError(t, err)
		c := config{cluster: &membership{path: "cluster.conf", conf: parsed, self: 1}}
		return c.listenHost(t.Context())
	}
	for host, want := range map[string]string{"127.0.0.1": "127.0.0.1", "127.0.0.2": "127.0.0.2", "0.0.0.0": "0.0.0.0", "localhost": "127.0.0.1"} {
		got, err := listens(host, "")
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	_, err := listens("192.0.2.1", "") // for documentation: no machine has it
	require.ErrorContains(t, err, "which is no address of this machine")
	require.ErrorContains(t, err, "--listen")
	_, err = listens("nobody.invalid", "")
	require.ErrorContains(t, err, "cannot be looked up")
	addrs, err := ownAddresses()
	require.NoError(t, err)
	for addr := range addrs {
		got, err := listens(addr, "")
		require.NoError(t, err)
		require.Equal(t, addr, got)
	}
	if name, err := os.Hostname(); err == nil {
		if ips, err := net.DefaultResolver.LookupNetIP(t.Context(), "ip", name); err == nil && len(ips) == 1 && ips[0].IsLoopback() && name != "localhost" {
			_, err = listens(name, "node 2 192.0.2.1 9002 follower\n")
			require.ErrorContains(t, err, "where no other machine gets")
		}
	}
}

// TestClusterProgram runs a cluster's three programs until they have a leader, and refuses them
// what is not theirs.
func TestClusterProgram(t *testing.T) {
	var text strings.Builder
	ports := programs.FreePorts(t, 3)
	for i := range 3 {
		fmt.Fprintf(&text, "node %d 127.0.0.1 %d %s\n", i+1, ports[i], []string{"leader", "follower", "follower"}[i])
	}
	path, secret, dir := write(t, "cluster.conf", text.String()), write(t, "secret", "secret"), t.TempDir()
	args := func(i int) []string {
		return []string{fmt.Sprint(ports[i]), filepath.Join(dir, fmt.Sprint(i+1)), path, fmt.Sprint(i + 1), "--cluster-secret-file", secret, "--segment-size=1MiB"}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	var running sync.WaitGroup
	var logs [3]programs.Output
	var codes [3]int
	for i := range 3 {
		running.Go(func() { codes[i] = run(ctx, args(i), &bytes.Buffer{}, &logs[i]) })
	}
	for deadline := time.Now().Add(30 * time.Second); !strings.Contains(logs[0].String(), "role=leader"); <-time.After(5 * time.Millisecond) {
		require.True(t, time.Now().Before(deadline), "%s", &logs[0])
	}
	require.Contains(t, logs[0].String(), fmt.Sprintf("msg=listening address=127.0.0.1:%d node=1", ports[0]))
	cancel(errors.New("the test is done"))
	running.Wait()
	for i := range 3 {
		require.Zero(t, codes[i], "%s", &logs[i])
		require.Contains(t, logs[i].String(), `msg=stopping why="the test is done"`)
		require.Contains(t, logs[i].String(), "msg=stopped")
	}

	require.Contains(t, refused(t, exitFailed, "0", filepath.Join(dir, "1")), "is that of node 1 of cluster")
	other := args(1)
	other[1] = filepath.Join(dir, "1")
	require.Contains(t, refused(t, exitFailed, other...), "not of node 2: give each node a directory of its own")
}
