package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/zue-log/zue/client"
)

const clusterCommands = "transfer, can-stop, verify, remove and allow"

func (a *app) clusterCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cluster",
		Short: "Change a cluster, and see whether its nodes agree",
		Long: `cluster has the commands for who runs a cluster. Each is given any of its nodes. A node that
is to be changed is named by its number in cluster.conf. "zue-client status" shows the nodes.`,
		Example: `  zue-client cluster can-stop 127.0.0.1 9000 2 && ssh node2 systemctl restart zue`,
		Args:    cobra.ArbitraryArgs, // so that RunE sees unknown commands
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return &usageError{"which command: " + clusterCommands + "?", cmd}
			}
			return &usageError{fmt.Sprintf("unknown command %q: there are %s", args[0], clusterCommands), cmd}
		},
	}
	cmd.AddCommand(a.transferCommand(), a.canStopCommand(), a.verifyCommand(), a.removeCommand(), a.allowCommand())
	return cmd
}

// nodeCommand makes a command about a node, whose number is at least least.
func (a *app) nodeCommand(cmd *cobra.Command, least uint64, do func(ctx context.Context, s server, node uint16) error) *cobra.Command {
	cmd.Args = wantArgs("host", "port", "id")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		s, err := a.parseServer(cmd, args[0], args[1])
		if err != nil {
			return err
		}
		node, err := strconv.ParseUint(args[2], 10, 16)
		if err != nil || node < least || node > maxNode {
			return &usageError{fmt.Sprintf("node %q: want its number in cluster.conf, %d to %d", args[2], least, maxNode), cmd}
		}
		return do(cmd.Context(), s, uint16(node))
	}
	return cmd
}

// maxNode is the largest number that a node can have.
const maxNode = 0xFFFE

func (a *app) transferCommand() *cobra.Command {
	return a.nodeCommand(&cobra.Command{
		Use:   "transfer <host> <port> <id>",
		Short: "Have another node lead",
		Long: `transfer has the leader of a cluster hand leadership over to the node of that number, or, with
0, to the one that has most of the log. It waits until that leads, and prints its number: then the
exit status is 0. Appends go on at the new leader.

A leader that is stopped, by SIGTERM for example, hands leadership over by itself.`,
		Example: `  zue-client cluster transfer 127.0.0.1 9000 2`,
	}, 0, a.transfer)
}

func (a *app) transfer(ctx context.Context, s server, node uint16) error {
	return a.ask(ctx, s, client.Options{}, func(ctx context.Context, c *client.Client) error {
		to, err := c.Transfer(ctx, node)
		if err != nil {
			return err
		}
		leader := uint16(0)
		for leader != to {
			st, err := c.Status(ctx)
			if err == nil && st.Cluster != nil {
				leader = st.Cluster.Leader
			}
			if leader == to {
				break
			}
			select {
			case <-time.After(electionPoll):
			case <-ctx.Done():
				return fmt.Errorf("node %d was to lead, and %s does not say so after %v, but that %s does: look at the status", to, c.Address(), a.timeout, nodeOrNone(leader))
			}
		}
		return a.say(fmt.Sprintf("node %d leads\n", to), struct {
			Leader uint16 `json:"leader"`
		}{to})
	})
}

func nodeOrNone(node uint16) string {
	if node == 0 {
		return "none"
	}
	return fmt.Sprintf("node %d", node)
}

// say prints a result, as text or as JSON.
func (a *app) say(text string, result any) error {
	out := []byte(text)
	if a.json {
		out = jsonLine(result)
	}
	if _, err := a.stdout.Write(out); err != nil {
		return fmt.Errorf("print the result: %w", outputError(err))
	}
	return nil
}

func (a *app) removeCommand() *cobra.Command {
	return a.nodeCommand(&cobra.Command{
		Use:   "remove <host> <port> <id>",
		Short: "Remove a node from the cluster for good",
		Long: `remove has the leader take a node out of the cluster: its copies do not count any more, and it
does not vote. It is for a node that is not to come back; one that is stopped for a while stays
in. As many nodes as the quorum must be left. The exit status is 0 when the change is under way;
"zue-client status" shows when the node is gone.

Take it out of every cluster.conf, too.`,
		Example: `  zue-client cluster remove 127.0.0.1 9000 3`,
	}, 1, a.remove)
}

func (a *app) remove(ctx context.Context, s server, node uint16) error {
	return a.ask(ctx, s, client.Options{}, func(ctx context.Context, c *client.Client) error {
		if err := c.Remove(ctx, node); err != nil {
			return err
		}
		return a.say(fmt.Sprintf("node %d is being removed\n", node), struct {
			Node uint16 `json:"node"`
		}{node})
	})
}

func (a *app) allowCommand() *cobra.Command {
	return a.nodeCommand(&cobra.Command{
		Use:   "allow <host> <port> <id>",
		Short: "Let a node join that was never in the cluster",
		Long: `allow has the leader let a node join that no membership of the cluster has had: start it with a
cluster.conf that has all nodes and itself, on a blank directory. It copies the log, and becomes
a voter when it is up to date. (A node that has been a member, and has lost its directory, needs
no leave.)

The leader keeps that in memory. If another node leads before the new one has joined, say it
again.`,
		Example: `  zue-client cluster allow 127.0.0.1 9000 4`,
	}, 1, a.allow)
}

func (a *app) allow(ctx context.Context, s server, node uint16) error {
	return a.ask(ctx, s, client.Options{}, func(ctx context.Context, c *client.Client) error {
		if err := c.Allow(ctx, node); err != nil {
			return err
		}
		return a.say(fmt.Sprintf("node %d may join\n", node), struct {
			Node uint16 `json:"node"`
		}{node})
	})
}
