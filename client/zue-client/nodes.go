package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/zue-log/zue/client"
	"github.com/zue-log/zue/net/wire"
)

// nodesVariable names the environment variable that stands for --node.
const nodesVariable = "ZUE_NODES"

// server is where the command is to connect to.
type server struct {
	host, port string
	others     []string // addresses of other nodes, for when it is down
}

func (s server) address() string { return net.JoinHostPort(s.host, s.port) }

// addresses returns all, in the order in which they are to be tried.
func (s server) addresses() []string { return append([]string{s.address()}, s.others...) }

// parseServer checks what all commands have in common: host, port, other nodes and timeout.
func (a *app) parseServer(cmd *cobra.Command, host, port string) (server, error) {
	if host == "" {
		return server{}, &usageError{"the host is empty", cmd}
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return server{}, &usageError{fmt.Sprintf("port %q: want a number from 1 to 65535", port), cmd}
	}
	if a.timeout <= 0 {
		return server{}, &usageError{fmt.Sprintf("timeout %v: want more than 0, such as 10s", a.timeout), cmd}
	}
	// JoinHostPort puts brackets around an IPv6 host; a user may have, too.
	if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		host = host[1 : len(host)-1]
	}
	s := server{host: host, port: strconv.FormatUint(n, 10)}
	s.others, err = a.parseNodes(cmd, s.address())
	return s, err
}

// parseNodes returns the addresses of --node or, without it, of the environment, but those that
// there are already.
func (a *app) parseNodes(cmd *cobra.Command, first string) ([]string, error) {
	given, from := a.nodes, "--node"
	if len(given) == 0 {
		given, from = strings.Split(os.Getenv(nodesVariable), ","), nodesVariable
	}
	var others []string
	for _, node := range given {
		if node = strings.TrimSpace(node); node == "" {
			continue
		}
		host, port, err := net.SplitHostPort(node)
		n, notANumber := strconv.ParseUint(port, 10, 16)
		if err != nil || host == "" || notANumber != nil || n == 0 {
			return nil, &usageError{fmt.Sprintf("%s %q: want host:port, such as 127.0.0.1:9002", from, node), cmd}
		}
		if node != first && !slices.Contains(others, node) {
			others = append(others, node)
		}
	}
	return others, nil
}

// dial connects within the timeout.
func (a *app) dial(ctx context.Context, s server, opts client.Options) (*client.Client, error) {
	return a.dialAddresses(ctx, s.addresses(), opts)
}

func (a *app) dialAddresses(ctx context.Context, addresses []string, opts client.Options) (*client.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	opts.DialTimeout, opts.StallTimeout = a.timeout, a.timeout
	return client.Dial(ctx, addresses, opts)
}

// electionPoll is how often it is asked who leads, and whether that can be reached by now.
const electionPoll = 100 * time.Millisecond

// dialLeader connects to the node that leads, and waits for there to be one: it is for what is
// not to be sent twice, as what a follower refuses would have to be.
func (a *app) dialLeader(ctx context.Context, s server, opts client.Options) (*client.Client, error) {
	opts.NoRetry = true
	c, err := a.dial(ctx, s, opts)
	if err != nil {
		return nil, err
	}
	asking, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	var why error // of the last time that was not cut short
	for {
		leader, err := a.findLeader(asking, c)
		if err == nil && leader == c.Address() {
			return c, nil
		}
		if err == nil {
			var there *client.Client
			if there, err = a.dialAddresses(asking, []string{leader}, opts); err == nil {
				_ = c.Close() // nothing is lost with it
				return there, nil
			}
		}
		if why == nil || asking.Err() == nil {
			why = err
		}
		if errors.Is(err, client.ErrProtocol) {
			_ = c.Close()
			return nil, err // waiting makes no server of it
		}
		select {
		case <-time.After(electionPoll):
		case <-asking.Done():
			_ = c.Close()
			return nil, why
		}
	}
}

// findLeader returns the address of the node that leads. A server without a cluster, or one
// that does not know what a status is, is taken to lead.
func (a *app) findLeader(ctx context.Context, c *client.Client) (string, error) {
	st, err := c.Status(ctx)
	switch {
	case errors.As(err, new(*wire.Error)):
		return c.Address(), nil
	case err != nil:
		return "", err
	case st.Cluster == nil || st.Cluster.Leader == st.Cluster.Node:
		return c.Address(), nil
	case st.Cluster.LeaderAddress == "":
		return "", fmt.Errorf("%s knows of no node that leads: are most nodes of the cluster up?", c.Address())
	}
	return st.Cluster.LeaderAddress, nil
}

// ask dials and has do make its requests, which have a timeout together.
func (a *app) ask(ctx context.Context, s server, opts client.Options, do func(ctx context.Context, c *client.Client) error) error {
	c, err := a.dial(ctx, s, opts)
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	return do(ctx, c)
}

// reading are the options for what any node can answer: another one is asked only if there is
// one.
func (s server) reading() client.Options { return client.Options{NoRetry: len(s.others) == 0} }
