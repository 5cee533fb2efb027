// Package integration runs the real programs: zue-server on real files, zue-client
// and plain sockets over TCP.
package integration

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zue-log/zue/tests/programs"
)

// TestMain finds the programs.
func TestMain(m *testing.M) { os.Exit(programs.Main(m)) }

// server is a running zue-server.
type server struct {
	t    *testing.T
	dir  string
	host string
	port string
	cmd  *exec.Cmd
	log  *logWatch
	done chan error // its exit, once
}

// logWatch keeps what a server logs, and says when it listens.
type logWatch struct {
	programs.Output
	listening chan string // the address, once
}

var listening = regexp.MustCompile(`msg=listening address=(\S+)`)

func (w *logWatch) follow(r io.Reader) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		fmt.Fprintln(w, lines.Text())
		if m := listening.FindStringSubmatch(lines.Text()); m != nil {
			w.listening <- m[1]
		}
	}
}

// startServer runs a server on a free port and waits until it listens. The end of
// the test kills it if it still runs.
func startServer(t *testing.T, dir string, flags ...string) *server {
	t.Helper()
	return startServerAt(t, strconv.Itoa(programs.FreePorts(t, 1)[0]), dir, flags...) // it may start again
}

// startServerAt is startServer with a port of its own.
func startServerAt(t *testing.T, port, dir string, flags ...string) *server {
	t.Helper()
	return startCommand(t, dir, exec.Command(programs.Server, append([]string{port, dir}, flags...)...))
}

// startIgnoring is startServer with SIGINT and SIGTERM ignored when the server begins.
func startIgnoring(t *testing.T, dir string) *server {
	t.Helper()
	return startCommand(t, dir, exec.Command("/bin/sh", "-c", `trap "" INT TERM; exec "$0" 0 "$1"`, programs.Server, dir))
}

// startCommand is startServer with a command that becomes the server.
func startCommand(t *testing.T, dir string, cmd *exec.Cmd) *server {
	t.Helper()
	s := &server{t: t, dir: dir, cmd: cmd, log: &logWatch{listening: make(chan string, 1)}, done: make(chan error, 1)}
	stderr, err := s.cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, s.cmd.Start())
	go func() {
		s.log.follow(stderr)
		s.done <- cmd.Wait()
	}()
	t.Cleanup(func() {
		if s.cmd != nil {
			s.kill()
		}
		if t.Failed() {
			t.Logf("log of the server:\n%s", s.log)
		}
	})
	select {
	case addr := <-s.log.listening:
		s.host, s.port, err = net.SplitHostPort(addr)
		require.NoError(t, err)
	case err := <-s.done:
		s.cmd = nil
		t.Fatalf("the server ended: %v\n%s", err, s.log)
	case <-time.After(30 * time.Second):
		t.Fatal("the server does not listen")
	}
	return s
}

func (s *server) addr() string { return net.JoinHostPort(s.host, s.port) }

// stop sends a signal and returns how the server ended.
func (s *server) stop(sig syscall.Signal) error {
	s.t.Helper()
	require.NoError(s.t, s.cmd.Process.Signal(sig))
	s.cmd = nil
	select {
	case err := <-s.done:
		return err
	case <-time.After(30 * time.Second):
		s.t.Fatal("the server does not stop")
		return nil
	}
}

// kill is kill -9.
func (s *server) kill() { _ = s.stop(syscall.SIGKILL) }

// restart starts a server on the same directory and port.
func (s *server) restart() *server {
	s.t.Helper()
	return startServerAt(s.t, s.port, s.dir)
}

// result is what a run of zue-client came to.
type result struct {
	code           int
	stdout, stderr string
}

// runClient runs zue-client.
func runClient(t *testing.T, stdin io.Reader, args ...string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(programs.Client, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
	err := cmd.Run()
	if _, exited := err.(*exec.ExitError); err != nil && !exited {
		require.NoError(t, err)
	}
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// append appends by zue-client and returns the offset that it prints.
func (s *server) append(key, value string) string {
	s.t.Helper()
	r := runClient(s.t, nil, "append", s.host, s.port, "--", key, value)
	require.Zero(s.t, r.code, r.stderr)
	require.Empty(s.t, r.stderr)
	return strings.TrimSuffix(r.stdout, "\n")
}

// read reads by zue-client and returns the value that it prints.
func (s *server) read(offset string) string {
	s.t.Helper()
	r := runClient(s.t, nil, "read", s.host, s.port, offset)
	require.Zero(s.t, r.code, r.stderr)
	require.Empty(s.t, r.stderr)
	return strings.TrimSuffix(r.stdout, "\n")
}

// socket is a connection that knows nothing of Zue's libraries: the tests' own
// reading of the protocol.
type socket struct {
	t testing.TB
	net.Conn
}

func (s *server) dial() socket {
	s.t.Helper()
	c, err := net.Dial("tcp", s.addr())
	require.NoError(s.t, err)
	require.NoError(s.t, c.SetDeadline(time.Now().Add(60*time.Second)))
	s.t.Cleanup(func() { c.Close() })
	return socket{s.t, c}
}

func appendFrame(key, value []byte) []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, uint32(1+4+len(key)+4+len(value)))
	b = append(b, 1)
	if key == nil {
		b = le.AppendUint32(b, 0xffffffff)
	} else {
		b = le.AppendUint32(b, uint32(len(key)))
	}
	b = append(b, key...)
	b = le.AppendUint32(b, uint32(len(value)))
	return append(b, value...)
}

func readFrame(offset uint64) []byte {
	return binary.LittleEndian.AppendUint64([]byte{9, 0, 0, 0, 3}, offset)
}

// answer reads one frame.
func (c socket) answer() (typ byte, payload []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return 0, nil, err
	}
	payload = make([]byte, binary.LittleEndian.Uint32(head[:])-1)
	_, err = io.ReadFull(c, payload)
	return head[4], payload, err
}

// append appends over the socket.
func (c socket) append(key, value []byte) (offset uint64, err error) {
	if _, err := c.Write(appendFrame(key, value)); err != nil {
		return 0, err
	}
	typ, payload, err := c.answer()
	if err != nil {
		return 0, err
	}
	if typ != 2 || len(payload) != 8 {
		return 0, fmt.Errorf("answer of type %#x: %q", typ, payload)
	}
	return binary.LittleEndian.Uint64(payload), nil
}

// read reads over the socket a record that must be there.
func (c socket) read(offset uint64) (key, value []byte) {
	c.t.Helper()
	_, err := c.Write(readFrame(offset))
	require.NoError(c.t, err)
	typ, p, err := c.answer()
	require.NoError(c.t, err)
	require.EqualValues(c.t, 4, typ, "answer %q", p)
	le := binary.LittleEndian
	n := int32(le.Uint32(p))
	p = p[4:]
	if n >= 0 {
		key, p = p[:n:n], p[n:]
	}
	require.Len(c.t, p[4:], int(le.Uint32(p)))
	return key, p[4:]
}
