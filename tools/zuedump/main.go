// Command zuedump shows what is in a Zue log, or in one of its files, checks it, and
// explains what is wrong with it.
//
//	zuedump <data_dir>                  one line per entry
//	zuedump --records <data_dir>        the records, too
//	zuedump --check <file>.log          a summary, and what is damaged
//
// It changes nothing and takes no lock, so a server may have the log open. Results go
// to standard output, errors to standard error. The exit status is 0 when all is well,
// 1 when something is damaged or has failed, and 2 for wrong usage.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/zue-log/zue/storage"
	"github.com/zue-log/zue/storage/vfs"
)

// Exit statuses.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	// Else the end of "zuedump | head" would be a signal, and the status its.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// usageError is a fault in the command line.
type usageError struct{ error }

// errDamaged is the result of a dump that came across damage, which it has printed.
var errDamaged = errors.New("the log is damaged")

// run runs the command with the arguments that follow its name, and returns its exit
// status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	cmd := command()
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	err := cmd.ExecuteContext(ctx)
	var usage usageError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "zuedump: %v\n\n%s", err, cmd.UsageString())
		return exitUsage
	default:
		fmt.Fprintf(stderr, "zuedump: %v\n", err)
		return exitFailed
	}
}

// config is what the command line says.
type config struct {
	path     string
	records  bool
	full     bool
	check    bool
	json     bool
	index    bool
	state    bool
	from, to uint64 // offsets, both included
}

// entries says whether entries are printed.
func (c *config) entries() bool { return !c.check && !c.index && !c.state }

const longHelp = `zuedump shows what is in a Zue log: a data directory, or a single .log file. It
prints one line for each entry, a heading for each segment, and explains what is
damaged. It changes nothing and takes no lock, so a server may have the log open.

Results go to standard output, errors to standard error. The exit status is 0 when
all is well, 1 when something is damaged or has failed, and 2 for wrong usage. Bytes
behind the last entry that never were durable, as a crash leaves them, are no damage.

With --json each line is an object with a "type":
  state    path, missing, sequence, origin, reset, durable_mark, copies (what is wrong
           with each, or null), mark_error, user or user_base64
  segment  path, size, before, created, sealed, void, beyond, error
  entry    path, position, size, index, term, offset, span, kind, bytes, codec,
           records, base_timestamp, max_timestamp, checksum, chain, durable_mark, resumed
  record   offset, timestamp, key or key_base64, value or value_base64, headers
  damage   path, from, to, index, offset, reason, durable_mark, flaws (field, position,
           found, expected), meaning, advice
  gap      path, want, found, at_end, reason, durable_mark, meaning, advice
  space    path, from, to, torn_bytes, reason, next, durable_mark, flaws, meaning, advice
  footer   path, position, end, last, max_timestamp
  index    path, health, error, points, end, last
  point    offset, index, position, record, max_timestamp_before
  summary  segments, sealed, entries, records, bytes, end_offset, torn_bytes,
           segments_beyond, indexes, damaged
A place (origin, before, want, found, next, last) has index, term, offset and chain.
Chains and checksums are in hexadecimal, timestamps in ms since the Unix epoch.`

func command() *cobra.Command {
	c := config{to: math.MaxUint64}
	cmd := &cobra.Command{
		Use:   "zuedump [flags] <data_dir | file.log>",
		Short: "Show and check what is in a Zue log",
		Long:  longHelp,
		Example: `  zuedump ./data                              # one line for each entry
  zuedump --records --from 100 --to 120 ./data
  zuedump --check ./data                      # a summary, and what is damaged
  zuedump --json ./data | jq -c 'select(.type == "damage")'`,
		Version:       storage.Version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 || args[0] == "" {
				return usageError{fmt.Errorf("expected one path, of a data directory or a .log file, not %d", len(args))}
			}
			c.path = fromCaller(args[0])
			return c.validate()
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return dump(cmd.Context(), c, cmd.OutOrStdout())
		},
	}
	cmd.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	flags := cmd.Flags()
	flags.BoolVar(&c.records, "records", false, "print the records, long keys and values cut short")
	flags.BoolVar(&c.full, "full", false, "print whole keys and values; implies --records")
	flags.BoolVar(&c.check, "check", false, "print a summary and what is damaged; decodes all records")
	flags.BoolVar(&c.json, "json", false, "print a JSON object per line")
	flags.BoolVar(&c.index, "index", false, "print the index files, point by point, instead of the entries")
	flags.BoolVar(&c.state, "state", false, "print the state file instead of the entries")
	flags.Uint64Var(&c.from, "from", 0, "print entries and records from this `offset` on")
	flags.Uint64Var(&c.to, "to", math.MaxUint64, "print entries and records up to this `offset`")
	flags.Lookup("to").DefValue = "0" // which is not printed
	return cmd
}

// fromCaller makes a relative path one of the folder that "bazel run" was called in:
// Bazel starts programs in another.
func fromCaller(path string) string {
	if dir := os.Getenv("BUILD_WORKING_DIRECTORY"); dir != "" && !filepath.IsAbs(path) {
		return filepath.Join(dir, path)
	}
	return path
}

func (c *config) validate() error {
	c.records = c.records || c.full
	var errs []error
	if c.from > c.to {
		errs = append(errs, fmt.Errorf("--from %d lies behind --to %d", c.from, c.to))
	}
	if c.records && !c.entries() {
		errs = append(errs, errors.New("--records and --full go with entries, not with --check, --index or --state"))
	}
	if c.check && (c.index || c.state) {
		errs = append(errs, errors.New("--check prints no --index and no --state"))
	}
	if err := errors.Join(errs...); err != nil {
		return usageError{err}
	}
	return nil
}

// dump walks through the log and prints what it comes across.
func dump(ctx context.Context, c config, stdout io.Writer) error {
	st, err := os.Stat(c.path)
	if err != nil {
		return err
	}
	if c.state && !st.IsDir() {
		return usageError{fmt.Errorf("--state needs a data directory; %s is a file", c.path)}
	}
	d := newDumper(ctx, c, stdout, !st.IsDir())
	options := storage.WalkOptions{Batches: c.check}
	if st.IsDir() {
		err = storage.Walk(vfs.OS{}, c.path, options, d.visit)
	} else {
		err = storage.WalkSegment(vfs.OS{}, c.path, options, d.visit)
	}
	if err == nil {
		err = d.finish()
	} else {
		// What was found before the failure is worth having.
		err = errors.Join(err, d.out.Flush())
	}
	switch {
	case errors.Is(err, syscall.EPIPE):
		err = nil // the reader has seen enough
	case errors.Is(err, context.Canceled):
		return errors.New("interrupted")
	}
	if n := len(d.report.Damage); err == nil && n > 0 {
		return fmt.Errorf("%s: %w (bad places: %d)", c.path, errDamaged, n)
	}
	return err
}
