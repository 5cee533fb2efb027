package core

import (
	"fmt"
	"slices"

	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/zue-log/zue/storage"
)

// How a cluster begins. All nodes that cluster.conf lists must be up, and none may ever have
// been a member of one: then that with the smallest number asks all others to be founders, by
// the incarnations they have drawn, and has each store that as a promise. When it has heard
// from all that they have, it stores that it is a member, and from then on may vote. Others
// become members when they hear of one that is.
//
// A promise may be given again, for another cluster, as long as the node is no member: it has
// not voted yet. A blank node that hears of a member is one that was wiped, since nobody is a
// member before all have promised: it joins anew.

// meeting is that a node that is no member has heard of another one.
type meeting struct {
	peer PeerID
	at   uint64 // tick
}

// helloTicks is how often a node that is no member says hello.
const helloTicks = 2

// origin is where the log of a cluster begins. Its first entry is the second: so nobody can
// join by entries alone, which would not tell of the first voters.
func origin(cluster uint64) storage.Place { return storage.Place{Index: 1, Term: 1, Chain: cluster} }

// seek says hello to all, and founds a cluster when all are there.
func (c *Core) seek() {
	if c.st.phase >= phaseActive || len(c.writes) > 0 || c.ticks%helloTicks != 0 {
		return
	}
	for _, n := range c.others {
		c.greet(n, KindHello, c.nonce^c.ticks)
	}
	if c.cfg.Self == c.cfg.Nodes[0] && len(c.missing()) == 0 {
		c.promiseAll()
	}
}

func (c *Core) greet(n NodeID, kind Kind, nonce uint64) {
	c.post(&Message{Kind: kind, To: n, Phase: byte(c.st.phase), Founders: c.st.founders, Nonce: nonce})
}

// fresh says whether a welcome answers one of this node's last hellos. One that was long under
// way may be of a cluster that is no more.
func (c *Core) fresh(m *Message) bool {
	return m.Kind == KindWelcome && c.ticks-(m.Nonce^c.nonce) <= 5*helloTicks
}

// missing returns the nodes of which nothing was heard lately.
func (c *Core) missing() (missing []NodeID) {
	for _, n := range c.others {
		if m := c.met[n]; m == nil || c.ticks-m.at > 3*helloTicks {
			missing = append(missing, n)
		}
	}
	return missing
}

// promiseAll asks all nodes, which are no members, to be founders.
func (c *Core) promiseAll() {
	founders := []PeerID{c.st.self}
	for _, n := range c.others {
		founders = append(founders, c.met[n].peer)
	}
	if c.st.phase != phasePromised || !slices.Equal(c.st.founders, founders) {
		c.promise(c.cfg.Rand.Uint64()|1, founders, nil)
		c.promised = map[NodeID]bool{}
		return // the next time
	}
	for _, n := range c.others {
		if !c.promised[n] {
			c.post(&Message{Kind: KindPromise, To: n, Founders: founders})
		}
	}
	c.foundIfAll()
}

// promise stores that the node is to be a founder.
func (c *Core) promise(cluster uint64, founders []PeerID, then func()) {
	c.st.phase, c.st.cluster, c.st.founders = phasePromised, cluster, founders
	c.saveState(then)
}

// foundIfAll has the founder become a member when all others have promised.
func (c *Core) foundIfAll() {
	for _, n := range c.others {
		if !c.promised[n] {
			return
		}
	}
	c.found()
}

// found has a node that has promised become a member.
func (c *Core) found() {
	var voters []uint64
	for _, p := range c.st.founders {
		voters = append(voters, uint64(p))
	}
	place := origin(c.st.cluster)
	c.st.phase, c.st.term, c.st.commit, c.st.applied = phaseActive, 1, place.Index, place.Index
	c.st.confs = []confAt{{place.Index, pb.EnsureConfState(&pb.ConfState{Voters: voters})}}
	if c.cfg.Unsynced {
		c.st.boot = c.cfg.BootID
	}
	w := &Write{reset: &place, then: func() {
		for _, n := range c.others { // who do not wait until they say hello again
			c.greet(n, KindWelcome, 0)
		}
		c.mustStart()
	}}
	c.keep(w, c.st.commit)
	c.issue(w)
}

