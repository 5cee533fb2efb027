package integration

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zue-log/zue/tests/programs"
)

func TestAppendAndRead(t *testing.T) {
	s := startServer(t, t.TempDir())
	require.Equal(t, "0", s.append("user:1", "hello"))
	require.Equal(t, "1", s.append("user:2", "two words"))
	require.Equal(t, "hello", s.read("0"))
	require.Equal(t, "two words", s.read("1"))

	r := runClient(t, nil, "append", "--json", s.host, s.port, "k", "v")
	require.Equal(t, result{0, "{\"offset\":2}\n", ""}, r)
	r = runClient(t, nil, "read", s.host, s.port, "2", "--json")
	require.JSONEq(t, `{"offset":2,"key":"k","value":"v"}`, r.stdout)
	require.Zero(t, r.code)
}

func TestNullAndEmptyKeys(t *testing.T) {
	s := startServer(t, t.TempDir())
	s.append("-", "null key")
	s.append("", "empty key")
	for offset, want := range []any{nil, ""} {
		r := runClient(t, nil, "read", s.host, s.port, strconv.Itoa(offset), "--json")
		var got map[string]any
		require.NoError(t, json.Unmarshal([]byte(r.stdout), &got), r.stderr)
		require.Contains(t, got, "key")
		require.Equal(t, want, got["key"])
	}
	c := s.dial()
	key, _ := c.read(0)
	require.Nil(t, key)
	key, _ = c.read(1)
	require.NotNil(t, key)
}

func TestValueSizes(t *testing.T) {
	s := startServer(t, t.TempDir())
	c := s.dial()
	var values [][]byte
	for _, n := range []int{0, 1, 50 << 10, 1 << 20} {
		v := bytes.Repeat([]byte("0123456789abcdef\x00\xff\n"), n/19+1)[:n]
		values = append(values, v)
		_, err := c.append([]byte("k"), v)
		require.NoError(t, err)
	}
	check := func(s *server) {
		c := s.dial()
		for i, want := range values {
			_, got := c.read(uint64(i))
			require.True(t, bytes.Equal(want, got), "value of %d bytes", len(want))
			r := runClient(t, nil, "read", "--raw", s.host, s.port, strconv.Itoa(i))
			require.Zero(t, r.code, r.stderr)
			require.True(t, r.stdout == string(want), "value of %d bytes by zue-client", len(want))
		}
	}
	check(s)
	require.NoError(t, s.stop(syscall.SIGTERM))
	check(s.restart())
	// 50 KB as an argument of the command line.
	s = startServer(t, t.TempDir())
	long := strings.Repeat("x", 50<<10)
	require.Equal(t, long, s.read(s.append("-", long)))
}

func TestReadPastTheEnd(t *testing.T) {
	s := startServer(t, t.TempDir())
	s.append("-", "only")
	for _, offset := range []string{"1", "18446744073709551615"} {
		r := runClient(t, nil, "read", s.host, s.port, offset)
		require.Equal(t, 1, r.code)
		require.Empty(t, r.stdout)
		require.Contains(t, r.stderr, "invalid_offset")
	}
}

func TestCleanStopAndRestart(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		s := startServer(t, t.TempDir())
		for i := range 20 {
			require.Equal(t, strconv.Itoa(i), s.append("k", fmt.Sprint("v", i)))
		}
		idle := s.dial() // does not keep the server from stopping
		require.NoError(t, s.stop(sig), "exit code 0")
		_, err := idle.Read(make([]byte, 1))
		require.Error(t, err)
		s = s.restart()
		require.Contains(t, s.log.String(), "bytes_scanned=0")
		for i := range 20 {
			require.Equal(t, fmt.Sprint("v", i), s.read(strconv.Itoa(i)))
		}
		require.Equal(t, "20", s.append("-", "more"))
		require.NoError(t, s.stop(sig))
	}
}

// TestKill kills the server in the middle of appends, several times over, and
// holds every acknowledged record against the log afterwards.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	acked := map[uint64]string{}
	for round := range 5 {
		s := startServer(t, dir)
		var mu sync.Mutex
		var wg sync.WaitGroup
		enough := make(chan struct{})
		var once sync.Once
		before := len(acked)
		for w := range 8 {
			c := s.dial()
			wg.Go(func() {
				for i := 0; ; i++ {
					v := fmt.Sprintf("%d/%d/%d %s", round, w, i, strings.Repeat("z", i%300))
					off, err := c.append(nil, []byte(v))
					if err != nil {
						return
					}
					mu.Lock()
					acked[off] = v
					if len(acked) > before+500*(round+1) {
						once.Do(func() { close(enough) })
					}
					mu.Unlock()
				}
			})
		}
		select {
		case <-enough:
		case <-time.After(60 * time.Second):
			t.Error("appends are too slow")
		}
		s.kill()
		wg.Wait()
	}
	s := startServer(t, dir)
	c := s.dial()
	for off, want := range acked {
		_, got := c.read(off)
		require.Equal(t, want, string(got))
	}
}

