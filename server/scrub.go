package server

import (
	"errors"
	"time"

	"github.com/zue-log/zue/storage"
)

// Defaults of [Options].
const (
	DefaultScrubInterval = 24 * time.Hour
	DefaultScrubRate     = 16 << 20
	// firstScrub is how long after the start the first scrub begins, unless the interval is
	// shorter: not when all that was down comes up.
	firstScrub = 10 * time.Minute
)

// scrub reads the whole log now and then, so that damage is found while others have what was
// there. It runs until the server stops.
func (s *Server) scrub() {
	defer s.running.Done()
	pause := time.NewTimer(min(firstScrub, s.opts.ScrubInterval))
	defer pause.Stop()
	for {
		select {
		case <-pause.C:
		case <-s.stopped:
			return
		}
		s.scrubOnce()
		pause.Reset(s.opts.ScrubInterval)
	}
}

// scrubOnce reads the log once, at ScrubRate, and has the cluster's node mend what is damaged.
func (s *Server) scrubOnce() {
	began := time.Now()
	report, err := s.log.VerifyPaced(s.waits, func(n int64) error {
		pause := time.NewTimer(time.Duration(float64(n) / float64(s.opts.ScrubRate) * float64(time.Second)))
		defer pause.Stop()
		select {
		case <-pause.C:
			return nil
		case <-s.waits.Done():
			return s.waits.Err()
		}
	}, func(e *storage.CorruptionError) {
		s.logger.Error("a scrub has found damage", "err", e)
		if s.cluster != nil {
			s.cluster.node.Damaged(e)
		}
	})
	switch {
	case s.waits.Err() != nil, errors.Is(err, storage.ErrClosed):
	case err != nil:
		s.logger.Warn("a scrub could not be finished", "err", err)
	default:
		s.logger.Info("scrubbed", "bytes", report.Bytes, "records", report.Records, "damaged", len(report.Damage), "took", time.Since(began).Round(time.Millisecond))
	}
}
