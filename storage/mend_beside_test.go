package storage

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zue-log/zue/storage/executor"
	"github.com/zue-log/zue/storage/vfs"
)

// TestMendBeside has other things happen to a log while a sealed segment is copied: appends do
// not wait, and what has become of the segment counts.
func TestMendBeside(t *testing.T) {
	for name, c := range map[string]struct {
		segment int
		do      func(m *mended)
		check   func(m *mended, err error)
	}{
		"append": {1, func(m *mended) {
			for i := range 60 {
				m.append(mendEntries + i) // rolls
			}
		}, func(m *mended, err error) {
			require.NoError(t, err)
			m.whole(m.l)
		}},
		"removal": {0, func(m *mended) { require.NoError(t, m.l.TruncatePrefix(m.segment(2).before.Offset)) },
			func(m *mended, err error) { require.ErrorIs(t, err, ErrNoEntry) }},
		"reset": {0, func(m *mended) { require.NoError(t, m.l.Reset(Place{Index: 1000, Term: 20, Offset: 5000}, nil)) },
			func(m *mended, err error) { require.ErrorIs(t, err, ErrNoEntry) }},
		"truncation before it": {2, func(m *mended) {
			m.peer = m.peer[:10]
			require.NoError(t, m.l.TruncateSuffix(10))
		}, func(m *mended, err error) {
			require.ErrorIs(t, err, ErrNoEntry)
			m.whole(m.l)
		}},
		"truncation behind it": {1, func(m *mended) {
			last := m.segment(1).last.Index
			m.peer = m.peer[:last]
			require.NoError(t, m.l.TruncateSuffix(last))
		}, func(m *mended, err error) {
			require.NoError(t, err)
			require.Same(t, m.segment(-1), m.l.active)
			m.whole(m.l)
		}},
		"truncation in it": {1, func(m *mended) {
			last := m.segment(1).before.Index + 10
			m.peer = m.peer[:last]
			require.NoError(t, m.l.TruncateSuffix(last))
		}, func(m *mended, err error) {
			require.NoError(t, err)
			require.False(t, m.segment(-1).sealed)
			m.whole(m.l)
		}},
	} {
		for _, indexOnly := range []bool{false, true} {
			t.Run(fmt.Sprint(name, indexOnly), func(t *testing.T) {
				m := newMended(t, vfs.NewMem(), Options{})
				i := m.segment(c.segment).before.Index + 4
				entries := m.of(i, i)
				if indexOnly {
					entries = nil
				}
				once := true
				m.mem.Inject(func(op vfs.Op, name string) error {
					if once && op == vfs.OpSync && isTemp(filepath.Base(name)) {
						once = false
						c.do(m)
					}
					return nil
				})
				c.check(m, m.l.Mend(i, entries))
				require.False(t, once)
				m.mem.Inject(nil)
				for m.ex.Step() {
				}
				require.NoError(t, m.l.Close())
				require.Zero(t, m.mem.InUse())
				require.False(t, slices.ContainsFunc(filesOf(t, m.mem), isTemp))
			})
		}
	}
}

// TestMendBesideClose has Close wait for a mend, which is given up.
func TestMendBesideClose(t *testing.T) {
	m := newMended(t, vfs.NewMem(), Options{})
	closed := make(chan error, 1)
	m.mem.Inject(func(op vfs.Op, name string) error {
		if op == vfs.OpSync && isTemp(filepath.Base(name)) {
			m.mem.Inject(nil)
			go func() { closed <- m.l.Close() }()
			require.Eventually(t, m.l.done.Load, time.Minute, time.Millisecond, "Close has begun")
			require.Empty(t, closed)
		}
		return nil
	})
	require.ErrorIs(t, m.l.Mend(3, m.of(3, 3)), ErrClosed)
	require.NoError(t, <-closed)
	require.Zero(t, m.mem.InUse())
	require.False(t, slices.ContainsFunc(filesOf(t, m.mem), isTemp))
	m.l = open(t, "d", m.o)
	m.whole(m.l)
}

