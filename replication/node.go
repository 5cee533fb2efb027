package replication

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/zue-log/zue/replication/core"
	"github.com/zue-log/zue/storage"
)

// ErrStopped is returned by the methods of a [Node] that has ended.
var ErrStopped = errors.New("the node has stopped")

// Transport carries messages to other nodes. What comes from them goes to [Node.Step].
type Transport interface {
	// Send has messages sent, each to its To, and must not wait for that: what there is no
	// room for is dropped. It may be called concurrently; those to one node stay in order. The
	// messages must not be changed. If done is not nil, which it is for a single message only, it
	// is to be called once, when that, and what it points to, is not needed any more; by any
	// goroutine, and perhaps before Send returns.
	Send(messages []*core.Message, done func())
}

// Options configure a [Node].
type Options struct {
	// Core is the configuration of what decides; its Log is what the node replicates.
	Core core.Config
	// Tick is the time between two ticks of the core: a tenth of the election timeout, if
	// Core.ElectionTicks is 10.
	Tick time.Duration
	// Transport carries messages.
	Transport Transport
	// CatchUpRate bounds how many bytes per second nodes that are behind are sent from the log
	// while there are appends: all of them together. They are sent a quarter more than is
	// appended if that is more, and without bound if nothing was appended for a second.
	// Default: DefaultCatchUpRate.
	CatchUpRate int64
	// Logger gets a line when the node's role, leader or membership changes, and when it
	// fails. Default: none.
	Logger *slog.Logger
}

// DefaultCatchUpRate is 64 MiB.
const DefaultCatchUpRate = 64 << 20

const (
	// maxInputs bounds what waits for the node's goroutine.
	maxInputs = 1024
	// maxWrites bounds the writes that wait for the storage's goroutine, and maxBegun those
	// that it has begun.
	maxWrites = 1024
	// commitDelay is how long a follower may wait for the news that entries are committed. It is
	// as late in showing them to readers.
	commitDelay = time.Millisecond
	maxBegun    = 64
)

// Node runs a [core.Core]: one goroutine around it, one that makes its writes durable, one that
// does its repairs, and one for each other node that reads what that lacks. Who has something for
// the core does what there is to do himself, if nobody is doing that: see help.
// Its methods may be called concurrently.
type Node struct {
	opts   Options
	log    *storage.Log
	inputs chan func(*core.Core)
	wake   chan struct{} // has one when there may be something for run to do
	writes chan *core.Write
	done   chan finished // writes
	repair chan *core.Repair
	mended chan *core.Repair // those that are done
	stop   chan struct{}     // closed by Stop, for the goroutine to end when all is done
	ended  chan struct{}     // closed when all goroutines have
	once   sync.Once
	tasks  sync.WaitGroup
	damage atomic.Int64 // see Damage
	flying atomic.Int64 // appends that have no outcome yet; of runs, the entries that they became
	feeds  map[core.NodeID]*feed
	pace   pace

	mu        sync.Mutex
	gathering gathering
	err       error // why it has ended

	endFeeds func()
	gatherBy *time.Timer // when runs that wait are ripe

	// turn is for who runs the core, and guards what follows.
	turn    sync.Mutex
	core    *core.Core
	over    bool          // the core is of no more use: nothing is done any more
	pending int           // writes that are not done
	queue   []*core.Write // of them, those that the storage's goroutine has no room for
	closing bool
	late    map[core.NodeID]*core.Message // that wait: see send
	lateBy  *time.Timer                   // when they are sent
	known   int64                         // of damage, the core's
	last    core.Standing

	// disk is for who does writes: it is taken with the first that is not done, by who has the turn
	// or by store, and let go of when the core can be told of the last. It guards what follows.
	disk   sync.Mutex
	failed error // of a write: no other is done
}

// finished is a write that was finished, or could not be.
type finished struct {
	write *core.Write
	err   error
}

