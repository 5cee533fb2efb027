// Package transport carries frames between the nodes of a cluster. Each node dials every other
// one, with one connection for each of two lanes: [Urgent] is for what is small and must not
// wait, [Bulk] for entries, so that however much there is of these, a heartbeat does not queue
// behind it. Frames flow from the dialer to the acceptor only, as in etcd's rafthttp: so a
// connection has one writer and one reader, and nothing has to be matched with its answer.
//
// Nothing is promised but order within a lane while its connection lasts. What there is no room
// for is dropped, and so is what waits for a connection that is lost, or cannot be made: raft
// sends again what is still of use. A queue is bounded in bytes, and a receiver that is slow is
// not read from, which fills the queues of those that send to it.
//
// # Who may connect
//
// The handshake is that of net/PROTOCOL.md: both ends say who they are, and whom they mean, and
// prove that they have the cluster's secret, if there is one. The secret authenticates nodes
// when they connect. It encrypts nothing, and does not protect what is sent afterwards: use it in
// a network that is trusted, or through an encrypted one.
//
// # Dead peers
//
// The dialer gives a connection up when the other end has acknowledged nothing for 10 s that it
// was sent, or not the probes that TCP sends when there is nothing else: on Linux the kernel sees
// to both (TCP_USER_TIMEOUT), whatever the size of its buffers. Elsewhere a write that makes no
// progress for 10 s has the same effect, but only when those buffers are full; probes work
// everywhere. It also reads, to notice at once when the other end closes.
//
// The acceptor has no timeout for a connection that is silent. A lane may rightly be, since
// followers have nothing to say to one another; a node that has died without a word leaves a
// connection that costs one goroutine and 4 KiB until its probes fail, after some 14 s, or the
// node comes back: the connection that it then makes replaces the old one. That nothing comes
// from a node is for raft to notice, and it does.
package transport
