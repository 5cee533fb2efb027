package replication_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/zue-log/zue/storage"
	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
)

// raftLog is a storage.Log as raft's storage: one Raft entry is one entry of the log,
// and there is no other copy. Beside the log it keeps, in the log's state, what raft
// must not forget.
//
// What raft asks for in one go is a write: begin hands it to the log, finish waits
// until it is durable. Several may have begun; they finish in order.
type raftLog struct {
	log   *storage.Log
	saved hardState // what the log's state has
	last  uint64    // index of the last entry handed to the log, durable or not
	// commit is what raft was last told to be committed and every entry up to it is
	// durable here; applied is up to where membership has followed.
	commit, applied uint64

	owes  *debt     // what the disk owes us, kept where a crash does not reach
	hooks hooks     // for tests that must be there at the very moment
	stats *logStats // of the whole run
}

// hooks are called at the beginning of what they are named for.
type hooks struct{ truncate, reset func() }

// logStats counts what a test wants to be sure has happened.
type logStats struct {
	truncations, resets, saves, entriesReads, stored int
	stateBytes                                       int // the longest state
}

// debt is what a node's storage must still have after a crash.
type debt struct {
	place storage.Place  // the log goes that far, with that chain,
	state []byte         // and the state is this,
	tried []byte         // or what an interrupted save would have made it; nil: none was.
	reset *storage.Place // That save was a reset's: with its state, an empty log begins here
}

// write is what raft wants made durable before its answers go out.
type write struct {
	hard     *pb.HardState // nil: no change
	entries  []*pb.Entry
	snapshot *pb.Snapshot // nil: none
}

func newRaftLog(log *storage.Log, owes *debt, stats *logStats) (*raftLog, error) {
	r := &raftLog{log: log, last: log.LastPlace().Index, owes: owes, stats: stats}
	if b := log.State(); len(b) > 0 {
		var err error
		if r.saved, err = decodeHardState(b); err != nil {
			return nil, err
		}
	}
	// The state may know of a later commit than a log whose unsynced end is lost, or of
	// an earlier one than where retention has put its beginning since. (It is right about
	// what it has: see finish.)
	first := log.FirstPlace().Index
	r.commit = min(max(r.saved.commit, first), r.last)
	r.applied = min(max(r.saved.applied, first), r.commit)
	// Readers get what was committed already; there may be nothing left to apply.
	return r, log.Commit(r.applied)
}

// bootstrap makes a blank log one of a cluster that begins with these voters. Its first
// entry is the second: so nobody can join by entries alone, which would not tell him of
// the first voters. The cluster's id is where all chains begin.
func (r *raftLog) bootstrap(cluster uint64, voters []uint64) error {
	origin := storage.Place{Index: 1, Term: 1, Chain: cluster}
	return r.reset(origin, hardState{term: 1}, pb.EnsureConfState(&pb.ConfState{Voters: voters}))
}

// InitialState implements raft.Storage.
func (r *raftLog) InitialState() (*pb.HardState, *pb.ConfState, error) {
	return &pb.HardState{Term: new(r.saved.term), Vote: new(r.saved.vote), Commit: new(r.commit)}, r.confAt(r.applied), nil
}

// Entries implements raft.Storage. It may return fewer than maxSize allows, since
// ReadEntries ends with the segment; raft asks again. Bodies are copied: nobody can say
// when raft, and the messages that it makes of them, are done with them.
func (r *raftLog) Entries(lo, hi, maxSize uint64) ([]*pb.Entry, error) {
	if lo <= r.log.FirstPlace().Index {
		return nil, raft.ErrCompacted
	}
	r.stats.entriesReads++
	stored, lease, err := r.log.ReadEntries(nil, lo, hi-1, int(min(maxSize, math.MaxInt)))
	if err != nil {
		return nil, r.readError(lo, err)
	}
	defer lease.Release()
	entries := make([]*pb.Entry, len(stored))
	for i := range stored {
		if entries[i], err = fromStored(&stored[i]); err != nil {
			return nil, err
		}
	}
	return entries, nil
}

