package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/zue-log/zue/client"
	"github.com/zue-log/zue/net/wire"
	"github.com/zue-log/zue/replication/conf"
	"github.com/zue-log/zue/server"
	"github.com/zue-log/zue/storage"
)

const (
	maxDevNodes = 9
	devPort     = 9001
	// devPatience is how long a cluster on one machine may take to begin.
	devPatience = 30 * time.Second
)

// dev is a cluster in one process.
type dev struct {
	nodes, port int
	nodesSet    bool
	dir         string
	sync        string
	logLevel    string

	conf    conf.Conf
	members []*server.Member
	stdout  io.Writer
	logger  *slog.Logger
}

func devCommand(stderr io.Writer) *cobra.Command {
	d := &dev{}
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a whole cluster in this process, to try Zue",
		Long: `dev runs a cluster of several nodes in one process, on this machine's loopback, and shows
that it works: it appends a record on the node that leads, and reads it on each. Then it prints
how the nodes are, and what to try next, and serves until SIGINT or SIGTERM.

The data is in a temporary directory, which is removed at the end, or in that of --dir, which is
kept: with its cluster.conf and data directories the nodes can be run as servers of their own, too.`,
		Example: `  zue-server dev
  zue-server dev --nodes 5 --dir ./cluster`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("dev takes no arguments, and got %q", args)}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			d.stdout, d.nodesSet = cmd.OutOrStdout(), cmd.Flags().Changed("nodes")
			if err := d.read(stderr); err != nil {
				return faultError{err}
			}
			return d.run(cmd.Context())
		},
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{flagError(err)} })
	f := cmd.Flags()
	f.IntVar(&d.nodes, "nodes", 3, fmt.Sprintf("how many, 1 to %d", maxDevNodes))
	f.IntVar(&d.port, "port", devPort, "of the first node; the others have the next ones")
	f.StringVar(&d.dir, "dir", "", "`directory` for cluster.conf and the nodes' data, which is kept (default: a temporary one)")
	f.StringVar(&d.sync, "sync", "always", "when appends are durable: always, interval=<duration>, never")
	f.StringVar(&d.logLevel, "log-level", "error", "least important lines to write: debug, info, warn, error")
	return cmd
}

// read checks the flags, all at once.
func (d *dev) read(stderr io.Writer) error {
	var errs []error
	if d.nodes < 1 || d.nodes > maxDevNodes {
		errs = append(errs, fmt.Errorf("--nodes: %d: want 1 to %d", d.nodes, maxDevNodes))
	}
	if d.port < 1 || d.port > 65535-maxDevNodes {
		errs = append(errs, fmt.Errorf("--port: %d: want 1 to %d", d.port, 65535-maxDevNodes))
	}
	if _, err := storage.ParseSyncPolicy(d.sync); err != nil {
		errs = append(errs, fmt.Errorf("--sync: %w", err))
	}
	var level slog.Level
	if level.UnmarshalText([]byte(d.logLevel)) != nil {
		errs = append(errs, fmt.Errorf("--log-level: %q is none of debug, info, warn, error", d.logLevel))
	}
	logger, err := newLogger("text", level, stderr)
	d.logger = logger
	return errors.Join(append(errs, err)...)
}

// run runs the cluster until ctx ends.
func (d *dev) run(ctx context.Context) (err error) {
	kept := d.dir != ""
	if kept {
		d.dir = fromCaller(d.dir)
	} else {
		if d.dir, err = os.MkdirTemp("", "zue-dev-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(d.dir)) }()
	}
	if err := d.configure(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.stop()) }()
	if err := d.start(); err != nil {
		return err
	}
	fate := "removed at the end"
	if kept {
		fate = "kept"
	}
	fmt.Fprintf(d.stdout, "Nodes in this process: %d; their data is in %s, and is %s.\n", len(d.conf.Nodes), d.dir, fate)
	if err := d.prove(ctx); err != nil {
		if ctx.Err() != nil {
			return nil // it was told to stop
		}
		return err
	}
	d.table()
	d.advise()
	return d.serve(ctx)
}

// configure writes cluster.conf, or takes the one that is there.
func (d *dev) configure() error {
	if err := os.MkdirAll(d.dir, 0o777); err != nil {
		return err
	}
	path := filepath.Join(d.dir, "cluster.conf")
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		var b strings.Builder
		for i := range d.nodes {
			role := "follower"
			if i == 0 {
				role = "leader"
			}
			fmt.Fprintf(&b, "node %d 127.0.0.1 %d %s\n", i+1, d.port+i, role)
		}
		text = []byte(b.String())
		err = os.WriteFile(path, text, 0o666)
	}
	if err != nil {
		return err
	}
	if d.conf, err = conf.Parse(text); err != nil {
		return faultsIn(path, err)
	}
	if n := len(d.conf.Nodes); d.nodesSet && n != d.nodes {
		return fmt.Errorf("%s, which is there already, has %d nodes, not the %d of --nodes: leave that out, or give another --dir", path, n, d.nodes)
	}
	return nil
}

