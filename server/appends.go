package server

import (
	"fmt"

	"github.com/zue-log/zue/net/wire"
	"github.com/zue-log/zue/storage"
	"github.com/zue-log/zue/storage/batch"
)

const (
	// maxRunRecords and maxRunBytes bound the single appends taken into one entry.
	maxRunRecords = 4096
	maxRunBytes   = 4 << 20
	// maxUnderWay is how many bytes of appends a session has under way before it waits
	// until they are durable, though more has arrived. See clusterWindow.
	maxUnderWay = 256 << 10

	// standaloneCopies is on how many disks an append of a server without replication
	// is, if it is durable when it is answered.
	standaloneCopies = 1
	standaloneTerm   = 1
)

// appends are those of one session that are not answered yet, in order: first waiting, or in a
// cluster flights, then records.
type appends struct {
	waiting []waiting
	flights []*flight
	// records are to become one entry; they point into the decoder's buffer.
	records []storage.Record
	bytes   int // of records
	sent    int // bytes of those in waiting or flights
}

// any says whether there are appends to be waited for.
func (a *appends) any() bool { return len(a.waiting)+len(a.flights)+len(a.records) > 0 }

// waiting is an append that the log has taken.
type waiting struct {
	pending storage.Pending
	// singles is how many requests of one record it answers; 0: one of a batch, of count
	// records.
	singles int
	count   uint32
}

// takeRecord takes a record whose request has n bytes.
func (c *session) takeRecord(m *wire.AppendRequest, n int) {
	a := &c.appends
	if len(a.records) > 0 && a.bytes+n > maxRunBytes {
		c.submitRecords() // so that each entry fits in a frame
	}
	a.records = append(a.records, storage.Record{Key: m.Key, Value: m.Value})
	a.bytes += n
	if len(a.records) >= maxRunRecords || a.bytes >= maxRunBytes {
		c.submitRecords()
	}
}

// submitRecords has the log take the records as one entry.
func (c *session) submitRecords() {
	a := &c.appends
	if len(a.records) == 0 {
		return
	}
	if c.server.cluster != nil {
		c.flyRecords()
	} else {
		a.waiting = append(a.waiting, waiting{pending: c.server.log.AppendAsync(a.records...), singles: len(a.records)})
		a.sent += a.bytes
	}
	c.dropRecords()
}

func (c *session) dropRecords() {
	a := &c.appends
	clear(a.records) // no pointers into a buffer that the decoder may let go of
	a.records, a.bytes = a.records[:0], 0
}

// takeBatch has the log take a batch.
func (c *session) takeBatch(m *wire.BatchAppendRequest) {
	c.submitRecords()
	if m.Log != 0 {
		c.settle()
		c.unknownLog(m.Log)
		return
	}
	if c.server.cluster != nil {
		c.flyBatch(m)
		return
	}
	h, err := batch.ParseHeader(m.Body)
	if err == nil && h.ProducerID >= 0 {
		c.settle() // what came before it is answered before it
		var first uint64
		var duplicate bool
		// Before it is looked for among those that are in the log by what it says of itself.
		if batch.Checksum(m.Body) == m.Checksum {
			first, duplicate, err = c.server.producers.append(c.server.log, m, &h)
		} else {
			err = fmt.Errorf("%w: its checksum is wrong", batch.ErrMalformed)
		}
		c.answerBatch(first, uint32(h.Count), duplicate, err)
		return
	}
	// A batch without a header is refused by the log.
	c.appends.waiting = append(c.appends.waiting, waiting{pending: submit(c.server.log, m), count: uint32(h.Count)})
	c.appends.sent += len(m.Body)
}

// answerBatch answers a request to append a batch.
func (c *session) answerBatch(first uint64, count uint32, duplicate bool, err error) {
	if err != nil {
		c.refuse(codeOf(err), err.Error())
		return
	}
	c.out = wire.BatchAppendResponse{First: first, Count: count, Term: standaloneTerm, Copies: c.server.copies, Duplicate: duplicate}.AppendTo(c.out)
}

// settle answers all appends, when they are as durable as they are to be.
func (c *session) settle() {
	if c.server.cluster != nil {
		c.landAll()
		return
	}
	a := &c.appends
	if len(a.waiting) == 0 && len(a.records) > 0 {
		// The usual case needs nobody else to commit it.
		first, err := c.server.log.Append(a.records...)
		c.answerSingles(len(a.records), first, err)
		c.dropRecords()
		return
	}
	c.submitRecords()
	for _, w := range a.waiting {
		first, err := w.pending.Wait()
		if w.singles > 0 {
			c.answerSingles(w.singles, first, err)
		} else {
			c.answerBatch(first, w.count, false, err)
		}
	}
	clear(a.waiting)
	a.waiting, a.sent = a.waiting[:0], 0
}

// answerSingles answers n requests of one record, of which the first is at that offset.
func (c *session) answerSingles(n int, first uint64, err error) {
	for i := range n {
		if err != nil {
			c.refuse(codeOf(err), err.Error())
		} else {
			c.out = wire.AppendResponse{Offset: first + uint64(i)}.AppendTo(c.out)
		}
	}
}
