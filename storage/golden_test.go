package storage

import (
	"bytes"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zue-log/zue/storage/batch"
	"github.com/zue-log/zue/storage/executor"
	"github.com/zue-log/zue/storage/vfs"
)

var goldenUpdate = flag.Bool("golden.update", false, "write testdata/golden anew, after a deliberate change of the format")

const goldenDir = "testdata/golden"

// goldenValues are the records of the golden log, from offset 7 on.
func goldenValues() []Record {
	records := []Record{
		{Timestamp: 1_700_000_000_123, Key: []byte("k"), Value: []byte("hello")},
		{Timestamp: 1_700_000_000_124, Headers: []RecordHeader{{Key: []byte("h"), Value: []byte("v")}, {Key: []byte{}}}},
		{Timestamp: 1_600_000_000_000, Key: []byte{}, Value: []byte{}},
	}
	for i := range 60 {
		records = append(records, Record{Timestamp: 1_700_000_001_000 + int64(i), Value: fmt.Appendf(nil, "record %d %s", i, bytes.Repeat([]byte("x"), 200))})
	}
	return records
}

// writeGolden makes a log that has something of everything: an origin, state, batches,
// control entries, a sealed segment and one that was left as a kill leaves it. All of it
// depends on nothing but this code.
func writeGolden(t *testing.T) *vfs.Mem {
	t.Helper()
	mem := vfs.NewMem()
	ex := executor.NewManual(time.UnixMilli(1_700_000_000_000))
	l := open(t, "d", Options{FS: mem, Executor: ex, SegmentBytes: MinSegmentBytes, IndexInterval: 512})
	require.NoError(t, l.Reset(Place{Index: 5, Term: 2, Offset: 7, Chain: 0x1234567890abcdef}, nil))
	require.NoError(t, l.SetState([]byte("state of the log's user")))
	records := goldenValues()
	_, err := l.AppendEntries(control(6, 3, "leader"), control(7, 3, "")).Wait()
	require.NoError(t, err)
	body := batch.Append(nil, records[:2], 0)
	_, err = l.AppendEntries(NewEntry(8, 4, KindData, body)).Wait()
	require.NoError(t, err)
	_, err = l.Append(records[2:20]...)
	require.NoError(t, err)
	for _, r := range records[20:] {
		_, err = l.Append(r)
		require.NoError(t, err)
	}
	ex.Advance(0)
	_, err = l.AppendEntries(control(l.LastPlace().Index+1, 9, "the end")).Wait()
	require.NoError(t, err)
	ex.Advance(idleAfter)
	return mem
}

// TestGolden pins the bytes of all files: they are made anew and compared, and read back
// from where they were kept. A difference is a change of the format, which needs a new
// version.
func TestGolden(t *testing.T) {
	mem := writeGolden(t)
	names, err := mem.List("d")
	require.NoError(t, err)
	want := map[string][]byte{}
	for _, name := range names {
		if name == lockName || isTemp(name) {
			continue
		}
		f, err := mem.Open(filepath.Join("d", name), false)
		require.NoError(t, err)
		size, err := f.Size()
		require.NoError(t, err)
		want[name] = make([]byte, size)
		_, err = f.ReadAt(want[name], 0)
		require.NoError(t, err)
	}
	if *goldenUpdate {
		require.NoError(t, os.RemoveAll(goldenDir))
		require.NoError(t, os.MkdirAll(goldenDir, 0o755))
		for name, b := range want {
			require.NoError(t, os.WriteFile(filepath.Join(goldenDir, name), b, 0o644))
		}
	}
	kept, err := os.ReadDir(goldenDir)
	require.NoError(t, err)
	require.Len(t, kept, len(want))
	dir := t.TempDir()
	for name, b := range want {
		got, err := os.ReadFile(filepath.Join(goldenDir, name))
		require.NoError(t, err)
		require.Equal(t, len(got), len(b), name)
		for i := range got {
			require.Equal(t, got[i], b[i], "%s differs at byte %d", name, i)
		}
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), got, 0o644))
	}

	l := open(t, dir, Options{SegmentBytes: MinSegmentBytes, IndexInterval: 512})
	records := goldenValues()
	require.EqualValues(t, 7, l.FirstOffset())
	require.EqualValues(t, 7+len(records), l.EndOffset())
	require.Equal(t, "state of the log's user", string(l.State()))
	for i, want := range records {
		want.Offset = uint64(7 + i)
		got, lease, err := l.Read(want.Offset)
		require.NoError(t, err)
		require.Equal(t, want, got)
		lease.Release()
	}
	entries, lease, err := l.ReadEntries(nil, 6, math.MaxUint64, 1<<20)
	require.NoError(t, err)
	require.Equal(t, "leader", string(entries[0].Body))
	require.Equal(t, []Kind{KindControl, KindControl, KindData}, []Kind{entries[0].Kind, entries[1].Kind, entries[2].Kind})
	lease.Release()
	require.EqualValues(t, 9, l.LastPlace().Term)
	require.NoError(t, l.Close())
}
