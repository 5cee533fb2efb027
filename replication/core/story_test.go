package core_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/cryptotest"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"

	"github.com/zue-log/zue/replication/core"
	"github.com/zue-log/zue/storage"
	"github.com/zue-log/zue/storage/batch"
	"github.com/zue-log/zue/storage/executor"
	"github.com/zue-log/zue/storage/vfs"
)

// TestStories tells what a cluster does, step by step: testdata/stories, of which each is a
// cluster of its own. -rewrite writes down what it does now.
func TestStories(t *testing.T) {
	datadriven.Walk(t, "testdata/stories", func(t *testing.T, path string) {
		cryptotest.SetGlobalRandom(t, 1) // raft draws its election timeouts from there
		s := &story{t: t, cut: map[[2]core.NodeID]bool{}, names: map[core.PeerID]string{}, now: time.Unix(1, 0)}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			s.t, s.out = t, strings.Builder{}
			s.do(d)
			return s.out.String()
		})
	})
}

// story is a cluster, with a network that delivers at once, in order, what is not cut.
type story struct {
	t      *testing.T
	out    strings.Builder
	quorum int
	static bool
	nodes  []*actor // by id, from 1
	net    []*core.Message
	cut    map[[2]core.NodeID]bool
	take   func(*core.Message) bool // if set, reports whether it kept the message from being delivered
	names  map[core.PeerID]string
	now    time.Time
	turns  uint64
}

// actor is a node of a story's.
type actor struct {
	*story
	id     core.NodeID
	disk   *vfs.Mem
	ex     *executor.Manual
	log    *storage.Log
	core   *core.Core // nil: it is down
	writes []*core.Write
	begun  int
	held   bool // its disk does not finish writes

	unsynced bool
	bootID   string
}

func (s *story) printf(format string, args ...any) { fmt.Fprintf(&s.out, format, args...) }

// do runs one command.
func (s *story) do(d *datadriven.TestData) {
	var ids []core.NodeID
	var words []string
	for _, a := range d.CmdArgs {
		if n, err := strconv.Atoi(a.Key); err == nil && len(a.Vals) == 0 {
			ids = append(ids, core.NodeID(n))
		} else if len(a.Vals) == 0 {
			words = append(words, a.Key)
		}
	}
	each := func(do func(*actor)) {
		for _, id := range ids {
			do(s.nodes[id-1])
		}
	}
	switch d.Cmd {
	case "cluster":
		n := 3
		s.quorum = 2
		d.MaybeScanArgs(s.t, "nodes", &n)
		d.MaybeScanArgs(s.t, "quorum", &s.quorum)
		s.static = d.HasArg("static")
		for id := range n {
			s.nodes = append(s.nodes, &actor{story: s, id: core.NodeID(id + 1), disk: vfs.NewMem()})
		}
	case "boot":
		each((*actor).boot)
	case "crash":
		each((*actor).crash)
	case "wipe":
		each(func(n *actor) {
			n.crash()
			n.disk = vfs.NewMem()
		})
	case "stop":
		each(func(n *actor) {
			n.core.Close()
			n.settle()
			require.NoError(s.t, n.log.Close())
			n.crash()
		})
	case "tick":
		n := 1
		d.MaybeScanArgs(s.t, "n", &n)
		s.tick(ids, n)
		return
	case "isolate":
		each(func(n *actor) {
			for _, o := range s.nodes {
				s.cut[[2]core.NodeID{n.id, o.id}], s.cut[[2]core.NodeID{o.id, n.id}] = true, true
			}
		})
	case "heal":
		clear(s.cut)
	case "hold":
		each(func(n *actor) { n.held = true })
	case "release":
		each(func(n *actor) { n.held = false })
	case "append":
		each(func(n *actor) { n.append(d, words) })
	case "producer":
		each(func(n *actor) { n.core.Append(&core.Append{Tag: "producer"}) })
	case "barrier":
		each(func(n *actor) { n.core.Barrier(&core.Barrier{Tag: n.id}) })
	case "transfer":
		to, err := s.nodes[ids[0]-1].core.Transfer(ids[1])
		s.printf("%d, %v\n", to, err)
	case "remove":
		s.printf("%v\n", s.nodes[ids[0]-1].core.Remove(ids[1]))
	case "allow": // the last one to join, where no membership has it any more
		for _, id := range ids[:len(ids)-1] {
			s.nodes[id-1].core.Allow(ids[len(ids)-1])
		}
	case "forget": // the oldest segments
		each(func(n *actor) { require.NoError(s.t, n.log.TruncatePrefix(n.log.EndOffset())) })
	case "status":
		s.status()
		return
	case "log":
		each((*actor).entries)
		return
	case "read":
		each(func(n *actor) { n.read(d) })
	default:
		s.t.Fatalf("%s: there is no command %q", d.Pos, d.Cmd)
	}
	s.settle()
}