func TestManyClients(t *testing.T) {
	s := startServer(t, t.TempDir())
	const clients, each = 64, 50
	var wg sync.WaitGroup
	offsets := make([][]uint64, clients)
	for w := range clients {
		c := s.dial()
		wg.Go(func() {
			for i := range each {
				off, err := c.append(fmt.Append(nil, w), fmt.Append(nil, i))
				if err != nil {
					t.Error(err)
					return
				}
				offsets[w] = append(offsets[w], off)
			}
		})
	}
	wg.Wait()
	c := s.dial()
	seen := map[uint64]bool{}
	for w := range offsets {
		require.Len(t, offsets[w], each)
		for i, off := range offsets[w] {
			require.False(t, seen[off])
			seen[off] = true
			key, value := c.read(off)
			require.Equal(t, fmt.Sprint(w), string(key))
			require.Equal(t, fmt.Sprint(i), string(value))
			require.Less(t, off, uint64(clients*each))
		}
	}
}

func TestRapidConnects(t *testing.T) {
	s := startServer(t, t.TempDir())
	for range 500 {
		c, err := net.Dial("tcp", s.addr())
		require.NoError(t, err)
		require.NoError(t, c.Close())
	}
	require.Equal(t, "0", s.append("-", "alive"))
}

func TestHalfFrame(t *testing.T) {
	s := startServer(t, t.TempDir())
	for n := range appendFrame([]byte("key"), []byte("value")) {
		c := s.dial()
		_, err := c.Write(appendFrame([]byte("key"), []byte("value"))[:n])
		require.NoError(t, err)
		require.NoError(t, c.Close())
	}
	require.Equal(t, "0", s.append("-", "none of them was appended"))
}

func TestClientFailures(t *testing.T) {
	port := strconv.Itoa(programs.FreePorts(t, 1)[0])
	for _, args := range [][]string{{"append", "127.0.0.1", port, "k", "v"}, {"read", "127.0.0.1", port, "0"}, {"append", "127.0.0.1", port, "--stdin"}} {
		r := runClient(t, strings.NewReader("x\n"), args...)
		require.Equal(t, 1, r.code, args)
		require.Empty(t, r.stdout)
		require.Contains(t, r.stderr, port, "it says where")
	}
	for _, args := range [][]string{{}, {"append"}, {"append", "h", "1", "k"}, {"read", "h", "1", "x"}, {"read", "h", "99999", "0"}, {"no-such"}, {"read", "h", "1", "0", "--no-such"}} {
		r := runClient(t, nil, args...)
		require.Equal(t, 2, r.code, args)
		require.Empty(t, r.stdout)
		require.Regexp(t, `Examples:\n +zue-client `, r.stderr, "%v: help with an example", args)
	}
}

func TestServerFailures(t *testing.T) {
	s := startServer(t, t.TempDir())
	file, fresh := filepath.Join(t.TempDir(), "file"), filepath.Join(t.TempDir(), "fresh")
	require.NoError(t, os.WriteFile(file, nil, 0o644))
	for want, cases := range map[int][][]string{
		1: {
			{"0", s.dir},             // in use by the other server
			{s.port, t.TempDir()},    // the port is
			{"0", file},              // not a directory
			{"0", file + "/below/x"}, // cannot be made
			{s.port, fresh},          // the port is in use, and nothing is made
		},
		2: {{}, {"0"}, {"x", "d"}, {"65536", "d"}, {"0", ""}, {"0", "d", "--sync", "no"}, {"0", "d", "--no-such"}, {"0", "d", "cluster.conf", "1"}},
	} {
		for _, args := range cases {
			out, err := exec.Command(programs.Server, args...).CombinedOutput()
			var exit *exec.ExitError
			require.ErrorAs(t, err, &exit, "%v: %s", args, out)
			require.Equal(t, want, exit.ExitCode(), "%v: %s", args, out)
			require.Contains(t, string(out), "zue-server: ")
		}
	}
	require.NoDirExists(t, fresh)
	require.Equal(t, "0", s.append("-", "unharmed"))
}

