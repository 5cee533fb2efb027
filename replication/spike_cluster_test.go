package replication_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"log"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/cryptotest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zue-log/zue/storage"
	"github.com/zue-log/zue/storage/batch"
	"github.com/zue-log/zue/storage/executor"
	"github.com/zue-log/zue/storage/vfs"
	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// clusterID is where the chains of all test clusters begin.
const clusterID = 0x5eed

const (
	electionTicks = 10
	dir           = "log"
)

var errPowerOff = errors.New("power is off")

// cluster is a few nodes in one goroutine, and the network between them. What happens
// when is decided by whoever drives it, so that a run can be repeated.
type cluster struct {
	t     *testing.T
	rng   *rand.Rand
	opts  clusterOptions
	nodes []*node // by id, without those that are gone for good
	net   []*pb.Message
	side  map[uint64]int // messages go only between nodes of the same side
	loss  int            // one message of so many is lost; 0: none
	now   time.Time
	sent  int // proposals

	// What is known to be committed. terms are from where raft first said so, places
	// from where it was first applied.
	terms  map[uint64]uint64
	places map[uint64]storage.Place
	confs  []confAt          // all memberships, as who was first there has applied them
	last   uint64            // the largest index in terms
	values map[uint64]string // keys of committed records, by offset
	trace  uint64            // a hash of all that has happened
	stats  clusterStats
}

type clusterOptions struct {
	// async is raft's AsyncStorageWrites.
	async bool
	// checks are PreVote and CheckQuorum, with which Zue will run. Without them
	// elections can be had at will.
	checks  bool
	storage storage.Options
}

// clusterStats counts what a test wants to be sure has happened.
type clusterStats struct {
	logStats
	crashes, kills, faults, torn, failedOpens, elections, confs, snapshots, patched, reports int
	pendingWrites, pendingApplies                                                            int // most at once
	resetsDone, resetsUndone                                                                 int // of those interrupted, by what was found then
}

// node is one of a cluster's, up or down.
type node struct {
	*cluster
	id    uint64
	disk  *vfs.Mem
	owes  debt
	hooks hooks
	// What it has last said, or wanted to say, of its term and vote.
	voted, voting ballot
	left          int  // operations of the file system until something goes wrong; 0: nothing does
	once          bool // that one fails, and no other: the power stays on
	off           bool // the power is
	hurt          bool // an operation has failed

	// While it is up:
	rn  *raft.RawNode
	ex  *executor.Manual
	log *storage.Log
	rl  *raftLog
	// pending and applies are what raft's two threads have still to do, if its storage
	// is asynchronous.
	pending []pendingWrite
	applies []*pb.Message
	terms   map[uint64]uint64 // of entries that raft has, even if the log does not yet
	told    uint64            // up to where raft has said that entries are committed
	leads   bool
}

type ballot struct{ term, vote uint64 }

type pendingWrite struct {
	write
	storage.Pending
	responses []*pb.Message
}

// newCluster starts voters 1 to n.
func newCluster(t *testing.T, seed uint64, n int, opts clusterOptions) *cluster {
	// raft draws its election timeouts from there.
	cryptotest.SetGlobalRandom(t, seed)
	opts.storage.SegmentBytes = storage.MinSegmentBytes
	opts.storage.ManualCommit = true
	origin := storage.Place{Index: 1, Term: 1, Chain: clusterID}
	c := &cluster{
		t: t, rng: rand.New(rand.NewPCG(seed, 1)), opts: opts, side: map[uint64]int{}, now: time.Unix(1, 0),
		terms: map[uint64]uint64{1: 1}, places: map[uint64]storage.Place{1: origin}, last: 1, values: map[uint64]string{},
	}
	var voters []uint64
	for id := range uint64(n) {
		voters = append(voters, id+1)
	}
	c.confs = []confAt{{1, pb.EnsureConfState(&pb.ConfState{Voters: voters})}}
	for _, id := range voters {
		n := c.add(id)
		require.NoError(t, n.open())
		require.NoError(t, n.rl.bootstrap(clusterID, voters))
		n.voted = ballot{term: 1}
		n.kill()
		require.True(t, n.start())
	}
	return c
}

// add adds a blank node, which is down.
func (c *cluster) add(id uint64) *node {
	n := &node{cluster: c, id: id, disk: vfs.NewMem()}
	c.nodes = append(c.nodes, n)
	slices.SortFunc(c.nodes, func(a, b *node) int { return cmp.Compare(a.id, b.id) })
	return n
}

