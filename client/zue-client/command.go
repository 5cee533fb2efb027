package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/zue-log/zue/client"
	"github.com/zue-log/zue/net/wire"
)

// Exit statuses.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
	exitPipe   = 141 // as shells have it of a program that SIGPIPE has ended
)

const commands = "append, read, tail, status, cluster and bench"

const defaultTimeout = 10 * time.Second

// app is one run of the command.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer

	timeout time.Duration
	json    bool
	nodes   []string // of --node
}

// errSaid is for an exit status of 1 of which the result, which was printed, says why.
var errSaid = errors.New("the result says why")

// usageError says that the command was called in a wrong way.
type usageError struct {
	message string
	cmd     *cobra.Command // whose help helps
}

func (e *usageError) Error() string { return e.message }

// run runs the command with the arguments that follow its name, and returns its
// exit status. When the context ends, it stops and reports how far it got.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr}
	root := a.rootCommand()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	if errors.Is(err, errNobodyReads) {
		return exitPipe
	}
	if errors.Is(err, errSaid) {
		return exitFailed
	}
	fmt.Fprintf(stderr, "zue-client: %s\n", printable(a.explain(ctx, err).Error()))
	var midway *midwayError
	if errors.As(err, &midway) {
		fmt.Fprintln(stderr, midway.tally.report())
	}
	var usage *usageError
	if errors.As(err, &usage) {
		fmt.Fprintf(stderr, "\n%s", usage.cmd.UsageString())
		return exitUsage
	}
	if h := hint(err); h != "" {
		fmt.Fprintf(stderr, "hint: %s\n", h)
	}
	return exitFailed
}

// explain puts in front of an error what the context's errors do not say.
func (a *app) explain(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		return fmt.Errorf("interrupted: %w", err)
	case errors.Is(err, context.DeadlineExceeded) && errors.As(err, new(*wire.Error)): // there were answers
		return fmt.Errorf("given up after %v: %w", a.timeout, err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, client.ErrStalled), errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("nothing came for %v: %w", a.timeout, err)
	}
	return err
}

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "zue-client",
		Short: "Append records to a Zue log, and read them back",
		Long: fmt.Sprintf(`zue-client appends records to a Zue log, and reads them back by offset.

Results go to standard output, everything else to standard error. The exit status
is 0 when all went well, 1 when something failed, and 2 for wrong usage. It is 141, with no
message, when what reads the output has gone, as head does in "zue-client read ... | head":
then not all was printed. (append says so and exits with 1: its records are stored.)

Any node of a cluster will do for <host> <port>: reads are from that node, appends go to the
one that leads. With --node, or ZUE_NODES=host:port,host:port in the environment, others are
asked when it is down.

The largest record has %d bytes, key and value together.`, wire.MaxRecord),
		Example: `  zue-client append 127.0.0.1 9000 user-17 "logged in"
  zue-client read 127.0.0.1 9000 0
  zue-client tail 127.0.0.1 9000
  zue-client status 127.0.0.1 9000`,
		Version:       client.Version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs, // so that RunE sees unknown commands
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return &usageError{"which command: " + commands + "?", cmd}
			}
			return &usageError{fmt.Sprintf("unknown command %q: there are %s", args[0], commands), cmd}
		},
	}
	root.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		message := err.Error()
		if strings.HasPrefix(message, "unknown") && cmd.Name() == "append" {
			message += `; a key or value that begins with "-" goes after "--"`
		}
		return &usageError{message, cmd}
	})
	flags := root.PersistentFlags()
	flags.DurationVar(&a.timeout, "timeout", defaultTimeout,
		"longest wait for a connection or an answer; with --stdin, for progress")
	flags.BoolVar(&a.json, "json", false, "print the result as JSON")
	flags.StringSliceVar(&a.nodes, "node", nil,
		"host:port of another node of the cluster, for when the first is down; can be given more than once (default: $"+nodesVariable+")")
	root.CompletionOptions.DisableDefaultCmd = true // for it succeeds with any argument
	root.SetHelpCommand(helpCommand())
	root.AddCommand(a.appendCommand(), a.readCommand(), a.tailCommand(), a.statusCommand(), a.clusterCommand(), a.benchCommand())
	return root
}

// helpCommand is like cobra's own, which takes an unknown command for no error.
func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [command]",
		Short: "Show the help of a command",
		Args:  cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			about, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return &usageError{fmt.Sprintf("no help about %q: there are %s", strings.Join(args, " "), commands), root}
			}
			about.InitDefaultHelpFlag() // else the help does not list it
			about.InitDefaultVersionFlag()
			return about.Help()
		},
	}
}

// wantArgs makes a check of the number of arguments, with a message that names them.
func wantArgs(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		return checkArgs(cmd, args, names)
	}
}

func checkArgs(cmd *cobra.Command, args, names []string) error {
	if len(args) > 0 {
		// An IPv6 address has more colons, or brackets around it.
		host, port, err := net.SplitHostPort(args[0])
		if _, notANumber := strconv.ParseUint(port, 10, 16); err == nil && notANumber == nil {
			return &usageError{fmt.Sprintf("%q: host and port are two arguments: %s %s", args[0], host, port), cmd}
		}
	}
	if len(args) < len(names) {
		return &usageError{"missing: <" + strings.Join(names[len(args):], "> <") + ">", cmd}
	}
	if len(args) > len(names) {
		message := fmt.Sprintf("too many arguments, from %q on", args[len(names)])
		if cmd.Name() == "append" {
			message += "; a key or value with spaces needs quotes"
		}
		return &usageError{message, cmd}
	}
	return nil
}