// Start starts a node. Its log must stay open until Stop has returned. The error is that of
// [core.New].
func Start(o Options) (*Node, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.CatchUpRate == 0 {
		o.CatchUpRate = DefaultCatchUpRate
	}
	if o.Tick <= 0 || o.Transport == nil || o.CatchUpRate < 0 {
		return nil, fmt.Errorf("replication: Tick is %v, CatchUpRate %d and Transport %v: want more than 0 of both, and one", o.Tick, o.CatchUpRate, o.Transport)
	}
	c, err := core.New(o.Core)
	if err != nil {
		return nil, err
	}
	n := &Node{
		opts: o, log: o.Core.Log, core: c, inputs: make(chan func(*core.Core), maxInputs), wake: make(chan struct{}, 1),
		writes: make(chan *core.Write, maxWrites), done: make(chan finished, maxWrites+maxBegun+1),
		late:   map[core.NodeID]*core.Message{},
		repair: make(chan *core.Repair, 1), mended: make(chan *core.Repair, 1),
		stop: make(chan struct{}), ended: make(chan struct{}),
		feeds: map[core.NodeID]*feed{}, pace: pace{rate: o.CatchUpRate},
	}
	ctx, cancel := context.WithCancel(context.Background())
	n.endFeeds = cancel
	for _, id := range o.Core.Nodes {
		if id != o.Core.Self {
			f := newFeed(n)
			n.feeds[id] = f
			n.tasks.Go(func() { f.run(ctx) })
		}
	}
	n.lateBy, n.gatherBy = time.NewTimer(0), time.NewTimer(0)
	n.tasks.Go(n.run)
	n.tasks.Go(n.store)
	n.tasks.Go(n.doRepairs)
	go func() {
		n.tasks.Wait()
		close(n.ended)
	}()
	return n, nil
}

// Done returns a channel that is closed when the node has ended: by Stop, or since it has
// failed. Err says why.
func (n *Node) Done() <-chan struct{} { return n.ended }

// Err returns why the node has failed, nil if it has not.
func (n *Node) Err() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.err
}

// Stop takes no more requests, saves what is to be saved, and ends the node. What waits is
// answered with core.ErrStopped. To have another node lead first, call Transfer.
func (n *Node) Stop() {
	n.once.Do(func() { close(n.stop) })
	<-n.ended
}

// run is the goroutine around the core, which does what nobody else does.
func (n *Node) run() {
	defer func() {
		close(n.writes)
		for range n.done { // store may have more to say than there is room for
		}
	}()
	defer close(n.repair)
	defer func() {
		n.endFeeds()
		for _, f := range n.feeds {
			close(f.queue)
		}
	}()
	ticks := time.NewTicker(n.opts.Tick)
	defer ticks.Stop()
	defer n.lateBy.Stop()
	defer n.gatherBy.Stop()
	stop := n.stop
	for event := func() {}; ; event = func() {} {
		var more <-chan struct{} // never: there is nothing else to do
		if n.waiting() {
			more = closed
		}
		select {
		case <-more:
		case <-n.wake:
		case r := <-n.mended:
			event = func() { n.repaired(n.core, r) }
		case <-n.lateBy.C:
			event = n.sendLate
		case <-n.gatherBy.C: // there are ripe ones, perhaps
		case <-ticks.C:
			event = n.core.Tick
		case <-stop:
			stop = nil
			event = func() {
				n.closing = true
				n.core.Close()
			}
		}
		n.turn.Lock()
		if !n.over {
			event()
			n.round(false)
		}
		over := n.over
		n.turn.Unlock()
		if over {
			return
		}
	}
}

const (
	// maxHelp bounds how often who helps goes on for others before he goes on for himself.
	maxHelp = 4
	// maxAlone is how many appends, or entries of gathered ones, may be under way for whoever has something
	// for the core to do it himself: when there are more, what comes meanwhile had better be done together.
	maxAlone = 2
	// maxOwn is how many bytes of entries who has brought them makes durable himself: while he is
	// about more, others that come had better be encoded meanwhile.
	maxOwn = 16 << 10
)

