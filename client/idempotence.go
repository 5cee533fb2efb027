package client

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/zue-log/zue/net/wire"
	"github.com/zue-log/zue/replication/producer"
	"github.com/zue-log/zue/storage/batch"
)

// maxIdempotentInFlight is of how many batches a server can tell where they are when they
// are sent again.
const maxIdempotentInFlight = producer.MaxBatches

// identity is by what servers know an idempotent producer, and its next batch. The zero
// value is that of none.
type identity struct {
	known bool
	id    int64
	epoch int16
	next  int32 // sequence number
}

// sign makes a batch the producer's next one. It is called once for each, in their order.
func (p *Producer) sign(b *outBatch) error {
	if !p.identity.known {
		ctx, cancel := context.WithDeadline(p.life, b.since.Add(p.opts.Timeout))
		defer cancel()
		m, err := p.client.newProducerID(ctx)
		if err != nil {
			return err
		}
		p.identity = identity{known: true, id: m.ID, epoch: int16(m.Epoch)}
	}
	i := &p.identity
	if err := batch.SetProducer(b.body, i.id, i.epoch, i.next); err != nil {
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	// Sequence numbers are of 31 bits, and begin anew with 0.
	i.next = int32((int64(i.next) + int64(len(b.records))) & math.MaxInt32)
	return nil
}

// newProducerID asks for an id. A second one, if an answer is lost, harms nobody.
func (c *Client) newProducerID(ctx context.Context) (wire.ProducerResponse, error) {
	r := &request{op: OpProducerID, want: wire.TypeProducerResponse, size: smallRequest, encode: infallible(wire.ProducerRequest{})}
	return do(ctx, c.lead, r, wire.ParseProducerResponse)
}

// worthRetrying says whether a batch is to be sent again that has met an error. p.mu is
// held.
func (p *Producer) worthRetrying(b *outBatch, err error) bool {
	if !p.opts.Idempotent {
		return p.client.worthRetrying(err)
	}
	if p.client.opts.NoRetry || p.halted != nil || errors.Is(err, ErrProtocol) {
		return false
	}
	var refusal *wire.Error
	if !errors.As(err, &refusal) {
		return true
	}
	switch refusal.Code {
	case wire.CodeSequenceGap: // one before it is to be sent again, or this one never can be
		return slices.ContainsFunc(p.all, func(q *outBatch) bool { return q.sequence < b.sequence && !q.settled })
	case wire.CodeDuplicateForgotten:
		return false
	}
	return refusal.Code.MaybeApplied() || p.client.worthRetrying(err)
}