// start starts the nodes.
func (d *dev) start() error {
	policy, err := storage.ParseSyncPolicy(d.sync)
	if err != nil {
		return err
	}
	for _, n := range d.conf.Nodes {
		listener, err := listen(config{listen: n.Host, port: n.Port})
		if err != nil {
			return fmt.Errorf("node %d: %w (dev: --port has all nodes use others)", n.ID, err)
		}
		m, err := server.StartMember(server.MemberOptions{
			Dir: filepath.Join(d.dir, fmt.Sprintf("node%d", n.ID)), Conf: d.conf, Self: n.ID, Listener: listener,
			Storage: storage.Options{Sync: policy, Logger: d.logger}, Server: server.Options{Logger: d.logger},
		})
		if err != nil {
			return fmt.Errorf("node %d: %w", n.ID, err)
		}
		d.members = append(d.members, m)
	}
	return nil
}

// prove appends a record through whoever leads, and reads it from each node.
func (d *dev) prove(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, devPatience)
	defer cancel()
	const value = "hello from zue-server dev"
	var addresses []string
	for _, n := range d.conf.Nodes {
		addresses = append(addresses, n.Address())
	}
	all, err := client.Dial(ctx, addresses, client.Options{})
	if err != nil {
		return fmt.Errorf("connect to the nodes: %w", err)
	}
	defer all.Close()
	began := time.Now()
	offset, err := all.Append(ctx, nil, []byte(value))
	if err != nil {
		return fmt.Errorf("append a record on the node that leads: %w", err)
	}
	fmt.Fprintf(d.stdout, "Appended a record on the node that leads: offset %d, after %v.\n", offset, time.Since(began).Round(time.Millisecond))
	for _, n := range d.conf.Nodes {
		if err := readAt(ctx, n.Address(), offset, value); err != nil {
			return fmt.Errorf("read offset %d from node %d: %w", offset, n.ID, err)
		}
	}
	fmt.Fprintf(d.stdout, "Read it back from each of the %d nodes.\n\n", len(d.conf.Nodes))
	return nil
}

// readAt reads a record from one server, which may not have it yet.
func readAt(ctx context.Context, address string, offset uint64, want string) error {
	c, err := client.Dial(ctx, []string{address}, client.Options{NoRetry: true})
	if err != nil {
		return err
	}
	defer c.Close()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for {
		rec, err := c.Read(ctx, offset)
		var refused *wire.Error
		switch {
		case err == nil && string(rec.Value) == want:
			return nil
		case err == nil:
			return fmt.Errorf("it is %q there, not %q", rec.Value, want)
		case !errors.As(err, &refused) || refused.Code != wire.CodeInvalidOffset:
			return err
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			return err
		}
	}
}

// table prints how the nodes are.
func (d *dev) table() {
	w := tabwriter.NewWriter(d.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "node\taddress\trole\tterm\tfirst\tcommitted\tend")
	for i, m := range d.members {
		st := m.Status()
		fmt.Fprintf(w, "%d\t%s\t%s\t%d\t%d\t%d\t%d\n", d.conf.Nodes[i].ID, m.Addr(), st.Role, st.Cluster.Term, st.FirstOffset, st.CommittedOffset, st.EndOffset)
	}
	_ = w.Flush() // as with all that is printed here, who does not read it need not
}

// advise says what to try next.
func (d *dev) advise() {
	program := "zue-client"
	if os.Getenv("BUILD_WORKING_DIRECTORY") != "" {
		program = "tools/bazel run //client:zue-client --"
	}
	first, last := d.conf.Nodes[0], d.conf.Nodes[len(d.conf.Nodes)-1]
	fmt.Fprintf(d.stdout, "\nTry, in another terminal:\n")
	for _, args := range []string{
		fmt.Sprintf("append %s %d user-17 \"logged in\"", first.Host, first.Port),
		fmt.Sprintf("read %s %d 1", last.Host, last.Port),
		fmt.Sprintf("tail %s %d", last.Host, last.Port),
		fmt.Sprintf("status %s %d", first.Host, first.Port),
		fmt.Sprintf("cluster transfer %s %d %d", first.Host, first.Port, last.ID),
	} {
		fmt.Fprintf(d.stdout, "  %s %s\n", program, args)
	}
	fmt.Fprintf(d.stdout, "\nCtrl-C stops the cluster.\n")
}

// serve waits until ctx ends, or a node does.
func (d *dev) serve(ctx context.Context) error {
	failed := make(chan int, len(d.members))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for i, m := range d.members {
		go func() {
			select {
			case <-m.Done():
				failed <- i
			case <-ctx.Done():
			}
		}()
	}
	select {
	case i := <-failed:
		return fmt.Errorf("node %d has ended", d.conf.Nodes[i].ID)
	case <-ctx.Done():
		return nil
	}
}

// stop stops all nodes, the ones that do not lead first: so nobody hands over to one that stops.
func (d *dev) stop() (err error) {
	grace, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	for _, all := range []bool{false, true} {
		for i, m := range d.members {
			if m == nil || !all && m.Status().Role == "leader" {
				continue
			}
			if stopErr := m.Stop(grace); stopErr != nil {
				err = errors.Join(err, fmt.Errorf("stop node %d: %w", d.conf.Nodes[i].ID, stopErr))
			}
			d.members[i] = nil
		}
	}
	return err
}
