package replication

import (
	"cmp"
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zue-log/zue/replication/core"
	"github.com/zue-log/zue/storage"
	"github.com/zue-log/zue/storage/vfs"
)

// bench is callers who append to a model of a cluster, in simulated time.
type bench struct {
	t      *testing.T
	g      gathering
	now    time.Time
	events []event // the next one is the last

	serial time.Duration        // of an entry: what no other may share, as a sync or the CPU's time
	flight time.Duration        // of an entry: what others may, as the way through the network
	back   func() time.Duration // negative: never
	timer  int                  // which one is set
	always bool                 // eagerly: there are no trials
	free   time.Time            // when the next entry's serial part may begin
	landed int                  // runs
	taken  time.Duration        // by all of them
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
	require.True(b.t, b.g.add(run{records: make([]storage.Record, 1)}, 100, b.now))
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
		if wait <= 0 || wait > maxPatience {
			b.t.Fatalf("not ripe, wait %v", wait)
		}
		b.timer++
		timer := b.timer
		b.after(wait, func() {
			if timer == b.timer {
				b.see()
			}
		})
		return
	}
	e := g.take(b.now)
	if b.free.Before(b.now) {
		b.free = b.now
	}
	b.free = b.free.Add(b.serial)
	b.after(b.free.Sub(b.now)+b.flight, func() {
		b.landed += len(e.runs)
		b.taken += e.waited + time.Duration(len(e.runs))*b.now.Sub(e.begun)
		g.land(e, !b.always, b.now)
		for range e.runs {
			if d := b.back(); d >= 0 {
				b.after(d, b.call)
			}
		}
		b.see()
	})
}

// run lets time pass, and returns how many runs landed in a second, and how long they took.
func (b *bench) run(d time.Duration) (rate float64, took time.Duration) {
	end := b.now.Add(d)
	b.landed, b.taken = 0, 0
	for n := len(b.events) - 1; n >= 0 && b.events[n].at.Before(end); n = len(b.events) - 1 {
		e := b.events[n]
		b.events = b.events[:n]
		b.now = e.at
		e.do()
	}
	b.now = end
	return float64(b.landed) / d.Seconds(), b.taken / time.Duration(max(b.landed, 1))
}

// try has n trials, one right behind the other, and returns how often which way was found to be
// the better one.
func (b *bench) try(n int) (eager, patient int) {
	for range n {
		b.rest()
		b.g.trial.next = b.now
		for began, last := b.now, b.g.trial.start; b.g.trial.start.Equal(last); b.run(5 * time.Millisecond) {
			require.Less(b.t, b.now.Sub(began), time.Minute)
		}
		b.rest()
		if b.g.trial.chosen {
			patient++
		} else {
			eager++
		}
		b.choose(false)
	}
	return eager, patient
}

// choose ends a trial, if one is on, with what is chosen.
func (b *bench) choose(patient bool) {
	tr := &b.g.trial
	tr.windows, tr.chosen, tr.patient = 0, patient, patient
}

// rest lets time pass until no trial is on.
func (b *bench) rest() {
	for began := b.now; b.g.trial.windows > 0; b.run(5 * time.Millisecond) {
		require.Less(b.t, b.now.Sub(began), time.Minute)
	}
}

// share is the part of the time in the patient way.
func (b *bench) share(d time.Duration) float64 {
	n, patient := 0, 0
	for end := b.now.Add(d); b.now.Before(end); b.run(2 * time.Millisecond) {
		n++
		if b.g.trial.patient {
			patient++
		}
	}
	return float64(patient) / float64(n)
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
		{"very many callers who think", 2000, 10 * us, 200 * us, thinking(rng, 20*time.Millisecond), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := &bench{t: t, serial: c.serial, flight: c.flight, back: c.back}
			b.begin(c.callers)
			b.run(100 * time.Millisecond)
			eager, patient := b.try(10)
			require.Equal(t, c.patient, patient > eager)
			require.Equal(t, 10, max(eager, patient), "chance decides nothing")
			b.try(1)
			b.choose(c.patient)
			rate, took := b.run(500 * time.Millisecond)
			b.always = true // there are no trials
			b.choose(false)
			b.run(100 * time.Millisecond)
			rateThen, tookThen := b.run(500 * time.Millisecond)
			t.Logf("%.0f/s in %v; always eagerly %.0f/s in %v", rate, took, rateThen, tookThen)
			if c.patient {
				require.Greater(t, rate, trialKeep*rateThen)
				require.Less(t, took, tookThen)
			} else {
				require.Greater(t, rate, 0.97*rateThen)
				require.Less(t, took, tookThen*21/20)
			}
		})
	}
}

