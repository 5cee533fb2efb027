// Command sim runs simulated clusters, one for each seed, and looks for what must not be.
//
//	sim --seeds 20000            on all cores, with a line of progress
//	sim --seed 4711 --verbose    one seed again, with a line for each event
//
// A seed that has found something is printed with what, and the exit status is 1. 2 is for
// wrong usage.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"reflect"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/zue-log/zue/replication/sim"
)

// Exit statuses.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// errFound is the result of a run that has found something, which it has printed.
var errFound = errors.New("violations were found")

// options are those of the command line.
type options struct {
	seeds, seed uint64
	nodes       int
	duration    time.Duration
	verbose     bool
	workers     int
	worker      bool // this process is one: its results go to stdout as JSON
	every       uint64
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var o options
	cmd := &cobra.Command{
		Use:           "sim",
		Short:         "Run simulated clusters and look for what must not be",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.seeds == 0 {
				o.seeds = 1
				if !cmd.Flags().Changed("seed") {
					o.seeds = 1000
				}
			}
			if o.nodes < 0 || o.nodes > 7 || o.workers < 1 || o.every < 1 || o.duration <= 0 {
				return usageError{errors.New("want --nodes 1 to 7, --workers 1 or more, --duration more than 0")}
			}
			switch {
			case o.worker:
				return o.work(ctx, stdout)
			case o.seeds == 1:
				return o.replay(stdout)
			}
			return o.spread(ctx, stdout, stderr)
		},
	}
	f := cmd.Flags()
	f.Uint64Var(&o.seeds, "seeds", 0, "how many seeds to run (default 1000, or 1 with --seed)")
	f.Uint64Var(&o.seed, "seed", 1, "the first seed")
	f.IntVar(&o.nodes, "nodes", 0, "how many nodes, 1 to 7; 0: each seed draws it")
	f.DurationVar(&o.duration, "duration", 30*time.Second, "for how long, of simulated time, faults happen")
	f.BoolVar(&o.verbose, "verbose", false, "with one seed: print a line for each event")
	f.IntVar(&o.workers, "workers", runtime.NumCPU(), "how many processes")
	f.BoolVar(&o.worker, "worker", false, "")
	f.Uint64Var(&o.every, "every", 1, "")
	_ = f.MarkHidden("worker")
	_ = f.MarkHidden("every")
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	err := cmd.ExecuteContext(ctx)
	var usage usageError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "sim: %v\n%s", err, cmd.UsageString())
		return exitUsage
	case !errors.Is(err, errFound):
		fmt.Fprintf(stderr, "sim: %v\n", err)
	}
	return exitFailed
}

// usageError is a fault in the command line.
type usageError struct{ error }

func (o *options) options(seed uint64) sim.Options {
	return sim.Options{Seed: seed, Nodes: o.nodes, Duration: o.duration}
}

// replay runs one seed.
func (o *options) replay(stdout io.Writer) error {
	s := o.options(o.seed)
	w := bufio.NewWriter(stdout)
	if o.verbose {
		s.Log = w
	}
	r, err := sim.Run(s)
	if err != nil {
		fmt.Fprintln(w, err)
	}
	fmt.Fprintf(w, "trace %016x\n", r.Trace)
	printStats(w, &r.Stats)
	if flushErr := w.Flush(); flushErr != nil {
		return fmt.Errorf("print: %w", flushErr)
	}
	if err != nil {
		return errFound
	}
	return nil
}

// outcome is that of one seed.
type outcome struct {
	Seed      uint64
	Violation string `json:",omitempty"`
	Stats     sim.Stats
}

// work runs every so many seeds, and prints their outcomes.
func (o *options) work(ctx context.Context, stdout io.Writer) error {
	e := json.NewEncoder(stdout)
	for i := uint64(0); i < o.seeds && ctx.Err() == nil; i += o.every {
		r, err := sim.Run(o.options(o.seed + i))
		out := outcome{Seed: o.seed + i, Stats: r.Stats}
		if err != nil {
			out.Violation = err.Error()
		}
		if err := e.Encode(out); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// spread has processes run the seeds: only one simulation can run in each.
func (o *options) spread(ctx context.Context, stdout, stderr io.Writer) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	outcomes := make(chan outcome)
	errs := make(chan error, o.workers)
	var workers sync.WaitGroup
	for i := range o.workers {
		workers.Go(func() {
			if err := o.runWorker(ctx, self, uint64(i), outcomes); err != nil {
				errs <- err
				cancel()
			}
		})
	}
	go func() {
		workers.Wait()
		close(outcomes)
	}()
	var sum sim.Stats
	done, found := 0, 0
	began, shown := time.Now(), time.Now()
	for out := range outcomes {
		done++
		sum.Add(&out.Stats)
		if out.Violation != "" {
			found++
			fmt.Fprintln(stdout, out.Violation)
		}
		if time.Since(shown) > 2*time.Second {
			shown = time.Now()
			fmt.Fprintf(stderr, "%d of %d seeds, %d with violations, %.1f seeds/s, %v simulated\n",
				done, o.seeds, found, float64(done)/time.Since(began).Seconds(), sum.Simulated.Round(time.Minute))
		}
	}
	fmt.Fprintf(stdout, "%d seeds from %d on, %d with violations, %v\n", done, o.seed, found, time.Since(began).Round(time.Second))
	printStats(stdout, &sum)
	select {
	case err := <-errs:
		return err
	default:
	}
	if found > 0 {
		return errFound
	}
	return nil
}

func (o *options) runWorker(ctx context.Context, self string, i uint64, outcomes chan<- outcome) error {
	if i >= o.seeds {
		return nil
	}
	cmd := exec.CommandContext(ctx, self, "--worker",
		"--seed", strconv.FormatUint(o.seed+i, 10), "--seeds", strconv.FormatUint(o.seeds-i, 10), "--every", strconv.Itoa(o.workers),
		"--nodes", strconv.Itoa(o.nodes), "--duration", o.duration.String())
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("start a worker: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start a worker: %w", err)
	}
	d := json.NewDecoder(out)
	for {
		var one outcome
		if d.Decode(&one) != nil {
			break // its end says why
		}
		outcomes <- one
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("worker %d: %w", i, err)
	}
	return nil
}

// printStats prints what has happened, a line for each kind.
func printStats(w io.Writer, s *sim.Stats) {
	v := reflect.ValueOf(*s)
	for i := range v.NumField() {
		fmt.Fprintf(w, "%14s  %v\n", v.Type().Field(i).Name, v.Field(i).Interface())
	}
}
