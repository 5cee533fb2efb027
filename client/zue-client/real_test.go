package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	zueserver "github.com/zue-log/zue/server"
	"github.com/zue-log/zue/storage"
	"github.com/zue-log/zue/tests/programs"
)

// startServer serves a log on a port until the test ends.
func startServer(t testing.TB) (port string, log *storage.Log) {
	t.Helper()
	return startServerOf(t, storage.Options{Sync: storage.SyncNever()})
}

// startServerOf is startServer with options of the log.
func startServerOf(t testing.TB, opts storage.Options) (port string, log *storage.Log) {
	t.Helper()
	log, err := storage.Open(t.TempDir(), opts)
	require.NoError(t, err)
	s, err := zueserver.New(log, zueserver.Options{Sync: storage.SyncNever()})
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		require.NoError(t, s.Shutdown(context.Background()))
		require.ErrorIs(t, <-served, zueserver.ErrStopped)
		require.NoError(t, log.Close())
	})
	_, port, err = net.SplitHostPort(l.Addr().String())
	require.NoError(t, err)
	return port, log
}

func appendValues(t testing.TB, log *storage.Log, values ...string) {
	t.Helper()
	for _, v := range values {
		_, err := log.Append(storage.Record{Value: []byte(v)})
		require.NoError(t, err)
	}
}

func TestReadRange(t *testing.T) {
	port, log := startServer(t)
	appendValues(t, log, "a", "b", "c", "d")
	for args, want := range map[string]string{
		"--from 0":                     "a\nb\nc\nd\n",
		"--from 1 --to 3":              "b\nc\n",
		"--from 1 --to 99 --raw":       "bcd",
		"--from 3 --json":              `{"offset":3,"key":null,"value":"d"}` + "\n",
		"--from 2 --to 2":              "",
		"--from 4":                     "",
		"--from 0 --to 0 --timeout 9s": "",
	} {
		got := runCommand(t.Context(), nil, append([]string{"read", "127.0.0.1", port}, strings.Fields(args)...)...)
		require.Equal(t, ok(want), got, args)
	}
	got := runCommand(t.Context(), nil, "read", "127.0.0.1", port, "--from", "9")
	require.Equal(t, exitFailed, got.code)
	require.Contains(t, got.stderr, "fetch offset 9 from 127.0.0.1:"+port+": invalid_offset")
	for _, args := range [][]string{{"0", "--to", "3"}, {"0", "--from", "3"}, {"--from", "x"}, {"--from", "0", "--raw", "--json"}} {
		require.Equal(t, exitUsage, runCommand(t.Context(), nil, append([]string{"read", "h", "1"}, args...)...).code, args)
	}
	var stderr bytes.Buffer
	require.Equal(t, exitFailed, run(t.Context(), []string{"read", "127.0.0.1", port, "--from", "0"}, nil, brokenWriter{}, &stderr))
	require.Contains(t, stderr.String(), "disk full")
}

// What is not there is told by where the log is.
func TestHintsOfOffsets(t *testing.T) {
	port, log := startServerOf(t, storage.Options{Sync: storage.SyncNever(), SegmentBytes: storage.MinSegmentBytes})
	empty, _ := startServer(t)
	segment := strings.Repeat("x", storage.MinSegmentBytes)
	appendValues(t, log, segment, segment, segment, "d")
	// A segment is done with in the background, and can go only then.
	require.Eventually(t, func() bool {
		require.NoError(t, log.TruncatePrefix(3))
		return log.FirstOffset() > 0
	}, time.Minute, time.Millisecond)
	first := log.FirstOffset()
	removed := fmt.Sprintf("hint: older records were removed by retention; the log begins at %d\n", first)
	later := func(port string, end int) string {
		return fmt.Sprintf("hint: it is not appended yet; the next record gets offset %d, and \"zue-client tail 127.0.0.1 %s --from %d\" waits for it\n", end, port, end)
	}
	for _, c := range []struct{ command, port, args, want string }{
		{"read", port, "0", removed},
		{"read", port, "--from 0 --to 1", removed},
		{"tail", port, "--from 0", removed},
		{"read", port, "4", later(port, 4)},
		{"read", port, "18446744073709551615", later(port, 4)},
		{"read", port, "--from 9", later(port, 4)},
		{"tail", port, "--from 9", later(port, 4)},
		{"read", empty, "0", later(empty, 0)},
	} {
		t.Run(c.command+" "+c.args, func(t *testing.T) {
			got := runCommand(t.Context(), nil, append([]string{c.command, "127.0.0.1", c.port}, strings.Fields(c.args)...)...)
			require.Equal(t, exitFailed, got.code)
			require.Empty(t, got.stdout)
			require.Contains(t, got.stderr, "invalid_offset: ")
			require.True(t, strings.HasSuffix(got.stderr, c.want), got.stderr)
		})
	}
}

// closedPipe is standard output whose reader has gone.
type closedPipe struct{}

func (closedPipe) Write([]byte) (int, error) {
	return 0, &os.PathError{Op: "write", Path: "/dev/stdout", Err: syscall.EPIPE}
}