// help does what there is to do for the core, unless somebody is doing that: he will see what has
// come, or have run see it. To hand it to a goroutine instead costs two changes from one to another for
// each message, write and append, which is most of what an append takes when there is one at a time.
// With mayWrite he also makes a short write durable, if it is the only one. He who waits for the
// disk must be one for whom nothing urgent waits, nor what others could go on by without this disk.
func (n *Node) help(mayWrite bool) {
	if n.flying.Load() > maxAlone {
		n.rouse()
		return
	}
	for range maxHelp {
		if !n.turn.TryLock() {
			return
		}
		var own *core.Write
		if !n.over {
			own = n.round(mayWrite)
		}
		over := n.over
		n.turn.Unlock()
		if own != nil {
			if over || n.waiting() { // what came while others could not have the turn
				n.rouse()
			}
			n.doAlone(own)
			continue
		}
		if over {
			break // run is to see it
		}
		if !n.waiting() {
			return
		}
	}
	n.rouse()
}

// doAlone does a write that no other is begun beside. The caller has n.disk, which is let go of.
func (n *Node) doAlone(w *core.Write) {
	defer n.disk.Unlock()
	if n.failed == nil {
		n.failed = w.Do(n.log)
	}
	n.done <- finished{w, n.failed}
}

// rouse has run see what there is to do.
func (n *Node) rouse() {
	select {
	case n.wake <- struct{}{}:
	default: // it will
	}
}

// waiting says whether there is something to do for the core.
func (n *Node) waiting() bool {
	if len(n.inputs)+len(n.done) > 0 {
		return true
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.gathering.runs) > 0 && n.gathering.ripe(time.Now()) // a follower has none, and no need of the time
}

// round has the core take all that is at hand, so that it shares a write and a message, and does
// what the core wants then. The caller has the turn.
func (n *Node) round(mayWrite bool) (own *core.Write) {
	c := n.core
	n.takeMore(c)
	n.propose(c)
	own = n.carryOut(c, mayWrite)
	err := c.Err()
	if err != nil {
		n.fail(err)
	}
	if err != nil || n.closing && n.pending == 0 {
		n.over = true
		n.refuse(c)
	}
	return own
}

// takeMore takes what is at hand.
func (n *Node) takeMore(c *core.Core) {
	for range maxInputs {
		select {
		case do := <-n.inputs:
			do(c)
		case f := <-n.done:
			n.written(c, f)
		default:
			return
		}
	}
}

// written tells the core of a write that is finished.
func (n *Node) written(c *core.Core, f finished) {
	n.pending--
	c.Written(f.write, f.err)
}

// carryOut does what the core wants done.
func (n *Node) carryOut(c *core.Core, mayWrite bool) (own *core.Write) {
	out := c.Ready()
	n.send(c, out.Messages)
	for _, w := range out.Writes {
		n.pace.appended.Add(int64(w.Bytes())) // those who catch up must not keep up with it
	}
	n.pending += len(out.Writes)
	n.queue = append(n.queue, out.Writes...)
	own = n.handOut(mayWrite)
	for _, r := range out.Repairs {
		n.repair <- r // there is one at a time
	}
	answer(&out)
	n.noteDamage(c)
	if !n.closing {
		n.report(c.Standing())
	}
	return own
}

// send sends messages. One that only says how far entries are committed waits a little: if the
// next entries come meanwhile, their message says so, too. It may get lost as any other. Where
// entries must be read first, the node's feed does that, and nothing with entries may overtake
// them.
func (n *Node) send(c *core.Core, messages []*core.Message) {
	now := messages[:0]
	for _, m := range messages {
		app := isApp(m)
		switch {
		case app && len(m.Raft.GetEntries()) == 0:
			if len(n.late) == 0 {
				n.lateBy.Reset(commitDelay)
			}
			n.late[m.To] = m
			continue
		case app:
			delete(n.late, m.To)
		}
		if f := n.feeds[m.To]; f != nil && !m.Urgent() && (m.Stored() || f.waiting.Load() > 0) {
			if !f.put(m) {
				f.lost.Add(1)
				c.Unreachable(m.To)
			}
			continue
		}
		now = append(now, m)
	}
	if len(now) > 0 {
		n.opts.Transport.Send(now, nil)
	}
}

