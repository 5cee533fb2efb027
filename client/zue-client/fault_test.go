package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zue-log/zue/client"
	"github.com/zue-log/zue/client/internal/wiretest"
	"github.com/zue-log/zue/net/wire"
)

// asCommand, in the environment, makes the test's program the command itself.
const asCommand = "ZUE_CLIENT_TEST_AS_COMMAND"

// Only a process of its own shows what a broken pipe does to standard output.
func TestBrokenPipeIsReported(t *testing.T) {
	program, err := os.Executable()
	require.NoError(t, err)
	s := wiretest.Start(t, wiretest.Options{})
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"k", "v"}, "the record is stored at offset 0, but that cannot be printed: "},
		{[]string{"--stdin"}, "all 2 lines are stored, at offsets 1 to 2, but that cannot be printed: "},
	} {
		stdout, output, err := os.Pipe()
		require.NoError(t, err)
		require.NoError(t, stdout.Close())
		cmd := exec.CommandContext(t.Context(), program, append([]string{"append", "127.0.0.1", s.Port()}, c.args...)...)
		cmd.Env = append(os.Environ(), asCommand+"=1")
		var stderr bytes.Buffer
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader("one\ntwo\n"), output, &stderr
		err = cmd.Run()
		require.NoError(t, output.Close())
		var exit *exec.ExitError
		require.ErrorAs(t, err, &exit)
		require.Equal(t, exitFailed, exit.ExitCode(), "%v", err)
		require.Contains(t, stderr.String(), c.want)
		require.Contains(t, stderr.String(), "broken pipe")
	}
}

// A server's text is shown, but does nothing to the terminal and ends in time.
func TestServerTextIsMadePrintable(t *testing.T) {
	text := "\x1b[2J\x1b]0;owned\x07\n5 lines are surely stored\r\x00\u009b\u202e\u2028ä\""
	s := wiretest.Start(t, wiretest.Options{Script: func(n int, f wire.Frame) *wiretest.Action {
		if n == 1 {
			return wiretest.Refuse(wire.CodeLogFull, strings.Repeat("long\n", 100_000))
		}
		return wiretest.Refuse(wire.CodeLogFull, text)
	}})
	got := runCommand(t.Context(), nil, "append", "127.0.0.1", s.Port(), "k", "v")
	require.Equal(t, result{exitFailed, "", "zue-client: append to " + s.Address() + ": surely not appended: log_full: " +
		`\x1b[2J\x1b]0;owned\a\n5 lines are surely stored\r\x00\u009b\u202e\u2028ä"` +
		"\nhint: make room on the server\n"}, got)
	got = runCommand(t.Context(), nil, "append", "127.0.0.1", s.Port(), "k", "v")
	require.Less(t, len(got.stderr), 5000)
	require.Contains(t, got.stderr, " bytes more)\nhint: make room on the server\n")
	got = appendLines(t, s, strings.NewReader("line\n"))
	require.Contains(t, got.stderr, `owned\a\n5 lines`)
	require.Contains(t, got.stderr, "\"\n0 lines are surely stored\nfrom line 1 on nothing is stored\nhint: ")

	require.Equal(t, `\xff`+"\ufffd"+`\x00`, printable("\xff\ufffd\x00"))
}

// terminal ends like a terminal: where a control-D was typed, and then goes on.
type terminal struct{ reads []string }

func (r *terminal) Read(b []byte) (int, error) {
	next := r.reads[0]
	r.reads = r.reads[1:]
	if next == "" {
		return 0, io.EOF
	}
	return copy(b, next), nil
}

func TestEndOfInputIsRemembered(t *testing.T) {
	r := newLineReader(&terminal{[]string{"typed\n", "half", "", "never read\n"}}, 100)
	for _, want := range []string{"typed", "half"} {
		line, _, err := r.next()
		require.NoError(t, err)
		require.Equal(t, want, string(line))
	}
	for range 2 {
		_, _, err := r.next()
		require.Equal(t, io.EOF, err)
	}
}

func TestHelpAboutNothingIsWrongUsage(t *testing.T) {
	for _, args := range [][]string{{"help", "nosuch"}, {"help", "append", "more"}, {"completion", "nosuch"}, {"completion"}} {
		got := runCommand(t.Context(), nil, args...)
		require.Equal(t, exitUsage, got.code, args)
		require.Empty(t, got.stdout)
		require.Contains(t, got.stderr, "there are "+commands)
		require.Contains(t, got.stderr, "127.0.0.1 9000", "an example")
	}
	require.Equal(t, runCommand(t.Context(), nil, "--help"), runCommand(t.Context(), nil, "help"))
	require.Equal(t, runCommand(t.Context(), nil, "append", "--help"), runCommand(t.Context(), nil, "help", "append"))
	require.Contains(t, runCommand(t.Context(), nil, "help", "append").stdout, "Without it, -h and --help print this help")
}

