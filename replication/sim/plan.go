package sim

import "time"

// plan is what a run is like: each seed draws which faults there are, and how often.
type plan struct {
	nodes, quorum, clients int
	retention              bool
	static                 bool
	startWithin            time.Duration

	delay    time.Duration // of a message, at most, mostly
	loss     int           // one of so many messages is lost; 0: none
	double   int           // or comes twice
	hold     int           // or is held up for long
	slow     time.Duration // a write to the disk, at most, mostly
	stall    int           // one of so many writes takes very long
	cuts     time.Duration // between partitions, on average; 0: none
	crashes  time.Duration // between crashes of nodes
	kills    time.Duration
	halts    time.Duration // between pauses of processes
	errors   time.Duration // between errors of disks
	fulls    time.Duration // between full disks
	wipes    time.Duration
	flips    time.Duration
	moves    time.Duration // between transfers of leadership
	reshape  time.Duration // between removals of nodes, which come back
	drift    int           // clocks differ by up to so many per cent
	blackout bool          // now and then all nodes lose power at once
	recent   int           // bytes of the last entries that nodes keep in memory
}

// draw draws the plan.
func (w *world) draw() plan {
	r := w.rng
	often := func() time.Duration { return time.Duration(1+r.IntN(20)) * time.Second }
	some := func() time.Duration {
		if r.IntN(2) == 0 {
			return 0
		}
		return often()
	}
	rate := func() int {
		if r.IntN(2) == 0 {
			return 0
		}
		return 3 + r.IntN(200)
	}
	p := plan{
		nodes: []int{1, 2, 3, 3, 3, 3, 4, 5, 5, 7}[r.IntN(10)], clients: 1 + r.IntN(6),
		retention: r.IntN(3) == 0, static: r.IntN(8) == 0, startWithin: time.Duration(r.IntN(3000)) * time.Millisecond,
		delay: time.Duration(1+r.IntN(50)) * time.Millisecond, loss: rate(), double: rate(), hold: rate(),
		slow: time.Duration(1+r.IntN(40)) * time.Millisecond, stall: rate(),
		cuts: some(), crashes: some(), kills: some(), halts: some(), errors: some(), fulls: some(),
		wipes: some(), flips: some(), moves: some(), reshape: some(), drift: r.IntN(20), blackout: r.IntN(4) == 0,
	}
	if w.opts.Nodes > 0 {
		p.nodes = w.opts.Nodes
	}
	p.quorum = p.nodes/2 + 1
	if r.IntN(5) == 0 {
		p.quorum += r.IntN(p.nodes - p.quorum + 1)
	}
	if r.IntN(4) == 0 {
		p.quorum = 0 // a majority of whoever is a member
	}
	p.recent = []int{1, 1, 300, 3000, 0}[r.IntN(5)]
	return p
}
