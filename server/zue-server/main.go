// Command zue-server keeps a log in a directory and serves it over TCP.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
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

	// stopTimeout is how long a stopping server waits for its clients.
	stopTimeout = 10 * time.Second
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	// After the first signal the second one ends the process at once.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// usageError is a fault in the command line.
type usageError struct{ error }

// run is the program: it serves until ctx ends, and returns its exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	cmd := command(stderr)
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	err := cmd.ExecuteContext(ctx)
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "zue-server: %v\n\n%s", err, cmd.UsageString())
		return exitUsage
	default:
		fmt.Fprintf(stderr, "zue-server: %v\n", err)
		return exitFailed
	}
}

// config is what the command line says.
type config struct {
	port    uint16
	dataDir string
	listen  string
	sync    string
	policy  storage.SyncPolicy // what sync says

	maxConnections int
}

func command(stderr io.Writer) *cobra.Command {
	var c config
	cmd := &cobra.Command{
		Use:   "zue-server <port> <data_dir>",
		Short: "Keep a log in a directory and serve it over TCP",
		Long: `zue-server keeps a log in <data_dir>, which it creates if need be, and serves it
on <port> until it gets SIGINT or SIGTERM. Port 0 means any free one; the log on
standard error says which.`,
		Example: `  zue-server 9000 ./data
  zue-server 9000 /var/lib/zue --listen 0.0.0.0 --sync interval=50ms`,
		Version:       fmt.Sprintf("%s (storage %s, wire %s, %s)", server.Version, storage.Version, wire.Version, runtime.Version()),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 {
				return usageError{fmt.Errorf("expected 2 arguments, a port and a data directory, not %d", len(args))}
			}
			port, err := strconv.ParseUint(args[0], 10, 16)
			if err != nil {
				return usageError{fmt.Errorf("port %q is not a number from 0 to 65535", args[0])}
			}
			if args[1] == "" {
				return usageError{errors.New("the data directory's name is empty")}
			}
			c.port, c.dataDir = uint16(port), fromCaller(args[1])
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return serve(cmd.Context(), c, stderr) },
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	cmd.Flags().StringVar(&c.listen, "listen", "127.0.0.1", "`address` to listen on")
	cmd.Flags().IntVar(&c.maxConnections, "max-connections", server.DefaultMaxConnections, "how many clients may be connected at once; others are told so and hung up on")
	cmd.Flags().StringVar(&c.sync, "sync", "always", "when appends are durable: always (before they are answered), interval=<duration>, never")
	return cmd
}

// check reports every fault of the flags at once, and reads their values.
func (c *config) check() error {
	var errs []error
	var err error
	if c.policy, err = storage.ParseSyncPolicy(c.sync); err != nil {
		errs = append(errs, fmt.Errorf("--sync: %w", err))
	}
	if c.maxConnections < 1 {
		errs = append(errs, fmt.Errorf("--max-connections is %d: want 1 or more", c.maxConnections))
	}
	return errors.Join(errs...)
}

// fromCaller makes a relative path one of the folder that "bazel run" was called
// in: Bazel starts programs in another.
func fromCaller(path string) string {
	if dir := os.Getenv("BUILD_WORKING_DIRECTORY"); dir != "" && !filepath.IsAbs(path) {
		return filepath.Join(dir, path)
	}
	return path
}

// serve opens the log and serves it until ctx ends.
func serve(ctx context.Context, c config, stderr io.Writer) error {
	if err := c.check(); err != nil {
		return usageError{err}
	}
	logger := slog.New(slog.NewTextHandler(stderr, nil))
	log, err := storage.Open(c.dataDir, storage.Options{Sync: c.policy, Logger: logger})
	if err != nil {
		return err
	}
	recovery := log.Recovery()
	logger.Info("log opened", "data_dir", c.dataDir, "first_offset", log.FirstOffset(), "end_offset", log.EndOffset(),
		"sync", c.policy.String(), "bytes_scanned", recovery.Scanned, "torn_bytes_cut", recovery.Torn)
	err = listenAndServe(ctx, c, log, logger)
	if err := errors.Join(err, log.Close()); err != nil {
		return err
	}
	logger.Info("stopped", "end_offset", log.EndOffset())
	return nil
}

func listenAndServe(ctx context.Context, c config, log *storage.Log, logger *slog.Logger) error {
	addr := net.JoinHostPort(c.listen, strconv.Itoa(int(c.port)))
	listener, err := net.Listen("tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%w: another program has port %d; stop it or choose another port", err, c.port)
	}
	if err != nil {
		return err
	}
	s, err := server.New(log, server.Options{Logger: logger, MaxConnections: c.maxConnections, Sync: c.policy})
	if err != nil {
		return err
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
