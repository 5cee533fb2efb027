package server

import (
	"bytes"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zue-log/zue/storage"
	"github.com/zue-log/zue/tests/programs"
)

// TestScrubReports has a server without replication say what its scrub finds.
func TestScrubReports(t *testing.T) {
	dir := t.TempDir()
	log, err := storage.Open(dir, storage.Options{SegmentBytes: 1 << 20}) // one that all are in
	require.NoError(t, err)
	defer log.Close()
	for range 10 {
		_, err := log.Append(storage.Record{Value: bytes.Repeat([]byte("v"), 1000)})
		require.NoError(t, err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.log"))
	require.NoError(t, err)
	f, err := os.OpenFile(files[0], os.O_RDWR, 0)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte("x"), 3000)
	require.NoError(t, err)
	require.NoError(t, f.Close())

	var out programs.Output
	s, err := New(log, Options{ScrubInterval: time.Millisecond, Logger: slog.New(slog.NewTextHandler(&out, nil))})
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	require.Eventually(t, func() bool { return bytes.Contains([]byte(out.String()), []byte("damaged=1")) }, 30*time.Second, time.Millisecond, "%s", &out)
	require.Contains(t, out.String(), "a scrub has found damage")
	require.NoError(t, s.Shutdown(t.Context()))
	require.ErrorIs(t, <-served, ErrStopped)
}

// TestScrubMends has the scrub of a cluster's node find damage that nobody reads, and mend it.
func TestScrubMends(t *testing.T) {
	c := startCluster(t, 3, func(o *MemberOptions) { o.Server.ScrubInterval = 10 * time.Millisecond })
	p := c.leader().dial()
	for range 100 {
		p.append(string(bytes.Repeat([]byte("v"), 1000)))
	}
	c.whole(100)
	n := c.followers(c.leader())[0]
	files, err := filepath.Glob(filepath.Join(n.dir, "*.log"))
	require.NoError(t, err)
	f, err := os.OpenFile(files[0], os.O_RDWR, 0)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte("x"), 5000)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	require.Eventually(t, func() bool { st := n.Status(); return st.Cluster.Mended > 0 && st.Cluster.Damaged == 0 }, 30*time.Second, 5*time.Millisecond)
}