// Who has read enough, as head, is told nothing.
func TestReaderGoesAway(t *testing.T) {
	port, log := startServer(t)
	appendValues(t, log, "a", "b")
	for _, args := range []string{
		"read 0", "read --from 0", "tail --from 0", "status", "bench --work read --clients 1 --duration 1ms",
	} {
		words := strings.Fields(args)
		words = append([]string{words[0], "127.0.0.1", port}, words[1:]...)
		var stderr bytes.Buffer
		require.Equal(t, exitPipe, run(t.Context(), words, nil, closedPipe{}, &stderr), "%s: %s", args, &stderr)
		require.Empty(t, stderr.String(), args)
	}
}

func TestTailCommand(t *testing.T) {
	port, log := startServer(t)
	appendValues(t, log, "a", "b")
	require.Equal(t, ok("a\nb\n"), runCommand(t.Context(), nil, "tail", "127.0.0.1", port, "--from", "0", "--count", "2"))

	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	var stdout, stderr programs.Output
	code := make(chan int)
	go func() { code <- run(ctx, []string{"tail", "127.0.0.1", port, "--from", "1"}, nil, &stdout, &stderr) }()
	shows := func(want string) {
		require.Eventually(t, func() bool { return stdout.String() == want }, time.Minute, time.Millisecond)
	}
	shows("b\n")
	appendValues(t, log, "c")
	shows("b\nc\n")
	interrupt()
	require.Equal(t, exitOK, <-code)
	require.Empty(t, stderr.String())

	// Without --from it begins at the end: it has asked for that when this has been read.
	asked := make(chan int)
	go func() {
		asked <- run(t.Context(), []string{"tail", "127.0.0.1", port, "--count", "1", "--json"}, nil, &stdout, io.Discard)
	}()
	for i := 3; ; i++ {
		appendValues(t, log, fmt.Sprint("n", i))
		select {
		case c := <-asked:
			require.Equal(t, exitOK, c)
			require.Contains(t, stdout.String(), `{"offset":`)
			return
		case <-time.After(time.Millisecond):
		}
	}
}

func TestStatusCommand(t *testing.T) {
	port, log := startServer(t)
	appendValues(t, log, "a", "b")
	got := runCommand(t.Context(), nil, "status", "127.0.0.1", port)
	require.Equal(t, exitOK, got.code, got.stderr)
	require.Regexp(t, `(?m)^server +127\.0\.0\.1:`+port+`$`, got.stdout)
	require.Regexp(t, `(?m)^role +standalone$`, got.stdout)
	require.Regexp(t, `(?m)^records +2 \(offset 0 to before 2\)$`, got.stdout)
	require.Regexp(t, `(?m)^sync +never: an acknowledged record survives a crash of the server`, got.stdout)
	got = runCommand(t.Context(), nil, "status", "127.0.0.1", port, "--json")
	var members map[string]any
	require.NoError(t, json.Unmarshal([]byte(got.stdout), &members))
	require.EqualValues(t, 2, members["end_offset"])
	require.Equal(t, exitUsage, runCommand(t.Context(), nil, "status", "127.0.0.1").code)
}

// Lines in batches, as without --batch-bytes.
func TestStdinInBatches(t *testing.T) {
	port, log := startServer(t)
	input := strings.Repeat("line\n", 10_000)
	require.Equal(t, ok("0 9999\n"), runCommand(t.Context(), strings.NewReader(input), "append", "127.0.0.1", port, "--stdin"))
	require.EqualValues(t, 10_000, log.EndOffset())
	require.Less(t, log.Metrics().LastIndex, uint64(5000))
	got := runCommand(t.Context(), nil, "append", "127.0.0.1", port, "--stdin", "--batch-bytes", "0")
	require.Equal(t, exitUsage, got.code)
}

func TestBenchCommand(t *testing.T) {
	port, log := startServer(t)
	got := runCommand(t.Context(), nil, "bench", "127.0.0.1", port, "--work", "read")
	require.Equal(t, exitFailed, got.code)
	require.Contains(t, got.stderr, "the log is empty")
	for _, args := range []string{
		"--clients 2 --pipeline 3", "--work produce --clients 2 --pipeline 4", "--work read --clients 2", "--rate 500 --clients 2",
		"--work produce --rate 5000 --clients 1",
	} {
		before := log.EndOffset()
		args := append([]string{"bench", "127.0.0.1", port, "--duration", "100ms", "--json"}, strings.Fields(args)...)
		got := runCommand(t.Context(), nil, args...)
		require.Equal(t, exitOK, got.code, got.stderr)
		var result struct {
			Operations uint64             `json:"operations"`
			Failed     uint64             `json:"failed"`
			Micros     map[string]float64 `json:"latency_us"`
		}
		require.NoError(t, json.Unmarshal([]byte(got.stdout), &result), got.stdout)
		require.Positive(t, result.Operations, args)
		require.Zero(t, result.Failed)
		require.Positive(t, result.Micros["p99.9"])
		if !strings.Contains(strings.Join(args, " "), "read") {
			require.Equal(t, result.Operations, log.EndOffset()-before)
		}
	}
	got = runCommand(t.Context(), nil, "bench", "127.0.0.1", port, "--duration", "50ms", "--clients", "1")
	require.Regexp(t, `(?m)^rate +\d+ a second`, got.stdout)
	got = runCommand(t.Context(), nil, "bench", "127.0.0.1", port, "--work", "dance", "--clients", "0")
	require.Equal(t, exitUsage, got.code)
	require.Contains(t, got.stderr, "dance")
	require.Contains(t, got.stderr, "--clients")
}
