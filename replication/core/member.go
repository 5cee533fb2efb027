package core

import (
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
)

// peer is what a leader knows of another node.
type peer struct {
	heard    uint64 // tick, plus 1; 0: not in this term
	snapshot uint64 // tick at which it was last told where the log begins
	// as it has reported:
	first, commit, end uint64
}

func (c *Core) peer(id PeerID) *peer {
	p := c.peers[id]
	if p == nil {
		p = &peer{}
		c.peers[id] = p
	}
	return p
}

// conf returns the membership that has been applied.
func (c *Core) conf() *pb.ConfState { return c.raft.confAt(c.raft.applied) }

// Step takes a message of another node. An error that wraps [ErrMessage] says that the
// message was refused; it does no harm.
func (c *Core) Step(m *Message) error {
	defer c.guard()
	if err := m.check(c.cfg.Self); err != nil {
		return err
	}
	if c.err != nil {
		return nil
	}
	if m.Cluster != c.st.cluster && m.Kind != KindHello && m.Kind != KindWelcome && m.Kind != KindPromise {
		return nil // of another cluster, or one that was never founded
	}
	switch m.Kind {
	case KindRaft:
		return c.stepRaft(m.Raft)
	case KindJoin:
		c.admit(m.Peer)
	case KindStand:
		if c.cfg.Static && m.From == c.cfg.Preferred && c.rn != nil && c.leaderless() {
			_ = c.rn.Campaign()
		}
	case KindReport:
		if c.rn != nil {
			p := c.peer(m.Peer)
			p.heard, p.first, p.commit, p.end = c.ticks+1, m.First, m.Commit, m.End
		}
	case KindFetch:
		c.answerFetch(m)
	case KindEntries:
		return c.takeEntries(m)
	default:
		c.hear(m)
	}
	return nil
}

func (c *Core) stepRaft(m *pb.Message) error {
	if m.GetTo() != uint64(c.st.self) {
		return nil // for another incarnation
	}
	switch m.GetType() {
	case pb.MsgApp, pb.MsgSnap, pb.MsgHeartbeat:
		c.fromLeader = c.ticks
		if c.lost {
			c.beginBlank()
		}
	}
	if c.rn == nil {
		return nil
	}
	switch m.GetType() {
	case pb.MsgProp, pb.MsgHup, pb.MsgBeat, pb.MsgUnreachable, pb.MsgSnapStatus, pb.MsgCheckQuorum, pb.MsgForgetLeader:
		return fmt.Errorf("%s of another node: %w", m.GetType(), ErrMessage)
	}
	for _, e := range m.GetEntries() {
		if m.GetType() != pb.MsgApp {
			break // the id of a ReadIndex
		}
		if err := verify(e); err != nil {
			return fmt.Errorf("%w: %w", ErrMessage, err)
		}
	}
	if m.GetType() == pb.MsgReadIndex && !c.mayAnswerReadIndex() {
		return nil // it will be asked again
	}
	// A leader names no commit beyond what this node has said to have.
	if m.GetType() == pb.MsgHeartbeat && m.GetTerm() >= c.rn.BasicStatus().GetTerm() && m.GetCommit() > c.lastIndex() && !planted("loss not noticed") {
		c.reincarnate()
		return nil
	}
	if c.rn.BasicStatus().RaftState == raft.StateLeader {
		c.peer(PeerID(m.GetFrom())).heard = c.ticks + 1
	}
	_ = c.rn.Step(m) // of one that is no member, or too late
	return nil
}

// lastIndex returns that of the last entry that raft has.
func (c *Core) lastIndex() uint64 {
	c.pump()
	return c.last.Index
}

// Tick says that a tick has passed: a heartbeat's interval.
func (c *Core) Tick() {
	defer c.guard()
	if c.err != nil {
		return
	}
	c.ticks++
	c.noteEnd()
	c.expireBarriers()
	c.tickMend()
	if c.lost {
		c.askToJoin()
	}
	c.askToStand()
	if c.rn == nil {
		c.seek()
		return
	}
	if c.cfg.Static && c.cfg.Self != c.cfg.Preferred && c.role == raft.StateFollower {
		c.rn.TickQuiesced() // it does not stand
	} else {
		c.rn.Tick()
	}
	if c.cfg.Self == c.cfg.Preferred && c.st.phase == phaseActive && c.last.Index == 1 && c.leader == 0 {
		// It stands first, again and again until the other founders are members, too; they
		// have their timeout before them.
		_ = c.rn.Campaign()
	}
	c.pump()
	if c.err != nil || c.rn == nil {
		return
	}
	c.expire()
	c.unpark()
	switch {
	case c.role == raft.StateLeader:
		c.manage()
	case c.ticks%uint64(c.cfg.ReportTicks) == 0 && c.leader != 0 && c.leader != c.st.self:
		c.post(&Message{Kind: KindReport, To: c.leader.Node(), First: c.log.FirstOffset(), Commit: c.log.EndOffset(), End: c.last.Offset})
	}
	c.join()
	if c.st.commit > c.saved && c.ticks-c.savedAt >= lazyTicks && len(c.writes) == 0 {
		c.saveState(nil)
	}
}

