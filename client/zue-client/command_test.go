package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/zue-log/zue/client/internal/wiretest"
	"github.com/zue-log/zue/net/wire"
	"github.com/zue-log/zue/tests/programs"
)

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
	}
	goleak.VerifyTestMain(m)
}

// result is what a run of the command printed.
type result struct {
	code           int
	stdout, stderr string
}

func runCommand(ctx context.Context, stdin io.Reader, args ...string) result {
	var stdout, stderr bytes.Buffer
	code := run(ctx, args, stdin, &stdout, &stderr)
	return result{code, stdout.String(), stderr.String()}
}

func ok(stdout string) result { return result{code: exitOK, stdout: stdout} }

func TestAppendPrintsTheOffsetAlone(t *testing.T) {
	s := wiretest.Start(t, wiretest.Options{ReplyChunk: 3})
	for i, c := range []struct {
		args   []string
		stdout string
		want   wiretest.Record
	}{
		{[]string{"key", "value"}, "0\n", wiretest.Record{Key: []byte("key"), Value: []byte("value")}},
		{[]string{"-", "value"}, "1\n", wiretest.Record{Value: []byte("value")}},
		{[]string{"", "value"}, "2\n", wiretest.Record{Key: []byte{}, Value: []byte("value")}},
		{[]string{"key", ""}, "3\n", wiretest.Record{Key: []byte("key"), Value: []byte{}}},
		{[]string{"key", "-"}, "4\n", wiretest.Record{Key: []byte("key"), Value: []byte("-")}},
		{[]string{"--json", "key", "value"}, "{\"offset\":5}\n", wiretest.Record{Key: []byte("key"), Value: []byte("value")}},
		{[]string{"--", "--json", "-v"}, "6\n", wiretest.Record{Key: []byte("--json"), Value: []byte("-v")}},
		{[]string{"key", strings.Repeat("long ", 20_000)}, "7\n", wiretest.Record{Key: []byte("key"), Value: []byte(strings.Repeat("long ", 20_000))}},
	} {
		args := append([]string{"append", "127.0.0.1", s.Port()}, c.args...)
		require.Equal(t, ok(c.stdout), runCommand(t.Context(), nil, args...))
		require.Equal(t, c.want, s.Records()[i])
	}
}

func TestReadPrintsTheValue(t *testing.T) {
	s := wiretest.Start(t, wiretest.Options{})
	s.Append([]byte("k"), []byte("v"))
	s.Append(nil, []byte("line\n"))
	s.Append([]byte{}, []byte{})
	s.Append([]byte{0xff}, []byte{0xfe, 0x00})
	s.Append([]byte("<ä>"), []byte("\"\x00\n"))
	for _, c := range []struct{ offset, plain, raw, json string }{
		{"0", "v\n", "v", `{"offset":0,"key":"k","value":"v"}` + "\n"},
		{"1", "line\n\n", "line\n", `{"offset":1,"key":null,"value":"line\n"}` + "\n"},
		{"2", "\n", "", `{"offset":2,"key":"","value":""}` + "\n"},
		{"3", "\xfe\x00\n", "\xfe\x00", `{"offset":3,"key_base64":"/w==","value_base64":"/gA="}` + "\n"},
		{"4", "\"\x00\n\n", "\"\x00\n", `{"offset":4,"key":"<ä>","value":"\"\u0000\n"}` + "\n"},
	} {
		args := []string{"read", "127.0.0.1", s.Port(), c.offset}
		require.Equal(t, ok(c.plain), runCommand(t.Context(), nil, args...))
		require.Equal(t, ok(c.raw), runCommand(t.Context(), nil, append(args, "--raw")...))
		require.Equal(t, ok(c.json), runCommand(t.Context(), nil, append(args, "--json")...))
	}
}