// Term implements raft.Storage.
func (r *raftLog) Term(i uint64) (uint64, error) {
	p, err := r.log.PlaceAfter(i)
	if err != nil {
		return 0, r.readError(i, err)
	}
	return p.Term, nil
}

// readError says in raft's words what the log does not have.
func (r *raftLog) readError(i uint64, err error) error {
	var missing *storage.IndexError
	switch {
	case !errors.As(err, &missing):
		return err
	case i < missing.First:
		return raft.ErrCompacted
	}
	return raft.ErrUnavailable
}

// LastIndex implements raft.Storage.
func (r *raftLog) LastIndex() (uint64, error) { return r.log.LastPlace().Index, nil }

// FirstIndex implements raft.Storage.
func (r *raftLog) FirstIndex() (uint64, error) { return r.log.FirstPlace().Index + 1, nil }

// Snapshot implements raft.Storage. There is no state machine to send: a snapshot is
// where the kept log begins, and the membership of that moment.
func (r *raftLog) Snapshot() (*pb.Snapshot, error) {
	p := r.log.FirstPlace()
	return &pb.Snapshot{
		Data: binary.AppendUvarint(binary.AppendUvarint(nil, p.Offset), p.Chain),
		Metadata: &pb.SnapshotMetadata{
			Index:     new(p.Index),
			Term:      new(p.Term),
			ConfState: r.confAt(p.Index),
		},
	}, nil
}

func snapshotPlace(s *pb.Snapshot) (storage.Place, error) {
	d := decoder{b: s.GetData()}
	p := storage.Place{Index: s.GetMetadata().GetIndex(), Term: s.GetMetadata().GetTerm(), Offset: d.uvarint(), Chain: d.uvarint()}
	return p, d.err
}

// begin hands w to the log. A suffix that raft has found in conflict goes first, and
// durably: the new entries must not be followed by old ones, whatever crashes.
func (r *raftLog) begin(w write) (p storage.Pending, err error) {
	if !raft.IsEmptySnap(w.snapshot) {
		if err := r.restore(w.snapshot); err != nil {
			return p, err
		}
	}
	if len(w.entries) == 0 {
		return p, nil
	}
	if first := w.entries[0].GetIndex(); first <= r.last {
		if err := r.truncate(first - 1); err != nil {
			return p, err
		}
	}
	entries := make([]storage.Entry, len(w.entries))
	for i, e := range w.entries {
		entries[i] = toStored(e)
	}
	r.last = entries[len(entries)-1].Index
	r.stats.stored += len(entries)
	return r.log.AppendEntries(entries...), nil
}

// finish waits until w, which begin has begun, is durable.
//
// Term and vote are saved when they change. Commit is not, but for one case: before a
// change of membership is acknowledged, that commit must be durable which let the leader
// propose it, as it is the commit of the change before. Otherwise a majority that
// restarts could be back two changes, elect by a membership that has no voter in common
// with the present one, and overwrite what that has committed.
func (r *raftLog) finish(w write, p storage.Pending) error {
	if len(w.entries) > 0 {
		if _, err := p.Wait(); err != nil {
			return err
		}
		r.owes.place = r.log.LastPlace()
	}
	next := r.saved
	if !raft.IsEmptyHardState(w.hard) {
		r.commit = max(r.commit, w.hard.GetCommit())
		next.term, next.vote = w.hard.GetTerm(), w.hard.GetVote()
	}
	changesConf := slices.ContainsFunc(w.entries, func(e *pb.Entry) bool { return e.GetType() != pb.EntryNormal })
	if next.term == r.saved.term && next.vote == r.saved.vote && (!changesConf || r.commit == r.saved.commit) {
		return nil
	}
	// Not before the entries are durable: in their place there may have been others,
	// which this commit is not about.
	next.commit, next.applied = r.commit, r.applied
	return r.save(next)
}

