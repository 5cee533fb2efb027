package storage

import (
	"bytes"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/zue-log/zue/storage/batch"
	"github.com/zue-log/zue/storage/vfs"
)

func TestEntriesModel(t *testing.T) {
	for seed := range uint64(4) {
		rng := rand.New(rand.NewPCG(seed, 3))
		o := Options{Sync: SyncNever(), SegmentBytes: MinSegmentBytes << (2 * (seed % 3)), IndexInterval: 64 << (3 * (seed / 2)), ManualCommit: seed%2 == 1}
		l := open(t, t.TempDir(), o)
		origin := Place{Index: 0}
		p, err := l.PlaceAfter(0)
		require.NoError(t, err)
		require.Equal(t, origin, p)
		requireNoEntry(t, l, 1, IndexError{Index: 1, First: 1, Last: 0})

		var m model
		m.fill(t, l, rng, 200)
		for i, want := range m.entries {
			index := uint64(i + 1)
			p, err := l.PlaceAfter(index)
			require.NoError(t, err)
			require.Equal(t, Place{Index: index, Term: want.Term, Offset: want.Offset + uint64(want.Span), Chain: want.Chain}, p)
			maxBytes := rng.IntN(20_000)
			prefix := []Entry{{Index: 77}}
			last := index + rng.Uint64N(20)
			got, lease, err := l.ReadEntries(prefix, index, last, maxBytes)
			require.NoError(t, err)
			require.EqualValues(t, 77, got[0].Index)
			require.LessOrEqual(t, got[len(got)-1].Index, last)
			m.requireEntries(t, i, got[1:], maxBytes)
			headers, err := l.ReadHeaders([]Header{{}}, index, last, maxBytes)
			require.NoError(t, err)
			requireHeaders(t, got[1:], headers[1:])
			lease.Release()
			if o.ManualCommit {
				continue
			}
			for offset := want.Offset; offset < p.Offset; offset++ {
				found, err := l.FindEntry(offset)
				require.NoError(t, err)
				require.Equal(t, index, found)
			}
		}
		_, err = l.FindEntry(uint64(len(m.records)))
		require.ErrorIs(t, err, ErrOutOfRange)
		n := uint64(len(m.entries))
		requireNoEntry(t, l, n+1, IndexError{Index: n + 1, First: 1, Last: n})
		requireNoEntry(t, l, n+1<<40, IndexError{Index: n + 1<<40, First: 1, Last: n})

		require.NoError(t, l.Reset(Place{Index: 500, Term: 3, Offset: 1000, Chain: 9}, nil))
		p, err = l.PlaceAfter(500)
		require.NoError(t, err)
		require.Equal(t, Place{Index: 500, Term: 3, Offset: 1000, Chain: 9}, p)
		requireNoEntry(t, l, 5, IndexError{Index: 5, First: 501, Last: 500})
		require.NoError(t, l.Close())
		_, _, err = l.ReadEntries(nil, 501, 501, 0)
		require.ErrorIs(t, err, ErrClosed)
		_, err = l.ReadHeaders(nil, 501, 501, 0)
		require.ErrorIs(t, err, ErrClosed)
	}
}

// requireHeaders checks that headers are those entries without the bodies of data entries.
func requireHeaders(t *testing.T, entries []Entry, headers []Header) {
	t.Helper()
	require.Len(t, headers, len(entries))
	for i, e := range entries {
		want := Header{e, len(e.Body)}
		if e.Kind == KindData {
			want.Body = nil
		}
		require.Equal(t, want, headers[i])
	}
}

