package core

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// encoded returns a message's bytes in one.
func encoded(m *Message) []byte { return bytes.Join(m.Encode(0), nil) }

// sameMessage compares messages; proto.Equal tells a field that is not there from one that is
// zero, but not nil data from empty data in all cases.
func sameMessage(t *testing.T, want, got *Message) {
	t.Helper()
	w, g := *want, *got
	require.True(t, proto.Equal(w.Raft, g.Raft), "%v\n%v", w.Raft, g.Raft)
	sameEntries(t, w.Raft.GetEntries(), g.Raft.GetEntries())
	require.Equal(t, w.Raft.GetContext() == nil, g.Raft.GetContext() == nil)
	require.Equal(t, w.Raft.GetSnapshot().GetData() == nil, g.Raft.GetSnapshot().GetData() == nil)
	sameEntries(t, w.Entries, g.Entries)
	w.Raft, g.Raft, w.Entries, g.Entries = nil, nil, nil, nil
	require.Equal(t, w, g)
}

func sameEntries(t *testing.T, want, got []*pb.Entry) {
	t.Helper()
	require.Equal(t, want == nil, got == nil)
	require.Len(t, got, len(want))
	for i := range want {
		require.True(t, proto.Equal(want[i], got[i]), "%v\n%v", want[i], got[i])
		require.Equal(t, want[i].Data == nil, got[i].Data == nil)
	}
}

// goldenMessages are of each kind, with all fields of it.
func goldenMessages() map[string]*Message {
	self, other := newPeerID(3, 0xa1b2c3d4e5f6), newPeerID(1, 1)
	message := func(kind Kind) *Message {
		return &Message{Kind: kind, From: 3, To: 1, Cluster: 0x1122334455667788, Peer: self}
	}
	raft := func(m *pb.Message) *Message {
		out := message(KindRaft)
		m.From, m.To, m.Term = new(uint64(self)), new(uint64(other)), new(uint64(7))
		out.Raft = m
		return out
	}
	hello := message(KindHello)
	hello.Phase, hello.Nonce, hello.Founders = 2, 0x0102030405060708, []PeerID{other, 2}
	welcome := message(KindWelcome)
	welcome.Phase, welcome.Nonce = 2, 9
	promise := message(KindPromise)
	promise.Founders = []PeerID{other, 2}
	promised := message(KindPromised)
	promised.Founders = []PeerID{other, 2}
	report := message(KindReport)
	report.First, report.Commit, report.End = 10, 300, 301
	fetch := message(KindFetch)
	fetch.FirstIndex, fetch.LastIndex = 200, 205
	entries := message(KindEntries)
	entries.FirstIndex, entries.LastIndex = 200, 205
	entries.Entries = []*pb.Entry{
		{Index: new(uint64(200)), Term: new(uint64(6)), Type: pb.EntryNormal.Enum(), Data: []byte("first")},
		{Index: new(uint64(201)), Term: new(uint64(6)), Type: pb.EntryNormal.Enum(), Data: []byte("second")},
	}
	return map[string]*Message{
		"hello": hello, "welcome": welcome, "promise": promise, "promised": promised,
		"join": message(KindJoin), "stand": message(KindStand), "report": report, "fetch": fetch, "entries": entries,
		"raft_app": raft(&pb.Message{
			Type: pb.MsgApp.Enum(), LogTerm: new(uint64(7)), Index: new(uint64(199)), Commit: new(uint64(198)),
			Entries: []*pb.Entry{
				{Index: new(uint64(200)), Term: new(uint64(7)), Type: pb.EntryNormal.Enum(), Data: []byte("data")},
				{Index: new(uint64(201)), Term: new(uint64(7)), Data: []byte{}}, // as a leader proposes it
				{Index: new(uint64(202)), Term: new(uint64(8)), Type: pb.EntryConfChangeV2.Enum()},
			},
		}),
		"raft_app_resp": raft(&pb.Message{
			Type: pb.MsgAppResp.Enum(), LogTerm: new(uint64(6)), Index: new(uint64(199)), Reject: new(true), RejectHint: new(uint64(150)),
		}),
		"raft_heartbeat":  raft(&pb.Message{Type: pb.MsgHeartbeat.Enum(), Commit: new(uint64(0)), Context: []byte("8 bytes.")}),
		"raft_read_index": raft(&pb.Message{Type: pb.MsgReadIndex.Enum(), Entries: []*pb.Entry{{Data: []byte("the id of a question")}}}),
		"raft_snap": raft(&pb.Message{Type: pb.MsgSnap.Enum(), Snapshot: &pb.Snapshot{
			Data: []byte("16 bytes of data"),
			Metadata: &pb.SnapshotMetadata{Index: new(uint64(100)), Term: new(uint64(5)), ConfState: &pb.ConfState{
				Voters: []uint64{1, 2}, Learners: []uint64{3}, VotersOutgoing: []uint64{4}, LearnersNext: []uint64{2}, AutoLeave: new(true),
			}},
		}}),
		"raft_vote": raft(&pb.Message{Type: pb.MsgVote.Enum(), LogTerm: new(uint64(6)), Index: new(uint64(199)), Vote: new(uint64(other))}),
	}
}

