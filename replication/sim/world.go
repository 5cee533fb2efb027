package sim

import (
	"container/heap"
	"crypto/rand"
	"fmt"
	"hash/fnv"
	"io"
	mathrand "math/rand/v2"
	"time"

	"github.com/zue-log/zue/replication/core"
	"github.com/zue-log/zue/storage"
)

// Options say what is to be run.
type Options struct {
	Seed uint64
	// Nodes is how many nodes there are, 1 to 7; 0 leaves it to the seed.
	Nodes int
	// Duration is for how long, of simulated time, faults happen; 0 means 60 s.
	Duration time.Duration
	// Log gets a line for each event; nil: nobody does.
	Log io.Writer
}

// Violation is what a run has found that must not be.
type Violation struct {
	Seed  uint64
	Event uint64        // number of the event
	Time  time.Duration // of the simulation
	What  string
}

// Error implements error.
func (v *Violation) Error() string {
	return fmt.Sprintf("seed %d, event %d, at %v: %s", v.Seed, v.Event, v.Time, v.What)
}

// Result is what a run has come to.
type Result struct {
	// Trace is a hash of all that has happened: two runs of one seed have the same.
	Trace uint64
	Stats Stats
}

// world is a run.
type world struct {
	opts  Options
	rng   *mathrand.Rand
	plan  plan
	now   time.Duration
	queue events
	count uint64 // of events
	trace uint64
	stats Stats

	nodes   []*node // by id, from 1
	cut     map[[2]core.NodeID]bool
	clients []*client
	calm    bool // no more faults
	stop    bool // clients begin nothing new

	checker
}

// event is something that happens at a time.
type event struct {
	at  time.Duration
	seq uint64
	do  func()
}

type events struct {
	heap []event
	seq  uint64
}

func (q *events) Len() int { return len(q.heap) }
func (q *events) Less(i, j int) bool {
	a, b := q.heap[i], q.heap[j]
	return a.at < b.at || a.at == b.at && a.seq < b.seq
}
func (q *events) Swap(i, j int) { q.heap[i], q.heap[j] = q.heap[j], q.heap[i] }
func (q *events) Push(x any)    { q.heap = append(q.heap, x.(event)) }
func (q *events) Pop() any {
	last := len(q.heap) - 1
	e := q.heap[last]
	q.heap[last] = event{}
	q.heap = q.heap[:last]
	return e
}

// after has do happen when so much time has passed.
func (w *world) after(d time.Duration, do func()) {
	w.queue.seq++
	heap.Push(&w.queue, event{w.now + max(d, 0), w.queue.seq, do})
}

// chance is true once in n times, as long as there are faults.
func (w *world) chance(n int) bool { return n > 0 && !w.calm && w.rng.IntN(n) == 0 }

// between returns a time from a up to b.
func (w *world) between(a, b time.Duration) time.Duration {
	return a + time.Duration(w.rng.Int64N(int64(b-a+1)))
}

// note adds an event to the trace.
func (w *world) note(format string, args ...any) {
	h := fnv.New64a()
	fmt.Fprintf(h, "%x %d ", w.trace, w.now)
	fmt.Fprintf(h, format, args...)
	w.trace = h.Sum64()
	if w.opts.Log != nil {
		fmt.Fprintf(w.opts.Log, "%9.3f  %s\n", w.now.Seconds(), fmt.Sprintf(format, args...))
	}
}

// violated ends the run.
func (w *world) violated(format string, args ...any) {
	panic(&Violation{w.opts.Seed, w.count, w.now, fmt.Sprintf(format, args...)})
}

// deterministic is where raft draws its election timeouts from.
type deterministic struct{ rng *mathrand.ChaCha8 }

func (d deterministic) Read(p []byte) (int, error) { return d.rng.Read(p) }

// Run runs a simulation. The error is a [*Violation]. Only one can run at a time in a
// process, since it takes the place of crypto/rand's Reader.
func Run(o Options) (r Result, err error) {
	if o.Duration == 0 {
		o.Duration = time.Minute
	}
	var key [32]byte
	for i := range 8 {
		key[i] = byte(o.Seed >> (8 * i))
	}
	before := rand.Reader
	rand.Reader = deterministic{mathrand.NewChaCha8(key)}
	defer func() { rand.Reader = before }()
	w := &world{opts: o, rng: mathrand.New(mathrand.NewPCG(o.Seed, 1)), cut: map[[2]core.NodeID]bool{}}
	w.checker = newChecker()
	defer func() {
		r = Result{w.trace, w.stats}
		switch v := recover().(type) {
		case nil:
		case *Violation:
			err = v
		default:
			panic(v)
		}
	}()
	w.run()
	return r, nil
}

// run has everything happen.
func (w *world) run() {
	w.plan = w.draw()
	w.note("plan %+v", w.plan)
	for id := range w.plan.nodes {
		w.nodes = append(w.nodes, w.newNode(core.NodeID(id+1)))
	}
	for _, n := range w.nodes {
		w.after(w.between(0, w.plan.startWithin), n.boot)
	}
	for i := range w.plan.clients {
		c := &client{world: w, id: i, producer: -1}
		w.clients = append(w.clients, c)
		w.after(w.between(0, time.Second), c.next)
	}
	w.scheduleFaults()
	w.until(w.opts.Duration)
	w.settle()
}

// until has events happen up to a time.
func (w *world) until(t time.Duration) {
	for len(w.queue.heap) > 0 && w.queue.heap[0].at <= t {
		e := heap.Pop(&w.queue).(event)
		w.now = e.at
		w.count++
		e.do()
	}
	w.now = t
}

// settle ends all faults, and waits until the nodes are equal, and append.
func (w *world) settle() {
	w.note("calm")
	w.calm = true
	clear(w.cut)
	for _, n := range w.nodes {
		n.fault = fault{}
		n.pausedUntil = 0
	}
	const patience = 120 * time.Second
	deadline := w.now + patience
	w.probe()
	for w.now < deadline {
		w.until(w.now + 100*time.Millisecond)
		if w.stop && w.idle() && w.agree() {
			w.stats.Settled += w.now - (deadline - patience)
			w.stats.Simulated += w.now
			w.checkEnd()
			return
		}
		if !w.stop && w.probed {
			w.stop = true
		}
	}
	for _, n := range w.nodes {
		if n.core != nil {
			w.note("node %d: %+v, log %+v to %+v", n.id, n.core.Status(), n.log.FirstPlace(), n.log.LastPlace())
		} else {
			w.note("node %d is down", n.id)
		}
	}
	w.violated("%v after the last fault the cluster has not converged (probed: %t, clients idle: %t)", patience, w.probed, w.idle())
}

// idle says that no client waits for anything.
func (w *world) idle() bool {
	for _, c := range w.clients {
		if c.busy {
			return false
		}
	}
	return true
}

// agree says that all nodes are voters, up, and have applied all that the leader has.
func (w *world) agree() bool {
	var last storage.Place
	leaders, members := 0, 0
	for _, n := range w.nodes {
		if n.core == nil {
			return false
		}
		members++
		s := n.core.Status()
		p := n.log.LastPlace()
		if s.Role != core.RoleLeader && s.Role != core.RoleFollower || s.Committed != p.Index || len(n.writes) > 0 {
			return false
		}
		if n.damaged && !n.whole() {
			return false // others have what was there
		}
		if s.Role == core.RoleLeader {
			leaders++
		}
		if last.Index != 0 && p != last {
			return false
		}
		last = p
	}
	for _, n := range w.nodes {
		if len(n.core.Status().Voters) != members {
			return false
		}
	}
	return leaders == 1 && last.Index >= w.lastCommitted
}
