package core

import (
	"cmp"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"

	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/zue-log/zue/replication/producer"
	"github.com/zue-log/zue/storage"
	"github.com/zue-log/zue/storage/batch"
)

// Core is one node's part of a replicated log. It is for one goroutine at a time.
type Core struct {
	cfg    Config
	others []NodeID // of cfg.Nodes
	log    *storage.Log
	st     state // as the writes handed out leave it
	raft   *raftLog
	rn     *raft.RawNode // nil until the node is one of a cluster
	err    error         // why the core is of no more use

	ticks  uint64
	silent uint64 // tick since which no leader is known: see askToStand
	// fromLeader is the tick of the last message that only a leader sends. raft does not forget
	// a leader that is gone where the node does not stand.
	fromLeader uint64
	role       raft.StateType
	leader     PeerID // 0: none is known
	term       uint64
	led        uint64 // tick at which this node became leader

	// last is the place behind the last entry that raft has, which the log may not have
	// yet. tail are those entries that are in writes not yet durable, oldest first.
	last storage.Place
	tail []placed
	ends []uint64 // where it ended at the last ticks: see noteEnd
	// writes are those handed out and not durable yet, oldest first.
	writes []*Write
	// visible is up to where the log has been told that it is committed. It waits while
	// confSaves writes of memberships are not durable, without which retention must not
	// remove their entries.
	visible   uint64
	toShow    uint64 // up to where entries of this log have been applied
	lost      bool   // the log lacks what was committed: see startLost
	confSaves int
	// former is how many voters the membership before the present one has; 1 if that is not
	// known.
	former int
	// confPending is an index up to which there may be a change of membership.
	confPending uint64
	saved       uint64 // commit as of the last write that saved it, and when that was
	savedAt     uint64

	proposals []*Append // proposed, in order, and not seen in a Ready
	flights   []*Append // with an Index, in order of it
	orphans   []*Append // flights whose leadership was lost, as long as their outcome may show
	parked    []*Append // that wait for a new leader's followers to show
	bytes     int       // of all of them
	inWrites  int       // bytes of entries that are not durable yet
	table     *producer.Table

	barriers []*Barrier
	doubts   []*Barrier // the core's own that have their outcome
	sequence uint64     // of the last barrier
	nonce    uint64     // tells them from those before a restart

	peers    map[PeerID]*peer
	met      map[NodeID]*meeting // nodes, before there is a cluster
	promised map[NodeID]bool     // what the founder has heard
	allowed  map[NodeID]bool     // nodes that may join although no membership had them
	closing  bool

	damage []*storage.CorruptionError // that waits to be mended
	mend   *mend                      // what is being mended; nil: nothing is
	mended uint64                     // entries
	// hopeless is damage that could not be mended lately.
	hopeless []hopeless

	out Output
}

// placed is an entry that raft has, with its place behind.
type placed struct {
	index, term uint64
	offset      uint64 // of its first record
	end         uint64 // of the next
	producer    *batch.Header
	write       *Write
}

// Output is what is to be done: see [Core.Ready].
type Output struct {
	// Messages are to be sent, each to its To.
	Messages []*Message
	// Writes are to be done, in order, after those handed out before.
	Writes []*Write
	// Repairs are to be done beside the writes, one at a time.
	Repairs []*Repair
	// Appends and Barriers have their answer.
	Appends  []*Append
	Barriers []*Barrier
}

// New makes the core of a node whose log was just opened. The error is that of
// [Config.Validate], or wraps [ErrState], or is the log's.
func New(cfg Config) (*Core, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("replication: %w", err)
	}
	if cfg.MaxInFlightBytes == 0 {
		cfg.MaxInFlightBytes = defaultMaxInFlightBytes
	}
	if cfg.RecentBytes == 0 {
		cfg.RecentBytes = defaultRecentBytes
	}
	cfg.Nodes = slices.Sorted(slices.Values(cfg.Nodes))
	st, err := decodeState(cfg.Log.State())
	if err != nil {
		return nil, err
	}
	if st.self != 0 && st.self.Node() != cfg.Self {
		return nil, fmt.Errorf("%w: this is the log of node %d, not of node %d", ErrState, st.self.Node(), cfg.Self)
	}
	c := &Core{
		cfg: cfg, log: cfg.Log, st: st, nonce: cfg.Rand.Uint64(),
		others: slices.DeleteFunc(slices.Clone(cfg.Nodes), func(n NodeID) bool { return n == cfg.Self }),
		peers:  map[PeerID]*peer{}, met: map[NodeID]*meeting{}, promised: map[NodeID]bool{}, allowed: map[NodeID]bool{},
	}
	if c.st.self == 0 {
		c.st.self = newPeerID(cfg.Self, cfg.Rand.Uint64())
	}
	switch st.phase {
	case phaseActive, phaseJoining:
		if cfg.Unsynced || st.boot != "" {
			c.noteBoot()
		}
		if c.rn == nil && len(c.writes) == 0 {
			if err := c.start(); err != nil {
				return nil, err
			}
		}
	}
	return c, nil
}