// remove takes a node away for good, with its disk.
func (c *cluster) remove(id uint64) {
	c.nodes = slices.DeleteFunc(c.nodes, func(n *node) bool { return n.id == id })
}

// node returns the one with that id; nil if it is gone.
func (c *cluster) node(id uint64) *node {
	for _, n := range c.nodes {
		if n.id == id {
			return n
		}
	}
	return nil
}

// leader returns the one of the highest term; nil if there is none.
func (c *cluster) leader() (leader *node) {
	var term uint64
	for _, n := range c.nodes {
		if n.rn == nil {
			continue
		}
		if s := n.rn.BasicStatus(); s.RaftState == raft.StateLeader && s.GetTerm() > term {
			leader, term = n, s.GetTerm()
		}
	}
	return leader
}

// note adds an event to the trace: two runs of one seed must have the same.
func (c *cluster) note(format string, args ...any) {
	h := fnv.New64a()
	fmt.Fprintf(h, "%x ", c.trace)
	fmt.Fprintf(h, format, args...)
	c.trace = h.Sum64()
	if *spikeTrace {
		c.t.Logf(format, args...)
	}
}

// powerOff has the power of n go off before its k-th operation from now.
func (n *node) powerOff(k int) { n.left, n.once = k, false }

// failOnce has the k-th operation from now fail.
func (n *node) failOnce(k int) { n.left, n.once = k, true }

// inject is n's file system: with the power gone, nothing works.
func (n *node) inject(op vfs.Op, name string) error {
	if op == vfs.OpRead {
		return nil
	}
	if n.left > 0 {
		if n.left--; n.left == 0 {
			n.note("%d: power off before %s %s, or only that fails: %t", n.id, op, name, n.once)
			if n.off = !n.once; n.once {
				n.hurt = true
				n.stats.faults++
				return syscall.EIO
			}
		}
	}
	if n.off {
		return errPowerOff
	}
	return nil
}

// open opens n's log, and checks that it has what it owes.
func (n *node) open() (err error) {
	n.ex = executor.NewManual(n.now)
	o := n.opts.storage
	o.FS, o.Executor = n.disk, n.ex
	n.disk.Inject(n.inject)
	if n.log, err = storage.Open(dir, o); err != nil {
		return err
	}
	n.collect()
	if n.rl, err = newRaftLog(n.log, &n.owes, &n.stats.logStats); err != nil {
		return err
	}
	n.rl.hooks = n.hooks
	return nil
}

// start opens n's log and starts raft over it. It reports false if the power failed
// meanwhile.
func (n *node) start() bool {
	if err := n.open(); err != nil {
		n.stats.failedOpens++
		return !n.failed(err)
	}
	n.checkLog()
	b := ballot{n.rl.saved.term, n.rl.saved.vote}
	require.Contains(n.t, []ballot{n.voted, n.voting}, b, "node %d", n.id)
	n.voted, n.voting = b, b
	rn, err := raft.NewRawNode(&raft.Config{
		ID: n.id, ElectionTick: electionTicks, HeartbeatTick: 1,
		Storage: n.rl, Applied: n.rl.applied,
		AsyncStorageWrites: n.opts.async,
		PreVote:            n.opts.checks, CheckQuorum: n.opts.checks,
		MaxSizePerMsg: 8 << 10, MaxCommittedSizePerReady: 16 << 10, MaxInflightMsgs: 8,
		DisableProposalForwarding: true, StepDownOnRemoval: true,
		Logger: &raft.DefaultLogger{Logger: log.New(io.Discard, "", 0)},
	})
	require.NoError(n.t, err)
	n.rn, n.terms, n.told = rn, map[uint64]uint64{}, n.rl.commit
	n.note("%d: started, %v to %v, commit %d, applied %d, recovery %+v", n.id, n.log.FirstPlace(), n.log.LastPlace(),
		n.rl.commit, n.rl.applied, n.log.Recovery())
	return true
}

// down is the end of n's process.
func (n *node) down() {
	*n = node{cluster: n.cluster, id: n.id, disk: n.disk, owes: n.owes, hooks: n.hooks, voted: n.voted, voting: n.voting}
}

// crash is a power failure: what was not synced may be lost, each sector by itself.
func (n *node) crash() {
	rng := n.rng
	if rng.IntN(4) == 0 {
		rng = nil // all of it is lost
	}
	n.note("%d: crash", n.id)
	n.stats.crashes++
	n.disk = n.disk.Crash(rng)
	n.down()
}

