package core

import (
	"encoding/hex"
	"flag"
	"hash/crc32"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/zue-log/zue/replication/producer"
	"github.com/zue-log/zue/storage"
	"github.com/zue-log/zue/storage/batch"
)

var update = flag.Bool("update", false, "write the golden files anew")

func someState() state {
	return state{
		phase: phaseActive, cluster: 0x1122334455667788, self: newPeerID(3, 0xa1b2c3d4e5f6),
		founders: []PeerID{newPeerID(1, 1), newPeerID(2, 2)},
		term:     7, vote: uint64(newPeerID(1, 1)), commit: 300, applied: 299, boot: "boot", clean: true,
		confs: []confAt{
			{1, &pb.ConfState{Voters: []uint64{1, 2}, AutoLeave: new(false)}},
			{200, &pb.ConfState{Voters: []uint64{1, 3}, Learners: []uint64{4}, VotersOutgoing: []uint64{1, 2}, LearnersNext: []uint64{2}, AutoLeave: new(true)}},
		},
	}
}

// TestStateGolden pins the bytes that FORMAT.md describes.
func TestStateGolden(t *testing.T) {
	path := filepath.Join("testdata", "golden", "state.hex")
	s := someState()
	b := s.encode()
	if *update {
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(hex.EncodeToString(b)+"\n"), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), hex.EncodeToString(b)+"\n")
	got, err := decodeState(b)
	require.NoError(t, err)
	require.Len(t, got.confs, len(s.confs))
	for i := range s.confs {
		require.True(t, proto.Equal(s.confs[i].conf, got.confs[i].conf))
	}
	require.Equal(t, b, got.encode())
	for n := 1; n < len(b); n++ {
		_, err := decodeState(b[:n])
		require.ErrorIs(t, err, ErrState, "cut at %d", n)
	}
	_, err = decodeState(append(b, 0))
	require.ErrorIs(t, err, ErrState)
	b[0]++
	_, err = decodeState(b)
	require.ErrorContains(t, err, "version 2")
	blank, err := decodeState(nil)
	require.NoError(t, err)
	require.Equal(t, phaseBlank, blank.phase)
}

// However many memberships segments begin with, the state fits where a log keeps it; the first is
// known, and the newest, and of those between it is known that they are not.
func TestStateIsBounded(t *testing.T) {
	s := someState()
	s.confs = nil
	for i := range uint64(300) {
		s.confs = append(s.confs, confAt{10 * i, &pb.ConfState{Voters: []uint64{uint64(newPeerID(1, i)), uint64(newPeerID(2, i)), uint64(newPeerID(3, 1<<47))}}})
	}
	first, newest := s.confs[0], s.confs[299]
	s.confs = boundConfs(s)
	require.LessOrEqual(t, len(s.encode()), storage.MaxStateBytes-stateReserve)
	require.Greater(t, len(s.confs), 50)
	require.Equal(t, newest, s.confs[len(s.confs)-1])
	require.Equal(t, first, s.confs[0])
	r := &raftLog{confs: s.confs}
	require.Equal(t, first.conf, r.confAt(9))
	require.Empty(t, r.confAt(500).GetVoters())
	require.Equal(t, newest.conf, r.confAt(5000))
	few := someState()
	require.Equal(t, few.confs, boundConfs(few))
}

func FuzzDecodeState(f *testing.F) {
	s := someState()
	f.Add(s.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := decodeState(b)
		if err != nil {
			require.ErrorIs(t, err, ErrState)
			return
		}
		if len(b) > 0 {
			again, err := decodeState(s.encode())
			require.NoError(t, err)
			require.Equal(t, s.encode(), again.encode())
		}
	})
}

// forge appends four bytes after which the CRC-32C is sum.
func forge(b []byte, sum uint32) []byte {
	table := crc32.MakeTable(crc32.Castagnoli)
	state := ^sum
	var index [4]byte
	for i := 3; i >= 0; i-- {
		for j, v := range table {
			if v>>24 == state>>24 {
				index[i], state = byte(j), (state^v)<<8
				break
			}
		}
	}
	now := ^crc32.Checksum(b, table)
	for _, j := range index {
		b = append(b, byte(now)^j)
		now = now>>8 ^ table[j]
	}
	return b
}

// Entries go from raft to the log and back as they are, also one whose checksum happens to be
// 0, as that of no bytes is.
func TestEntries(t *testing.T) {
	zero := forge([]byte(producer.ControlID), 0)
	require.Zero(t, batch.Checksum(zero))
	body := batch.Append(nil, []batch.Record{{Value: []byte("v")}}, 1)
	sum := batch.Checksum(body)
	for _, e := range []*pb.Entry{
		{Type: pb.EntryNormal.Enum()},
		{Type: pb.EntryNormal.Enum(), Data: appendEnveloped(nil, storage.KindControl, 0, 0, zero)},
		{Type: pb.EntryNormal.Enum(), Data: appendEnveloped(nil, storage.KindData, sum, sum, body)},
		{Type: pb.EntryConfChange.Enum(), Data: []byte{1, 2}},
		{Type: pb.EntryConfChangeV2.Enum()},
	} {
		e.Index, e.Term = new(uint64(5)), new(uint64(2))
		require.NoError(t, verify(e))
		s, err := toStored(e)
		require.NoError(t, err)
		require.Equal(t, batch.Checksum(s.Body), s.Checksum)
		back, err := fromStored(&s)
		require.NoError(t, err)
		if len(e.Data) == 0 {
			e.Data = nil
		}
		if len(back.Data) == 0 {
			back.Data = nil
		}
		require.True(t, proto.Equal(e, back), "%v, %v", e, back)
	}
	bad := appendEnveloped(nil, storage.KindData, sum, sum, body)
	bad[len(bad)-1] ^= 1
	require.ErrorIs(t, verify(&pb.Entry{Data: bad}), ErrEntry)
	require.ErrorIs(t, verify(&pb.Entry{Data: bad[:5]}), ErrEntry)
	require.ErrorIs(t, verify(&pb.Entry{Data: append([]byte{9}, bad[1:]...)}), ErrEntry)
	_, err := fromStored(&storage.Entry{Kind: storage.KindControl})
	require.ErrorIs(t, err, ErrEntry)
}

func FuzzEntry(f *testing.F) {
	f.Add(appendEnveloped(nil, storage.KindData, 1, 2, []byte("body")), uint8(0))
	f.Fuzz(func(t *testing.T, data []byte, kind uint8) {
		e := &pb.Entry{Index: new(uint64(1)), Term: new(uint64(1)), Type: pb.EntryType(kind % 3).Enum(), Data: data}
		s, err := toStored(e)
		if err != nil {
			require.ErrorIs(t, err, ErrEntry)
			return
		}
		if _, err := fromStored(&s); err != nil {
			require.ErrorIs(t, err, ErrEntry)
		}
	})
}

func TestValidate(t *testing.T) {
	_, err := New(Config{Self: 4, Nodes: []NodeID{1, 1, 0}, Preferred: 9, Quorum: 1, MaxInFlightBytes: -1, BootID: string(make([]byte, 65))})
	for _, want := range []string{"node 4 is not among", "leader 9", "node 1 comes twice", "node 0", "quorum is 1: want 2 to 3", "ElectionTicks", "MaxInFlightBytes", "Log and Rand", "BootID"} {
		require.ErrorContains(t, err, want)
	}
}
