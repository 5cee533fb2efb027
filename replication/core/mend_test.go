package core_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/zue-log/zue/replication/core"
	"github.com/zue-log/zue/storage"
	"github.com/zue-log/zue/storage/batch"
	"github.com/zue-log/zue/storage/vfs"
)

// flip flips a bit of an entry on the node's disk: in its header, or in its body.
func (n *actor) flip(index uint64, inHeader bool) {
	found := errors.New("found")
	err := storage.Walk(n.disk, "log", storage.WalkOptions{}, func(item storage.Item) error {
		e, ok := item.(*storage.EntryItem)
		if !ok || e.Entry.Index != index {
			return nil
		}
		at := e.Position + e.Size/2
		if inHeader {
			at = e.Position + 20
		}
		f, err := n.disk.Open(e.Path, true)
		require.NoError(n.t, err)
		var b [1]byte
		_, err = f.ReadAt(b[:], at)
		require.NoError(n.t, err)
		b[0] ^= 4
		_, err = f.WriteAt(b[:], at)
		require.NoError(n.t, err)
		require.NoError(n.t, errors.Join(f.Sync(), f.Close()))
		return found
	})
	require.ErrorIs(n.t, err, found)
}

// damage returns what a scrub of the node's log finds.
func (n *actor) damage() []*storage.CorruptionError {
	report, err := n.log.Verify(n.t.Context(), nil)
	require.NoError(n.t, err)
	return report.Damage
}

// scrub has the node mend what a scrub finds.
func (s *story) scrub(n *actor) {
	for _, d := range n.damage() {
		n.core.Damaged(d)
	}
	s.settle()
}

// full is a cluster of three whose logs have several segments.
func full(t *testing.T) *story {
	s := three(t)
	for i := range 60 {
		s.nodes[0].core.Append(values(fmt.Sprint(i) + string(make([]byte, 1000))))
		s.settle()
	}
	s.tick(nil, 2)
	for _, n := range s.nodes {
		require.Greater(t, len(n.log.Starts()), 3)
		require.EqualValues(t, 60, n.log.EndOffset())
	}
	return s
}

func TestDamageIsMended(t *testing.T) {
	for name, flip := range map[string]func(n *actor, at uint64){
		"a body":                func(n *actor, at uint64) { n.flip(at, false) },
		"a header":              func(n *actor, at uint64) { n.flip(at, true) },
		"several in a row":      func(n *actor, at uint64) { n.flip(at, false); n.flip(at+1, true); n.flip(at+2, false) },
		"two of a segment":      func(n *actor, at uint64) { n.flip(at, true); n.flip(at+3, false) },
		"in several segments":   func(n *actor, at uint64) { n.flip(at, true); n.flip(at+20, false); n.flip(at+40, true) },
		"the one before is ill": func(n *actor, at uint64) { n.flip(at, true); n.flip(at-1, true) },
	} {
		for id := range 3 {
			t.Run(fmt.Sprintf("%s of node %d", name, id+1), func(t *testing.T) {
				s := full(t)
				n := s.nodes[id]
				before := n.core.Status()
				at, err := n.log.FindEntry(5)
				require.NoError(t, err)
				flip(n, at)
				require.NotEmpty(t, n.damage())
				s.scrub(n)
				require.Empty(t, n.damage())
				st := n.core.Status()
				require.Zero(t, st.Damage)
				require.NotZero(t, st.Mended)
				require.Equal(t, before.Self, st.Self, "nothing was lost")
				require.Equal(t, before.Term, st.Term)
				for o := range n.log.EndOffset() {
					rec, lease, err := n.log.Read(o)
					require.NoError(t, err)
					require.Contains(t, string(rec.Value), fmt.Sprint(o))
					lease.Release()
				}
				a := values("more")
				s.nodes[0].core.Append(a)
				s.settle()
				require.NoError(t, a.Err)
				require.Equal(t, 3, a.Copies)
			})
		}
	}
}

// A leader that cannot read what a follower lacks leads on, mends it from the third node, and
// brings the follower up to date.
func TestDamageOfALeaderIsNoReasonToFail(t *testing.T) {
	for _, wiped := range []bool{false, true} {
		s := three(t)
		led, behind := s.nodes[0], s.nodes[2]
		behind.crash()
		for i := range 40 {
			led.core.Append(values(fmt.Sprint(i) + string(make([]byte, 1000))))
			s.settle()
		}
		term := led.core.Status().Term
		at, err := led.log.FindEntry(20)
		require.NoError(t, err)
		led.flip(at, false)
		led.flip(at+3, true)
		if wiped {
			behind.disk = vfs.NewMem()
		}
		behind.boot()
		s.tick(nil, 60)
		require.NoError(t, led.core.Err())
		require.Equal(t, core.RoleLeader, led.core.Status().Role)
		require.Equal(t, term, led.core.Status().Term)
		require.Empty(t, led.damage())
		require.EqualValues(t, 2, led.core.Status().Mended)
		require.EqualValues(t, 40, behind.log.EndOffset())
		require.Equal(t, core.RoleFollower, behind.core.Status().Role)
	}
}

