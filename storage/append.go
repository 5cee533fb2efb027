package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"

	"github.com/cespare/xxhash/v2"
	"github.com/zue-log/zue/storage/batch"
)

const (
	// maxQueued bounds, in bytes, what waits behind a commit; appends beyond it
	// wait before they are encoded.
	maxQueued = 16 << 20
	// maxGroup bounds, in bytes, what one commit writes, one entry excepted.
	maxGroup = 4 << 20
	// maxSpare is the largest buffer kept between commits: room for a full group.
	maxSpare = maxGroup + maxGroup/4

	// worthWarming is how much room, in bytes, must be left in a segment that
	// was not filled with zeros before another one is begun early.
	worthWarming = 4 << 20

	standaloneTerm = 1 // of entries that no election came before

	// maxIndex is the largest index and offset that a log gives out.
	maxIndex = 1 << 62
)

// group is a run of entries that one commit writes and syncs together.
type group struct {
	buf     []byte
	last    int   // where in buf the last entry begins
	entries int   // how many there are
	maxTime int64 // the largest timestamp in it
	before  tail  // the log's tail before the group's first entry
	after   Place
	newSize int64         // size of the new segment to begin before it; 0: none
	newSeed uint32        // what that segment's header stores for its seed
	grow    bool          // the active segment is to grow to newSize instead
	done    chan struct{} // closed when err is final; nil if nobody waits for it
	err     error
}

// rolls says whether the group begins a segment.
func (g *group) rolls() bool { return g.newSize != 0 && !g.grow }

// await returns what is closed when the group is committed, or has failed. The log's
// mutex is held.
func (g *group) await() chan struct{} {
	if g.done == nil {
		g.done = make(chan struct{})
	}
	return g.done
}

// ended says whether the group, for which somebody waits, is committed, or has failed.
func (g *group) ended() bool {
	select {
	case <-g.done:
		return true
	default:
		return false
	}
}

type committerState int

const (
	committerIdle    committerState = iota
	committerPending                // a task has been submitted to commit the queue
	committerRunning                // an append, a task or Close is committing
)

// Append appends records atomically, as one entry, and returns the offset of the
// first; the others follow it. It returns when the records are as durable as
// Options.Sync asks. A record whose Timestamp is 0 gets the time of the call.
// The records' slices are the caller's again on return.
//
// Errors: ErrTooLarge, ErrClosed, ErrReadOnly, and those for which IsFull is true:
// nothing has been appended, and the log is as it was. ErrFailed, with the cause:
// whether the records are in the log is not known before it is opened again. An error
// with none of these: a new segment could not be made; nothing has been appended.
func (l *Log) Append(records ...Record) (first uint64, err error) {
	w, pooled, err := l.encode(records)
	if err != nil {
		return 0, err
	}
	if pooled != nil {
		defer bodies.Put(pooled)
	}
	l.mu.Lock()
	g, first, err := l.enqueue(&w)
	if err != nil {
		l.mu.Unlock()
		return 0, err
	}
	if l.commits != committerIdle {
		g.await()
		l.mu.Unlock()
		return Pending{log: l, group: g, first: first}.Wait()
	}
	// Nobody is committing: a lone caller does it itself, since handing over
	// to another goroutine would make it wait 27 to 50 % longer.
	l.commits = committerRunning
	if l.crowded && l.opts.Sync.always() {
		l.gather()
	}
	l.commitFirst()
	err = g.err
	if g.done == nil {
		l.spare = g // nobody else has seen it
	}
	l.handOver()
	l.mu.Unlock()
	return first, err
}

// Pending is an append that is under way.
type Pending struct {
	log   *Log
	group *group
	first uint64
	index uint64
	err   error
}