// mendCase is something to mend in a segment, with other damage beside it or without.
type mendCase struct {
	segment  int
	index    bool // only that is to be mended
	other    bool
	unsealed bool // the segment is not the last, but not sealed yet
}

// eachMend calls test for each case, until it returns false for that: with one step later each
// time.
func eachMend(t *testing.T, test func(t *testing.T, c mendCase, step int) (more bool)) {
	for _, where := range []mendCase{{segment: 1}, {segment: -1}, {segment: -2, unsealed: true}} {
		for i := range 4 {
			c := where
			c.index, c.other = i&1 != 0, i&2 != 0
			t.Run(fmt.Sprintf("%+v", c), func(t *testing.T) {
				t.Parallel()
				step := 1
				for test(t, c, step) {
					step++
				}
				require.Greater(t, step, 7)
			})
		}
	}
}

// begin makes the log of a case, and returns the first of what is to be mended, with which
// entries, and what else is damaged.
func (c *mendCase) begin(t *testing.T) (m *mended, first uint64, entries []Entry, other IndexRange) {
	t.Helper()
	m = newMended(t, vfs.NewMem(), Options{})
	if c.unsealed {
		for i := range 40 {
			m.append(mendEntries + i)
		}
	}
	s := m.segment(c.segment)
	require.Equal(t, c.segment == 1, s.sealed)
	first = s.before.Index + 4
	other = IndexRange{first + 8, first + 9}
	if c.other {
		m.flip(first+9, 10)
		m.flip(first+8, 10)
	}
	if !c.index {
		m.flip(first+1, 10)
		m.flip(first, 70)
		entries = m.of(first, first+1)
	}
	return m, first, entries, other
}

// ranges returns what is damaged in the segment that holds an entry.
func (m *mended) ranges(l *Log, index uint64) []IndexRange {
	m.t.Helper()
	got, err := l.Damaged(&CorruptionError{Index: index})
	require.NoError(m.t, err)
	return got
}

// expect returns what is damaged before a mend, and after.
func (c *mendCase) expect(first uint64, other IndexRange) (before, after []IndexRange) {
	if !c.index {
		before = append(before, IndexRange{first, first + 1})
	}
	if c.other {
		before, after = append(before, other), append(after, other)
	}
	return before, after
}

// TestMendAtEachStep cuts the power before each operation of a mend: the log has what it had
// before or what it is to have, and its indexes are right.
func TestMendAtEachStep(t *testing.T) {
	eachMend(t, func(t *testing.T, c mendCase, step int) bool {
		m, first, entries, other := c.begin(t)
		before, after := c.expect(first, other)
		left := step
		m.mem.Inject(func(vfs.Op, string) error {
			if left--; left <= 0 {
				return errPowerOff
			}
			return nil
		})
		err := m.l.Mend(first, entries)
		m.mem.Inject(nil)
		unchanged := err != nil && !errors.Is(err, ErrFailed)
		for seed := range uint64(5) {
			var rng *rand.Rand // nil loses all that may be lost
			if seed > 0 {
				rng = rand.New(rand.NewPCG(seed, uint64(step)))
			}
			o := m.o
			o.FS, o.Executor = m.mem.Crash(rng), executor.NewManual(time.Unix(2, 0))
			r, e := Verify(t.Context(), o.FS, "d", WalkOptions{})
			require.NoError(t, e)
			for _, damage := range r.Damage {
				require.NotEqual(t, ".index", filepath.Ext(damage.Path))
			}
			l, e := Open("d", o)
			if e != nil {
				// Of a segment that is not sealed: known, where it was before.
				var damage *CorruptionError
				require.ErrorAs(t, e, &damage)
				require.NotEqual(t, 1, c.segment)
				require.False(t, err == nil && !c.index, "the new index vouches for all that is there")
				require.True(t, err != nil && damage.Index == before[0].First || c.other && damage.Index == other.First, "%v after %v", e, err)
				continue
			}
			got := m.ranges(l, first)
			switch {
			case err == nil:
				require.Equal(t, after, got)
			case unchanged:
				require.Equal(t, before, got)
			default:
				require.Contains(t, [][]IndexRange{before, after}, got)
			}
			if len(got) == 0 {
				m.whole(l)
			}
			require.NoError(t, l.Close())
		}
		if unchanged {
			require.Equal(t, before, m.ranges(m.l, first))
			require.NoError(t, m.l.Mend(first, entries))
		}
		return err != nil
	})
}

