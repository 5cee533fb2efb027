package core

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/zue-log/zue/storage"
)

// How a message looks on its way to another node; FORMAT.md has the bytes. It is not protobuf:
// messages with entries are most of the traffic, and to take 64 entries of 1 KiB out of protobuf
// takes 41 us and 335 allocations, out of this 21 us and 5 (BenchmarkMessage); to encode them
// takes 2 us, since they are sent from where they are.
//
// There is one way to encode a message, and all others are refused: so what is decoded encodes
// to the same bytes again.

const (
	messageVersion = 1
	// maxMessageEntries bounds what the entries of a message take beside their data: raft puts
	// 1 MiB of them into one, and none of them is counted as less than 6 bytes.
	maxMessageEntries = 1 << 18
	// copyBelow is the length of an entry's data from which on it is sent from where it is:
	// below, a copy costs less than one more part in a system call.
	copyBelow = 512
)

// Class says to what kind of traffic a message belongs. The types of frames between nodes are
// by it: see net/PROTOCOL.md.
type Class uint8

// Classes of messages.
const (
	// ClassReplicate messages carry entries of the log, or a snapshot.
	ClassReplicate Class = iota
	// ClassReplicateResponse messages answer those of raft.
	ClassReplicateResponse
	// ClassHeartbeat is for all other messages, which are small.
	ClassHeartbeat
	// ClassHeartbeatResponse messages answer a leader's heartbeats.
	ClassHeartbeatResponse
)

// Class returns the message's class.
func (m *Message) Class() Class {
	switch {
	case m.Kind == KindEntries:
		return ClassReplicate
	case m.Kind != KindRaft:
		return ClassHeartbeat
	}
	switch m.Raft.GetType() {
	case pb.MsgApp, pb.MsgSnap:
		return ClassReplicate
	case pb.MsgAppResp:
		return ClassReplicateResponse
	case pb.MsgHeartbeatResp:
		return ClassHeartbeatResponse
	}
	return ClassHeartbeat
}

// Urgent says that the message is small, and must not wait for others that are not: it carries
// neither entries nor a snapshot. Raft's appends without entries are not urgent, either, since
// they must not overtake those with.
func (m *Message) Urgent() bool { return m.Class() != ClassReplicate }

// Bits of a raft message's second field: which others it has.
const (
	hasTo = 1 << iota
	hasFrom
	hasTerm
	hasLogTerm
	hasIndex
	hasCommit
	hasVote
	hasReject
	isReject
	hasRejectHint
	hasContext
	hasSnapshot
	allHas = 1<<iota - 1
)

// Bits of a snapshot's first field.
const (
	snapData = 1 << iota
	snapMeta
	snapIndex
	snapTerm
	snapConf
	snapAutoLeave
	snapLeaves
	allSnap = 1<<iota - 1
)

// An entry's first byte: two bits each for its type, term and index, and one that says that it
// has data, if only none.
const (
	entryTypeMask = 3 // 0: it has no type; else the type and 1
	entryTerm     = 2 // shift
	entryIndex    = 4 // shift
	entryData     = 1 << 6
	allEntry      = 1<<7 - 1

	numberNone  = 0
	numberNext  = 1 // the term is that of the entry before, the index the next
	numberGiven = 2 // it follows
)

// Encode returns the message's bytes, in parts that follow one another. The first has reserve
// bytes in front, of value 0, for a header of the transport's. Data of entries is not copied, if
// there is much of it: those parts are the entries' own, so they must not be changed, and the
// message must not be, until they have been sent. One that is [Message.Stored] must be loaded
// first.
//
// The message must be one of a [Core]'s: of the fields, those of its kind are encoded, and of
// raft's all but Responses, which are for the node itself.
func (m *Message) Encode(reserve int) [][]byte {
	entries := m.entries()
	b := make([]byte, reserve, reserve+128+4*len(entries)+len(m.Raft.GetContext()))
	b = append(b, messageVersion, byte(m.Kind))
	b = binary.LittleEndian.AppendUint16(b, uint16(m.From))
	b = binary.LittleEndian.AppendUint16(b, uint16(m.To))
	b = binary.LittleEndian.AppendUint64(b, m.Cluster)
	b = binary.LittleEndian.AppendUint64(b, uint64(m.Peer))
	switch m.Kind {
	case KindRaft:
		b = appendRaft(b, m.Raft)
		return appendEntries(b, entries, m.loaded, m.Raft.GetLogTerm(), m.Raft.GetIndex())
	case KindHello, KindWelcome:
		b = append(b, m.Phase)
		b = binary.LittleEndian.AppendUint64(b, m.Nonce)
		b = appendIDs(b, m.Founders)
	case KindPromise, KindPromised:
		b = appendIDs(b, m.Founders)
	case KindReport:
		b = appendUvarints(b, m.First, m.Commit, m.End)
	case KindFetch:
		b = appendUvarints(b, m.FirstIndex, m.LastIndex)
	case KindEntries:
		b = appendUvarints(b, m.FirstIndex, m.LastIndex)
		return appendEntries(b, entries, m.loaded, 0, m.FirstIndex-1)
	}
	return [][]byte{b}
}

