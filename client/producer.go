package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/zue-log/zue/net/wire"
	"github.com/zue-log/zue/storage/batch"
)

// ProducerOptions are the settings of a [Producer]. The zero value is good.
type ProducerOptions struct {
	// Linger is how long a record may wait for others to share its batch. 0 means that
	// it waits only while two batches are under way, so that batches grow with the load.
	Linger time.Duration
	// MaxBytes is how many bytes of records make a batch full; 0 means 256 KiB. A longer
	// record is a batch of its own.
	MaxBytes int
	// Codec compresses the batches; 0 means not at all.
	Codec batch.Codec
	// MaxInFlight is how many batches may be under way; 0 means 8. When some have
	// failed and are sent again, a later one may have got ahead of them: 1
	// keeps the order of the log that of Send, but for a batch that has failed with
	// ErrMaybeApplied: it may come later. Idempotent keeps it in any case.
	MaxInFlight int
	// MaxBuffered is how many bytes of records the producer holds, until their functions
	// have returned; 0 means 16 MiB. Send waits for room.
	MaxBuffered int
	// Timeout is how long a batch that surely was not appended is tried again, from its
	// first record's Send on; 0 means 30 s. It does not end an attempt that is under
	// way: Options.StallTimeout does.
	Timeout time.Duration
	// Idempotent has batches sent again, too, that may have been appended, as when the
	// connection is lost before the answer: the servers append each once, in the order of
	// Send. It has StopOnError's effect, so that the log has a first part of what was sent,
	// without gaps; go on with another producer then. MaxInFlight may be 5 at most, which
	// is the default, and a record must fit in a batch. A producer that has appended
	// nothing for very long may be forgotten by the servers: PROTOCOL.md, "Sending a batch
	// again", says when.
	Idempotent bool
	// StopOnError has the producer append nothing more once a record could not be
	// appended: later records fail, too, except those of batches under way by then.
	// With MaxInFlight 1, or Options.NoRetry, the log then has a first part of what was
	// sent, without gaps, but for the batches under way when a server refused one.
	StopOnError bool
}

const (
	defaultBatchBytes       = 256 << 10
	defaultBatchesInFlight  = 8
	defaultProducerBuffered = 16 << 20
	defaultProducerTimeout  = 30 * time.Second

	// maxOverhead is the most that a record without headers takes up beside its key and
	// value: five varints, attributes and a timestamp.
	maxOverhead = 32
	// maxTimestamp bounds timestamps either way, so that no two of a batch are further apart
	// than can be said.
	maxTimestamp = int64(1) << 61
	// eager is how many batches may be under way while one that is not full is sent
	// without lingering.
	eager = 2
)

// Validate reports every setting that makes no sense, all at once.
func (o ProducerOptions) Validate() error {
	var errs []error
	if o.Linger < 0 || o.Timeout < 0 {
		errs = append(errs, fmt.Errorf("option Linger is %v and Timeout %v: want 0 or more", o.Linger, o.Timeout))
	}
	if most := wire.MaxBatchBody - batch.HeaderSize; o.MaxBytes < 0 || o.MaxBytes > most {
		errs = append(errs, fmt.Errorf("option MaxBytes is %d: want 0 (the default) to %d", o.MaxBytes, most))
	}
	if o.Codec > batch.CodecZstd {
		errs = append(errs, fmt.Errorf("option Codec is %v: want one up to %v", o.Codec, batch.CodecZstd))
	}
	if o.MaxInFlight < 0 || o.MaxBuffered < 0 {
		errs = append(errs, fmt.Errorf("option MaxInFlight is %d and MaxBuffered %d: want 0 (the default) or more", o.MaxInFlight, o.MaxBuffered))
	}
	if o.Idempotent && o.MaxInFlight > maxIdempotentInFlight {
		errs = append(errs, fmt.Errorf("option MaxInFlight is %d: want at most %d with Idempotent", o.MaxInFlight, maxIdempotentInFlight))
	}
	return errors.Join(errs...)
}