// kill ends the process, and leaves it the page cache.
func (n *node) kill() {
	n.note("%d: killed", n.id)
	n.stats.kills++
	n.disk.UnlockAll()
	n.down()
}

// collect checks, in a log that was just opened, what it owes.
func (n *node) collect() {
	first, last, state := n.log.FirstPlace(), n.log.LastPlace(), n.log.State()
	o := &n.owes
	done := o.tried != nil && bytes.Equal(state, o.tried)
	if !done {
		require.Equal(n.t, string(o.state), string(state), "state of node %d", n.id)
	}
	if done && o.reset != nil {
		require.Equal(n.t, *o.reset, first, "node %d: a reset's state without the reset", n.id)
		require.Equal(n.t, first, last, "node %d: something is left behind a reset", n.id)
		n.stats.resetsDone++
	} else {
		p, err := n.log.PlaceAfter(o.place.Index)
		require.NoError(n.t, err, "node %d owes %+v, has %+v to %+v", n.id, o.place, first, last)
		require.Equal(n.t, o.place, p, "node %d", n.id)
		if o.reset != nil {
			n.stats.resetsUndone++
		}
	}
	n.owes = debt{place: last, state: state} // opening has made it durable
	if n.log.Recovery().Torn > 0 {
		n.stats.torn++
	}
}

// checkLog checks what of a log just opened is known to be committed.
func (n *node) checkLog() {
	first := n.log.FirstPlace()
	if first != (storage.Place{}) {
		require.Equal(n.t, n.places[first.Index], first, "node %d begins elsewhere", n.id)
	}
	for i := first.Index + 1; i <= n.rl.commit; i++ {
		p, err := n.log.PlaceAfter(i)
		require.NoError(n.t, err)
		require.Equal(n.t, n.cluster.terms[i], p.Term, "node %d: entry %d", n.id, i)
		if known, ok := n.places[i]; ok {
			require.Equal(n.t, known, p, "node %d: entry %d", n.id, i)
		}
	}
	n.checkConfs()
}

// checkConfs checks that n can make a snapshot of wherever its log may begin later.
func (n *node) checkConfs() {
	for _, p := range append(n.log.Starts(), n.log.FirstPlace()) {
		if p.Index <= n.rl.applied { // else it can only when more is applied
			n.checkVoters(p.Index, n.rl.confAt(p.Index))
		}
	}
}

// checkVoters checks that those are the voters as of entry index. Learners may be more:
// see introduce.
func (n *node) checkVoters(index uint64, cs *pb.ConfState) {
	want := newestConf(n.confs, index)
	require.ElementsMatch(n.t, want.GetVoters(), cs.GetVoters(), "node %d, entry %d", n.id, index)
	require.ElementsMatch(n.t, want.GetVotersOutgoing(), cs.GetVotersOutgoing(), "node %d, entry %d", n.id, index)
}

// failed says what becomes of n after an error of its log: its process ends, since raft
// cannot take back what it has decided.
func (n *node) failed(err error) bool {
	switch {
	case n.off:
		n.crash()
	case err == nil:
		return false
	default:
		require.True(n.t, n.hurt, "node %d: %v", n.id, err)
		n.kill()
	}
	return true
}

// do has n's raft do something, and n go down if the power went off in it.
func (n *node) do(f func()) {
	if n.rn == nil {
		return
	}
	f()
	n.failed(nil)
}

// ready takes what raft wants done, and does it, or leaves it for finish and apply if
// raft's storage is asynchronous. It reports whether there was anything.
func (n *node) ready() bool {
	if n.rn == nil || !n.rn.HasReady() {
		return false
	}
	rd := n.rn.Ready()
	if n.opts.async {
		n.readyAsync(rd)
		return true
	}
	w := write{rd.HardState, rd.Entries, rd.Snapshot}
	n.heard(w)
	p, err := n.rl.begin(w)
	if err == nil {
		err = n.makeDurable(w, p)
	}
	if n.failed(err) {
		return true
	}
	n.send(rd.Messages)
	if n.failed(n.apply(rd.CommittedEntries)) {
		return true
	}
	n.rn.Advance(rd)
	n.lead()
	return true
}