// That there is now more to do and now less is no reason to be patient.
func TestLoadThatVaries(t *testing.T) {
	const us = time.Microsecond
	t.Run("swings", func(t *testing.T) {
		for _, c := range []struct {
			goOn   int
			period time.Duration
		}{{0, 100 * time.Millisecond}, {0, 200 * time.Millisecond}, {1, 400 * time.Millisecond}, {4, 200 * time.Millisecond}, {4, time.Second}} {
			rng := rand.New(rand.NewPCG(1, 2))
			b := &bench{t: t, serial: 10 * us, flight: time.Millisecond}
			start, parked := b.now, 0
			var until time.Time
			b.back = func() time.Duration {
				phase := b.now.Sub(start) % c.period
				if phase < c.period/2 { // all think
					return thinking(rng, time.Millisecond)()
				}
				if b.now.After(until) {
					parked, until = 0, b.now.Add(c.period-phase)
				}
				if parked++; parked > 64-c.goOn {
					return 10 * us
				}
				return c.period - phase + thinking(rng, time.Millisecond)()
			}
			b.begin(64)
			b.run(time.Second)
			patient, rounds := 0.0, int(20*time.Second/c.period)
			for range rounds {
				patient += b.share(c.period/2) / float64(rounds)
				b.run(c.period / 2)
			}
			t.Logf("%+v: patient %.3f of the busy time", c, patient)
			require.Less(t, patient, 0.2, c)
		}
	})
	t.Run("a long stall", func(t *testing.T) {
		for _, stall := range []time.Duration{600 * time.Millisecond, 10 * time.Second} {
			rng := rand.New(rand.NewPCG(3, 4))
			b := &bench{t: t, serial: 10 * us, flight: time.Millisecond, back: thinking(rng, time.Millisecond)}
			b.begin(64)
			b.run(10 * time.Second)
			b.rest()
			b.g.trial.next = b.now.Add(stall / 2)
			b.free = b.now.Add(stall)
			b.run(stall + 20*time.Millisecond)
			require.Less(t, b.share(time.Second), 0.3)
			b.run(2 * time.Second)
			require.Zero(t, b.g.trial.windows)
			require.False(t, b.g.trial.patient)
		}
	})
	t.Run("two who pause", func(t *testing.T) {
		rng := rand.New(rand.NewPCG(3, 4))
		b := &bench{t: t, serial: 300 * us, flight: 10 * us}
		b.back = func() time.Duration {
			if rng.IntN(1000) == 0 {
				return 10 * time.Millisecond
			}
			return 10 * us
		}
		b.begin(2)
		b.run(5 * time.Second)
		require.Greater(t, b.share(20*time.Second), 0.8)
	})
	t.Run("bursts that do not wait for answers", func(t *testing.T) {
		for _, burst := range []int{1, 5, 20} {
			rng := rand.New(rand.NewPCG(3, 4))
			b := &bench{t: t, serial: 20 * us, flight: 2 * time.Millisecond, back: func() time.Duration { return -1 }}
			var arrive func()
			arrive = func() {
				for range burst {
					b.after(fixed(rng, 200*us)(), b.call)
				}
				b.after(thinking(rng, time.Duration(burst)*500*us)(), arrive)
			}
			arrive()
			_, patient := b.try(40)
			require.LessOrEqual(t, patient, 1, burst)
		}
	})
	t.Run("a disk that stalls", func(t *testing.T) {
		rng := rand.New(rand.NewPCG(3, 4))
		b := &bench{t: t, serial: 10 * us, flight: 500 * us, back: thinking(rng, time.Millisecond)}
		b.begin(64)
		var stall func()
		stall = func() {
			b.free = b.now.Add(20 * time.Millisecond)
			b.after(thinking(rng, 150*time.Millisecond)(), stall)
		}
		stall()
		_, patient := b.try(40)
		require.LessOrEqual(t, patient, 4)
	})
	t.Run("a few now and then", func(t *testing.T) {
		for _, n := range []int{2, 10} {
			b := &bench{t: t, serial: 2 * time.Millisecond, flight: time.Millisecond}
			b.back = func() time.Duration { return 90*time.Millisecond - b.now.Sub(time.Time{})%(90*time.Millisecond) }
			b.begin(n)
			require.Less(t, b.share(5*time.Minute), 0.08, n)
		}
	})
}