// apply notes that all entries up to index are applied. The log is told only now what is
// committed, since from then on retention may remove it, and raft wants to read again
// what it has not applied.
func (r *raftLog) apply(index uint64) error {
	r.applied = index
	return r.log.Commit(index)
}

// applyConf saves the membership that entry index has led to. It must be durable before
// anything is sent that goes by it.
func (r *raftLog) applyConf(index uint64, cs *pb.ConfState) error {
	next := r.saved
	next.commit, next.applied = max(r.commit, index), index
	next.confs = r.neededConfs(append(slices.Clone(next.confs), confAt{index, cs}))
	return r.save(next)
}

// restore begins the log anew where a snapshot says.
func (r *raftLog) restore(s *pb.Snapshot) error {
	p, err := snapshotPlace(s)
	if err != nil {
		return err
	}
	return r.reset(p, r.saved, s.GetMetadata().GetConfState())
}

// reset makes p the beginning of the log and cs the membership there, both at once: no
// crash can leave one without the other. Of next, term and vote stay.
func (r *raftLog) reset(p storage.Place, next hardState, cs *pb.ConfState) error {
	if r.hooks.reset != nil {
		r.hooks.reset()
	}
	next.commit, next.applied, next.confs = p.Index, p.Index, []confAt{{p.Index, cs}}
	r.owes.reset = &p
	if err := r.keep(next, func(b []byte) error { return r.log.Reset(p, b) }); err != nil {
		return err
	}
	r.owes.place, r.owes.reset = p, nil
	r.last, r.commit, r.applied = p.Index, p.Index, p.Index
	r.stats.resets++
	return nil
}

func (r *raftLog) truncate(last uint64) error {
	if r.hooks.truncate != nil {
		r.hooks.truncate()
	}
	if last < r.owes.place.Index {
		p, err := r.log.PlaceAfter(last)
		if err != nil {
			return err
		}
		r.owes.place = p
	}
	if err := r.log.TruncateSuffix(last); err != nil {
		return err
	}
	r.last = last
	r.stats.truncations++
	return nil
}

func (r *raftLog) save(next hardState) error { return r.keep(next, r.log.SetState) }

// keep makes next the log's state by what is given for it.
func (r *raftLog) keep(next hardState, set func([]byte) error) error {
	b := next.encode()
	r.stats.saves++
	r.stats.stateBytes = max(r.stats.stateBytes, len(b))
	r.owes.tried = b
	if err := set(b); err != nil {
		return err
	}
	r.saved, r.owes.state, r.owes.tried = next, b, nil
	return nil
}

// confAt returns the membership as of entry index, which must be one that neededConfs
// goes by.
func (r *raftLog) confAt(index uint64) *pb.ConfState { return newestConf(r.saved.confs, index) }

// newestConf returns the newest of confs as of entry index.
func newestConf(confs []confAt, index uint64) *pb.ConfState {
	for _, c := range slices.Backward(confs) {
		if c.index <= index {
			return c.conf
		}
	}
	return pb.EnsureConfState(nil)
}

// neededConfs returns those of confs, of which the newest is of an entry in the log, that a
// snapshot may still need: the newest at each place where the log begins or may begin
// later, and the newest of all, which is that of segments to come. (None begins before
// it, since its entry is committed, and durable here.) So their number is bounded by that
// of the segments, whatever the number of changes.
func (r *raftLog) neededConfs(confs []confAt) (needed []confAt) {
	starts := r.log.Starts()
	for i, c := range confs {
		newest := i == len(confs)-1
		if newest || slices.ContainsFunc(starts, func(p storage.Place) bool { return c.index <= p.Index && p.Index < confs[i+1].index }) {
			needed = append(needed, c)
		}
	}
	return needed
}

// Kinds of control entries: the first byte of their body.
const (
	controlNoop   = 1 // a leader's first entry
	controlConf   = 2 // and then a raftpb.ConfChange
	controlConfV2 = 3 // and then a raftpb.ConfChangeV2, which may be empty
)

