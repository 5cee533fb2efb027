package storage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zue-log/zue/storage/batch"
	"github.com/zue-log/zue/storage/executor"
	"github.com/zue-log/zue/storage/vfs"
)

func errorOf(_ uint64, err error) error { return err }

// control makes a control entry.
func control(index, term uint64, body string) Entry {
	return NewEntry(index, term, KindControl, []byte(body))
}

// data makes a data entry of one record for each value.
func data(index, term uint64, values ...string) Entry {
	var records []Record
	for _, v := range values {
		records = append(records, Record{Timestamp: 5, Value: []byte(v)})
	}
	body := batch.Append(nil, records, 5)
	return NewEntry(index, term, KindData, body)
}

// TestAppendAsync keeps thousands of appends in flight, of one caller and of many.
func TestAppendAsync(t *testing.T) {
	for _, policy := range []SyncPolicy{SyncAlways(), SyncNever()} {
		l := open(t, t.TempDir(), Options{Sync: policy, SegmentBytes: 1 << 20})
		const callers, each = 4, 2000
		var wg sync.WaitGroup
		for c := range callers {
			wg.Go(func() {
				var pending []Pending
				for i := range each {
					v := fmt.Appendf(nil, "%d/%d", c, i)
					pending = append(pending, l.AppendAsync(Record{Value: v}))
					clear(v) // it is the caller's again
				}
				last := uint64(0)
				for i, p := range pending {
					<-p.Done()
					first, err := p.Wait()
					if err != nil || first != p.First() || i > 0 && first <= last {
						t.Errorf("append %d: offset %d (%d) behind %d, %v", i, first, p.First(), last, err)
						return
					}
					last = first
					rec, lease, err := l.Read(first)
					if err != nil || string(rec.Value) != fmt.Sprintf("%d/%d", c, i) {
						t.Errorf("read %d: %q, %v", first, rec.Value, err)
					}
					lease.Release()
				}
			})
		}
		wg.Wait()
		require.EqualValues(t, callers*each, l.EndOffset())
		if policy == SyncAlways() {
			require.Less(t, l.Metrics().Syncs, uint64(callers*each/4), "appends share syncs")
		}
		require.NoError(t, l.Close())
		_, err := l.AppendAsync(Record{}).Wait()
		require.ErrorIs(t, err, ErrClosed)
		<-l.AppendAsync(Record{}).Done()
		require.ErrorIs(t, l.AppendAsync(Record{}).Refused(), ErrClosed)
	}
}

// TestWaitHelps has no task that could commit: the waiter does it.
func TestWaitHelps(t *testing.T) {
	l := open(t, "d", Options{FS: vfs.NewMem(), Executor: executor.NewManual(time.Unix(1, 0))})
	one, two := l.AppendAsync(Record{Value: []byte("one")}), l.AppendAsync(Record{Value: []byte("two")})
	require.Zero(t, l.EndOffset())
	first, err := two.Wait()
	require.NoError(t, err)
	require.EqualValues(t, 1, first)
	first, err = one.Wait()
	require.NoError(t, err)
	require.EqualValues(t, 0, first)
	// Nor can a queue that is full wait for anyone.
	big := make([]byte, 5<<20)
	for range 8 {
		l.AppendAsync(Record{Value: big})
	}
	require.Greater(t, l.EndOffset(), uint64(2))
	require.NoError(t, l.Close())
	require.EqualValues(t, 10, l.EndOffset())
}

