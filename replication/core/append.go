package core

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sort"

	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"

	"github.com/zue-log/zue/replication/producer"
	"github.com/zue-log/zue/storage"
	"github.com/zue-log/zue/storage/batch"
)

// Why an append has failed. Of the first group it is surely not in the log, and never will
// be; of the second it may be, now or later.
var (
	// ErrNotLeader says that another node leads, or none does: see [Append.Leader].
	ErrNotLeader = errors.New("this node does not lead")
	// ErrInsufficientISR says that fewer than Quorum replicas are in sync.
	ErrInsufficientISR = errors.New("too few replicas are in sync; nothing was appended")
	// ErrOverloaded says that MaxInFlightBytes is reached; of a barrier, that too many wait.
	ErrOverloaded = errors.New("too many appends are under way; nothing was appended")

	// ErrQuorumFailed says that leadership was lost before the append was acknowledged.
	ErrQuorumFailed = errors.New("leadership was lost before the append was acknowledged; it may yet be in the log")
	// ErrReplicationTimeout says that it was not acknowledged in time.
	ErrReplicationTimeout = errors.New("the append was not on a quorum in time; it may yet be in the log")
	// ErrStopped says that the core has failed or was closed. It is maybe, too.
	ErrStopped = errors.New("the node has stopped; the append may be in the log")
)

// Append is a request to append a batch, or with Body nil to have a producer's id. The core
// keeps it until it is in [Output.Appends], with its outcome.
type Append struct {
	// Body is a record batch from its attributes on, which was checked, and Checksum its
	// CRC-32C. The core copies it.
	Body     []byte
	Checksum uint32
	// Conditional says that it is to be appended only if the log ends at EndOffset; the error
	// is storage.ErrNotAtEnd otherwise.
	Conditional bool
	EndOffset   uint64
	// Tag is the caller's.
	Tag any

	// Err is nil if it was appended; errors of package producer are among those that say that
	// it surely was not.
	Err error
	// First is the offset of the first record, Index that of the entry: a producer's id.
	First, Index uint64
	// Term is that of the entry, and Copies on how many voters it is.
	Term   uint64
	Copies int
	// Duplicate says that it was in the log already.
	Duplicate bool
	// Leader is who leads, for ErrNotLeader; 0 if that is not known.
	Leader NodeID

	header batch.Header
	term   uint64 // in which it was proposed
	since  uint64 // tick
	until  uint64 // tick: see orphan
	sure   int    // see sureCopies
	// certain says that the node led after the append had come: see doubt.
	certain bool
}

// Append takes a request to append. Its outcome is in an [Output] later, or in the next.
func (c *Core) Append(a *Append) {
	defer c.guard()
	a.since = c.ticks
	switch {
	case c.err != nil || c.closing:
		a.Err = fmt.Errorf("%w: it stops", ErrNotLeader)
	case c.rn == nil || !c.leads() || c.standsIn():
		a.Err, a.Leader = ErrNotLeader, c.leader.Node()
		if c.standsIn() {
			a.Leader = c.cfg.Preferred
		}
	case len(a.Body) > storage.MaxBodyBytes:
		a.Err = fmt.Errorf("batch of %d bytes: %w (at most %d)", len(a.Body), storage.ErrTooLarge, storage.MaxBodyBytes)
	case c.inFlight() > 0 && c.inFlight()+a.size() > c.cfg.MaxInFlightBytes:
		a.Err = ErrOverloaded
	}
	if a.Err == nil && a.Body != nil {
		if a.header, a.Err = batch.ParseHeader(a.Body); a.Err == nil && a.header.Count != a.header.LastOffsetDelta+1 {
			a.Err = fmt.Errorf("batch of %d records that takes up %d offsets: %w", a.header.Count, a.header.LastOffsetDelta+1, batch.ErrMalformed)
		}
	}
	if a.Err != nil {
		c.out.Appends = append(c.out.Appends, a)
		return
	}
	c.bytes += a.size()
	if len(c.parked) > 0 { // those come first
		c.parked = append(c.parked, a)
		return
	}
	c.propose(a)
}