// Producer gathers records into batches, and keeps several of them under way. It is safe
// for concurrent use.
type Producer struct {
	client *Client
	opts   ProducerOptions
	life   context.Context // ends when the producer does
	end    context.CancelFunc
	tasks  sync.WaitGroup // the sender and the deliverer

	turn  chan struct{} // held by the one Send that waits for room
	space chan struct{} // signals of capacity 1: there may be room,
	wake  chan struct{} // there is something for the sender,
	ready chan struct{} // or for the deliverer

	mu       sync.Mutex
	closing  bool
	waiting  int         // Sends that wait for room, or their turn
	buffered int         // bytes of all records that are not delivered
	open     *outBatch   // takes more records; nil: none does
	queue    []*outBatch // full, to be sent, in order
	flying   int         // batches under way
	conn     *conn       // on which they are
	all      []*outBatch // that are not delivered, in order, open at the end
	sequence uint64      // of the last batch
	spare    []*outBatch // of which the memory can be used again
	broken   *setback    // nil: nothing is to be sent again
	patience patience    // with attempts that were set back
	halted   error       // nil unless StopOnError has stopped it

	identity identity // the sender's own
}

// setback is why batches are to be sent again.
type setback struct {
	conn *conn
	err  error
}

// Producer makes a producer, which [Producer.Close] must be called on. It shares the
// client's connection with its other requests. The error is that of
// [ProducerOptions.Validate], or [ErrClosed].
func (c *Client) Producer(o ProducerOptions) (*Producer, error) {
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("producer options: %w", err)
	}
	o.MaxBytes = orDefault(o.MaxBytes, defaultBatchBytes)
	if o.Idempotent {
		o.MaxInFlight, o.StopOnError = orDefault(o.MaxInFlight, maxIdempotentInFlight), true
	}
	o.MaxInFlight = orDefault(o.MaxInFlight, defaultBatchesInFlight)
	o.MaxBuffered = orDefault(o.MaxBuffered, defaultProducerBuffered)
	o.Timeout = orDefault(o.Timeout, defaultProducerTimeout)
	p := &Producer{
		client: c, opts: o,
		turn: make(chan struct{}, 1), space: make(chan struct{}, 1),
		wake: make(chan struct{}, 1), ready: make(chan struct{}, 1),
	}
	p.life, p.end = context.WithCancel(context.Background())
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conns == nil {
		p.end()
		return nil, ErrClosed
	}
	c.producers[p] = struct{}{}
	p.tasks.Go(p.sendAll)
	p.tasks.Go(p.deliverAll)
	return p, nil
}

// Send takes a record to be appended, and has done called with its offset or its error
// when that is known. The record's bytes may be reused when Send returns; its offset means
// nothing, and a Timestamp of 0 becomes the time of sending.
//
// It waits while [ProducerOptions.MaxBuffered] is reached; the context bounds that waiting
// only. When it returns an error, an [*OpError] with [ErrNotApplied], the record was not
// taken and done is not called. Otherwise done, unless it is nil, is called exactly once,
// also when the client is closed.
//
// done is called in the order of Send, from a goroutine of the producer. While it runs no
// other record's is called; it must not call Send, Flush or Close of the same producer,
// nor Close of its client, which wait for that goroutine. An append that surely was not
// carried out is made again as [Client.Append] says, with [ProducerOptions.Idempotent] also
// one that may have been, for [ProducerOptions.Timeout].
func (p *Producer) Send(ctx context.Context, rec Record, done func(offset uint64, err error)) error {
	size, single, err := measure(&rec, p.opts.Idempotent)
	if err == nil {
		err = p.take(ctx, &rec, size, single, done)
	}
	if err != nil {
		return newOpError(OpAppend, p.client.LeaderAddress(), 0, ErrNotApplied, err)
	}
	return nil
}

