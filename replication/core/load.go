package core

import (
	"errors"
	"fmt"
	"math"
	"slices"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/zue-log/zue/storage"
)

// blank stands for the data of entries that are yet to be read from the log: raft needs it not to
// decide what to send, but for its length, and the core must not wait for the disk, nor copy and
// verify what a follower lacks, while appends wait. Nobody touches it, so it takes no memory.
var blank [envelope + storage.MaxBodyBytes]byte

// Unread returns what raft is given for a data entry whose body of that many bytes is yet to be read
// from the log: see [Message.Load].
func Unread(index, term uint64, bodyBytes int) *pb.Entry {
	return &pb.Entry{Index: &index, Term: &term, Type: pb.EntryNormal.Enum(), Data: blank[:envelope+bodyBytes]}
}

func isUnread(e *pb.Entry) bool { return len(e.GetData()) > 0 && &e.Data[0] == &blank[0] }

// errReplaced says that the log has other entries by now than when a message was made.
var errReplaced = errors.New("the entry was replaced")

// entries returns the entries that the message carries, if its kind does.
func (m *Message) entries() []*pb.Entry {
	if m.Kind == KindRaft {
		return m.Raft.GetEntries()
	}
	return m.Entries
}

// Stored says that the message has entries that must be read from the sender's log before it is
// sent: see [Message.Load].
func (m *Message) Stored() bool {
	return len(m.loaded) == 0 && slices.ContainsFunc(m.entries(), isUnread)
}

// Bytes returns the length of the bodies that were loaded.
func (m *Message) Bytes() (n int) {
	for i := range m.loaded {
		n += len(m.loaded[i].Body)
	}
	return n
}

// Load returns a message that is Stored with its entries as they are in the log, which is the
// sender's, verified. Those that Encode does not copy are where they are in the mapped file, so that
// it must have been sent before release is called, which must be done once, and does not wait. Load
// may wait for the disk, and be called by any goroutine.
//
// With an error, the core is to be told, by [Core.Unloaded], and what is to be sent behind the message
// is of no use; there may be a message nonetheless, with fewer entries. Without one, it and release
// are nil.
func (m *Message) Load(log *storage.Log) (loaded *Message, release func(), err error) {
	entries := m.entries()
	n := len(entries)
	for !isUnread(entries[n-1]) {
		n--
	}
	stored, lease, err := log.ReadEntries(nil, entries[0].GetIndex(), entries[n-1].GetIndex(), math.MaxInt)
	got := 0
	for got < min(n, len(stored)) && stored[got].Term == entries[got].GetTerm() {
		got++
	}
	if err == nil && got < n {
		err = errReplaced
		if got == len(stored) { // the next one says why
			var next storage.Lease
			if _, next, err = log.ReadEntries(nil, entries[got].GetIndex(), entries[got].GetIndex(), 0); err == nil {
				next.Release()
				err = errReplaced // there was another one, when the others were read
			}
		}
	}
	if err == nil {
		err = copySmall(lease, stored[:got])
	}
	if err != nil {
		at := entries[min(got, n-1)]
		err = &unloadedError{index: at.GetIndex(), term: at.GetTerm(), err: err}
	}
	if got == 0 && m.Kind == KindRaft {
		lease.Release()
		return nil, nil, err
	}
	whole := *m
	if got < n {
		whole.keep(got)
	}
	whole.loaded = stored[:got]
	return &whole, lease.Release, err
}

// copySmall copies the bodies that Encode does: it could not tell of a disk that does not deliver
// them any more.
func copySmall(lease storage.Lease, stored []storage.Entry) (err error) {
	size := 0
	for i := range stored {
		if len(stored[i].Body) < copyBelow {
			size += len(stored[i].Body)
		}
	}
	b := make([]byte, 0, size)
	for i := range stored {
		if body := stored[i].Body; len(body) < copyBelow {
			at := len(b)
			if b, err = lease.Append(b, body); err != nil {
				return err
			}
			stored[i].Body = b[at:len(b):len(b)]
		}
	}
	return nil
}

// keep has the message end after n entries. What it shares with others is left as it is.
func (m *Message) keep(n int) {
	if m.Kind != KindRaft {
		m.Entries = m.Entries[:n]
		return
	}
	shorter := &pb.Message{}
	m.Raft.ProtoReflect().Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		shorter.ProtoReflect().Set(field, value) // not a copy, which would be one of the data
		return true
	})
	shorter.Entries = m.Raft.Entries[:n]
	m.Raft = shorter
}

// unloadedError says why an entry could not be loaded.
type unloadedError struct {
	index, term uint64
	err         error
}

func (e *unloadedError) Error() string {
	return fmt.Sprintf("load entry %d of term %d: %v", e.index, e.term, e.err)
}

func (e *unloadedError) Unwrap() error { return e.err }

// Unloaded says with which error [Message.Load] has ended for a message of this core's.
func (c *Core) Unloaded(m *Message, err error) {
	defer c.guard()
	var at *unloadedError
	if c.err != nil || c.rn == nil || !errors.As(err, &at) {
		return
	}
	// What was damaged may be no part of the log any more, nor then a reason to give it up.
	if term, termErr := c.raft.Term(at.index); termErr == nil && term == at.term && at.err != errReplaced {
		_ = c.raft.readError(at.index, at.err) // which notes it
	}
	if c.raft.failed != nil {
		c.fail(c.raft.failed)
	}
	c.noteDamage()
	if m.Kind == KindRaft {
		c.rn.ReportUnreachable(m.Raft.GetTo())
	}
}
