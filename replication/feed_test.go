package replication

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/zue-log/zue/replication/core"
	"github.com/zue-log/zue/storage"
	"github.com/zue-log/zue/storage/batch"
	"github.com/zue-log/zue/storage/vfs"
)

// holder is a transport that keeps what it is given until it is told to send it.
type holder struct {
	sent  []*core.Message
	dones []func()
}

func (h *holder) Send(messages []*core.Message, done func()) {
	h.sent = append(h.sent, messages...)
	if done != nil {
		h.dones = append(h.dones, done)
	}
}

// TestFeed: a feed sends in order what must be read and what need not, no more at a time than
// the network takes, and nothing of what waited when messages got lost.
func TestFeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, err := storage.Open("log", storage.Options{FS: vfs.NewMem(), ManualCommit: true, Sync: storage.SyncNever()})
		require.NoError(t, err)
		value := []byte(strings.Repeat("v", 1<<20))
		for i := range uint64(20) {
			body := batch.Append(nil, []storage.Record{{Value: value}}, 1)
			_, err := log.AppendEntries(storage.NewEntry(i+1, 1, storage.KindData, body)).Wait()
			require.NoError(t, err)
		}
		to := &holder{}
		n := &Node{opts: Options{Transport: to}, log: log, inputs: make(chan func(*core.Core), 10), pace: pace{rate: 1 << 30}}
		n.turn.Lock() // nobody is to work on the core, which there is not
		f := newFeed(n)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			f.run(ctx)
		}()
		stored := func(index uint64) *core.Message {
			return &core.Message{Kind: core.KindRaft, To: 2, Raft: &raftpb.Message{Type: raftpb.MsgApp.Enum(), Index: new(index - 1), Entries: []*raftpb.Entry{
				core.Unread(index, 1, len(value)),
			}}}
		}
		atHand := &core.Message{Kind: core.KindRaft, To: 2, Raft: &raftpb.Message{Type: raftpb.MsgApp.Enum(), Index: new(uint64(99))}}
		require.True(t, stored(1).Stored())
		indexes := func() (is []uint64) {
			synctest.Wait()
			for _, m := range to.sent {
				is = append(is, m.Raft.GetIndex()+1)
				require.False(t, m.Stored())
			}
			return is
		}
		for i := range uint64(3) {
			require.True(t, f.put(stored(i+1)))
		}
		require.True(t, f.put(atHand))
		require.Equal(t, []uint64{1, 2, 3, 100}, indexes())
		require.Zero(t, f.waiting.Load())
		for i := range uint64(6) {
			require.True(t, f.put(stored(i+4)))
		}
		require.True(t, f.put(atHand))
		require.Equal(t, []uint64{1, 2, 3, 100, 4}, indexes(), "more than 4 MiB are not sent")
		require.EqualValues(t, 6, f.waiting.Load())
		to.dones[0]()
		require.Equal(t, []uint64{1, 2, 3, 100, 4, 5}, indexes())
		f.lost.Add(1)
		require.True(t, f.put(stored(11)))
		for _, done := range to.dones[1:] {
			done()
		}
		require.Equal(t, []uint64{1, 2, 3, 100, 4, 5, 6, 11}, indexes(), "6 was being sent, the others were of no use")
		require.True(t, f.put(stored(21)))
		require.Len(t, indexes(), 8)
		require.Len(t, n.inputs, 1, "the core is told what could not be read")

		for i := range maxFeed + 20 {
			if !f.put(stored(12)) {
				require.Greater(t, i, maxFeed)
				cancel() // it waits for the network
				close(f.queue)
				<-ended
				break
			}
		}
		require.Error(t, ctx.Err(), "there always was room")
		require.Zero(t, f.waiting.Load())
		require.NoError(t, log.Close())
	})
}

// TestPace: what is behind gets its rate, or a quarter more than is appended if that is more,
// or, when nothing is appended, all.
func TestPace(t *testing.T) {
	const step, size = 10 * time.Millisecond, 100 << 10
	for _, c := range []struct {
		rate, appends int64 // bytes per second
		want          float64
	}{
		{10 << 20, 1, 10 << 20},
		{10 << 20, 2 << 20, 10 << 20},
		{10 << 20, 20 << 20, 25 << 20},
		{10 << 20, 200 << 20, 250 << 20},
	} {
		t.Run(fmt.Sprint(c.rate, c.appends), func(t *testing.T) {
			p := pace{rate: c.rate}
			now := time.Now()
			run := func(d time.Duration) (sent int64) {
				for end := now.Add(d); now.Before(end); now = now.Add(step) {
					p.appended.Add(max(c.appends*int64(step)/int64(time.Second), 1))
					for p.pause(now) == 0 {
						p.spend(size)
						sent += size
					}
				}
				return sent
			}
			run(time.Second)
			require.InEpsilon(t, c.want*10, float64(run(10*time.Second)), 0.05)
			// However long nobody was behind, there is no more than for a moment.
			p.appended.Add(1 << 40)
			now = now.Add(time.Hour)
			require.InEpsilon(t, c.want*10, float64(run(10*time.Second)), 0.05)
			now = now.Add(paceStep)
			p.pause(now) // sees the last that was appended
			now = now.Add(2 * paceIdle)
			for range 1000 {
				require.Zero(t, p.pause(now), "nothing is appended")
				p.spend(size)
			}
			now = now.Add(paceStep)
			run(100 * time.Millisecond)
			require.InEpsilon(t, c.want*10, float64(run(10*time.Second)), 0.05, "afterwards it is as before")
		})
	}
	p := pace{rate: 1}
	p.appended.Add(1)
	ctx, cancel := context.WithCancel(t.Context())
	require.NoError(t, p.wait(ctx))
	p.spend(1 << 30)
	cancel()
	require.ErrorIs(t, p.wait(ctx), context.Canceled)
}