// noteBoot says whether the node syncs each append from now on. If it did not, and the machine
// has been started anew meanwhile, and the node was not stopped in order before, it is a new
// node.
func (c *Core) noteBoot() {
	lost := c.st.boot != "" && !c.st.clean && c.st.boot != c.cfg.BootID && !c.alone()
	c.st.clean, c.st.boot = false, ""
	if c.cfg.Unsynced {
		c.st.boot = c.cfg.BootID
	}
	if lost {
		c.reincarnate()
		return
	}
	c.saveState(c.mustStart)
}

// mustStart starts raft, when a state is durable without which it must not.
func (c *Core) mustStart() {
	if c.closing {
		return
	}
	if err := c.start(); err != nil {
		c.fail(err)
	}
}

// start starts raft over the log as it is.
func (c *Core) start() error {
	first, last := c.log.FirstPlace(), c.log.LastPlace()
	if c.st.commit > last.Index && !c.alone() {
		return c.startLost(last.Index)
	}
	// The state may know of an earlier commit than where retention has put the beginning.
	commit := min(max(c.st.commit, first.Index), last.Index)
	applied := min(max(c.st.applied, first.Index), commit)
	c.raft = &raftLog{
		log: c.log, applied: applied, maxRecent: c.cfg.RecentBytes,
		confs: slices.DeleteFunc(slices.Clone(c.st.confs), func(conf confAt) bool { return conf.index > applied }),
		hard:  &pb.HardState{Term: new(c.st.term), Vote: new(c.st.vote), Commit: new(commit)},
	}
	c.last, c.saved = last, commit
	rn, err := raft.NewRawNode(&raft.Config{
		ID: uint64(c.st.self), ElectionTick: c.cfg.ElectionTicks, HeartbeatTick: 1,
		Storage: c.raft, Applied: applied, AsyncStorageWrites: true,
		MaxSizePerMsg: 1 << 20, MaxCommittedSizePerReady: 16 << 20, MaxInflightMsgs: 128,
		PreVote: true, CheckQuorum: true, DisableProposalForwarding: true, StepDownOnRemoval: true,
		Logger: silent{},
	})
	if err != nil {
		return fmt.Errorf("start raft: %w", err)
	}
	c.former = 1
	if n := len(c.raft.confs); n > 0 && c.raft.confs[n-1].index == origin(0).Index {
		c.former = len(c.conf().GetVoters()) // there is none before
	}
	c.rn, c.role, c.leader, c.term = rn, raft.StateFollower, 0, c.st.term
	c.show(applied)
	return nil
}

// Err returns why the core is of no more use, nil if it is not: the log has failed, or is
// damaged, or raft has found what must not be. All else that it is told has no effect then.
func (c *Core) Err() error { return c.err }

func (c *Core) fail(err error) {
	if c.err == nil {
		c.err = err
		c.answerAll(ErrStopped)
	}
}

// guard makes an error of a panic of raft's, which is how it reports what must not be.
func (c *Core) guard() {
	switch e := recover(); {
	case e == nil:
	case c.raft != nil && c.raft.failed != nil:
		c.fail(c.raft.failed)
	case c.raft != nil && c.raft.damaged != nil: // where raft cannot do without
		c.fail(c.raft.damaged)
	default:
		c.fail(fmt.Errorf("raft: %v\n%s", e, debug.Stack()))
	}
}

// Ready returns what is to be done since the last call: at once, but for the order of writes,
// in any order.
func (c *Core) Ready() Output {
	c.pump()
	if len(c.doubts) > 0 {
		c.settleDoubts()
		c.pump()
	}
	out := c.out
	c.out = Output{}
	return out
}

