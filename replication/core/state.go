package core

import (
	"encoding/binary"
	"errors"
	"fmt"

	pb "go.etcd.io/raft/v3/raftpb"
)

// ErrState is wrapped by the error for a log whose state is not that of a replica, or of a
// later version. To begin anew, move the log's directory away.
var ErrState = errors.New("the log's state is not one that this version has written")

// phase is how far a node is with becoming a member.
type phase byte

// Phases of a node.
const (
	phaseBlank    phase = iota // it has no state
	phasePromised              // it has agreed to be a founder, and has never voted
	phaseActive                // it is, or was, a member: raft runs
	phaseJoining               // raft runs, but no membership has had it yet
	lastPhase     = phaseJoining
)

// state is what a node must not forget beside its log. FORMAT.md has its bytes.
type state struct {
	phase    phase
	cluster  uint64
	self     PeerID
	founders []PeerID
	term     uint64
	vote     uint64
	// commit and applied are perhaps not the latest.
	commit, applied uint64
	// confs are the memberships that are still needed: see neededConfs. The last is that
	// at applied, or before.
	confs []confAt
	// boot says in which boot of the machine the node was started last, and clean that it
	// was stopped in order since: without fdatasync, else, what was appended may be lost.
	boot  string
	clean bool
}

// confAt is the membership from entry index on.
type confAt struct {
	index uint64
	conf  *pb.ConfState
}

const (
	stateVersion = 1
	maxBoot      = 64
)

func appendIDs[T ~uint64](b []byte, ids []T) []byte {
	b = binary.AppendUvarint(b, uint64(len(ids)))
	for _, id := range ids {
		b = binary.AppendUvarint(b, uint64(id))
	}
	return b
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

func (s *state) encode() []byte {
	b := []byte{stateVersion, byte(s.phase)}
	b = binary.LittleEndian.AppendUint64(b, s.cluster)
	b = binary.LittleEndian.AppendUint64(b, uint64(s.self))
	b = appendIDs(b, s.founders)
	for _, v := range []uint64{s.term, s.vote, s.commit, s.applied, uint64(len(s.confs))} {
		b = binary.AppendUvarint(b, v)
	}
	for _, c := range s.confs {
		b = binary.AppendUvarint(b, c.index)
		for _, ids := range [][]uint64{c.conf.GetVoters(), c.conf.GetLearners(), c.conf.GetVotersOutgoing(), c.conf.GetLearnersNext()} {
			b = appendIDs(b, ids)
		}
		b = appendBool(b, c.conf.GetAutoLeave())
	}
	b = appendBool(b, s.clean)
	b = binary.AppendUvarint(b, uint64(len(s.boot)))
	return append(b, s.boot...)
}

// decodeState decodes a log's state; that of a blank log is empty. The error wraps ErrState.
func decodeState(b []byte) (s state, err error) {
	if len(b) == 0 {
		return s, nil
	}
	if b[0] != stateVersion {
		return s, fmt.Errorf("%w: version %d", ErrState, b[0])
	}
	d := decoder{b: b[1:]}
	s.phase = phase(d.byte())
	s.cluster, s.self = d.uint64(), PeerID(d.uint64())
	s.founders = decodeIDs[PeerID](&d)
	s.term, s.vote, s.commit, s.applied = d.uvarint(), d.uvarint(), d.uvarint(), d.uvarint()
	for n := d.uvarint(); n > 0 && d.err == nil; n-- {
		c := confAt{index: d.uvarint(), conf: &pb.ConfState{}}
		for _, ids := range []*[]uint64{&c.conf.Voters, &c.conf.Learners, &c.conf.VotersOutgoing, &c.conf.LearnersNext} {
			*ids = decodeIDs[uint64](&d)
		}
		c.conf.AutoLeave = new(d.bool())
		s.confs = append(s.confs, c)
	}
	s.clean = d.bool()
	if n := d.uvarint(); n > maxBoot || n != uint64(len(d.b)) {
		d.fail()
	}
	s.boot = string(d.b)
	if s.phase == phaseBlank || s.phase > lastPhase || s.self == 0 || s.cluster == 0 {
		d.fail()
	}
	return s, d.err
}

// decoder reads numbers; its first error stays.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail() {
	if d.err == nil {
		d.err = fmt.Errorf("%w: it is malformed", ErrState)
	}
	d.b = nil
}

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.fail()
		return 0
	}
	v := d.b[0]
	d.b = d.b[1:]
	return v
}

func (d *decoder) bool() bool {
	v := d.byte()
	if v > 1 {
		d.fail()
	}
	return v == 1
}

func (d *decoder) uint64() uint64 {
	if len(d.b) < 8 {
		d.fail()
		return 0
	}
	v := binary.LittleEndian.Uint64(d.b)
	d.b = d.b[8:]
	return v
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

func decodeIDs[T ~uint64](d *decoder) (ids []T) {
	for n := d.uvarint(); n > 0 && d.err == nil; n-- {
		ids = append(ids, T(d.uvarint()))
	}
	return ids
}