func TestAppendBatch(t *testing.T) {
	l := open(t, t.TempDir(), Options{})
	defer l.Close()
	appendValue(t, l, "before")
	records := []Record{{Timestamp: 7, Key: []byte("k"), Value: bytes.Repeat([]byte("v"), 500)}, {Timestamp: 9, Headers: []RecordHeader{{Key: []byte("h")}}}}
	for _, codec := range []batch.Codec{batch.CodecNone, batch.CodecGzip, batch.CodecSnappy, batch.CodecLZ4, batch.CodecZstd} {
		body, err := batch.AppendCompressed(nil, records, 0, codec)
		require.NoError(t, err)
		first, err := l.AppendBatch(body, batch.Checksum(body)).Wait()
		require.NoError(t, err)
		entries, lease, err := l.ReadEntries(nil, uint64(codec)+2, math.MaxUint64, 1)
		require.NoError(t, err)
		require.Equal(t, body, entries[0].Body, "verbatim")
		lease.Release()
		for i, want := range records {
			want.Offset = first + uint64(i)
			got, lease, err := l.Read(want.Offset)
			require.NoError(t, err)
			require.Equal(t, want, got, codec)
			lease.Release()
		}
	}
	end := l.EndOffset()
	body := batch.Append(nil, records, 0)
	for name, bad := range map[string]struct {
		body []byte
		sum  uint32
		is   error
	}{
		"checksum":  {body, batch.Checksum(body) + 1, batch.ErrMalformed},
		"empty":     {nil, 0, batch.ErrMalformed},
		"truncated": {body[:len(body)-1], batch.Checksum(body[:len(body)-1]), batch.ErrMalformed},
		"too large": {make([]byte, MaxBodyBytes+1), 0, ErrTooLarge},
	} {
		_, err := l.AppendBatch(bad.body, bad.sum).Wait()
		require.ErrorIs(t, err, bad.is, name)
	}
	require.Equal(t, end, l.EndOffset())
}

// TestCompressionIsTransparent stores the same records with each codec.
func TestCompressionIsTransparent(t *testing.T) {
	var records []Record
	for i := range 200 {
		records = append(records, Record{Timestamp: int64(i + 1), Key: fmt.Appendf(nil, "key %d", i%3), Value: fmt.Appendf(nil, "the value of record %d", i)})
	}
	var sizes []uint64
	for _, codec := range []batch.Codec{batch.CodecNone, batch.CodecGzip, batch.CodecSnappy, batch.CodecLZ4, batch.CodecZstd} {
		l := open(t, t.TempDir(), Options{Compression: codec})
		_, err := l.Append(records...)
		require.NoError(t, err)
		_, err = l.AppendAsync(records...).Wait()
		require.NoError(t, err)
		for i, want := range append(append([]Record{}, records...), records...) {
			want.Offset = uint64(i)
			got, lease, err := l.Read(want.Offset)
			require.NoError(t, err)
			require.Equal(t, want, got)
			lease.Release()
		}
		sizes = append(sizes, l.Metrics().Bytes)
		require.NoError(t, l.Close())
	}
	for _, n := range sizes[1:] {
		require.Less(t, n, sizes[0]*3/4)
	}
}

// WriteEntries appends while others do, and while segments are removed, which waits for appends.
func TestWriteEntriesBesideOthers(t *testing.T) {
	l := open(t, t.TempDir(), Options{SegmentBytes: MinSegmentBytes})
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				if err := errors.Join(l.TruncatePrefix(l.EndOffset()), l.Sync()); err != nil {
					t.Errorf("beside: %v", err)
					return
				}
			}
		}
	})
	const n = 2000
	for i := range uint64(n) {
		body := strings.Repeat("x", int(i%7)*300)
		e := control(2*i+1, 1, body)
		if i%3 == 0 {
			p := l.AppendEntries(e) // which another goroutine may be writing
			require.NoError(t, l.WriteEntries(control(2*i+2, 1, body)))
			require.NoError(t, errorOf(p.Wait()))
			continue
		}
		require.NoError(t, l.WriteEntries(e, control(2*i+2, 1, body)))
	}
	close(stop)
	wg.Wait()
	require.EqualValues(t, 2*n, l.LastPlace().Index)
	require.NoError(t, l.WriteEntries(control(2*n+1, 1, strings.Repeat("long", maxWriteEntries/4+1))))
	require.NoError(t, l.Close())
	require.ErrorIs(t, l.WriteEntries(control(2*n+2, 1, "")), ErrClosed)
	require.Error(t, l.WriteEntries())
}

