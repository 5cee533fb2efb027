package storage

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/zue-log/zue/storage/batch"
	"github.com/zue-log/zue/storage/vfs"
)

// model is what a log must hold: its records by offset and its entries by index.
type model struct {
	records []Record
	entries []Entry
}

// fill appends n entries of all sorts to l, which m describes, each with its index as
// term.
func (m *model) fill(t testing.TB, l *Log, rng *rand.Rand, n int) {
	t.Helper()
	for range n {
		e := Entry{Index: uint64(len(m.entries) + 1), Term: uint64(len(m.entries) + 1), Offset: uint64(len(m.records))}
		if rng.IntN(5) == 0 {
			e.Kind, e.Body = KindControl, bytes.Repeat([]byte("c"), rng.IntN(20))
		} else {
			e.Kind = KindData
			e.Body = m.batch(t, rng)
			e.Span = uint32(len(m.records) - int(e.Offset))
		}
		e.Checksum = batch.Checksum(e.Body)
		_, err := l.AppendEntries(e).Wait()
		require.NoError(t, err)
		p := l.LastPlace()
		require.Equal(t, e.Index, p.Index)
		e.Chain = p.Chain
		m.entries = append(m.entries, e)
	}
}

// batch adds random records to the model and encodes them.
func (m *model) batch(t testing.TB, rng *rand.Rand) []byte {
	t.Helper()
	records := make([]Record, 1+rng.IntN(3)*rng.IntN(3)*rng.IntN(20))
	size := 1 + rng.IntN(200)
	if rng.IntN(10) == 0 {
		size = 6000
	}
	for i := range records {
		r := &records[i]
		r.Timestamp = int64(1 + len(m.records)*10 + i*10 + rng.IntN(300))
		switch rng.IntN(4) {
		case 0:
			r.Value = bytes.Repeat([]byte{byte('a' + i%26)}, rng.IntN(size))
		case 1:
			r.Key, r.Value = []byte{}, fmt.Appendf(nil, "%d", rng.Uint64())
		case 2:
			r.Key, r.Value = fmt.Appendf(nil, "key %d", i), []byte{}
			r.Headers = []RecordHeader{{Key: []byte{}, Value: nil}, {Key: []byte("h"), Value: []byte{}}, {Key: []byte("x"), Value: r.Key}}
		case 3:
			r.Key = bytes.Repeat([]byte("k"), rng.IntN(size))
		}
	}
	codec := batch.Codec(max(0, rng.IntN(10)-5))
	body, err := batch.AppendCompressed(nil, records, 0, codec)
	require.NoError(t, err)
	for i := range records {
		records[i].Offset = uint64(len(m.records) + i)
	}
	m.records = append(m.records, records...)
	return body
}

func readInto(t testing.TB, l *Log, offset uint64) Record {
	t.Helper()
	prefix := []byte("prefix")
	rec, dst, err := l.ReadInto(offset, prefix)
	require.NoError(t, err)
	require.Equal(t, "prefix", string(dst[:6]))
	return rec
}

func TestReadModel(t *testing.T) {
	for seed := range uint64(6) {
		rng := rand.New(rand.NewPCG(seed, 1))
		dir := t.TempDir()
		o := Options{Sync: SyncNever(), SegmentBytes: MinSegmentBytes << (2 * (seed % 3)), IndexInterval: 64 << (3 * (seed / 2))}
		l := open(t, dir, o)
		var m model
		for round := range 2 {
			m.fill(t, l, rng, 150)
			for i := range m.records {
				want := m.records[i]
				got, lease, err := l.Read(want.Offset)
				require.NoError(t, err, "seed %d, offset %d", seed, i)
				require.Equal(t, want, got)
				lease.Release()
				require.Equal(t, want, readInto(t, l, want.Offset))
			}
			for range 500 {
				want := m.records[rng.IntN(len(m.records))]
				require.Equal(t, want, readInto(t, l, want.Offset))
			}
			_, dst, err := l.ReadInto(uint64(len(m.records)), []byte("x"))
			require.ErrorIs(t, err, ErrOutOfRange)
			require.Equal(t, "x", string(dst))
			if round == 0 { // the same, read from sealed segments and an index that was closed
				require.NoError(t, l.Close())
				l = open(t, dir, o)
			}
		}
		require.NoError(t, l.Close())
	}
}

