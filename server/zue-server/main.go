// Command zue-server keeps a log in a directory and serves it over TCP.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/zue-log/zue/net/wire"
	"github.com/zue-log/zue/server"
	"github.com/zue-log/zue/storage"
)

const (
	exitFailed = 1
	exitUsage  = 2
	exitSignal = 128 // and the number of a second signal, as shells say it

	// stopTimeout is how long a stopping server waits for its clients.
	stopTimeout = 10 * time.Second
)

func main() {
	ctx, stop := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	go obey(signals, stop, func(code int) {
		fmt.Fprintln(os.Stderr, "zue-server: a second signal: ending at once")
		os.Exit(code)
	})
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// obey stops the server at the first signal, and ends the process at the second. To give
// signals back to the system after the first will not do: a shell has programs that it
// starts with "&" in a script ignore SIGINT, and so would the second one be.
func obey(signals <-chan os.Signal, stop context.CancelCauseFunc, exit func(code int)) {
	stop(fmt.Errorf("%v signal received", <-signals))
	code := exitSignal
	if n, ok := (<-signals).(syscall.Signal); ok {
		code += int(n)
	}
	exit(code)
}

// usageError is a fault in the command line.
type usageError struct{ error }

// faultError is what is wrong with the values of arguments, flags and files: to show how the
// program is called would only hide it.
type faultError struct{ error }

// run is the program: it serves until ctx ends, and returns its exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	cmd := command(stderr)
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	err := cmd.ExecuteContext(ctx)
	var usage usageError
	var fault faultError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &fault):
		fmt.Fprintf(stderr, "zue-server: %v\n", err)
		return exitUsage
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "zue-server: %v\n\n%s", err, cmd.UsageString())
		return exitUsage
	default:
		fmt.Fprintf(stderr, "zue-server: %v\n", err)
		return exitFailed
	}
}

func command(stderr io.Writer) *cobra.Command {
	var c config
	cmd := &cobra.Command{
		Use:   "zue-server <port> <data_dir> [<cluster.conf> <node_id>]",
		Short: "Keep a log in a directory and serve it over TCP, alone or as a node of a cluster",
		Long: fmt.Sprintf(`zue-server keeps a log in <data_dir>, which it creates if need be, and serves it
on <port> until it gets SIGINT or SIGTERM. Port 0 means any free one; the log on
standard error says which.

With <cluster.conf> and <node_id> it is one of several servers that keep the same log: the one
of that number in the file, whose port <port> must be. All nodes need the same file:

  node 1 192.168.1.10 9001 leader      number, host, port; who stands first for election
  node 2 192.168.1.11 9002 follower
  node 3 192.168.1.12 9003 follower
  quorum 2                 on how many nodes a record is before it is acknowledged; default: a majority
  timeout 5000             ms that this may take
  max_lag 1000             records that a replica in sync may be behind
  heartbeat 2000           ms between reports of followers
  election auto            or static: only the leader ever leads
  election_timeout 1000    ms without a leader before another node stands

For the first start all of them must be up, with empty data directories. A node that loses its
data gets it back from the others: start it with an empty directory. One whose log is damaged
beyond what can be mended puts its directory aside, which gets another name, and does the same.

The first SIGINT or SIGTERM stops it: what has arrived is answered, for 10 s at most, and a
leader hands over; the exit code is 0. A second one ends it at once, with 130 for SIGINT and 143
for SIGTERM. Otherwise the code is 1 when something failed, as a port that is in use or a disk
that is full, and 2 for wrong usage.

Sizes: 64MiB is 64 times 1024 times 1024 bytes (KiB, MiB, GiB; Ki, Mi, Gi), 64MB is 64,000,000
(k, KB, MB, GB; K, M, G); a number alone is bytes. For --segment-size, --index-interval,
--max-connections and --max-request-memory 0 is the default. The largest record has %d
bytes, key and value together.

Each flag can be given in the environment, too: ZUE_SYNC for --sync, ZUE_SEGMENT_SIZE for
--segment-size, and so on. The command line counts more; an empty variable counts as none.`, wire.MaxRecord),
		Example: `  zue-server 9000 ./data
  zue-server 9000 /var/lib/zue --listen 0.0.0.0 --sync interval=50ms
  zue-server 9001 /var/lib/zue /etc/zue/cluster.conf 1 --cluster-secret-file /etc/zue/secret`,
		Version:       fmt.Sprintf("%s (storage %s, format %d, wire %s, protocol %d, %s)", server.Version, storage.Version, storage.FormatVersion, wire.Version, wire.ProtocolVersion, runtime.Version()),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 && len(args) != 4 {
				return usageError{fmt.Errorf("expected 2 arguments, a port and a data directory, or 4, with cluster.conf and a node number, not %d", len(args))}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.read(args, cmd.Flags(), stderr); err != nil {
				return faultError{err}
			}
			if c.cluster != nil {
				return serveMember(cmd.Context(), c)
			}
			return serve(cmd.Context(), c)
		},
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{flagError(err)} })
	c.flags(cmd.Flags())
	cmd.AddCommand(devCommand(stderr))
	cmd.CompletionOptions.HiddenDefaultCmd = true
	return cmd
}

// fromCaller makes a relative path one of the folder that "bazel run" was called
// in: Bazel starts programs in another.
func fromCaller(path string) string {
	if dir := os.Getenv("BUILD_WORKING_DIRECTORY"); dir != "" && !filepath.IsAbs(path) {
		return filepath.Join(dir, path)
	}
	return path
}

// serve opens the log and serves it until ctx ends. It listens first, so that a port which
// another program has leaves no new data directory behind; clients that come before the log is
// open wait.
func serve(ctx context.Context, c config) error {
	logger := c.server.Logger
	listener, err := listen(c)
	if err != nil {
		return err
	}
	if err := server.CheckStandalone(c.dataDir); err != nil {
		return errors.Join(err, listener.Close())
	}
	log, err := storage.Open(c.dataDir, c.storage)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	recovery := log.Recovery()
	logger.Info("log opened", "data_dir", c.dataDir, "first_offset", log.FirstOffset(), "end_offset", log.EndOffset(),
		"sync", c.sync, "bytes_scanned", recovery.Scanned, "torn_bytes_cut", recovery.Torn)
	err = serveLog(ctx, c, log, listener)
	if err := errors.Join(err, log.Close()); err != nil {
		return err
	}
	logger.Info("stopped", "end_offset", log.EndOffset())
	return nil
}

// listen takes the port.
func listen(c config) (*net.TCPListener, error) {
	addr := net.JoinHostPort(c.listen, strconv.Itoa(int(c.port)))
	listener, err := net.Listen("tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%w: another program has port %d; stop it or choose another port", err, c.port)
	}
	if err != nil {
		return nil, err
	}
	return listener.(*net.TCPListener), nil
}

// serveLog serves a log on a listener, which it closes, until ctx ends.
func serveLog(ctx context.Context, c config, log *storage.Log, listener net.Listener) error {
	logger := c.server.Logger
	s, err := server.New(log, c.server)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(listener) }()
	logger.Info("listening", "address", listener.Addr().String())
	select {
	case err = <-served:
	case <-ctx.Done():
		logger.Info("stopping", "why", context.Cause(ctx))
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		if err := s.Shutdown(grace); err != nil {
			// Nothing acknowledged is lost by it: the clients were too slow to
			// take their answers.
			logger.Warn("connections were cut", "err", err)
		}
		err = <-served
	}
	if errors.Is(err, server.ErrStopped) {
		return nil
	}
	return err
}
