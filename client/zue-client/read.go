package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/zue-log/zue/client"
)

func (a *app) readCommand() *cobra.Command {
	var raw bool
	cmd := &cobra.Command{
		Use:   "read <host> <port> <offset>",
		Short: "Read the record at an offset, and print its value",
		Long: `read reads the record at an offset and prints its value and a line feed.

With --json it prints offset, key and value. A key or value that is not UTF-8 comes as
"key_base64" or "value_base64" instead; the null key is null.`,
		Example: `  zue-client read 127.0.0.1 9001 0
  zue-client read 127.0.0.1 9001 0 --json
  zue-client read 127.0.0.1 9001 0 --raw > value.bin`,
		Args: wantArgs("host", "port", "offset"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.parseServer(cmd, args[0], args[1])
			if err != nil {
				return err
			}
			offset, err := strconv.ParseUint(args[2], 10, 64)
			if err != nil {
				return &usageError{fmt.Sprintf("offset %q: want a number from 0 to 18446744073709551615", args[2]), cmd}
			}
			if raw && a.json {
				return &usageError{"--raw and --json exclude each other", cmd}
			}
			return a.read(cmd.Context(), s, offset, raw)
		},
	}
	cmd.Flags().BoolVar(&raw, "raw", false, "print exactly the value's bytes, without a line feed")
	return cmd
}

func (a *app) read(ctx context.Context, s server, offset uint64, raw bool) error {
	c, err := a.dial(ctx, s, client.Options{})
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	record, err := c.Read(ctx, offset)
	if err != nil {
		return err
	}
	if err := a.printRecord(record, raw); err != nil {
		return fmt.Errorf("print the record: %w", err)
	}
	return nil
}
