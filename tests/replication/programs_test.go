// Package replication runs clusters of real zue-servers over TCP and real files, does to them
// what happens to machines, disks and networks, and holds every acknowledged record against
// every node.
package replication

import (
	"bytes"
	"fmt"
	"math/rand/v2"
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
)

var serverPath, clientPath string

// TestMain finds the programs: Bazel builds them and says where; go test has them built here.
func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "zue-bin-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		if err := findPrograms(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

func findPrograms(dir string) error {
	if s, c := os.Getenv("ZUE_SERVER"), os.Getenv("ZUE_CLIENT"); s != "" && c != "" {
		runfiles := os.Getenv("TEST_SRCDIR")
		serverPath, clientPath = filepath.Join(runfiles, s), filepath.Join(runfiles, c)
		return nil
	}
	serverPath, clientPath = filepath.Join(dir, "zue-server"), filepath.Join(dir, "zue-client")
	for path, pkg := range map[string]string{serverPath: "server/zue-server", clientPath: "client/zue-client"} {
		build := exec.Command("go", "build", "-o", path, "github.com/zue-log/zue/"+pkg)
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("go build %s: %w\n%s", pkg, err, out)
		}
	}
	return nil
}

// process is a zue-server that is one node of a cluster.
type process struct {
	cmd  *exec.Cmd
	log  *syncBuffer
	done chan struct{} // closed when it has ended, by err
	err  error
}

// syncBuffer is what a process has logged.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// start starts a program.
func start(t testing.TB, log *syncBuffer, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(args[0], args[1:]...), log: log, done: make(chan struct{})}
	p.cmd.Stderr = log
	require.NoError(t, p.cmd.Start())
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p
}

// end sends a signal, and waits until the process has ended.
func (p *process) end(t testing.TB, sig syscall.Signal) error {
	t.Helper()
	_ = p.cmd.Process.Signal(sig) // it may have ended
	_ = p.cmd.Process.Signal(syscall.SIGCONT)
	select {
	case <-p.done:
		return p.err
	case <-time.After(60 * time.Second):
		_ = p.cmd.Process.Kill()
		t.Fatalf("the server does not end by %v:\n%s", sig, p.log)
		return nil
	}
}

// result is what a run of zue-client came to.
type result struct {
	code           int
	stdout, stderr string
}

// run runs zue-client.
func run(t testing.TB, args ...string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(clientPath, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if _, exited := err.(*exec.ExitError); err != nil && !exited {
		require.NoError(t, err)
	}
	return result{cmd.ProcessState.ExitCode(), strings.TrimSuffix(stdout.String(), "\n"), stderr.String()}
}

// freePorts returns ports that nobody has at the moment. They are not among those that the system
// gives to whoever asks for any: or a connection might have one by the time that its server starts
// again.
func freePorts(t testing.TB, n int) (ports []int) {
	t.Helper()
	for tries := 0; len(ports) < n; tries++ {
		require.Less(t, tries, 10_000, "there are no free ports")
		port := 10_000 + rand.IntN(20_000)
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			continue
		}
		defer l.Close()
		ports = append(ports, port)
	}
	return ports
}
