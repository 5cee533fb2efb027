package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/zue-log/zue/replication/conf"
	"github.com/zue-log/zue/replication/core"
	"github.com/zue-log/zue/server"
)

// membership is what the arguments and flags say of a cluster.
type membership struct {
	path   string // of cluster.conf, as it was given
	conf   conf.Conf
	self   core.NodeID
	secret []byte
}

// readCluster takes the arguments of a cluster's node. It reports every fault at once.
func (c *config) readCluster(path, id string) error {
	m := &membership{path: path}
	var errs []error
	text, err := os.ReadFile(fromCaller(path))
	if err != nil {
		errs = append(errs, fmt.Errorf("read the cluster's configuration: %w", err))
	} else if m.conf, err = conf.Parse(text); err != nil {
		errs = append(errs, faultsIn(path, err))
	}
	n, idErr := strconv.ParseUint(id, 10, 16)
	if idErr != nil || n < 1 || n > core.MaxNodeID {
		errs = append(errs, fmt.Errorf("node %q is not a number from 1 to %d", id, core.MaxNodeID))
	}
	m.self = core.NodeID(n)
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	node, ok := m.conf.Node(m.self)
	switch {
	case !ok:
		return fmt.Errorf("node %d is not in %s, which has %s", m.self, path, nodeNumbers(&m.conf))
	case c.port != node.Port:
		return fmt.Errorf("port %d is not that of node %d in %s, which is %d: other nodes and clients go by the file, so give the same in both places", c.port, m.self, path, node.Port)
	}
	c.cluster = m
	return nil
}

// faultsIn names the file in each fault of it.
func faultsIn(path string, err error) error {
	var faults *conf.Error
	if !errors.As(err, &faults) {
		return fmt.Errorf("%s: %w", path, err)
	}
	var errs []error
	for _, f := range faults.Faults {
		if f.Line > 0 {
			errs = append(errs, fmt.Errorf("%s:%d: %s", path, f.Line, f.What))
		} else {
			errs = append(errs, fmt.Errorf("%s: %s", path, f.What))
		}
	}
	return errors.Join(errs...)
}

// nodeNumbers lists the nodes of a cluster.
func nodeNumbers(c *conf.Conf) string {
	numbers := make([]string, len(c.Nodes))
	for i, n := range c.Nodes {
		numbers[i] = strconv.Itoa(int(n.ID))
	}
	if len(numbers) == 1 {
		return "node " + numbers[0]
	}
	return "nodes " + strings.Join(numbers[:len(numbers)-1], ", ") + " and " + numbers[len(numbers)-1]
}

// readSecret reads the cluster's secret from the file that --cluster-secret-file names. Blanks and
// line feeds around it do not count: an editor may have put them there.
func (c *config) readSecret() error {
	path := fromCaller(c.secretFile)
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	secret := strings.TrimSpace(string(b))
	if secret == "" {
		return fmt.Errorf("%s is empty: want a secret that all nodes of the cluster have in common, such as \"openssl rand -hex 32\" makes", path)
	}
	c.cluster.secret = []byte(secret)
	if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o007 != 0 {
		c.warnings = append(c.warnings, fmt.Sprintf("%s holds the cluster's secret, and everybody on this machine may use it: chmod o= it", path))
	}
	return nil
}

// warnHosts notes hosts that no other machine can reach.
func (c *config) warnHosts() {
	for _, n := range c.cluster.conf.Nodes {
		if ip := net.ParseIP(n.Host); ip != nil && ip.IsUnspecified() {
			c.warnings = append(c.warnings, fmt.Sprintf("%s gives node %d the host %s, which on each machine is that machine itself: write the address by which the others, and clients, reach the node, "+
				"and use --listen where it is to listen on all", c.cluster.path, n.ID, n.Host))
		}
	}
}

// listenHost returns where a cluster's node listens if --listen does not say: on the host that
// cluster.conf gives it. What is not this machine's is refused, since a node that listens
// elsewhere would never be reached, and nobody would be told.
func (c *config) listenHost(ctx context.Context) (string, error) {
	node, _ := c.cluster.conf.Node(c.cluster.self)
	what := fmt.Sprintf("%s gives node %d the host %s", c.cluster.path, node.ID, node.Host)
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", node.Host)
	if err != nil {
		return "", fmt.Errorf("%s, which cannot be looked up: %w; say with --listen where to listen", what, err)
	}
	own, err := ownAddresses()
	if err != nil {
		return "", fmt.Errorf("list this machine's addresses: %w; say with --listen where to listen", err)
	}
	isName := net.ParseIP(node.Host) == nil
	loopback := ""
	for _, ip := range ips {
		ip = ip.Unmap()
		switch {
		case ip.IsUnspecified():
			return ip.String(), nil
		case ip.IsLoopback() && loopback == "":
			loopback = ip.String()
		case own[ip.String()]:
			return ip.String(), nil
		}
	}
	switch {
	case loopback == "":
		return "", fmt.Errorf("%s, which is no address of this machine: if it gets here all the same, say with --listen where to listen (0.0.0.0 is all)", what)
	case isName && !strings.EqualFold(node.Host, "localhost") && !c.allLoopback(ctx):
		// As Debian has it in /etc/hosts.
		return "", fmt.Errorf("%s, which on this machine is %s, where no other machine gets: say with --listen where to listen (0.0.0.0 is all)", what, loopback)
	}
	return loopback, nil
}

// ownAddresses are those of this machine's interfaces.
func ownAddresses() (map[string]bool, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	own := map[string]bool{}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			own[n.IP.String()] = true
		}
	}
	return own, nil
}

// allLoopback says whether all nodes are on this machine.
func (c *config) allLoopback(ctx context.Context) bool {
	for _, n := range c.cluster.conf.Nodes {
		ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", n.Host)
		if err != nil {
			return false
		}
		for _, ip := range ips {
			if !ip.IsLoopback() {
				return false
			}
		}
	}
	return true
}

// serveMember runs a cluster's node until ctx ends, or it fails.
func serveMember(ctx context.Context, c config) error {
	logger := c.server.Logger
	if !c.listenSet {
		host, err := c.listenHost(ctx)
		if err != nil {
			return err
		}
		c.listen = host
	}
	for _, w := range c.warnings {
		logger.Warn(w)
	}
	listener, err := listen(c)
	if err != nil {
		return err
	}
	m, err := server.StartMember(server.MemberOptions{
		Dir: c.dataDir, Conf: c.cluster.conf, Self: c.cluster.self, Secret: c.cluster.secret, Listener: listener,
		CatchUpRate: int64(c.catchUpRate), Storage: c.storage, Server: c.server,
	})
	if err != nil {
		return err
	}
	select {
	case <-m.Done():
		return m.Err()
	case <-ctx.Done():
	}
	logger.Info("stopping", "why", context.Cause(ctx))
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if err := m.Stop(grace); err != nil {
		return err
	}
	logger.Info("stopped")
	return nil
}