// isApp says whether a message is raft's with entries, or with the news of how far they are committed.
func isApp(m *core.Message) bool {
	return m.Kind == core.KindRaft && m.Raft.GetType() == raftpb.MsgApp
}

// sendLate sends what has waited.
func (n *Node) sendLate() {
	if len(n.late) == 0 {
		return
	}
	var messages []*core.Message
	for id, m := range n.late {
		if f := n.feeds[id]; f == nil || f.waiting.Load() == 0 || !f.put(m) {
			messages = append(messages, m)
		}
	}
	clear(n.late)
	if len(messages) > 0 {
		n.opts.Transport.Send(messages, nil)
	}
}

// handOut hands writes to the storage's goroutine, as many as there is room for. A disk that
// stalls must not stop the node: the others wait, bounded by what the core takes.
//
// With mayWrite, and if there is but one, it may leave that to the caller: own, who has n.disk then.
func (n *Node) handOut(mayWrite bool) (own *core.Write) {
	if mayWrite && n.pending == 1 && len(n.queue) == 1 && n.queue[0].Bytes() <= maxOwn && n.disk.TryLock() {
		own, n.queue = n.queue[0], nil
		return own
	}
	for len(n.queue) > 0 {
		select {
		case n.writes <- n.queue[0]:
			n.queue = n.queue[1:]
		default:
			return nil
		}
	}
	n.queue = nil
	return nil
}

// doRepairs is the goroutine that does repairs.
func (n *Node) doRepairs() {
	for r := range n.repair {
		r.Do(n.log)
		n.mended <- r // there is room for the only one
	}
}

// repaired tells the core of a repair that is done.
func (n *Node) repaired(c *core.Core, r *core.Repair) {
	c.Repaired(r)
	switch err := r.Err(); {
	case err != nil:
		n.opts.Logger.Warn("damage could not be mended", "damage", r.Damage(), "err", err)
	case r.Mends() > 0:
		n.opts.Logger.Info("damage was mended with what another node has", "damage", r.Damage(), "entries", r.Mends())
	}
}

// Damaged says that damage was found in the node's log, as [core.Core.Damaged] says. It does not
// wait: where there is no room, the damage will be found again.
func (n *Node) Damaged(e *storage.CorruptionError) {
	n.damage.Add(1)
	select {
	case n.inputs <- func(c *core.Core) {
		c.Damaged(e)
		n.noteDamage(c)
		n.damage.Add(-1)
	}:
		n.rouse()
	default:
		n.damage.Add(-1)
	}
}

// noteDamage has Damage tell what the core knows.
func (n *Node) noteDamage(c *core.Core) {
	known := int64(c.Damage())
	n.damage.Add(known - n.known)
	n.known = known
}

// Damage returns how much damage is known of, and neither mended nor given up. It does not wait
// for the node's goroutine, and costs little.
func (n *Node) Damage() int { return int(n.damage.Load()) }

// answer gives answers to who waits for them.
func answer(out *core.Output) {
	for _, a := range out.Appends {
		a.Tag.(func(*core.Append))(a)
	}
	for _, b := range out.Barriers {
		b.Tag.(func(*core.Barrier))(b)
	}
}

// refuse answers what comes too late.
func (n *Node) refuse(c *core.Core) {
	n.mu.Lock()
	if n.err == nil {
		n.err = ErrStopped
	}
	n.mu.Unlock()
	c.Close()
	for {
		n.propose(c)
		out := c.Ready()
		answer(&out)
		select {
		case do := <-n.inputs:
			do(c)
		default:
			return
		}
	}
}