// What is wrong is said by the name that it was given by.
func TestServerSettings(t *testing.T) {
	for _, c := range []struct {
		env, flag string
		want      string
	}{
		{"", "--listen=", "--listen: the address is empty; 0.0.0.0 is all"},
		{"ZUE_LISTEN=0.0.0.0", "--listen=", "--listen: the address is empty"},
		{"ZUE_SYNC=bad", "", `ZUE_SYNC in the environment: sync policy "bad"`},
		{"ZUE_SYNC=worse", "--sync=bad", `--sync: sync policy "bad"`},
		{"ZUE_COMPRESSION=bad", "", "ZUE_COMPRESSION in the environment: "},
		{"ZUE_LOG_LEVEL=bad", "", `ZUE_LOG_LEVEL in the environment: "bad" is none of`},
		{"ZUE_LOG_FORMAT=bad", "", `ZUE_LOG_FORMAT in the environment: "bad" is none of`},
		{"", "--log-format=bad", `zue-server: --log-format: "bad" is none of`},
		{"ZUE_MAX_CONNECTIONS=x", "", "ZUE_MAX_CONNECTIONS in the environment: \"x\" is no number\n"},
		{"ZUE_MAX_CONNECTIONS=99999999999999999999", "", "is out of range\n"},
		{"", "--max-connections=x", "zue-server: --max-connections: \"x\" is no number\n"},
		{"ZUE_SEGMENT_AGE=x", "", "ZUE_SEGMENT_AGE in the environment: \"x\" is no duration, such as 24h\n"},
		{"", "--segment-size=x", `--segment-size: "x" is no size`},
	} {
		t.Run(c.env+" "+c.flag, func(t *testing.T) {
			args := []string{"0", filepath.Join(t.TempDir(), "data")}
			if c.flag != "" {
				args = append(args, c.flag)
			}
			cmd := exec.Command(programs.Server, args...)
			cmd.Env = append(os.Environ(), c.env)
			out, err := cmd.CombinedOutput()
			require.Error(t, err)
			require.Equal(t, 2, cmd.ProcessState.ExitCode(), string(out))
			require.Contains(t, string(out), c.want)
			require.NotContains(t, string(out), "strconv")
			require.NoDirExists(t, args[1])
		})
	}
}

// An empty variable is none: the server listens on this machine alone.
func TestEmptyEnvironment(t *testing.T) {
	for _, name := range []string{"ZUE_LISTEN", "ZUE_SYNC", "ZUE_SEGMENT_SIZE", "ZUE_MAX_CONNECTIONS"} {
		t.Setenv(name, "")
	}
	s := startServer(t, t.TempDir())
	require.Equal(t, "127.0.0.1", s.host)
	require.Equal(t, "0", s.append("-", "x"))
}

// A second signal ends the server while it waits for a client that takes no answers, also
// when the shell had it ignore SIGINT, as it does with "&" in a script.
func TestSecondSignal(t *testing.T) {
	for _, c := range []struct {
		sig  syscall.Signal
		code int
	}{{syscall.SIGINT, 130}, {syscall.SIGTERM, 143}} {
		t.Run(c.sig.String(), func(t *testing.T) {
			s := startIgnoring(t, t.TempDir())
			slow := s.dial()
			_, err := slow.append(nil, make([]byte, 8<<20))
			require.NoError(t, err)
			_, err = slow.Write(bytes.Repeat(readFrame(0), 100)) // 800 MB, of which none is taken
			require.NoError(t, err)
			// The server is at it when something of it is there.
			_, err = io.ReadFull(slow, make([]byte, 1))
			require.NoError(t, err)
			require.NoError(t, s.cmd.Process.Signal(c.sig))
			require.Eventually(t, func() bool { return strings.Contains(s.log.String(), "msg=stopping") }, 30*time.Second, time.Millisecond)
			began, cmd := time.Now(), s.cmd
			require.Error(t, s.stop(c.sig))
			require.Equal(t, c.code, cmd.ProcessState.ExitCode())
			require.Less(t, time.Since(began), 5*time.Second, "at once, not after the 10 s that clients have")
			require.Equal(t, "1", startServer(t, s.dir).append("-", "nothing is lost"))
		})
	}
}

