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
// # Lost connections, and servers that refuse
//
// A connection that is lost is made anew, to the next address, with pauses that grow. A
// server that does not lead refuses an append, and may name the one that does: the client
// goes there. What is asked for, and not appended, is asked for again until the context
// ends. An append is sent again only if it was surely not carried out: see [Client.Append].
// With [ProducerOptions.Idempotent] it is sent again in any case, and is in the log once all
// the same.
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