func TestWrongUsageExitsWith2AndShowsAnExample(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{}, "which command"},
		{[]string{"delete", "h", "1"}, `unknown command "delete"`},
		{[]string{"append"}, "missing: <host> <port> <key> <value>"},
		{[]string{"append", "h", "1", "k"}, "missing: <value>"},
		{[]string{"append", "h", "1", "k", "v", "w"}, `too many arguments, from "w" on`},
		{[]string{"append", "h", "1", "k", "v", "--stdin"}, `too many arguments, from "k" on`},
		{[]string{"append", "h", "--stdin"}, "missing: <port>"},
		{[]string{"append", "", "1", "k", "v"}, "the host is empty"},
		{[]string{"append", "h", "0", "k", "v"}, `port "0": want a number from 1 to 65535`},
		{[]string{"append", "h", "65536", "k", "v"}, `port "65536"`},
		{[]string{"append", "h", "http", "k", "v"}, `port "http"`},
		{[]string{"append", "h", "1", "k", "v", "--timeout", "0s"}, "timeout 0s"},
		{[]string{"append", "h", "1", "k", "v", "--timeout", "soon"}, "invalid argument"},
		{[]string{"append", "h", "1", "k", "-v1"}, `goes after "--"`},
		{[]string{"append", "h", "1", "k", "v", "--raw"}, "unknown flag: --raw"},
		{[]string{"read", "h", "1"}, "missing: <offset>"},
		{[]string{"read", "h", "1", "x"}, `offset "x"`},
		{[]string{"read", "h", "1", "-5"}, "-5"},
		{[]string{"read", "h", "1", "--", "-5"}, `offset "-5"`},
		{[]string{"read", "h", "1", "18446744073709551616"}, `offset "18446744073709551616"`},
		{[]string{"read", "h", "1", "0", "--raw", "--json"}, "exclude each other"},
		{[]string{"read", "127.0.0.1:19700", "0"}, `"127.0.0.1:19700": host and port are two arguments: 127.0.0.1 19700`},
		{[]string{"append", "[::1]:9000", "k", "v"}, "two arguments: ::1 9000"},
		{[]string{"tail", "localhost:9000"}, "two arguments: localhost 9000"},
		{[]string{"tail", "::1"}, "missing: <port>"},
		{[]string{"read", "h", "1", "--to", "2"}, "zue-client: --to is for --from\n"},
		{[]string{"read", "h", "1", "2", "--to", "2"}, "zue-client: --to is for --from\n"},
		{[]string{"read", "h", "1", "--from", "5", "--to", "3"}, "--to 3 is before --from 5"},
		{[]string{"append", "h", "1", "k", "v", "--batch-bytes", "5"}, "--batch-bytes is for --stdin"},
		{[]string{"append", "h", "1", "k", "v", "w"}, "a key or value with spaces needs quotes"},
		{[]string{"read", "h", "1", "2", "3"}, "zue-client: too many arguments, from \"3\" on\n"},
		{[]string{"read", "h", "1", "2", "--no-such"}, "zue-client: unknown flag: --no-such\n"},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			got := runCommand(t.Context(), nil, c.args...)
			require.Equal(t, exitUsage, got.code)
			require.Empty(t, got.stdout)
			require.Contains(t, got.stderr, "zue-client: ")
			require.Contains(t, got.stderr, c.want)
			require.Contains(t, got.stderr, "127.0.0.1 9000", "an example")
		})
	}
}

func TestVersionAndHelpGoToStdout(t *testing.T) {
	require.Equal(t, ok("zue-client 0.2.0\n"), runCommand(t.Context(), nil, "--version"))
	for _, args := range [][]string{{"--help"}, {"append", "--help"}, {"read", "--help"}} {
		got := runCommand(t.Context(), nil, args...)
		require.Equal(t, exitOK, got.code)
		require.Contains(t, got.stdout, "Examples:")
		require.Empty(t, got.stderr)
	}
}

func TestServerRefusals(t *testing.T) {
	s := wiretest.Start(t, wiretest.Options{Script: func(n int, f wire.Frame) *wiretest.Action {
		if f.Type == wire.TypeAppendRequest {
			return wiretest.Refuse(wire.CodeLogFull, "no space left")
		}
		return nil
	}})
	got := runCommand(t.Context(), nil, "append", "127.0.0.1", s.Port(), "k", "v")
	require.Equal(t, result{exitFailed, "", "zue-client: append to " + s.Address() +
		": surely not appended: log_full: no space left\nhint: make room on the server\n"}, got)
	got = runCommand(t.Context(), nil, "read", "127.0.0.1", s.Port(), "7")
	require.Equal(t, exitFailed, got.code)
	require.Empty(t, got.stdout)
	require.Contains(t, got.stderr, "read offset 7 from "+s.Address()+": invalid_offset: beyond the end\nhint: ")
}