// tick lets time pass, for these nodes or all.
func (s *story) tick(ids []core.NodeID, n int) {
	for range n {
		s.now = s.now.Add(100 * time.Millisecond)
		for _, a := range s.nodes {
			if a.core != nil && (len(ids) == 0 || slices.Contains(ids, a.id)) {
				a.ex.Advance(100 * time.Millisecond)
				a.core.Tick()
			}
		}
		s.settle()
	}
}

// settle does all there is to do, until nothing is without time passing.
func (s *story) settle() {
	for {
		busy := false
		for _, n := range s.nodes {
			busy = n.settle() || busy
		}
		net := s.net
		s.net = nil
		for _, m := range net {
			n := s.nodes[m.To-1]
			if n.core != nil && !s.cut[[2]core.NodeID{m.From, m.To}] && (s.take == nil || !s.take(m)) {
				busy = true
				require.NoError(s.t, n.core.Step(m))
			}
		}
		if !busy {
			return
		}
	}
}

// settle does what the node wants, and reports whether there was anything.
func (n *actor) settle() (busy bool) {
	for n.core != nil {
		out := n.core.Ready()
		for _, m := range out.Messages {
			if m.Stored() {
				m = n.load(m)
			}
			if m != nil {
				n.net = append(n.net, m)
			}
		}
		n.writes = append(n.writes, out.Writes...)
		for _, a := range out.Appends {
			n.answered(a)
		}
		for _, b := range out.Barriers {
			n.printf("%d: barrier: end %d, %v\n", n.id, b.End, b.Err)
		}
		if err := n.core.Err(); err != nil {
			n.printf("%d: failed: %v\n", n.id, strings.SplitN(err.Error(), "\n", 2)[0])
			n.crash()
			return true
		}
		for _, r := range out.Repairs {
			r.Do(n.log)
			n.core.Repaired(r)
		}
		worked := len(out.Messages)+len(out.Appends)+len(out.Repairs) > 0
		for n.begun < len(n.writes) && (n.begun == 0 || !n.writes[n.begun].Exclusive()) {
			require.NoError(n.t, n.writes[n.begun].Begin(n.log))
			n.begun++
		}
		if n.begun > 0 && !n.held {
			w := n.writes[0]
			require.NoError(n.t, w.Finish(n.log))
			n.writes = n.writes[1:]
			n.begun--
			n.core.Written(w, nil)
			worked = true
		}
		if !worked {
			break
		}
		busy = true
	}
	return busy
}

// load reads what a message lacks from the log, and returns what the other end gets; nil: nothing.
func (n *actor) load(m *core.Message) (onWire *core.Message) {
	loaded, release, err := m.Load(n.log)
	if err != nil {
		n.core.Unloaded(m, err)
	}
	if loaded == nil {
		return nil
	}
	onWire, err = core.DecodeMessage(bytes.Join(loaded.Encode(0), nil))
	require.NoError(n.t, err)
	release()
	return onWire
}

func (n *actor) boot() {
	n.ex = executor.NewManual(n.now)
	log, err := storage.Open("log", storage.Options{
		FS: n.disk, Executor: n.ex, ManualCommit: true, SegmentBytes: storage.MinSegmentBytes,
	})
	require.NoError(n.t, err)
	n.log = log
	var nodes []core.NodeID
	for _, o := range n.nodes {
		nodes = append(nodes, o.id)
	}
	n.turns++
	n.core, err = core.New(core.Config{
		Self: n.id, Nodes: nodes, Preferred: 1, Static: n.static, Quorum: n.quorum,
		MaxLag: 100, ElectionTicks: 10, ReportTicks: 5, TimeoutTicks: 30, RecentBytes: 1,
		Unsynced: n.unsynced, BootID: n.bootID,
		Log: log, Rand: rand.New(rand.NewPCG(uint64(n.id), n.turns)),
	})
	require.NoError(n.t, err)
}

