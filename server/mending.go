package server

import (
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
	var fault *storage.FaultError
	switch {
	case k == nil:
		return false
	case errors.As(err, &damage):
	case errors.As(err, &fault): // what the disk does not deliver is as good as damaged
		damage = &storage.CorruptionError{Path: fault.Path, Reason: err.Error()}
	default:
		return false
	}
	_ = c.flush() // answers to earlier requests need not wait for it; an error stays for the next
	k.node.Damaged(damage)
	timeout := time.NewTimer(mendWait)
	defer timeout.Stop()
	poll := time.NewTicker(mendPoll)
	defer poll.Stop()
	for k.node.Damage() > 0 {
		select {
		case <-poll.C:
		case <-timeout.C:
			return true // other damage may take longer
		case <-c.server.waits.Done():
			return false
		}
	}
	return true
}
