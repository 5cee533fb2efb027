package replication

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zue-log/zue/replication/core"
	"github.com/zue-log/zue/storage"
)

// bench is callers who append to a model of a cluster, in simulated time.
type bench struct {
	t      *testing.T
	g      gathering
	now    time.Time
	events []event // the next one is the last

	serial  time.Duration // of an entry: what no other may share, as a sync or the CPU's time
	flight  time.Duration // of an entry: what others may, as the way through the network
	back    func() time.Duration
	timer   int       // which one is set
	always  bool      // eagerly: there are no trials
	free    time.Time // when the next entry's serial part may begin
	entries int
	landed  int           // runs
	taken   time.Duration // by all of them
}

type event struct {
	at time.Time
	do func()
}

func (b *bench) after(d time.Duration, do func()) {
	e := event{b.now.Add(d), do}
	i, _ := slices.BinarySearchFunc(b.events, e, func(x, y event) int { return cmp.Or(y.at.Compare(x.at), -1) })
	b.events = slices.Insert(b.events, i, e)
}

// begin has n callers begin, who come back again and again.
func (b *bench) begin(n int) {
	for range n {
		b.after(b.back(), b.call)
	}
}

func (b *bench) call() {
	b.g.add(run{records: make([]storage.Record, 1)}, 100, b.now)
	b.see()
}

// see has the runs become an entry, if they are ripe, as a node does; or makes sure that it is seen to
// when they are.
func (b *bench) see() {
	g := &b.g
	if len(g.runs) == 0 {
		return
	}
	if !g.ripe(b.now) {
		wait := g.wait(b.now)
		require.Positive(b.t, wait)
		require.LessOrEqual(b.t, wait, maxPatience)
		b.timer++
		timer := b.timer
		b.after(wait, func() {
			if timer == b.timer {
				b.see()
			}
		})
		return
	}
	first, begun := g.first, b.now
	runs, records := g.take()
	require.Len(b.t, runs, records)
	b.entries++
	if b.free.Before(b.now) {
		b.free = b.now
	}
	b.free = b.free.Add(b.serial)
	b.after(b.free.Sub(b.now)+b.flight, func() {
		b.landed += len(runs)
		b.taken += time.Duration(len(runs)) * b.now.Sub(first)
		g.land(len(runs), b.now)
		if !b.always {
			g.trial.land(len(runs), len(runs)+g.flying+len(g.runs), b.now.Sub(begun), b.now)
		}
		require.GreaterOrEqual(b.t, g.flying, 0)
		for range runs {
			b.after(b.back(), b.call)
		}
		b.see()
	})
}

// run lets time pass, and returns how many runs landed in a second, and how long they took.
func (b *bench) run(d time.Duration) (rate float64, took time.Duration) {
	end := b.now.Add(d)
	b.landed, b.taken, b.entries = 0, 0, 0
	for n := len(b.events) - 1; n >= 0 && b.events[n].at.Before(end); n = len(b.events) - 1 {
		e := b.events[n]
		b.events = b.events[:n]
		b.now = e.at
		e.do()
	}
	b.now = end
	return float64(b.landed) / d.Seconds(), b.taken / time.Duration(max(b.landed, 1))
}

// fixed is the time to come back of those who always take as long, but for a fifth.
func fixed(rng *rand.Rand, d time.Duration) func() time.Duration {
	return func() time.Duration { return d + time.Duration(rng.Int64N(int64(d)/5+1)) }
}

// thinking is that of those who come back after a time that nobody knows beforehand.
func thinking(rng *rand.Rand, mean time.Duration) func() time.Duration {
	return func() time.Duration { return time.Duration(rng.ExpFloat64() * float64(mean)) }
}

// Where entries are what takes long, and callers come back at once, they go round together; where
// that would make them wait for nothing, they do not. What is lost by trials is little.
func TestTheFasterWayIsFound(t *testing.T) {
	const us = time.Microsecond
	rng := rand.New(rand.NewPCG(1, 2))
	for _, c := range []struct {
		name           string
		callers        int
		serial, flight time.Duration
		back           func() time.Duration
		patient        bool
	}{
		{"a disk that is slow to sync", 64, 5 * time.Millisecond, 100 * us, fixed(rng, 100*us), true},
		{"a few at a disk", 4, time.Millisecond, 100 * us, fixed(rng, 50*us), true},
		{"a CPU that has little time for each entry", 64, 300 * us, 300 * us, fixed(rng, 200*us), true},
		{"a network that takes long", 64, 10 * us, time.Millisecond, fixed(rng, time.Millisecond), false},
		{"callers who think, as long as it takes", 64, 10 * us, 500 * us, thinking(rng, 500*us), false},
		{"callers who think longer", 64, 50 * us, 500 * us, thinking(rng, 5*time.Millisecond), false},
		{"one caller", 1, 100 * us, 100 * us, fixed(rng, 10*us), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := &bench{t: t, serial: c.serial, flight: c.flight, back: c.back}
			b.begin(c.callers)
			eager := &bench{t: t, serial: c.serial, flight: c.flight, back: c.back, always: true}
			eager.begin(c.callers)
			for range 5 { // it is found each time
				b.g.trial.next = b.now
				b.run(100 * time.Millisecond)
				for b.g.trial.windows > 0 {
					b.run(100 * time.Millisecond)
				}
				require.Equal(t, c.patient, b.g.trial.chosen)
			}
			rate, took := b.run(2 * time.Second)
			rateThen, tookThen := eager.run(2 * time.Second)
			t.Logf("%.0f/s in %v; always eagerly %.0f/s in %v", rate, took, rateThen, tookThen)
			if c.patient {
				require.Greater(t, rate, trialKeep*rateThen)
			} else {
				require.Greater(t, rate, 0.97*rateThen)
				require.Less(t, took, tookThen*21/20)
			}
		})
	}
}

