// Package client is the Go client of Zue, a distributed append-only log.
//
// A [Client] is one connection to one server. It appends records, each of a key
// that may be null and a value, and reads them back by offset:
//
//	c, err := client.Dial(ctx, "127.0.0.1:9001", client.Options{})
//	offset, err := c.Append(ctx, nil, []byte("value"))
//	record, err := c.Read(ctx, offset)
//
// All requests of a client share its connection, and many are under way at once:
// requests made while a write is going on leave together in the next. A loop that
// appends many records does not wait for each answer but uses
// [Client.AppendAsync].
//
// # Was it appended?
//
// An append that fails is either surely not in the log, and can be made again, or
// it may be there, because the answer got lost or the server itself does not know.
// errors.Is(err, [ErrNotApplied]) and errors.Is(err, [ErrMaybeApplied]) tell; each
// failed append is exactly one of the two. What the server answered, if it did, is
// found with errors.As as a *wire.Error.
package client

// Version is the version of the client and of the command zue-client.
const Version = "0.1.0"
