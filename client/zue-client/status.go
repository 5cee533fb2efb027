package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/zue-log/zue/client"
)

func (a *app) statusCommand() *cobra.Command {
	var check bool
	cmd := &cobra.Command{
		Use:   "status <host> <port>",
		Short: "Show how a server and its log are, or all nodes of its cluster",
		Long: `status shows how a server and its log are, as a table. Of a node of a cluster it shows all
nodes, which it asks at the addresses in cluster.conf, and below them what to look at.

first, committed and end are offsets: the first kept, the first that readers do not see yet, and
the next to be given out. lag is by how many records a node is behind, and last contact when it
was heard of, both as the leader has it.

With --json it prints the server's own answer, an object: net/PROTOCOL.md has its members. Of a
cluster it prints
  {"leader":1,"warnings":["..."],"nodes":[{"node":1,"address":"10.0.0.1:9001","status":{...}},
   {"node":2,"address":"10.0.0.2:9002","error":"..."}]}
where each status is that node's own answer, and leader is null when none that answers leads.

The exit status is 0 when the server has answered, whatever it has said; with --check it is 1
when there are warnings.`,
		Example: `  zue-client status 127.0.0.1 9000
  zue-client status 127.0.0.1 9000 --json
  zue-client status 127.0.0.1 9000 --check > /dev/null || echo "look at the log server"`,
		Args: wantArgs("host", "port"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.parseServer(cmd, args[0], args[1])
			if err != nil {
				return err
			}
			return a.status(cmd.Context(), s, check)
		},
	}
	cmd.Flags().BoolVar(&check, "check", false, "exit with 1 when there are warnings")
	return cmd
}

func (a *app) status(ctx context.Context, s server, check bool) error {
	sv, asked, err := a.survey(ctx, s)
	var text []byte
	var healthy bool
	switch {
	case errors.Is(err, errNoCluster):
		text, healthy = a.statusText(asked), asked.Failed == "" && len(asked.Warnings) == 0
	case err != nil:
		return err
	default:
		warnings := sv.warnings()
		if healthy = len(warnings) == 0; a.json {
			text = sv.json(warnings)
		} else {
			text = sv.text(warnings)
		}
	}
	if _, err := a.stdout.Write(text); err != nil {
		return fmt.Errorf("print the status: %w", outputError(err))
	}
	if check && !healthy {
		return errSaid
	}
	return nil
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
	for _, warning := range st.Warnings {
		line("WARNING", "%s", printable(warning))
	}
	if st.Failed != "" {
		line("FAILED", "%s", printable(st.Failed))
	}
	_ = w.Flush() // into memory
	return b.Bytes()
}

// text is the survey as a table, and the warnings below it.
func (sv *survey) text(warnings []string) []byte {
	var b bytes.Buffer
	if sv.leader != nil {
		c := sv.leader.Cluster
		fmt.Fprintf(&b, "cluster %s: node %d leads in term %d; %d of %d voters are in sync, an append needs %d\n\n",
			printable(c.ID), c.Node, c.Term, sv.inSync(), len(c.Voters), c.Quorum)
	}
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "node\taddress\trole\tterm\tfirst\tcommitted\tend\tlag\tin sync\tlast contact\tversion")
	for i := range sv.nodes {
		n := &sv.nodes[i]
		fmt.Fprintf(w, "%d\t%s\t", n.node, orDash(printable(n.address)))
		lag, inSync, contact := sv.asReplica(n.node)
		if n.status == nil {
			fmt.Fprintf(w, "no answer\t-\t-\t-\t-\t%s\t%s\t%s\t-\n", lag, inSync, contact)
			continue
		}
		st := n.status
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%s\t%s\t%s\t%s\n", printable(st.Role), st.Cluster.Term,
			st.FirstOffset, st.CommittedOffset, st.EndOffset, lag, inSync, contact, printable(st.Version))
	}
	_ = w.Flush() // into memory
	if len(warnings) > 0 {
		fmt.Fprintln(&b)
	}
	for _, warning := range warnings {
		fmt.Fprintf(&b, "WARNING: %s\n", warning)
	}
	return b.Bytes()
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// asReplica returns what the leader knows of a node, for the table.
func (sv *survey) asReplica(node uint16) (lag, inSync, contact string) {
	if sv.leader != nil && sv.leader.Cluster.Node == node {
		return "-", "yes", "-"
	}
	r := sv.replica(node)
	if r == nil {
		return "-", "-", "-"
	}
	lag, inSync = "unknown", "no"
	if r.Lag != nil {
		lag = strconv.FormatUint(*r.Lag, 10)
	}
	if r.InSync {
		inSync = "yes"
	}
	return lag, inSync, (time.Duration(r.LastContactMillis) * time.Millisecond).String() + " ago"
}

// inSync counts the voters that are in sync, as the leader has it.
func (sv *survey) inSync() int {
	count := 0
	for _, v := range sv.leader.Cluster.Voters {
		if r := sv.replica(v); v == sv.leader.Cluster.Node || r != nil && r.InSync {
			count++
		}
	}
	return count
}

// json is the survey as an object.
func (sv *survey) json(warnings []string) []byte {
	type node struct {
		Node    uint16          `json:"node"`
		Address string          `json:"address,omitempty"`
		Status  json.RawMessage `json:"status,omitempty"`
		Error   string          `json:"error,omitempty"`
	}
	result := struct {
		Leader   *uint16  `json:"leader"`
		Warnings []string `json:"warnings"`
		Nodes    []node   `json:"nodes"`
	}{Warnings: append([]string{}, warnings...)}
	if sv.leader != nil {
		result.Leader = &sv.leader.Cluster.Node
	}
	for _, n := range sv.nodes {
		out := node{Node: n.node, Address: n.address}
		if n.err != nil {
			out.Error = n.err.Error()
		} else {
			out.Status = n.status.JSON
		}
		result.Nodes = append(result.Nodes, out)
	}
	return jsonLine(result)
}

// jsonLine encodes a result that can be encoded, as a line.
func jsonLine(result any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // "<" is no danger here
	_ = e.Encode(result)
	return b.Bytes()
}
