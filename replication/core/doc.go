// Package core decides what a node of a replicated log does: when it votes, appends,
// acknowledges, repairs and rejoins. It is go.etcd.io/raft with the Zue log as its log, and
// what raft leaves to its user.
//
// A [Core] has no goroutine, clock, disk or socket of its own. Whoever drives it calls it with
// what happens (a tick, a message of a peer, a request, a write that is durable), and takes
// from [Core.Ready] what is to be done: messages to be sent, writes to be made durable, in
// order, and requests that have their answer. The same calls in the same order have the same
// outcome, but for the random numbers that raft reads from crypto/rand's Reader.
//
// # One log
//
// A raft entry is a log entry, and there is no other copy: that an entry is committed moves
// the mark up to where readers see. The node's term, vote, membership and identity are in the
// log's state: see FORMAT.md.
//
// # When an append is acknowledged
//
// Not before it is applied here, that is committed and durable here, and durable on as many
// voters as [Config.Quorum] asks for: see [Core.acknowledge].
package core