func (n *Node) fail(err error) {
	n.mu.Lock()
	n.err = err
	n.mu.Unlock()
	n.opts.Logger.Error("the node has failed", "node", n.opts.Core.Self, "err", err)
}

// report logs what has changed.
func (n *Node) report(s core.Standing) {
	if s != n.last {
		n.opts.Logger.Info("role", "node", s.Self.String(), "role", string(s.Role), "term", s.Term, "leader", uint16(s.Leader.Node()), "voters", s.Voters)
	}
	n.last = s
}

// store is the goroutine that makes writes durable, in their order. It begins each as soon as
// it may, so that those that come together share a sync.
func (n *Node) store() {
	defer func() {
		n.disk.Lock() // who does a write himself has to say so yet
		close(n.done)
		n.disk.Unlock()
	}()
	var begun []*core.Write
	var next *core.Write // that may not begin yet
	writes := n.writes
	for writes != nil || next != nil || len(begun) > 0 {
		if next != nil && len(begun) == 0 {
			n.disk.Lock()
		}
		if next != nil && (len(begun) == 0 || !next.Exclusive()) {
			switch {
			case n.failed != nil:
			case len(begun) == 0 && len(writes) == 0: // there is nothing to begin meanwhile
				n.doAlone(next)
				next = nil
				n.help(false)
				continue
			default:
				n.failed = next.Begin(n.log)
			}
			begun, next = append(begun, next), nil
		}
		if next == nil && len(begun) > 0 && len(begun) < maxBegun {
			select {
			case w, ok := <-writes:
				if next = w; !ok {
					writes = nil
				}
				continue
			case <-ready(begun[0], n.failed):
			}
		} else if next == nil && len(begun) == 0 {
			if next = <-writes; next == nil {
				return // closed
			}
			continue
		}
		w := begun[0]
		begun = begun[1:]
		if n.failed == nil {
			n.failed = w.Finish(n.log)
		}
		n.done <- finished{w, n.failed}
		if len(begun) == 0 {
			n.disk.Unlock()
		}
		if len(begun) == 0 && len(writes) == 0 {
			n.help(false)
		} else {
			n.rouse() // the disk must not wait for it
		}
	}
}

// ready is closed when a write can be finished without waiting.
func ready(w *core.Write, failed error) <-chan struct{} {
	if failed != nil {
		return closed
	}
	return w.Done()
}

var closed = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// submit has something done with the core, perhaps before it returns.
func (n *Node) submit(ctx context.Context, do func(*core.Core)) error {
	err := n.put(ctx, do)
	if err == nil {
		n.help(false)
	}
	return err
}

// put queues something to be done with the core: whoever has the turn next does it.
func (n *Node) put(ctx context.Context, do func(*core.Core)) error {
	select {
	case <-n.ended:
		return ErrStopped
	default:
	}
	select {
	case n.inputs <- do:
		return nil
	case <-n.ended:
		return ErrStopped
	case <-ctx.Done():
		return ctx.Err()
	}
}