func (n *node) readyAsync(rd raft.Ready) {
	var appends []*pb.Message
	for _, m := range rd.Messages {
		switch m.GetTo() {
		case raft.LocalAppendThread:
			appends = append(appends, m)
		case raft.LocalApplyThread:
			n.applies = append(n.applies, m)
		default:
			n.send([]*pb.Message{m})
		}
	}
	for _, m := range appends {
		w := write{entries: m.GetEntries(), snapshot: m.GetSnapshot()}
		if m.GetTerm() != 0 || m.GetVote() != 0 || m.GetCommit() != 0 {
			w.hard = &pb.HardState{Term: m.Term, Vote: m.Vote, Commit: m.Commit}
		}
		n.heard(w)
		p, err := n.rl.begin(w)
		if n.failed(err) {
			return
		}
		n.pending = append(n.pending, pendingWrite{w, p, m.GetResponses()})
	}
	n.stats.pendingWrites = max(n.stats.pendingWrites, len(n.pending))
	n.stats.pendingApplies = max(n.stats.pendingApplies, len(n.applies))
	n.lead()
}

func (n *node) makeDurable(w write, p storage.Pending) error {
	if !raft.IsEmptyHardState(w.hard) {
		n.voting = ballot{w.hard.GetTerm(), w.hard.GetVote()}
	}
	if err := n.rl.finish(w, p); err != nil {
		return err
	}
	n.voted = n.voting
	return nil
}

// finish finishes the oldest write that is pending, and reports whether there was one.
func (n *node) finish() bool {
	if len(n.pending) == 0 {
		return false
	}
	w := n.pending[0]
	n.pending = n.pending[1:]
	if !n.failed(n.makeDurable(w.write, w.Pending)) {
		n.respond(w.responses)
	}
	return true
}

// applyNext applies what has been waiting longest for it, and reports whether anything was.
func (n *node) applyNext() bool {
	if len(n.applies) == 0 {
		return false
	}
	m := n.applies[0]
	n.applies = n.applies[1:]
	if !n.failed(n.apply(m.GetEntries())) {
		n.respond(m.GetResponses())
	}
	return true
}

func (n *node) respond(responses []*pb.Message) {
	for _, m := range responses {
		if m.GetTo() != n.id {
			n.send([]*pb.Message{m})
			continue
		}
		_ = n.rn.Step(m) // an old one is refused
	}
	n.lead()
}

// work does all that n has to do.
func (n *node) work() (any bool) {
	for n.ready() || n.finish() || n.applyNext() {
		any = true
	}
	return any
}

// send puts messages on the network.
func (n *node) send(messages []*pb.Message) {
	for _, m := range messages {
		if m.GetType() == pb.MsgSnap {
			n.stats.snapshots++
			m = n.introduce(m)
		}
		n.net = append(n.net, m)
	}
}

// introduce makes the recipient of a snapshot a learner in it, unless it is a member
// already. raft refuses a snapshot that its recipient is no member of, and since ours
// are of where the kept log begins, a new node never is. A learner has no vote, and
// the entry that adds it for everybody comes after.
func (n *node) introduce(m *pb.Message) *pb.Message {
	cs := m.GetSnapshot().GetMetadata().GetConfState()
	for _, ids := range [][]uint64{cs.GetVoters(), cs.GetLearners(), cs.GetVotersOutgoing()} {
		if slices.Contains(ids, m.GetTo()) {
			return m
		}
	}
	n.stats.patched++
	m = proto.Clone(m).(*pb.Message)
	cs = m.GetSnapshot().GetMetadata().GetConfState()
	cs.Learners = append(cs.Learners, m.GetTo())
	return m
}

// heard notes what raft has told n's log: entries, and what it holds to be committed.
func (n *node) heard(w write) {
	if !raft.IsEmptySnap(w.snapshot) {
		p, err := snapshotPlace(w.snapshot)
		require.NoError(n.t, err)
		require.Equal(n.t, n.places[p.Index], p, "snapshot of what is not committed")
		n.checkVoters(p.Index, w.snapshot.GetMetadata().GetConfState())
		n.told, n.terms = p.Index, map[uint64]uint64{}
	}
	for _, e := range w.entries {
		n.terms[e.GetIndex()] = e.GetTerm()
	}
	for n.told < w.hard.GetCommit() {
		n.told++
		term := n.term(n.told)
		if known, ok := n.cluster.terms[n.told]; ok {
			require.Equal(n.t, known, term, "node %d: entry %d", n.id, n.told)
		} else {
			n.cluster.terms[n.told] = term
			n.last = max(n.last, n.told)
		}
	}
}