// TestMessageGolden pins the bytes that FORMAT.md describes. What has been cut off is noticed,
// wherever that is.
func TestMessageGolden(t *testing.T) {
	kinds := map[Kind]bool{}
	for name, m := range goldenMessages() {
		kinds[m.Kind] = true
		t.Run(name, func(t *testing.T) {
			path := filepath.Join("testdata", "golden", "message_"+name+".hex")
			b := encoded(m)
			if *update {
				require.NoError(t, os.WriteFile(path, []byte(hex.EncodeToString(b)+"\n"), 0o644))
			}
			want, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, string(want), hex.EncodeToString(b)+"\n")
			got, err := DecodeMessage(b)
			require.NoError(t, err)
			sameMessage(t, m, got)
			for n := range b {
				_, err := DecodeMessage(b[:n])
				require.ErrorIs(t, err, ErrMessage, "cut at %d", n)
			}
			_, err = DecodeMessage(append(b, 0))
			require.ErrorIs(t, err, ErrMessage)
		})
	}
	for k := KindRaft; k <= lastKind; k++ {
		require.True(t, kinds[k], "kind %d has a file", k)
	}
}

// Nothing may be added to these without a place in the encoding.
func TestMessageFields(t *testing.T) {
	count := func(typ reflect.Type) (n int) {
		for i := range typ.NumField() {
			if typ.Field(i).IsExported() {
				n++
			}
		}
		return n
	}
	require.Equal(t, 15, count(reflect.TypeFor[Message]()))
	require.Equal(t, 14, count(reflect.TypeFor[pb.Message]()))
	require.Equal(t, 4, count(reflect.TypeFor[pb.Entry]()))
	require.Equal(t, 2, count(reflect.TypeFor[pb.Snapshot]()))
	require.Equal(t, 3, count(reflect.TypeFor[pb.SnapshotMetadata]()))
	require.Equal(t, 5, count(reflect.TypeFor[pb.ConfState]()))
}

func random(rng *rand.Rand) uint64 { return rng.Uint64() >> rng.IntN(64) }

// some returns v or nothing.
func some[T any](rng *rand.Rand, v T) *T {
	if rng.IntN(3) == 0 {
		return nil
	}
	return &v
}

