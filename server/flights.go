package server

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/zue-log/zue/net/wire"
	"github.com/zue-log/zue/replication/core"
	"github.com/zue-log/zue/storage"
	"github.com/zue-log/zue/storage/batch"
)

const (
	// clusterWindow is maxUnderWay in a cluster, where an append takes longer. A session
	// that has so much under way waits for the oldest of it, not for all.
	clusterWindow = 1 << 20
	// flightOverhead is what an append takes of the room for those under way, in bytes, beside
	// its records.
	flightOverhead = 256
	// keptBody is the largest body, in bytes, that is kept for other flights.
	keptBody = 1 << 20
)

// flight is an append that a cluster's node has taken from a session. Sessions answer their
// flights in order.
type flight struct {
	append core.Append // with its outcome, once it has landed
	landed chan struct{}
	// singles is how many requests of one record it answers; 0: one of a batch of count
	// records.
	singles int
	count   uint32
	bytes   int // of its requests
	// body holds what append.Body is: the node keeps that until the flight has landed, and the
	// decoder does not.
	body []byte

	room *semaphore.Weighted // nil: it takes up none
	held int64

	// What the node calls: made once, since a flight is used again.
	onBatch   func(*core.Append)
	onRecords func(uint64, *core.Append)
}

var flights = sync.Pool{New: func() any {
	f := &flight{landed: make(chan struct{}, 1)}
	f.onBatch = func(*core.Append) { f.land() }
	f.onRecords = func(first uint64, a *core.Append) {
		// Others' records are in a, too.
		f.append.Err, f.append.Leader, f.append.First = a.Err, a.Leader, first
		f.land()
	}
	return f
}}

// land is called once, when the outcome is in append.
func (f *flight) land() {
	if f.room != nil {
		f.room.Release(f.held)
	}
	f.landed <- struct{}{}
}

// hasLanded says whether it has, without waiting; then await is not to be called any more.
func (f *flight) hasLanded() bool {
	select {
	case <-f.landed:
		return true
	default:
		return false
	}
}

// await waits for the flight to land; false: it is not to be waited for any more. Then it may
// land yet, and is the node's until that has ended.
func (f *flight) await(ended context.Context) bool {
	select {
	case <-f.landed:
		return true
	case <-ended.Done():
	}
	return f.hasLanded() // the last that the node did
}

// putBack lets the flight, which has landed, be used again.
func (f *flight) putBack() {
	body := f.body
	if cap(body) > keptBody {
		body = nil
	}
	*f = flight{landed: f.landed, body: body, onBatch: f.onBatch, onRecords: f.onRecords}
	flights.Put(f)
}

// takeOff prepares a flight of n bytes, and waits until there is room for it.
func (c *session) takeOff(n int) *flight {
	k := c.server.cluster
	f := flights.Get().(*flight)
	f.bytes = n
	f.held = min(int64(n)+flightOverhead, maxInFlightBytes)
	if k.room.TryAcquire(f.held) {
		f.room = k.room
		return f
	}
	_ = c.flush() // an error stays for the next one
	// Those that hold the room land without this session's doing. When the node has ended,
	// which it says of the append itself, there is no need for any.
	if k.room.Acquire(k.ended, f.held) == nil {
		f.room = k.room
	}
	return f
}

// fly hands a flight to the node. Its answer is to come, whatever happens.
func (c *session) fly(f *flight) {
	a := &c.appends
	a.flights = append(a.flights, f)
	a.sent += f.bytes
	k := c.server.cluster
	if err := k.node.AppendAsync(k.ended, &f.append, f.onBatch); err != nil {
		f.append.Err = err
		f.land()
	}
}

// flyRecords has the node take the session's records as one entry, encoded, since the decoder
// is to go on.
func (c *session) flyRecords() {
	a := &c.appends
	f := c.takeOff(a.bytes)
	f.singles = len(a.records)
	var err error
	now := time.Now().UnixMilli()
	if codec := c.server.cluster.codec; codec == batch.CodecNone {
		f.body = batch.Append(f.body[:0], a.records, now)
	} else {
		f.body, err = batch.AppendCompressed(f.body[:0], a.records, now, codec)
	}
	if err != nil {
		c.ground(f, err)
		return
	}
	f.append = core.Append{Body: f.body, Checksum: batch.Checksum(f.body)}
	c.fly(f)
}