func TestAppendEntries(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, Options{})
	p := l.AppendEntries(control(1, 3, "leader"), data(2, 3, "a", "b"), control(3, 4, ""), data(4, 4, "c"))
	first, err := p.Wait()
	require.NoError(t, err)
	require.EqualValues(t, 0, first)
	require.EqualValues(t, 3, l.EndOffset())
	last := l.LastPlace()
	require.Equal(t, Place{Index: 4, Term: 4, Offset: 3, Chain: last.Chain}, last)
	require.Equal(t, []string{"a", "b", "c"}, []string{readValue(t, l, 0), readValue(t, l, 1), readValue(t, l, 2)})

	damaged := data(5, 4, "x")
	damaged.Checksum++
	unknown := control(5, 4, "")
	unknown.Kind = 9
	for name, bad := range map[string]struct {
		entries []Entry
		is      error
	}{
		"gap":           {[]Entry{data(6, 4, "x")}, ErrNotNext},
		"again":         {[]Entry{data(4, 4, "x")}, ErrNotNext},
		"older term":    {[]Entry{data(5, 3, "x")}, ErrNotNext},
		"gap inside":    {[]Entry{data(5, 4, "x"), data(7, 4, "x")}, ErrNotNext},
		"term inside":   {[]Entry{data(5, 6, "x"), data(6, 5, "x")}, ErrNotNext},
		"no index":      {[]Entry{data(0, 4, "x")}, ErrNotNext},
		"checksum":      {[]Entry{damaged}, batch.ErrMalformed},
		"no such kind":  {[]Entry{unknown}, batch.ErrUnsupported},
		"not a batch":   {[]Entry{{Index: 5, Term: 4, Kind: KindData}}, batch.ErrMalformed},
		"second is bad": {[]Entry{data(5, 4, "x"), damaged}, batch.ErrMalformed},
	} {
		_, err := l.AppendEntries(bad.entries...).Wait()
		require.ErrorIs(t, err, bad.is, name)
		require.ErrorIs(t, l.WriteEntries(bad.entries...), bad.is, name)
		require.Equal(t, last, l.LastPlace(), name)
	}
	// A log's own appends go on in the term that was reached.
	require.EqualValues(t, 3, appendValue(t, l, "d"))
	require.EqualValues(t, 4, l.LastPlace().Term)
	last = l.LastPlace()
	require.NoError(t, l.Close())
	l = open(t, dir, Options{})
	require.Equal(t, last, l.LastPlace())
	require.NoError(t, l.Close())
}

// TestSameEntriesSameChain: replicas that agree on entries agree on the chain, however the
// entries came and wherever segments begin.
func TestSameEntriesSameChain(t *testing.T) {
	a := open(t, "a", Options{FS: vfs.NewMem(), SegmentBytes: MinSegmentBytes})
	b := open(t, "b", Options{FS: vfs.NewMem(), SegmentBytes: 4 * MinSegmentBytes})
	for i := range uint64(100) {
		e := data(i+1, 1+i/10, string(bytes.Repeat([]byte("x"), 500)))
		_, err := a.AppendEntries(e).Wait()
		require.NoError(t, err)
		b.AppendEntries(e)
	}
	require.NoError(t, b.Close())
	require.Equal(t, a.LastPlace(), b.LastPlace())
	require.NoError(t, a.Close())
}

// TestManualCommit: readers see what is committed and no more, before and after reopening.
func TestManualCommit(t *testing.T) {
	mem := vfs.NewMem()
	o := Options{FS: mem, ManualCommit: true}
	l := open(t, "d", o)
	_, err := l.AppendEntries(data(1, 1, "a", "b"), control(2, 1, "x"), data(3, 1, "c")).Wait()
	require.NoError(t, err)
	require.Zero(t, l.EndOffset())
	_, _, err = l.Read(0)
	require.ErrorIs(t, err, ErrOutOfRange)
	entries, lease, err := l.ReadEntries(nil, 1, math.MaxUint64, 1<<20)
	require.NoError(t, err)
	require.Len(t, entries, 3, "replication reads what is not committed")
	lease.Release()
	require.NoError(t, l.Commit(2))
	require.EqualValues(t, 2, l.EndOffset())
	require.NoError(t, l.Commit(1), "it never goes back")
	require.EqualValues(t, 2, l.EndOffset())
	require.NoError(t, l.Commit(10), "ahead of what is here")
	require.EqualValues(t, 3, l.EndOffset())
	_, err = l.AppendEntries(data(4, 1, "d")).Wait()
	require.NoError(t, err)
	require.EqualValues(t, 4, l.EndOffset(), "committed before it came")
	require.ErrorIs(t, l.TruncateSuffix(3), ErrCommitted)
	require.NoError(t, l.Close())
	require.ErrorIs(t, l.Commit(11), ErrClosed)

	l = open(t, "d", o)
	require.Zero(t, l.EndOffset())
	require.NoError(t, l.Commit(4))
	require.Equal(t, "d", readValue(t, l, 3))
	require.NoError(t, l.Close())
	l = open(t, "d", Options{FS: mem})
	require.Error(t, l.Commit(1))
	require.NoError(t, l.Close())
}