// lazyTicks is how often the commit is saved, if there is no other reason to.
const lazyTicks = 50

// askToStand is for the node that is to lead where elections are static, and cannot, since it
// has lost what others have. It asks one after another to stand: one that can be elected has
// all that is committed. That one brings it up to date, and hands over to it; meanwhile it takes
// no appends.
func (c *Core) askToStand() {
	if !c.cfg.Static || c.cfg.Self != c.cfg.Preferred || c.st.phase < phaseActive {
		return
	}
	if c.role == raft.StateLeader || !c.leaderless() || c.silent == 0 {
		c.silent = c.ticks
	}
	patience := uint64(3 * c.cfg.ElectionTicks)
	if waited := c.ticks - c.silent; waited >= patience && waited%patience == 0 {
		if n := c.cfg.Nodes[int(waited/patience)%len(c.cfg.Nodes)]; n != c.cfg.Self {
			c.post(&Message{Kind: KindStand, To: n})
		}
	}
}

// leaderless says that no leader was heard of for longer than an election timeout.
func (c *Core) leaderless() bool {
	return c.role != raft.StateLeader && c.ticks-c.fromLeader > uint64(c.cfg.ElectionTicks)
}

// standsIn says whether this node leads only until the one can that is to.
func (c *Core) standsIn() bool { return c.cfg.Static && c.cfg.Self != c.cfg.Preferred }

// join asks to become a member, of whoever may lead.
func (c *Core) join() {
	conf, self := c.conf(), uint64(c.st.self)
	// A snapshot has called it a learner, perhaps, and nobody has made it one, or not any more.
	if c.st.phase == phaseJoining && !slices.Contains(conf.GetVoters(), self) && (!slices.Contains(conf.GetLearners(), self) || c.leaderless()) {
		c.askToJoin()
	}
}

func (c *Core) askToJoin() {
	if c.ticks%helloTicks != 0 {
		return
	}
	for _, n := range c.others {
		c.post(&Message{Kind: KindJoin, To: n})
	}
}

// Allow has a leader let a node join that no membership has had so far.
func (c *Core) Allow(n NodeID) { c.allowed[n] = true }

// members returns all peers in a membership.
func members(conf *pb.ConfState) (ids []PeerID) {
	for _, list := range [][]uint64{conf.GetVoters(), conf.GetLearners(), conf.GetVotersOutgoing(), conf.GetLearnersNext()} {
		for _, id := range list {
			if !slices.Contains(ids, PeerID(id)) {
				ids = append(ids, PeerID(id))
			}
		}
	}
	return ids
}

// admit makes a node in a new incarnation a learner. A learner that is an older one goes.
func (c *Core) admit(p PeerID) {
	c.pump() // what has been applied counts
	if c.err != nil || c.rn == nil || c.role != raft.StateLeader {
		return
	}
	conf := c.conf()
	known := c.allowed[p.Node()]
	for _, m := range members(conf) {
		if m == p {
			return
		}
		known = known || m.Node() == p.Node()
	}
	if !known || p.Node() == c.cfg.Self {
		return
	}
	changes := []*pb.ConfChangeSingle{{Type: pb.ConfChangeAddLearnerNode.Enum(), NodeId: new(uint64(p))}}
	for _, id := range conf.GetLearners() {
		if PeerID(id).Node() == p.Node() {
			changes = append(changes, &pb.ConfChangeSingle{Type: pb.ConfChangeRemoveNode.Enum(), NodeId: new(id)})
		}
	}
	_ = c.change(changes) // it will ask again
}

// ErrChanging says that the membership cannot be changed at the moment.
var ErrChanging = errors.New("another change of the membership, or of who leads, is under way: try again")