// hear takes a message of one that is no member, or to one that is not.
func (c *Core) hear(m *Message) {
	if c.st.phase >= phaseActive {
		if m.Kind == KindHello && (len(c.writes) == 0 || c.rn != nil) {
			c.greet(m.From, KindWelcome, m.Nonce)
		}
		return
	}
	if len(c.writes) > 0 {
		return // what the node is to be is not durable yet
	}
	switch m.Kind {
	case KindHello, KindWelcome:
		if m.Kind == KindHello {
			c.greet(m.From, KindWelcome, m.Nonce)
		}
		c.met[m.From] = &meeting{m.Peer, c.ticks}
		// A founder tells those at once who have promised for its cluster.
		if own := c.st.phase == phasePromised && m.Cluster == c.st.cluster; phase(m.Phase) == phaseActive && (own || c.fresh(m)) {
			c.follows(m)
		}
	case KindPromise:
		if slices.Contains(m.Founders, c.st.self) && m.Cluster != 0 && c.cfg.Self != c.cfg.Nodes[0] {
			c.answerPromise(m)
		}
	case KindPromised:
		if c.cfg.Self == c.cfg.Nodes[0] && c.st.phase == phasePromised && m.Cluster == c.st.cluster && slices.Equal(m.Founders, c.st.founders) {
			c.promised[m.From] = true
			c.foundIfAll()
		}
	}
}

func (c *Core) answerPromise(m *Message) {
	promised := func() {
		c.post(&Message{Kind: KindPromised, To: m.From, Founders: m.Founders})
	}
	if c.st.phase == phasePromised && c.st.cluster == m.Cluster && slices.Equal(c.st.founders, m.Founders) {
		promised()
		return
	}
	c.promise(m.Cluster, m.Founders, promised)
}

// follows becomes a member of a cluster that there is: as a founder, or anew.
func (c *Core) follows(m *Message) {
	if c.st.phase == phasePromised && slices.Contains(m.Founders, c.st.self) {
		c.st.cluster, c.st.founders = m.Cluster, m.Founders
		c.found()
		return
	}
	c.st.cluster, c.st.founders = m.Cluster, m.Founders
	if planted("vote while blank") {
		for _, p := range m.Founders {
			if p.Node() == c.cfg.Self {
				c.st.self = p
			}
		}
		c.found()
		return
	}
	c.reincarnate()
}

// alone says whether the node is the only voter: what it has lost nobody has.
func (c *Core) alone() bool {
	if len(c.st.confs) == 0 {
		return false
	}
	voters := c.st.confs[len(c.st.confs)-1].conf.GetVoters()
	return len(voters) == 1 && voters[0] == uint64(c.st.self)
}

// startLost makes the node a new one whose log ends before what was committed: all that the
// state says was durable when it was saved. Raft does not run, since the membership may be one
// that entries have led to which are not there; what the log has is shown, as it is committed.
// Only when a leader has let the node join, and so has all of that, it begins anew.
func (c *Core) startLost(last uint64) error {
	c.renew()
	if err := c.log.Commit(last); err != nil {
		return fmt.Errorf("commit entry %d: %w", last, err)
	}
	c.visible = last
	c.saveState(func() { c.lost = true })
	return nil
}

// beginBlank empties the log of a node that has lost some of it, and starts raft.
func (c *Core) beginBlank() {
	c.lost = false
	c.st.commit, c.st.applied, c.st.confs, c.visible, c.toShow = 0, 0, nil, 0, 0
	w := &Write{reset: &storage.Place{}, then: c.mustStart}
	c.keep(w, 0)
	c.issue(w)
}

// reincarnate makes the node a new one, of the same cluster. Its log stays: what is
// wrong with it raft puts right, as with any other that is behind.
func (c *Core) reincarnate() {
	c.answerAll(ErrQuorumFailed)
	c.role, c.rn, c.table, c.leader = raft.StateFollower, nil, nil, 0
	c.renew()
	c.saveState(c.mustStart)
}

// renew gives the node another incarnation, which is to join.
func (c *Core) renew() {
	c.st.self = newPeerID(c.cfg.Self, c.cfg.Rand.Uint64())
	c.st.phase, c.st.vote = phaseJoining, 0
}