// TestSegmentFullOfControlEntries: a segment without a record cannot be followed by
// another, which would have its name, and grows instead.
func TestSegmentFullOfControlEntries(t *testing.T) {
	mem := vfs.NewMem()
	o := Options{FS: mem, SegmentBytes: MinSegmentBytes, Executor: executor.NewManual(time.Unix(1, 0))}
	l := open(t, "d", o)
	body := string(bytes.Repeat([]byte("c"), 1000))
	index := uint64(0)
	fill := func(n int) {
		for range n {
			index++
			_, err := l.AppendEntries(control(index, 1, body)).Wait()
			require.NoError(t, err)
		}
	}
	fill(100)
	require.Len(t, *l.segments.Load(), 1)
	require.EqualValues(t, 0, appendValue(t, l, "a"))
	index++
	fill(100)
	last := l.LastPlace()
	require.GreaterOrEqual(t, len(*l.segments.Load()), 1)
	require.NoError(t, l.Close())
	o.Executor = executor.NewManual(time.Unix(2, 0))
	l = open(t, "d", o)
	require.Equal(t, last, l.LastPlace())
	require.Equal(t, "a", readValue(t, l, 0))
	for i := uint64(1); i <= last.Index; i++ {
		entries, lease, err := l.ReadEntries(nil, i, i, 1)
		require.NoError(t, err)
		require.Equal(t, i, entries[0].Index)
		lease.Release()
	}
	require.NoError(t, l.Close())
	require.Zero(t, mem.InUse())
}

// TestStores: single appends without syncs do not cost a system call, and are in the file
// all the same.
func TestStores(t *testing.T) {
	mem := vfs.NewMem()
	ex := executor.NewManual(time.Unix(1, 0))
	l := open(t, "d", Options{FS: mem, Executor: ex, Sync: SyncNever(), SegmentBytes: MinSegmentBytes})
	appendValue(t, l, "begins the segment")
	mem.Inject(func(op vfs.Op, _ string) error { return errors.New(string(op)) })
	for i := range 10 {
		appendValue(t, l, fmt.Sprint(i))
	}
	_, err := l.Append(Record{Value: bytes.Repeat([]byte("x"), maxStored)})
	require.ErrorContains(t, err, "write", "larger ones are written")
	mem.Inject(nil)
	mem.UnlockAll() // killed
	l = open(t, "d", Options{FS: mem})
	require.EqualValues(t, 11, l.EndOffset())
	require.Equal(t, "9", readValue(t, l, 10))
	require.NoError(t, l.Close())
}

func TestSegmentAge(t *testing.T) {
	ex := executor.NewManual(time.Unix(1, 0))
	l := open(t, "d", Options{FS: vfs.NewMem(), Executor: ex, SegmentAge: time.Minute, SegmentBytes: MinSegmentBytes})
	appendValue(t, l, "a")
	ex.Advance(59 * time.Second)
	appendValue(t, l, "b")
	require.Len(t, *l.segments.Load(), 1)
	ex.Advance(time.Second)
	appendValue(t, l, "c")
	require.Len(t, *l.segments.Load(), 2)
	require.NoError(t, l.Close())
}