// TestMendFaults has each operation of a mend fail by itself: either nothing has changed, and
// all goes on, or the log has failed, and is one or the other when it is opened again.
func TestMendFaults(t *testing.T) {
	eachMend(t, func(t *testing.T, c mendCase, step int) bool {
		fired := false
		for _, fault := range []error{syscall.EIO, syscall.ENOSPC} {
			m, first, entries, other := c.begin(t)
			before, after := c.expect(first, other)
			files := m.contents()
			left := step
			fired = false
			m.mem.Inject(func(vfs.Op, string) error {
				if left--; left != 0 {
					return nil
				}
				fired = true
				return fault
			})
			err := m.l.Mend(first, entries)
			m.mem.Inject(nil)
			if !fired {
				require.NoError(t, err)
				break
			}
			require.ErrorIs(t, err, fault)
			if !errors.Is(err, ErrFailed) {
				require.Equal(t, fault == syscall.ENOSPC, IsFull(err))
				require.Equal(t, files, m.contents())
				require.Equal(t, before, m.ranges(m.l, first))
				m.append(200)
				require.NoError(t, m.l.Mend(first, entries))
				require.Equal(t, after, m.ranges(m.l, first))
				require.NoError(t, m.l.Close())
				require.Zero(t, m.mem.InUse())
				continue
			}
			require.False(t, IsFull(err))
			_, err = m.l.Append(Record{})
			require.ErrorIs(t, err, ErrFailed)
			require.Error(t, m.l.Close())
			require.Zero(t, m.mem.InUse())
			l, err := Open("d", m.o)
			if err != nil {
				require.ErrorIs(t, err, ErrCorrupt)
				require.NotEqual(t, 1, c.segment)
				continue
			}
			require.Contains(t, [][]IndexRange{before, after}, m.ranges(l, first))
			require.NoError(t, l.Close())
		}
		return fired
	})
}

// TestMendedIndexStays has an index on the disk damaged, too, while entries are, so that the log
// could not be opened without a good one: what a mend has made is not lost with the power.
func TestMendedIndexStays(t *testing.T) {
	for _, entries := range []bool{false, true} {
		m := newMended(t, vfs.NewMem(), Options{})
		s := m.segment(1)
		i := s.before.Index + 4
		m.flip(i, 10)
		m.flip(i+5, 10)
		flipByte(t, m.fs, s.ix.path, indexHeaderSize+8)
		o := m.o
		o.FS, o.Executor = m.mem.Crash(nil), manual()
		_, err := Open("d", o)
		require.ErrorIs(t, err, ErrCorrupt)
		var give []Entry
		want := []IndexRange{{i, i}, {i + 5, i + 5}}
		if entries {
			give, want = m.of(i, i), want[1:]
		}
		require.NoError(t, m.l.Mend(i, give))
		o.FS = m.mem.Crash(nil)
		l := open(t, "d", o)
		require.Equal(t, want, m.ranges(l, i))
		require.NoError(t, l.Close())
	}
}

// TestVerifyBesideMend mends a segment that a scrub has not come to yet: it looks at the copy.
func TestVerifyBesideMend(t *testing.T) {
	m := newMended(t, vfs.NewMem(), Options{})
	i := m.segment(1).before.Index + 4
	m.flip(3, 70)
	m.flip(i, 10)
	m.flip(i+5, 10)
	r, err := m.l.Verify(t.Context(), func(e *CorruptionError) {
		if e.Index == 3 {
			require.NoError(t, m.l.Mend(i, m.of(i, i)))
		}
	})
	require.NoError(t, err)
	require.Len(t, r.Damage, 2)
	require.Equal(t, i+5, r.Damage[1].Index)
	require.EqualValues(t, mendEntries-2, r.Entries)
}