// TestReadIntoNothing has null and empty stay apart without a buffer to point into.
func TestReadIntoNothing(t *testing.T) {
	l := open(t, t.TempDir(), Options{Sync: SyncNever()})
	defer l.Close()
	_, err := l.Append(Record{Timestamp: 1, Key: nil, Value: []byte{}})
	require.NoError(t, err)
	rec, dst, err := l.ReadInto(0, nil)
	require.NoError(t, err)
	require.Empty(t, dst)
	require.Nil(t, rec.Key)
	require.NotNil(t, rec.Value)
}

// TestEvenEntries reads entries of one size, whose positions are guessed, up to where
// one of another size is among them.
func TestEvenEntries(t *testing.T) {
	l := open(t, t.TempDir(), Options{Sync: SyncNever()})
	defer l.Close()
	var want []string
	for i := range 3000 {
		v := fmt.Sprintf("%04d", i)
		if i%500 == 499 {
			v += string(bytes.Repeat([]byte{'x'}, i%100*8))
		}
		want = append(want, v)
		appendValue(t, l, v)
	}
	for i := range want {
		require.Equal(t, want[i], readValue(t, l, uint64(i)))
	}
}

// TestEvenRecords reads long entries whose records are of one size between most index
// points, but not all.
func TestEvenRecords(t *testing.T) {
	l := open(t, t.TempDir(), Options{Sync: SyncNever(), IndexInterval: 256})
	defer l.Close()
	rng := rand.New(rand.NewPCG(1, 1))
	var want []string
	for range 20 {
		records := make([]Record, 1000)
		for i := range records {
			v := fmt.Sprintf("%05d", len(want))
			if rng.IntN(50) == 0 {
				v += "x"
			}
			records[i] = Record{Timestamp: 1, Value: []byte(v)}
			want = append(want, v)
		}
		_, err := l.Append(records...)
		require.NoError(t, err)
	}
	for range 2 {
		for i := range want {
			require.Equal(t, want[i], readValue(t, l, uint64(i)))
		}
	}
	s, even := (*l.segments.Load())[0], 0
	points := int(s.ix.count.Load())
	for i := range points {
		if s.even.has(i) {
			even++
		}
	}
	require.Greater(t, even, points/4)
	require.Less(t, even, points*3/4)
}

func TestReadAllocatesNothing(t *testing.T) {
	l := open(t, t.TempDir(), Options{Sync: SyncNever()})
	defer l.Close()
	for range 300 {
		appendRecords(t, l, 1, 100)
		appendRecords(t, l, 100, 100)
	}
	n := l.EndOffset()
	rng := rand.New(rand.NewPCG(1, 1))
	buf := make([]byte, 0, 1024)
	_, lease, err := l.Read(0)
	require.NoError(t, err)
	lease.Release()
	for offset := range n { // marks the long entries
		_, lease, err := l.Read(offset)
		require.NoError(t, err)
		lease.Release()
	}
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		_, lease, err := l.Read(rng.Uint64N(n))
		if err != nil {
			panic(err)
		}
		lease.Release()
		if _, _, err := l.ReadInto(rng.Uint64N(n), buf); err != nil {
			panic(err)
		}
	}))
}

// appendRecords appends a batch of n records with values of size bytes.
func appendRecords(t testing.TB, l *Log, n, size int) {
	t.Helper()
	records := make([]Record, n)
	for i := range records {
		records[i] = Record{Timestamp: 1, Key: make([]byte, 16), Value: make([]byte, size)}
	}
	_, err := l.Append(records...)
	require.NoError(t, err)
}

// TestBitFlips flips bits all over a sealed segment: each read then yields the right
// record or an error that says corruption, and does so for all records of the entry that
// was hit.
func TestBitFlips(t *testing.T) {
	fs := vfs.NewMem()
	o := Options{FS: fs, Sync: SyncNever(), SegmentBytes: MinSegmentBytes, IndexInterval: 512}
	l := open(t, "d", o)
	rng := rand.New(rand.NewPCG(3, 3))
	var m model
	for len(*l.segments.Load()) < 3 {
		m.fill(t, l, rng, 1)
	}
	require.NoError(t, l.Close())
	l = open(t, "d", o)
	first := (*l.segments.Load())[0]
	end, after := first.end.Load(), first.last
	require.True(t, first.sealed)
	require.NoError(t, l.Close())

	const path = "d/00000000000000000000.log"
	f, err := fs.Open(path, true)
	require.NoError(t, err)
	defer f.Close()
	for range 200 {
		pos := segmentHeaderSize + rng.Int64N(end-segmentHeaderSize)
		var b [1]byte
		_, err := f.ReadAt(b[:], pos)
		require.NoError(t, err)
		bad := [1]byte{b[0] ^ 1<<rng.IntN(8)}
		_, err = f.WriteAt(bad[:], pos)
		require.NoError(t, err)
		l := open(t, "d", o)
		checkFlipped(t, l, &m, pos, after)
		require.NoError(t, l.Close())
		_, err = f.WriteAt(b[:], pos)
		require.NoError(t, err)
	}
}