// toStored makes a log entry of one of raft's. Data is a record batch, verbatim, and as it
// was born: nothing is compacted here, or raft's entry would have to carry that checksum.
func toStored(e *pb.Entry) storage.Entry {
	kind, body := storage.KindControl, []byte(nil)
	switch {
	case e.GetType() == pb.EntryConfChange:
		body = append([]byte{controlConf}, e.GetData()...)
	case e.GetType() == pb.EntryConfChangeV2:
		body = append([]byte{controlConfV2}, e.GetData()...)
	case len(e.GetData()) == 0:
		body = []byte{controlNoop}
	default:
		kind, body = storage.KindData, e.GetData()
	}
	return storage.NewEntry(e.GetIndex(), e.GetTerm(), kind, body)
}

func fromStored(s *storage.Entry) (*pb.Entry, error) {
	e := &pb.Entry{Index: new(s.Index), Term: new(s.Term), Type: pb.EntryNormal.Enum()}
	if s.Kind == storage.KindData {
		e.Data = slices.Clone(s.Body)
		return e, nil
	}
	if len(s.Body) == 0 {
		return nil, fmt.Errorf("entry %d: control entry without a kind", s.Index)
	}
	switch s.Body[0] {
	case controlNoop:
		return e, nil
	case controlConf:
		e.Type = pb.EntryConfChange.Enum()
	case controlConfV2:
		e.Type = pb.EntryConfChangeV2.Enum()
	default:
		return nil, fmt.Errorf("entry %d: control entry of kind %d", s.Index, s.Body[0])
	}
	if len(s.Body) > 1 {
		e.Data = slices.Clone(s.Body[1:])
	}
	return e, nil
}

// hardState is what a node must not forget beside its log.
type hardState struct {
	term, vote      uint64
	commit, applied uint64 // perhaps not the latest
	confs           []confAt
}

// confAt is the membership from entry index on.
type confAt struct {
	index uint64
	conf  *pb.ConfState
}

const hardStateVersion = 1

func (h *hardState) encode() []byte {
	b := []byte{hardStateVersion}
	for _, v := range []uint64{h.term, h.vote, h.commit, h.applied, uint64(len(h.confs))} {
		b = binary.AppendUvarint(b, v)
	}
	for _, c := range h.confs {
		b = binary.AppendUvarint(b, c.index)
		for _, ids := range [][]uint64{c.conf.GetVoters(), c.conf.GetLearners(), c.conf.GetVotersOutgoing(), c.conf.GetLearnersNext()} {
			b = binary.AppendUvarint(b, uint64(len(ids)))
			for _, id := range ids {
				b = binary.AppendUvarint(b, id)
			}
		}
		if c.conf.GetAutoLeave() {
			b = append(b, 1)
		} else {
			b = append(b, 0)
		}
	}
	return b
}

func decodeHardState(b []byte) (h hardState, err error) {
	d := decoder{b: b}
	if v := d.uvarint(); d.err == nil && v != hardStateVersion {
		return h, fmt.Errorf("state of version %d", v)
	}
	h.term, h.vote, h.commit, h.applied = d.uvarint(), d.uvarint(), d.uvarint(), d.uvarint()
	for n := d.uvarint(); n > 0 && d.err == nil; n-- {
		c := confAt{index: d.uvarint(), conf: &pb.ConfState{}}
		for _, ids := range []*[]uint64{&c.conf.Voters, &c.conf.Learners, &c.conf.VotersOutgoing, &c.conf.LearnersNext} {
			*ids = d.ids()
		}
		c.conf.AutoLeave = new(d.uvarint() == 1)
		h.confs = append(h.confs, c)
	}
	if d.err == nil && len(d.b) > 0 {
		d.err = errState
	}
	return h, d.err
}

var errState = errors.New("state is malformed")

// decoder reads varints; its first error stays.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 || d.err != nil {
		d.err = errState
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) ids() (ids []uint64) {
	for n := d.uvarint(); n > 0 && d.err == nil; n-- {
		ids = append(ids, d.uvarint())
	}
	return ids
}
