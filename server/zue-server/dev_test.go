package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/zue-log/zue/client"
	"github.com/zue-log/zue/tests/programs"
)

// runDev runs dev until it serves, has use do something, and stops it. It returns what was
// printed.
func runDev(t *testing.T, use func(), args ...string) string {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	r, w := io.Pipe()
	var stderr bytes.Buffer
	code := make(chan int, 1)
	go func() {
		code <- run(ctx, append([]string{"dev"}, args...), w, &stderr)
		_ = w.Close()
	}()
	var out strings.Builder
	for lines := bufio.NewScanner(r); lines.Scan(); {
		out.WriteString(lines.Text() + "\n")
		if strings.HasPrefix(lines.Text(), "Ctrl-C") {
			use()
			stop()
		}
	}
	require.Zero(t, <-code, stderr.String())
	return out.String()
}

func TestDev(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	t.Setenv("BUILD_WORKING_DIRECTORY", "")
	port := programs.FreePorts(t, 3)[0]
	out := runDev(t, func() {
		// A client of any node appends, and another node has it.
		c, err := client.Dial(t.Context(), []string{net.JoinHostPort("127.0.0.1", strconv.Itoa(port+2))}, client.Options{})
		require.NoError(t, err)
		defer c.Close()
		offset, err := c.Append(t.Context(), nil, []byte("mine"))
		require.NoError(t, err)
		require.EqualValues(t, 1, offset)
		require.NoError(t, readAt(t.Context(), net.JoinHostPort("127.0.0.1", strconv.Itoa(port+1)), 1, "mine"))
	}, "--port", strconv.Itoa(port))
	require.Contains(t, out, "offset 0, after")
	require.Contains(t, out, "Read it back from each of the 3 nodes.")
	require.Equal(t, 1, strings.Count(out, "  leader "))
	require.Equal(t, 2, strings.Count(out, "  follower "))
	require.Contains(t, out, "zue-client append 127.0.0.1 "+strconv.Itoa(port)+" user-17")
	left, err := os.ReadDir(os.Getenv("TMPDIR"))
	require.NoError(t, err)
	require.Empty(t, left, "the data was to be removed")
}

func TestDevKeepsItsDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cluster")
	port := strconv.Itoa(programs.FreePorts(t, 1)[0])
	require.Contains(t, runDev(t, func() {}, "--port", port, "--dir", dir, "--nodes", "1"), "offset 0, after")
	require.Contains(t, runDev(t, func() {}, "--dir", dir), "offset 1, after", "with the ports of its cluster.conf")

	var stdout, stderr bytes.Buffer
	require.Equal(t, exitFailed, run(t.Context(), []string{"dev", "--dir", dir, "--nodes", "2"}, &stdout, &stderr))
	require.Contains(t, stderr.String(), "has 1 nodes, not the 2 of --nodes")
}

func TestDevFaults(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	var stdout, stderr bytes.Buffer
	require.Equal(t, exitUsage, run(t.Context(), []string{"dev", "--nodes", "10", "--port", "0", "--sync", "often", "--log-level", "all"}, &stdout, &stderr))
	for _, flag := range []string{"--nodes", "--port", "--sync", "--log-level"} {
		require.Contains(t, stderr.String(), flag+": ")
	}
	stderr.Reset()
	require.Equal(t, exitUsage, run(t.Context(), []string{"dev", "9001"}, &stdout, &stderr))
	require.Contains(t, stderr.String(), "takes no arguments")

	l := programs.Listen(t)
	defer l.Close()
	stderr.Reset()
	port := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	require.Equal(t, exitFailed, run(t.Context(), []string{"dev", "--nodes", "1", "--port", port}, &stdout, &stderr))
	require.Contains(t, stderr.String(), "another program has port "+port)
	left, err := os.ReadDir(os.Getenv("TMPDIR"))
	require.NoError(t, err)
	require.Empty(t, left)
}
