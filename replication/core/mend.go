package core

import (
	"fmt"
	"slices"

	"github.com/zue-log/zue/storage"
)

// How damage is mended. Bytes that were durable and are not what was written are reported by
// whoever comes across them: a reader, the scrubber, raft. A Repair then finds which entries of
// that segment are damaged; another member is asked for them; and a second Repair writes them
// in their place, if the chains before and behind prove that they are what was there. Nothing was
// lost by that, so that the node stays what it is, and takes part as before meanwhile.
//
// Only committed entries are mended: other members need not have the rest, and raft may yet
// replace it.

const (
	// maxDamage bounds how much damage waits. What is left out is found again.
	maxDamage = 64
	// maxMendBytes bounds what is kept of a damaged range until it is whole.
	maxMendBytes = 256 << 20
	// maxFetchBytes bounds the entries of one message, but for the first.
	maxFetchBytes = 1 << 20
)

// Repair is a part of mending damage, which reads and may write much. Repairs are done beside
// the writes, one at a time: [Repair.Do], and then [Core.Repaired].
type Repair struct {
	damage  *storage.CorruptionError
	first   uint64 // 0: the damage is to be looked into
	entries []storage.Entry

	found []storage.IndexRange
	err   error
}

// Do does it.
func (r *Repair) Do(log *storage.Log) {
	if r.first > 0 {
		r.err = log.Mend(r.first, r.entries)
		return
	}
	if r.found, r.err = log.Damaged(r.damage); r.err != nil || len(r.found) > 0 {
		return
	}
	// The entries are whole: then it is the segment's index that has led astray.
	at := r.damage.Index
	for _, start := range log.Starts() {
		if r.damage.Index == 0 && start.Offset <= r.damage.Offset {
			at = start.Index + 1
		}
	}
	if at > 0 {
		r.err = log.Mend(at, nil)
	}
}

// Err says why it could not be done, after Do: the log's error. Nothing has changed then, unless
// the log has failed.
func (r *Repair) Err() error { return r.err }

// Damage returns what is being mended.
func (r *Repair) Damage() *storage.CorruptionError { return r.damage }

// Mends returns how many entries it writes; 0 if it only looks.
func (r *Repair) Mends() int { return len(r.entries) }

// mend is damage that is being mended.
type mend struct {
	damage *storage.CorruptionError
	ranges []storage.IndexRange // the first is under way
	// entries are what has come for it, and bytes their bodies'.
	entries []storage.Entry
	bytes   int
	failed  int    // attempts
	asked   uint64 // tick
	repair  *Repair
}

// hopeless is damage that could not be mended. It is not tried again before that tick: two nodes
// that have the same would ask one another without end, since to be asked is to find it.
type hopeless struct {
	damage *storage.CorruptionError
	until  uint64
}

// Damaged says that damage was found in the node's log. It is mended, if another member has what
// was there; if it cannot be, that is tried anew when the damage is found ten election timeouts
// later.
func (c *Core) Damaged(e *storage.CorruptionError) {
	if c.err != nil || c.closing || len(c.damage) >= maxDamage {
		return
	}
	same := func(d *storage.CorruptionError) bool { return d.Path == e.Path && d.Index == e.Index }
	c.hopeless = slices.DeleteFunc(c.hopeless, func(h hopeless) bool { return c.ticks >= h.until })
	if c.mend != nil && same(c.mend.damage) || slices.ContainsFunc(c.damage, same) ||
		slices.ContainsFunc(c.hopeless, func(h hopeless) bool { return same(h.damage) }) {
		return
	}
	c.damage = append(c.damage, e)
	c.mendNext()
}

// mendNext begins with the next damage.
func (c *Core) mendNext() {
	if c.mend != nil || len(c.damage) == 0 {
		return
	}
	c.mend = &mend{damage: c.damage[0]}
	c.damage = slices.Delete(c.damage, 0, 1)
	c.repair(&Repair{damage: c.mend.damage})
}

func (c *Core) repair(r *Repair) {
	c.mend.repair = r
	c.out.Repairs = append(c.out.Repairs, r)
}

// Repaired says that a repair was done.
func (c *Core) Repaired(r *Repair) {
	defer c.guard()
	m := c.mend
	if c.err != nil || m == nil || m.repair != r {
		return
	}
	m.repair = nil
	switch {
	case r.err != nil && r.first == 0:
		c.giveUp()
	case r.err != nil:
		c.tryAnother()
	case r.first == 0 && len(r.found) == 0:
		c.mendDone()
	case r.first == 0:
		m.ranges = slices.DeleteFunc(r.found, func(r storage.IndexRange) bool { return r.Last > c.visible })
		if len(m.ranges) == 0 {
			c.giveUp()
			return
		}
		c.fetch()
	default:
		c.mended += uint64(len(r.entries))
		m.ranges, m.entries, m.bytes, m.failed = m.ranges[1:], nil, 0, 0
		if len(m.ranges) == 0 {
			c.mendDone()
			return
		}
		c.fetch()
	}
}

