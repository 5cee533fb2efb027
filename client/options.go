package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"
)

// Options are the settings of a [Client]. The zero value is good.
type Options struct {
	// StallTimeout is how long a connection with answers due goes on when not a byte
	// is received or sent; then it is given up with [ErrStalled]. 0 means 30 s.
	// Single requests are limited by their contexts.
	StallTimeout time.Duration

	// MaxInFlight is how many requests may wait for their answers at once on a
	// connection; 0 means 8,192. Further ones wait until there is room.
	MaxInFlight int

	// MaxInFlightBytes is how many bytes of frames may wait for their answers at
	// once on a connection; 0 means 8 MiB. A larger request is let through alone. A
	// connection keeps two buffers of up to this size, and needs more only for such a
	// request.
	MaxInFlightBytes int

	// DialTimeout is how long one attempt to connect to one address may take; 0 means
	// 5 s. The next address is tried sooner, after 250 ms.
	DialTimeout time.Duration

	// Backoff and MaxBackoff bound the pause between attempts, at all addresses, that fail:
	// a twentieth of the time since the first of them. Each pause is shortened by up to a
	// half, at random, so that many clients do not come back all at once. 0 means 50 ms and
	// 2 s.
	Backoff, MaxBackoff time.Duration

	// NoRetry has each request fail by the first thing that goes wrong with it. The
	// client still connects anew for the next request, and goes to the leader with it that
	// has been named meanwhile.
	NoRetry bool

	// Dial connects to an address; nil means TCP, by which a machine that has gone without
	// a word is noticed in some 10 s. It must be safe for concurrent use, and return when
	// its context ends.
	Dial func(ctx context.Context, address string) (net.Conn, error)
}

const (
	defaultStallTimeout     = 30 * time.Second
	defaultMaxInFlight      = 8192
	defaultMaxInFlightBytes = 8 << 20
	defaultDialTimeout      = 5 * time.Second
	defaultBackoff          = 50 * time.Millisecond
	defaultMaxBackoff       = 2 * time.Second
)

// Validate reports every setting that makes no sense, all at once.
func (o Options) Validate() error {
	var errs []error
	for _, d := range []struct {
		name  string
		value time.Duration
	}{
		{"StallTimeout", o.StallTimeout}, {"DialTimeout", o.DialTimeout}, {"Backoff", o.Backoff}, {"MaxBackoff", o.MaxBackoff},
	} {
		if d.value < 0 {
			errs = append(errs, fmt.Errorf("%s is %v: want 0 (the default) or more", d.name, d.value))
		}
	}
	for _, n := range []struct {
		name  string
		value int
	}{{"MaxInFlight", o.MaxInFlight}, {"MaxInFlightBytes", o.MaxInFlightBytes}} {
		if n.value < 0 {
			errs = append(errs, fmt.Errorf("%s is %d: want 0 (the default) or more", n.name, n.value))
		}
	}
	return errors.Join(errs...)
}

// orDefault returns v, or what stands for its zero value.
func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// withWindow fills in the limits of a connection's window.
func (o Options) withWindow() Options {
	o.MaxInFlight = orDefault(o.MaxInFlight, defaultMaxInFlight)
	o.MaxInFlightBytes = orDefault(o.MaxInFlightBytes, defaultMaxInFlightBytes)
	return o
}

func (o Options) withDefaults() Options {
	o = o.withWindow()
	o.StallTimeout = orDefault(o.StallTimeout, defaultStallTimeout)
	o.DialTimeout = orDefault(o.DialTimeout, defaultDialTimeout)
	o.Backoff = orDefault(o.Backoff, defaultBackoff)
	o.MaxBackoff = max(orDefault(o.MaxBackoff, defaultMaxBackoff), o.Backoff)
	return o
}