// pump has raft's wishes become output.
func (c *Core) pump() {
	defer c.guard()
	for c.err == nil && c.rn != nil && c.rn.HasReady() {
		rd := c.rn.Ready()
		c.follow()
		var votes []*pb.Message
		for _, s := range rd.ReadStates {
			c.barrierAt(s)
		}
		for _, m := range rd.Messages {
			switch m.GetTo() {
			case raft.LocalAppendThread:
				c.write(m)
			case raft.LocalApplyThread:
				c.apply(m)
			default:
				if m.GetType() == pb.MsgVote && !planted("asks before it votes") {
					votes = append(votes, m)
				} else {
					c.send(m)
				}
			}
		}
		c.askForVotes(votes)
	}
	if c.err == nil && c.raft != nil && c.raft.failed != nil {
		c.fail(c.raft.failed)
	}
	c.noteDamage()
	if c.err == nil && c.rn != nil {
		c.acknowledge()
		c.settleOrphans()
		c.answerBarriers()
	}
}

// askForVotes sends messages that ask for votes when the node's own is durable. raft counts that no
// sooner, but would have it elected by others meanwhile: if it forgot that term, it could lead in it
// once more, with other entries.
func (c *Core) askForVotes(votes []*pb.Message) {
	if n := len(c.writes); n > 0 {
		w := c.writes[n-1] // which is behind the one that has the vote
		w.responses = append(w.responses, votes...)
		return
	}
	for _, m := range votes {
		c.send(m)
	}
}

// follow notes who leads.
func (c *Core) follow() {
	s := c.rn.BasicStatus()
	c.leader = PeerID(s.Lead)
	role, term := s.RaftState, s.GetTerm()
	if role == c.role && term == c.term {
		return
	}
	if c.role == raft.StateLeader {
		c.orphan()
	}
	c.role, c.term = role, term
	if role == raft.StateLeader {
		c.led = c.ticks
		c.confPending = c.last.Index
		clear(c.peers) // what was heard of them in another term says nothing of now
	} else {
		c.answerParked()
	}
}

// write makes Writes of what raft wants durable.
func (c *Core) write(m *pb.Message) {
	w := &Write{}
	must := false
	if m.GetTerm() != 0 || m.GetVote() != 0 || m.GetCommit() != 0 {
		must = m.GetTerm() != c.st.term || m.GetVote() != c.st.vote
		c.st.term, c.st.vote = m.GetTerm(), m.GetVote()
		c.st.commit = max(c.st.commit, m.GetCommit())
	}
	if s := m.GetSnapshot(); !raft.IsEmptySnap(s) {
		p, err := snapshotPlace(s)
		if err != nil {
			c.fail(err)
			return
		}
		c.restore(p, s.GetMetadata().GetConfState())
		w.reset = &p
		w.then = func() { c.visible = max(c.visible, p.Index) } // Reset has committed it
		c.keep(w, p.Index)
		c.issue(w)
		w, must = &Write{}, false
	}
	for _, e := range m.GetEntries() {
		if e.GetType() != pb.EntryNormal {
			w = c.beforeChange(w, e.GetIndex())
		}
		if err := c.place(w, e); err != nil {
			c.fail(err)
			return
		}
	}
	if must && !planted("vote not saved") {
		c.keep(w, c.st.commit)
	}
	w.responses = m.GetResponses()
	c.issue(w)
	if planted("acknowledge before fsync") {
		c.respond(w)
		w.responses = nil
	}
}

// beforeChange is called before a change of membership is put into a write, and returns the
// one to put it into. The commit that let the leader propose it, which is that of the change
// before, must be durable before this one is. Otherwise a node that restarts could have
// several in its log and go by a membership before all of them: it would be elected, since its
// log is as new as any, by voters that have no majority in common with those of the present
// one. (raft takes a membership when it is committed, and expects commit and entries to be
// saved at once.)
func (c *Core) beforeChange(w *Write, index uint64) *Write {
	commit := min(c.st.commit, index-1)
	if commit <= c.saved && len(w.entries) == 0 {
		return w
	}
	c.keep(w, commit)
	c.issue(w)
	return &Write{ordered: true}
}

// restore begins anew at p: the log will when the write is begun that this is for.
func (c *Core) restore(p storage.Place, cs *pb.ConfState) {
	c.last, c.tail, c.table = p, nil, nil
	c.raft.forget()
	c.raft.confs, c.raft.applied, c.former = []confAt{{p.Index, cs}}, p.Index, 1
	c.st.commit = max(c.st.commit, p.Index)
	c.joined(cs)
}