// checkFlipped reads all that l has, in which the byte at pos of the first segment, which
// ends with after, is damaged.
func checkFlipped(t *testing.T, l *Log, m *model, pos int64, after Place) {
	t.Helper()
	var damage *CorruptionError
	bad := map[uint64]uint32{} // how many of an entry's records, by its index
	for _, e := range m.entries {
		for i := e.Offset; i < e.Offset+uint64(e.Span); i++ {
			got, lease, err := l.Read(i)
			lease.Release()
			if err != nil {
				require.ErrorAs(t, err, &damage)
				require.Less(t, i, after.Offset)
				bad[e.Index]++
				continue
			}
			require.Equal(t, m.records[i], got)
		}
	}
	hit, padding := m.at(pos)
	if padding {
		require.Empty(t, bad)
	} else {
		require.Equal(t, hit.Span, bad[hit.Index], "all records of the entry that was hit")
	}
	// If its length was hit, those behind it are not found up to the next point.
	for index := range bad {
		require.GreaterOrEqual(t, index, hit.Index)
		require.LessOrEqual(t, index, hit.Index+512/entryHeaderSize)
	}
	for _, e := range m.entries {
		got, lease, err := l.ReadEntries(nil, e.Index, math.MaxUint64, 0)
		if err != nil {
			require.ErrorAs(t, err, &damage)
			continue
		}
		require.Len(t, got, 1)
		require.Equal(t, e.Body, append([]byte{}, got[0].Body...))
		lease.Release()
	}
	var next uint64
	it, err := l.Iterate(0)
	require.NoError(t, err)
	defer it.Close()
	for it.Next() {
		require.Equal(t, m.records[next], *it.Record())
		next++
	}
	if next < uint64(len(m.records)) {
		require.ErrorAs(t, it.Err(), &damage)
		require.LessOrEqual(t, next, after.Offset)
	} else {
		require.NoError(t, it.Err())
		require.True(t, padding || hit.Kind == KindControl && hit.Index == after.Index)
	}
}

// at returns the entry that the byte at pos of the first segment belongs to, and whether
// that is one of the zeros behind its body.
func (m *model) at(pos int64) (e Entry, padding bool) {
	at := int64(segmentHeaderSize)
	for _, e = range m.entries {
		n := entrySize(uint32(len(e.Body)))
		if pos < at+n {
			return e, pos >= at+entryHeaderSize+int64(len(e.Body))
		}
		at += n
	}
	panic("there is no such entry")
}

// TestReadersBesideAppends has readers of all kinds go through a log that grows, rolls
// and is cut at its beginning.
func TestReadersBesideAppends(t *testing.T) {
	l := open(t, t.TempDir(), Options{Sync: SyncNever(), SegmentBytes: MinSegmentBytes, IndexInterval: 256})
	const total = 6000
	value := func(offset uint64) string { return fmt.Sprintf("value %d", offset) }
	var wg sync.WaitGroup
	for k := range 4 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(k), 1))
			for l.EndOffset() < total {
				first, end := l.FirstOffset(), l.EndOffset()
				if first == end {
					continue
				}
				offset := first + rng.Uint64N(end-first)
				rec, _, err := l.ReadInto(offset, nil)
				if errors.Is(err, ErrOutOfRange) && offset < l.FirstOffset() {
					continue
				}
				if err != nil || string(rec.Value) != value(offset) || rec.Offset != offset {
					t.Errorf("read %d: %q, %v", offset, rec.Value, err)
					return
				}
				_, err = l.FindEntry(offset)
				entries, lease, err2 := l.ReadEntries(nil, l.FirstPlace().Index+1, math.MaxUint64, 1000)
				if err := errors.Join(err, err2); err != nil && !errors.Is(err, ErrOutOfRange) && !errors.Is(err, ErrNoEntry) {
					t.Errorf("read entries %d: %v, %v", len(entries), err, err2)
					return
				}
				lease.Release()
			}
		})
	}
	records := make([]Record, 0, 50)
	rng := rand.New(rand.NewPCG(9, 9))
	for next := uint64(0); next < total; {
		records = records[:0]
		for range 1 + rng.IntN(cap(records)) {
			records = append(records, Record{Value: []byte(value(next))})
			next++
		}
		_, err := l.Append(records...)
		require.NoError(t, err)
		if rng.IntN(10) == 0 {
			require.NoError(t, l.TruncatePrefix(next-min(next, 1000)))
		}
	}
	wg.Wait()
	require.NoError(t, l.Close())
}