func someBytes(rng *rand.Rand) []byte {
	switch rng.IntN(4) {
	case 0:
		return nil
	case 1:
		return []byte{}
	}
	b := make([]byte, rng.IntN(3*copyBelow))
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

func someIDs[T ~uint64](rng *rand.Rand) (ids []T) {
	for range rng.IntN(4) {
		ids = append(ids, T(random(rng)))
	}
	return ids
}

func someEntries(rng *rand.Rand) (entries []*pb.Entry) {
	term, index := random(rng), random(rng)
	for range rng.IntN(6) {
		if rng.IntN(4) == 0 {
			term, index = random(rng), random(rng)
		}
		e := &pb.Entry{Term: some(rng, term), Index: some(rng, index), Data: someBytes(rng)}
		if typ := rng.IntN(4); typ < 3 {
			e.Type = pb.EntryType(typ).Enum()
		}
		index++
		entries = append(entries, e)
	}
	return entries
}

func someRaft(rng *rand.Rand) *pb.Message {
	types := []pb.MessageType{
		pb.MsgProp, pb.MsgApp, pb.MsgAppResp, pb.MsgVote, pb.MsgVoteResp, pb.MsgSnap, pb.MsgHeartbeat, pb.MsgHeartbeatResp, pb.MsgTransferLeader,
		pb.MsgTimeoutNow, pb.MsgReadIndex, pb.MsgReadIndexResp, pb.MsgPreVote, pb.MsgPreVoteResp, pb.MsgForgetLeader,
	}
	m := &pb.Message{
		Type: types[rng.IntN(len(types))].Enum(), To: some(rng, random(rng)), From: some(rng, random(rng)), Term: some(rng, random(rng)),
		LogTerm: some(rng, random(rng)), Index: some(rng, random(rng)), Commit: some(rng, random(rng)), Vote: some(rng, random(rng)),
		Reject: some(rng, rng.IntN(2) == 0), RejectHint: some(rng, random(rng)), Context: someBytes(rng), Entries: someEntries(rng),
	}
	if rng.IntN(3) == 0 {
		m.Snapshot = &pb.Snapshot{Data: someBytes(rng)}
		if rng.IntN(4) > 0 {
			m.Snapshot.Metadata = &pb.SnapshotMetadata{Index: some(rng, random(rng)), Term: some(rng, random(rng))}
			if rng.IntN(4) > 0 {
				m.Snapshot.Metadata.ConfState = &pb.ConfState{
					Voters: someIDs[uint64](rng), Learners: someIDs[uint64](rng), VotersOutgoing: someIDs[uint64](rng), LearnersNext: someIDs[uint64](rng),
					AutoLeave: some(rng, rng.IntN(2) == 0),
				}
			}
		}
	}
	return m
}

func someMessage(rng *rand.Rand) *Message {
	m := &Message{
		Kind: KindRaft + Kind(rng.IntN(int(lastKind))), From: NodeID(rng.Uint32()), To: NodeID(rng.Uint32()), Cluster: random(rng), Peer: PeerID(random(rng)),
	}
	switch m.Kind {
	case KindRaft:
		m.Raft = someRaft(rng)
	case KindHello, KindWelcome:
		m.Phase, m.Nonce, m.Founders = byte(rng.Uint32()), random(rng), someIDs[PeerID](rng)
	case KindPromise, KindPromised:
		m.Founders = someIDs[PeerID](rng)
	case KindReport:
		m.First, m.Commit, m.End = random(rng), random(rng), random(rng)
	case KindFetch:
		m.FirstIndex, m.LastIndex = random(rng), random(rng)
	case KindEntries:
		m.FirstIndex, m.LastIndex, m.Entries = random(rng), random(rng), someEntries(rng)
	}
	return m
}

// Any message survives, and neither encoding nor decoding keeps hold of, or changes, what it
// must not.
func TestMessageRoundTrip(t *testing.T) {
	const seed = 1
	rng := rand.New(rand.NewPCG(seed, 0))
	for i := range 20_000 {
		m := someMessage(rng)
		parts := m.Encode(5)
		b := bytes.Join(parts, nil)
		require.Equal(t, make([]byte, 5), b[:5])
		got, err := DecodeMessage(b[5:])
		require.NoError(t, err, "message %d of seed %d", i, seed)
		again := bytes.Clone(b[5:])
		clear(b) // the next frame comes into the same buffer
		sameMessage(t, m, got)
		require.Equal(t, again, encoded(got))
	}
}

func TestMessageRefused(t *testing.T) {
	head := func(kind Kind, rest ...byte) []byte {
		return append(encoded(&Message{Kind: 200, From: 1, To: 2})[:1], append(append([]byte{byte(kind)}, make([]byte, 20)...), rest...)...)
	}
	raft := func(rest ...byte) []byte { return head(KindRaft, rest...) }
	app := byte(pb.MsgApp)
	for name, c := range map[string]struct {
		b    []byte
		want string
	}{
		"nothing":                  {nil, "not of version 1"},
		"another version":          {[]byte{2, 1}, "not of version 1"},
		"no kind":                  {head(0), "kind is unknown"},
		"a later kind":             {head(lastKind + 1), "kind is unknown"},
		"a long number":            {head(KindReport, 0x80, 0, 0, 0), "first is longer than it need be"},
		"a number too large":       {head(KindReport, bytes.Repeat([]byte{0xff}, 11)...), "too large"},
		"a storage message":        {raft(byte(pb.MsgStorageAppend), 0, 0, 0), "a node's own"},
		"an unknown type":          {raft(99, 0, 0, 0), "type is unknown"},
		"unknown fields":           {raft(app, 0, 0x80, 0), "fields are unknown"},
		"a reject that is none":    {raft(app, 0, 1, 0), "fields are unknown"},
		"founders that are not":    {head(KindPromise, 0xff, 0xff, 0xff, 0xff, 0x0f), "ends in the founders"},
		"a context that is not":    {raft(app, 0, 4, 0xff, 0xff, 0xff, 0xff, 0x0f), "ends in the context"},
		"entries that are not":     {raft(app, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f), "ends in its entries"},
		"too many entries":         {raft(append([]byte{app, 0, 0, 0x81, 0x80, 0x10}, make([]byte, maxMessageEntries+1)...)...), "at most 262144"},
		"an entry's unknown field": {raft(app, 0, 0, 1, 0x80), "an entry's fields"},
		"an entry's unknown term":  {raft(app, 0, 0, 1, 3<<entryTerm), "an entry's fields"},
		"a term for nothing":       {raft(app, 0, 0, 1, numberGiven<<entryTerm, 0), "term is given for nothing"},
		"an index for nothing":     {raft(app, 0, 0, 1, numberGiven<<entryIndex, 1), "index is given for nothing"},
		"data that is not there":   {raft(app, 0, 0, 1, entryData, 2, 'x'), "2 bytes, and 1 follow"},
		"data too long":            {raft(app, 0, 0, 1, entryData, 0xff, 0xff, 0xff, 0xff, 0x0f), "too long"},
		"too much data":            {raft(app, 0, 0, 1, entryData, 0, 'x'), "0 bytes, and 1 follow"},
		"a snapshot's fields":      {raft(app, 0, 8, 0x80, 0), "snapshot's fields"},
		"a term without metadata":  {raft(app, 0, 8, snapTerm, 1, 0), "snapshot's fields"},
		"bytes behind":             {head(KindJoin, 0), "bytes follow its end"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := DecodeMessage(c.b)
			require.ErrorIs(t, err, ErrMessage)
			require.ErrorContains(t, err, c.want)
		})
	}
}

