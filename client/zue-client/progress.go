package main

import (
	"io"
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

const progressInterval = 100 * time.Millisecond

// progress draws a bar, from a goroutine of its own, until it is stopped.
type progress struct {
	done chan struct{}
	task sync.WaitGroup
}

// startProgress draws how far the tally has come, if standard error is a terminal;
// not so when lines are typed there.
func (a *app) startProgress(snapshot func() tally) *progress {
	if !isTerminal(a.stderr) || isTerminal(a.stdin) {
		return &progress{done: make(chan struct{})}
	}
	return drawProgress(a.stderr, sizeOf(a.stdin), snapshot)
}

// drawProgress draws a bar of the bytes stored when the size of the input is known,
// and counts records when it is not (-1).
func drawProgress(w io.Writer, size int64, snapshot func() tally) *progress {
	options := []progressbar.Option{
		progressbar.OptionSetWriter(w),
		progressbar.OptionSetDescription("appending"),
		progressbar.OptionClearOnFinish(),
		progressbar.OptionSetWidth(30),
		// 0, lest the bar starts a goroutine that nobody waits for.
		progressbar.OptionSetSpinnerChangeInterval(0),
	}
	if size >= 0 {
		options = append(options, progressbar.OptionShowBytes(true), progressbar.OptionShowTotalBytes(true))
	} else {
		options = append(options, progressbar.OptionShowCount(), progressbar.OptionShowIts(),
			progressbar.OptionSetItsString("records"))
	}
	// A bar that cannot be drawn is no reason to stop, so its errors are dropped.
	bar := progressbar.NewOptions64(size, options...)
	// Rates count from here. Nothing is drawn yet, for a rate over no time at all
	// is no rate.
	bar.StartWithoutRender()
	p := &progress{done: make(chan struct{})}
	p.task.Go(func() {
		ticker := time.NewTicker(progressInterval)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
			case <-p.done:
				_ = bar.Clear()
				return
			}
			t := snapshot()
			if t.stored == 0 {
				continue
			}
			if size >= 0 {
				// A file may grow while it is read.
				_ = bar.Set64(min(int64(t.bytes), size))
			} else {
				_ = bar.Set64(int64(t.stored))
			}
		}
	})
	return p
}

func (p *progress) stop() {
	close(p.done)
	p.task.Wait()
}

func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// sizeOf returns how many bytes are left to read of a regular file, -1 for anything
// else.
func sizeOf(r io.Reader) int64 {
	f, ok := r.(*os.File)
	if !ok {
		return -1
	}
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return -1
	}
	at, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return -1
	}
	return max(0, info.Size()-at)
}
