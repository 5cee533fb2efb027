// Package wire is the Zue wire protocol: the messages that clients and servers
// exchange, and the framing around them. It holds no sockets and no goroutines,
// only bytes in and bytes out, so that servers, clients, fakes and proxies are
// built on the same code.
//
// Every frame is
//
//	[4-byte little-endian length of type + payload][1-byte type][payload]
//
// with all integers little-endian. PROTOCOL.md, next to this module's go.mod,
// documents each message byte by byte; the files in testdata pin the bytes.
//
// # Encoding
//
// Each message has an AppendTo method that appends the whole frame to a slice,
// so that many frames can go out in one write. The two messages that carry a
// record, [AppendRequest] and [ReadResponse], return a [*RecordSizeError] when
// the record does not fit in a frame; the others always fit.
//
// # Decoding
//
// A [Decoder] cuts a stream into frames. For each [Frame] the caller looks at
// the type and calls the Parse function for it. Parsing is strict: a payload is
// a message if and only if encoding that message gives the same payload back
// (the one exception is the text of an [Error], see [ParseError]). Whatever the
// bytes, nothing panics, and nothing is allocated by a length that was not
// checked against the bytes at hand.
//
// A null key and an empty key are different: a nil Key is null, a non-nil Key
// of length 0 is empty.
package wire