// textFile makes lines of all sorts.
func textFile(n int) []string {
	lines := make([]string, n)
	for i := range lines {
		switch i % 5 {
		case 0:
			lines[i] = fmt.Sprintf("line %d", i)
		case 1:
			lines[i] = ""
		case 2:
			lines[i] = "\ttabs and trailing space \r"
		case 3:
			lines[i] = strings.Repeat(fmt.Sprint(i, " ünïcödé "), i%40)
		default:
			lines[i] = "-- looks like a flag"
		}
	}
	return lines
}

// TestTextFile appends 10,000 lines and reads them back, line for line, also after
// kill -9.
func TestTextFile(t *testing.T) {
	const n = 10_000
	lines := textFile(n)
	path := filepath.Join(t.TempDir(), "text")
	require.NoError(t, os.WriteFile(path, []byte(strings.Join(lines, "\n")), 0o644))
	s := startServer(t, t.TempDir())
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	r := runClient(t, f, "append", s.host, s.port, "--stdin")
	require.Equal(t, result{0, "0 9999\n", ""}, r)
	check := func(s *server) {
		c := s.dial()
		in := make(chan error, 1)
		go func() {
			w := bufio.NewWriter(c)
			for i := range n {
				_, _ = w.Write(readFrame(uint64(i))) // Flush has the error
			}
			in <- w.Flush()
		}()
		for i, want := range lines {
			typ, p, err := c.answer()
			require.NoError(t, err)
			require.EqualValues(t, 4, typ)
			require.Equal(t, want, string(p[8:]), "line %d", i)
		}
		require.NoError(t, <-in)
	}
	check(s)
	s.kill()
	s = s.restart()
	check(s)
	require.Equal(t, lines[4321], s.read("4321"))
	r = runClient(t, strings.NewReader("one more\nand another\n"), "append", s.host, s.port, "--stdin", "--json")
	require.JSONEq(t, `{"records":2,"first_offset":10000,"last_offset":10001}`, r.stdout)
	r = runClient(t, strings.NewReader(""), "append", s.host, s.port, "--stdin")
	require.Equal(t, result{0, "", ""}, r)
}

// TestKillDuringStdin kills the server under a running "append --stdin": the client
// says how far it got, and that much is there.
func TestKillDuringStdin(t *testing.T) {
	s := startServer(t, t.TempDir())
	pr, pw := io.Pipe()
	cmd := exec.Command(programs.Client, "append", s.host, s.port, "--stdin", "--json")
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = pr, &stderr
	require.NoError(t, cmd.Start())
	go func() {
		for i := 0; ; i++ {
			if _, err := fmt.Fprintf(pw, "line %d\n", i); err != nil {
				return
			}
		}
	}()
	c := s.dial()
	require.Eventually(t, func() bool {
		_, err := c.Write(readFrame(5000))
		require.NoError(t, err)
		typ, _, err := c.answer()
		return err == nil && typ == 4
	}, 60*time.Second, 5*time.Millisecond)
	s.kill()
	require.Error(t, cmd.Wait())
	require.NoError(t, pr.Close()) // ends the writer
	require.Equal(t, 1, cmd.ProcessState.ExitCode(), stderr.String())
	s = s.restart()
	for _, i := range []int{0, 1, 4999, 5000} {
		require.Equal(t, fmt.Sprint("line ", i), s.read(strconv.Itoa(i)))
	}
}

// TestIdempotentStdin kills the server under "append --stdin --idempotent", and starts it
// again: each line is in the log once.
func TestIdempotentStdin(t *testing.T) {
	const n = 200_000
	s := startServer(t, t.TempDir())
	var lines bytes.Buffer
	for i := range n {
		fmt.Fprintf(&lines, "line %d\n", i)
	}
	got := make(chan result, 1)
	go func() {
		got <- runClient(t, &lines, "append", s.host, s.port, "--stdin", "--idempotent", "--batch-bytes", "5000", "--timeout", "60s")
	}()
	for _, reached := range []string{"10000", "60000", "100000"} {
		require.Eventually(t, func() bool {
			return runClient(t, nil, "read", s.host, s.port, reached).code == 0
		}, 60*time.Second, time.Millisecond)
		s.kill()
		s = s.restart()
	}
	require.Equal(t, result{0, "0 199999\n", ""}, <-got)
	for _, i := range []int{0, 10_000, 10_001, 150_000, n - 1} {
		require.Equal(t, fmt.Sprint("line ", i), s.read(strconv.Itoa(i)))
	}
}
