package server

import (
	"context"
	"errors"
	"time"

	"github.com/zue-log/zue/storage"
)

const (
	// mendWait bounds how long a reader waits for damage to be mended, and mendPoll is how often
	// it looks.
	mendWait = 3 * time.Second
	mendPoll = 5 * time.Millisecond
)

// mended says whether to try again what has failed with err: since that is damage in the log, and
// the node has done what it could to mend it with what another one has.
func (c *session) mended(err error) bool {
	k := c.server.cluster
	var damage *storage.CorruptionError
	if k == nil || !errors.As(err, &damage) {
		return false
	}
	_ = c.flush() // answers to earlier requests need not wait for it; an error stays for the next
	ctx, cancel := context.WithTimeout(c.server.waits, mendWait)
	defer cancel()
	k.node.Damaged(damage)
	poll := time.NewTicker(mendPoll)
	defer poll.Stop()
	for {
		st, err := k.node.Status(ctx)
		if err != nil {
			return false
		}
		if st.Damage == 0 {
			return true
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			return false
		}
	}
}