// mendDone ends what is being mended.
func (c *Core) mendDone() {
	c.mend = nil
	c.mendNext()
}

// giveUp leaves damage to be found again, later.
func (c *Core) giveUp() {
	if len(c.hopeless) < maxDamage {
		c.hopeless = append(c.hopeless, hopeless{c.mend.damage, c.ticks + uint64(10*c.cfg.ElectionTicks)})
	}
	c.mendDone()
}

// tryAnother begins the range under way anew, with another member.
func (c *Core) tryAnother() {
	m := c.mend
	m.entries, m.bytes = nil, 0
	if m.failed++; m.failed < 2*len(c.others) {
		c.fetch()
		return
	}
	c.giveUp()
}

// fetch asks for what is still missing of the range under way.
func (c *Core) fetch() {
	m := c.mend
	from := c.mendFrom()
	if len(from) == 0 {
		c.giveUp()
		return
	}
	m.asked = c.ticks
	c.post(&Message{
		Kind: KindFetch, To: from[m.failed%len(from)],
		FirstIndex: m.ranges[0].First + uint64(len(m.entries)), LastIndex: m.ranges[0].Last,
	})
}

// mendFrom returns the nodes to ask, the leader first: it does so more likely have all.
func (c *Core) mendFrom() (nodes []NodeID) {
	if c.rn == nil {
		return nil
	}
	if c.leader != 0 && c.leader.Node() != c.cfg.Self {
		nodes = append(nodes, c.leader.Node())
	}
	for _, p := range members(c.conf()) {
		if n := p.Node(); n != c.cfg.Self && !slices.Contains(nodes, n) {
			nodes = append(nodes, n)
		}
	}
	return nodes
}

// tickMend asks another member when one does not answer.
func (c *Core) tickMend() {
	if m := c.mend; m != nil && m.repair == nil && c.ticks-m.asked >= uint64(c.cfg.ElectionTicks) {
		c.tryAnother()
	}
}

// answerFetch sends entries to a node that has damage, as many as it asks for, or fit, or are
// committed here: perhaps none.
func (c *Core) answerFetch(m *Message) {
	answer := &Message{Kind: KindEntries, To: m.From, FirstIndex: m.FirstIndex, LastIndex: m.LastIndex}
	if last := min(m.LastIndex, c.visible); c.raft != nil && m.FirstIndex > 0 && m.FirstIndex <= last {
		// An error leaves it at none: the other one asks elsewhere, and this one's damage is
		// noted.
		answer.Entries, _ = c.raft.Entries(m.FirstIndex, last+1, maxFetchBytes)
		c.noteDamage()
	}
	answer.behind = answer.Stored()
	c.post(answer)
}

// takeEntries takes what another member has for the range under way.
func (c *Core) takeEntries(msg *Message) error {
	m := c.mend
	if m == nil || m.repair != nil || len(m.ranges) == 0 {
		return nil // it comes too late
	}
	next := m.ranges[0].First + uint64(len(m.entries))
	if msg.FirstIndex != next || msg.LastIndex != m.ranges[0].Last {
		return nil
	}
	if len(msg.Entries) == 0 {
		c.tryAnother()
		return nil
	}
	for _, e := range msg.Entries {
		s, err := toStored(e)
		if err == nil {
			err = verify(e)
		}
		if err == nil && (s.Index != next || next > msg.LastIndex) {
			err = fmt.Errorf("entry %d, not %d, to mend with", s.Index, next)
		}
		if err != nil {
			c.tryAnother()
			return fmt.Errorf("%w: %w", ErrMessage, err)
		}
		m.entries = append(m.entries, s)
		m.bytes += len(s.Body)
		next++
	}
	switch {
	case next > msg.LastIndex:
		c.repair(&Repair{damage: m.damage, first: m.ranges[0].First, entries: m.entries})
	case m.bytes > maxMendBytes:
		c.fail(fmt.Errorf("entries %d to %d are damaged, too many to mend: %w", m.ranges[0].First, m.ranges[0].Last, m.damage))
	default:
		c.fetch()
	}
	return nil
}

// noteDamage has damage mended that raft has come across.
func (c *Core) noteDamage() {
	if c.raft != nil && c.raft.damaged != nil {
		e := c.raft.damaged
		c.raft.damaged = nil
		c.Damaged(e)
	}
}
