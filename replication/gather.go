package replication

import (
	"slices"
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

// entry is runs that have become one.
type entry struct {
	runs    []run
	records int // in them
	begun   time.Time
	waited  time.Duration // by all of them, until then
}

// gathering is runs that wait to become an entry, and what is known of those that have become one.
type gathering struct {
	runs    []run
	records int           // in them
	bytes   int           // of them
	first   time.Time     // when the first of them came
	after   time.Duration // how much later the others did, all together
	crowded bool          // one has come that there was no room for

	inFlight int       // runs that have become entries without an outcome yet
	away     int       // callers who were answered last, and are not back
	landed   time.Time // when they were

	trial trial
}

// add takes a run of so many bytes, if there is room for it.
func (g *gathering) add(r run, bytes int, now time.Time) bool {
	g.away = max(g.away-1, 0)
	if len(g.runs) > 0 && (g.records+len(r.records) > maxRunRecords || g.bytes+bytes > maxRunBytes) {
		g.crowded = true
		return false
	}
	if len(g.runs) == 0 {
		g.first = now
	}
	g.runs = append(g.runs, r)
	g.records += len(r.records)
	g.bytes += bytes
	g.after += now.Sub(g.first)
	return true
}

// ripe says whether the runs are to become an entry.
func (g *gathering) ripe(now time.Time) bool {
	waiting := len(g.runs)
	switch {
	case waiting == 0:
		return false
	case g.crowded:
		return true
	case g.trial.patient:
		return g.inFlight == 0 && (g.away == 0 || now.Sub(g.landed) >= maxReturn) || now.Sub(g.first) >= maxPatience
	default:
		return gatherShare*waiting >= waiting+g.inFlight || now.Sub(g.first) >= maxGather
	}
}

// wait is after which time they will be ripe, if nothing happens and they are not.
func (g *gathering) wait(now time.Time) time.Duration {
	at := g.first.Add(maxGather)
	if g.trial.patient {
		at = g.first.Add(maxPatience)
		if back := g.landed.Add(maxReturn); g.inFlight == 0 && back.Before(at) {
			at = back
		}
	}
	return at.Sub(now)
}

// take has the runs become an entry.
func (g *gathering) take(now time.Time) *entry {
	n := len(g.runs)
	e := &entry{runs: g.runs, records: g.records, begun: now, waited: time.Duration(n)*now.Sub(g.first) - g.after}
	g.inFlight += n
	g.runs, g.records, g.bytes, g.after, g.crowded = nil, 0, 0, 0, false
	return e
}

// land is told that an entry has its outcome, and whether that is that it was appended.
func (g *gathering) land(e *entry, appended bool, now time.Time) {
	if now.Sub(g.landed) >= maxReturn {
		g.away = 0 // they are not expected any more
	}
	n := len(e.runs)
	g.inFlight -= n
	g.away += n
	g.landed = now
	if appended {
		g.trial.land(e, n+g.inFlight+len(g.runs), now)
	}
}

const (
	// A trial has trialWindows, in which it is gone about in the one way and in the other in turns. In each
	// windowRuns runs land at least, and windowTrips times as much passes as an entry takes; before it
	// settleTrips entries, of which each begins when the one before has landed. When a window lasts longer than
	// maxWindow, or more than maxLulls times nothing lands for as long as trialLull, the trial says nothing.
	trialWindows = 8
	windowRuns   = 500
	windowTrips  = 8
	settleTrips  = 2
	maxWindow    = 5 * time.Second
	trialLull    = 100 * time.Millisecond
	maxLulls     = 2
	// trialPause is how many times as long as a trial it is until the next one; or movePause, if
	// trialLoad times more is under way by then, or less.
	trialPause = 20
	movePause  = 4
	trialLoad  = 4
	// trialLeast is how much must be under way for a trial: with one run at a time both ways are the same.
	trialLeast = 1.5
	// trialGain is how many times more must land in the patient way for it to be chosen, and trialKeep
	// for it to be kept: it is the one that makes callers wait.
	trialGain = 1.1
	trialKeep = 1.05
)

// trial finds out, again and again, whether it is better to be patient: whether more runs land then, and
// take no longer, on average. The former alone might be chance, if there was more to do in the one window
// than in the other; and if callers do not come back the sooner, they are to have their answers soon.
type trial struct {
	patient bool      // how it is gone about now
	chosen  bool      // and while no trial is on
	load    float64   // how many runs are under way, smoothed
	last    time.Time // when some landed
	busy    time.Time // when load was last more than trialLeast

	windows  int // that are left of the trial that is on; 0: none is
	start    time.Time
	from     time.Time // when the window began, or, while it settles, the last entry to be waited for
	settling int       // entries that are to land first
	window   tally
	lulls    int
	counted  [2][]tally // the eager windows, and the patient ones

	loadThen float64   // load when the last trial began
	next     time.Time // when there is to be another
	moved    time.Time // when there is, if load is another
}

// tally is of runs that have landed.
type tally struct {
	runs  int
	spent time.Duration // until they had
	took  time.Duration // by all of them, from when they came
}

// rate is how many land in a second.
func (t tally) rate() float64 { return float64(t.runs) / t.spent.Seconds() }

// mean is how many seconds each takes.
func (t tally) mean() float64 { return t.took.Seconds() / float64(t.runs) }

// land is told of an entry that has landed, and of how many runs were under way.
func (t *trial) land(e *entry, load int, now time.Time) {
	t.load += (float64(load) - t.load) / 8
	if t.load > trialLeast {
		t.busy = now
	}
	lull := now.Sub(t.last) > trialLull
	t.last = now
	moved := t.load > trialLoad*t.loadThen || t.loadThen > trialLoad*t.load
	switch {
	case t.windows > 0 && moved:
		t.end(false, now)
		t.next = t.moved
	case t.windows > 0 && (lull && t.lulls == maxLulls || now.Sub(t.from) > maxWindow):
		t.end(false, now)
	case t.windows > 0 && lull: // a disk that stalls, perhaps: the window is begun anew
		t.lulls++
		t.begin(now)
	case t.windows > 0:
		t.observe(e, now)
	case now.Sub(t.busy) > trialLull, moved:
		t.chosen, t.patient = false, false
	}
	if t.windows == 0 && t.busy.Equal(now) && (!now.Before(t.next) || moved && !now.Before(t.moved)) {
		t.lulls, t.start, t.windows, t.counted, t.loadThen = 0, now, trialWindows, [2][]tally{}, t.load
		t.turn(now)
	}
}

// observe is land while a trial is on.
func (t *trial) observe(e *entry, now time.Time) {
	if t.settling > 0 {
		if !e.begun.Before(t.from) {
			t.settling--
			t.from = now
		}
		return
	}
	n, took := len(e.runs), now.Sub(e.begun)
	w := &t.window
	w.runs, w.spent, w.took = w.runs+n, now.Sub(t.from), w.took+e.waited+time.Duration(n)*took
	if w.runs < windowRuns || w.spent < windowTrips*took {
		return
	}
	way := 0
	if t.patient {
		way = 1
	}
	t.counted[way] = append(t.counted[way], *w)
	if t.windows == 1 {
		t.end(t.patience(), now)
		return
	}
	t.windows--
	t.turn(now)
}

// turn begins a window of the other way.
func (t *trial) turn(now time.Time) {
	t.patient = !t.patient
	t.begin(now)
}

// begin begins the window, perhaps anew.
func (t *trial) begin(now time.Time) { t.from, t.settling, t.window = now, settleTrips, tally{} }

// patience says whether the patient way is the better one. It goes by medians, since there may be a
// hiccup in any window.
func (t *trial) patience() bool {
	gain := trialGain
	if t.chosen {
		gain = trialKeep
	}
	eager, patient := t.counted[0], t.counted[1]
	return median(patient, tally.rate) > gain*median(eager, tally.rate) && median(patient, tally.mean) <= median(eager, tally.mean)
}

// median is that of something of windows.
func median(windows []tally, of func(tally) float64) float64 {
	var all []float64
	for _, w := range windows {
		all = append(all, of(w))
	}
	slices.Sort(all)
	n := len(all)
	return (all[(n-1)/2] + all[n/2]) / 2
}

// end ends the trial with what is chosen.
func (t *trial) end(patient bool, now time.Time) {
	lasted := now.Sub(t.start)
	t.next, t.moved = now.Add(trialPause*lasted), now.Add(movePause*lasted)
	t.windows, t.chosen, t.patient = 0, patient, patient
}
