package storage

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zue-log/zue/storage/batch"
	"github.com/zue-log/zue/storage/vfs"
)

// TestReadRaw reads a log of all sorts of entries by raw entries from each offset, and
// compares the records with what was appended.
func TestReadRaw(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	l := open(t, "d", Options{FS: vfs.NewMem(), Executor: manual(), SegmentBytes: MinSegmentBytes, IndexInterval: 256})
	var want []string
	for i := range 200 {
		if i%20 == 3 {
			require.NoError(t, appendControl(l, 10))
		}
		records := make([]Record, 1+rng.IntN(5))
		for k := range records {
			records[k].Value = fmt.Appendf(nil, "%d/%d %s", i, k, make([]byte, rng.IntN(400)))
			want = append(want, string(records[k].Value))
		}
		body, err := batch.AppendCompressed(nil, records, 1, batch.Codec(i%5))
		require.NoError(t, err)
		require.NoError(t, errorOf(l.AppendBatch(body, batch.Checksum(body)).Wait()))
	}
	require.NoError(t, appendControl(l, 10)) // behind all records
	require.Greater(t, len(*l.segments.Load()), 3)
	for offset := range want {
		most := rng.IntN(5000)
		raw, lease, err := l.ReadRaw(uint64(offset), most)
		require.NoError(t, err)
		got, entries := recordsOf(t, raw, uint64(offset))
		lease.Release()
		require.True(t, entries == 1 || len(raw.Bytes) <= most)
		require.Equal(t, want[offset:offset+len(got)], got)
		require.EqualValues(t, offset+len(got), raw.EndOffset(7))
		require.NotEmpty(t, got)
	}
	raw, _, err := l.ReadRaw(uint64(len(want)), 1000)
	require.NoError(t, err)
	require.Empty(t, raw.Bytes)
	_, _, err = l.ReadRaw(uint64(len(want)+1), 1000)
	require.ErrorIs(t, err, ErrOutOfRange)
	require.NoError(t, l.Close())
	_, _, err = l.ReadRaw(0, 1000)
	require.ErrorIs(t, err, ErrClosed)
}

// recordsOf decodes raw entries: the values from offset on, and how many entries there are.
func recordsOf(t *testing.T, raw RawEntries, offset uint64) (values []string, entries int) {
	t.Helper()
	r, err := NewEntryReader(raw)
	require.NoError(t, err)
	for {
		e, ok, err := r.Next()
		require.NoError(t, err)
		if !ok {
			return values, entries
		}
		entries++
		if e.Kind != KindData {
			continue
		}
		records, err := e.Records()
		require.NoError(t, err)
		var rec Record
		for {
			ok, err := records.Next(&rec)
			require.NoError(t, err)
			if !ok {
				break
			}
			if rec.Offset >= offset {
				require.Equal(t, offset+uint64(len(values)), rec.Offset)
				values = append(values, string(rec.Value))
			}
		}
	}
}

// TestReadRawOfWhatIsCommitted hands out no entry that readers must not see.
func TestReadRawOfWhatIsCommitted(t *testing.T) {
	l := open(t, "d", Options{FS: vfs.NewMem(), Executor: manual(), SegmentBytes: MinSegmentBytes, ManualCommit: true})
	for i := range 5 {
		appendValueUnread(t, l, fmt.Sprint(i))
	}
	require.NoError(t, l.Commit(3))
	raw, lease, err := l.ReadRaw(1, 1<<20)
	require.NoError(t, err)
	got, _ := recordsOf(t, raw, 1)
	require.Equal(t, []string{"1", "2"}, got)
	lease.Release()
	raw, _, err = l.ReadRaw(3, 1<<20)
	require.NoError(t, err)
	require.Empty(t, raw.Bytes)
	require.NoError(t, l.Close())
}

// appendValueUnread appends a record that readers do not see yet.
func appendValueUnread(t *testing.T, l *Log, value string) {
	t.Helper()
	_, err := l.Append(Record{Value: []byte(value)})
	require.NoError(t, err)
}