// size is what an append takes of MaxInFlightBytes.
func (a *Append) size() int { return len(a.Body) + envelope }

// inFlight is how many bytes appends take up: those that wait for their answer, and those that
// have one and wait for the disk.
func (c *Core) inFlight() int { return max(c.bytes, c.inWrites) }

// leads says whether this node takes appends.
func (c *Core) leads() bool { return c.rn.BasicStatus().RaftState == raft.StateLeader }

// quorum returns on how many voters an append must be durable to be acknowledged.
func (c *Core) quorum() int {
	if c.cfg.Quorum > 0 {
		return c.cfg.Quorum
	}
	return len(c.conf().GetVoters())/2 + 1
}

// propose proposes an append, or parks or answers it.
func (c *Core) propose(a *Append) {
	if c.err != nil || c.rn == nil || !c.leads() { // since it was parked
		c.refuse(a, ErrNotLeader)
		return
	}
	if n := len(c.inSync()); n < c.quorum() {
		// A new leader's followers have had no chance yet.
		if c.role != raft.StateLeader || c.ticks-c.led < uint64(c.cfg.ElectionTicks) {
			c.parked = append(c.parked, a)
			return
		}
		c.answer(a, fmt.Errorf("%w: %d, want %d", ErrInsufficientISR, n, c.quorum()))
		return
	}
	if a.Conditional && a.EndOffset != c.end() {
		c.answer(a, fmt.Errorf("%w: it ends at %d, not at %d", storage.ErrNotAtEnd, c.end(), a.EndOffset))
		return
	}
	if a.Body != nil && a.header.ProducerID >= 0 {
		done, err := c.checkProducer(a)
		var damaged *storage.CorruptionError
		switch {
		case errors.As(err, &damaged): // it will be known when that is mended
			c.Damaged(damaged)
			c.answer(a, fmt.Errorf("%w: what the producer has appended is damaged here: %w", ErrOverloaded, err))
		case err != nil:
			c.fail(err)
			c.answer(a, ErrStopped)
		}
		if done || err != nil {
			return
		}
	}
	kind, checksum, body := storage.KindData, a.Checksum, a.Body
	if body == nil {
		kind, body = storage.KindControl, []byte(producer.ControlID)
		checksum = batch.Checksum(body)
	}
	data := appendEnveloped(make([]byte, 0, envelope+len(body)), kind, checksum, checksum, body)
	a.term = c.rn.BasicStatus().GetTerm()
	c.proposals = append(c.proposals, a) // first, so that it is answered whatever happens
	if err := c.rn.Propose(data); err != nil {
		// Either leadership is being handed over, or it is gone: nothing was appended.
		c.proposals = c.proposals[:len(c.proposals)-1]
		c.refuse(a, fmt.Errorf("%w: %w", ErrNotLeader, err))
	}
}

// checkProducer says whether a batch of a producer's needs no proposal: it is a duplicate of
// one that is in the leader's log, committed or not, or refused. An error ends the core.
func (c *Core) checkProducer(a *Append) (done bool, err error) {
	for _, p := range c.proposals { // of which the table does not know yet
		if p.Body != nil && p.header.ProducerID == a.header.ProducerID {
			c.pump()
			break
		}
	}
	if c.err != nil {
		return true, c.err
	}
	if c.table == nil {
		if err := c.loadTable(); err != nil {
			return true, err
		}
	}
	first, duplicate, err := c.table.Check(&a.header)
	if err != nil && !a.certain {
		a.certain = true // when there is an answer
		c.Barrier(&Barrier{Tag: &doubt{a}})
		return true, nil
	}
	if err != nil {
		c.answer(a, err)
		return true, nil
	}
	if !duplicate {
		return false, nil
	}
	a.Duplicate = true
	if first < c.log.FirstOffset() {
		// It is committed, and retention has removed it since.
		a.First, a.Copies = first, c.quorum()
		c.answer(a, nil)
		return true, nil
	}
	p, err := c.entryAt(first)
	if err == nil {
		c.fly(a, &p)
	}
	return true, err
}

