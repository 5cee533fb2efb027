package replication

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// paceStep is how often a pace has more to give.
	paceStep = 20 * time.Millisecond
	// paceIdle is how long nothing was appended when catching up need not wait for anything.
	paceIdle = time.Second
	// paceShare is how much may be sent to nodes that are behind for each byte that is appended,
	// in hundredths: more than is appended, or they would never catch up.
	paceShare = 125
)

// pace bounds how fast nodes catch up while there are appends, which have to share disk, network
// and processors with that: to rate bytes per second, or to paceShare of what is appended if that
// is more. So the appends keep their share of what the machines can do, whatever that is; and a
// node that is behind does catch up, whatever is appended.
type pace struct {
	rate     int64 // bytes per second
	appended atomic.Int64

	mu       sync.Mutex
	left     int64 // bytes that may be sent; less than 0: they were sent before their time
	seen     int64 // of appended
	last     time.Time
	lastSeen time.Time // when something had been appended
}

// spend notes that n bytes are sent, of which perhaps not all may be yet: then the next ones wait.
func (p *pace) spend(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left -= int64(n)
}

// wait waits until something more may be sent to a node that is behind. The error is ctx's.
func (p *pace) wait(ctx context.Context) error {
	for {
		d := p.pause(time.Now())
		if d == 0 {
			return ctx.Err()
		}
		pause := time.NewTimer(d)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return ctx.Err()
		}
	}
}

// pause returns how long to wait before the next look whether something may be sent; 0: it may.
func (p *pace) pause(now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	since := now.Sub(p.last)
	if since >= paceStep {
		appended := p.appended.Load()
		if appended > p.seen {
			p.lastSeen = now
		}
		if since > paceIdle { // there was nothing to send
			p.seen, since = appended, paceStep
		}
		more := max(int64(float64(p.rate)*since.Seconds()), (appended-p.seen)*paceShare/100)
		// What was not sent in its time is not made up for, or appends would stand back for it.
		p.left = min(p.left+more, more)
		p.seen, p.last, since = appended, now, 0
	}
	if now.Sub(p.lastSeen) > paceIdle {
		p.left = max(p.left, 0) // what is sent now is owed to nobody
		return 0
	}
	if p.left > 0 {
		return 0
	}
	return paceStep - since
}
