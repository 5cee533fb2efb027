package storage

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zue-log/zue/storage/batch"
	"github.com/zue-log/zue/storage/vfs"
)

func iterate(t testing.TB, l *Log, from uint64) *Iterator {
	t.Helper()
	it, err := l.Iterate(from)
	require.NoError(t, err)
	t.Cleanup(it.Close)
	return it
}

func TestIterateModel(t *testing.T) {
	for seed := range uint64(6) {
		rng := rand.New(rand.NewPCG(seed, 2))
		o := Options{Sync: SyncNever(), SegmentBytes: MinSegmentBytes << (2 * (seed % 3)), IndexInterval: 64 << (3 * (seed / 2))}
		l := open(t, t.TempDir(), o)
		var m model
		behind := iterate(t, l, 0) // goes on each round
		at := 0
		for range 10 {
			m.fill(t, l, rng, 20)
			for ; behind.Next(); at++ {
				require.EqualValues(t, at+1, behind.Offset())
				require.Equal(t, m.records[at], *behind.Record())
			}
			require.NoError(t, behind.Err())
			require.Len(t, m.records, at)
			require.EqualValues(t, at, behind.Offset())

			from := rng.IntN(len(m.records) + 1)
			it := iterate(t, l, uint64(from))
			for _, want := range m.records[from:] {
				require.Equal(t, want.Offset, it.Offset())
				require.True(t, it.Next(), "%v", it.Err())
				require.Equal(t, want, *it.Record())
			}
			require.False(t, it.Next())
			require.NoError(t, it.Err())
		}
		require.NoError(t, l.Close())
		require.False(t, behind.Next())
		require.ErrorIs(t, behind.Err(), ErrClosed)
	}
}

func TestIterateErrors(t *testing.T) {
	l := open(t, t.TempDir(), small)
	_, err := l.Iterate(1)
	require.ErrorIs(t, err, ErrOutOfRange)
	appendValue(t, l, "a")
	_, err = l.Iterate(2)
	require.ErrorIs(t, err, ErrOutOfRange)
	it := iterate(t, l, 0)
	require.True(t, it.Next())
	it.Close()
	it.Close()
	require.False(t, it.Next())
	require.Error(t, it.Err())
	require.EqualValues(t, 1, it.Offset())

	it = iterate(t, l, 0)
	require.True(t, it.Next())
	value := it.Record().Value
	require.NoError(t, l.Close())
	require.Equal(t, "a", string(value), "the iterator's lease outlives Close")
	require.ErrorIs(t, it.Wait(t.Context()), ErrClosed)
	require.False(t, it.Next())
	require.ErrorIs(t, it.Err(), ErrClosed)
	_, err = l.Iterate(0)
	require.ErrorIs(t, err, ErrClosed)
}

func TestIteratorWait(t *testing.T) {
	l := open(t, t.TempDir(), Options{})
	it := iterate(t, l, 0)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- it.Wait(ctx) }()
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)

	go func() { done <- it.Wait(t.Context()) }()
	appendValue(t, l, "a")
	require.NoError(t, <-done)
	require.NoError(t, it.Wait(t.Context()))
	require.True(t, it.Next())
	require.Equal(t, "a", string(it.Record().Value))
	require.False(t, it.Next())

	go func() { done <- it.Wait(t.Context()) }()
	require.NoError(t, l.Close())
	require.ErrorIs(t, <-done, ErrClosed)
}

// TestTailing has many iterators follow a log to its end while it grows and rolls.
func TestTailing(t *testing.T) {
	l := open(t, t.TempDir(), Options{Sync: SyncNever(), SegmentBytes: MinSegmentBytes, IndexInterval: 256, Compression: batch.CodecSnappy})
	const total, readers = 4000, 16
	var wg sync.WaitGroup
	for range readers {
		wg.Go(func() {
			it, err := l.Iterate(0)
			if err != nil {
				t.Error(err)
				return
			}
			defer it.Close()
			for next := uint64(0); next < total; {
				if err := it.Wait(t.Context()); err != nil {
					t.Error(err)
					return
				}
				for ; it.Next(); next++ {
					if r := it.Record(); r.Offset != next || string(r.Value) != fmt.Sprint(next) {
						t.Errorf("record %d: %d, %q", next, r.Offset, r.Value)
						return
					}
				}
				if it.Err() != nil {
					t.Error(it.Err())
					return
				}
			}
		})
	}
	for next := 0; next < total; {
		var records []Record
		for range 1 + next%7*next%30 {
			records = append(records, Record{Value: []byte(fmt.Sprint(next))})
			next++
		}
		_, err := l.Append(records...)
		require.NoError(t, err)
	}
	wg.Wait()
	require.NoError(t, l.Close())
}