// term returns that of an entry that raft has.
func (n *node) term(i uint64) uint64 {
	if term, ok := n.terms[i]; ok {
		return term
	}
	term, err := n.rl.Term(i)
	require.NoError(n.t, err, "node %d: entry %d", n.id, i)
	return term
}

// lead checks, when n has become leader, that it has all that is committed.
func (n *node) lead() {
	leads := n.rn.BasicStatus().RaftState == raft.StateLeader
	if leads && !n.leads {
		n.stats.elections++
		n.note("%d: leads in term %d", n.id, n.rn.BasicStatus().GetTerm())
		require.Equal(n.t, n.cluster.terms[n.last], n.term(n.last), "leader %d lacks entry %d", n.id, n.last)
	}
	n.leads = leads
}

// apply applies committed entries: each must be what all others have applied there.
func (n *node) apply(entries []*pb.Entry) error {
	for _, e := range entries {
		i := e.GetIndex()
		p, err := n.log.PlaceAfter(i)
		if err != nil {
			return err
		}
		require.Equal(n.t, n.cluster.terms[i], p.Term, "node %d applies entry %d", n.id, i)
		if known, ok := n.places[i]; ok {
			require.Equal(n.t, known, p, "node %d applies entry %d", n.id, i)
		} else {
			n.places[i] = p
			n.learn(e, p)
		}
		if e.GetType() != pb.EntryNormal {
			if err := n.applyConf(e); err != nil {
				return err
			}
		}
		n.note("%d: applied %+v", n.id, p)
	}
	if len(entries) == 0 {
		return nil
	}
	if err := n.rl.apply(entries[len(entries)-1].GetIndex()); err != nil {
		return err
	}
	n.checkConfs()
	return nil
}

// learn notes the records of a committed entry, which stops before p.
func (n *node) learn(e *pb.Entry, p storage.Place) {
	if e.GetType() != pb.EntryNormal || len(e.GetData()) == 0 {
		return
	}
	h, err := batch.ParseHeader(e.GetData())
	require.NoError(n.t, err)
	r, err := batch.NewReader(e.GetData(), p.Offset-uint64(h.LastOffsetDelta)-1)
	require.NoError(n.t, err)
	for rec := (batch.Record{}); ; {
		more, err := r.Next(&rec)
		require.NoError(n.t, err)
		if !more {
			return
		}
		n.values[rec.Offset] = string(rec.Key)
	}
}

func (n *node) applyConf(e *pb.Entry) error {
	var cc pb.ConfChangeI = &pb.ConfChangeV2{}
	if e.GetType() == pb.EntryConfChange {
		cc = &pb.ConfChange{}
	}
	if err := proto.Unmarshal(e.GetData(), cc.(proto.Message)); err != nil {
		return err
	}
	cs := n.rn.ApplyConfChange(cc)
	if i := e.GetIndex(); n.confs[len(n.confs)-1].index < i {
		n.cluster.confs = append(n.confs, confAt{i, proto.Clone(cs).(*pb.ConfState)})
	}
	n.stats.confs++
	n.checkVoters(e.GetIndex(), cs)
	return n.rl.applyConf(e.GetIndex(), cs)
}

// propose proposes a batch of records, of about that many bytes together. It reports
// whether n took it.
func (n *node) propose(records, size int) bool {
	var rs []storage.Record
	for range records {
		n.sent++
		rs = append(rs, storage.Record{Key: []byte(fmt.Sprintf("key %d", n.sent)), Value: []byte(strings.Repeat("v", size/records))})
	}
	err := n.rn.Propose(batch.Append(nil, rs, n.now.UnixMilli()))
	if err != nil {
		require.ErrorIs(n.t, err, raft.ErrProposalDropped)
	}
	n.note("%d: proposed %d: %v", n.id, n.sent, err)
	return err == nil
}

// deliver hands over the i-th message on the network.
func (c *cluster) deliver(i int) {
	m := c.net[i]
	c.net = slices.Delete(c.net, i, i+1)
	to := c.node(m.GetTo())
	lost := to == nil || to.rn == nil || c.side[m.GetFrom()] != c.side[m.GetTo()] || c.loss > 0 && c.rng.IntN(c.loss) == 0
	c.note("%s %d to %d, index %d, %d entries, lost: %t", m.GetType(), m.GetFrom(), m.GetTo(), m.GetIndex(), len(m.GetEntries()), lost)
	if !lost {
		to.step(m)
	}
	from := c.node(m.GetFrom())
	if m.GetType() == pb.MsgSnap && from != nil && from.rn != nil {
		// Without it the leader would wait for ever.
		c.stats.reports++
		status := raft.SnapshotFinish
		if lost {
			status = raft.SnapshotFailure
		}
		from.rn.ReportSnapshot(m.GetTo(), status)
	}
}

