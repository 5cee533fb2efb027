package core

import (
	"fmt"

	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/zue-log/zue/storage"
)

// Write is something that a [Core] wants done to its log, durably. Writes are done in the
// order of [Output.Writes]: each is begun by [Write.Begin], and ended by [Write.Finish] when
// what it waits for is durable; [Core.Written] is told then. Several may have begun, but one
// that is [Write.Exclusive] begins only when all before it have ended. A Write is for one
// goroutine at a time, which need not be that of the core.
type Write struct {
	reset    *storage.Place // the log begins anew here, with state; nil: it does not
	truncate bool           // the log is to end with the entry before the first of entries
	ordered  bool           // it may not begin before those before it have ended
	entries  []storage.Entry
	state    []byte // nil: it stays as it is
	clean    bool   // the state says that the node was stopped in order

	responses []*pb.Message // raft's, to be given out when it is durable, by the core
	then      func()        // what the core does when it is durable; nil: nothing

	pending storage.Pending
	issued  uint64 // the core's tick
	size    int    // see Bytes
}

// Exclusive says that the write must not overtake others: since it takes something back, or
// goes by what they have made durable.
func (w *Write) Exclusive() bool { return w.TakesBack() || w.ordered }

// TakesBack says that the write removes entries.
func (w *Write) TakesBack() bool { return w.truncate || w.reset != nil }

// Entries returns the entries that the write appends, which must not be changed.
func (w *Write) Entries() []storage.Entry { return w.entries }

// Bytes returns the length of the bodies of the entries that the write appends.
func (w *Write) Bytes() int { return w.size }

// Span returns the indexes of the first and the last entry that the write appends; 0 and 0
// if it appends none.
func (w *Write) Span() (first, last uint64) {
	if len(w.entries) == 0 {
		return 0, 0
	}
	return w.entries[0].Index, w.entries[len(w.entries)-1].Index
}

// Reset returns where the write has the log begin anew; nil if it does not.
func (w *Write) Reset() *storage.Place { return w.reset }

// Begin hands the write to the log. It blocks only if the write is exclusive. After an error
// the core must be given up: what raft has decided cannot be taken back.
func (w *Write) Begin(log *storage.Log) error {
	if err := w.takeBack(log); err != nil {
		return err
	}
	if len(w.entries) > 0 {
		w.pending = log.AppendEntries(w.entries...)
	}
	return nil
}

// Do is Begin and Finish, for who has no other write to begin meanwhile: that is faster for
// entries that are few.
func (w *Write) Do(log *storage.Log) error {
	if err := w.takeBack(log); err != nil {
		return err
	}
	if len(w.entries) > 0 {
		if err := log.WriteEntries(w.entries...); err != nil {
			return w.appendError(err)
		}
	}
	return w.save(log)
}

// takeBack removes what the write removes.
func (w *Write) takeBack(log *storage.Log) error {
	if w.reset != nil {
		if err := log.Reset(*w.reset, w.state); err != nil {
			return fmt.Errorf("begin the log anew behind entry %d: %w", w.reset.Index, err)
		}
	}
	if w.truncate {
		last := w.entries[0].Index - 1
		if err := log.TruncateSuffix(last); err != nil {
			return fmt.Errorf("remove entries after %d: %w", last, err)
		}
	}
	return nil
}

func (w *Write) appendError(err error) error {
	return fmt.Errorf("append entries from %d on: %w", w.entries[0].Index, err)
}

// Done returns a channel that is closed when Finish will not wait for entries.
func (w *Write) Done() <-chan struct{} {
	if len(w.entries) > 0 {
		return w.pending.Done()
	}
	return closed
}

var closed = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// Finish waits until the write, which has begun, is durable. For errors see Begin.
func (w *Write) Finish(log *storage.Log) error {
	if len(w.entries) > 0 {
		if _, err := w.pending.Wait(); err != nil {
			return w.appendError(err)
		}
	}
	return w.save(log)
}

// save saves the state.
func (w *Write) save(log *storage.Log) error {
	// Not before the entries are durable: in their place there may have been others, which
	// the state's commit is not about.
	if w.clean {
		if err := log.Sync(); err != nil { // or the state would vouch for what may be lost
			return fmt.Errorf("sync before a clean stop: %w", err)
		}
	}
	if w.state != nil && w.reset == nil {
		if err := log.SetState(w.state); err != nil {
			return fmt.Errorf("save the state: %w", err)
		}
	}
	return nil
}