// AppendAsync is Append without the wait: the records get their place in the log,
// and the result says when they are as durable as Options.Sync asks. Appends are
// durable in the order of their offsets. When 16 MiB are waiting already it waits, or
// helps, until there is room. The records' slices are the caller's again on return.
func (l *Log) AppendAsync(records ...Record) Pending {
	w, pooled, err := l.encode(records)
	if err != nil {
		return Pending{err: err}
	}
	if pooled != nil {
		defer bodies.Put(pooled)
	}
	return l.submit([]payload{w})
}

// AppendBatch appends an encoded record batch as one entry, verbatim: body is a Kafka
// record batch from its attributes on, and checksum the CRC-32C over it, which that
// format calls crc. Both are verified first (see batch.Check): an error that wraps
// batch.ErrMalformed, batch.ErrUnsupported or batch.ErrTooLarge says that nothing has
// been appended. It returns when the batch has its place, as AppendAsync does; body is
// the caller's again then. Further errors are those of Append.
func (l *Log) AppendBatch(body []byte, checksum uint32) Pending {
	return l.appendBatch(body, checksum, anywhere)
}

// AppendBatchAt is [Log.AppendBatch] on the condition that the log ends at offset end,
// behind all appends that have their places: otherwise the error wraps ErrNotAtEnd, and
// nothing has been appended.
func (l *Log) AppendBatchAt(end uint64, body []byte, checksum uint32) Pending {
	return l.appendBatch(body, checksum, int64(min(end, math.MaxInt64)))
}

// anywhere is where an append goes that has no condition.
const anywhere = -1

func (l *Log) appendBatch(body []byte, checksum uint32, at int64) Pending {
	if len(body) > MaxBodyBytes {
		return Pending{err: tooLarge(len(body))}
	}
	if got := batch.Checksum(body); got != checksum {
		return Pending{err: fmt.Errorf("append batch: %w: checksum is %#x, not %#x", batch.ErrMalformed, got, checksum)}
	}
	h, err := batch.Check(body, MaxBodyBytes)
	if err != nil {
		return Pending{err: fmt.Errorf("append batch: %w", err)}
	}
	return l.submit([]payload{{kind: KindData, span: uint32(h.LastOffsetDelta) + 1, size: len(body), body: body, sum: checksum,
		born: checksum, at: at}})
}

// AppendControl appends a control entry with this body: see KindControl. It returns when
// the entry has its place, as AppendAsync does; body is the caller's again then. Errors are
// those of Append.
func (l *Log) AppendControl(body []byte) Pending {
	if len(body) > MaxBodyBytes {
		return Pending{err: tooLarge(len(body))}
	}
	sum := batch.Checksum(body)
	return l.submit([]payload{{kind: KindControl, at: anywhere, size: len(body), body: body, sum: sum, born: sum}})
}

// AppendEntries appends entries whose indexes and terms the caller has decided, as a
// replica does. Each index must be the next one, and no term less than that before;
// otherwise the error wraps ErrNotNext. The checksums are verified, but not the batches:
// whoever first took them has done it. It returns when the entries have their places, as
// AppendAsync does; their bodies are the caller's again then. First is the offset of the
// next record when the first entry was appended.
//
// Entries that are wrong by themselves, or among each other, or of which the first is not
// the log's next one, are refused together. After another error from Wait some of them may
// have been appended, in order: LastPlace tells, unless the log has failed.
func (l *Log) AppendEntries(entries ...Entry) Pending {
	payloads, _, err := replicatedAll(entries)
	if err != nil {
		return Pending{err: err}
	}
	return l.submit(payloads)
}

// maxWriteEntries is how many bytes of entries WriteEntries commits itself: more are better
// encoded while others are being written.
const maxWriteEntries = 64 << 10

