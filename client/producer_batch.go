package client

import (
	"time"

	"github.com/zue-log/zue/net/wire"
	"github.com/zue-log/zue/storage/batch"
)

// outBatch is a batch of a producer.
type outBatch struct {
	sequence uint64
	since    time.Time // of its first record
	records  []Record  // whose bytes are in arena
	done     []func(uint64, error)
	arena    []byte
	bytes    int  // that the records take up at most
	single   bool // it is a record that fits in no batch

	body    []byte
	request *request // nil until it is encoded
	maybe   bool     // an attempt has failed that may have appended it

	settled  bool
	first    uint64
	err      error
	called   int // of done
	flushers []chan struct{}
}

// add copies a record into the batch.
func (b *outBatch) add(rec *Record, size int, done func(uint64, error)) {
	b.records = append(b.records, Record{
		Timestamp: rec.Timestamp, Key: b.copy(rec.Key), Value: b.copy(rec.Value), Headers: b.copyHeaders(rec.Headers),
	})
	b.done = append(b.done, done)
	b.bytes += size
}

// copy returns a copy of bytes, nil for nil. A full arena is left to its records.
func (b *outBatch) copy(p []byte) []byte {
	if len(p) == 0 {
		return p[:0:0] // of an arena that may be nil, an empty part would be nil, too
	}
	if len(p) > cap(b.arena)-len(b.arena) {
		b.arena = make([]byte, 0, max(len(p), 2*cap(b.arena), 1<<10))
	}
	start := len(b.arena)
	b.arena = append(b.arena, p...)
	return b.arena[start:len(b.arena):len(b.arena)]
}

func (b *outBatch) copyHeaders(headers []batch.RecordHeader) []batch.RecordHeader {
	if len(headers) == 0 {
		return nil
	}
	out := make([]batch.RecordHeader, len(headers))
	for i, h := range headers {
		out[i] = batch.RecordHeader{Key: b.copy(h.Key), Value: b.copy(h.Value)}
	}
	return out
}

// encode makes the request, once.
func (p *Producer) encode(b *outBatch) (*request, error) {
	if b.request != nil {
		return b.request, nil
	}
	var err error
	if b.single {
		b.request, err = appendRequest(b.records[0].Key, b.records[0].Value)
		return b.request, err
	}
	if b.body, err = batch.AppendCompressed(b.body[:0], b.records, time.Now().UnixMilli(), p.opts.Codec); err != nil {
		return nil, err
	}
	if p.opts.Idempotent {
		if err := p.sign(b); err != nil {
			return nil, err
		}
	}
	b.request, err = batchRequest(wire.BatchAppendRequest{Checksum: batch.Checksum(b.body), Body: b.body})
	return b.request, err
}

// parse returns the parser of the answer to the request, for the first offset.
func (b *outBatch) parse() func([]byte) (uint64, error) {
	if b.single {
		return parseOffset
	}
	parse := parseReceipt(len(b.records))
	return func(payload []byte) (uint64, error) {
		r, err := parse(payload)
		return r.First, err
	}
}

// deliver calls the records' functions, those that were not called before.
func (b *outBatch) deliver() {
	for b.called < len(b.done) {
		i := b.called
		b.called++ // before it is called, which may never return
		if b.done[i] == nil {
			continue
		}
		if b.err != nil {
			b.done[i](0, b.err)
		} else {
			b.done[i](b.first+uint64(i), nil)
		}
	}
}

// reset empties the batch, and keeps its memory unless that is much more than a full one
// has.
func (b *outBatch) reset(full int) {
	records, done, arena, body := b.records, b.done, b.arena, b.body
	clear(records)
	clear(done)
	*b = outBatch{records: records[:0], done: done[:0]}
	if cap(arena) <= 2*full {
		b.arena = arena[:0]
	}
	if cap(body) <= 2*full {
		b.body = body[:0]
	}
}
