package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zue-log/zue/client"
	"github.com/zue-log/zue/client/internal/wiretest"
	"github.com/zue-log/zue/net/wire"
)

// appendLines appends each line by itself, so that a test says what becomes of which.
func appendLines(t *testing.T, s *wiretest.Server, stdin io.Reader, flags ...string) result {
	t.Helper()
	return runCommand(t.Context(), stdin, append([]string{"append", "127.0.0.1", s.Port(), "--stdin", "--batch-bytes", "1"}, flags...)...)
}

func values(s *wiretest.Server) []string {
	var values []string
	for _, r := range s.Records() {
		values = append(values, string(r.Value))
	}
	return values
}

func TestStdinAppendsEveryLine(t *testing.T) {
	for _, c := range []struct {
		name, input string
		want        []string
		plain, json string
	}{
		{"empty", "", nil, "", `{"records":0,"first_offset":null,"last_offset":null}`},
		{"one", "one\n", []string{"one"}, "0 0\n", `{"records":1,"first_offset":0,"last_offset":0}`},
		{"no line feed at the end", "one\ntwo", []string{"one", "two"}, "0 1\n", `{"records":2,"first_offset":0,"last_offset":1}`},
		{"empty lines", "\n\none\n\n", []string{"", "", "one", ""}, "0 3\n", `{"records":4,"first_offset":0,"last_offset":3}`},
		{"carriage returns", "one\r\n\r\n", []string{"one\r", "\r"}, "0 1\n", `{"records":2,"first_offset":0,"last_offset":1}`},
		{"any bytes", "\xff\x00\n-\n", []string{"\xff\x00", "-"}, "0 1\n", `{"records":2,"first_offset":0,"last_offset":1}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := wiretest.Start(t, wiretest.Options{ReplyChunk: 5})
			require.Equal(t, ok(c.plain), appendLines(t, s, strings.NewReader(c.input)))
			require.Equal(t, c.want, values(s))
			for _, r := range s.Records() {
				require.Nil(t, r.Key)
			}
			s = wiretest.Start(t, wiretest.Options{})
			require.Equal(t, ok(c.json+"\n"), appendLines(t, s, iotest.OneByteReader(strings.NewReader(c.input)), "--json"))
			require.Equal(t, c.want, values(s))
		})
	}
}

func TestStdinFromAFile(t *testing.T) {
	const records = 10_000
	var input strings.Builder
	var want []string
	for i := range records {
		want = append(want, fmt.Sprintf("line %d", i))
		input.WriteString(want[i] + "\n")
	}
	path := t.TempDir() + "/input"
	require.NoError(t, os.WriteFile(path, []byte(input.String()), 0o600))
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	require.EqualValues(t, input.Len(), sizeOf(f))
	s := wiretest.Start(t, wiretest.Options{})
	s.Append(nil, []byte("before"))
	require.Equal(t, ok("1 10000\n"), appendLines(t, s, f))
	require.Equal(t, want, values(s)[1:])
	require.Zero(t, sizeOf(f))
	require.EqualValues(t, -1, sizeOf(strings.NewReader("")))
}

func TestStdinLinesUpToAFrame(t *testing.T) {
	full := strings.Repeat("x", wire.MaxRecord)
	s := wiretest.Start(t, wiretest.Options{})
	require.Equal(t, ok("0 2\n"), appendLines(t, s, strings.NewReader(full+"\nshort\n"+full)))
	require.Len(t, s.Records()[0].Value, wire.MaxRecord)
	require.Len(t, s.Records()[2].Value, wire.MaxRecord)

	for _, end := range []string{"", "\n", "\nafter\n"} {
		s = wiretest.Start(t, wiretest.Options{})
		got := appendLines(t, s, strings.NewReader("one\ntwo\n"+full+"x"+end))
		require.Equal(t, result{exitFailed, "", "zue-client: line 3 is longer than 10485751 bytes, which is as much as a record can hold\n" +
			"2 lines are surely stored, at offsets 0 to 1\nfrom line 3 on nothing is stored\n"}, got)
		require.Equal(t, []string{"one", "two"}, values(s))
	}
}

func TestStdinServerHangsUpMidway(t *testing.T) {
	s := wiretest.Start(t, wiretest.Options{Script: func(n int, f wire.Frame) *wiretest.Action {
		if n == 3 {
			return &wiretest.Action{ApplyAndHang: true}
		}
		return nil
	}})
	got := appendLines(t, s, strings.NewReader(strings.Repeat("line\n", 100_000)))
	require.Equal(t, exitFailed, got.code)
	require.Empty(t, got.stdout)
	require.Contains(t, got.stderr, "zue-client: line 4: append to "+s.Address()+": may or may not have been appended: ")
	require.Contains(t, got.stderr, "\n3 lines are surely stored, at offsets 0 to 2\nfrom line 4 to line ")
	require.Contains(t, got.stderr, "it is unknown\nfrom line ")
	require.Contains(t, got.stderr, " on nothing is stored\nhint: ")
}

func TestStdinServerRefusesALine(t *testing.T) {
	s := wiretest.Start(t, wiretest.Options{Script: func(n int, f wire.Frame) *wiretest.Action {
		if n >= 2 {
			return wiretest.Refuse(wire.CodeInsufficientISR, "1 of 2")
		}
		return nil
	}})
	got := appendLines(t, s, strings.NewReader("1\n2\n3\n4\n"))
	require.Equal(t, result{exitFailed, "", "zue-client: line 3: append to " + s.Address() + ": surely not appended: insufficient_isr: 1 of 2\n" +
		"2 lines are surely stored, at offsets 0 to 1\nfrom line 3 on nothing is stored\n" +
		"hint: try again when enough nodes of the cluster are up\n"}, got)
}

func TestStdinServerStalls(t *testing.T) {
	t.Parallel() // it waits for the timeout, which the first line must not reach
	s := wiretest.Start(t, wiretest.Options{Script: func(n int, f wire.Frame) *wiretest.Action {
		if n >= 1 {
			return &wiretest.Action{Ignore: true}
		}
		return nil
	}})
	got := appendLines(t, s, strings.NewReader("1\n2\n3\n"), "--timeout", "5s")
	require.Equal(t, exitFailed, got.code)
	require.Contains(t, got.stderr, "nothing came for 5s: line 2: append to "+s.Address())
	require.Contains(t, got.stderr, "\n1 line is surely stored, at offset 0\nfrom line 2 to line 3 it is unknown\nfrom line 4 on nothing is stored\n")
}

func TestStdinThatCannotBeRead(t *testing.T) {
	s := wiretest.Start(t, wiretest.Options{})
	// The half of a line that came before the error is no line.
	stdin := io.MultiReader(strings.NewReader("one\nha"), iotest.ErrReader(errors.New("tape torn")))
	got := appendLines(t, s, stdin)
	require.Equal(t, result{exitFailed, "", "zue-client: line 2: tape torn\n" +
		"1 line is surely stored, at offset 0\nfrom line 2 on nothing is stored\n"}, got)
	require.Equal(t, []string{"one"}, values(s))
}

func TestInterruptStopsReadingAndReports(t *testing.T) {
	appended := make(chan struct{}, 1)
	s := wiretest.Start(t, wiretest.Options{Script: func(n int, f wire.Frame) *wiretest.Action {
		if n == 1 {
			appended <- struct{}{}
		}
		return nil
	}})
	stdin, source, err := os.Pipe()
	require.NoError(t, err)
	defer stdin.Close()
	defer source.Close() // only at the end: the command waits for more
	ctx, interrupt := context.WithCancel(t.Context())
	got := make(chan result)
	go func() {
		got <- runCommand(ctx, stdin, "append", "127.0.0.1", s.Port(), "--stdin", "--batch-bytes", "1")
	}()
	_, err = source.WriteString("one\ntwo\nha")
	require.NoError(t, err)
	<-appended
	interrupt()
	require.Equal(t, result{exitFailed, "", "zue-client: interrupted\n" +
		"2 lines are surely stored, at offsets 0 to 1\nfrom line 3 on nothing is stored\n"}, <-got)
	require.Equal(t, []string{"one", "two"}, values(s))
}

// A refusal ends the command even when standard input has no more to give for now.
func TestRefusalWhileWaitingForInput(t *testing.T) {
	s := wiretest.Start(t, wiretest.Options{Script: func(n int, f wire.Frame) *wiretest.Action {
		return wiretest.Refuse(wire.CodeLogFull, "")
	}})
	stdin, source, err := os.Pipe()
	require.NoError(t, err)
	defer stdin.Close()
	defer source.Close()
	_, err = source.WriteString("one\n")
	require.NoError(t, err)
	got := appendLines(t, s, stdin)
	require.Equal(t, exitFailed, got.code)
	require.Contains(t, got.stderr, "line 1: append to "+s.Address()+": surely not appended: log_full\n0 lines are surely stored\nfrom line 1 on nothing is stored\n")
}

func TestInterruptBeforeAnything(t *testing.T) {
	s := wiretest.Start(t, wiretest.Options{})
	ctx, interrupt := context.WithCancel(t.Context())
	interrupt()
	for _, args := range [][]string{{"--stdin"}, {"k", "v"}} {
		got := runCommand(ctx, strings.NewReader("line\n"), append([]string{"append", "127.0.0.1", s.Port()}, args...)...)
		require.Equal(t, exitFailed, got.code)
		require.Contains(t, got.stderr, "interrupted")
	}
	require.Empty(t, s.Records())
}

func TestTallyReports(t *testing.T) {
	stored, not, maybe := error(nil), client.ErrNotApplied, client.ErrMaybeApplied
	for _, c := range []struct {
		outcomes []error
		want     string
	}{
		{nil, "0 lines are surely stored\nfrom line 1 on nothing is stored"},
		{[]error{stored}, "1 line is surely stored, at offset 10\nfrom line 2 on nothing is stored"},
		{[]error{stored, stored, maybe, maybe, not},
			"2 lines are surely stored, at offsets 10 to 11\nfrom line 3 to line 4 it is unknown\nfrom line 5 on nothing is stored"},
		{[]error{maybe}, "0 lines are surely stored\nfrom line 1 to line 1 it is unknown\nfrom line 2 on nothing is stored"},
		{[]error{stored, not, stored, maybe, stored, not},
			"1 line is surely stored, at offset 10\nof lines 2 to 5, 2 are stored, 1 are not, and of 1 it is unknown\nfrom line 6 on nothing is stored"},
	} {
		var tally tally
		for i, err := range c.outcomes {
			tally.add(uint64(10+i), 5, err)
		}
		require.Equal(t, c.want, tally.report())
	}
}

func TestLineReader(t *testing.T) {
	long := strings.Repeat("x", 70_000) // longer than the reader's buffer
	r := newLineReader(strings.NewReader(long+"\n"+long[1:]), 70_000)
	line, size, err := r.next()
	require.NoError(t, err)
	require.Equal(t, long, string(line))
	require.Equal(t, 70_001, size)
	line, size, err = r.next()
	require.NoError(t, err)
	require.Equal(t, long[1:], string(line))
	require.Equal(t, 69_999, size)
	_, _, err = r.next()
	require.Equal(t, io.EOF, err)
}

func TestProgressBars(t *testing.T) {
	for _, size := range []int64{-1, 0, 1000} {
		drawn := make(chan struct{})
		out := &signalWriter{drawn: drawn}
		p := drawProgress(out, size, func() tally { return tally{stored: 5, bytes: 500} })
		if size != 0 {
			select {
			case <-drawn:
			case <-time.After(10 * time.Second):
				t.Fatal("nothing drawn")
			}
		}
		p.stop()
	}
}

// signalWriter says when it is first written to.
type signalWriter struct {
	drawn chan struct{}
	once  bool
}

func (w *signalWriter) Write(p []byte) (int, error) {
	if !w.once {
		w.once = true
		close(w.drawn)
	}
	return len(p), nil
}

func BenchmarkAppendLines(b *testing.B) {
	reply := &wiretest.Action{Reply: wire.BatchAppendResponse{First: 1}.AppendTo(nil)}
	s := wiretest.Start(b, wiretest.Options{Script: func(int, wire.Frame) *wiretest.Action { return reply }})
	const records = 100_000
	input := strings.Repeat(strings.Repeat("x", 127)+"\n", records)
	b.ReportAllocs()
	b.SetBytes(int64(len(input)))
	for b.Loop() {
		got := runCommand(b.Context(), strings.NewReader(input), "append", "127.0.0.1", s.Port(), "--stdin")
		if got.code != exitOK {
			b.Fatal(got.stderr)
		}
	}
	b.ReportMetric(float64(b.N)*records/b.Elapsed().Seconds(), "records/s")
}