// What was found does not count for ever, nor when much more is under way than then, or hardly anything.
func TestTheWayChanges(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	b := &bench{t: t, serial: 20 * time.Microsecond, flight: 500 * time.Microsecond, back: thinking(rng, time.Millisecond)}
	b.begin(3)
	b.run(20 * time.Second)
	require.NotEmpty(t, b.g.trial.counted[1], "both were tried")
	require.False(t, b.g.trial.chosen)
	require.Zero(t, b.g.trial.windows)
	require.Greater(t, b.g.trial.next.Sub(b.now), time.Second)

	b.serial, b.back = 500*time.Microsecond, fixed(rng, 20*time.Microsecond)
	b.begin(61)
	later := b.g.trial.next
	b.run(100 * time.Millisecond)
	b.rest()
	require.True(t, b.now.Before(later))
	require.True(t, b.g.trial.chosen, "there are many more, so it is tried again at once")

	b.serial, b.back = 20*time.Microsecond, thinking(rng, time.Millisecond)
	b.run(b.g.trial.next.Sub(b.now))
	require.True(t, b.g.trial.chosen)
	b.run(100 * time.Millisecond)
	b.rest()
	require.False(t, b.g.trial.chosen, "it is tried again after a while")

	b.back = func() time.Duration { return -1 }
	b.run(time.Second)
	b.choose(true)
	b.back = thinking(rng, 300*time.Millisecond)
	b.begin(1)
	b.run(5 * time.Second)
	require.False(t, b.g.trial.chosen, "there is nobody to wait for")
}

// A trial in which nothing came for a while, or little, says nothing; nor are appends counted that have
// failed.
func TestTrialThatSaysNothing(t *testing.T) {
	var g gathering
	tr := &g.trial
	now := time.Unix(1, 0)
	land := func(d time.Duration, n int, appended bool) {
		now = now.Add(d)
		g.inFlight += n
		g.land(&entry{runs: make([]run, n), begun: now.Add(-time.Millisecond)}, appended, now)
	}
	ended := func() {
		require.Zero(t, tr.windows)
		require.False(t, tr.chosen)
		require.False(t, tr.patient)
		require.True(t, tr.next.After(now))
	}
	for range 100 {
		land(time.Millisecond, 60, false)
	}
	require.Zero(t, tr.windows)
	for tr.windows != 2 {
		land(time.Millisecond, 60, true)
	}
	tr.chosen = true
	land(trialLull, 60, true)
	for range maxLulls {
		require.Equal(t, 2, tr.windows)
		require.Zero(t, tr.lulls*tr.window.runs, "it was begun anew")
		land(trialLull+1, 60, true)
	}
	require.Equal(t, 2, tr.windows)
	land(trialLull+1, 60, true)
	ended()

	now, tr.load = tr.next, 4
	for range 3 + maxWindow/trialLull { // the first ones do not count
		land(trialLull, 4, true)
		require.NotZero(t, tr.windows)
	}
	land(trialLull, 4, true)
	ended()
}

// A choice is kept for less than it takes to be made; more must land, and take no longer.
func TestPatience(t *testing.T) {
	for _, c := range []struct {
		rate, mean      float64 // patient to eager
		chosen, patient bool
	}{
		{1.11, 1, false, true},
		{1.11, 1.01, false, false},
		{1.11, 1.01, true, false},
		{1.09, 0.5, false, false},
		{1.09, 0.5, true, true},
		{1.04, 0.5, true, false},
	} {
		const runs = 1_000_000
		tr := trial{chosen: c.chosen}
		hiccup := tally{1, time.Hour, time.Hour}
		tr.counted[0] = slices.Repeat([]tally{{runs, time.Second, runs * time.Millisecond}}, 4)
		tr.counted[1] = slices.Repeat([]tally{{runs, time.Duration(float64(time.Second) / c.rate), time.Duration(runs * c.mean * float64(time.Millisecond))}}, 3)
		tr.counted[1] = append(tr.counted[1], hiccup)
		require.Equal(t, c.patient, tr.patience(), c)
	}
}

// A choice does not outlive the load that it was made for, be it more now or less.
func TestChoiceForAnotherLoad(t *testing.T) {
	for _, load := range []int{3, 300} {
		tr := trial{load: 40, loadThen: 40, chosen: true, patient: true, next: time.Unix(1000, 0), moved: time.Unix(500, 0)}
		now := time.Unix(100, 0)
		tr.last, tr.busy = now, now
		for tr.chosen {
			now = now.Add(time.Millisecond)
			require.True(t, now.Before(time.Unix(101, 0)))
			tr.land(&entry{begun: now}, load, now)
		}
		require.False(t, tr.patient)
		require.Zero(t, tr.windows, "too soon")
		now = tr.moved
		tr.land(&entry{begun: now}, load, now)
		require.NotZero(t, tr.windows)
	}
}

