package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/zue-log/zue/client"
	"github.com/zue-log/zue/net/wire"
)

// lineAppender sends lines and keeps the tally of their answers.
type lineAppender struct {
	producer *client.Producer
	stop     context.CancelFunc // no more lines are to be sent

	mu    sync.Mutex
	tally tally
}

// appendLines appends every line of standard input, in batches of so many bytes.
func (a *app) appendLines(ctx context.Context, s server, batchBytes int, idempotent bool) error {
	dial := a.dialLeader
	if idempotent {
		dial = a.dial // what is sent twice is in the log once
	}
	c, err := dial(ctx, s, client.Options{})
	if err != nil {
		return err
	}
	defer c.Close()
	producer, err := c.Producer(client.ProducerOptions{MaxBytes: batchBytes, StopOnError: true, Idempotent: idempotent, Timeout: a.timeout})
	if err != nil {
		return err
	}
	defer producer.Close()
	sending, stop := context.WithCancel(ctx)
	defer stop()
	stdin, release, err := interruptible(sending, a.stdin)
	if err != nil {
		return fmt.Errorf("read standard input: %w", err)
	}
	defer release()

	l := &lineAppender{producer: producer, stop: stop}
	p := a.startProgress(l.snapshot)
	started := time.Now()
	err = l.send(sending, newLineReader(stdin, wire.MaxRecord))
	// Each line has an answer in the end: the server's, or that the connection
	// is gone, or that nothing has come for the timeout.
	_ = producer.Close() // never fails
	p.stop()

	t := l.snapshot()
	if err := why(ctx, t, err); err != nil {
		if a.json {
			if printErr := a.printMidway(t); printErr != nil {
				err = fmt.Errorf("%w; and the result cannot be printed: %w", err, printErr)
			}
		}
		return &midwayError{err: err, tally: t}
	}
	if err := a.printSpan(t); err != nil {
		return fmt.Errorf("all %d lines are stored, at offsets %d to %d, but that cannot be printed: %w", t.stored, t.first, t.last, err)
	}
	if isTerminal(a.stderr) {
		took := time.Since(started)
		fmt.Fprintf(a.stderr, "%d records (%d bytes) in %v, %.0f a second\n",
			t.stored, t.bytes, took.Round(time.Millisecond), float64(t.stored)/took.Seconds())
	}
	return nil
}

// midwayError says that not all of the input was stored.
type midwayError struct {
	err   error
	tally tally
}

func (e *midwayError) Error() string { return e.err.Error() }
func (e *midwayError) Unwrap() error { return e.err }

// why says why not all of the input was stored; nil says that it was. err is what
// ended the sending.
func why(ctx context.Context, t tally, err error) error {
	switch {
	case t.failedLine > 0:
		// The first failure is the cause of others, and of err.
		return fmt.Errorf("line %d: %w", t.failedLine, t.failure)
	case ctx.Err() != nil && err != nil:
		return errors.New("interrupted")
	case errors.Is(err, errLineTooLong):
		return fmt.Errorf("line %d is longer than %d bytes, which is as much as a record can hold", t.answered+1, wire.MaxRecord)
	case err != nil:
		return fmt.Errorf("line %d: %w", t.answered+1, err)
	}
	return nil
}

// send sends lines until there are no more, or one could not be sent, or one was
// not stored.
func (l *lineAppender) send(ctx context.Context, r *lineReader) error {
	for {
		line, size, err := r.next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		err = l.producer.Send(ctx, client.Record{Value: line}, func(offset uint64, err error) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.tally.add(offset, size, err)
			if err != nil {
				l.stop()
			}
		})
		if err != nil {
			return err
		}
	}
}

func (l *lineAppender) snapshot() tally {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tally
}
