package core

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/zue-log/zue/storage"
)

// raftLog is a storage.Log as raft reads it. Nothing is written by way of it: see Write.
type raftLog struct {
	log   *storage.Log
	hard  *pb.HardState // to begin with
	confs []confAt      // the newest is that at applied
	// applied is up to where entries have been applied.
	applied uint64
	// recent are the last entries that raft has had written, one behind the other, and
	// recentBytes the length of their data: what is committed, and what followers lack, is
	// mostly among them, and need not be read, copied and verified. Its array is not written
	// to where a slice of it was handed out.
	recent      []*pb.Entry
	recentBytes int
	maxRecent   int // bound of recentBytes, but for the last entry
	// failed is the first error of the log that raft must not go on after, and damaged the
	// first damage that it was told of as something else since it was noted.
	failed  error
	damaged *storage.CorruptionError
}

// InitialState implements raft.Storage.
func (r *raftLog) InitialState() (*pb.HardState, *pb.ConfState, error) {
	return r.hard, r.confAt(r.applied), nil
}

// note keeps an entry that raft has written, in the place of any from there on.
func (r *raftLog) note(e *pb.Entry) {
	if n := len(r.recent); n > 0 {
		first := r.recent[0].GetIndex()
		switch i := e.GetIndex(); {
		case i <= first || i > first+uint64(n):
			r.forget()
		case i < first+uint64(n):
			for _, gone := range r.recent[i-first:] {
				r.recentBytes -= len(gone.GetData())
			}
			r.recent = r.recent[: i-first : i-first]
		}
	}
	r.recent = append(r.recent, e)
	r.recentBytes += len(e.GetData())
	for r.recentBytes > r.maxRecent && len(r.recent) > 1 {
		r.recentBytes -= len(r.recent[0].GetData())
		r.recent = r.recent[1:]
	}
}

// forget forgets all recent entries.
func (r *raftLog) forget() { r.recent, r.recentBytes = nil, 0 }

// remembered returns the recent entries from lo on, up to hi and as many as fit in maxSize, but
// one at least; none if lo is not among them.
func (r *raftLog) remembered(lo, hi, maxSize uint64) []*pb.Entry {
	if len(r.recent) == 0 || lo < r.recent[0].GetIndex() || lo >= r.recent[0].GetIndex()+uint64(len(r.recent)) {
		return nil
	}
	from := lo - r.recent[0].GetIndex()
	to := from + 1
	for size := uint64(len(r.recent[from].GetData())); to < min(uint64(len(r.recent)), from+hi-lo); to++ {
		if size += uint64(len(r.recent[to].GetData())); size > maxSize {
			break
		}
	}
	return r.recent[from:to:to]
}

// Entries implements raft.Storage. It may return fewer than maxSize allows, since
// ReadHeaders ends with the segment; raft asks again. Data entries that are not remembered are
// unread: see [Message.Load].
func (r *raftLog) Entries(lo, hi, maxSize uint64) ([]*pb.Entry, error) {
	if entries := r.remembered(lo, hi, maxSize); len(entries) > 0 {
		return entries, nil
	}
	stored, err := r.log.ReadHeaders(nil, lo, hi-1, int(min(maxSize, math.MaxInt)))
	if err != nil {
		return nil, r.readError(lo, err)
	}
	entries := make([]*pb.Entry, len(stored))
	for i := range stored {
		s := &stored[i]
		if s.Kind == storage.KindData {
			entries[i] = Unread(s.Index, s.Term, s.BodyBytes)
		} else if entries[i], err = fromStored(&s.Entry); err != nil {
			return nil, r.readError(lo, err)
		}
	}
	return entries, nil
}

// Term implements raft.Storage.
func (r *raftLog) Term(i uint64) (uint64, error) {
	if planted("boundary term lost") && i == r.log.FirstPlace().Index && i > 1 {
		return 0, raft.ErrCompacted
	}
	p, err := r.log.PlaceAfter(i)
	if err != nil {
		return 0, r.readError(i, err)
	}
	return p.Term, nil
}

