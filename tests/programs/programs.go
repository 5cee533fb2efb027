// Package programs is for tests that run the real zue-server and zue-client, or their parts, and
// look at what they write meanwhile.
package programs

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// Server and Client are the paths of the programs, once Main has found them.
var Server, Client string

// Main is for TestMain: it finds the programs, runs the tests, and returns the exit code. Bazel
// builds the programs and says where, by ZUE_SERVER and ZUE_CLIENT; for go test they are built here.
func Main(m *testing.M) int {
	dir, err := os.MkdirTemp("", "zue-bin-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := find(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func find(dir string) error {
	if s, c := os.Getenv("ZUE_SERVER"), os.Getenv("ZUE_CLIENT"); s != "" && c != "" {
		runfiles := os.Getenv("TEST_SRCDIR")
		Server, Client = filepath.Join(runfiles, s), filepath.Join(runfiles, c)
		return nil
	}
	Server, Client = filepath.Join(dir, "zue-server"), filepath.Join(dir, "zue-client")
	for path, pkg := range map[string]string{Server: "server/zue-server", Client: "client/zue-client"} {
		build := exec.Command("go", "build", "-o", path, "github.com/zue-log/zue/"+pkg)
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("go build %s: %w\n%s", pkg, err, out)
		}
	}
	return nil
}

// Output is what a program, or a part of one, has written. It may be looked at while it is written
// to. The zero Output is empty.
type Output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

// String returns all that was written so far.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}