func TestMetricsAndEvents(t *testing.T) {
	var mu sync.Mutex
	seen := map[string]int{}
	count := func(name string) { mu.Lock(); defer mu.Unlock(); seen[name]++ }
	mem := vfs.NewMem()
	ex := executor.NewManual(time.Unix(1, 0))
	o := Options{FS: mem, Executor: ex, SegmentBytes: MinSegmentBytes, RetentionBytes: 4 * MinSegmentBytes, Events: Events{
		Synced:    func(e SyncEvent) { count(fmt.Sprint("synced ", e.Err == nil)) },
		Rolled:    func(e RollEvent) { count("rolled") },
		Removed:   func(e RemoveEvent) { count("removed"); require.Less(t, e.FirstOffset, e.EndOffset) },
		Recovered: func(Recovery) { count("recovered") },
		Corrupted: func(*CorruptionError) { count("corrupted") },
		Failed:    func(error) { count("failed") },
	}}
	l := open(t, "d", o)
	for range 100 {
		appendValue(t, l, string(make([]byte, 1000)))
		ex.Advance(0)
	}
	m := l.Metrics()
	require.EqualValues(t, 100, m.EndOffset)
	require.EqualValues(t, 100, m.LastIndex)
	require.EqualValues(t, 100, m.DurableIndex)
	require.EqualValues(t, 100, m.Entries)
	require.EqualValues(t, 100, m.Records)
	require.EqualValues(t, 100, m.Groups)
	require.Greater(t, m.Bytes, uint64(100*1000))
	require.EqualValues(t, seen["rolled"], m.Rolls)
	require.EqualValues(t, m.Rolls-1, m.Seals)
	require.EqualValues(t, seen["synced true"], m.Syncs)
	require.Positive(t, m.RemovedSegments)
	require.Equal(t, l.FirstOffset(), m.FirstOffset)
	require.LessOrEqual(t, m.FileBytes, int64(5*MinSegmentBytes))
	require.NoError(t, m.Failed)
	require.Equal(t, map[string]int{"recovered": 1, "rolled": seen["rolled"], "removed": seen["removed"], "synced true": seen["synced true"]}, seen)

	s := (*l.segments.Load())[0]
	s.b[segmentHeaderSize+100] ^= 1
	_, _, err := l.Read(s.before.Offset)
	require.ErrorIs(t, err, ErrCorrupt)
	s.b[segmentHeaderSize+100] ^= 1
	require.Equal(t, 1, seen["corrupted"])
	require.EqualValues(t, 1, l.Metrics().Corruptions)

	mem.Inject(func(op vfs.Op, name string) error {
		if op == vfs.OpSync && filepath.Base(name) != stateName {
			return syscall.EIO
		}
		return nil
	})
	_, err = l.Append(Record{})
	require.ErrorIs(t, err, ErrFailed)
	mem.Inject(nil)
	require.Equal(t, 1, seen["failed"])
	require.Equal(t, 1, seen["synced false"])
	require.ErrorIs(t, l.Metrics().Failed, syscall.EIO)
	require.ErrorIs(t, l.Close(), ErrFailed)
}

// TestReadOnly opens a log that was killed, on a file system that cannot be written to.
func TestReadOnly(t *testing.T) {
	mem := vfs.NewMem()
	l := open(t, "d", Options{FS: mem, SegmentBytes: MinSegmentBytes})
	for i := range 100 {
		appendValue(t, l, recordValue(i))
	}
	o := Options{FS: mem, ReadOnly: true}
	_, err := Open("d", o)
	require.ErrorIs(t, err, vfs.ErrLocked, "somebody writes to it")
	mem.UnlockAll()
	require.NoError(t, mem.Remove("d/"+indexName(0)))
	mem.Inject(func(op vfs.Op, name string) error {
		if op != vfs.OpOpen && op != vfs.OpRead && op != vfs.OpMap {
			return syscall.EROFS
		}
		return nil
	})
	one, two := open(t, "d", o), open(t, "d", o)
	checkAll(t, one, 100)
	checkAll(t, two, 100)
	for name, err := range map[string]error{
		"append":          func() error { _, err := one.Append(Record{}); return err }(),
		"append async":    func() error { _, err := one.AppendAsync(Record{}).Wait(); return err }(),
		"sync":            one.Sync(),
		"set state":       one.SetState(nil),
		"truncate suffix": one.TruncateSuffix(1),
		"truncate prefix": one.TruncatePrefix(50),
		"reset":           one.Reset(Place{}, nil),
	} {
		require.ErrorIs(t, err, ErrReadOnly, name)
	}
	require.NoError(t, one.Close())
	require.NoError(t, two.Close())
	_, err = Open("nowhere", o)
	require.Error(t, err)
	mem.Inject(nil)
	l = open(t, "d", Options{FS: mem})
	checkAll(t, l, 100)
	require.NoError(t, l.Close())
}