// change proposes a change of membership, or with none that a joint one be left, unless one is
// under way: raft would make an empty entry of it. The error is ErrChanging.
func (c *Core) change(changes []*pb.ConfChangeSingle) error {
	c.pump()
	joint, leave := len(c.conf().GetVotersOutgoing()) > 0, len(changes) == 0
	if c.err != nil || c.role != raft.StateLeader || c.confPending > c.raft.applied || joint != leave {
		return ErrChanging
	}
	if err := c.rn.ProposeConfChange(&pb.ConfChangeV2{Changes: changes}); err != nil {
		return ErrChanging
	}
	c.pump()
	return nil
}

// manage is what a leader does each tick.
func (c *Core) manage() {
	// raft proposes to leave a joint membership itself when it has applied it, but once: where a
	// transfer of leadership is under way that is dropped.
	if len(c.conf().GetVotersOutgoing()) > 0 {
		_ = c.change(nil) // if not, at the next tick
	}
	var stuck PeerID // 0: none
	var learners []PeerID
	c.rn.WithProgress(func(id uint64, typ raft.ProgressType, pr tracker.Progress) {
		p := PeerID(id)
		if p != c.st.self && pr.State == tracker.StateSnapshot && c.ticks-c.peer(p).snapshot >= uint64(c.cfg.ElectionTicks) {
			stuck = p // what it was told may have been lost
		}
		if typ == raft.ProgressTypeLearner && c.caughtUp(p, pr.Match) {
			learners = append(learners, p)
		}
	})
	if stuck != 0 {
		c.rn.ReportSnapshot(uint64(stuck), raft.SnapshotFailure)
	}
	if i := slices.IndexFunc(learners, c.canBeLost); i >= 0 {
		c.promote(learners[i])
	}
	if c.standsIn() {
		for _, p := range c.inSync() {
			if p.Node() == c.cfg.Preferred {
				c.rn.TransferLeader(uint64(p))
			}
		}
	}
	c.handOverIfStalled()
}

// caughtUp says whether a peer has almost all that this leader had an election timeout ago, by
// its Match: what has come since is under way to it, however much that is.
func (c *Core) caughtUp(p PeerID, match uint64) bool {
	lag, ok := c.lag(match)
	return ok && c.heardLately(p) && lag <= c.cfg.MaxLag+c.recent()
}

// noteEnd notes where the log ends at a tick. ends has that of an election timeout, oldest first.
func (c *Core) noteEnd() {
	if len(c.ends) == c.cfg.ElectionTicks {
		c.ends = slices.Delete(c.ends, 0, 1)
	}
	c.ends = append(c.ends, c.last.Offset)
}

// recent returns how many records have come in the last election timeout.
func (c *Core) recent() uint64 {
	if len(c.ends) == 0 {
		return 0
	}
	return c.last.Offset - min(c.ends[0], c.last.Offset)
}

// canBeLost says whether the membership, with a learner as a voter, goes on if that is lost at
// once: it is no better known than any that was heard of lately. One more voter may raise the
// majority. Then as many of the present voters must be in sync, or all: else the learner waits
// for those that are not, or for their successors, which raise nothing.
func (c *Core) canBeLost(p PeerID) bool {
	voters, inSync := c.conf().GetVoters(), c.inSync()
	for _, id := range voters {
		if PeerID(id).Node() == p.Node() {
			return true // which is the one it succeeds
		}
	}
	majority := (len(voters)+1)/2 + 1
	return len(inSync) >= min(majority, len(voters))
}

// promote makes a learner a voter, and removes the node's other incarnations.
func (c *Core) promote(p PeerID) {
	changes := []*pb.ConfChangeSingle{{Type: pb.ConfChangeAddNode.Enum(), NodeId: new(uint64(p))}}
	for _, m := range members(c.conf()) {
		if m != p && m.Node() == p.Node() {
			changes = append(changes, &pb.ConfChangeSingle{Type: pb.ConfChangeRemoveNode.Enum(), NodeId: new(uint64(m))})
		}
	}
	_ = c.change(changes) // if not, at the next tick
}

// lag returns by how many records a peer with that Match is behind; false if that is not
// known.
func (c *Core) lag(match uint64) (uint64, bool) {
	if match == 0 || match > c.last.Index {
		return 0, false
	}
	place, err := c.placeAfter(match)
	if err != nil {
		return 0, false // it is behind what this log has kept
	}
	return c.last.Offset - place.Offset, true
}

