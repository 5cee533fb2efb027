package core

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/zue-log/zue/storage"
	"github.com/zue-log/zue/storage/batch"
)

// loadLog is a log of eight entries of terms 1 and 2, of which the third is a control entry, and
// others are shorter, or longer, than what is copied into a message.
func loadLog(t *testing.T) *storage.Log {
	log, err := storage.Open(t.TempDir(), storage.Options{ManualCommit: true, Sync: storage.SyncNever()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, log.Close()) })
	for i := range uint64(8) {
		kind := storage.KindData
		body := batch.Append(nil, []storage.Record{{Value: []byte(strings.Repeat(fmt.Sprint(i), int(i*200+1)))}}, 1)
		if i == 2 {
			kind, body = storage.KindControl, []byte{controlNoop}
		}
		_, err := log.AppendEntries(storage.NewEntry(i+1, 1+i/4, kind, body)).Wait()
		require.NoError(t, err)
	}
	return log
}

// entriesOf are what raft gets of a log to send, and what is to arrive.
func entriesOf(t *testing.T, log *storage.Log, lo, hi uint64) (unread, whole []*pb.Entry) {
	unread, err := (&raftLog{log: log}).Entries(lo, hi, math.MaxUint64)
	require.NoError(t, err)
	stored, lease, err := log.ReadEntries(nil, lo, hi-1, math.MaxInt)
	require.NoError(t, err)
	defer lease.Release()
	for i := range stored {
		e, err := fromStored(&stored[i])
		require.NoError(t, err)
		whole = append(whole, e)
	}
	return unread, whole
}

// A message that is loaded looks on the wire as one whose entries were at hand.
func TestLoad(t *testing.T) {
	log := loadLog(t)
	atHand := &pb.Entry{Index: new(uint64(9)), Term: new(uint64(2)), Type: pb.EntryNormal.Enum(), Data: appendEnveloped(nil, storage.KindData, 1, 1, []byte("not stored yet"))}
	for lo := uint64(1); lo <= 8; lo++ {
		unread, whole := entriesOf(t, log, lo, 9)
		if lo == 3 {
			require.Equal(t, whole[0], unread[0], "control entries are at hand")
		}
		app := func(entries []*pb.Entry) *Message {
			return &Message{Kind: KindRaft, From: 1, To: 2, Raft: &pb.Message{
				Type: pb.MsgApp.Enum(), LogTerm: new(uint64(1)), Index: new(lo - 1), Entries: append(entries, atHand),
			}}
		}
		fetched := func(entries []*pb.Entry) *Message {
			return &Message{Kind: KindEntries, From: 1, To: 2, FirstIndex: lo, LastIndex: 8, Entries: entries}
		}
		for _, make := range []func([]*pb.Entry) *Message{app, fetched} {
			m := make(unread)
			require.True(t, m.Stored())
			require.False(t, make(whole).Stored())
			loaded, release, err := m.Load(log)
			require.NoError(t, err)
			require.False(t, loaded.Stored())
			require.Equal(t, encoded(make(whole)), encoded(loaded))
			size := 0
			for _, e := range whole {
				size += max(len(e.Data)-envelope, 0)
			}
			require.InDelta(t, size, loaded.Bytes(), 1, "and a control entry's")
			release()
			require.True(t, m.Stored(), "it is as it was")
		}
	}
}

// What is not in the log any more, or damaged, ends what is sent, and the core is told.
func TestLoadOfWhatIsGone(t *testing.T) {
	log := loadLog(t)
	unread, _ := entriesOf(t, log, 1, 9)
	require.NoError(t, log.TruncateSuffix(6))
	app := func(from int) *Message {
		return &Message{Kind: KindRaft, Raft: &pb.Message{Type: pb.MsgApp.Enum(), Entries: unread[from:]}}
	}
	replaced := storage.NewEntry(7, 3, storage.KindData, batch.Append(nil, []storage.Record{{Value: []byte("other")}}, 1))
	for _, step := range []struct {
		name string
		is   error
		do   func()
	}{
		{"cut off", storage.ErrNoEntry, func() {}},
		{"replaced", errReplaced, func() {
			_, err := log.AppendEntries(replaced).Wait()
			require.NoError(t, err)
		}},
	} {
		step.do()
		var at *unloadedError
		loaded, release, err := app(0).Load(log)
		require.ErrorAs(t, err, &at)
		require.Equal(t, uint64(7), at.index)
		require.ErrorIs(t, err, step.is)
		require.Len(t, loaded.entries(), 6, step.name)
		require.False(t, loaded.Stored())
		m, err := DecodeMessage(bytes.Join(loaded.Encode(0), nil))
		require.NoError(t, err)
		for _, e := range m.entries() {
			require.NoError(t, verify(e))
		}
		release()

		loaded, _, err = app(6).Load(log)
		require.ErrorAs(t, err, &at)
		require.Nil(t, loaded, step.name)
		loaded, release, err = (&Message{Kind: KindEntries, FirstIndex: 7, LastIndex: 8, Entries: unread[6:]}).Load(log)
		require.ErrorAs(t, err, &at)
		require.Empty(t, loaded.entries(), "the other one asks elsewhere")
		release()
	}
}