// loadTable makes the table of what raft's log has.
func (c *Core) loadTable() error {
	last := c.last.Index
	if len(c.tail) > 0 {
		last = c.tail[0].index - 1
	}
	t, err := producer.LoadUpTo(c.log, last)
	if err != nil {
		return err
	}
	for i := range c.tail {
		if p := &c.tail[i]; p.producer != nil {
			t.Apply(p.offset, p.producer)
		}
	}
	c.table = t
	return nil
}

// entryAt returns the entry that begins with a record.
func (c *Core) entryAt(offset uint64) (placed, error) {
	// FindEntry goes no further than readers do, and the entry may not be committed.
	var failed error
	n := sort.Search(int(c.last.Index-c.visible), func(n int) bool {
		p, err := c.placeAfter(c.visible + 1 + uint64(n))
		failed = cmp.Or(failed, err)
		return err == nil && p.Offset > offset
	})
	index := c.visible + 1 + uint64(n)
	if offset < c.log.EndOffset() {
		index, failed = c.log.FindEntry(offset)
	}
	if failed != nil {
		return placed{}, fmt.Errorf("find the entry of offset %d: %w", offset, failed)
	}
	p, err := c.placeAfter(index)
	return placed{index: index, term: p.Term, offset: offset}, err
}

// end returns the end offset of the leader's log, with all that was proposed.
func (c *Core) end() uint64 {
	end := c.last.Offset
	for _, a := range c.proposals {
		if a.Body != nil {
			end += uint64(a.header.LastOffsetDelta) + 1
		}
	}
	return end
}

// placedProposal finds the append of an entry that raft has appended. In one term, all that
// was proposed is appended, in that order.
func (c *Core) placedProposal(e *pb.Entry, p *placed) {
	for len(c.proposals) > 0 {
		a := c.proposals[0]
		if a.term > e.GetTerm() || a.term == e.GetTerm() && (e.GetType() != pb.EntryNormal || len(e.GetData()) == 0) {
			return // of another leader's, or raft's own
		}
		c.proposals = slices.Delete(c.proposals, 0, 1)
		if a.term < e.GetTerm() {
			c.answer(a, ErrQuorumFailed)
			continue
		}
		c.fly(a, p)
		return
	}
}

// fly has an append wait for the acknowledgement of its entry, which is in the leader's log.
func (c *Core) fly(a *Append, p *placed) {
	a.Term, a.Index, a.First, a.sure = p.term, p.index, p.offset, c.sureCopies(p.index)
	at, _ := slices.BinarySearchFunc(c.flights, p.index+1, func(a *Append, i uint64) int { return cmp.Compare(a.Index, i) })
	c.flights = slices.Insert(c.flights, at, a)
}

// acknowledge answers the appends that may be acknowledged: readers here see them, so they
// are committed, and durable here; and Quorum voters have said that they are durable there.
// What a voter has said is its Progress' Match. It is never of another incarnation, since
// that has another id, and the voter says it only when the write is finished: raft's responses
// wait in Write for that.
func (c *Core) acknowledge() {
	if len(c.flights) == 0 || c.role != raft.StateLeader {
		return
	}
	matches := c.matches()
	quorum := c.quorum()
	if len(matches) < quorum {
		return
	}
	last := min(c.visible, matches[quorum-1])
	n := 0
	for _, a := range c.flights {
		if a.Index > last {
			break
		}
		a.Copies = 0
		for _, m := range matches {
			if m >= a.Index {
				a.Copies++
			}
		}
		c.answer(a, nil)
		n++
	}
	c.flights = slices.Delete(c.flights, 0, n)
}