// call is submit for something with a result.
func call[T any](ctx context.Context, n *Node, do func(*core.Core) (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	var none T
	answer := make(chan result, 1)
	err := n.submit(ctx, func(c *core.Core) {
		value, err := do(c)
		answer <- result{value, err}
	})
	if err != nil {
		return none, err
	}
	r, err := await(ctx, n, answer)
	if err != nil {
		return none, err
	}
	return r.value, r.err
}

// await waits for an answer of the node's goroutine. The error is the context's or ErrStopped.
func await[T any](ctx context.Context, n *Node, answer <-chan T) (T, error) {
	var none T
	select {
	case a := <-answer:
		return a, nil
	case <-ctx.Done():
		return none, ctx.Err()
	case <-n.ended:
	}
	select {
	case a := <-answer: // the last that it did
		return a, nil
	default:
		return none, ErrStopped
	}
}

// Step takes a message of another node. It waits while there is no room for it; the error is
// the context's or ErrStopped. A message that makes no sense is logged, and does no harm.
// More says that another message of that node is at hand. If not, and there is little else to do,
// Step makes the message's entries durable before it returns: so those that are urgent must be
// another goroutine's.
func (n *Node) Step(ctx context.Context, m *core.Message, more bool) error {
	err := n.put(ctx, func(c *core.Core) {
		if err := c.Step(m); err != nil {
			n.opts.Logger.Warn("message refused", "from", uint16(m.From), "err", err)
		}
	})
	if err == nil {
		n.help(isApp(m) && !more)
	}
	return err
}

// Unreachable says that messages to a node get lost.
func (n *Node) Unreachable(ctx context.Context, id core.NodeID) error {
	return n.submit(ctx, func(c *core.Core) {
		if f := n.feeds[id]; f != nil {
			f.lost.Add(1)
		}
		c.Unreachable(id)
	})
}

// Append appends a batch; its Tag is the node's. It returns when the append has its outcome,
// which is also in a, or with the context's error: then it may be carried out all the same,
// and a must be left alone.
func (n *Node) Append(ctx context.Context, a *core.Append) error {
	answer := make(chan error, 1)
	if err := n.AppendAsync(ctx, a, func(a *core.Append) { answer <- a.Err }); err != nil {
		return err
	}
	outcome, err := await(ctx, n, answer)
	if err == ErrStopped {
		return core.ErrStopped // the append may be in the log
	}
	return cmp.Or(err, outcome)
}

// AppendAsync hands a batch over; its Tag is the node's. When it has its outcome, done is called,
// by whoever does the node's work then, perhaps before AppendAsync returns; it must be quick, and
// not call the node. It is called once, or, if the node ends meanwhile (see Done), perhaps never:
// then the append may be in the log. With an error, which wraps core.ErrNotLeader, it is not
// called, and nothing was appended. Those of one caller are appended in their order. It waits
// while there is no room.
func (n *Node) AppendAsync(ctx context.Context, a *core.Append, done func(*core.Append)) error {
	a.Tag = func(a *core.Append) {
		n.flying.Add(-1)
		done(a)
	}
	n.flying.Add(1)
	if err := n.submit(ctx, func(c *core.Core) { c.Append(a) }); err != nil {
		n.flying.Add(-1)
		return fmt.Errorf("%w: %w", core.ErrNotLeader, err)
	}
	return nil
}

// Barrier returns an end offset that is not stale: all that was acknowledged, to anyone,
// before the call lies below. The error is the context's, core.ErrNoLeader or a stop's.
func (n *Node) Barrier(ctx context.Context) (uint64, error) {
	answer := make(chan core.Barrier, 1)
	b := &core.Barrier{Tag: func(b *core.Barrier) { answer <- *b }}
	if err := n.submit(ctx, func(c *core.Core) { c.Barrier(b) }); err != nil {
		return 0, err
	}
	done, err := await(ctx, n, answer)
	return done.End, cmp.Or(err, done.Err)
}

// Status returns how the node is.
func (n *Node) Status(ctx context.Context) (core.Status, error) {
	return call(ctx, n, func(c *core.Core) (core.Status, error) { return c.Status(), nil })
}

// Transfer has another node lead, as [core.Core.Transfer] says.
func (n *Node) Transfer(ctx context.Context, to core.NodeID) (core.NodeID, error) {
	return call(ctx, n, func(c *core.Core) (core.NodeID, error) { return c.Transfer(to) })
}

// Remove removes a node from the membership, as [core.Core.Remove] says.
func (n *Node) Remove(ctx context.Context, id core.NodeID) error {
	_, err := call(ctx, n, func(c *core.Core) (struct{}, error) { return struct{}{}, c.Remove(id) })
	return err
}

// Allow lets a node join that no membership has had, as [core.Core.Allow] says.
func (n *Node) Allow(ctx context.Context, id core.NodeID) error {
	return n.submit(ctx, func(c *core.Core) { c.Allow(id) })
}
