package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/zue-log/zue/client"
)

// nullKey is the argument that stands for the null key.
const nullKey = "-"

func (a *app) appendCommand() *cobra.Command {
	var fromStdin, idempotent bool
	var batchBytes int
	cmd := &cobra.Command{
		Use:   "append <host> <port> {<key> <value> | --stdin}",
		Short: "Append a record, or every line of standard input, and print the offset",
		Long: `append appends one record and prints its offset. In a cluster it goes to the node that leads,
whichever is named; when none does, as during an election, or too few replicas are in sync, it
is tried again until --timeout. With --stdin it goes on through that only with --idempotent;
without, it ends, and says up to which line all is stored.

The key "-" is the null key; "" is the empty key, which is something else. A key or
value that begins with "-" goes after "--". Without it, -h and --help print this help,
append nothing, and the exit status is 0.

With --stdin, every line of standard input becomes the value of a record with the
null key, without its line feed. Empty lines count; so does a last line without a
line feed. Lines are appended in batches, as they come: when a batch is refused, so are
all its lines, and no further batch is sent; those under way may be stored. Printed are the offsets of the first and the
last record. If it stops midway, it says on standard error which lines are stored, and
the exit status is 1.

With --stdin --idempotent, once connected, a batch is sent again when the connection is lost,
the server is down, or another node leads, for --timeout: each line is in the log once all the same, in order. The
server must be up at the beginning.

With --stdin --json, one object is printed:
  {"records":2,"first_offset":7,"last_offset":8}
If it stops midway, there is more in it, and the exit status is 1:
  {"records":2,"first_offset":7,"last_offset":8,"unknown_from_line":3,"unknown_to_line":5}
The first 2 lines are surely stored; lines 3 to 5 may or may not be; no line after
these is. The last two are null when there are no such lines; the offsets are null
when records is 0. Nothing is printed when the server cannot be connected to.`,
		Example: `  zue-client append 127.0.0.1 9000 user-17 "logged in"
  zue-client append 127.0.0.1 9000 - "no key"
  zue-client append 127.0.0.1 9000 -- --key -value
  zue-client append 127.0.0.1 9000 --stdin < events.txt`,
		Args: func(cmd *cobra.Command, args []string) error {
			if fromStdin {
				return checkArgs(cmd, args, []string{"host", "port"})
			}
			return checkArgs(cmd, args, []string{"host", "port", "key", "value"})
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.parseServer(cmd, args[0], args[1])
			if err != nil {
				return err
			}
			if fromStdin {
				if batchBytes < 1 || batchBytes > maxBatchBytes {
					return &usageError{fmt.Sprintf("--batch-bytes %d: want 1 to %d", batchBytes, maxBatchBytes), cmd}
				}
				return a.appendLines(cmd.Context(), s, batchBytes, idempotent)
			}
			if idempotent {
				return &usageError{"--idempotent is for --stdin", cmd}
			}
			if cmd.Flags().Changed("batch-bytes") {
				return &usageError{"--batch-bytes is for --stdin", cmd}
			}
			key := []byte(args[2])
			if args[2] == nullKey {
				key = nil
			}
			return a.appendOne(cmd.Context(), s, key, []byte(args[3]))
		},
	}
	cmd.Flags().BoolVar(&fromStdin, "stdin", false, "append every line of standard input")
	cmd.Flags().IntVar(&batchBytes, "batch-bytes", defaultBatchBytes, "with --stdin, how many bytes of lines are appended together at most; 1: each by itself")
	cmd.Flags().BoolVar(&idempotent, "idempotent", false, "with --stdin, once connected, send again what may have been appended: the server appends it once")
	return cmd
}

const (
	defaultBatchBytes = 256 << 10
	maxBatchBytes     = 8 << 20
)

func (a *app) appendOne(ctx context.Context, s server, key, value []byte) error {
	return a.ask(ctx, s, client.Options{}, func(ctx context.Context, c *client.Client) error {
		offset, err := c.Append(ctx, key, value)
		if err != nil {
			return err
		}
		if err := a.printOffset(offset); err != nil {
			return fmt.Errorf("the record is stored at offset %d, but that cannot be printed: %w", offset, err)
		}
		return nil
	})
}