// What could not be appended says nothing.
func TestNoTrialOfRefused(t *testing.T) {
	n := &Node{gatherBy: time.NewTimer(time.Hour)}
	n.gathering.trial.load = 64
	e := &entry{runs: []run{{done: func(uint64, *core.Append) {}}}}
	n.landed(e, &core.Append{Err: core.ErrNotLeader})
	require.Zero(t, n.gathering.trial.windows)
	n.landed(e, &core.Append{})
	require.NotZero(t, n.gathering.trial.windows)
}

// There is an end to waiting when nobody else has room.
func TestCrowded(t *testing.T) {
	now := time.Unix(1e6, 0)
	for _, patient := range []bool{false, true} {
		g := gathering{inFlight: 1000, away: 65, landed: now}
		g.trial.patient = patient
		big := run{records: make([]storage.Record, 1)}
		for range 64 {
			require.True(t, g.add(big, maxRunBytes/64, now))
		}
		require.False(t, g.ripe(now))
		require.False(t, g.add(big, 1, now))
		require.Zero(t, g.away, "he is back all the same")
		require.True(t, g.ripe(now))
		e := g.take(now.Add(time.Millisecond))
		require.Len(t, e.runs, 64)
		require.Equal(t, 64*time.Millisecond, e.waited)
		require.True(t, g.add(big, maxRunBytes+1, now), "alone there is room")
		require.False(t, g.ripe(now))
		require.False(t, g.add(run{records: make([]storage.Record, maxRunRecords)}, 1, now))
	}
	var g gathering
	require.True(t, g.add(run{}, 1, now))
	require.True(t, g.add(run{}, 1, now.Add(time.Second)))
	require.Equal(t, 3*time.Second, g.take(now.Add(2*time.Second)).waited)
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
		g := gathering{runs: make([]run, c.runs), inFlight: c.flying, away: c.away, first: now.Add(-c.first), landed: now.Add(-c.landed)}
		g.trial.patient = c.patient
		require.Equal(t, c.wait < 0, g.ripe(now), c)
		if c.wait > 0 {
			require.Equal(t, c.wait, g.wait(now), c)
			require.False(t, g.ripe(now.Add(c.wait-1)), c)
			require.True(t, g.ripe(now.Add(c.wait)), c)
		}
	}
}

// Whatever happens, and however it is gone about, runs that are ripe are seen to at once; and those that wait
// when the node stops are answered.
func TestRipeRunsAreSeenTo(t *testing.T) {
	for seed := range uint64(2) {
		synctest.Test(t, func(t *testing.T) { ripeRunsAreSeenTo(t, rand.New(rand.NewPCG(seed, 1))) })
	}
}

func ripeRunsAreSeenTo(t *testing.T, rng *rand.Rand) {
	mem := vfs.NewMem()
	n := startAloneOn(t, mem, 100*time.Millisecond)
	var slow atomic.Int64
	mem.Inject(func(op vfs.Op, _ string) error {
		if op == vfs.OpSync {
			<-time.After(time.Duration(slow.Load()) + 30*time.Microsecond)
		}
		return nil
	})
	var under atomic.Int64 // way
	var callers sync.WaitGroup
	for i := range 12 {
		think := rand.New(rand.NewPCG(rng.Uint64(), 1))
		callers.Go(func() {
			answer := make(chan error, 1)
			for {
				<-time.After(time.Duration(think.Int64N(int64(3 * time.Millisecond))))
				under.Add(1)
				if i < 2 {
					if n.AppendAsync(context.Background(), newAppend([]byte("x")), func(a *core.Append) { answer <- a.Err }) != nil {
						break
					}
				} else if !n.AppendRecords([]storage.Record{{Value: []byte("v")}}, func(_ uint64, a *core.Append) { answer <- a.Err }) {
					break
				}
				err := <-answer
				under.Add(-1)
				if err != nil {
					return
				}
			}
			under.Add(-1)
		})
	}
	patient := 0
	for range 700 {
		<-time.After(100 * time.Microsecond)
		synctest.Wait()
		n.mu.Lock()
		g := &n.gathering
		if g.trial.patient {
			patient++
		}
		unseen := g.ripe(time.Now().Add(-1))
		g.trial.next = time.Time{} // there are trials all the time, with short windows
		if g.trial.windows > 0 && rng.IntN(20) == 0 {
			g.trial.window.runs = windowRuns
		}
		n.mu.Unlock()
		require.False(t, unseen)
		if rng.IntN(50) == 0 {
			slow.Store(rng.Int64N(2) * rng.Int64N(int64(20*time.Millisecond)))
		}
	}
	require.Greater(t, patient, 50)
	require.Less(t, patient, 650)
	n.Stop()
	callers.Wait()
	require.Zero(t, under.Load())
	require.Zero(t, n.flying.Load())
	require.Zero(t, n.gathering.inFlight)
	require.Empty(t, n.gathering.runs)
}
