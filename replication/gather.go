package replication

import (
	"time"

	"github.com/zue-log/zue/replication/core"
	"github.com/zue-log/zue/storage"
)

// When single records of many callers become an entry together.
//
// There are two ways. In the eager one they do when they are a good part of all that is under way. In
// the patient one they wait for what is under way to land, and for those whom that answers to come back:
// if they append again at once, all go round in one entry, which costs the nodes, their disks and the
// network about as much as an entry of one. Which one is faster hangs on what the bottleneck is, and on
// how soon callers come back, which nobody can know beforehand; so both are tried: see trial.

const (
	// maxRunRecords and maxRunBytes bound the single records that become one entry.
	maxRunRecords = 4096
	maxRunBytes   = 4 << 20
	// gatherShare is, for the eager, which part of the runs that are under way waits at least to become
	// an entry, and maxGather how long they wait for that at most.
	gatherShare = 3
	maxGather   = time.Millisecond
	// maxPatience is how long the patient wait at most, and maxReturn how long for those who were
	// answered.
	maxPatience = 10 * time.Millisecond
	maxReturn   = time.Millisecond
)

// run is records that wait to be appended with others.
type run struct {
	records []storage.Record
	done    func(first uint64, a *core.Append)
}

// gathering is runs that wait to become an entry, and what is known of those that have become one.
type gathering struct {
	runs    []run
	records int       // in them
	bytes   int       // of them
	first   time.Time // when the first of them came
	flying  int       // runs that have become entries without an outcome yet

	away   int       // callers who were answered last, and are not back
	landed time.Time // when they were

	trial trial
}

// full says whether there is no room for a run.
func (g *gathering) full(records, bytes int) bool {
	return len(g.runs) > 0 && (g.records+records > maxRunRecords || g.bytes+bytes > maxRunBytes)
}

// add takes a run of so many bytes.
func (g *gathering) add(r run, bytes int, now time.Time) {
	if len(g.runs) == 0 {
		g.first = now
	}
	g.runs = append(g.runs, r)
	g.records += len(r.records)
	g.bytes += bytes
	g.away = max(g.away-1, 0)
}

// ripe says whether the runs are to become an entry.
func (g *gathering) ripe(now time.Time) bool {
	waiting := len(g.runs)
	switch {
	case waiting == 0:
		return false
	case g.trial.patient:
		return g.flying == 0 && (g.away == 0 || now.Sub(g.landed) >= maxReturn) || now.Sub(g.first) >= maxPatience
	default:
		return gatherShare*waiting >= waiting+g.flying || now.Sub(g.first) >= maxGather
	}
}

// wait is after which time they will be ripe, if nothing happens.
func (g *gathering) wait(now time.Time) time.Duration {
	at := g.first.Add(maxGather)
	if g.trial.patient {
		at = g.first.Add(maxPatience)
		if back := g.landed.Add(maxReturn); g.flying == 0 && back.Before(at) {
			at = back
		}
	}
	return at.Sub(now)
}

// take has the runs become an entry.
func (g *gathering) take() (runs []run, records int) {
	runs, records = g.runs, g.records
	g.flying += len(runs)
	g.runs, g.records, g.bytes = nil, 0, 0
	return runs, records
}

// land is told that an entry of so many runs has its outcome.
func (g *gathering) land(runs int, now time.Time) {
	if now.Sub(g.landed) >= maxReturn {
		g.away = 0 // they are not expected any more
	}
	g.flying -= runs
	g.away += runs
	g.landed = now
}

const (
	// A trial has trialWindows, in which it is gone about in the one way and in the other in turns. In each,
	// windowRuns runs land, so that chance decides nothing, and windowTrips times as much passes as an entry
	// takes; before it settleTrips times as much, which does not count.
	trialWindows = 8
	windowRuns   = 250
	windowTrips  = 16
	settleTrips  = 4
	// trialPause is how many times as long as a trial it is until the next one, and maxPause how long at
	// most.
	trialPause = 20
	maxPause   = time.Minute
	// trialGain is how many times more must land in the patient way for it to be chosen, and trialKeep
	// for it to be kept: it is the one that makes callers wait.
	trialGain = 1.15
	trialKeep = 1.05
	// trialLoad is how many times more, or less, must be under way for a trial out of turn, and
	// trialLeast how much for any: with one run at a time both ways are the same.
	trialLoad  = 4
	trialLeast = 1.5
	// trialLull is after how much time in which nothing lands a trial says nothing.
	trialLull = 100 * time.Millisecond
)

// trial finds out, again and again, whether more runs land when they are gathered patiently.
type trial struct {
	patient bool    // how it is gone about now
	chosen  bool    // and while no trial is on
	load    float64 // how many runs are under way, smoothed
	last    time.Time

	windows int // that are left of the trial that is on; 0: none is
	start   time.Time
	from    time.Time // when what lands in the window begins to count
	runs    int       // that have landed since
	counted [2]tally  // of the eager windows, and of the patient ones

	next     time.Time // when there is to be another trial
	loadThen float64   // load at the end of the last one
}

// tally is how many runs have landed in which time.
type tally struct {
	runs  int
	spent time.Duration
}

func (t *tally) rate() float64 { return float64(t.runs) / t.spent.Seconds() }

// land is told of runs that have landed, of how many were under way, and of how long they took.
func (t *trial) land(runs, load int, took time.Duration, now time.Time) {
	t.load += (float64(load) - t.load) / 8
	lull := now.Sub(t.last) > trialLull
	t.last = now
	switch {
	case t.windows == 0 && t.due(now):
		t.start, t.windows, t.counted = now, trialWindows, [2]tally{}
		t.turn(took, now)
	case t.windows > 0 && lull:
		t.end(now)
	case t.windows > 0 && !now.Before(t.from):
		t.runs += runs
		if spent := now.Sub(t.from); t.runs >= windowRuns && spent >= windowTrips*took {
			t.count(spent)
			if t.windows--; t.windows > 0 {
				t.turn(took, now)
			} else {
				t.choose()
				t.end(now)
			}
		}
	}
}

// due says whether there is to be a trial.
func (t *trial) due(now time.Time) bool {
	return t.load > trialLeast && (!now.Before(t.next) || t.load > trialLoad*t.loadThen || t.loadThen > trialLoad*t.load)
}

// turn begins a window of the other way.
func (t *trial) turn(took time.Duration, now time.Time) {
	t.patient = !t.patient
	t.from, t.runs = now.Add(settleTrips*took), 0
}

// count counts a window.
func (t *trial) count(spent time.Duration) {
	c := &t.counted[0]
	if t.patient {
		c = &t.counted[1]
	}
	c.runs += t.runs
	c.spent += spent
}

// choose chooses the way that has more runs land.
func (t *trial) choose() {
	gain := trialGain
	if t.chosen {
		gain = trialKeep
	}
	t.chosen = t.counted[1].rate() > gain*t.counted[0].rate()
}

// end ends a trial.
func (t *trial) end(now time.Time) {
	t.windows, t.patient = 0, t.chosen
	t.next, t.loadThen = now.Add(min(trialPause*now.Sub(t.start), maxPause)), t.load
}