// A run of entries costs little beside their data, and large data is not copied.
func TestMessageEncodeCost(t *testing.T) {
	m := appOf(64, 1<<10)
	parts := m.Encode(5)
	require.Len(t, parts, 65)
	require.LessOrEqual(t, len(parts[0]), 5+60+64*3)
	for i, e := range m.Raft.Entries {
		require.Same(t, &e.Data[0], &parts[i+1][0])
	}
	parts = appOf(64, 100).Encode(0)
	require.Len(t, parts, 1)
}

func TestMessageClass(t *testing.T) {
	for name, m := range goldenMessages() {
		class, urgent := ClassHeartbeat, true
		switch name {
		case "entries", "raft_app", "raft_snap":
			class, urgent = ClassReplicate, false
		case "raft_app_resp":
			class = ClassReplicateResponse
		}
		require.Equal(t, class, m.Class(), name)
		require.Equal(t, urgent, m.Urgent(), name)
	}
	m := &Message{Kind: KindRaft, Raft: &pb.Message{Type: pb.MsgHeartbeatResp.Enum()}}
	require.Equal(t, ClassHeartbeatResponse, m.Class())
}

func FuzzDecodeMessage(f *testing.F) {
	for _, m := range goldenMessages() {
		f.Add(encoded(m))
	}
	rng := rand.New(rand.NewPCG(2, 0))
	for range 20 {
		f.Add(encoded(someMessage(rng)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := DecodeMessage(b)
		if err != nil {
			require.ErrorIs(t, err, ErrMessage)
			return
		}
		m.Urgent()
		_ = m.check(1)
		require.Equal(t, b, encoded(m))
		again, err := DecodeMessage(encoded(m))
		require.NoError(t, err)
		sameMessage(t, m, again)
	})
}

func appOf(n, size int) *Message {
	m := &pb.Message{
		Type: pb.MsgApp.Enum(), To: new(uint64(newPeerID(1, math.MaxUint64))), From: new(uint64(newPeerID(2, math.MaxUint64))),
		Term: new(uint64(7)), LogTerm: new(uint64(7)), Index: new(uint64(1 << 30)), Commit: new(uint64(1 << 30)),
	}
	for i := range n {
		m.Entries = append(m.Entries, &pb.Entry{
			Term: new(uint64(7)), Index: new(uint64(1<<30 + 1 + i)), Type: pb.EntryNormal.Enum(), Data: make([]byte, size),
		})
	}
	return &Message{Kind: KindRaft, From: 2, To: 1, Cluster: 1, Peer: 2, Raft: m}
}

func BenchmarkMessage(b *testing.B) {
	for _, c := range []struct{ n, size int }{{0, 0}, {1, 1 << 10}, {64, 1 << 10}, {64, 100}, {1, 10 << 20}} {
		m := appOf(c.n, c.size)
		bytes := encoded(m)
		b.Run(fmt.Sprintf("encode/%dx%d", c.n, c.size), func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(bytes)))
			for b.Loop() {
				m.Encode(5)
			}
		})
		b.Run(fmt.Sprintf("decode/%dx%d", c.n, c.size), func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(bytes)))
			for b.Loop() {
				if _, err := DecodeMessage(bytes); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	m := appOf(64, 1<<10)
	bytes, err := proto.Marshal(m.Raft)
	require.NoError(b, err)
	b.Run("protobuf decode/64x1024", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(bytes)))
		for b.Loop() {
			if err := proto.Unmarshal(bytes, &pb.Message{}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
