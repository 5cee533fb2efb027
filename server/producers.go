package server

import (
	"errors"
	"sync"

	"github.com/zue-log/zue/net/wire"
	"github.com/zue-log/zue/replication/producer"
	"github.com/zue-log/zue/storage"
	"github.com/zue-log/zue/storage/batch"
)

// producers appends batches that carry a producer's id, each once. A producer has one batch
// under way at a time: if that fails, whatever it has sent behind it is a gap.
type producers struct {
	mu    sync.Mutex
	table *producer.Table // nil until it is needed
	busy  map[int64]chan struct{}
}

// append appends a batch with the header h, unless it is in the log already.
func (p *producers) append(log *storage.Log, m *wire.BatchAppendRequest, h *batch.Header) (first uint64, duplicate bool, err error) {
	for {
		var wait <-chan struct{}
		if first, duplicate, wait, err = p.begin(log, h); wait == nil {
			break
		}
		<-wait
	}
	if err != nil || duplicate {
		return first, duplicate, err
	}
	first, err = submit(log, m).Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		p.table.Apply(first, h)
	}
	close(p.busy[h.ProducerID])
	delete(p.busy, h.ProducerID)
	return first, false, err
}

// begin says what becomes of a batch: wait is what to wait for before it is asked again.
// Without it, a duplicate or an error the producer is busy until the batch is appended.
func (p *producers) begin(log *storage.Log, h *batch.Header) (first uint64, duplicate bool, wait <-chan struct{}, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if busy, ok := p.busy[h.ProducerID]; ok {
		return 0, false, busy, nil
	}
	if p.table == nil {
		if p.table, err = producer.Load(log); err != nil {
			return 0, false, nil, err
		}
		p.busy = map[int64]chan struct{}{}
	}
	first, duplicate, err = p.table.Check(h)
	if err == nil && !duplicate {
		p.busy[h.ProducerID] = make(chan struct{})
	}
	return first, duplicate, nil, err
}

// submit hands a batch to the log.
func submit(log *storage.Log, m *wire.BatchAppendRequest) storage.Pending {
	if m.Conditional {
		return log.AppendBatchAt(m.EndOffset, m.Body, m.Checksum)
	}
	return log.AppendBatch(m.Body, m.Checksum)
}

// newProducer answers a request for a producer's id: the index of an entry of its own,
// which no other has.
func (c *session) newProducer() {
	if c.server.cluster != nil {
		c.flyProducer()
		return
	}
	p := c.server.log.AppendControl([]byte(producer.ControlID))
	_, err := p.Wait()
	if err == nil && c.server.opts.Sync != storage.SyncAlways() {
		err = c.server.log.Sync() // or, after a crash, another producer would have it
	}
	if err != nil {
		c.refuse(codeOf(err), err.Error())
		return
	}
	c.out = wire.ProducerResponse{ID: int64(p.Index())}.AppendTo(c.out)
}

// producerCode is the wire's code for a verdict on a producer's batch; false if err is none.
func producerCode(err error) (wire.Code, bool) {
	switch {
	case errors.Is(err, producer.ErrFenced):
		return wire.CodeProducerFenced, true
	case errors.Is(err, producer.ErrGap):
		return wire.CodeSequenceGap, true
	case errors.Is(err, producer.ErrForgotten):
		return wire.CodeDuplicateForgotten, true
	}
	return 0, false
}
