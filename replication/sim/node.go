package sim

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"syscall"
	"time"

	"github.com/zue-log/zue/replication/core"
	"github.com/zue-log/zue/storage"
	"github.com/zue-log/zue/storage/executor"
	"github.com/zue-log/zue/storage/vfs"
)

const (
	tick          = 100 * time.Millisecond
	electionTicks = 10
	reportTicks   = 10
	timeoutTicks  = 50
	maxLag        = 200
	dir           = "log"
)

var errPowerOff = errors.New("power is off")

// fault is what is to go wrong with a node's disk.
type fault struct {
	left int  // operations until it does; 0: nothing does
	once bool // that one fails, and no other: the power stays on
	off  bool // the power is
	full bool
}

// node is a machine, with a process on it or not.
type node struct {
	*world
	id          core.NodeID
	disk        *vfs.Mem
	rate        float64 // of its clock
	fault       fault
	hurt        bool // something was made to fail since the process began
	pausedUntil time.Duration
	boots       int
	removed     bool // from the membership, at some time

	// While the process runs; life tells it from those before.
	life   uint64
	ex     *executor.Manual
	log    *storage.Log
	core   *core.Core
	writes []*core.Write
	begun  int // of writes

	debts
}

func (w *world) newNode(id core.NodeID) *node {
	n := &node{world: w, id: id, disk: vfs.NewMem(), rate: 1}
	if w.plan.drift > 0 {
		n.rate += float64(w.rng.IntN(2*w.plan.drift+1)-w.plan.drift) / 100
	}
	return n
}

// later has the process do something when so much time has passed, or, if it is paused
// then, after that; not if it has ended.
func (n *node) later(d time.Duration, do func()) {
	life := n.life
	n.after(d, func() { n.ifAlive(life, do) })
}

func (n *node) ifAlive(life uint64, do func()) {
	switch {
	case n.life != life || n.core == nil:
	case n.now < n.pausedUntil:
		n.after(n.pausedUntil-n.now, func() { n.ifAlive(life, do) })
	default:
		do()
	}
}

// inject is the node's file system: with the power gone, nothing works.
func (n *node) inject(op vfs.Op, name string) error {
	if op == vfs.OpRead {
		return nil
	}
	f := &n.fault
	if f.left > 0 {
		if f.left--; f.left == 0 {
			n.hurt = true
			n.note("%d: %s %s fails, power off: %t", n.id, op, name, !f.once)
			if f.off = !f.once; f.once {
				n.stats.DiskErrors++
				return syscall.EIO
			}
		}
	}
	if f.off {
		return errPowerOff
	}
	if f.full && (op == vfs.OpAllocate || op == vfs.OpCreate || op == vfs.OpWrite && n.rng.IntN(2) == 0) {
		n.hurt = true
		n.stats.FullDisks++
		return syscall.ENOSPC
	}
	return nil
}

// boot starts the process.
func (n *node) boot() {
	if n.core != nil {
		return
	}
	n.boots++
	n.hurt = false
	n.ex = executor.NewManual(time.Unix(1, 0).Add(n.now))
	n.disk.Inject(n.inject)
	o := storage.Options{
		FS: n.disk, Executor: n.ex, ManualCommit: true, SegmentBytes: storage.MinSegmentBytes, IndexInterval: 256,
	}
	if n.plan.retention {
		o.RetentionBytes = 3 * storage.MinSegmentBytes
	}
	log, err := storage.Open(dir, o)
	if err != nil {
		n.cannotBoot(err)
		return
	}
	n.log = log
	n.collect()
	nodes := make([]core.NodeID, len(n.nodes))
	for i := range nodes {
		nodes[i] = core.NodeID(i + 1)
	}
	n.core, err = core.New(core.Config{
		Self: n.id, Nodes: nodes, Preferred: 1, Static: n.plan.static, Quorum: n.plan.quorum,
		MaxLag: maxLag, RecentBytes: n.plan.recent, ElectionTicks: electionTicks, ReportTicks: reportTicks, TimeoutTicks: timeoutTicks,
		Log: log, Rand: rand.New(rand.NewPCG(n.rng.Uint64(), 2)),
	})
	if err != nil {
		n.core = nil
		n.cannotBoot(err)
		return
	}
	n.life++
	n.note("%d: boots, %+v to %+v, %+v, status %+v", n.id, log.FirstPlace(), log.LastPlace(), log.Recovery(), n.core.Status())
	n.shown = 0
	for _, o := range n.nodes {
		if o.removed {
			n.core.Allow(o.id)
		}
	}
	n.later(n.period(), n.tick)
	if n.plan.flips > 0 {
		n.later(n.between(0, time.Second), n.scrub)
	}
	n.drain()
}

