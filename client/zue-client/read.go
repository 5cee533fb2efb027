package main

import (
	"context"
	"fmt"
	"math"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/zue-log/zue/client"
)

func (a *app) readCommand() *cobra.Command {
	var raw bool
	var from, to uint64
	cmd := &cobra.Command{
		Use:   "read <host> <port> {<offset> | --from <offset> [--to <offset>]}",
		Short: "Read the record at an offset, or those of a range, and print their values",
		Long: `read reads the record at an offset and prints its value and a line feed.

With --json it prints offset, key and value. A key or value that is not UTF-8 comes as
"key_base64" or "value_base64" instead; the null key is null.

With --from it prints all records from that offset on, up to the one before --to or, without
it, to the last that the log has when it is asked.`,
		Example: `  zue-client read 127.0.0.1 9000 0
  zue-client read 127.0.0.1 9000 0 --json
  zue-client read 127.0.0.1 9000 0 --raw > value.bin
  zue-client read 127.0.0.1 9000 --from 100 --to 200`,
		Args: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("from") {
				return checkArgs(cmd, args, []string{"host", "port"})
			}
			if cmd.Flags().Changed("to") {
				return &usageError{"--to is for --from", cmd}
			}
			return checkArgs(cmd, args, []string{"host", "port", "offset"})
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.parseServer(cmd, args[0], args[1])
			if err != nil {
				return err
			}
			if raw && a.json {
				return &usageError{"--raw and --json exclude each other", cmd}
			}
			if cmd.Flags().Changed("from") {
				if !cmd.Flags().Changed("to") {
					to = math.MaxUint64
				}
				if to < from {
					return &usageError{fmt.Sprintf("--to %d is before --from %d", to, from), cmd}
				}
				return a.readRange(cmd.Context(), s, from, to, raw)
			}
			offset, err := strconv.ParseUint(args[2], 10, 64)
			if err != nil {
				return &usageError{fmt.Sprintf("offset %q: want a number from 0 to 18446744073709551615", args[2]), cmd}
			}
			return a.read(cmd.Context(), s, offset, raw)
		},
	}
	cmd.Flags().BoolVar(&raw, "raw", false, "print exactly the value's bytes, without a line feed")
	cmd.Flags().Uint64Var(&from, "from", 0, "print the records from this offset on")
	cmd.Flags().Uint64Var(&to, "to", 0, "with --from, end before this offset (default: at the log's end)")
	return cmd
}

func (a *app) read(ctx context.Context, s server, offset uint64, raw bool) error {
	return a.ask(ctx, s, s.reading(), func(ctx context.Context, c *client.Client) error {
		record, err := c.Read(ctx, offset)
		if err != nil {
			return a.locate(ctx, c, s, err)
		}
		if err := printRecord(a.stdout, record, a.json, raw); err != nil {
			return fmt.Errorf("print the record: %w", outputError(err))
		}
		return nil
	})
}

// readRange prints the records from one offset to before another, or to the log's end.
func (a *app) readRange(ctx context.Context, s server, from, to uint64, raw bool) error {
	return a.ask(ctx, s, s.reading(), func(asking context.Context, c *client.Client) error {
		end, err := c.Barrier(asking)
		if err != nil {
			return err
		}
		if from <= end {
			to = min(to, end)
		} // else the server says what is wrong with it
		// It takes as long as it takes, but not to say what is wrong.
		return a.locate(asking, c, s, a.printTail(ctx, c, from, to, raw))
	})
}