// The server dies while standard input, like that of tail -f, has no more to give: what
// comes after that cannot be stored.
func TestLostConnectionWhileWaitingForInput(t *testing.T) {
	appended := make(chan struct{}, 1)
	s := wiretest.Start(t, wiretest.Options{Script: func(int, wire.Frame) *wiretest.Action {
		appended <- struct{}{}
		return nil
	}})
	stdin, source, err := os.Pipe()
	require.NoError(t, err)
	defer stdin.Close()
	defer source.Close() // only at the end: the command waits for more
	got := make(chan result, 1)
	go func() { got <- runCommand(t.Context(), stdin, "append", "127.0.0.1", s.Port(), "--stdin") }()
	_, err = source.WriteString("one\n")
	require.NoError(t, err)
	<-appended
	s.Close() // after the answer, or before it
	_, err = source.WriteString("two\n")
	require.NoError(t, err)
	select {
	case r := <-got:
		require.Equal(t, exitFailed, r.code)
		require.Empty(t, r.stdout)
		require.Contains(t, r.stderr, ": append to "+s.Address()+": ")
		require.Contains(t, r.stderr, "appended: ")
		require.Contains(t, r.stderr, "on nothing is stored\nhint: is ")
	case <-time.After(20 * time.Second):
		t.Fatal("it still waits for input")
	}
}

func TestStoppedMidwayPrintsJSON(t *testing.T) {
	for name, c := range map[string]struct {
		script func(n int) *wiretest.Action
		stdin  io.Reader
		want   string
	}{
		"refused": {
			func(n int) *wiretest.Action {
				if n < 2 {
					return nil
				}
				return wiretest.Refuse(wire.CodeLogFull, "")
			}, strings.NewReader("1\n2\n3\n"),
			`{"records":2,"first_offset":0,"last_offset":1,"unknown_from_line":null,"unknown_to_line":null}`,
		},
		"unknown": {
			func(n int) *wiretest.Action {
				refusal := wiretest.Refuse(wire.CodeReplicationTimeout, "").Reply
				switch n {
				case 0:
					return nil
				case 1: // not before the next line has come, too
					return &wiretest.Action{Ignore: true}
				}
				return &wiretest.Action{Reply: append(refusal, refusal...)}
			}, strings.NewReader("1\n2\n3"),
			`{"records":1,"first_offset":0,"last_offset":0,"unknown_from_line":2,"unknown_to_line":3}`,
		},
		"nothing": {
			func(int) *wiretest.Action { return wiretest.Refuse(wire.CodeLogFull, "") }, strings.NewReader("1\n"),
			`{"records":0,"first_offset":null,"last_offset":null,"unknown_from_line":null,"unknown_to_line":null}`,
		},
		"input": {
			func(int) *wiretest.Action { return nil },
			io.MultiReader(strings.NewReader("1\nhalf"), iotest.ErrReader(errors.New("tape torn"))),
			`{"records":1,"first_offset":0,"last_offset":0,"unknown_from_line":null,"unknown_to_line":null}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := wiretest.Start(t, wiretest.Options{Script: func(n int, _ wire.Frame) *wiretest.Action { return c.script(n) }})
			got := appendLines(t, s, c.stdin, "--json")
			require.Equal(t, exitFailed, got.code)
			require.Equal(t, c.want+"\n", got.stdout)
			require.Contains(t, got.stderr, "surely stored")
			require.Contains(t, got.stderr, "on nothing is stored\n")
		})
	}
}

func TestMidwayResultThatCannotBePrinted(t *testing.T) {
	s := wiretest.Start(t, wiretest.Options{Script: func(int, wire.Frame) *wiretest.Action {
		return wiretest.Refuse(wire.CodeLogFull, "")
	}})
	var stderr bytes.Buffer
	args := []string{"append", "127.0.0.1", s.Port(), "--stdin", "--json"}
	require.Equal(t, exitFailed, run(t.Context(), args, strings.NewReader("line"), brokenWriter{}, &stderr))
	require.Contains(t, stderr.String(), "log_full; and the result cannot be printed: disk full\n0 lines are surely stored\n")
}

func TestTallyTellsWhatMayBeStored(t *testing.T) {
	var tally tally
	for i, err := range []error{nil, client.ErrNotApplied, nil, client.ErrNotApplied} {
		tally.add(uint64(i), 1, err)
	}
	// Nobody is told which of them is stored, so it is unknown to the reader.
	from, to := tally.maybe()
	require.Equal(t, [2]uint64{2, 3}, [2]uint64{from, to})
}

// timedWriter notes when it is first written to.
type timedWriter struct {
	bytes.Buffer
	first time.Time
}

func (w *timedWriter) Write(p []byte) (int, error) {
	if w.first.IsZero() {
		w.first = time.Now()
	}
	return w.Buffer.Write(p)
}

// WriteString hides the buffer's own, which notes nothing.
func (w *timedWriter) WriteString(s string) (int, error) { return w.Write([]byte(s)) }

func TestFirstProgressBarHasARate(t *testing.T) {
	for size, want := range map[int64]string{-1: "50 records/s", 1_000_000: "5.0 MB/s"} {
		synctest.Test(t, func(t *testing.T) {
			var out timedWriter
			started := time.Now()
			p := drawProgress(&out, size, func() tally { return tally{stored: 5, bytes: 500_000} })
			<-time.After(progressInterval * 3 / 2)
			p.stop()
			require.Equal(t, progressInterval, out.first.Sub(started))
			require.Contains(t, out.String(), want)
		})
	}
}