// measure returns how many bytes of a batch a record takes up at most. single says that it
// fits in no batch, but in a request of its own, which batched does not allow.
func measure(rec *Record, batched bool) (size int, single bool, err error) {
	if err := wire.CheckRecord(rec.Key, rec.Value); err != nil {
		return 0, false, err
	}
	if rec.Timestamp < -maxTimestamp || rec.Timestamp > maxTimestamp {
		return 0, false, fmt.Errorf("timestamp %d ms: want %d to %d", rec.Timestamp, -maxTimestamp, maxTimestamp)
	}
	size = maxOverhead + len(rec.Key) + len(rec.Value)
	for _, h := range rec.Headers {
		size += maxOverhead + len(h.Key) + len(h.Value)
	}
	if batch.HeaderSize+size <= wire.MaxBatchBody {
		return size, false, nil
	}
	if exact := batch.Size([]Record{*rec}, time.Now().UnixMilli()); exact > wire.MaxBatchBody {
		if batched || len(rec.Headers) > 0 || rec.Timestamp != 0 || rec.Value == nil {
			return 0, false, &wire.BatchSizeError{Size: exact}
		}
		return size, true, nil
	}
	return size, false, nil
}

// take adds a record to the open batch when there is room for it.
func (p *Producer) take(ctx context.Context, rec *Record, size int, single bool, done func(uint64, error)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting > 0 || !p.hasRoom(size) {
		if p.open != nil {
			p.seal() // what lingers would keep this one waiting
		}
		if err := p.await(ctx, size); err != nil {
			return err
		}
	}
	if p.closing {
		return ErrClosed
	}
	if p.halted != nil {
		return p.halted
	}
	if b := p.open; b != nil && (b.bytes+size > p.opts.MaxBytes || single) {
		p.seal()
	}
	if p.open == nil {
		p.open = p.newBatch()
		signal(p.wake)
	}
	p.buffered += size
	p.open.add(rec, size, done)
	if p.open.single = single; single || p.open.bytes >= p.opts.MaxBytes {
		p.seal()
	}
	return nil
}

// hasRoom says whether a record of that size may be taken. A longer one than there can be
// room for is taken alone. p.mu is held.
func (p *Producer) hasRoom(size int) bool {
	return p.buffered == 0 || p.buffered+size <= p.opts.MaxBuffered
}

// await waits for room, behind others who do. p.mu is held, but not while it waits.
func (p *Producer) await(ctx context.Context, size int) error {
	p.waiting++
	p.mu.Unlock()
	var err error
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-p.life.Done():
		err = ErrClosed
	case <-ctx.Done():
		err = ctx.Err()
	}
	p.mu.Lock()
	for err == nil && !p.closing && !p.hasRoom(size) {
		p.mu.Unlock()
		select {
		case <-p.space:
		case <-p.life.Done():
			err = ErrClosed
		case <-ctx.Done():
			err = ctx.Err()
		}
		p.mu.Lock()
	}
	p.waiting--
	return err
}

// seal has the open batch sent. p.mu is held.
func (p *Producer) seal() {
	p.queue = append(p.queue, p.open)
	p.open = nil
	signal(p.wake)
}

// newBatch makes an empty batch, the last of all. p.mu is held.
func (p *Producer) newBatch() *outBatch {
	b := &outBatch{}
	if n := len(p.spare); n > 0 {
		b, p.spare = p.spare[n-1], p.spare[:n-1]
	}
	p.sequence++
	b.sequence, b.since = p.sequence, time.Now()
	p.all = append(p.all, b)
	return b
}

