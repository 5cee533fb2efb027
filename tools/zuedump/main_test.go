package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zue-log/zue/storage"
	"github.com/zue-log/zue/storage/batch"
	"github.com/zue-log/zue/storage/executor"
)

var update = flag.Bool("update", false, "write the golden files anew")

// makeLog makes the same log at each call: two segments, with records of all sorts.
func makeLog(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	ex := executor.NewManual(time.UnixMilli(1_700_000_000_000))
	l, err := storage.Open(dir, storage.Options{SegmentBytes: storage.MinSegmentBytes, IndexInterval: 1024, Executor: ex})
	require.NoError(t, err)
	require.NoError(t, l.SetState([]byte("term 1")))
	add := func(records ...storage.Record) {
		_, err := l.Append(records...)
		require.NoError(t, err)
		ex.Advance(10 * time.Millisecond)
	}
	add(storage.Record{Key: []byte("user:1"), Value: []byte("signed up"), Headers: []storage.RecordHeader{{Key: []byte("from"), Value: []byte("web")}}})
	add(storage.Record{Key: []byte("user:1"), Value: []byte("logged in")}, storage.Record{Timestamp: 1_700_000_001_000, Key: nil, Value: []byte{0, 1, 0xff}},
		storage.Record{Key: []byte{}, Value: nil})
	text := bytes.Repeat([]byte("the same words, "), 20)
	body, err := batch.AppendCompressed(nil, []batch.Record{{Timestamp: 1_700_000_000_500, Key: []byte("c"), Value: text}, {Timestamp: 1_700_000_000_600, Value: text}}, 0, batch.CodecSnappy)
	require.NoError(t, err)
	_, err = l.AppendBatch(body, batch.Checksum(body)).Wait()
	require.NoError(t, err)
	_, err = l.AppendEntries(storage.NewEntry(4, 2, storage.KindControl, []byte("leader 3"))).Wait()
	require.NoError(t, err)
	for i := range 5 {
		add(storage.Record{Key: []byte("big"), Value: bytes.Repeat([]byte{byte('a' + i)}, 4000)})
	}
	require.NoError(t, l.Close())
	return dir
}

// edit changes a file.
func edit(t *testing.T, path string, change func(b []byte)) {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	change(b)
	require.NoError(t, os.WriteFile(path, b, 0o644))
}

func zuedump(args ...string) (status int, stdout, stderr string) {
	var out, errs bytes.Buffer
	status = run(context.Background(), args, &out, &errs)
	return status, out.String(), errs.String()
}

const (
	first  = "00000000000000000000.log"
	second = "00000000000000000009.log"
)

