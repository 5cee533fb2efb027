package main

import (
	"bytes"
	"context"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/zue-log/zue/client"
)

func (a *app) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status <host> <port>",
		Short: "Show how a server and its log are",
		Long: `status shows how a server and its log are, as a table.

With --json it prints the server's own answer, an object: net/PROTOCOL.md has its members.`,
		Example: `  zue-client status 127.0.0.1 9000
  zue-client status 127.0.0.1 9000 --json`,
		Args: wantArgs("host", "port"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.parseServer(cmd, args[0], args[1])
			if err != nil {
				return err
			}
			return a.status(cmd.Context(), s)
		},
	}
}

func (a *app) status(ctx context.Context, s server) error {
	return a.ask(ctx, s, func(ctx context.Context, c *client.Client) error {
		st, err := c.Status(ctx)
		if err != nil {
			return err
		}
		if _, err := a.stdout.Write(a.statusText(st)); err != nil {
			return fmt.Errorf("print the status: %w", outputError(err))
		}
		return nil
	})
}

func (a *app) statusText(st client.Status) []byte {
	if a.json {
		return append(st.JSON, '\n')
	}
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) { fmt.Fprintf(w, name+"\t"+format+"\n", args...) }
	line("server", "%s", printable(st.Address))
	line("role", "%s", printable(st.Role))
	line("version", "%s, storage %s, protocol %d", printable(st.Version), printable(st.Storage), st.Protocol)
	line("up for", "%v", time.Duration(st.Uptime*float64(time.Second)).Round(time.Second))
	line("records", "%d (offset %d to before %d)", st.EndOffset-st.FirstOffset, st.FirstOffset, st.EndOffset)
	line("entries", "the last is %d; on disk for sure up to %d", st.LastIndex, st.DurableIndex)
	line("files", "%d segments, %d bytes", st.Segments, st.FileBytes)
	line("sync", "%s: %s", printable(st.Sync), printable(st.SyncMeaning))
	line("connections", "%d of at most %d", st.Connections, st.MaxConnections)
	if st.Failed != "" {
		line("FAILED", "%s", printable(st.Failed))
	}
	_ = w.Flush() // into memory
	return b.Bytes()
}