func appendUvarints(b []byte, values ...uint64) []byte {
	for _, v := range values {
		b = binary.AppendUvarint(b, v)
	}
	return b
}

func appendLong(b, data []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(data))), data...)
}

// appendRaft appends a message of raft's but for its entries.
func appendRaft(b []byte, m *pb.Message) []byte {
	b = append(b, byte(m.GetType()))
	has := uint16(0)
	note := func(is bool, bit uint16) {
		if is {
			has |= bit
		}
	}
	if m != nil {
		note(m.To != nil, hasTo)
		note(m.From != nil, hasFrom)
		note(m.Term != nil, hasTerm)
		note(m.LogTerm != nil, hasLogTerm)
		note(m.Index != nil, hasIndex)
		note(m.Commit != nil, hasCommit)
		note(m.Vote != nil, hasVote)
		note(m.Reject != nil, hasReject)
		note(m.GetReject(), isReject)
		note(m.RejectHint != nil, hasRejectHint)
		note(m.Context != nil, hasContext)
		note(m.Snapshot != nil, hasSnapshot)
	}
	b = binary.LittleEndian.AppendUint16(b, has)
	for _, id := range [3]struct {
		bit uint16
		id  uint64
	}{{hasTo, m.GetTo()}, {hasFrom, m.GetFrom()}, {hasVote, m.GetVote()}} {
		if has&id.bit != 0 {
			b = binary.LittleEndian.AppendUint64(b, id.id)
		}
	}
	for _, v := range [5]struct {
		bit   uint16
		value uint64
	}{{hasTerm, m.GetTerm()}, {hasLogTerm, m.GetLogTerm()}, {hasIndex, m.GetIndex()}, {hasCommit, m.GetCommit()}, {hasRejectHint, m.GetRejectHint()}} {
		if has&v.bit != 0 {
			b = binary.AppendUvarint(b, v.value)
		}
	}
	if has&hasContext != 0 {
		b = appendLong(b, m.GetContext())
	}
	if has&hasSnapshot != 0 {
		b = appendSnapshot(b, m.GetSnapshot())
	}
	return b
}

func appendSnapshot(b []byte, s *pb.Snapshot) []byte {
	has := byte(0)
	note := func(is bool, bit byte) {
		if is {
			has |= bit
		}
	}
	meta, conf := s.GetMetadata(), s.GetMetadata().GetConfState()
	note(s.Data != nil, snapData)
	note(meta != nil, snapMeta)
	note(meta != nil && meta.Index != nil, snapIndex)
	note(meta != nil && meta.Term != nil, snapTerm)
	note(conf != nil, snapConf)
	note(conf != nil && conf.AutoLeave != nil, snapAutoLeave)
	note(conf.GetAutoLeave(), snapLeaves)
	b = append(b, has)
	if has&snapData != 0 {
		b = appendLong(b, s.GetData())
	}
	if has&snapIndex != 0 {
		b = binary.AppendUvarint(b, meta.GetIndex())
	}
	if has&snapTerm != 0 {
		b = binary.AppendUvarint(b, meta.GetTerm())
	}
	if has&snapConf != 0 {
		for _, ids := range [][]uint64{conf.GetVoters(), conf.GetLearners(), conf.GetVotersOutgoing(), conf.GetLearnersNext()} {
			b = appendIDs(b, ids)
		}
	}
	return b
}