// TestGolden compares what is printed with testdata/<name>.txt.
func TestGolden(t *testing.T) {
	for _, c := range []struct {
		name   string
		status int
		file   string // in the directory; "" is the directory
		args   []string
		damage func(t *testing.T, dir string)
	}{
		{name: "entries"},
		{name: "records", args: []string{"--records"}},
		{name: "range", args: []string{"--full", "--from", "2", "--to", "4"}},
		{name: "file", file: second},
		{name: "index", args: []string{"--index"}},
		{name: "state", args: []string{"--state"}},
		{name: "check", args: []string{"--check"}},
		{name: "json", args: []string{"--json", "--records"}},
		{name: "json-check", args: []string{"--json", "--check"}},
		{name: "json-index", args: []string{"--json", "--index", "--state"}},
		{name: "corrupt-value", status: 1, damage: func(t *testing.T, dir string) {
			edit(t, filepath.Join(dir, first), func(b []byte) { b[5000] = 'X' })
		}},
		{name: "corrupt-field", status: 1, args: []string{"--check"}, damage: func(t *testing.T, dir string) {
			edit(t, filepath.Join(dir, first), func(b []byte) { b[64+8] = 7 })
		}},
		{name: "corrupt-sector", status: 1, args: []string{"--check"}, damage: func(t *testing.T, dir string) {
			edit(t, filepath.Join(dir, second), func(b []byte) { clear(b[512:1024]) })
		}},
		{name: "corrupt-json", status: 1, args: []string{"--json", "--check"}, damage: func(t *testing.T, dir string) {
			edit(t, filepath.Join(dir, second), func(b []byte) { clear(b[512:1024]) })
		}},
		{name: "torn", file: second, args: []string{"--check"}, damage: func(t *testing.T, dir string) {
			edit(t, filepath.Join(dir, second), func(b []byte) { clear(b[4608:]) })
		}},
		{name: "missing", status: 1, args: []string{"--check"}, damage: func(t *testing.T, dir string) {
			require.NoError(t, os.Remove(filepath.Join(dir, first)))
		}},
		{name: "gone", status: 1, args: []string{"--check"}, damage: func(t *testing.T, dir string) {
			require.NoError(t, os.Remove(filepath.Join(dir, second)))
		}},
		{name: "header", status: 1, args: []string{"--check"}, damage: func(t *testing.T, dir string) {
			edit(t, filepath.Join(dir, first), func(b []byte) { b[58] ^= 1 })
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := makeLog(t)
			if c.damage != nil {
				c.damage(t, dir)
			}
			status, stdout, stderr := zuedump(append(c.args, filepath.Join(dir, c.file))...)
			require.Equal(t, c.status, status, stderr)
			require.Equal(t, c.status == 0, stderr == "", stderr)
			got := strings.ReplaceAll(stdout, dir, "data")
			golden := filepath.Join("testdata", c.name+".txt")
			if *update {
				require.NoError(t, os.MkdirAll("testdata", 0o755))
				require.NoError(t, os.WriteFile(golden, []byte(got), 0o644))
			}
			want, err := os.ReadFile(golden)
			require.NoError(t, err)
			require.Equal(t, string(want), got)
			if len(c.args) > 0 && c.args[0] == "--json" {
				for line := range strings.Lines(stdout) {
					require.True(t, json.Valid([]byte(line)), line)
				}
			}
		})
	}
}

func TestUsage(t *testing.T) {
	dir := makeLog(t)
	for _, args := range [][]string{
		{},
		{dir, dir},
		{""},
		{"--no-such-flag", dir},
		{"--from", "5", "--to", "4", dir},
		{"--from", "x", dir},
		{"--check", "--records", dir},
		{"--check", "--index", dir},
		{"--state", filepath.Join(dir, first)},
	} {
		status, stdout, stderr := zuedump(args...)
		require.Equal(t, exitUsage, status, args)
		require.Empty(t, stdout)
		require.Contains(t, stderr, "Usage:")
	}
	status, stdout, stderr := zuedump(filepath.Join(dir, "none"))
	require.Equal(t, exitFailed, status)
	require.Empty(t, stdout)
	require.Contains(t, stderr, "none")
	status, stdout, _ = zuedump("--help")
	require.Equal(t, exitOK, status)
	require.Contains(t, stdout, "durable_mark")
}

// closedPipe takes some bytes and then no more.
type closedPipe struct{ left int }

func (c *closedPipe) Write(p []byte) (int, error) {
	if c.left -= len(p); c.left < 0 {
		return 0, &os.PathError{Op: "write", Path: "|1", Err: syscall.EPIPE}
	}
	return len(p), nil
}

func TestClosedPipe(t *testing.T) {
	dir := makeLog(t)
	for _, args := range [][]string{{"--full", dir}, {"--json", "--full", dir}, {"--check", dir}} {
		var stderr bytes.Buffer
		require.Equal(t, exitOK, run(context.Background(), args, &closedPipe{}, &stderr), args)
		require.Empty(t, stderr.String())
	}
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errors.New("disk is full") }

func TestOutputFails(t *testing.T) {
	var stderr bytes.Buffer
	require.Equal(t, exitFailed, run(context.Background(), []string{makeLog(t)}, fullDisk{}, &stderr))
	require.Contains(t, stderr.String(), "disk is full")
}

func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var stdout, stderr bytes.Buffer
	require.Equal(t, exitFailed, run(ctx, []string{makeLog(t)}, &stdout, &stderr))
	require.Contains(t, stderr.String(), "interrupted")
}