// TestMendFullDisk has no space for a copy, of a sealed segment or another.
func TestMendFullDisk(t *testing.T) {
	for _, i := range []uint64{3, 99} {
		m := newMended(t, vfs.NewMem(), Options{})
		m.flip(i, 10)
		if m.l.ready != nil { // which the copy of the last segment would take
			require.NoError(t, m.l.ready.discard(m.l.fs))
			m.l.ready = nil
		}
		before := m.contents()
		full(m.mem)
		for _, entries := range [][]Entry{m.of(i, i), nil} {
			err := m.l.Mend(i, entries)
			require.True(t, IsFull(err), "%v", err)
			m.unchanged(before, IndexRange{i, i})
		}
		m.append(100)
		m.mem.Inject(nil)
		require.NoError(t, m.l.Mend(i, m.of(i, i)))
		m.whole(m.l)
		m.reopened()
	}
}

// TestMendUnderLoad damages and mends entries of a log on a disk, whose files no race detector
// watches, while it is appended to, read, checked and cut off at its beginning.
func TestMendUnderLoad(t *testing.T) {
	l := open(t, t.TempDir(), Options{SegmentBytes: 8 * MinSegmentBytes, IndexInterval: 256, Sync: SyncNever()})
	stop := make(chan struct{})
	var group sync.WaitGroup
	repeat := func(step func() error) {
		group.Go(func() {
			for {
				err := step()
				if err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrOutOfRange) {
					t.Error(err)
					return
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	n := 0
	for ; n < 100; n++ {
		appendValue(t, l, recordValue(n))
	}
	repeat(func() error {
		_, err := l.Append(Record{Value: []byte(recordValue(n))})
		n++
		return err
	})
	for range 2 {
		repeat(func() error {
			first, end := l.FirstOffset(), l.EndOffset()
			for _, offset := range []uint64{first, (first + end) / 2, end - 1} {
				rec, lease, err := l.Read(offset)
				if err == nil && string(rec.Value) != recordValue(int(offset)) {
					return fmt.Errorf("offset %d: %q", offset, rec.Value)
				}
				lease.Release()
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	repeat(func() error {
		it, err := l.Iterate(l.FirstOffset())
		if err != nil {
			return err
		}
		defer it.Close()
		for it.Next() {
			if rec := it.Record(); string(rec.Value) != recordValue(int(rec.Offset)) {
				return fmt.Errorf("offset %d: %q", rec.Offset, rec.Value)
			}
		}
		return it.Err()
	})
	repeat(func() error {
		_, err := l.Verify(t.Context(), nil)
		return err
	})
	const rounds = 40
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range rounds {
		mendOne(t, l, rng)
		if i%10 == 9 {
			require.NoError(t, l.TruncatePrefix((l.FirstOffset()+l.EndOffset())/2))
		}
	}
	close(stop)
	group.Wait()
	r, err := l.Verify(t.Context(), nil)
	require.NoError(t, err)
	require.Empty(t, r.Damage)
	require.EqualValues(t, rounds, l.Metrics().Mended)
	require.Greater(t, l.FirstOffset(), uint64(50))
	require.NoError(t, l.Close())
}

// mendOne damages an entry, and mends it.
func mendOne(t *testing.T, l *Log, rng *rand.Rand) {
	t.Helper()
	first, last := l.FirstPlace().Index+1, l.LastPlace().Index
	if last < first {
		return
	}
	index := first + rng.Uint64N(last-first+1)
	entries, lease, err := l.ReadEntries(nil, index, index, MaxBodyBytes)
	require.NoError(t, err)
	entries[0].Body = bytes.Clone(entries[0].Body)
	pos, _, err := lease.s.findHeader(index, lease.s.end.Load())
	require.NoError(t, err)
	lease.Release()
	flipByte(t, vfs.OS{}, lease.s.path, pos+rng.Int64N(entryHeaderSize+50))
	e := &CorruptionError{Path: lease.s.path, Index: index}
	ranges, err := l.Damaged(e)
	require.NoError(t, err)
	require.Equal(t, []IndexRange{{index, index}}, ranges)
	require.NoError(t, l.Mend(index, entries))
	ranges, err = l.Damaged(e)
	require.NoError(t, err)
	require.Empty(t, ranges)
}