// WriteEntries appends entries as AppendEntries does, and returns when they are as durable as
// they are to be. If they are few, and nothing else is being appended, that is done by the
// caller's goroutine, which is faster for one that has nothing else to do.
//
// Errors: those of Pending.Wait.
func (l *Log) WriteEntries(entries ...Entry) error {
	payloads, size, err := replicatedAll(entries)
	if err != nil {
		return err
	}
	if size > maxWriteEntries {
		_, err := l.submit(payloads).Wait()
		return err
	}
	l.mu.Lock()
	p := l.queueUp(payloads, func() {}) // nobody need be told
	if l.commits == committerIdle && p.group != nil {
		l.commits = committerRunning
		for !p.group.ended() {
			l.commitFirst()
			l.changed.Broadcast()
		}
		l.handOver()
	}
	l.mu.Unlock()
	_, err = p.Wait()
	return err
}

// replicatedAll makes the payloads of entries, which have size bytes together.
func replicatedAll(entries []Entry) (payloads []payload, size int, err error) {
	if len(entries) == 0 {
		return nil, 0, errors.New("append: no entries")
	}
	payloads = make([]payload, len(entries))
	for i := range entries {
		if payloads[i], err = replicated(&entries[i]); err != nil {
			return nil, 0, fmt.Errorf("append entry %d: %w", entries[i].Index, err)
		}
		if i > 0 && (entries[i].Index != entries[i-1].Index+1 || entries[i].Term < entries[i-1].Term) {
			return nil, 0, fmt.Errorf("append entry %d of term %d behind entry %d of term %d: %w", entries[i].Index,
				entries[i].Term, entries[i-1].Index, entries[i-1].Term, ErrNotNext)
		}
		size += payloads[i].size
	}
	return payloads, size, nil
}

// replicated makes the payload of an entry that another log, or a leader, made.
func replicated(e *Entry) (payload, error) {
	w := payload{kind: e.Kind, at: anywhere, index: e.Index, term: e.Term, size: len(e.Body), body: e.Body, sum: e.Checksum, born: e.Born}
	switch {
	case e.Index == 0 || e.Term == 0:
		return w, fmt.Errorf("%w: index and term begin with 1", ErrNotNext)
	case len(e.Body) > MaxBodyBytes:
		return w, tooLarge(len(e.Body))
	case batch.Checksum(e.Body) != e.Checksum:
		return w, fmt.Errorf("%w: checksum mismatch", batch.ErrMalformed)
	}
	switch e.Kind {
	case KindControl:
	case KindData:
		h, err := batch.ParseHeader(e.Body)
		if err != nil {
			return w, err
		}
		if w.span = uint32(h.LastOffsetDelta) + 1; uint32(h.Count) != w.span {
			return w, fmt.Errorf("%w: %d records for %d offsets", batch.ErrUnsupported, h.Count, w.span)
		}
	default:
		return w, fmt.Errorf("%w: %s", batch.ErrUnsupported, e.Kind)
	}
	return w, nil
}

func tooLarge(n int) error {
	return fmt.Errorf("append of %d bytes: %w (at most %d bytes)", n, ErrTooLarge, MaxBodyBytes)
}

// First returns the offset that the first record has, or will have if the append
// succeeds.
func (p Pending) First() uint64 { return p.first }

// Index returns the index that the first entry has, or will have if the append succeeds.
func (p Pending) Index() uint64 { return p.index }

// Refused returns the error of an append that was refused at once, which Wait returns, too;
// nil if it has its place in the log, and may fail later.
func (p Pending) Refused() error {
	if p.group != nil {
		return nil
	}
	_, err := p.Wait()
	return err
}

// Done returns a channel that is closed when Wait will not block.
func (p Pending) Done() <-chan struct{} {
	if p.group == nil {
		return closed
	}
	return p.group.done
}

// closed is a channel that is closed.
var closed = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// Wait returns what Append would have, when it is known. It may be called more than
// once, and concurrently. The zero Pending is an append that was never made: an error.
func (p Pending) Wait() (first uint64, err error) {
	if p.group != nil {
		if !p.group.ended() {
			p.log.help(p.group)
			<-p.group.done
		}
		err = p.group.err
	}
	switch {
	case err != nil:
	case p.err != nil:
		err = p.err
	case p.group == nil:
		err = errors.New("wait for an append that was never made")
	}
	return p.first, err
}