// joined notes that the node is a voter, if it is one of that membership's.
func (c *Core) joined(cs *pb.ConfState) {
	if c.st.phase == phaseJoining && slices.Contains(cs.GetVoters(), uint64(c.st.self)) {
		c.st.phase = phaseActive
	}
}

// place puts an entry of raft's into a write, behind the last one. One that raft has found
// in conflict goes first.
func (c *Core) place(w *Write, e *pb.Entry) error {
	s, err := toStored(e)
	if err != nil {
		return err
	}
	if i := s.Index; i <= c.last.Index {
		before, err := c.placeAfter(i - 1)
		if err != nil {
			return err
		}
		at, _ := c.findInTail(i)
		c.tail = c.tail[:at]
		c.last, w.truncate = before, true
		c.confPending = min(c.confPending, before.Index)
		if !planted("no producer rollback") {
			c.table = nil // what it knows may be gone
		}
	}
	p := placed{index: s.Index, term: s.Term, offset: c.last.Offset, end: c.last.Offset, write: w}
	if s.Kind == storage.KindData {
		h, err := batch.ParseHeader(s.Body)
		if err != nil {
			return fmt.Errorf("entry %d: %w", s.Index, err)
		}
		p.end += uint64(h.LastOffsetDelta) + 1
		if h.ProducerID >= 0 {
			p.producer = &h
			if c.table != nil {
				c.table.Apply(p.offset, &h)
			}
		}
	}
	if e.GetType() != pb.EntryNormal {
		c.confPending = s.Index
		if planted("membership at append") {
			if err := c.applyConf(e); err != nil {
				return err
			}
		}
	}
	c.raft.note(e)
	w.entries = append(w.entries, s)
	c.tail = append(c.tail, p)
	c.last = storage.Place{Index: s.Index, Term: s.Term, Offset: p.end}
	c.placedProposal(e, &p)
	return nil
}

// findInTail returns where an entry is in the tail, or would be.
func (c *Core) findInTail(index uint64) (int, bool) {
	return slices.BinarySearchFunc(c.tail, index, func(p placed, i uint64) int { return cmp.Compare(p.index, i) })
}

// placeAfter returns the place behind an entry that raft has; its chain may be missing.
func (c *Core) placeAfter(index uint64) (storage.Place, error) {
	if index == c.last.Index {
		return c.last, nil
	}
	if at, ok := c.findInTail(index); ok {
		p := c.tail[at]
		return storage.Place{Index: p.index, Term: p.term, Offset: p.end}, nil
	}
	p, err := c.log.PlaceAfter(index)
	if err != nil {
		err = fmt.Errorf("find the end of entry %d: %w", index, err)
	}
	return p, err
}

// keep has a write save the state as it is now, but for the commit.
func (c *Core) keep(w *Write, commit uint64) {
	if c.raft != nil {
		c.st.applied = c.raft.applied
		c.raft.confs = neededConfs(c.log.Starts(), c.raft.confs)
		c.st.confs = c.raft.confs
	}
	st := c.st
	st.commit, st.applied = commit, min(st.applied, commit)
	st.confs = boundConfs(st)
	w.state, w.clean = st.encode(), st.clean
	c.saved, c.savedAt = commit, c.ticks
}

// issue hands a write out.
func (c *Core) issue(w *Write) {
	w.issued = c.ticks
	for i := range w.entries {
		w.size += len(w.entries[i].Body)
	}
	c.inWrites += w.size
	c.writes = append(c.writes, w)
	c.out.Writes = append(c.out.Writes, w)
}

// saveState issues a write of the state alone.
func (c *Core) saveState(then func()) {
	w := &Write{then: then}
	c.keep(w, c.st.commit)
	c.issue(w)
}

// Written says that a write has been finished, or with an error that it could not be. Writes
// must be finished in their order.
func (c *Core) Written(w *Write, err error) {
	if c.err != nil {
		return
	}
	if err != nil {
		c.fail(err)
		return
	}
	if len(c.writes) == 0 || c.writes[0] != w {
		c.fail(errors.New("writes are finished out of order"))
		return
	}
	defer c.guard()
	c.writes = slices.Delete(c.writes, 0, 1)
	c.inWrites -= w.size
	for len(c.tail) > 0 && c.tail[0].write == w {
		c.tail = c.tail[1:]
	}
	c.respond(w)
	if w.then != nil {
		w.then()
	}
}