// appendEntries appends entries: what is to be said of each, and then the data of all. That of the
// first may be loaded. Term and index are what the first one's are compared with.
func appendEntries(b []byte, entries []*pb.Entry, loaded []storage.Entry, term, index uint64) [][]byte {
	b = binary.AppendUvarint(b, uint64(len(entries)))
	small, large := 0, 0
	for i, e := range entries {
		at := len(b)
		b = append(b, 0)
		first := byte(0)
		if e.Type != nil {
			first = byte(*e.Type+1) & entryTypeMask
		}
		if e.Term != nil {
			first |= numberNext << entryTerm
			if *e.Term != term {
				first ^= (numberNext ^ numberGiven) << entryTerm
				b = binary.AppendUvarint(b, *e.Term)
			}
			term = *e.Term
		}
		if e.Index != nil {
			first |= numberNext << entryIndex
			if index++; *e.Index != index {
				first ^= (numberNext ^ numberGiven) << entryIndex
				b = binary.AppendUvarint(b, *e.Index)
			}
			index = *e.Index
		}
		head, data := 0, e.Data
		if i < len(loaded) && isUnread(e) {
			head, data = envelope, loaded[i].Body
		}
		if data != nil {
			first |= entryData
			b = binary.AppendUvarint(b, uint64(head+len(data)))
		}
		b[at] = first
		small += head
		if len(data) < copyBelow {
			small += len(data)
		} else {
			large++
		}
	}
	return appendData(slices.Grow(b, small), entries, loaded, large)
}

// appendData appends the data of entries to b, which has room for all that is copied, and
// returns the parts: large of them are the entries' own.
func appendData(b []byte, entries []*pb.Entry, loaded []storage.Entry, large int) [][]byte {
	parts := make([][]byte, 0, 2*large+1)
	start := 0
	for i, e := range entries {
		data := e.Data
		if i < len(loaded) && isUnread(e) {
			s := &loaded[i]
			b = appendEnveloped(b, s.Kind, s.Checksum, s.Born, nil)
			data = s.Body
		}
		if len(data) < copyBelow {
			b = append(b, data...)
			continue
		}
		if len(b) > start {
			parts = append(parts, b[start:len(b):len(b)])
			start = len(b)
		}
		parts = append(parts, data)
	}
	if len(b) > start {
		parts = append(parts, b[start:])
	}
	return parts
}

// DecodeMessage decodes what [Message.Encode] has encoded, without its reserve. The message
// keeps nothing of b: data of entries is copied, that of all by one allocation, which lives as
// long as any of them. (Of the 21 us for 64 entries of 1 KiB that is 17, for fresh memory. To
// take b over instead would save nothing: each frame would have to be received into fresh
// memory, where a connection has one buffer for all.) The error wraps [ErrMessage]. Whether the
// message makes sense is for [Core.Step] to say.
func DecodeMessage(b []byte) (*Message, error) {
	if len(b) == 0 || b[0] != messageVersion {
		return nil, fmt.Errorf("message of %d bytes, not of version %d: %w", len(b), messageVersion, ErrMessage)
	}
	r := messageReader{b: b[1:]}
	m := &Message{Kind: Kind(r.byte("kind"))}
	m.From, m.To = NodeID(r.uint16("sender")), NodeID(r.uint16("recipient"))
	m.Cluster, m.Peer = r.uint64("cluster"), PeerID(r.uint64("peer"))
	switch m.Kind {
	case KindRaft:
		m.Raft = r.raft()
	case KindHello, KindWelcome:
		m.Phase, m.Nonce = r.byte("phase"), r.uint64("nonce")
		m.Founders = readIDs[PeerID](&r, "founders")
	case KindPromise, KindPromised:
		m.Founders = readIDs[PeerID](&r, "founders")
	case KindJoin, KindStand:
	case KindReport:
		m.First, m.Commit, m.End = r.uvarint("first"), r.uvarint("commit"), r.uvarint("end")
	case KindFetch:
		m.FirstIndex, m.LastIndex = r.uvarint("first index"), r.uvarint("last index")
	case KindEntries:
		m.FirstIndex, m.LastIndex = r.uvarint("first index"), r.uvarint("last index")
		m.Entries = r.entries(0, m.FirstIndex-1)
	default:
		r.fail("kind is unknown")
	}
	if r.fault == "" && len(r.b) > 0 {
		r.fail("bytes follow its end")
	}
	if r.fault != "" {
		return nil, fmt.Errorf("message of kind %d, of %d bytes: %s: %w", m.Kind, len(b), r.fault, ErrMessage)
	}
	return m, nil
}