func (n *node) step(m *pb.Message) {
	if m.GetType() == pb.MsgSnap {
		// raft takes on the membership in the snapshot at once, so that changes before
		// it, which wait to be applied, would be applied to it.
		for n.applyNext() {
		}
		if n.rn == nil {
			return
		}
	}
	if err := n.rn.Step(m); err != nil {
		require.True(n.t, errors.Is(err, raft.ErrStepPeerNotFound) || errors.Is(err, raft.ErrProposalDropped), "%v", err)
	}
}

// settle does all there is to do, until nothing is without time passing.
func (c *cluster) settle() {
	for {
		busy := len(c.net) > 0
		for _, n := range c.nodes {
			busy = n.work() || busy
		}
		if !busy {
			return
		}
		for range c.net {
			c.deliver(0)
		}
	}
}

// tick lets some time pass for all.
func (c *cluster) tick() {
	c.idle(100 * time.Millisecond)
	for _, n := range c.nodes {
		n.do(func() { n.rn.Tick() })
	}
}

// idle lets time pass for the logs only.
func (c *cluster) idle(d time.Duration) {
	c.now = c.now.Add(d)
	for _, n := range c.nodes {
		n.do(func() { n.ex.Advance(c.now.Sub(n.ex.Now())) })
	}
}

// isolate cuts nodes off from the others, but not from one another.
func (c *cluster) isolate(ids ...uint64) {
	c.heal()
	for _, id := range ids {
		c.side[id] = 1
	}
}

func (c *cluster) heal() { clear(c.side) }

// converge repairs everything but the disks, and waits until all nodes are equal and
// done, which is asked again and again and may do something, says so.
func (c *cluster) converge(done func() bool) {
	c.heal()
	c.loss = 0
	for range 40 * electionTicks {
		for _, n := range c.nodes {
			for n.rn == nil {
				n.start()
			}
		}
		c.tick()
		c.settle()
		if done() && c.agree() {
			for _, n := range c.nodes {
				n.powerOff(0) // the checks are no part of the run
			}
			c.checkAll()
			return
		}
	}
	for _, n := range c.nodes {
		c.t.Logf("node %d: %+v, log %+v to %+v", n.id, n.rn.Status(), n.log.FirstPlace(), n.log.LastPlace())
	}
	require.Fail(c.t, "the nodes do not converge")
}

// agree says whether all nodes have applied all that the leader has.
func (c *cluster) agree() bool {
	leader := c.leader()
	if leader == nil {
		return false
	}
	p := leader.log.LastPlace()
	for _, n := range c.nodes {
		if n.rn == nil || n.log.LastPlace() != p || n.rl.applied != p.Index || n.rn.HasReady() {
			return false
		}
	}
	return p.Index >= c.last
}

// checkAll reads all logs, which agree, whole.
func (c *cluster) checkAll() {
	leader := c.leader()
	conf := leader.rl.confAt(leader.rl.applied)
	var end uint64
	for _, n := range c.nodes {
		require.NoError(c.t, conf.Equivalent(n.rl.confAt(n.rl.applied)))
		require.Equal(c.t, leader.log.EndOffset(), n.log.EndOffset())
		for i := n.log.FirstPlace().Index; i <= n.rl.applied; i++ {
			p, err := n.log.PlaceAfter(i)
			require.NoError(c.t, err)
			require.Equal(c.t, c.places[i], p, "node %d: entry %d", n.id, i)
		}
		for end = n.log.FirstOffset(); end < n.log.EndOffset(); end++ {
			rec, lease, err := n.log.Read(end)
			require.NoError(c.t, err)
			require.Equal(c.t, c.values[end], string(rec.Key), "node %d: record %d", n.id, end)
			lease.Release()
		}
		report, err := n.log.Verify(context.Background(), nil)
		require.NoError(c.t, err)
		require.Empty(c.t, report.Damage)
	}
	require.Len(c.t, c.values, int(end), "offsets are not dense")
	seen := map[string]bool{}
	for _, v := range c.values {
		require.False(c.t, seen[v], "%s was appended twice", v)
		seen[v] = true
	}
}
