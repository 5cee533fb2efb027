package core

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/zue-log/zue/storage"
	"github.com/zue-log/zue/storage/batch"
)

// ErrEntry is wrapped by the error for an entry of raft's that is no entry of a log.
var ErrEntry = errors.New("not an entry of a log")

// Kinds of control entries: the first byte of their body. FORMAT.md lists them, and
// producer.ControlID, too.
const (
	controlNoop   = 0x01 // a leader's first entry
	controlConf   = 0x02 // and then a raftpb.ConfChange
	controlConfV2 = 0x03 // and then a raftpb.ConfChangeV2, which may be empty
)

// envelope precedes the body in the data of a raft entry: raft's entries have no checksum, and
// so nothing would notice a bit that changes on the way from one log to the other.
//
//	0  kind of the log's entry
//	1  CRC-32C of the body
//	5  the one it was born with
//	9  body
const envelope = 9

// appendEnveloped appends the data of a raft entry.
func appendEnveloped(dst []byte, kind storage.Kind, checksum, born uint32, body []byte) []byte {
	dst = append(dst, byte(kind))
	dst = binary.LittleEndian.AppendUint32(dst, checksum)
	dst = binary.LittleEndian.AppendUint32(dst, born)
	return append(dst, body...)
}

// toStored makes a log entry of one of raft's. The body is a part of its data. AppendEntries
// verifies the checksum.
func toStored(e *pb.Entry) (storage.Entry, error) {
	data := e.GetData()
	control := func(kind byte) storage.Entry {
		return storage.NewEntry(e.GetIndex(), e.GetTerm(), storage.KindControl, append([]byte{kind}, data...))
	}
	switch {
	case e.GetType() == pb.EntryConfChange:
		return control(controlConf), nil
	case e.GetType() == pb.EntryConfChangeV2:
		return control(controlConfV2), nil
	case len(data) == 0:
		return control(controlNoop), nil
	case len(data) < envelope || storage.Kind(data[0]) != storage.KindData && storage.Kind(data[0]) != storage.KindControl:
		return storage.Entry{}, fmt.Errorf("entry %d of term %d, of %d bytes: %w", e.GetIndex(), e.GetTerm(), len(data), ErrEntry)
	}
	return storage.Entry{
		Index: e.GetIndex(), Term: e.GetTerm(), Kind: storage.Kind(data[0]), Body: data[envelope:],
		Checksum: binary.LittleEndian.Uint32(data[1:]), Born: binary.LittleEndian.Uint32(data[5:]),
	}, nil
}

// fromStored makes an entry of raft's of one of the log's, of which it keeps nothing.
func fromStored(s *storage.Entry) (*pb.Entry, error) {
	e := &pb.Entry{Index: new(s.Index), Term: new(s.Term), Type: pb.EntryNormal.Enum()}
	if s.Kind == storage.KindControl {
		if len(s.Body) == 0 {
			return nil, fmt.Errorf("control entry %d without a kind: %w", s.Index, ErrEntry)
		}
		switch s.Body[0] {
		case controlNoop:
			return e, nil
		case controlConf:
			e.Type, e.Data = pb.EntryConfChange.Enum(), bytes.Clone(s.Body[1:])
			return e, nil
		case controlConfV2:
			e.Type, e.Data = pb.EntryConfChangeV2.Enum(), bytes.Clone(s.Body[1:])
			return e, nil
		}
	}
	e.Data = appendEnveloped(make([]byte, 0, envelope+len(s.Body)), s.Kind, s.Checksum, s.Born, s.Body)
	return e, nil
}

// verify verifies the checksum of an entry that has come from elsewhere.
func verify(e *pb.Entry) error {
	s, err := toStored(e)
	if err == nil && s.Kind == storage.KindData && batch.Checksum(s.Body) != s.Checksum {
		err = fmt.Errorf("entry %d of term %d: its checksum is wrong: %w", s.Index, s.Term, ErrEntry)
	}
	return err
}