// cannotBoot tries again later, with an empty disk if this one is damaged.
func (n *node) cannotBoot(err error) {
	n.note("%d: cannot boot: %v", n.id, err)
	n.stats.FailedBoots++
	damaged := errors.Is(err, storage.ErrCorrupt)
	switch {
	case n.fault.off:
		n.crash()
		return
	case damaged && !n.damaged && !n.hurt:
		n.violated("node %d cannot boot: %v", n.id, err)
	case damaged:
		n.wipe()
		return
	case !n.hurt:
		n.violated("node %d cannot boot: %v", n.id, err)
	}
	n.kill()
}

func (n *node) period() time.Duration { return time.Duration(float64(tick) / n.rate) }

func (n *node) tick() {
	n.ex.Advance(tick)
	if n.rng.IntN(3) == 0 {
		n.ex.Step()
	}
	n.core.Tick()
	n.later(n.period(), n.tick)
	n.drain()
}

// drain does what the core wants.
func (n *node) drain() {
	out := n.core.Ready()
	for _, m := range out.Messages {
		if m.Stored() {
			n.later(n.between(0, n.plan.slow), func() { n.load(m) })
		} else {
			n.send(m)
		}
	}
	n.writes = append(n.writes, out.Writes...)
	for _, r := range out.Repairs {
		n.later(n.between(0, n.plan.slow), func() { n.repair(r) })
	}
	n.checkNode()
	for _, a := range out.Appends {
		n.checkAppend(a)
		a.Tag.(func(*core.Append))(a)
	}
	for _, b := range out.Barriers {
		b.Tag.(func(*core.Barrier))(b)
	}
	if n.fault.off {
		n.crash()
		return
	}
	if err := n.core.Err(); err != nil {
		n.failed(err)
		return
	}
	n.begin()
}

// load reads what a message lacks from the log, and sends it.
func (n *node) load(m *core.Message) {
	loaded, release, err := m.Load(n.log)
	if loaded != nil {
		onWire, err := core.DecodeMessage(bytes.Join(loaded.Encode(0), nil))
		if err != nil {
			n.violated("node %d: message %+v: %v", n.id, loaded, err)
			return
		}
		release()
		n.stats.Loaded++
		n.send(onWire)
	}
	if err != nil {
		n.note("%d: %v", n.id, err)
		n.stats.Unloaded++
		n.core.Unloaded(m, err)
		n.drain()
	}
}

// repair does a repair, and tells the core.
func (n *node) repair(r *core.Repair) {
	r.Do(n.log)
	n.note("%d: repair of %v: %d entries, %v", n.id, r.Damage(), r.Mends(), r.Err())
	if r.Mends() > 0 && r.Err() == nil {
		n.stats.Mended += r.Mends()
	}
	n.core.Repaired(r)
	n.drain()
}

// scrub looks for damage, and has the core mend it.
func (n *node) scrub() {
	if n.damaged {
		report, err := n.log.Verify(context.Background(), nil)
		if err == nil {
			for _, d := range report.Damage {
				n.core.Damaged(d)
			}
			n.drain()
		}
	}
	n.later(time.Second, n.scrub)
}

// failed ends a process whose core or log has failed.
func (n *node) failed(err error) {
	n.note("%d: failed: %v", n.id, err)
	switch {
	case strings.HasPrefix(err.Error(), "raft: ") && !n.damaged:
		n.violated("node %d failed: %v", n.id, err)
	case n.fault.off:
		n.crash()
	case errors.Is(err, storage.ErrCorrupt) && n.damaged:
		n.stats.Repairs++
		n.wipe()
	case n.hurt:
		n.kill()
	default:
		n.violated("node %d failed: %v", n.id, err)
	}
}

// begin begins the writes that may be, and has the oldest finish.
func (n *node) begin() {
	for n.begun < len(n.writes) {
		w := n.writes[n.begun]
		if w.Exclusive() && n.begun > 0 {
			return
		}
		n.owe(w)
		if w.TakesBack() && n.plan.crashes > 0 && n.chance(3) {
			n.fault.left, n.fault.once = 1+n.rng.IntN(30), false
		}
		if err := w.Begin(n.log); err != nil {
			n.failed(err)
			return
		}
		if n.begun++; n.begun == 1 {
			n.scheduleFinish()
		}
	}
}

