// Package replication runs clusters of real zue-servers over TCP and real files, does to them
// what happens to machines, disks and networks, and holds every acknowledged record against
// every node.
package replication

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zue-log/zue/tests/programs"
)

// TestMain finds the programs.
func TestMain(m *testing.M) { os.Exit(programs.Main(m)) }

// process is a zue-server that is one node of a cluster.
type process struct {
	cmd  *exec.Cmd
	log  *programs.Output
	done chan struct{} // closed when it has ended, by err
	err  error
}

// start starts a program.
func start(t testing.TB, log *programs.Output, args ...string) *process {
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
	cmd := exec.Command(programs.Client, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if _, exited := err.(*exec.ExitError); err != nil && !exited {
		require.NoError(t, err)
	}
	return result{cmd.ProcessState.ExitCode(), strings.TrimSuffix(stdout.String(), "\n"), stderr.String()}
}
