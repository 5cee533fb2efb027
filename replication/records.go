package replication

import (
	"time"

	"github.com/zue-log/zue/replication/core"
	"github.com/zue-log/zue/storage"
	"github.com/zue-log/zue/storage/batch"
)

// How single records of many callers become entries together.

const (
	// maxRunRecords and maxRunBytes bound the single records that become one entry.
	maxRunRecords = 4096
	maxRunBytes   = 4 << 20
	// gatherShare is which part of the runs that are under way waits at least, and maxGather how long,
	// to become an entry: see ripe.
	gatherShare = 3
	maxGather   = time.Millisecond
)

// run is records that wait to be appended with others.
type run struct {
	records []storage.Record
	done    func(first uint64, a *core.Append)
}

// AppendRecords has records appended one behind the other, with those of others that come
// meanwhile in one entry. They, and what they point to, are the node's until done is called,
// once, perhaps before AppendRecords returns, by a goroutine that does the node's work; it must be
// quick. a is the append of that entry: its outcome.
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
	n.mu.Lock()
	if n.err != nil || len(n.runs) > 0 && (n.records+len(records) > maxRunRecords || n.bytes+size > maxRunBytes) {
		n.mu.Unlock()
		return false
	}
	n.runs = append(n.runs, run{records, done})
	n.records += len(records)
	n.bytes += size
	n.flying.Add(1)
	n.shared.Add(1)
	if len(n.runs) == 1 {
		n.firstRun = time.Now()
	}
	ripe := n.ripe()
	if !ripe && len(n.runs) == 1 {
		n.gatherBy.Reset(maxGather) // propose sees to those that were ripe
	}
	n.mu.Unlock()
	if ripe {
		n.help(false)
	}
	return true
}

// ripe says whether the runs that wait are to become an entry: at once, if no others are under way, or
// they are a good part of what is; else those that come a little later had better be with them, since
// an entry costs about as much as thirty records in it. n.mu is held.
func (n *Node) ripe() bool {
	shared := n.shared.Load()
	return len(n.runs) > 0 && (gatherShare*int64(len(n.runs)) >= shared || time.Since(n.firstRun) >= maxGather)
}

// propose has the core append the records that wait, as one entry.
func (n *Node) propose(c *core.Core) {
	n.mu.Lock()
	if !n.ripe() && !n.over {
		if len(n.runs) > 0 { // they were ripe when they came, perhaps, and others have come since
			n.gatherBy.Reset(maxGather - time.Since(n.firstRun))
		}
		n.mu.Unlock()
		return
	}
	runs, count := n.runs, n.records
	n.runs, n.records, n.bytes = nil, 0, 0
	n.mu.Unlock()
	if len(runs) == 0 {
		return
	}
	records := runs[0].records
	if len(runs) > 1 {
		records = make([]storage.Record, 0, count)
		for i := range runs {
			records = append(records, runs[i].records...)
		}
	}
	body := batch.Append(nil, records, time.Now().UnixMilli())
	c.Append(&core.Append{Body: body, Checksum: batch.Checksum(body), Tag: func(a *core.Append) {
		n.flying.Add(int64(-len(runs)))
		n.shared.Add(int64(-len(runs)))
		first := a.First
		for i := range runs {
			runs[i].done(first, a)
			first += uint64(len(runs[i].records))
		}
	}})
}