func (n *node) scheduleFinish() {
	d := n.between(0, n.plan.slow)
	if n.chance(n.plan.stall) {
		d = n.between(0, 5*time.Second)
		n.stats.Stalls++
	}
	n.later(d, n.finish)
}

// finish finishes the oldest write.
func (n *node) finish() {
	w := n.writes[0]
	err := w.Finish(n.log)
	if err != nil {
		n.failed(err)
		return
	}
	n.paid(w)
	n.writes = n.writes[1:]
	n.begun--
	n.core.Written(w, nil)
	if n.begun > 0 {
		n.scheduleFinish()
	}
	n.drain()
}

// down ends the process, and has it boot again.
func (n *node) down() {
	n.life++
	n.core, n.log, n.ex, n.writes, n.begun = nil, nil, nil, nil, 0
	n.fault.left, n.fault.off = 0, false
	n.after(n.between(0, 3*time.Second), n.boot)
}

// halt stops the process in order.
func (n *node) halt() {
	n.note("%d: stops", n.id)
	n.stats.Stops++
	n.core.Close()
	n.drain()
	for n.core != nil && n.begun > 0 {
		n.finish()
	}
	if n.core == nil {
		return // its disk has failed
	}
	if err := n.log.Close(); err != nil && !n.hurt {
		n.violated("node %d: close: %v", n.id, err)
	}
	n.down()
}

// kill ends the process, and leaves it the page cache.
func (n *node) kill() {
	n.note("%d: killed", n.id)
	n.stats.Kills++
	n.disk.UnlockAll()
	n.down()
}

// crash is a power failure: what was not synced may be lost, each sector by itself.
func (n *node) crash() {
	rng := n.rng
	if rng.IntN(4) == 0 {
		rng = nil // all of it is lost
	}
	n.note("%d: crash", n.id)
	n.stats.Crashes++
	n.disk = n.disk.Crash(rng)
	n.down()
}

// wipe takes the disk away.
func (n *node) wipe() {
	n.note("%d: wiped", n.id)
	n.stats.Wipes++
	n.disk = vfs.NewMem()
	n.forget()
	n.down()
}

// flip flips a bit on the disk.
func (n *node) flip() {
	names, err := n.disk.List(dir)
	if err != nil || len(names) == 0 {
		return
	}
	n.disk.Inject(nil)
	defer n.disk.Inject(n.inject)
	name := dir + "/" + names[n.rng.IntN(len(names))]
	if n.core != nil && strings.HasSuffix(name, ".index") {
		return // it is mapped: that would be the memory's bit, not the disk's
	}
	f, err := n.disk.Open(name, true)
	if err != nil {
		return
	}
	size, err := f.Size()
	if err != nil || size == 0 {
		return
	}
	at := n.rng.Int64N(size)
	if b := make([]byte, size); n.rng.IntN(2) == 0 { // near the end of what is written
		_, _ = f.ReadAt(b, 0)
		used := len(bytes.TrimRight(b, "\x00"))
		at = int64(max(0, used-1-n.rng.IntN(1000)))
	}
	var b [1]byte
	_, _ = f.ReadAt(b[:], at)
	b[0] ^= 1 << n.rng.IntN(8)
	_, _ = f.WriteAt(b[:], at)
	_ = f.Sync()
	_ = f.Close()
	n.damaged, n.flipped = true, n.life
	n.stats.Flips++
	n.note("%d: a bit of %s flips at %d", n.id, name, at)
	if n.core != nil && n.rng.IntN(3) == 0 {
		n.crash()
	}
}

// send puts a message on the network.
func (w *world) send(m *core.Message) {
	w.stats.Messages++
	if w.chance(w.plan.loss) || w.cut[[2]core.NodeID{m.From, m.To}] {
		w.stats.Lost++
		return
	}
	n := 1
	if w.chance(w.plan.double) {
		n = 2
		w.stats.Doubled++
	}
	for range n {
		d := w.between(0, w.plan.delay)
		if w.chance(w.plan.hold) {
			d = w.between(0, 3*time.Second)
			w.stats.Held++
		}
		w.after(d, func() { w.deliver(m) })
	}
}

// deliver hands a message over.
func (w *world) deliver(m *core.Message) {
	n := w.nodes[m.To-1]
	if n.core == nil || w.cut[[2]core.NodeID{m.From, m.To}] {
		w.stats.Lost++
		return
	}
	n.ifAlive(n.life, func() {
		if err := n.core.Step(m); err != nil {
			w.violated("message %+v to node %d: %v", m, n.id, err)
		}
		n.drain()
	})
}