// messageReader takes a message's fields off its bytes. Its first fault stays, and all after it
// is zero.
type messageReader struct {
	b     []byte
	fault string
}

func (r *messageReader) fail(fault string) {
	if r.fault == "" {
		r.fault = fault
	}
	r.b = nil
}

func (r *messageReader) take(n uint64, field string) []byte {
	if n > uint64(len(r.b)) {
		r.fail("it ends in the " + field)
		return nil
	}
	b := r.b[:n:n]
	r.b = r.b[n:]
	return b
}

func (r *messageReader) byte(field string) byte {
	if b := r.take(1, field); b != nil {
		return b[0]
	}
	return 0
}

func (r *messageReader) uint16(field string) uint16 {
	if b := r.take(2, field); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

func (r *messageReader) uint64(field string) uint64 {
	if b := r.take(8, field); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

// uvarint takes a number, which must be as short as it can.
func (r *messageReader) uvarint(field string) uint64 {
	v, n := binary.Uvarint(r.b)
	switch {
	case n <= 0:
		r.fail("it ends in the " + field + ", or that is too large")
		return 0
	case n > 1 && r.b[n-1] == 0:
		r.fail(field + " is longer than it need be")
		return 0
	}
	r.b = r.b[n:]
	return v
}

// long takes a copy of bytes with their length in front; not nil.
func (r *messageReader) long(field string) []byte {
	return append([]byte{}, r.take(r.uvarint(field), field)...)
}

// readIDs takes ids with their count in front; nil if there is none.
func readIDs[T ~uint64](r *messageReader, field string) (ids []T) {
	n := r.uvarint(field)
	if n > uint64(len(r.b)) { // each has a byte
		r.fail("it ends in the " + field)
		return nil
	}
	for ; n > 0 && r.fault == ""; n-- {
		ids = append(ids, T(r.uvarint(field)))
	}
	return ids
}

// raftFields are a message of raft's and what it points to.
type raftFields struct {
	m                                                        pb.Message
	typ                                                      pb.MessageType
	to, from, term, logTerm, index, commit, vote, rejectHint uint64
	reject                                                   bool
}

func (r *messageReader) raft() *pb.Message {
	f := &raftFields{typ: pb.MessageType(r.byte("type"))}
	m := &f.m
	m.Type = &f.typ
	switch {
	case f.typ > pb.MsgForgetLeader:
		r.fail("raft's type is unknown")
	case f.typ >= pb.MsgStorageAppend && f.typ <= pb.MsgStorageApplyResp:
		r.fail("raft's type is of a node's own messages")
	}
	has := r.uint16("fields")
	if has&^allHas != 0 || has&(hasReject|isReject) == isReject {
		r.fail("raft's fields are unknown")
	}
	if has&hasTo != 0 {
		f.to, m.To = r.uint64("to"), &f.to
	}
	if has&hasFrom != 0 {
		f.from, m.From = r.uint64("from"), &f.from
	}
	if has&hasVote != 0 {
		f.vote, m.Vote = r.uint64("vote"), &f.vote
	}
	if has&hasTerm != 0 {
		f.term, m.Term = r.uvarint("term"), &f.term
	}
	if has&hasLogTerm != 0 {
		f.logTerm, m.LogTerm = r.uvarint("log term"), &f.logTerm
	}
	if has&hasIndex != 0 {
		f.index, m.Index = r.uvarint("index"), &f.index
	}
	if has&hasCommit != 0 {
		f.commit, m.Commit = r.uvarint("commit"), &f.commit
	}
	if has&hasRejectHint != 0 {
		f.rejectHint, m.RejectHint = r.uvarint("reject hint"), &f.rejectHint
	}
	if has&hasReject != 0 {
		f.reject, m.Reject = has&isReject != 0, &f.reject
	}
	if has&hasContext != 0 {
		m.Context = r.long("context")
	}
	if has&hasSnapshot != 0 {
		m.Snapshot = r.snapshot()
	}
	m.Entries = r.entries(f.logTerm, f.index)
	return m
}

func (r *messageReader) snapshot() *pb.Snapshot {
	s := &pb.Snapshot{}
	has := r.byte("snapshot")
	if has&^allSnap != 0 || has&snapMeta == 0 && has&^snapData != 0 || has&snapConf == 0 && has&snapAutoLeave != 0 || has&(snapAutoLeave|snapLeaves) == snapLeaves {
		r.fail("the snapshot's fields are unknown")
		return s
	}
	if has&snapData != 0 {
		s.Data = r.long("snapshot's data")
	}
	if has&snapMeta != 0 {
		s.Metadata = &pb.SnapshotMetadata{}
	}
	if has&snapIndex != 0 {
		s.Metadata.Index = new(r.uvarint("snapshot's index"))
	}
	if has&snapTerm != 0 {
		s.Metadata.Term = new(r.uvarint("snapshot's term"))
	}
	if has&snapConf != 0 {
		conf := &pb.ConfState{}
		for _, ids := range []*[]uint64{&conf.Voters, &conf.Learners, &conf.VotersOutgoing, &conf.LearnersNext} {
			*ids = readIDs[uint64](r, "snapshot's membership")
		}
		if has&snapAutoLeave != 0 {
			conf.AutoLeave = new(has&snapLeaves != 0)
		}
		s.Metadata.ConfState = conf
	}
	return s
}

// entryFields are an entry and what it points to.
type entryFields struct {
	e           pb.Entry
	typ         pb.EntryType
	term, index uint64
	length      int // of its data
}

// entries takes entries, which end the message; nil if there is none.
func (r *messageReader) entries(term, index uint64) []*pb.Entry {
	n := r.uvarint("count of entries")
	if n > uint64(len(r.b)) { // each has a byte
		r.fail("it ends in its entries")
		return nil
	}
	if n > maxMessageEntries {
		r.fail(fmt.Sprintf("it has %d entries: at most %d", n, maxMessageEntries))
		return nil
	}
	if n == 0 {
		return nil
	}
	fields := make([]entryFields, n)
	entries := make([]*pb.Entry, n)
	total := uint64(0)
	for i := range fields {
		f := &fields[i]
		entries[i] = &f.e
		r.entry(f, &term, &index)
		total += uint64(f.length)
	}
	if r.fault == "" && total != uint64(len(r.b)) {
		r.fail(fmt.Sprintf("its entries have %d bytes, and %d follow", total, len(r.b)))
	}
	if r.fault != "" {
		return nil
	}
	data := append([]byte{}, r.b...)
	r.b = nil
	for i := range fields {
		if f := &fields[i]; f.e.Data != nil {
			f.e.Data, data = data[:f.length:f.length], data[f.length:]
		}
	}
	return entries
}

// entry takes what is said of an entry; its data follows those of all. Term and index are
// those of the entry before.
func (r *messageReader) entry(f *entryFields, term, index *uint64) {
	first := r.byte("entry")
	typ, termMode, indexMode := first&entryTypeMask, first>>entryTerm&3, first>>entryIndex&3
	if first&^allEntry != 0 || termMode > numberGiven || indexMode > numberGiven {
		r.fail("an entry's fields are unknown")
	}
	if typ > 0 {
		f.typ = pb.EntryType(typ - 1)
		f.e.Type = &f.typ
	}
	if termMode != numberNone {
		f.term, f.e.Term = *term, &f.term
		if termMode == numberGiven {
			if f.term = r.uvarint("entry's term"); f.term == *term {
				r.fail("an entry's term is given for nothing")
			}
		}
		*term = f.term
	}
	if indexMode != numberNone {
		f.index, f.e.Index = *index+1, &f.index
		if indexMode == numberGiven {
			if f.index = r.uvarint("entry's index"); f.index == *index+1 {
				r.fail("an entry's index is given for nothing")
			}
		}
		*index = f.index
	}
	if first&entryData != 0 {
		n := r.uvarint("entry's data")
		if n > math.MaxInt32 {
			r.fail("an entry is too long")
			n = 0
		}
		f.length, f.e.Data = int(n), []byte{}
	}
}