// TestFault has the file of a segment truncated under its mapping: the process must
// live, and what is read must be right or an error.
func TestFault(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, Options{Sync: SyncNever(), SegmentBytes: 1 << 20})
	for range 2000 {
		appendRecords(t, l, 1, 100)
	}
	it, err := l.Iterate(1000)
	require.NoError(t, err)
	defer it.Close()
	require.True(t, it.Next())
	path := filepath.Join(dir, segmentName(0))
	require.NoError(t, os.Truncate(path, 4096))

	var fault *FaultError
	_, _, err = l.Read(1500)
	require.ErrorAs(t, err, &fault)
	require.ErrorIs(t, err, ErrFault)
	require.Equal(t, path, fault.Path)
	_, dst, err := l.ReadInto(1500, []byte("x"))
	require.ErrorIs(t, err, ErrFault)
	require.Equal(t, "x", string(dst))
	for it.Next() {
	}
	require.ErrorIs(t, it.Err(), ErrFault)
	_, _, err = l.ReadEntries(nil, 1500, math.MaxUint64, 1000)
	require.ErrorIs(t, err, ErrFault)
	_, err = l.PlaceAfter(1500)
	require.ErrorIs(t, err, ErrFault)
	_, err = l.FindEntry(1500)
	require.ErrorIs(t, err, ErrFault)

	require.Len(t, readInto(t, l, 5).Value, 100)
	_ = l.Close() // as far as it goes
}

// TestFaultInCopy truncates the file between the look for a record and its copy.
func TestFaultInCopy(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, Options{Sync: SyncNever(), SegmentBytes: 1 << 20})
	for range 2000 {
		appendRecords(t, l, 1, 100)
	}
	s := (*l.segments.Load())[0]
	require.NoError(t, os.Truncate(s.path, 4096))
	copying := func() (err error) {
		defer catchFault(s.path, &err, debug.SetPanicOnFault(true))
		rec := Record{Value: s.b[100_000:100_100]}
		copyRecord(&rec, nil)
		return nil
	}
	require.ErrorIs(t, copying(), ErrFault)
	require.True(t, s.acquire())
	lease := Lease{s}
	dst, err := lease.Append([]byte("x"), s.b[100:102])
	require.NoError(t, err)
	require.Len(t, dst, 3)
	dst, err = lease.Append([]byte("x"), s.b[100_000:100_100])
	require.ErrorIs(t, err, ErrFault)
	require.Equal(t, "x", string(dst))
	lease.Release()
	_ = l.Close()
}

// TestOtherPanics has panics that are no faults go on.
func TestOtherPanics(t *testing.T) {
	guarded := func(do func()) (err error) {
		defer catchFault("p", &err, debug.SetPanicOnFault(true))
		do()
		return nil
	}
	require.PanicsWithValue(t, "mine", func() { _ = guarded(func() { panic("mine") }) })
	require.Panics(t, func() {
		var s *segment
		_ = guarded(func() { s.sealed = true })
	})
	require.Panics(t, func() { _ = guarded(func() { _ = []int{}[len(t.Name())] }) })
	require.NoError(t, guarded(func() {}))
}

func TestLeaseMaps(t *testing.T) {
	for _, codec := range []batch.Codec{batch.CodecNone, batch.CodecZstd} {
		l, err := Open(t.TempDir(), Options{Compression: codec})
		require.NoError(t, err)
		_, err = l.Append(Record{Key: []byte{}, Value: make([]byte, 1000)})
		require.NoError(t, err)
		rec, lease, err := l.Read(0)
		require.NoError(t, err)
		require.Equal(t, codec == batch.CodecNone, lease.Maps(rec.Value))
		require.True(t, lease.Maps(rec.Key))
		require.False(t, lease.Maps([]byte("elsewhere")))
		require.False(t, Lease{}.Maps(rec.Value))
		lease.Release()
		require.NoError(t, l.Close())
	}
}
