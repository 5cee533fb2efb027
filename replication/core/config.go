package core

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/zue-log/zue/storage"
)

// Config configures a [Core]. All fields but Log are plain values.
type Config struct {
	// Self is this node, and Nodes are all nodes that cluster.conf lists, Self included.
	Self  NodeID
	Nodes []NodeID
	// Preferred is the node that stands first for election; with Static no other leads, but for a moment at its request.
	Preferred NodeID
	Static    bool
	// Quorum is on how many voters an append must be durable to be acknowledged; 0: on a majority
	// of those that there are at the time. At least a
	// majority of Nodes.
	Quorum int
	// MaxLag is by how many records a replica in sync may be behind what the leader had an
	// election timeout ago.
	MaxLag uint64
	// ElectionTicks is the election timeout; raft adds up to as much, by chance. A leader
	// sends heartbeats each tick. At least 3.
	ElectionTicks int
	// ReportTicks is how often a follower reports; one that has not been heard of for twice
	// as long is not in sync.
	ReportTicks int
	// TimeoutTicks is how long an append may wait to be acknowledged.
	TimeoutTicks int
	// MaxInFlightBytes is how many bytes of appends may wait; 0 means 64 MiB.
	MaxInFlightBytes int
	// RecentBytes is how many bytes of the last entries are kept in memory, for followers that
	// are little behind; 0 means 4 MiB. The last entry always is.
	RecentBytes int

	// Log is the node's log, opened with ManualCommit. The core does not close it.
	Log *storage.Log
	// Unsynced says that the log does not sync each append. BootID tells the boots of the
	// machine apart; it is for Unsynced only, and has at most 64 bytes.
	Unsynced bool
	BootID   string
	// Rand draws incarnations and the cluster's id.
	Rand *rand.Rand
}

const (
	defaultMaxInFlightBytes = 64 << 20
	defaultRecentBytes      = 4 << 20
)

// Validate reports every fault of the configuration at once.
func (c *Config) Validate() error {
	var errs []error
	fault := func(is bool, format string, args ...any) {
		if is {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	fault(!slices.Contains(c.Nodes, c.Self), "node %d is not among the nodes %v", c.Self, c.Nodes)
	fault(!slices.Contains(c.Nodes, c.Preferred), "the leader %d is not among the nodes %v", c.Preferred, c.Nodes)
	seen := map[NodeID]bool{}
	for _, n := range c.Nodes {
		fault(n < 1 || n > MaxNodeID, "node %d: want 1 to %d", n, MaxNodeID)
		fault(seen[n], "node %d comes twice", n)
		seen[n] = true
	}
	majority := len(c.Nodes)/2 + 1
	fault(c.Quorum != 0 && c.Quorum < majority || c.Quorum > len(c.Nodes), "quorum is %d: want %d to %d", c.Quorum, majority, len(c.Nodes))
	fault(c.ElectionTicks < 3 || c.ReportTicks < 1 || c.TimeoutTicks < 1, "want ElectionTicks of 3 or more, ReportTicks and TimeoutTicks of 1 or more")
	fault(c.MaxInFlightBytes < 0, "MaxInFlightBytes is %d: want 0 (the default) or more", c.MaxInFlightBytes)
	fault(c.RecentBytes < 0, "RecentBytes is %d: want 0 (the default) or more", c.RecentBytes)
	fault(c.Log == nil || c.Rand == nil, "Log and Rand must be set")
	fault(len(c.BootID) > maxBoot, "BootID has %d bytes: want %d at most", len(c.BootID), maxBoot)
	return errors.Join(errs...)
}