// TestIterateOvertaken has the log's beginning cut off before an iterator's place: it
// yields its segment to the end, and then says what it missed.
func TestIterateOvertaken(t *testing.T) {
	l := open(t, t.TempDir(), Options{Sync: SyncNever(), SegmentBytes: MinSegmentBytes})
	defer l.Close()
	appendValue(t, l, "first")
	it := iterate(t, l, 0)
	require.True(t, it.Next())
	for len(*l.segments.Load()) < 4 {
		appendRecords(t, l, 1, 1000)
	}
	next := (*l.segments.Load())[1].before.Offset
	require.NoError(t, l.Sync())
	require.Eventually(t, func() bool { // sealed in the background
		require.NoError(t, l.TruncatePrefix(l.EndOffset()))
		return l.FirstOffset() > next
	}, 10*time.Second, time.Millisecond)
	for it.Next() {
	}
	var missed *OffsetError
	require.ErrorAs(t, it.Err(), &missed)
	require.Equal(t, next, missed.Offset)
	require.Equal(t, l.FirstOffset(), missed.First)
	require.Equal(t, next, it.Offset())
}

// TestIterateCut cuts the log's end off at various distances from an iterator's place,
// which then goes on only with what follows the records that it has yielded.
func TestIterateCut(t *testing.T) {
	for _, c := range []struct {
		name string
		read int    // records yielded before the cut
		last uint64 // entry to cut behind
		want error
	}{
		{"ahead", 10, 5, nil},
		{"just there", 20, 5, nil},
		{"before", 21, 5, ErrTruncated},
		{"far before", 100, 1, ErrTruncated},
		{"all, nothing yielded", 0, 0, nil},
	} {
		for _, size := range []int{10, 3000} { // one segment, or several
			t.Run(fmt.Sprintf("%s/%d", c.name, size), func(t *testing.T) {
				l := open(t, t.TempDir(), Options{Sync: SyncNever(), SegmentBytes: MinSegmentBytes})
				defer l.Close()
				for range 25 { // entries of 4 records
					appendRecords(t, l, 4, size)
				}
				it := iterate(t, l, 0)
				for range c.read {
					require.True(t, it.Next())
				}
				require.NoError(t, l.TruncateSuffix(c.last))
				for range 25 {
					_, err := l.Append(Record{Value: []byte("new")}, Record{})
					require.NoError(t, err)
				}
				require.NoError(t, it.Wait(t.Context()))
				next := uint64(c.read)
				for ; it.Next(); next++ {
					require.Equal(t, next, it.Record().Offset)
					isNew := string(it.Record().Value) == "new" || it.Record().Value == nil
					require.Equal(t, next >= c.last*4, isNew, "offset %d", next)
				}
				require.ErrorIs(t, it.Err(), c.want)
				if c.want == nil {
					require.Equal(t, l.EndOffset(), next)
				} else {
					require.EqualValues(t, c.read, it.Offset())
				}
			})
		}
	}
}

// TestIterateCutBeyond has an iterator that has yielded nothing find its place gone.
func TestIterateCutBeyond(t *testing.T) {
	l := open(t, t.TempDir(), Options{Sync: SyncNever()})
	defer l.Close()
	for range 10 {
		appendRecords(t, l, 1, 10)
	}
	it := iterate(t, l, 8)
	done := make(chan error)
	tail := iterate(t, l, 10)
	go func() { done <- tail.Wait(t.Context()) }()
	require.NoError(t, l.TruncateSuffix(4))
	require.NoError(t, <-done, "Next has something to say")
	for _, it := range []*Iterator{it, tail} {
		require.False(t, it.Next())
		var gone *OffsetError
		require.ErrorAs(t, it.Err(), &gone)
		require.EqualValues(t, 4, gone.End)
	}
}