// crash is a power failure: what was not synced is lost.
func (n *actor) crash() {
	n.disk = n.disk.Crash(nil)
	n.core, n.log, n.writes, n.begun = nil, nil, nil, 0
}

// append appends words as the values of a batch, or as many batches with each=true.
func (n *actor) append(d *datadriven.TestData, words []string) {
	size := 0
	d.MaybeScanArgs(n.t, "size", &size)
	records := make([]batch.Record, len(words))
	for i, w := range words {
		records[i].Value = append([]byte(w), make([]byte, size)...)
	}
	body := batch.Append(nil, records, 1)
	a := &core.Append{Body: body, Tag: strings.Join(words, " ")}
	if d.HasArg("id") {
		var id, sequence int
		d.ScanArgs(n.t, "id", &id)
		d.ScanArgs(n.t, "sequence", &sequence)
		require.NoError(n.t, batch.SetProducer(body, int64(id), 0, int32(sequence)))
	}
	if d.HasArg("at") {
		a.Conditional = true
		d.ScanArgs(n.t, "at", &a.EndOffset)
	}
	a.Checksum = batch.Checksum(body)
	n.core.Append(a)
}

func (n *actor) answered(a *core.Append) {
	if a.Err != nil {
		n.printf("%d: %v: %v", n.id, a.Tag, a.Err)
		if errors.Is(a.Err, core.ErrNotLeader) {
			n.printf(" (leader %d)", a.Leader)
		}
		n.printf("\n")
		return
	}
	n.printf("%d: %v: offset %d, entry %d, term %d, on %d, duplicate %t\n", n.id, a.Tag, a.First, a.Index, a.Term, a.Copies, a.Duplicate)
}

func (n *actor) read(d *datadriven.TestData) {
	var offset uint64
	d.ScanArgs(n.t, "offset", &offset)
	rec, lease, err := n.log.Read(offset)
	if err != nil {
		n.printf("%d: %v\n", n.id, err)
		return
	}
	n.printf("%d: %s\n", n.id, strings.TrimRight(string(rec.Value), "\x00"))
	lease.Release()
}

// name names an incarnation of a node: 3, then 3', then 3”.
func (s *story) name(p core.PeerID) string {
	if p == 0 {
		return "-"
	}
	if s.names[p] == "" {
		name := fmt.Sprint(p.Node())
		for _, other := range s.names {
			if strings.TrimRight(other, "'") == fmt.Sprint(p.Node()) {
				name += "'"
			}
		}
		s.names[p] = name
	}
	return s.names[p]
}

func (s *story) nameAll(peers []core.PeerID) string {
	var names []string
	for _, p := range slices.Sorted(slices.Values(peers)) {
		names = append(names, s.name(p))
	}
	return strings.Join(names, ",")
}

func (s *story) status() {
	for _, n := range s.nodes {
		if n.core == nil {
			s.printf("%d: down\n", n.id)
			continue
		}
		st := n.core.Status()
		s.printf("%s: %s", s.name(st.Self), st.Role)
		if len(st.Missing) > 0 {
			s.printf(", waits for %v", st.Missing)
		}
		if st.Cluster != 0 {
			s.printf(", term %d, leader %s, last %d, committed %d, end %d, voters %s", st.Term, s.name(st.Leader), st.Last, st.Committed, st.End, s.nameAll(st.Voters))
		}
		if len(st.Learners) > 0 {
			s.printf(", learners %s", s.nameAll(st.Learners))
		}
		for _, r := range st.Replicas {
			if !r.InSync {
				s.printf(", %s not in sync", s.name(r.Peer))
			}
		}
		s.printf("\n")
	}
}

// entries prints the node's log.
func (n *actor) entries() {
	first, last := n.log.FirstPlace().Index, n.log.LastPlace().Index
	n.printf("%d:", n.id)
	for i := first + 1; i <= last; i++ {
		entries, lease, err := n.log.ReadEntries(nil, i, i, 1)
		require.NoError(n.t, err)
		e := entries[0]
		n.printf(" %d/%d", e.Index, e.Term)
		if e.Kind == storage.KindData {
			r, err := e.Records()
			require.NoError(n.t, err)
			var values []string
			for rec := (storage.Record{}); ; {
				more, err := r.Next(&rec)
				require.NoError(n.t, err)
				if !more {
					break
				}
				values = append(values, strings.TrimRight(string(rec.Value), "\x00"))
			}
			n.printf(":%s", strings.Join(values, "+"))
		}
		lease.Release()
	}
	n.printf("\n")
}