// Flush has all records sent at once that were taken before, and waits until their
// functions have returned, whatever has become of them. The error is the context's.
func (p *Producer) Flush(ctx context.Context) error {
	p.mu.Lock()
	if p.open != nil {
		p.seal()
	}
	if len(p.all) == 0 {
		p.mu.Unlock()
		return nil
	}
	delivered := make(chan struct{})
	last := p.all[len(p.all)-1]
	last.flushers = append(last.flushers, delivered)
	p.mu.Unlock()
	select {
	case <-delivered:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close takes no more records, waits as Flush does, and ends the producer. To give up
// sooner, close the client. Further calls do nothing. The error is always nil.
func (p *Producer) Close() error {
	p.mu.Lock()
	p.closing = true
	p.mu.Unlock()
	signal(p.space)
	_ = p.Flush(context.Background()) // whose end does not come
	p.abort()
	return nil
}

// abort ends the producer: records that were not sent fail. Those under way must have
// failed already, or be about to.
func (p *Producer) abort() {
	p.mu.Lock()
	p.closing = true
	p.mu.Unlock()
	p.end()
	p.tasks.Wait()
	p.client.mu.Lock()
	delete(p.client.producers, p)
	p.client.mu.Unlock()
}

// sendAll is the sender's goroutine.
func (p *Producer) sendAll() {
	linger := time.NewTimer(0)
	defer linger.Stop()
	for p.life.Err() == nil {
		b, wait := p.pick()
		if b != nil {
			p.send(b)
			continue
		}
		if wait > 0 {
			linger.Reset(wait)
		}
		select {
		case <-p.wake:
			p.mend()
		case <-linger.C:
		case <-p.life.Done():
		}
	}
	p.mu.Lock()
	if p.open != nil {
		p.seal()
	}
	left := p.queue
	p.queue = nil
	p.mu.Unlock()
	for _, b := range left {
		p.settle(b, 0, newOpError(OpAppend, p.client.LeaderAddress(), 0, ErrNotApplied, ErrClosed))
	}
}

// pick returns the next batch to be sent, counted among those under way. If there is none,
// it says after which time there may be, unless something happens before; 0: not then.
func (p *Producer) pick() (*outBatch, time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.broken != nil || p.flying >= p.opts.MaxInFlight || p.flying > 0 && !p.conn.usable() {
		return nil, 0
	}
	if len(p.queue) == 0 && p.open != nil {
		wait := p.opts.Linger - time.Since(p.open.since)
		if p.opts.Linger > 0 && wait > 0 {
			return nil, wait
		}
		if p.opts.Linger == 0 && p.flying >= eager {
			return nil, 0
		}
		p.seal()
	}
	if len(p.queue) == 0 {
		return nil, 0
	}
	b := p.queue[0]
	p.queue = slices.Delete(p.queue, 0, 1)
	p.flying++
	return b, 0
}

// send sends a batch, and connects for it.
func (p *Producer) send(b *outBatch) {
	p.mu.Lock()
	err := p.halted
	p.mu.Unlock()
	var r *request
	if err == nil {
		r, err = p.encode(b)
	}
	if err != nil {
		p.land(b, nil, 0, newOpError(OpAppend, p.client.LeaderAddress(), 0, ErrNotApplied, err))
		return
	}
	l := p.client.lead
	c := l.current()
	if c == nil {
		ctx, cancel := context.WithDeadline(p.life, b.since.Add(p.opts.Timeout))
		c, err = l.get(ctx)
		cancel()
		if err != nil {
			p.land(b, nil, 0, newOpError(OpAppend, l.address(), 0, ErrNotApplied, err))
			return
		}
	}
	if ok, err := p.board(b, c); err != nil {
		p.land(b, nil, 0, newOpError(OpAppend, c.address, 0, ErrNotApplied, err))
		return
	} else if !ok {
		return
	}
	err = c.start(p.life, r, &waiting[uint64]{b.parse(), func(first uint64, err error) { p.land(b, c, first, err) }})
	if err != nil {
		p.land(b, c, 0, err)
	}
}

// board says whether a batch may be sent on a connection. If others are still under way on
// one before, or are to be sent again, it may not, lest it comes before them: it is put back.
// The error is that of a producer that was stopped meanwhile.
func (p *Producer) board(b *outBatch, c *conn) (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.halted != nil {
		return false, p.halted
	}
	if p.broken != nil || p.conn != c && p.flying > 1 {
		p.flying--
		p.putBack(b)
		signal(p.wake)
		return false, nil
	}
	p.conn = c
	return true, nil
}

// putBack has a batch sent again, in its turn. p.mu is held.
func (p *Producer) putBack(b *outBatch) {
	at, _ := slices.BinarySearchFunc(p.queue, b.sequence, func(q *outBatch, s uint64) int { return cmp.Compare(q.sequence, s) })
	p.queue = slices.Insert(p.queue, at, b)
}

// land notes what has become of an attempt to append a batch, made on a connection.
func (p *Producer) land(b *outBatch, c *conn, first uint64, err error) {
	if err == nil {
		p.client.learn(first + uint64(len(b.records)))
	}
	p.mu.Lock()
	p.flying--
	b.maybe = b.maybe || errors.Is(err, ErrMaybeApplied)
	again := err != nil && c != nil && p.life.Err() == nil && p.worthRetrying(b, err) &&
		time.Since(b.since) < p.opts.Timeout
	if again {
		p.putBack(b)
		if p.broken == nil {
			p.broken = &setback{c, err}
		}
	} else if err == nil {
		p.patience = patience{}
	} else if p.opts.StopOnError && p.halted == nil {
		p.halted = fmt.Errorf("a record before could not be appended: %w", cause(err))
	}
	p.mu.Unlock()
	if !again {
		p.settle(b, first, err)
	}
	signal(p.wake)
}

// mend goes on after a setback, when nothing is under way any more: else a batch that is
// sent again could come behind one that was sent later.
func (p *Producer) mend() {
	p.mu.Lock()
	broken := p.broken
	if broken == nil || p.flying > 0 {
		p.mu.Unlock()
		return
	}
	patience := p.patience
	p.mu.Unlock()
	_ = patience.wait(p.life, p.client, p.client.lead.leave(broken.conn, broken.err)) // the end of life is seen by sendAll
	p.mu.Lock()
	p.patience = patience // nothing was under way that could have reset it
	p.broken = nil
	p.mu.Unlock()
}

// settle notes what has become of a batch for good.
func (p *Producer) settle(b *outBatch, first uint64, err error) {
	p.mu.Lock()
	if err != nil && b.maybe && !errors.Is(err, ErrMaybeApplied) { // the last attempt surely failed, but not all before
		err = newOpError(OpAppend, p.client.LeaderAddress(), 0, ErrMaybeApplied, cause(err))
	}
	b.settled, b.first, b.err = true, first, err
	p.mu.Unlock()
	signal(p.ready)
}

// deliverAll is the deliverer's goroutine: it calls records' functions.
func (p *Producer) deliverAll() {
	finished := false
	defer func() {
		if e := recover(); e != nil {
			panic(e)
		}
		if !finished { // a function has called runtime.Goexit, as t.FailNow does
			p.tasks.Go(p.deliverAll)
		}
	}()
	for {
		b := p.settled()
		if b == nil {
			break
		}
		b.deliver()
		p.drop(b)
	}
	finished = true
}

// settled returns the oldest batch once it is settled; nil when there will be none.
func (p *Producer) settled() *outBatch {
	over := p.life.Done()
	for {
		p.mu.Lock()
		var b *outBatch
		if len(p.all) > 0 {
			b = p.all[0]
		}
		done := b != nil && b.settled
		p.mu.Unlock()
		if done {
			return b
		}
		if b == nil && p.life.Err() != nil {
			return nil
		}
		if b != nil {
			<-p.ready // each batch is settled in the end
			continue
		}
		select {
		case <-p.ready:
		case <-over:
		}
	}
}

// drop forgets the oldest batch, which is delivered.
func (p *Producer) drop(b *outBatch) {
	p.mu.Lock()
	p.all = slices.Delete(p.all, 0, 1)
	p.buffered -= b.bytes
	flushers := b.flushers
	if b.reset(p.opts.MaxBytes); len(p.spare) < 4*p.opts.MaxInFlight {
		p.spare = append(p.spare, b)
	}
	p.mu.Unlock()
	for _, f := range flushers {
		close(f)
	}
	signal(p.space)
}
