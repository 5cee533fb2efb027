package server

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/zue-log/zue/replication/core"
)

// watch notes which replicas are in sync while a node leads: it logs and counts each change.
type watch struct {
	life    *life
	inSync  map[core.PeerID]bool // while it leads
	cancel  context.CancelFunc
	missing []core.NodeID // that the first start waits for
	task    sync.WaitGroup
}

// watchInSync begins to look, several times in an election timeout. stop ends it.
func watchInSync(l *life) *watch {
	w := &watch{life: l, inSync: map[core.PeerID]bool{}}
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel = cancel
	w.task.Go(func() {
		ticks := time.NewTicker(max(l.member.opts.Conf.ElectionTimeout/4, 10*time.Millisecond))
		defer ticks.Stop()
		for {
			select {
			case <-ticks.C:
			case <-ctx.Done():
				return
			}
			st, err := l.node.Status(ctx)
			if err != nil {
				return // it has ended
			}
			w.look(&st)
			w.lookForMissing(&st)
			l.peers.links() // notes which are down
		}
	})
	return w
}

func (w *watch) stop() {
	w.cancel()
	w.task.Wait()
}

// lookForMissing says for whom the first start of the cluster waits.
func (w *watch) lookForMissing(st *core.Status) {
	if slices.Equal(st.Missing, w.missing) {
		return
	}
	w.missing = st.Missing
	o := &w.life.member.opts
	if len(st.Missing) > 0 {
		var at []string
		for _, id := range st.Missing {
			n, _ := o.Conf.Node(id)
			at = append(at, fmt.Sprintf("%d at %s", id, n.Address()))
		}
		w.life.member.logger.Info("the first start of the cluster waits for other nodes", "node", o.Self, "for", strings.Join(at, ", "))
	}
}

// look compares who is in sync with who was.
func (w *watch) look(st *core.Status) {
	if st.Role != core.RoleLeader {
		clear(w.inSync)
		return
	}
	m := w.life.member
	gone := w.inSync
	w.inSync = map[core.PeerID]bool{}
	for i := range st.Replicas {
		r := &st.Replicas[i]
		if !r.InSync {
			continue
		}
		w.inSync[r.Peer] = true
		if gone[r.Peer] {
			delete(gone, r.Peer)
			continue
		}
		m.inSyncChanges.Add(1)
		m.logger.Info("replica is in sync", "node", m.opts.Self, "replica", r.Peer.String(), "lag", r.Lag)
	}
	for peer := range gone {
		m.inSyncChanges.Add(1)
		m.logger.Warn("replica is not in sync any more", "node", m.opts.Self, "replica", peer.String(), "why", w.why(st, peer))
	}
}

// why says why a replica is not in sync.
func (w *watch) why(st *core.Status, peer core.PeerID) string {
	o := &w.life.member.opts
	for i := range st.Replicas {
		r := &st.Replicas[i]
		switch {
		case r.Peer != peer:
		case r.Known && r.Lag > o.Conf.MaxLag:
			return "it is too far behind"
		default:
			return "it was not heard of for " + (time.Duration(r.Silent) * tickOf(o.Conf.ElectionTimeout)).String()
		}
	}
	return "it is no member any more"
}