// What one member cannot send, another may.
func TestMendsFromWhoeverCan(t *testing.T) {
	s := full(t)
	n := s.nodes[1]
	at, err := n.log.FindEntry(30)
	require.NoError(t, err)
	n.flip(at, false)
	s.nodes[0].flip(at, true)          // the leader, which is asked first, has it no more
	s.cut[[2]core.NodeID{3, 2}] = true // and the third's answers get lost
	s.scrub(n)
	require.Len(t, n.damage(), 1)
	s.tick(nil, 5)
	clear(s.cut)
	s.tick(nil, 40)
	require.Empty(t, n.damage())
	// Of the leader's own damage nobody else has told it: the question did.
	require.Empty(t, s.nodes[0].damage())
}

// Entries that were never in the log do not get into it, whatever a member sends.
func TestMendsOnlyWithWhatWasThere(t *testing.T) {
	s := full(t)
	n := s.nodes[1]
	at, err := n.log.FindEntry(30)
	require.NoError(t, err)
	n.flip(at, false)
	other := values("30" + string(make([]byte, 999)) + "x")
	lies := 0
	s.take = func(m *core.Message) bool {
		if m.Kind != core.KindEntries || m.From != 1 || len(m.Entries) == 0 {
			return false
		}
		lies++
		lie := *m
		lie.Entries = append(lie.Entries[:0:0], m.Entries...)
		e := proto.CloneOf(m.Entries[0])
		e.Data = binary.LittleEndian.AppendUint32([]byte{byte(storage.KindData)}, other.Checksum)
		e.Data = append(binary.LittleEndian.AppendUint32(e.Data, other.Checksum), other.Body...)
		lie.Entries[0] = e
		require.NoError(t, n.core.Step(&lie))
		return true
	}
	s.scrub(n)
	s.tick(nil, 30)
	require.NotZero(t, lies)
	require.Empty(t, n.damage(), "the third node has it")
	rec, lease, err := n.log.Read(30)
	require.NoError(t, err)
	require.Equal(t, "30"+string(make([]byte, 1000)), string(rec.Value))
	lease.Release()
}

// Where nobody can help the damage is kept, and the node goes on.
func TestDamageThatNobodyCanMend(t *testing.T) {
	s := full(t)
	n := s.nodes[1]
	at, err := n.log.FindEntry(30)
	require.NoError(t, err)
	for _, n := range s.nodes {
		n.flip(at, false)
	}
	s.scrub(n)
	s.tick(nil, 100)
	require.Len(t, n.damage(), 1)
	require.Zero(t, n.core.Status().Damage, "it is given up until it is found again")
	require.NoError(t, n.core.Err())
	_, _, err = n.log.Read(30)
	require.ErrorIs(t, err, storage.ErrCorrupt)
	a := values("more")
	s.nodes[0].core.Append(a)
	s.settle()
	require.NoError(t, a.Err)
}

// A leader whose entry is damaged that a producer repeats mends it, and then knows the batch.
func TestDamageOfARepeatedBatch(t *testing.T) {
	for _, inHeader := range []bool{false, true} {
		s := three(t)
		led := s.nodes[0]
		repeated := func() *core.Append {
			body := batch.Append(nil, []batch.Record{{Value: make([]byte, 500)}}, 1)
			require.NoError(t, batch.SetProducer(body, 7, 0, 0))
			return &core.Append{Body: body, Checksum: batch.Checksum(body), Tag: "repeated"}
		}
		first := repeated()
		led.core.Append(first)
		s.settle()
		require.NoError(t, first.Err)
		for i := range 60 {
			led.core.Append(values(fmt.Sprint(i) + string(make([]byte, 1000))))
			s.settle()
		}
		led.flip(first.Index, inHeader)
		again := repeated()
		for range 20 {
			again = repeated()
			led.core.Append(again)
			s.settle()
			if again.Err == nil {
				break
			}
			require.ErrorIs(t, again.Err, core.ErrOverloaded)
			s.tick(nil, 1)
		}
		require.NoError(t, again.Err)
		require.True(t, again.Duplicate)
		require.Equal(t, first.First, again.First)
		require.NoError(t, led.core.Err())
	}
}
