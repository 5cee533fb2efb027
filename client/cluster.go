package client

import (
	"context"

	"github.com/zue-log/zue/net/wire"
)

// Place is where an entry is in the log, and what the log is up to there. Two servers that give
// the same Place for an offset have the same log up to Next; when they differ for one, they
// do for all that follow.
type Place struct {
	Index, Term uint64 // of the entry, which has some records
	First, Next uint64 // the entry's first offset, and the one behind its last
	Chain       uint64 // a hash over the entry and all before it
}

// Chain asks the server to which the client is connected, which need not lead, for the place of
// the entry that holds an offset. It says what was appended, not whether the bytes on that
// server's disk are still those: reading them does. All errors are [*OpError]s; an offset that
// the log does not have, or not yet, is a *wire.Error.
func (c *Client) Chain(ctx context.Context, offset uint64) (Place, error) {
	r := &request{
		op: OpChain, offset: offset, want: wire.TypeChainResponse, size: smallRequest,
		encode: infallible(wire.ChainRequest{Offset: offset}),
	}
	return do(ctx, c.main, r, func(payload []byte) (Place, error) {
		m, err := wire.ParseChainResponse(payload)
		return Place(m), err
	})
}

// Transfer has the leader hand leadership over to a node, by its number in cluster.conf, or,
// with 0, to the one that has most of the log. It returns the one that is to lead, as soon as
// the handover has begun: it may fail all the same, and [Client.Status] says who leads. Appends
// that come meanwhile wait, or are made again at the new leader, as always.
//
// It is asked for again as [Client.Append] is. All errors are [*OpError]s; that of a node to
// which leadership cannot go is a *wire.Error of code [wire.CodeChangeRefused].
func (c *Client) Transfer(ctx context.Context, node uint16) (uint16, error) {
	r := &request{op: OpTransfer, want: wire.TypeTransferResponse, size: smallRequest, encode: infallible(wire.TransferRequest{Node: node})}
	return do(ctx, c.lead, r, func(payload []byte) (uint16, error) {
		m, err := wire.ParseTransferResponse(payload)
		return m.Node, err
	})
}

// Remove has the leader remove a node, by its number, from the cluster's membership, for good:
// its copies do not count any more, and it does not vote. It returns as soon as that is under
// way; [Client.Status] says when it is complete. A request that is lost is made again, which
// may find the node removed already.
//
// All errors are [*OpError]s; that of a node that cannot be removed, since it is no member or too
// few would be left, is a *wire.Error of code [wire.CodeChangeRefused].
func (c *Client) Remove(ctx context.Context, node uint16) error {
	r := &request{op: OpRemove, want: wire.TypeRemoveResponse, size: smallRequest, encode: infallible(wire.RemoveRequest{Node: node})}
	_, err := do(ctx, c.lead, r, wire.ParseRemoveResponse)
	return err
}

// Allow has the leader let a node, by its number, join that no membership has had. The leader
// forgets it when another one leads: then it must be asked again. All errors are [*OpError]s.
func (c *Client) Allow(ctx context.Context, node uint16) error {
	r := &request{op: OpAllow, want: wire.TypeAllowResponse, size: smallRequest, encode: infallible(wire.AllowRequest{Node: node})}
	_, err := do(ctx, c.lead, r, wire.ParseAllowResponse)
	return err
}