// TestEntryReaderRefuses changes each bit of raw entries.
func TestEntryReaderRefuses(t *testing.T) {
	l := open(t, "d", Options{FS: vfs.NewMem(), Executor: manual(), SegmentBytes: MinSegmentBytes})
	appendValue(t, l, "a")
	appendValue(t, l, "bc")
	raw, lease, err := l.ReadRaw(0, 1<<20)
	require.NoError(t, err)
	good, n := recordsOf(t, raw, 0)
	require.Equal(t, 2, n)
	for i := range 8 * len(raw.Bytes) {
		bad := raw
		bad.Bytes = append([]byte(nil), raw.Bytes...)
		bad.Bytes[i/8] ^= 1 << (i % 8)
		r, err := NewEntryReader(bad)
		require.NoError(t, err)
		for n = 0; ; n++ {
			_, ok, e := r.Next()
			if err = e; !ok {
				break
			}
		}
		if err == nil { // padding, which nothing vouches for
			again, _ := recordsOf(t, bad, 0)
			require.Equal(t, good, again)
		} else {
			require.ErrorIs(t, err, ErrCorrupt)
		}
	}
	bodyLen, _, _ := hop(raw.Bytes)
	for cut := range raw.Bytes {
		r, err := NewEntryReader(RawEntries{Bytes: raw.Bytes[:cut], Format: raw.Format, Seed: raw.Seed})
		require.NoError(t, err)
		for ok := true; ok && err == nil; {
			_, ok, err = r.Next()
		}
		require.Equal(t, cut == 0 || cut == int(entrySize(bodyLen)), err == nil, "cut at %d", cut)
	}
	_, err = NewEntryReader(RawEntries{Bytes: raw.Bytes, Format: 2})
	require.ErrorIs(t, err, ErrVersion)
	lease.Release()
	require.NoError(t, l.Close())
}

// FuzzEntryReader reads anything.
func FuzzEntryReader(f *testing.F) {
	b, p := appendEntry(nil, newSeed(7), Place{}, 0, &payload{kind: KindData, at: anywhere, span: 1, records: []Record{{Value: []byte("v")}}, now: 1})
	b, _ = appendEntry(b, newSeed(7), p, 0, &payload{kind: KindControl, at: anywhere, body: []byte("c")})
	f.Add(b, uint32(7))
	f.Fuzz(func(t *testing.T, b []byte, seed uint32) {
		// The checksums would keep the fuzzer out.
		if len(b) >= entryHeaderSize {
			n := min(int(uint32(b[48])|uint32(b[49])<<8), len(b)-entryHeaderSize)
			copy(b[4:], crcOf(b[entryHeaderSize:entryHeaderSize+n]))
			copy(b, binary.LittleEndian.AppendUint32(nil, newSeed(seed).checksum(b[4:entryHeaderSize])))
		}
		r, err := NewEntryReader(RawEntries{Bytes: b, Format: segmentVersion, Seed: seed})
		require.NoError(t, err)
		for {
			e, ok, err := r.Next()
			if !ok || err != nil {
				return
			}
			if records, err := e.Records(); err == nil && e.Kind == KindData {
				var rec Record
				for {
					if ok, err := records.Next(&rec); !ok || err != nil {
						break
					}
				}
			}
		}
	})
}

func TestAppendBatchAt(t *testing.T) {
	l := open(t, "d", Options{FS: vfs.NewMem(), Executor: manual(), SegmentBytes: MinSegmentBytes})
	body := batch.Append(nil, []Record{{Value: []byte("v")}}, 1)
	sum := batch.Checksum(body)
	require.ErrorIs(t, errorOf(l.AppendBatchAt(1, body, sum).Wait()), ErrNotAtEnd)
	first := l.AppendBatchAt(0, body, sum)
	require.ErrorIs(t, errorOf(l.AppendBatchAt(0, body, sum).Wait()), ErrNotAtEnd, "the first has its place")
	require.NoError(t, errorOf(first.Wait()))
	require.NoError(t, errorOf(l.AppendBatchAt(1, body, sum).Wait()))
	require.EqualValues(t, 2, l.EndOffset())
	require.ErrorIs(t, errorOf(l.AppendBatchAt(1<<63, body, sum).Wait()), ErrNotAtEnd)
	require.NoError(t, l.Close())
}

func TestWaitFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := open(t, "d", Options{FS: vfs.NewMem(), SegmentBytes: MinSegmentBytes})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, l.WaitFor(ctx, 0), context.DeadlineExceeded)
		waited := make(chan error)
		go func() { waited <- l.WaitFor(t.Context(), 0) }()
		synctest.Wait()
		appendValue(t, l, "a")
		require.NoError(t, <-waited)
		require.NoError(t, l.WaitFor(t.Context(), 0))
		go func() { waited <- l.WaitFor(t.Context(), 1) }()
		synctest.Wait()
		require.NoError(t, l.Close())
		require.ErrorIs(t, <-waited, ErrClosed)
	})
}