// TestIterateManualCommit sees only what is committed, and follows cuts behind that.
func TestIterateManualCommit(t *testing.T) {
	l := open(t, t.TempDir(), Options{FS: vfs.NewMem(), Sync: SyncNever(), SegmentBytes: MinSegmentBytes, ManualCommit: true})
	defer l.Close()
	it := iterate(t, l, 0)
	at, index := uint64(0), uint64(0)
	for term := uint64(1); term < 30; term++ {
		for range 10 {
			index++
			_, err := l.AppendEntries(entryOf(index, term, fmt.Sprint(term))).Wait()
			require.NoError(t, err)
		}
		require.NoError(t, l.Commit(index-4))
		for ; it.Next(); at++ {
			require.Equal(t, at, it.Record().Offset)
			require.Contains(t, []string{fmt.Sprint(term), fmt.Sprint(term - 1)}, string(it.Record().Value))
		}
		require.NoError(t, it.Err())
		require.Equal(t, index-4, at)
		if term%2 == 0 {
			index -= 4
			require.NoError(t, l.TruncateSuffix(index))
		}
	}
}

// entryOf makes a data entry of one record.
func entryOf(index, term uint64, value string) Entry {
	body := batch.Append(nil, []Record{{Timestamp: 1, Value: []byte(value)}}, 0)
	return NewEntry(index, term, KindData, body)
}

// TestCutsBesideReaders cuts the log's end off again and again while others read: what
// they get has been in the log at that offset, and iterators yield records in the order
// in which one version of the log had them.
func TestCutsBesideReaders(t *testing.T) {
	l := open(t, t.TempDir(), Options{Sync: SyncNever(), SegmentBytes: MinSegmentBytes, IndexInterval: 256})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	stopped := func() bool {
		select {
		case <-stop:
			return true
		default:
			return false
		}
	}
	for k := range 3 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(k), 1))
			for !stopped() {
				offset := rng.Uint64N(l.EndOffset() + 1)
				rec, lease, err := l.Read(offset)
				if err != nil && !errors.Is(err, ErrOutOfRange) || err == nil && rec.Offset != offset {
					t.Errorf("read %d: %v, %v", offset, rec, err)
				}
				lease.Release()
				_, lease, err = l.ReadEntries(nil, offset+1, math.MaxUint64, 500)
				lease.Release()
				if err != nil && !errors.Is(err, ErrNoEntry) {
					t.Errorf("entries from %d on: %v", offset, err)
				}
				if _, err := l.OffsetForTime(rng.Int64N(1000)); err != nil {
					t.Errorf("offset for time: %v", err)
				}
			}
		})
		wg.Go(func() {
			for !stopped() {
				it, err := l.Iterate(0)
				if err != nil {
					t.Error(err)
					return
				}
				last := "" // rounds ascend with the offset in each version of the log
				for it.Next() {
					if v := string(it.Record().Value); v < last {
						t.Errorf("%q after %q", v, last)
					} else {
						last = v
					}
				}
				if err := it.Err(); err != nil && !errors.Is(err, ErrTruncated) && !errors.Is(err, ErrOutOfRange) {
					t.Error(err)
				}
				it.Close()
			}
		})
	}
	rng := rand.New(rand.NewPCG(9, 9))
	for round := range 60 {
		for range 40 {
			_, err := l.Append(Record{Timestamp: int64(round), Value: fmt.Appendf(nil, "%04d", round), Key: make([]byte, rng.IntN(400))})
			require.NoError(t, err)
		}
		last := l.LastPlace().Index
		require.NoError(t, l.TruncateSuffix(last-min(last, rng.Uint64N(100))))
	}
	close(stop)
	wg.Wait()
	require.NoError(t, l.Close())
}