// readError says in raft's words what the log does not have. What was applied and is damaged is as
// good as compacted, until it is mended: a follower that needs it is told where the log begins,
// and is asked again later, or, if only the body is damaged (see Load), is just asked again. Of what was not applied nobody else need have a copy, and the node can
// neither commit it nor send it on. raft panics where it cannot do without, and at any other
// error: it is noted, and raft is not called again.
func (r *raftLog) readError(i uint64, err error) error {
	var missing *storage.IndexError
	var damaged *storage.CorruptionError
	switch {
	case errors.As(err, &missing) && i < missing.First:
		return raft.ErrCompacted
	case errors.As(err, &missing):
		return raft.ErrUnavailable
	case (errors.As(err, &damaged) || errors.Is(err, storage.ErrFault)) && i <= r.applied:
		if damaged == nil { // a sector that the disk does not deliver is as good as damaged
			damaged = &storage.CorruptionError{Index: i, Reason: err.Error()}
		}
		if r.damaged == nil {
			r.damaged = damaged
		}
		return raft.ErrCompacted
	}
	if r.failed == nil {
		r.failed = fmt.Errorf("read entry %d: %w", i, err)
	}
	return err
}

// LastIndex implements raft.Storage.
func (r *raftLog) LastIndex() (uint64, error) { return r.log.LastPlace().Index, nil }

// FirstIndex implements raft.Storage.
func (r *raftLog) FirstIndex() (uint64, error) { return r.log.FirstPlace().Index + 1, nil }

// Snapshot implements raft.Storage. There is no state machine to send: a snapshot is where
// the kept log begins, and the membership of that moment.
func (r *raftLog) Snapshot() (*pb.Snapshot, error) {
	p := r.log.FirstPlace()
	if len(r.confAt(p.Index).GetVoters()) == 0 {
		return nil, raft.ErrSnapshotTemporarilyUnavailable // see boundConfs
	}
	return &pb.Snapshot{
		Data: binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, p.Offset), p.Chain),
		Metadata: &pb.SnapshotMetadata{
			Index: new(p.Index), Term: new(p.Term), ConfState: r.confAt(p.Index),
		},
	}, nil
}

// snapshotPlace returns where a snapshot has a log begin.
func snapshotPlace(s *pb.Snapshot) (storage.Place, error) {
	b := s.GetData()
	if len(b) != 16 {
		return storage.Place{}, fmt.Errorf("snapshot of %d bytes: %w", len(b), ErrMessage)
	}
	if planted("chain lost at install") {
		clear(b[8:])
	}
	return storage.Place{
		Index: s.GetMetadata().GetIndex(), Term: s.GetMetadata().GetTerm(),
		Offset: binary.LittleEndian.Uint64(b), Chain: binary.LittleEndian.Uint64(b[8:]),
	}, nil
}

// confAt returns the membership as of entry index, which must be one that neededConfs
// goes by.
func (r *raftLog) confAt(index uint64) *pb.ConfState {
	for _, c := range slices.Backward(r.confs) {
		if c.index <= index {
			return c.conf
		}
	}
	return pb.EnsureConfState(nil)
}

// boundConfs returns the memberships of a state, of which some are left out as far as the state
// would be too long for the log. The first stays, since by it new nodes are told how the log
// begins, and so do the newest; of those that come after the first, one without voters stands for
// what is left out. Should retention have the log begin there, after the node was started again,
// then new nodes cannot be told how it began, until it begins behind them.
func boundConfs(s state) []confAt {
	for len(s.confs) > 3 && len(s.encode()) > storage.MaxStateBytes-stateReserve {
		confs := slices.Clone(s.confs)
		if len(confs[1].conf.GetVoters()) == 0 {
			confs = slices.Delete(confs, 2, 3)
		} else {
			confs[1].conf = pb.EnsureConfState(nil)
		}
		s.confs = confs
	}
	return s.confs
}

// stateReserve is left for what else a state may get.
const stateReserve = 512

// neededConfs returns those of confs, of which the newest is of an entry in the log, that a
// snapshot may still need: the newest at each place where the log begins or may begin
// later, and the newest of all, which is that of segments to come. (None begins before
// it, since its entry is committed, and durable here.) So their number is bounded by that
// of the segments, whatever the number of changes.
func neededConfs(starts []storage.Place, confs []confAt) (needed []confAt) {
	for i, c := range confs {
		newest := i == len(confs)-1
		if newest || slices.ContainsFunc(starts, func(p storage.Place) bool { return c.index <= p.Index && p.Index < confs[i+1].index }) {
			needed = append(needed, c)
		}
	}
	return needed
}
