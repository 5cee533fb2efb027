package wire

import "encoding/json"

// Status is what the JSON of a [StatusResponse] says: how a server and its log are.
// Members may be added; those that are there stay as they are.
type Status struct {
	// Role is "standalone", or what the node is in its cluster: "leader", "follower",
	// "candidate", "joining", "waiting" or "removed"; "stopped" if it takes no part any more.
	Role     string  `json:"role"`
	Version  string  `json:"version"`
	Storage  string  `json:"storage_version"`
	Protocol int     `json:"protocol_version"`
	Uptime   float64 `json:"uptime_seconds"`
	// Sync says when an append is durable, as the server's --sync takes it, and
	// SyncMeaning in plain words.
	Sync        string `json:"sync"`
	SyncMeaning string `json:"sync_meaning"`

	// FirstOffset is the first that is kept, CommittedOffset the first that readers do not see
	// yet, EndOffset the next one to be given out: in a cluster, some before it may not be
	// committed.
	FirstOffset     uint64 `json:"first_offset"`
	CommittedOffset uint64 `json:"committed_offset"`
	EndOffset       uint64 `json:"end_offset"`
	LastIndex       uint64 `json:"last_index"`
	DurableIndex    uint64 `json:"durable_index"`
	Segments        int    `json:"segments"`
	FileBytes       int64  `json:"file_bytes"`
	// Failed is why the log takes no appends until the server is started again; empty
	// if it does.
	Failed string `json:"failed,omitempty"`

	Connections    int `json:"connections"`
	MaxConnections int `json:"max_connections"`

	// Warnings say in plain words what an operator should look at, and what to do.
	Warnings []string `json:"warnings,omitempty"`

	// Cluster is how the server's cluster is, as this node knows it; nil for a server without
	// replication.
	Cluster *ClusterStatus `json:"cluster,omitempty"`
}

// ClusterStatus is how a node knows its cluster.
type ClusterStatus struct {
	// ID tells clusters apart: 16 hexadecimal digits; empty while the node is in none.
	ID string `json:"id,omitempty"`
	// Node is the number of this node, and Incarnation, 12 hexadecimal digits, tells it from what
	// it was before it lost its data.
	Node        uint16 `json:"node"`
	Incarnation string `json:"incarnation,omitempty"`
	Address     string `json:"address"` // host:port
	Term        uint64 `json:"term"`
	// Leader is the number of the node that leads, 0 if none is known; LeaderAddress its
	// host:port, empty if that is not known.
	Leader        uint16 `json:"leader"`
	LeaderAddress string `json:"leader_address,omitempty"`
	// Quorum is on how many nodes an append is before it is acknowledged.
	Quorum int `json:"quorum"`
	// Voters and Learners are the numbers of the nodes in the membership, ascending.
	Voters   []uint16 `json:"voters"`
	Learners []uint16 `json:"learners,omitempty"`
	// Changing says that a change of the membership may be under way.
	Changing bool `json:"changing,omitempty"`
	// Missing are the nodes that the first start of the cluster waits for.
	Missing []uint16 `json:"missing,omitempty"`
	// Nodes are those of cluster.conf, with how this node is connected to them.
	Nodes []NodeStatus `json:"nodes,omitempty"`
	// Replicas are the other members as the leader sees them; only a leader has them.
	Replicas []ReplicaStatus `json:"replicas,omitempty"`
	// InSync is how many replicas are in sync, the leader included; only a leader has it.
	InSync int `json:"in_sync,omitempty"`
	// InSyncChanges counts how often a replica has come to be in sync, or ceased to be, while
	// this node led, since it was started.
	InSyncChanges uint64 `json:"in_sync_changes"`
	// Damaged is how many places of the node's log are known to be damaged and not mended yet,
	// and Mended how many entries have been, by what other nodes have, since it was started.
	Damaged int    `json:"damaged,omitempty"`
	Mended  uint64 `json:"mended,omitempty"`
}

// NodeStatus is a node of cluster.conf.
type NodeStatus struct {
	Node    uint16 `json:"node"`
	Address string `json:"address"` // host:port
	// Connected says whether this node has a link to it; it is true of the node itself.
	Connected bool `json:"connected"`
	// Trouble is why it has none.
	Trouble string `json:"trouble,omitempty"`
}

// ReplicaStatus is a member as the leader sees it.
type ReplicaStatus struct {
	Node        uint16 `json:"node"`
	Incarnation string `json:"incarnation"`
	Address     string `json:"address,omitempty"` // host:port; empty: cluster.conf does not have it
	// Kind is "voter", or "learner": one that catches up before it may be a voter.
	Kind string `json:"kind"`
	// InSync says that it was heard of lately, and is not far behind.
	InSync bool `json:"in_sync"`
	// Lag is by how many records it is behind; nil if that is not known.
	Lag *uint64 `json:"lag"`
	// LastContactMillis is for how long nothing was heard of it.
	LastContactMillis int64 `json:"last_contact_ms"`
	// First, Committed and End are offsets of its log, as it has reported them.
	First     uint64 `json:"first_offset"`
	Committed uint64 `json:"committed_offset"`
	End       uint64 `json:"end_offset"`
}

// Response returns the answer that says so.
func (s Status) Response() StatusResponse {
	b, err := json.Marshal(s)
	if err != nil {
		b = []byte("{}") // cannot be: there is nothing in it that JSON has not
	}
	return StatusResponse{JSON: b}
}
