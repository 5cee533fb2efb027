package storage

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestOffsetForTimeModel(t *testing.T) {
	for seed := range uint64(6) {
		rng := rand.New(rand.NewPCG(seed, 4))
		dir := t.TempDir()
		o := Options{Sync: SyncNever(), SegmentBytes: MinSegmentBytes << (2 * (seed % 3)), IndexInterval: 64 << (3 * (seed / 2))}
		l := open(t, dir, o)
		offset, err := l.OffsetForTime(0)
		require.NoError(t, err)
		require.Zero(t, offset)
		var m model
		for round := range 3 {
			m.fill(t, l, rng, 60)
			last := m.records[len(m.records)-1].Timestamp
			for range 400 {
				ms := rng.Int64N(last + 400)
				got, err := l.OffsetForTime(ms)
				require.NoError(t, err)
				require.Equal(t, m.since(ms), got, "seed %d, time %d", seed, ms)
			}
			if round == 1 {
				require.NoError(t, l.Close())
				l = open(t, dir, o)
			}
		}
		require.NoError(t, l.Close())
		_, err = l.OffsetForTime(1)
		require.ErrorIs(t, err, ErrClosed)
	}
}

// since is OffsetForTime, the long way.
func (m *model) since(ms int64) uint64 {
	for i := range m.records {
		if m.records[i].Timestamp >= ms {
			return uint64(i)
		}
	}
	return uint64(len(m.records))
}

// TestOffsetForTimeCommitted must not see what readers do not.
func TestOffsetForTimeCommitted(t *testing.T) {
	l := open(t, t.TempDir(), Options{Sync: SyncNever(), ManualCommit: true})
	defer l.Close()
	for index := range uint64(10) {
		_, err := l.AppendEntries(entryOf(index+1, 1, "v")).Wait()
		require.NoError(t, err)
	}
	offset, err := l.OffsetForTime(1)
	require.NoError(t, err)
	require.Zero(t, offset)
	require.NoError(t, l.Commit(4))
	offset, err = l.OffsetForTime(2)
	require.NoError(t, err)
	require.EqualValues(t, 4, offset)
}
