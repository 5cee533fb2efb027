// Package client is the Go client of Zue, a distributed append-only log.
//
// A [Client] knows the addresses of a log's servers, and keeps connected to one of them. It
// appends records, each of a key and a value that may be null, and reads them back by
// offset:
//
//	c, err := client.Dial(ctx, []string{"10.0.0.1:9000", "10.0.0.2:9000"}, client.Options{})
//	offset, err := c.Append(ctx, nil, []byte("value"))
//	record, err := c.Read(ctx, offset)
//
// All its methods may be called concurrently; requests made while a write is going on
// leave together in the next. What moves many records:
//
//   - a [Producer] gathers records into batches, and keeps several under way;
//   - [Client.AppendBatch] appends a batch that is encoded already, whole or not at all, and
//     [Client.AppendBatchAt] only if the log ends at some offset;
//   - a [Tail] reads from an offset on, and waits at the end for more;
//   - [Client.Fetch] reads as many records as fit in an answer.
//
// # Clusters
//
// A client is given the address of any node of a cluster, or, so that it begins while one is
// down, of several. One rule says what goes where: a request goes to the first of these that
// can be connected to, and stays there; but appends, and whatever else that node refuses
// because it does not lead, go to the leader, which it names. So each client reads from the
// node that it was given, and following who leads is no concern of its user's.
//
// A node may have a record a moment later than the leader. What this client has appended
// itself, or has been shown to be there by [Client.Barrier], it reads from the leader if its
// node does not have it yet.
//
// [Client.Transfer], [Client.Remove] and [Client.Allow] change a cluster, [Client.Chain]
// compares its nodes, and [Client.Status] says how it is.
//
// # Lost connections, and servers that refuse
//
// A connection that is lost is made anew, to the next address, with pauses that grow. What is
// asked for, and not appended, is asked for again until the context ends. An append is sent
// again only if it was surely not carried out: see [Client.Append]. With
// [ProducerOptions.Idempotent] it is sent again in any case, and is in the log once all the
// same.
//
// When a leader dies, the connection to it is lost: what was under way is said to be
// [ErrMaybeApplied], and what comes then waits until another node leads, and is appended some
// 100 ms later. A machine that goes without a word is given up after 8 s (on Linux; elsewhere
// after [Options.StallTimeout]).
//
// # Was it appended?
//
// An append that fails is either surely not in the log, and can be made again, or
// it may be there, because the answer got lost or the server itself does not know.
// errors.Is(err, [ErrNotApplied]) and errors.Is(err, [ErrMaybeApplied]) tell; each
// failed append is exactly one of the two. What the server answered, if it did, is
// found with errors.As as a *wire.Error; errors.Is(err, [ErrElsewhere]) says that another
// server may do it, and [OpError.Leader] which.
package client

// Version is the version of the client and of the command zue-client.
const Version = "0.2.0"
