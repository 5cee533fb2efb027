// Package replication keeps a log the same on several nodes: consensus by go.etcd.io/raft over
// the storage engine's log.
//
// A [Node] is one of them. What decides is in package core, without goroutines, clock, disk or
// network; package conf reads cluster.conf; package sim runs clusters of real cores over real
// logs with simulated disks and networks, and looks for what must not be. How messages travel
// is the user's: see [Transport].
package replication

// Version is the version of this library, as CHANGELOG.md has it.
const Version = "0.2.0"