// What was found does not count for ever, nor when much more is under way than then.
func TestTheWayChanges(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	b := &bench{t: t, serial: 20 * time.Microsecond, flight: 500 * time.Microsecond, back: thinking(rng, time.Millisecond)}
	b.begin(2)
	b.run(5 * time.Second)
	require.Positive(t, b.g.trial.counted[1].runs, "both were tried")
	require.False(t, b.g.trial.chosen)
	require.Zero(t, b.g.trial.windows)
	require.Greater(t, b.g.trial.next.Sub(b.now), time.Second)

	b.serial, b.back = 500*time.Microsecond, fixed(rng, 20*time.Microsecond)
	b.begin(62)
	later := b.g.trial.next
	for b.run(time.Second); b.g.trial.windows > 0; {
		b.run(time.Second)
	}
	require.True(t, b.now.Before(later))
	require.True(t, b.g.trial.chosen, "there are many more, so it is tried again at once")

	b.serial, b.back = 20*time.Microsecond, thinking(rng, time.Millisecond)
	b.run(b.g.trial.next.Sub(b.now))
	require.True(t, b.g.trial.chosen)
	for b.run(time.Second); b.g.trial.windows > 0; {
		b.run(time.Second)
	}
	require.False(t, b.g.trial.chosen, "it is tried again after a while")
}

// A trial in which nothing came for a while says nothing; nor are appends counted that have failed.
func TestTrialThatSaysNothing(t *testing.T) {
	var tr trial
	now := time.Unix(1, 0)
	land := func(d time.Duration) {
		now = now.Add(d)
		tr.land(60, 64, time.Millisecond, now)
	}
	for tr.windows != 2 {
		land(time.Millisecond)
	}
	tr.chosen = true
	land(trialLull)
	require.Equal(t, 2, tr.windows)
	land(trialLull + 1)
	require.Zero(t, tr.windows)
	require.True(t, tr.chosen, "as it was")
	require.True(t, tr.patient, "as chosen")
	require.False(t, tr.due(now))
	require.True(t, tr.due(tr.next))

	n := &Node{gatherBy: time.NewTimer(time.Hour)}
	n.gathering.trial.load = 64
	runs := []run{{done: func(uint64, *core.Append) {}}}
	n.landed(runs, now, &core.Append{Err: core.ErrNotLeader})
	require.Zero(t, n.gathering.trial.windows)
	n.landed(runs, now, &core.Append{})
	require.NotZero(t, n.gathering.trial.windows)
}

func TestRipe(t *testing.T) {
	const ago, long = maxReturn / 2, time.Hour
	for _, c := range []struct {
		patient            bool
		runs, flying, away int
		first, landed      time.Duration // ago
		wait               time.Duration // negative: they are ripe
	}{
		{runs: 0, first: long, wait: 0},
		{runs: 0, flying: 9, first: long, wait: 0},
		{runs: 1, wait: -1},
		{runs: 1, flying: 2, wait: -1},
		{runs: 1, flying: 3, wait: maxGather},
		{runs: 1, flying: 3, first: ago, wait: maxGather - ago},
		{runs: 21, flying: 43, wait: maxGather},
		{runs: 22, flying: 42, away: 99, wait: -1},
		{runs: 1, flying: 1000, first: maxGather, wait: -1},

		{patient: true, runs: 0, first: long, wait: 0},
		{patient: true, runs: 1, landed: long, wait: -1},
		{patient: true, runs: 1, landed: ago, wait: -1},
		{patient: true, runs: 1, flying: 1, landed: long, wait: maxPatience},
		{patient: true, runs: 1000, flying: 1, first: ago, landed: ago, wait: maxPatience - ago},
		{patient: true, runs: 1000, flying: 1, first: maxPatience, wait: -1},
		{patient: true, runs: 1000, away: 1, landed: ago, wait: maxReturn - ago},
		{patient: true, runs: 1000, away: 1, landed: 0, first: maxPatience - ago, wait: ago},
		{patient: true, runs: 1, away: 1000, landed: maxReturn, wait: -1},
	} {
		now := time.Unix(1e6, 0)
		g := gathering{runs: make([]run, c.runs), flying: c.flying, away: c.away, first: now.Add(-c.first), landed: now.Add(-c.landed)}
		g.trial.patient = c.patient
		require.Equal(t, c.wait < 0, g.ripe(now), c)
		if c.wait > 0 {
			require.Equal(t, c.wait, g.wait(now), c)
			require.False(t, g.ripe(now.Add(c.wait-1)), c)
			require.True(t, g.ripe(now.Add(c.wait)), c)
		}
	}
}
