package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/spf13/cobra"

	"github.com/zue-log/zue/client"
)

// bench is the configuration of a benchmark.
type bench struct {
	Work     string        `json:"work"`
	Size     int           `json:"size_bytes"`
	Clients  int           `json:"clients"`
	Pipeline int           `json:"pipeline"`
	Rate     float64       `json:"rate_per_second"` // 0: closed loop
	Duration time.Duration `json:"-"`
}

func (a *app) benchCommand() *cobra.Command {
	var b bench
	cmd := &cobra.Command{
		Use:   "bench <host> <port>",
		Short: "Measure a server: operations a second, and how long each takes",
		Long: `bench has clients, of a connection each, do the same for a while, and prints how often they
could and how long each time took. The work is one of
  append   appends a record and waits for the answer; --pipeline of them at once a client.
           An operation is a record, and its time goes from asking to the answer
  produce  appends records by a producer, which makes batches of them; --pipeline is
           how many batches may be under way. An operation is a record, and its time goes from
           when it is given to the producer to the answer to its batch: waiting for room in
           the producer, and for the batch to be full or sent, counts
  read     reads records at random offsets; --pipeline of them at once a client. Operation
           and time are as those of append

Without --rate the loop is closed: each next one begins when the one before has ended. With
it, it is open: so many a second are to begin, of all clients together, and times count
from when each should have, so that a stall shows in all that it held up.

append and produce append to the log that the server has, and that is not removed. A server
with a data directory of its own is best for it. In a cluster they measure the node that leads,
and read the one that is named.`,
		Example: `  zue-client bench 127.0.0.1 9000
  zue-client bench 127.0.0.1 9000 --work produce --clients 1 --size 1024
  zue-client bench 127.0.0.1 9000 --rate 20000 --json`,
		Args: wantArgs("host", "port"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := a.parseServer(cmd, args[0], args[1])
			if err != nil {
				return err
			}
			if err := b.validate(); err != nil {
				return &usageError{err.Error(), cmd}
			}
			return a.bench(cmd.Context(), s, b)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&b.Work, "work", "append", "append, produce or read")
	flags.IntVar(&b.Size, "size", 100, "bytes of a record's value")
	flags.IntVar(&b.Clients, "clients", 64, "connections")
	flags.IntVar(&b.Pipeline, "pipeline", 1, "how many at once on each connection")
	flags.Float64Var(&b.Rate, "rate", 0, "how many a second are to begin; 0: as many as can")
	flags.DurationVar(&b.Duration, "duration", 5*time.Second, "how long")
	return cmd
}

func (b *bench) validate() error {
	var errs []error
	if b.Work != "append" && b.Work != "produce" && b.Work != "read" {
		errs = append(errs, fmt.Errorf("work %q: want append, produce or read", b.Work))
	}
	if b.Size < 0 || b.Size > maxBatchBytes || b.Clients < 1 || b.Pipeline < 1 || b.Rate < 0 || b.Duration <= 0 {
		errs = append(errs, fmt.Errorf("want --size 0 to %d, --clients and --pipeline 1 or more, --rate 0 or more, --duration more than 0", maxBatchBytes))
	}
	return errors.Join(errs...)
}

// meter keeps the times of one worker.
type meter struct {
	times  *hdrhistogram.Histogram // in ns
	failed uint64
	err    error // the first
}

func newMeter() *meter { return &meter{times: hdrhistogram.New(1000, int64(10*time.Minute), 3)} }

// add counts an operation that began at a time.
func (m *meter) add(began time.Time, err error) {
	if err != nil {
		if m.failed++; m.err == nil {
			m.err = err
		}
		return
	}
	_ = m.times.RecordValue(int64(min(max(time.Since(began), 1000), 10*time.Minute))) // within its range
}

// pacer gives a worker its beginnings.
type pacer struct {
	next  time.Time
	step  time.Duration // 0: at once
	until time.Time
}

// wait returns when the next operation begins, or should have; false when time is up.
func (p *pacer) wait(ctx context.Context) (time.Time, bool) {
	now := time.Now()
	if p.step == 0 {
		return now, now.Before(p.until) && ctx.Err() == nil
	}
	at := p.next
	p.next = at.Add(p.step)
	if d := at.Sub(now); d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	return at, at.Before(p.until) && ctx.Err() == nil
}

// bench runs a benchmark and prints its result.
func (a *app) bench(ctx context.Context, s server, b bench) error {
	clients := make([]*client.Client, b.Clients)
	dial := a.dialLeader
	if b.Work == "read" {
		dial = a.dial
	}
	for i := range clients {
		c, err := dial(ctx, s, client.Options{NoRetry: true})
		if err != nil {
			return err
		}
		defer c.Close()
		clients[i] = c
	}
	asking, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	end, err := clients[0].Barrier(asking)
	if err == nil && b.Work == "read" && end == 0 {
		err = errors.New("there is nothing to read: the log is empty")
	}
	if err != nil {
		return err
	}
	workers := b.Clients
	if b.Work != "produce" {
		workers *= b.Pipeline
	}
	meters := make([]*meter, workers)
	began := time.Now()
	var wg sync.WaitGroup
	for i := range meters {
		meters[i] = newMeter()
		p := pacer{until: began.Add(b.Duration)}
		if b.Rate > 0 {
			p.step = time.Duration(float64(time.Second) * float64(workers) / b.Rate)
			p.next = began.Add(p.step * time.Duration(i) / time.Duration(workers))
		}
		wg.Go(func() { a.work(ctx, clients[i%b.Clients], b, p, end, meters[i]) })
	}
	wg.Wait()
	took := time.Since(began)
	all := newMeter()
	for _, m := range meters {
		all.times.Merge(m.times)
		if all.failed += m.failed; all.err == nil {
			all.err = m.err
		}
	}
	if _, err := a.stdout.Write(a.benchText(b, all, took)); err != nil {
		return fmt.Errorf("print the result: %w", outputError(err))
	}
	if all.err != nil {
		return fmt.Errorf("%d operations failed, the first by: %w", all.failed, all.err)
	}
	return ctx.Err()
}

// work is one worker.
func (a *app) work(ctx context.Context, c *client.Client, b bench, p pacer, end uint64, m *meter) {
	value := make([]byte, b.Size)
	if b.Work == "produce" {
		a.produce(ctx, c, b, p, value, m)
		return
	}
	for began, more := p.wait(ctx); more && m.err == nil; began, more = p.wait(ctx) {
		op, cancel := context.WithTimeout(ctx, a.timeout)
		var err error
		if b.Work == "read" {
			_, err = c.Read(op, rand.Uint64N(end))
		} else {
			_, err = c.Append(op, nil, value)
		}
		cancel()
		m.add(began, err)
	}
}

// produce is one worker with a producer, whose functions alone use the meter.
func (a *app) produce(ctx context.Context, c *client.Client, b bench, p pacer, value []byte, m *meter) {
	producer, err := c.Producer(client.ProducerOptions{MaxInFlight: b.Pipeline, StopOnError: true, Timeout: a.timeout})
	if err != nil {
		m.add(time.Time{}, err)
		return
	}
	for began, more := p.wait(ctx); more; began, more = p.wait(ctx) {
		if err = producer.Send(ctx, client.Record{Value: value}, func(_ uint64, err error) { m.add(began, err) }); err != nil {
			break
		}
	}
	_ = producer.Close() // never fails
	if err != nil {
		m.add(time.Time{}, err)
	}
}

// benchQuantiles are the percentiles that are printed.
var benchQuantiles = []float64{50, 90, 99, 99.9, 99.99}

func (a *app) benchText(b bench, m *meter, took time.Duration) []byte {
	n := m.times.TotalCount()
	rate := float64(n) / took.Seconds()
	if a.json {
		micros := map[string]float64{"mean": m.times.Mean() / 1e3, "max": float64(m.times.Max()) / 1e3}
		for _, q := range benchQuantiles {
			micros[fmt.Sprintf("p%v", q)] = float64(m.times.ValueAtQuantile(q)) / 1e3
		}
		out, _ := json.Marshal(struct { // of numbers and strings, it cannot fail
			bench
			Seconds    float64            `json:"seconds"`
			Operations int64              `json:"operations"`
			Failed     uint64             `json:"failed"`
			PerSecond  float64            `json:"per_second"`
			Bytes      float64            `json:"bytes_per_second"`
			Micros     map[string]float64 `json:"latency_us"`
		}{b, took.Seconds(), n, m.failed, rate, rate * float64(b.Size), micros})
		return append(out, '\n')
	}
	var out bytes.Buffer
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	loop := "closed loop"
	if b.Rate > 0 {
		loop = fmt.Sprintf("open loop, %.0f a second wanted", b.Rate)
	}
	fmt.Fprintf(w, "work\t%s, %d bytes, %d clients, pipeline %d, %s\n", b.Work, b.Size, b.Clients, b.Pipeline, loop)
	fmt.Fprintf(w, "operations\t%d in %v, %d failed\n", n, took.Round(time.Millisecond), m.failed)
	fmt.Fprintf(w, "rate\t%.0f a second, %.1f MB/s\n", rate, rate*float64(b.Size)/1e6)
	for _, q := range benchQuantiles {
		fmt.Fprintf(w, "p%v\t%v\n", q, time.Duration(m.times.ValueAtQuantile(q)).Round(time.Microsecond))
	}
	fmt.Fprintf(w, "max\t%v\n", time.Duration(m.times.Max()).Round(time.Microsecond))
	_ = w.Flush() // into memory
	return out.Bytes()
}
