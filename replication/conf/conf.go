// Package conf reads cluster.conf, which says of which nodes a cluster is made when it begins,
// and how it replicates.
//
//	node 1 192.168.1.10 9001 leader      # number, host, port, and who stands first
//	node 2 192.168.1.11 9002 follower
//	node 3 192.168.1.12 9003 follower
//
//	quorum 2                  # copies before an append is acknowledged; default: a majority of the members
//	timeout 5000              # ms that an append may take; default 5000
//	max_lag 1000              # records that a replica in sync may be behind; default 1000
//	heartbeat 2000            # ms between reports of followers; default 2000
//	election auto             # or static: the leader leads, nobody else ever does; default auto
//	election_timeout 1000     # ms; default 1000
//
// Words are separated by blanks and tabs; # begins a comment; lines may come in any order.
package conf

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/zue-log/zue/replication/core"
)

// Conf is what a cluster.conf says.
type Conf struct {
	// Nodes are in the order of the file. Exactly one is Preferred.
	Nodes []Node
	// Quorum is on how many nodes an append is durable before it is acknowledged; 0, if the file
	// does not say: on a majority of the members that there are at the time. At least a
	// majority.
	Quorum int
	// Timeout is how long an append may wait for that.
	Timeout time.Duration
	// MaxLag is by how many records a replica in sync may be behind.
	MaxLag uint64
	// Heartbeat is how often followers report.
	Heartbeat time.Duration
	// Static says that nobody but the preferred node ever leads.
	Static bool
	// ElectionTimeout is how long followers hear nothing of a leader before they stand.
	ElectionTimeout time.Duration
}

// Node is one node.
type Node struct {
	ID   core.NodeID
	Host string
	Port uint16
	// Preferred is set for the one that the file calls leader: it stands first.
	Preferred bool
}

// Address returns "host:port".
func (n *Node) Address() string { return net.JoinHostPort(n.Host, strconv.Itoa(int(n.Port))) }

// Preferred returns the node that stands first.
func (c *Conf) Preferred() core.NodeID {
	for _, n := range c.Nodes {
		if n.Preferred {
			return n.ID
		}
	}
	return 0
}

// Node returns the node with that number; false if there is none.
func (c *Conf) Node(id core.NodeID) (Node, bool) {
	for _, n := range c.Nodes {
		if n.ID == id {
			return n, true
		}
	}
	return Node{}, false
}

// Fault is one thing that is wrong with a cluster.conf.
type Fault struct {
	Line int // from 1; 0: it is about the whole file
	What string
}

// String returns such as "line 3: ...".
func (f Fault) String() string {
	if f.Line == 0 {
		return f.What
	}
	return fmt.Sprintf("line %d: %s", f.Line, f.What)
}

// Error is all that is wrong with a cluster.conf.
type Error struct{ Faults []Fault }

// Error implements error: a line for each fault.
func (e *Error) Error() string {
	lines := make([]string, len(e.Faults))
	for i, f := range e.Faults {
		lines[i] = f.String()
	}
	return strings.Join(lines, "\n")
}

// Limits of what a file may say.
const (
	// MaxNodes is how many nodes there may be.
	MaxNodes = 31
	// MinElectionTimeout is the least election timeout.
	MinElectionTimeout = 50 * time.Millisecond
	maxMillis          = 24 * 60 * 60 * 1000
)

// parser is the state of Parse.
type parser struct {
	conf   Conf
	faults []Fault
	line   int
	seen   map[string]int // lines, by what may be there once
}

func (p *parser) fault(format string, args ...any) {
	p.faults = append(p.faults, Fault{p.line, fmt.Sprintf(format, args...)})
}

// Parse reads a cluster.conf. The error is an [*Error] that has all faults.
func Parse(text []byte) (Conf, error) {
	p := &parser{seen: map[string]int{}, conf: Conf{
		Timeout: 5 * time.Second, MaxLag: 1000, Heartbeat: 2 * time.Second, ElectionTimeout: time.Second,
	}}
	for line := range strings.Lines(strings.TrimPrefix(string(text), "\ufeff")) {
		p.line++
		line, _, _ = strings.Cut(line, "#")
		if words := strings.Fields(line); len(words) > 0 {
			p.parse(words)
		}
	}
	p.line = 0
	p.check()
	if len(p.faults) > 0 {
		return Conf{}, &Error{p.faults}
	}
	return p.conf, nil
}