// help commits up to g in the caller's goroutine, if the task that should do it has
// not begun.
func (l *Log) help(g *group) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.commits != committerPending {
		return
	}
	l.commitUntil(g.ended)
}

// submit queues payloads, none if the first is refused, and has them committed. One that
// is refused later ends them, and is known when those before it are committed.
func (l *Log) submit(payloads []payload) Pending {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.queueUp(payloads, l.handOver)
}

// queueUp queues payloads, as submit does, and after each calls idle if nobody is committing. l.mu
// is held.
func (l *Log) queueUp(payloads []payload, idle func()) Pending {
	p := Pending{log: l}
	for i := range payloads {
		g, first, err := l.enqueue(&payloads[i])
		if err != nil {
			p.err = err
			return p
		}
		if i == 0 {
			p.first, p.index = first, l.tail.place.Index
		}
		p.group = g
		g.await()
		if l.commits == committerIdle {
			idle()
		}
	}
	return p
}

// bodies are buffers for compressed bodies.
var bodies = sync.Pool{New: func() any { return new([]byte) }}

// encode checks records and makes their payload: they are encoded later, right into
// their group, unless they are to be compressed. Then the body is in pooled, a buffer
// to be given back to bodies.
func (l *Log) encode(records []Record) (w payload, pooled *[]byte, err error) {
	if len(records) == 0 {
		return w, nil, errors.New("append: no records")
	}
	w = payload{kind: KindData, at: anywhere, span: uint32(len(records)), records: records, now: l.opts.Executor.Now().UnixMilli()}
	w.size = batch.Size(records, w.now)
	if w.size > MaxBodyBytes || len(records) > batch.MaxRecords {
		return w, nil, tooLarge(w.size)
	}
	if l.opts.Compression == batch.CodecNone {
		return w, nil, nil
	}
	pooled = bodies.Get().(*[]byte)
	*pooled, err = batch.AppendCompressed((*pooled)[:0], records, w.now, l.opts.Compression)
	if err != nil {
		return w, nil, fmt.Errorf("append: %w", err)
	}
	w.body, w.size, w.sum, w.records = *pooled, len(*pooled), batch.Checksum(*pooled), nil
	w.born = w.sum
	return w, pooled, nil
}

// enqueue gives w its place in the log and puts it into a group, which it returns with
// the offset of w's first record. l.mu is held, and let go of while there is no room.
func (l *Log) enqueue(w *payload) (*group, uint64, error) {
	size := entrySize(uint32(w.size))
	if err := l.admit(size); err != nil {
		return nil, 0, err
	}
	p := l.tail.place
	if w.index != 0 && (w.index != p.Index+1 || w.term < p.Term) {
		return nil, 0, fmt.Errorf("append entry %d of term %d behind entry %d of term %d: %w", w.index, w.term, p.Index, p.Term, ErrNotNext)
	}
	if w.at != anywhere && uint64(w.at) != p.Offset {
		return nil, 0, fmt.Errorf("append at offset %d: %w: it ends at offset %d", w.at, ErrNotAtEnd, p.Offset)
	}
	if p.Index >= maxIndex || p.Offset > maxIndex-uint64(w.span) {
		return nil, 0, fmt.Errorf("append at offset %d: the log has no more offsets", p.Offset)
	}
	g, err := l.openGroup(size, uint64(w.span))
	if err != nil {
		return nil, 0, err
	}
	g.last = len(g.buf)
	g.buf, g.after = appendEntry(g.buf, l.tail.seed, p, l.durable.Load(), w)
	if w.kind == KindData {
		if b, err := batch.ParseHeader(g.buf[g.last+entryHeaderSize:]); err == nil {
			g.maxTime = max(g.maxTime, b.MaxTimestamp)
		}
	}
	g.entries++
	l.tail.place = g.after
	l.tail.pos += size
	l.queued += int(size)
	return g, p.Offset, nil
}