// flyBatch has the node take a client's batch.
func (c *session) flyBatch(m *wire.BatchAppendRequest) {
	h, err := checkBatch(m)
	if err != nil {
		f := flights.Get().(*flight)
		c.ground(f, err)
		return
	}
	f := c.takeOff(len(m.Body))
	f.count = uint32(h.Count)
	f.body = append(f.body[:0], m.Body...)
	f.append = core.Append{Body: f.body, Checksum: m.Checksum, Conditional: m.Conditional, EndOffset: m.EndOffset}
	c.fly(f)
}

// ground has a flight that is refused here answered in its turn.
func (c *session) ground(f *flight, err error) {
	a := &c.appends
	a.flights = append(a.flights, f)
	a.sent += f.bytes
	f.append.Err = err
	f.land()
}

// flyTogether appends the session's records, which nothing else is under way beside, with those
// of other sessions, and answers them. False: nothing was done.
func (c *session) flyTogether() bool {
	a := &c.appends
	if c.server.cluster.codec != batch.CodecNone {
		return false
	}
	f := c.takeOff(a.bytes)
	f.singles = len(a.records)
	if !c.server.cluster.node.AppendRecords(a.records, f.onRecords) {
		if f.room != nil {
			f.room.Release(f.held)
		}
		f.putBack()
		return false
	}
	if !c.answerFlight(f) {
		// The node may yet read them, where they are in the decoder's buffer: it must stay.
		c.broken = errStopped
		a.records = nil
	}
	c.dropRecords()
	return true
}

// errStopped is why a session ends that could not wait for the node.
var errStopped = errors.New("the server stops, and an append has no answer yet")

// landAll answers all appends of a session, when they have their outcomes.
func (c *session) landAll() {
	a := &c.appends
	if len(a.flights) == 0 && len(a.records) > 0 && c.flyTogether() {
		return
	}
	c.submitRecords()
	for _, f := range a.flights {
		c.answerFlight(f)
	}
	clear(a.flights)
	a.flights, a.sent = a.flights[:0], 0
}

// landSome answers the oldest appends, until the session may have more under way.
func (c *session) landSome() {
	a := &c.appends
	c.submitRecords()
	n := 0
	for n < len(a.flights) && a.sent >= clusterWindow {
		a.sent -= a.flights[n].bytes
		c.answerFlight(a.flights[n])
		n++
	}
	left := copy(a.flights, a.flights[n:])
	clear(a.flights[left:])
	a.flights = a.flights[:left]
	_ = c.flush() // an error stays for the next one
}

// answerFlight answers the requests of a flight, when it has landed. What is to be sent before is
// sent first, if that takes long: who pipelines can go on by it. False says that the flight has
// not landed, and is not to be waited for any more.
func (c *session) answerFlight(f *flight) bool {
	landed := f.hasLanded()
	if !landed {
		_ = c.flush() // an error stays for the next one
		landed = f.await(c.server.cluster.ended)
	}
	if landed {
		c.answerOutcome(f, &f.append)
		f.putBack()
	} else {
		c.answerOutcome(f, &core.Append{Err: core.ErrStopped}) // the node may write to the flight's
	}
	return landed
}

// answerOutcome answers the requests of a flight that has this outcome.
func (c *session) answerOutcome(f *flight, a *core.Append) {
	if a.Err != nil {
		code, text := c.server.cluster.refusal(a.Err, a.Leader)
		for range max(f.singles, 1) {
			c.refuse(code, text)
		}
		return
	}
	for i := range f.singles {
		c.out = wire.AppendResponse{Offset: a.First + uint64(i)}.AppendTo(c.out)
	}
	if f.singles == 0 {
		m := wire.BatchAppendResponse{First: a.First, Count: f.count, Term: a.Term, Duplicate: a.Duplicate}
		if c.server.opts.Sync == storage.SyncAlways() {
			m.Copies = uint32(a.Copies)
		}
		c.out = m.AppendTo(c.out)
	}
}

// flyProducer answers a request for a producer's id: the index of an entry of its own, which no
// other has.
func (c *session) flyProducer() {
	k := c.server.cluster
	f := c.takeOff(0)
	if err := k.node.AppendAsync(k.ended, &f.append, f.onBatch); err != nil {
		f.append.Err = err
		f.land()
	}
	if !f.await(k.ended) {
		c.refuse(k.refusal(core.ErrStopped, 0))
		return
	}
	if a := &f.append; a.Err != nil {
		c.refuse(k.refusal(a.Err, a.Leader))
	} else {
		c.out = wire.ProducerResponse{ID: int64(a.Index)}.AppendTo(c.out)
	}
	f.putBack()
}
