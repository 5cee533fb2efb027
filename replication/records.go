package replication

import (
	"time"

	"github.com/zue-log/zue/replication/core"
	"github.com/zue-log/zue/storage"
	"github.com/zue-log/zue/storage/batch"
)

// AppendRecords has records appended one behind the other, with those of others that come
// meanwhile in one entry, for which they wait for 10 ms at most. They, and what they point to, are the
// node's until done is called, once, perhaps before AppendRecords returns, by a goroutine that does the
// node's work; it must be quick, and not call the node. a is the append of that entry: its outcome.
// False says that there is no room, or that the node has ended, and that done is not called: use
// AppendAsync.
func (n *Node) AppendRecords(records []storage.Record, done func(first uint64, a *core.Append)) bool {
	size := 0
	for i := range records {
		r := &records[i]
		size += len(r.Key) + len(r.Value)
		for _, h := range r.Headers {
			size += len(h.Key) + len(h.Value)
		}
	}
	g := &n.gathering
	n.mu.Lock()
	now := time.Now()
	if n.err != nil {
		n.mu.Unlock()
		return false
	}
	added := g.add(run{records, done}, size, now)
	ripe := g.ripe(now)
	if !ripe && len(g.runs) == 1 {
		n.gatherBy.Reset(g.wait(now)) // when others have come, or landed, propose and landed see to it
	}
	n.mu.Unlock()
	if ripe {
		n.help(false)
	}
	return added
}

// propose has the core append the records that wait, as one entry.
func (n *Node) propose(c *core.Core) {
	g := &n.gathering
	n.mu.Lock()
	if len(g.runs) == 0 {
		n.mu.Unlock()
		return
	}
	now := time.Now()
	if !g.ripe(now) && !n.over {
		n.gatherBy.Reset(g.wait(now)) // they were ripe when they came, perhaps, and others have come since
		n.mu.Unlock()
		return
	}
	e := g.take(now)
	n.mu.Unlock()
	n.flying.Add(1)
	records := e.runs[0].records
	if len(e.runs) > 1 {
		records = make([]storage.Record, 0, e.records)
		for i := range e.runs {
			records = append(records, e.runs[i].records...)
		}
	}
	body := batch.Append(nil, records, now.UnixMilli())
	c.Append(&core.Append{Body: body, Checksum: batch.Checksum(body), Tag: func(a *core.Append) { n.landed(e, a) }})
}

// landed answers those whose records became an entry, which has its outcome.
func (n *Node) landed(e *entry, a *core.Append) {
	n.flying.Add(-1)
	g := &n.gathering
	n.mu.Lock()
	now := time.Now()
	g.land(e, a.Err == nil, now)
	if len(g.runs) > 0 && !g.ripe(now) { // those that are ripe are seen to after this round
		n.gatherBy.Reset(g.wait(now))
	}
	n.mu.Unlock()
	first := a.First
	for i := range e.runs {
		e.runs[i].done(first, a)
		first += uint64(len(e.runs[i].records))
	}
}
