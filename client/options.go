package client

import (
	"errors"
	"fmt"
	"time"
)

// Options are the settings of a [Client]. The zero value is good.
type Options struct {
	// StallTimeout is how long a client with answers due goes on when not a byte
	// is received or sent; then the connection is given up with [ErrStalled]. 0
	// means no limit. Single requests are limited by their contexts.
	StallTimeout time.Duration

	// MaxInFlight is how many requests may wait for their answers at once; 0 means
	// 8,192. Further ones wait until there is room.
	MaxInFlight int

	// MaxInFlightBytes is how many bytes of frames may wait for their answers at
	// once; 0 means 8 MiB. A larger request is let through alone. A client
	// keeps two buffers of up to this size, and needs more only for such a request.
	MaxInFlightBytes int
}

const (
	defaultMaxInFlight      = 8192
	defaultMaxInFlightBytes = 8 << 20
)

// Validate reports every setting that makes no sense, all at once.
func (o Options) Validate() error {
	var errs []error
	if o.StallTimeout < 0 {
		errs = append(errs, fmt.Errorf("StallTimeout is %v: want 0 (no limit) or more", o.StallTimeout))
	}
	if o.MaxInFlight < 0 {
		errs = append(errs, fmt.Errorf("MaxInFlight is %d: want 0 (the default) or more", o.MaxInFlight))
	}
	if o.MaxInFlightBytes < 0 {
		errs = append(errs, fmt.Errorf("MaxInFlightBytes is %d: want 0 (the default) or more", o.MaxInFlightBytes))
	}
	return errors.Join(errs...)
}

func (o Options) withDefaults() Options {
	if o.MaxInFlight == 0 {
		o.MaxInFlight = defaultMaxInFlight
	}
	if o.MaxInFlightBytes == 0 {
		o.MaxInFlightBytes = defaultMaxInFlightBytes
	}
	return o
}