// orphan keeps the flights of a leadership that was lost for an election timeout: when there is
// another leader by then, as after a transfer, what has become of their entries shows here, too.
func (c *Core) orphan() {
	for _, a := range c.flights {
		a.until = c.ticks + uint64(c.cfg.ElectionTicks)
	}
	orphans := append(c.orphans, c.flights...)
	c.orphans, c.flights = nil, nil
	c.answerAll(ErrQuorumFailed)
	c.orphans = orphans
}

// settleOrphans answers the orphans whose place in the log has a committed entry: if it is
// theirs, they are committed, too, and durable on a majority; if it is another, theirs never
// will be.
func (c *Core) settleOrphans() {
	c.orphans = slices.DeleteFunc(c.orphans, func(a *Append) bool {
		if a.Index > c.visible {
			return false
		}
		p, err := c.log.PlaceAfter(a.Index)
		switch {
		case err == nil && p.Term != a.Term:
			c.refuse(a, fmt.Errorf("%w any more: another leader's entry has the place of this one", ErrNotLeader))
		case err == nil && a.sure >= c.quorum():
			a.Copies = a.sure
			c.answer(a, nil)
		default:
			c.answer(a, ErrQuorumFailed)
		}
		return true
	})
}

// sureCopies returns on how many voters an entry that comes to be at that index, now, is durable
// at least when it is committed, by whoever leads then. Such a leader goes by the present
// membership, or has not applied the change to it yet, and goes by the one before; one to come it
// applies only when the entry is committed.
func (c *Core) sureCopies(index uint64) int {
	if newest := c.raft.confs[len(c.raft.confs)-1].index; c.confPending > c.raft.applied || index <= newest {
		return 1
	}
	return min(len(c.conf().GetVoters()), c.former)/2 + 1
}

// matches returns up to which entry each voter's log is durable and equal to the leader's,
// the largest first.
func (c *Core) matches() (matches []uint64) {
	voters := c.conf().GetVoters()
	c.rn.WithProgress(func(id uint64, _ raft.ProgressType, pr tracker.Progress) {
		if slices.Contains(voters, id) {
			matches = append(matches, pr.Match)
		}
	})
	slices.SortFunc(matches, func(a, b uint64) int { return cmp.Compare(b, a) })
	return matches
}

// answer gives an append its outcome.
func (c *Core) answer(a *Append, err error) {
	c.bytes -= a.size()
	a.Err = err
	c.out.Appends = append(c.out.Appends, a)
}

// refuse answers an append that was not appended, since this node does not lead; err says so.
func (c *Core) refuse(a *Append, err error) {
	a.Leader = c.leader.Node()
	c.answer(a, err)
}

// answerAll answers all appends and barriers that wait.
func (c *Core) answerAll(err error) {
	for _, a := range slices.Concat(c.orphans, c.flights, c.proposals) {
		c.answer(a, err)
	}
	c.orphans, c.flights, c.proposals = nil, nil, nil
	c.answerParked()
	barriers := c.barriers
	c.barriers = nil
	for _, b := range barriers {
		b.Err = err
		c.answerBarrier(b)
	}
}

// answerParked refuses the appends that were never proposed.
func (c *Core) answerParked() {
	parked := c.parked
	c.parked = nil
	for _, a := range parked {
		c.refuse(a, ErrNotLeader)
	}
}

// unpark proposes the appends that had to wait for followers, as far as it can.
func (c *Core) unpark() {
	parked := c.parked
	c.parked = nil
	for _, a := range parked {
		if len(c.parked) > 0 {
			c.parked = append(c.parked, a)
		} else {
			c.propose(a)
		}
	}
}

// expire answers the appends whose time is up.
func (c *Core) expire() {
	c.orphans = slices.DeleteFunc(c.orphans, func(a *Append) bool {
		late := c.ticks >= a.until
		if late {
			c.answer(a, ErrQuorumFailed)
		}
		return late
	})
	c.flights = slices.DeleteFunc(c.flights, func(a *Append) bool {
		late := c.ticks-a.since >= uint64(c.cfg.TimeoutTicks)
		if late {
			c.answer(a, ErrReplicationTimeout)
		}
		return late
	})
}