// respond gives out raft's answers to a write.
func (c *Core) respond(w *Write) {
	if c.rn == nil {
		return
	}
	for _, m := range w.responses {
		if m.GetTo() == uint64(c.st.self) {
			_ = c.rn.Step(m) // an old one is refused
		} else {
			c.send(m)
		}
	}
}

// apply lets readers see what is committed, and has the membership follow.
func (c *Core) apply(m *pb.Message) {
	entries := m.GetEntries()
	for _, e := range entries {
		if e.GetType() == pb.EntryNormal || planted("membership at append") {
			continue
		}
		if err := c.applyConf(e); err != nil {
			c.fail(err)
			return
		}
	}
	c.raft.applied = entries[len(entries)-1].GetIndex()
	c.toShow = c.raft.applied
	c.show(c.toShow)
	if planted("serve above commit") {
		c.show(min(c.last.Index, c.log.LastPlace().Index))
	}
	for _, r := range m.GetResponses() {
		_ = c.rn.Step(r)
	}
}

// show has the log show readers what is committed, up to index.
func (c *Core) show(index uint64) {
	if c.confSaves > 0 || index <= c.visible {
		return
	}
	if err := c.log.Commit(index); err != nil {
		c.fail(fmt.Errorf("commit entry %d: %w", index, err))
		return
	}
	c.visible = index
}

func (c *Core) applyConf(e *pb.Entry) error {
	var cc pb.ConfChangeI = &pb.ConfChangeV2{}
	if e.GetType() == pb.EntryConfChange {
		cc = &pb.ConfChange{}
	}
	if err := proto.Unmarshal(e.GetData(), cc.(proto.Message)); err != nil {
		return fmt.Errorf("change of membership in entry %d: %w", e.GetIndex(), err)
	}
	c.former = len(c.conf().GetVoters())
	cs := c.rn.ApplyConfChange(cc)
	c.raft.confs = append(c.raft.confs, confAt{e.GetIndex(), cs})
	c.raft.applied = e.GetIndex()
	c.joined(cs)
	c.confSaves++
	c.saveState(func() {
		c.confSaves--
		c.show(c.toShow)
	})
	return nil
}

// send hands out a message of raft's.
func (c *Core) send(m *pb.Message) {
	if m.GetType() == pb.MsgSnap {
		m = introduce(m)
		c.peer(PeerID(m.GetTo())).snapshot = c.ticks
	}
	to := PeerID(m.GetTo())
	if to.Node() == c.cfg.Self {
		return // it is to an incarnation of this node that is no more
	}
	out := &Message{Kind: KindRaft, To: to.Node(), Raft: m}
	out.behind = out.Stored() && !slices.Contains(c.inSync(), to)
	c.post(out)
}

// post hands out a message, and says of whom it is.
func (c *Core) post(m *Message) {
	m.From, m.Cluster, m.Peer = c.cfg.Self, c.st.cluster, c.st.self
	c.out.Messages = append(c.out.Messages, m)
}

// introduce makes the recipient of a snapshot a learner in it, unless it is a member
// already. raft refuses a snapshot that its recipient is no member of, and since ours
// are of where the kept log begins, a new node never is. A learner has no vote, and
// the entry that adds it for everybody comes after.
func introduce(m *pb.Message) *pb.Message {
	cs := m.GetSnapshot().GetMetadata().GetConfState()
	for _, ids := range [][]uint64{cs.GetVoters(), cs.GetLearners(), cs.GetVotersOutgoing()} {
		if slices.Contains(ids, m.GetTo()) {
			return m
		}
	}
	m = proto.Clone(m).(*pb.Message)
	cs = m.GetSnapshot().GetMetadata().GetConfState()
	cs.Learners = append(cs.Learners, m.GetTo())
	return m
}

// silent is raft's logger: what it says at length is in Status, and what it panics with is
// the core's error.
type silent struct{}

func (silent) Debug(...any)                   {}
func (silent) Debugf(string, ...any)          {}
func (silent) Error(...any)                   {}
func (silent) Errorf(string, ...any)          {}
func (silent) Info(...any)                    {}
func (silent) Infof(string, ...any)           {}
func (silent) Warning(...any)                 {}
func (silent) Warningf(string, ...any)        {}
func (silent) Fatal(v ...any)                 { panic(fmt.Sprint(v...)) }
func (silent) Fatalf(format string, v ...any) { panic(fmt.Sprintf(format, v...)) }
func (silent) Panic(v ...any)                 { panic(fmt.Sprint(v...)) }
func (silent) Panicf(format string, v ...any) { panic(fmt.Sprintf(format, v...)) }