// once notes what a line is about, and says whether it is the first that is.
func (p *parser) once(what string) bool {
	if line := p.seen[what]; line > 0 {
		p.fault("%s is on line %d already", what, line)
		return false
	}
	p.seen[what] = p.line
	return true
}

// parse takes the words of a line.
func (p *parser) parse(words []string) {
	key, values := words[0], words[1:]
	if key == "node" {
		p.node(values)
		return
	}
	numbers := map[string]struct {
		min, max uint64
		set      func(uint64)
	}{
		"quorum":           {1, MaxNodes, func(n uint64) { p.conf.Quorum = int(n) }},
		"timeout":          {1, maxMillis, func(n uint64) { p.conf.Timeout = time.Duration(n) * time.Millisecond }},
		"max_lag":          {0, 1 << 62, func(n uint64) { p.conf.MaxLag = n }},
		"heartbeat":        {1, maxMillis, func(n uint64) { p.conf.Heartbeat = time.Duration(n) * time.Millisecond }},
		"election_timeout": {uint64(MinElectionTimeout.Milliseconds()), maxMillis, func(n uint64) { p.conf.ElectionTimeout = time.Duration(n) * time.Millisecond }},
	}
	number, ok := numbers[key]
	switch {
	case !ok && key != "election":
		p.fault("%q is none of node, quorum, timeout, max_lag, heartbeat, election and election_timeout", key)
		return
	case len(values) != 1:
		p.fault("%s wants one value, not %d", key, len(values))
		return
	case !p.once(key):
		return
	}
	if key == "election" {
		if p.conf.Static = values[0] == "static"; !p.conf.Static && values[0] != "auto" {
			p.fault("election %q: want auto or static", values[0])
		}
		return
	}
	n, err := strconv.ParseUint(values[0], 10, 64)
	if err != nil || n < number.min || n > number.max {
		p.fault("%s %q: want a number from %d to %d", key, values[0], number.min, number.max)
		return
	}
	number.set(n)
}

// node takes what follows "node".
func (p *parser) node(words []string) {
	if len(words) != 4 {
		p.fault("a node wants a number, a host, a port, and leader or follower: %d words, not 4", len(words))
		return
	}
	var n Node
	id, err := strconv.ParseUint(words[0], 10, 64)
	if err != nil || id < 1 || id > core.MaxNodeID {
		p.fault("node %q: want a number from 1 to %d", words[0], core.MaxNodeID)
	} else {
		p.once(fmt.Sprintf("node %d", id))
	}
	n.ID = core.NodeID(id)
	if n.Host = strings.Trim(words[1], "[]"); n.Host == "" || strings.ContainsAny(n.Host, "[]/ ") {
		p.fault("host %q: want a name or an address", words[1])
	}
	port, err := strconv.ParseUint(words[2], 10, 16)
	if err != nil || port < 1 {
		p.fault("port %q: want a number from 1 to 65535", words[2])
	}
	n.Port = uint16(port)
	if err == nil && n.Host != "" {
		p.once("address " + n.Address())
	}
	switch words[3] {
	case "leader":
		n.Preferred = true
		p.once("the leader")
	case "follower":
	default:
		p.fault("%q: want leader or follower", words[3])
	}
	p.conf.Nodes = append(p.conf.Nodes, n)
}

// check checks what no line shows by itself.
func (p *parser) check() {
	n := len(p.conf.Nodes)
	majority := n/2 + 1
	switch {
	case n == 0:
		p.fault("there is no node: want a line such as \"node 1 127.0.0.1 9001 leader\"")
		return
	case n > MaxNodes:
		p.fault("there are %d nodes: want %d at most", n, MaxNodes)
	}
	if p.seen["the leader"] == 0 {
		p.fault("no node is the leader: want exactly one, which stands first")
	}
	if q := p.conf.Quorum; q > 0 && (q < majority || q > n) {
		p.line = p.seen["quorum"]
		p.fault("quorum %d of %d nodes: want a majority or more, %d to %d", q, n, majority, n)
	}
}