func (c *Core) heardLately(p PeerID) bool {
	if p == c.st.self {
		return true
	}
	known := c.peers[p]
	return known != nil && known.heard > 0 && c.ticks+1-known.heard <= 2*uint64(c.cfg.ReportTicks)
}

// inSync returns the voters that are in sync with this leader, itself included: heard of
// lately, and behind by MaxLag records at most. Nil if it does not lead.
func (c *Core) inSync() (peers []PeerID) {
	if c.rn == nil || !c.leads() {
		return nil
	}
	voters := c.conf().GetVoters()
	c.rn.WithProgress(func(id uint64, _ raft.ProgressType, pr tracker.Progress) {
		if p := PeerID(id); slices.Contains(voters, id) && (p == c.st.self || c.caughtUp(p, pr.Match)) {
			peers = append(peers, p)
		}
	})
	return peers
}

// handOverIfStalled has another node lead when this one's disk takes longer than an election.
func (c *Core) handOverIfStalled() {
	if c.cfg.Static || len(c.writes) == 0 || c.ticks-c.writes[0].issued < uint64(c.cfg.ElectionTicks) {
		return
	}
	if to := c.heir(); to != 0 {
		c.rn.TransferLeader(uint64(to))
	}
}

// heir returns the voter that has most of the log, of those in sync; 0 if there is none.
func (c *Core) heir() (best PeerID) {
	most := uint64(0)
	inSync := c.inSync()
	c.rn.WithProgress(func(id uint64, _ raft.ProgressType, pr tracker.Progress) {
		if p := PeerID(id); p != c.st.self && slices.Contains(inSync, p) && pr.Match > most {
			best, most = p, pr.Match
		}
	})
	return best
}

// Transfer has another node lead, or, with 0, the one that has most of the log. It returns
// the one that is to, or an error that says why none is. It may fail all the same.
func (c *Core) Transfer(n NodeID) (NodeID, error) {
	defer c.guard()
	if c.err != nil || c.rn == nil || !c.leads() {
		return 0, ErrNotLeader
	}
	to := PeerID(0)
	if n == 0 {
		to = c.heir()
	}
	for _, id := range c.conf().GetVoters() {
		if p := PeerID(id); p.Node() == n {
			to = p
		}
	}
	if to == 0 || c.cfg.Static {
		to := fmt.Sprintf("node %d", n)
		if n == 0 {
			to = "another node"
		}
		return 0, fmt.Errorf("hand leadership over to %s: no such voter is in sync, or elections are static", to)
	}
	c.rn.TransferLeader(uint64(to))
	return to.Node(), nil
}

// Remove removes a node from the membership, with all its incarnations. Only a leader can.
func (c *Core) Remove(n NodeID) error {
	defer c.guard()
	if c.err != nil || c.rn == nil || !c.leads() {
		return ErrNotLeader
	}
	var changes []*pb.ConfChangeSingle
	for _, m := range members(c.conf()) {
		if m.Node() == n {
			changes = append(changes, &pb.ConfChangeSingle{Type: pb.ConfChangeRemoveNode.Enum(), NodeId: new(uint64(m))})
		}
	}
	if len(changes) == 0 {
		return fmt.Errorf("remove node %d: it is no member", n)
	}
	left := 0
	for _, id := range c.conf().GetVoters() {
		if PeerID(id).Node() != n {
			left++
		}
	}
	if left < max(c.cfg.Quorum, 1) {
		return fmt.Errorf("remove node %d: %d voters would be left, and the quorum that the nodes are configured with is %d", n, left, max(c.cfg.Quorum, 1))
	}
	if err := c.change(changes); err != nil {
		return fmt.Errorf("remove node %d: %w", n, err)
	}
	delete(c.allowed, n)
	return nil
}

// Unreachable says that messages to a node get lost.
func (c *Core) Unreachable(n NodeID) {
	defer c.guard()
	if c.err != nil || c.rn == nil {
		return
	}
	for _, m := range members(c.conf()) {
		if m.Node() == n {
			c.rn.ReportUnreachable(uint64(m))
		}
	}
}

// Close takes no more requests, and has the commit saved. When the last write that Ready
// returns from now on is finished, the log can be closed.
func (c *Core) Close() {
	defer c.guard()
	if c.err != nil || c.closing {
		return
	}
	c.pump()
	c.closing = true
	c.answerAll(ErrStopped)
	c.rn = nil
	if c.st.phase >= phaseActive {
		c.st.clean = true
		c.saveState(nil)
	}
}