// TestWarmer: the first segment is made in haste, without zeros in it; a log that has much
// to come leaves it when one with zeros is ready.
func TestWarmer(t *testing.T) {
	ex := executor.NewManual(time.Unix(1, 0))
	l := open(t, "d", Options{FS: vfs.NewMem(), Executor: ex, SegmentBytes: 2 * worthWarming})
	appendValue(t, l, "a")
	appendValue(t, l, "b")
	require.Len(t, *l.segments.Load(), 1)
	ex.Advance(0)
	for range 3 {
		appendValue(t, l, "c")
		ex.Advance(0)
	}
	require.Len(t, *l.segments.Load(), 2)
	require.NoError(t, l.Close())
}

func TestAppendControl(t *testing.T) {
	l := open(t, "d", Options{FS: vfs.NewMem(), Executor: manual(), SegmentBytes: MinSegmentBytes})
	appendValue(t, l, "a")
	p := l.AppendControl([]byte("c"))
	q := l.AppendControl(nil)
	require.NoError(t, errorOf(p.Wait()))
	require.NoError(t, errorOf(q.Wait()))
	require.EqualValues(t, 2, p.Index())
	require.EqualValues(t, 3, q.Index())
	require.EqualValues(t, 1, p.First())
	entries, lease, err := l.ReadEntries(nil, 2, 3, 100)
	require.NoError(t, err)
	require.Len(t, entries, 2)
	require.Equal(t, KindControl, entries[0].Kind)
	require.Equal(t, "c", string(entries[0].Body))
	lease.Release()
	require.ErrorIs(t, l.AppendControl(make([]byte, MaxBodyBytes+1)).Refused(), ErrTooLarge)
	require.NoError(t, l.Close())
}

// TestAppendBehindAsync has a caller that waits for its append behind one whose task never
// gets to run.
func TestAppendBehindAsync(t *testing.T) {
	l := open(t, "d", Options{FS: vfs.NewMem(), Executor: manual(), SegmentBytes: MinSegmentBytes})
	p := l.AppendAsync(Record{Value: []byte("a")})
	require.NoError(t, p.Refused())
	require.EqualValues(t, 1, appendValue(t, l, "b"))
	<-p.Done()
	checkValues(t, l, "a", "b")
	require.NoError(t, l.Close())
}

// TestSyncCoversAsync syncs what has its place in the log, but is not written yet.
func TestSyncCoversAsync(t *testing.T) {
	mem := vfs.NewMem()
	l := open(t, "d", Options{FS: mem, Executor: manual(), Sync: SyncNever(), SegmentBytes: MinSegmentBytes})
	appendValue(t, l, "begins the segment, which is durable at once")
	l.AppendAsync(Record{Value: []byte("a")})
	require.NoError(t, l.Sync())
	again := open(t, "d", Options{FS: mem.Crash(nil), SegmentBytes: MinSegmentBytes})
	require.EqualValues(t, 2, again.EndOffset())
	require.NoError(t, again.Close())
	require.NoError(t, l.Close())
}

func TestPendingThatNeverWas(t *testing.T) {
	_, err := Pending{}.Wait()
	require.Error(t, err)
	<-Pending{}.Done()
	l := open(t, "d", Options{FS: vfs.NewMem(), Executor: manual(), SegmentBytes: MinSegmentBytes})
	body := []byte("no batch")
	good := NewEntry(1, 1, KindControl, body)
	p := l.AppendEntries(good, NewEntry(2, 1, KindData, body))
	<-p.Done()
	_, err = p.Wait()
	require.ErrorIs(t, err, batch.ErrMalformed)
	require.Zero(t, l.LastPlace().Index)
	require.NoError(t, l.Close())
}

// TestManyOffsets has a segment come to as many offsets as its index can tell apart.
func TestManyOffsets(t *testing.T) {
	l := open(t, "d", Options{FS: vfs.NewMem(), Executor: manual(), SegmentBytes: MinSegmentBytes})
	require.NoError(t, l.Reset(Place{Index: 5, Term: 1, Offset: 1 << 33}, nil))
	first := appendValue(t, l, "a")
	l.tail.start = first + 2 - math.MaxUint32 // as if all these were in it
	appendValue(t, l, "b")
	require.EqualValues(t, 1, l.Metrics().Rolls)
	appendValue(t, l, "c")
	require.EqualValues(t, 2, l.Metrics().Rolls)
	for i, want := range []string{"a", "b", "c"} {
		require.Equal(t, want, readValue(t, l, first+uint64(i)))
	}
	require.NoError(t, l.Close())
}

