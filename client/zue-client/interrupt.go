package main

import (
	"context"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// interruptible makes a reader of r whose Read ends with the context's error when
// the context ends, also while it waits for a terminal or a pipe. Other readers
// than files are asked only between reads. release gives up what it holds.
func interruptible(ctx context.Context, r io.Reader) (reader io.Reader, release func(), err error) {
	f, ok := r.(*os.File)
	if !ok {
		return &betweenReads{ctx: ctx, r: r}, func() {}, nil
	}
	wake, waker, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	// The end of a pipe becomes readable when the other end is closed.
	stop := context.AfterFunc(ctx, func() { _ = waker.Close() })
	release = func() {
		if stop() {
			_ = waker.Close()
		}
		_ = wake.Close()
	}
	return &polledFile{ctx: ctx, f: f, wake: wake}, release, nil
}

type betweenReads struct {
	ctx context.Context
	r   io.Reader
}

func (b *betweenReads) Read(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	return b.r.Read(p)
}

// polledFile waits for its file, and for an end of the context, with poll(2):
// standard input is a blocking file, and making it non-blocking would do so for
// all programs that share it.
type polledFile struct {
	ctx  context.Context
	f    *os.File
	wake *os.File
}

func (p *polledFile) Read(b []byte) (int, error) {
	if err := p.wait(); err != nil {
		return 0, err
	}
	if err := p.ctx.Err(); err != nil {
		return 0, err
	}
	return p.f.Read(b)
}

func (p *polledFile) wait() error {
	file, err := p.f.SyscallConn()
	if err != nil {
		return err
	}
	wake, err := p.wake.SyscallConn()
	if err != nil {
		return err
	}
	var pollErr error
	// Control, unlike Fd, leaves the files as they are.
	err = file.Control(func(fd uintptr) {
		err := wake.Control(func(wakeFD uintptr) {
			pollErr = poll(fd, wakeFD)
		})
		pollErr = errors.Join(pollErr, err)
	})
	return errors.Join(pollErr, err)
}

// poll waits until one of two files can be read without waiting.
func poll(a, b uintptr) error {
	fds := []unix.PollFd{
		{Fd: int32(a), Events: unix.POLLIN},
		{Fd: int32(b), Events: unix.POLLIN},
	}
	for {
		_, err := unix.Poll(fds, -1)
		if err != unix.EINTR {
			return os.NewSyscallError("poll", err)
		}
	}
}
