package client

import (
	"context"

	"github.com/zue-log/zue/net/wire"
)

// The requests of the tests of conn.

func (c *conn) AppendAsync(ctx context.Context, key, value []byte, done func(uint64, error)) error {
	r, err := appendRequest(key, value)
	if err != nil {
		return c.opError(OpAppend, 0, ErrNotApplied, err)
	}
	return c.start(ctx, r, &waiting[uint64]{parseOffset, done})
}

func (c *conn) Append(ctx context.Context, key, value []byte) (uint64, error) {
	r, err := appendRequest(key, value)
	if err != nil {
		return 0, c.opError(OpAppend, 0, ErrNotApplied, err)
	}
	return roundTrip(ctx, c, r, parseOffset)
}

func (c *conn) Read(ctx context.Context, offset uint64) (Record, error) {
	r := &request{op: OpRead, offset: offset, want: wire.TypeReadResponse, size: smallRequest, encode: infallible(wire.ReadRequest{Offset: offset})}
	return roundTrip(ctx, c, r, func(payload []byte) (Record, error) {
		m, err := wire.ParseReadResponse(payload)
		return newRecord(offset, m), err
	})
}
