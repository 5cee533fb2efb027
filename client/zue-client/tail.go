package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/spf13/cobra"

	"github.com/zue-log/zue/client"
)

func (a *app) tailCommand() *cobra.Command {
	var raw bool
	var from, count uint64
	cmd := &cobra.Command{
		Use:   "tail <host> <port>",
		Short: "Print records as they are appended",
		Long: `tail prints the values of the records that are appended from now on, each with a line
feed, until it is interrupted; then the exit status is 0. It goes on when the connection
is lost and made anew, and leaves no record out.

With --json it prints offset, key and value, as read does, an object a line.`,
		Example: `  zue-client tail 127.0.0.1 9000
  zue-client tail 127.0.0.1 9000 --from 0 --count 10 --json`,
		Args: wantArgs("host", "port"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.parseServer(cmd, args[0], args[1])
			if err != nil {
				return err
			}
			if raw && a.json {
				return &usageError{"--raw and --json exclude each other", cmd}
			}
			return a.tail(cmd.Context(), s, from, !cmd.Flags().Changed("from"), count, raw)
		},
	}
	cmd.Flags().Uint64Var(&from, "from", 0, "begin with this offset (default: with the next record)")
	cmd.Flags().Uint64Var(&count, "count", 0, "end after so many records (default: never)")
	cmd.Flags().BoolVar(&raw, "raw", false, "print exactly the values' bytes, without line feeds")
	return cmd
}

func (a *app) tail(ctx context.Context, s server, from uint64, fromEnd bool, count uint64, raw bool) error {
	c, err := a.dial(ctx, s, client.Options{})
	if err != nil {
		return err
	}
	defer c.Close()
	if fromEnd {
		asking, cancel := context.WithTimeout(ctx, a.timeout)
		defer cancel()
		if from, err = c.Barrier(asking); err != nil {
			return err
		}
	}
	to := uint64(math.MaxUint64)
	if count > 0 && count < to-from {
		to = from + count
	}
	err = a.printTail(ctx, c, from, to, raw)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil // that is how it ends
	}
	asking, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	return a.locate(asking, c, s, err)
}

// printTail prints the records from one offset to before another, waiting for them.
func (a *app) printTail(ctx context.Context, c *client.Client, from, to uint64, raw bool) error {
	t := c.Tail(from, client.TailOptions{})
	defer t.Close()
	out := bufio.NewWriterSize(a.stdout, 64<<10)
	for from < to && t.Next(ctx) {
		err := printRecord(out, t.Record(), a.json, raw)
		from = t.Record().Offset + 1
		if err == nil && (from >= t.End() || from >= to) {
			err = out.Flush() // the next record may be long in coming
		}
		if err != nil {
			return fmt.Errorf("print the record at offset %d: %w", from-1, outputError(err))
		}
	}
	// What was read before a fault is printed, too.
	return errors.Join(t.Err(), outputError(out.Flush()))
}