// admit waits until there is room for size bytes in the queue. l.mu is held, and let
// go of in between.
func (l *Log) admit(size int64) error {
	for {
		if err := l.usable(); err != nil {
			return err
		}
		fits := func() bool { return l.queued == 0 || l.queued+int(size) <= maxQueued }
		switch {
		case l.paused > 0:
			l.changed.Wait()
		case fits():
			return nil
		case l.commits == committerRunning:
			l.changed.Wait()
		default:
			l.commitUntil(fits) // nobody does: whoever outruns the disk works itself
		}
	}
}

// openGroup returns the group that an entry of size bytes and span offsets joins. l.mu is
// held.
func (l *Log) openGroup(size int64, span uint64) (*group, error) {
	// Offsets are relative to the segment's in its index.
	fits := l.tail.pos+size <= l.tail.room && l.tail.place.Offset-l.tail.start <= math.MaxUint32-span && !l.leaves(size)
	if n := len(l.queue); n > 0 && fits && len(l.queue[n-1].buf)+int(size) <= maxGroup {
		return l.queue[n-1], nil
	}
	before := l.tail
	var newSize int64
	var newSeedValue uint32
	var grow bool
	if !fits {
		// A segment without a record would have the same name as the next.
		if grow = before.pos > 0 && before.place.Offset == before.start; grow {
			newSize = max(2*(before.room+2*footerSize), sizeFor(before.pos-segmentHeaderSize+size))
			if newSize > math.MaxUint32 {
				return nil, fmt.Errorf("append at offset %d: %w: the segment is full of control entries", before.place.Offset, ErrTooLarge)
			}
			l.tail.room = room(newSize)
		} else {
			newSize = max(l.opts.SegmentBytes, sizeFor(size))
			newSeedValue = l.drawSeed()
			l.tail = tail{place: before.place, pos: segmentHeaderSize, room: room(newSize), seed: newSeed(newSeedValue),
				start: before.place.Offset, created: l.opts.Executor.Now().UnixMilli(), cold: l.ready == nil || !l.ready.filled || l.ready.size != newSize}
		}
	}
	g := l.spare
	l.spare = nil
	if g == nil {
		g = new(group)
	}
	*g = group{buf: g.buf[:0], before: before, maxTime: noTime, newSize: newSize, newSeed: newSeedValue, grow: grow}
	l.queue = append(l.queue, g)
	return g, nil
}

// leaves says whether an entry of size bytes is to begin a segment although there is room
// in the active one: because that is too old to be written to, or was made in haste. The
// next one must have been made, so that no disk which is full keeps the entry out. l.mu
// is held.
func (l *Log) leaves(size int64) bool {
	t := &l.tail
	if l.ready == nil || t.place.Offset == t.start || sizeFor(size) > l.ready.size {
		return false
	}
	if l.active == nil || l.active.before.Offset != t.start {
		return false // it is still to be begun, and takes the one that has been made
	}
	return l.tooOld(t.created) || t.cold && l.ready.filled && t.room-t.pos >= worthWarming
}

// tooOld says whether a segment that was made then, in Unix milliseconds, has come to the
// age at which it is left.
func (l *Log) tooOld(created int64) bool {
	return l.opts.SegmentAge > 0 && l.opts.Executor.Now().UnixMilli()-created >= l.opts.SegmentAge.Milliseconds()
}

// drawSeed draws the seed of a new segment from the clock and the log's chain, which
// no client sees: so a simulation that sets the clock can be repeated. l.mu is held.
func (l *Log) drawSeed() uint32 {
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:], uint64(l.opts.Executor.Now().UnixNano()))
	binary.LittleEndian.PutUint64(b[8:], l.tail.place.Chain)
	return uint32(xxhash.Sum64(b[:]))
}