func TestRefusedConnection(t *testing.T) {
	host, port := "127.0.0.1", strconv.Itoa(programs.FreePorts(t, 1)[0])
	for _, args := range [][]string{
		{"append", host, port, "k", "v"}, {"read", host, port, "0"}, {"append", host, port, "--stdin"},
	} {
		got := runCommand(t.Context(), strings.NewReader("line\n"), args...)
		require.Equal(t, exitFailed, got.code)
		require.Empty(t, got.stdout)
		require.Contains(t, got.stderr, "connect to "+net.JoinHostPort(host, port))
		require.Contains(t, got.stderr, "refused\nhint: is zue-server running there")
	}
}

// The timeout is long enough to connect under any load.
func TestServerThatDoesNotAnswer(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"append k v", "nothing came for 5s: append to %s: may or may not have been appended"},
		{"read 0", "nothing came for 5s: read offset 0 from %s: "},
	} {
		t.Run(c.args, func(t *testing.T) {
			t.Parallel()
			s := wiretest.Start(t, wiretest.Options{Script: func(int, wire.Frame) *wiretest.Action {
				return &wiretest.Action{Ignore: true}
			}})
			args := strings.Fields(c.args)
			args = append([]string{args[0], "127.0.0.1", s.Port(), "--timeout", "5s"}, args[1:]...)
			got := runCommand(t.Context(), nil, args...)
			require.Equal(t, exitFailed, got.code)
			require.Empty(t, got.stdout)
			require.Contains(t, got.stderr, fmt.Sprintf(c.want, s.Address()))
			require.Equal(t, args[0] == "append", strings.Contains(got.stderr, "before you append it again"))
		})
	}
}

func TestServerThatHangsUp(t *testing.T) {
	s := wiretest.Start(t, wiretest.Options{Script: func(int, wire.Frame) *wiretest.Action {
		return &wiretest.Action{ApplyAndHang: true}
	}})
	got := runCommand(t.Context(), nil, "append", "127.0.0.1", s.Port(), "k", "v")
	require.Equal(t, exitFailed, got.code)
	require.Contains(t, got.stderr, "may or may not have been appended")
	require.Len(t, s.Records(), 1)
}

func TestServerThatIsNone(t *testing.T) {
	s := wiretest.Start(t, wiretest.Options{Script: func(int, wire.Frame) *wiretest.Action {
		return &wiretest.Action{Reply: []byte("HTTP/1.1 400 Bad Request\r\n\r\n")}
	}})
	for _, args := range []string{"read 0", "append k v"} {
		command, rest, _ := strings.Cut(args, " ")
		got := runCommand(t.Context(), nil, append([]string{command, "127.0.0.1", s.Port()}, strings.Fields(rest)...)...)
		require.Equal(t, exitFailed, got.code)
		require.Contains(t, got.stderr, "hint: is it a zue-server that listens on this port?")
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestResultThatCannotBePrinted(t *testing.T) {
	s := wiretest.Start(t, wiretest.Options{})
	for _, c := range []struct {
		command string
		args    []string
		want    string
	}{
		{"append", []string{"k", "v"}, "the record is stored at offset 0, but that cannot be printed: disk full"},
		{"append", []string{"--stdin"}, "all 1 lines are stored, at offsets 1 to 1, but that cannot be printed: disk full"},
		{"read", []string{"0"}, "print the record: disk full"},
	} {
		var stderr bytes.Buffer
		args := append([]string{c.command, "127.0.0.1", s.Port()}, c.args...)
		require.Equal(t, exitFailed, run(t.Context(), args, strings.NewReader("line"), brokenWriter{}, &stderr))
		require.Contains(t, stderr.String(), c.want)
	}
}

func TestIPv6Hosts(t *testing.T) {
	a := &app{timeout: defaultTimeout}
	for host, want := range map[string]string{
		"::1": "[::1]:9001", "[::1]": "[::1]:9001", "localhost": "localhost:9001", "fe80::1%eth0": "[fe80::1%eth0]:9001",
	} {
		s, err := a.parseServer(nil, host, "09001")
		require.NoError(t, err)
		require.Equal(t, want, s.address())
	}
}
