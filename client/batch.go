package client

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/zue-log/zue/net/wire"
	"github.com/zue-log/zue/storage/batch"
)

// Batch is an encoded batch of records: it goes to the log as it is, whole or not at all.
type Batch struct {
	// Body is a Kafka record batch of magic 2 from its attributes on, without a
	// producer id, of at most [wire.MaxBatchBody] bytes. [EncodeBatch] makes one.
	Body []byte
	// Checksum is the CRC-32C (Castagnoli) of Body.
	Checksum uint32
}

// EncodeBatch encodes records, of which it keeps nothing. Those whose Timestamp is 0 get
// the time of now; their offsets mean nothing. The codec is left out where it makes them
// no smaller. There must be a record. The error wraps [batch.ErrUnsupported] for a codec
// that there is not, or [batch.ErrTooLarge]; or it is a [*wire.BatchSizeError], or that of
// [wire.CheckRecord].
func EncodeBatch(records []Record, codec batch.Codec) (Batch, error) {
	for i := range records {
		if err := wire.CheckRecord(records[i].Key, records[i].Value); err != nil {
			return Batch{}, err
		}
	}
	body, err := batch.AppendCompressed(nil, records, time.Now().UnixMilli(), codec)
	if err != nil {
		return Batch{}, err
	}
	if len(body) > wire.MaxBatchBody {
		return Batch{}, &wire.BatchSizeError{Size: len(body)}
	}
	return Batch{Body: body, Checksum: batch.Checksum(body)}, nil
}

// Receipt says where a batch is in the log.
type Receipt struct {
	First uint64 // the offset of its first record
	Count uint32 // how many offsets it takes up
	Term  uint64 // in which it was appended; 1 on a server without replication
	// Copies is on how many disks it is; 0 when the server answers before it is on any.
	Copies uint32
	// Duplicate says that it was in the log already.
	Duplicate bool
}

// AppendBatch appends a batch, and is else like [Client.Append]. The batch must not be
// changed meanwhile.
func (c *Client) AppendBatch(ctx context.Context, b Batch) (Receipt, error) {
	return c.appendBatch(ctx, wire.BatchAppendRequest{Checksum: b.Checksum, Body: b.Body})
}

// AppendBatchAt is AppendBatch for a batch that is to be appended only if the log ends at
// offset end. If it does not, the error has a *wire.Error of code
// [wire.CodeOffsetMismatch].
//
// After [ErrMaybeApplied] a second try may be refused because the first was carried out:
// read the log at end to learn which.
func (c *Client) AppendBatchAt(ctx context.Context, end uint64, b Batch) (Receipt, error) {
	return c.appendBatch(ctx, wire.BatchAppendRequest{Conditional: true, EndOffset: end, Checksum: b.Checksum, Body: b.Body})
}

func (c *Client) appendBatch(ctx context.Context, m wire.BatchAppendRequest) (Receipt, error) {
	r, err := batchRequest(m)
	if err != nil {
		return Receipt{}, newOpError(OpAppend, c.LeaderAddress(), 0, ErrNotApplied, err)
	}
	count := 0 // a server refuses a body without a header
	if h, err := batch.ParseHeader(m.Body); err == nil {
		count = int(h.Count)
	}
	receipt, err := do(ctx, c.lead, r, parseReceipt(count))
	if err == nil {
		c.learn(receipt.First + uint64(receipt.Count))
	}
	return receipt, err
}

func batchRequest(m wire.BatchAppendRequest) (*request, error) {
	if len(m.Body) > wire.MaxBatchBody {
		return nil, &wire.BatchSizeError{Size: len(m.Body)}
	}
	return &request{op: OpAppend, want: wire.TypeBatchAppendResponse, size: m.Size(), encode: m.AppendTo}, nil
}

// parseReceipt makes a parser of the receipt for a batch of so many records.
func parseReceipt(count int) func([]byte) (Receipt, error) {
	return func(payload []byte) (Receipt, error) {
		m, err := wire.ParseBatchAppendResponse(payload)
		if err == nil && (int64(m.Count) != int64(count) || m.First > math.MaxUint64-uint64(m.Count)) {
			err = fmt.Errorf("receipt for %d records from offset %d on, where %d were sent", m.Count, m.First, count)
		}
		return Receipt(m), err
	}
}
