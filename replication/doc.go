// Package replication will keep a log the same on several nodes: consensus by
// go.etcd.io/raft/v3 over the storage engine's log. So far it has its version and
// nothing else; Zue runs as a single node.
package replication

// Version is the version of this library, as CHANGELOG.md has it.
const Version = "0.1.0"