// handOver ends the committing of one group: what has queued up meanwhile goes
// to a task, which commits until nothing is left. l.mu is held.
func (l *Log) handOver() {
	l.commits = committerIdle
	if len(l.queue) > 0 {
		l.commits = committerPending
		l.background(0, func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			if l.commits == committerPending {
				l.commitAll()
			}
		})
	}
	l.changed.Broadcast()
}

// commitAll commits the queue until it is empty. l.mu is held, and let go of in between.
func (l *Log) commitAll() { l.commitUntil(func() bool { return false }) }

// commitUntil commits groups of the queue, in the caller's goroutine, until enough says so
// or there are none; a task commits what is left. l.mu is held, and let go of in between;
// nobody is committing.
func (l *Log) commitUntil(enough func() bool) {
	l.commits = committerRunning
	for len(l.queue) > 0 && !enough() {
		if l.opts.Sync.always() {
			l.gather()
		}
		l.commitFirst()
		l.changed.Broadcast()
	}
	l.handOver()
}

// gather lets those whom the last commit has woken, and who are about to append again,
// join the next one: it yields as long as somebody does. l.mu is held, and let go of in
// between.
func (l *Log) gather() {
	for n := 0; len(l.queue) > 0 && l.queue[0].entries > n && len(l.queue) == 1; {
		n = l.queue[0].entries
		l.mu.Unlock()
		runtime.Gosched()
		l.mu.Lock()
	}
}

// quiesce waits until nothing is being appended, synced, sealed or removed, and keeps
// appends out until resume is called. l.mu is held, and let go of in between.
func (l *Log) quiesce() (resume func()) {
	l.paused++
	for {
		switch {
		case l.commits == committerRunning || l.syncing:
			l.changed.Wait()
		case len(l.queue) > 0:
			l.commitAll()
		default:
			return func() {
				l.paused--
				l.changed.Broadcast()
			}
		}
	}
}

// commitFirst commits the first group of the queue and answers those who wait
// for it. l.mu is held, and let go of in between; l.commits is committerRunning.
func (l *Log) commitFirst() {
	g := l.queue[0]
	l.queue = slices.Delete(l.queue, 0, 1) // keeps its array
	if l.failed == nil {
		l.mu.Unlock()
		final, err := l.commit(g)
		l.mu.Lock()
		if err != nil && final {
			err = l.fail(err)
		}
		g.err = err
	} else {
		g.err = l.failed
	}
	l.queued -= len(g.buf)
	if g.err != nil {
		l.abandon(g)
	} else {
		l.committedGroup(g)
	}
	if cap(g.buf) > maxSpare {
		g.buf = nil
	}
	if g.done != nil {
		if l.spare == nil {
			l.spare = &group{buf: g.buf} // the waiters keep g itself
		}
		g.buf = nil
		close(g.done)
	}
}

// committedGroup notes that g is in the log. l.mu is held.
func (l *Log) committedGroup(g *group) {
	l.written = g.after
	l.crowded = g.entries > 1
	l.groups++
	l.prepareNext()
	l.counts.Groups++
	l.counts.Entries += uint64(g.entries)
	l.counts.Records += g.after.Offset - g.before.place.Offset
	l.counts.Bytes += uint64(len(g.buf))
	if l.opts.Sync.always() {
		l.markDurable(g.after.Index)
	}
	if l.opts.ManualCommit {
		l.showCommitted()
	}
	l.arm()
}

// abandon takes back g, which failed, and the groups behind it, which stand on
// it. l.mu is held.
func (l *Log) abandon(g *group) {
	l.tail = g.before
	for _, next := range l.queue {
		l.queued -= len(next.buf)
		next.err = g.err
		close(next.done)
	}
	clear(l.queue)
	l.queue = l.queue[:0]
}