// TestPlacesEnd has a log come to the largest offset, and the largest index, there is.
func TestPlacesEnd(t *testing.T) {
	l := open(t, "d", Options{FS: vfs.NewMem(), Executor: manual(), SegmentBytes: MinSegmentBytes})
	require.ErrorContains(t, l.Reset(Place{Index: 5, Term: 1, Offset: maxIndex + 1}, nil), "larger than")
	require.ErrorContains(t, l.Reset(Place{Index: maxIndex + 1, Term: 1, Offset: 7}, nil), "larger than")
	require.NoError(t, l.Reset(Place{Index: 5, Term: 1, Offset: maxIndex - 2}, nil))
	_, err := l.Append(Record{}, Record{}, Record{})
	require.ErrorContains(t, err, "no more offsets")
	require.EqualValues(t, maxIndex-2, appendValue(t, l, "a"))
	require.EqualValues(t, maxIndex-1, appendValue(t, l, "b"))
	_, err = l.Append(Record{})
	require.ErrorContains(t, err, "no more offsets")
	require.Equal(t, "b", readValue(t, l, maxIndex-1))
	require.NoError(t, l.Reset(Place{Index: maxIndex, Term: 1, Offset: 7}, nil))
	_, err = l.Append(Record{})
	require.ErrorContains(t, err, "no more offsets")
	require.NoError(t, l.Close())
}

// TestHolesAreRefused has a leader send a batch with fewer records than offsets.
func TestHolesAreRefused(t *testing.T) {
	l := open(t, "d", Options{FS: vfs.NewMem(), Executor: manual(), SegmentBytes: MinSegmentBytes})
	body := batch.Append(nil, []Record{{Value: []byte("v")}}, 5)
	binary.BigEndian.PutUint32(body[2:], 4)
	_, err := l.AppendEntries(NewEntry(1, 1, KindData, body)).Wait()
	require.ErrorIs(t, err, batch.ErrUnsupported)
	require.NoError(t, l.Close())
}

// TestSyncEnds: the same without chance: Sync is to make one entry durable, and
// does not return while another goroutine appends.
func TestSyncEnds(t *testing.T) {
	mem, ex := vfs.NewMem(), manual()
	var l *Log
	n := 0
	l = open(t, "d", Options{FS: mem, Executor: ex, SegmentBytes: 1 << 20})
	appendValue(t, l, "x")
	mem.Inject(func(op vfs.Op, name string) error {
		if op == vfs.OpSync && n < 1000 { // somebody appends during each sync
			n++
			l.AppendAsync(Record{Value: []byte("other")})
		}
		return nil
	})
	l.AppendAsync(Record{Value: []byte("mine")})
	require.NoError(t, l.Sync())
	require.Less(t, n, 5, "Sync committed what came after it was called")
}

// TestAppendAsyncEnds: an AppendAsync that finds the queue full commits what others append
// as long as they do, not "until there is room".
func TestAppendAsyncEnds(t *testing.T) {
	mem, ex := vfs.NewMem(), manual()
	l := open(t, "d", Options{FS: mem, Executor: ex, Sync: SyncInterval(time.Hour)})
	value := make([]byte, 3<<20)
	appendValue(t, l, "x")
	for range 5 {
		l.AppendAsync(Record{Value: value})
	}
	n := 0
	mem.Inject(func(op vfs.Op, name string) error {
		if op == vfs.OpWrite && n < 200 { // somebody appends during each write
			n++
			l.AppendAsync(Record{Value: []byte("other")})
		}
		return nil
	})
	l.AppendAsync(Record{Value: value})
	require.LessOrEqual(t, n, 2, "there was room after one")
}

// TestSegmentAgeOfRestarts: a log that is opened for one append, and closed, every two
// hours, with segments that may become one hour old.
func TestSegmentAgeOfRestarts(t *testing.T) {
	mem, ex := vfs.NewMem(), manual()
	var l *Log
	for i := range 10 {
		l = open(t, "d", Options{FS: mem, Executor: ex, SegmentBytes: MinSegmentBytes, SegmentAge: time.Hour, RetentionAge: 4 * time.Hour})
		ex.Advance(2 * time.Hour)
		appendValue(t, l, fmt.Sprint(i))
		if i < 9 {
			require.NoError(t, l.Close())
		}
	}
	require.Greater(t, l.Metrics().Segments, 1)
}
