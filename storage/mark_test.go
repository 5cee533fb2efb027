package storage

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zue-log/zue/storage/executor"
	"github.com/zue-log/zue/storage/vfs"
)

func manual() *executor.Manual { return executor.NewManual(time.Unix(1, 0)) }

// overwrite puts one byte into a file, as damage does.
func overwrite(t *testing.T, fsys vfs.FS, name string, at int64, b byte) {
	t.Helper()
	f, err := fsys.Open(name, true)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte{b}, at)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

// TestMarkOfAFailedSave has the saving of the durable mark fail after it was written: it
// is in the file all the same, so that a truncation must lower it.
func TestMarkOfAFailedSave(t *testing.T) {
	mem, ex := vfs.NewMem(), manual()
	l := open(t, "d", Options{FS: mem, Executor: ex, SegmentBytes: MinSegmentBytes})
	for i := range 10 {
		appendValue(t, l, fmt.Sprint(i))
	}
	mem.Inject(func(op vfs.Op, name string) error {
		if op == vfs.OpSync && strings.HasSuffix(name, stateName) {
			return syscall.EIO
		}
		return nil
	})
	ex.Advance(2 * idleAfter)
	mem.Inject(nil)
	require.NoError(t, l.TruncateSuffix(5))
	appendValue(t, l, "a")
	appendValue(t, l, "b")
	mem.UnlockAll() // killed
	l = open(t, "d", Options{FS: mem, Executor: manual(), SegmentBytes: MinSegmentBytes})
	require.EqualValues(t, 7, l.EndOffset())
}

// TestMarkIsDurable damages what was durable, and known to be for a while, before a
// power failure.
func TestMarkIsDurable(t *testing.T) {
	o := func(mem *vfs.Mem, ex *executor.Manual) Options {
		return Options{FS: mem, Executor: ex, Sync: SyncNever(), SegmentBytes: MinSegmentBytes}
	}
	for _, how := range []string{"idle", "closed", "recovered"} {
		t.Run(how, func(t *testing.T) {
			mem, ex := vfs.NewMem(), manual()
			l := open(t, "d", o(mem, ex))
			for i := range 10 {
				appendValue(t, l, fmt.Sprint(i))
			}
			end := l.tail.pos
			switch how {
			case "idle":
				require.NoError(t, l.Sync())
				ex.Advance(2 * idleAfter)
			case "closed":
				require.NoError(t, l.Sync())
				require.NoError(t, l.Close())
			case "recovered":
				mem.UnlockAll() // killed
				l = open(t, "d", o(mem, ex))
				require.EqualValues(t, 10, l.EndOffset())
				ex.Advance(2 * idleAfter)
			}
			disk := mem.Crash(nil)
			require.NoError(t, disk.Remove("d/"+indexName(0))) // which would vouch for it
			overwrite(t, disk, "d/"+segmentName(0), end-16, 0x55)
			_, err := Open("d", o(disk, manual()))
			require.ErrorIs(t, err, ErrCorrupt)
		})
	}
}

// TestStateBesideClose has Close wait for a SetState that is writing: what it writes
// must not reach the file when another has opened the log.
func TestStateBesideClose(t *testing.T) {
	mem := vfs.NewMem()
	o := Options{FS: mem, Executor: manual(), SegmentBytes: MinSegmentBytes}
	l := open(t, "d", o)
	appendValue(t, l, "x")
	entered, proceed := make(chan struct{}), make(chan struct{})
	first := true
	mem.Inject(func(op vfs.Op, name string) error {
		if first && op == vfs.OpWrite && strings.HasSuffix(name, stateName) {
			first = false
			close(entered)
			<-proceed
		}
		return nil
	})
	set, closed := make(chan error, 1), make(chan error, 1)
	go func() { set <- l.SetState([]byte("vote")) }()
	<-entered
	go func() { closed <- l.Close() }()
	require.Eventually(t, l.done.Load, time.Minute, time.Millisecond, "Close has begun")
	select {
	case err := <-closed:
		t.Errorf("Close returned (%v) while SetState was writing", err)
	default:
	}
	close(proceed)
	require.NoError(t, <-set)
	require.NoError(t, <-closed)
	require.ErrorIs(t, l.SetState([]byte("late")), ErrClosed)
	l = open(t, "d", o)
	require.Equal(t, "vote", string(l.State()))
	require.NoError(t, l.SetState([]byte{}))
	require.Nil(t, l.State())
}

// TestMarkThatCameBack kills a log that was lowering its durable mark. The next one reads
// the lower mark from the page cache, which a power failure forgets: it must be saved
// again before anything takes the place of what was cut off.
func TestMarkThatCameBack(t *testing.T) {
	for _, half := range []bool{false, true} {
		mem, ex := vfs.NewMem(), manual()
		l := open(t, "d", Options{FS: mem, Executor: ex, SegmentBytes: MinSegmentBytes})
		for i := range 10 {
			appendValue(t, l, fmt.Sprint(i))
		}
		ex.Advance(2 * idleAfter) // the mark is durable
		mem.Inject(func(op vfs.Op, name string) error {
			if strings.HasSuffix(name, stateName) && (op == vfs.OpSync || half && op == vfs.OpWrite) {
				return errPowerOff
			}
			return nil
		})
		require.ErrorIs(t, l.TruncateSuffix(5), ErrFailed)
		mem.Inject(nil)
		mem.UnlockAll() // killed
		l = open(t, "d", Options{FS: mem, Executor: manual(), SegmentBytes: MinSegmentBytes})
		require.NoError(t, l.TruncateSuffix(6))
		disk := mem.Crash(nil)
		l = open(t, "d", Options{FS: disk, Executor: manual(), SegmentBytes: MinSegmentBytes})
		require.EqualValues(t, 6, l.EndOffset())
		require.NoError(t, l.Close())
	}
}