// TestReadHeadersOfDamage: where ReadEntries ends or fails since a body is damaged, ReadHeaders
// does so only for one that it returns.
func TestReadHeadersOfDamage(t *testing.T) {
	dir := t.TempDir()
	o := Options{Sync: SyncNever(), ManualCommit: true}
	l := open(t, dir, o)
	bodyOf := func(fill string) []byte {
		return batch.Append(nil, []Record{{Value: []byte(strings.Repeat(fill, 100))}}, 1)
	}
	for i, body := range [][]byte{bodyOf("a"), bodyOf("b"), []byte("control"), bodyOf("d")} {
		kind := KindData
		if i == 2 {
			kind = KindControl
		}
		_, err := l.AppendEntries(NewEntry(uint64(i+1), 1, kind, body)).Wait()
		require.NoError(t, err)
	}
	require.NoError(t, l.Close())
	segments, err := filepath.Glob(filepath.Join(dir, "*.log"))
	require.NoError(t, err)
	require.Len(t, segments, 1)
	b, err := os.ReadFile(segments[0])
	require.NoError(t, err)
	damage := func(what string) {
		at := bytes.Index(b, []byte(what))
		require.Positive(t, at)
		b[at] ^= 1
		require.NoError(t, os.WriteFile(segments[0], b, 0o600))
	}
	indexes := func(headers []Header) (is []uint64) {
		for _, h := range headers {
			is = append(is, h.Index)
		}
		return is
	}
	damage("bbbb")
	l = open(t, dir, o)
	entries, lease, err := l.ReadEntries(nil, 1, 4, MaxBodyBytes)
	require.NoError(t, err)
	require.Len(t, entries, 1)
	lease.Release()
	headers, err := l.ReadHeaders(nil, 1, 4, MaxBodyBytes)
	require.NoError(t, err)
	require.Equal(t, []uint64{1, 2, 3, 4}, indexes(headers))
	require.NoError(t, l.Close())

	damage("control")
	l = open(t, dir, o)
	headers, err = l.ReadHeaders(nil, 1, 4, MaxBodyBytes)
	require.NoError(t, err)
	require.Equal(t, []uint64{1, 2}, indexes(headers))
	var corrupt *CorruptionError
	headers, err = l.ReadHeaders(nil, 3, 4, MaxBodyBytes)
	require.ErrorAs(t, err, &corrupt)
	require.EqualValues(t, 3, corrupt.Index)
	require.Empty(t, headers)
	require.NoError(t, l.Close())
}

// requireEntries checks that got are the model's entries from number i on, as many as
// ReadEntries gives.
func (m *model) requireEntries(t *testing.T, i int, got []Entry, maxBytes int) {
	t.Helper()
	require.NotEmpty(t, got)
	total := 0
	for k, e := range got {
		want := m.entries[i+k]
		require.LessOrEqual(t, e.Mark, e.Index)
		want.Mark = e.Mark
		require.Equal(t, len(want.Body), len(e.Body))
		require.Equal(t, string(want.Body), string(e.Body))
		want.Body, e.Body = nil, nil
		require.Equal(t, want, e)
		total += len(m.entries[i+k].Body)
	}
	require.True(t, len(got) == 1 || total <= maxBytes)
}

func requireNoEntry(t *testing.T, l *Log, index uint64, want IndexError) {
	t.Helper()
	var missing *IndexError
	got, lease, err := l.ReadEntries([]Entry{{}}, index, math.MaxUint64, 1000)
	require.ErrorAs(t, err, &missing)
	require.ErrorIs(t, err, ErrNoEntry)
	require.Equal(t, want, *missing)
	require.Len(t, got, 1)
	lease.Release()
	_, err = l.PlaceAfter(index)
	require.ErrorAs(t, err, &missing)
	require.Equal(t, want, *missing)
}

// TestCompactedEntry appends an entry whose body is not the one that it was born with: its
// chain must be that of the leader, who had it before it was compacted.
func TestCompactedEntry(t *testing.T) {
	whole := open(t, "d", Options{FS: vfs.NewMem(), Executor: manual(), SegmentBytes: MinSegmentBytes})
	compacted := open(t, "d", Options{FS: vfs.NewMem(), Executor: manual(), SegmentBytes: MinSegmentBytes})
	e := data(1, 1, "a", "b")
	require.NoError(t, errorOf(whole.AppendEntries(e).Wait()))
	short := data(1, 1, "", "b")
	short.Born = e.Checksum
	require.NoError(t, errorOf(compacted.AppendEntries(short).Wait()))
	require.Equal(t, whole.LastPlace(), compacted.LastPlace())
	got, lease, err := compacted.ReadEntries(nil, 1, 1, 0)
	require.NoError(t, err)
	require.Equal(t, e.Checksum, got[0].Born)
	require.Equal(t, short.Checksum, got[0].Checksum)
	lease.Release()
}

func TestStarts(t *testing.T) {
	l := open(t, "d", Options{FS: vfs.NewMem(), Executor: manual(), SegmentBytes: MinSegmentBytes})
	require.Empty(t, l.Starts())
	for i := range 100 {
		appendValue(t, l, recordValue(i))
	}
	starts := l.Starts()
	require.Greater(t, len(starts), 2)
	require.Equal(t, l.FirstPlace(), starts[0])
	l.sealRolled()
	require.NoError(t, l.TruncatePrefix(starts[1].Offset))
	require.Equal(t, starts[1:], l.Starts())
	require.Equal(t, starts[1], l.FirstPlace())
	require.NoError(t, l.Close())
}
