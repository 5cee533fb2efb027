package storage

import (
	"bytes"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zue-log/zue/storage/batch"
	"github.com/zue-log/zue/storage/executor"
	"github.com/zue-log/zue/storage/vfs"
)

// mended is a log that gets damaged, and what another replica has of it.
type mended struct {
	t    *testing.T
	fs   vfs.FS
	mem  *vfs.Mem // fs, if that is in memory
	ex   *executor.Manual
	o    Options
	l    *Log
	peer []Entry // all entries, as they were appended; they never change
}

// mendEntries is how many entries the log of newMended has.
const mendEntries = 110

// newMended makes a log in d of several segments, the last of which is not sealed, in memory
// unless fs is another. It has records of all kinds, and control entries.
func newMended(t *testing.T, fs vfs.FS, o Options) *mended {
	t.Helper()
	m := &mended{t: t, fs: fs, o: o, ex: executor.NewManual(time.Unix(1, 0))}
	m.mem, _ = fs.(*vfs.Mem)
	m.o.FS, m.o.Executor, m.o.SegmentBytes, m.o.IndexInterval = fs, m.ex, MinSegmentBytes, 256
	m.l = open(t, m.dir(), m.o)
	for i := range mendEntries {
		m.append(i)
	}
	m.ex.Advance(0) // seals
	segments := *m.l.segments.Load()
	require.Len(t, segments, 4)
	require.True(t, segments[2].sealed)
	return m
}

func (m *mended) dir() string {
	if m.mem != nil {
		return "d"
	}
	return filepath.Join(m.t.TempDir(), "d")
}

// append appends an entry of a kind that depends on i, and notes it.
func (m *mended) append(i int) {
	m.t.Helper()
	index, term := uint64(len(m.peer)+1), uint64(i/10+1)
	var e Entry
	switch i % 5 {
	case 0:
		e = control(index, term, strings.Repeat("c", i))
	case 1:
		e = data(index, term, recordValue(i), "second", "third")
	case 2:
		body, err := batch.AppendCompressed(nil, []Record{{Timestamp: int64(1000 - i), Value: []byte(recordValue(i))}}, 5, batch.CodecSnappy)
		require.NoError(m.t, err)
		e = NewEntry(index, term, KindData, body)
	default:
		e = data(index, term, recordValue(i)+strings.Repeat("y", 300))
	}
	_, err := m.l.AppendEntries(e).Wait()
	require.NoError(m.t, err)
	p, err := m.l.PlaceAfter(index - 1)
	require.NoError(m.t, err)
	e.Offset = p.Offset
	m.peer = append(m.peer, e)
}

// of returns what the other replica has from index first to last.
func (m *mended) of(first, last uint64) []Entry { return slices.Clone(m.peer[first-1 : last]) }

// segment returns a segment of the log.
func (m *mended) segment(i int) *segment {
	segments := *m.l.segments.Load()
	return segments[(i+len(segments))%len(segments)]
}

// flip flips a bit of the entry with that index, in the file and, since that is mapped, in
// memory; at is a position in the entry, from its end if negative.
func (m *mended) flip(index uint64, at int64) {
	m.t.Helper()
	s := segmentWith(*m.l.segments.Load(), index)
	pos, h, err := s.findHeader(index, s.end.Load())
	require.NoError(m.t, err)
	if at < 0 {
		at += entryHeaderSize + int64(h.bodyLen)
	}
	flipByte(m.t, m.fs, s.path, pos+at)
}

// flipByte flips a bit of a file, durably.
func flipByte(t *testing.T, fsys vfs.FS, path string, at int64) {
	t.Helper()
	f, err := fsys.Open(path, true)
	require.NoError(t, err)
	var b [1]byte
	_, err = f.ReadAt(b[:], at)
	require.NoError(t, err)
	b[0] ^= 4
	_, err = f.WriteAt(b[:], at)
	require.NoError(t, err)
	require.NoError(t, f.Sync())
	require.NoError(t, f.Close())
}

// contents returns the bytes of all files of the log, but those of the state, which is saved
// now and then.
func (m *mended) contents() map[string][]byte {
	m.t.Helper()
	names, err := m.fs.List(m.l.dir)
	require.NoError(m.t, err)
	files := map[string][]byte{}
	for _, name := range names {
		if name == stateName || name == lockName || isTemp(name) && m.l.ready != nil {
			continue
		}
		f, err := m.fs.Open(filepath.Join(m.l.dir, name), false)
		require.NoError(m.t, err)
		size, err := f.Size()
		require.NoError(m.t, err)
		files[name] = make([]byte, size)
		_, err = f.ReadAt(files[name], 0)
		require.NoError(m.t, err)
		require.NoError(m.t, f.Close())
	}
	return files
}

// damaged checks that these ranges are damaged, as whoever reads finds it.
func (m *mended) damaged(index uint64, want ...IndexRange) {
	m.t.Helper()
	_, _, err := m.l.ReadEntries(nil, index, index, MaxBodyBytes)
	var e *CorruptionError
	require.ErrorAs(m.t, err, &e)
	got, err := m.l.Damaged(e)
	require.NoError(m.t, err)
	require.Equal(m.t, want, got)
}

// bad returns which entries cannot be read, or are not what the other replica has.
func (m *mended) bad(l *Log) (bad []uint64) {
	m.t.Helper()
	for _, want := range m.peer {
		got, lease, err := l.ReadEntries(nil, want.Index, want.Index, MaxBodyBytes)
		if err != nil {
			require.ErrorIs(m.t, err, ErrCorrupt)
			bad = append(bad, want.Index)
			continue
		}
		require.Equal(m.t, want.Body, got[0].Body)
		require.Equal(m.t, [4]uint64{want.Term, want.Offset, uint64(want.Checksum), uint64(want.Born)},
			[4]uint64{got[0].Term, got[0].Offset, uint64(got[0].Checksum), uint64(got[0].Born)})
		lease.Release()
	}
	return bad
}

// whole checks that all that reads the log finds all of it, and nothing else.
func (m *mended) whole(l *Log) {
	m.t.Helper()
	require.Empty(m.t, m.bad(l))
	require.EqualValues(m.t, len(m.peer), l.LastPlace().Index)
	var want []string
	for i := range m.peer {
		if m.peer[i].Kind != KindData {
			continue
		}
		r, err := m.peer[i].Records()
		require.NoError(m.t, err)
		var rec Record
		for {
			ok, err := r.Next(&rec)
			require.NoError(m.t, err)
			if !ok {
				break
			}
			want = append(want, string(rec.Value))
		}
	}
	checkValues(m.t, l, want...)
	for offset := uint64(0); offset < l.EndOffset(); {
		raw, lease, err := l.ReadRaw(offset, 3000)
		require.NoError(m.t, err)
		r, err := NewEntryReader(raw)
		require.NoError(m.t, err)
		for n := 0; ; n++ {
			e, ok, err := r.Next()
			require.NoError(m.t, err)
			if !ok {
				require.Positive(m.t, n)
				break
			}
			require.Equal(m.t, m.peer[e.Index-1].Body, e.Body)
		}
		offset = raw.EndOffset(offset)
		lease.Release()
	}
	it, err := l.Iterate(0)
	require.NoError(m.t, err)
	for i := range want {
		require.True(m.t, it.Next(), "%v", it.Err())
		require.Equal(m.t, want[i], string(it.Record().Value))
	}
	it.Close()
	for _, ms := range []int64{-1, 5, 6, 900, 950, 998, 10_000} {
		offset, err := l.OffsetForTime(ms)
		require.NoError(m.t, err)
		require.Equal(m.t, m.since(ms), offset, ms)
	}
	r, err := l.Verify(m.t.Context(), nil)
	require.NoError(m.t, err)
	require.Empty(m.t, r.Damage)
	require.EqualValues(m.t, len(m.peer), r.Entries)
}

// since is OffsetForTime, of what the other replica has.
func (m *mended) since(ms int64) uint64 {
	end := uint64(0)
	for i := range m.peer {
		e := &m.peer[i]
		if e.Kind != KindData {
			continue
		}
		h, err := batch.ParseHeader(e.Body)
		require.NoError(m.t, err)
		if h.MaxTimestamp >= ms {
			return e.Offset
		}
		end = e.Offset + uint64(h.LastOffsetDelta) + 1
	}
	return end
}

// reopened closes the log, has its files checked, and opens it again.
func (m *mended) reopened() {
	m.t.Helper()
	require.NoError(m.t, m.l.Close())
	if m.mem != nil {
		require.Zero(m.t, m.mem.InUse())
	}
	r, err := Verify(m.t.Context(), m.fs, m.l.dir, WalkOptions{Batches: true})
	require.NoError(m.t, err)
	require.Empty(m.t, r.Damage)
	require.Zero(m.t, r.Indexes[IndexWrong]+r.Indexes[IndexMissing]+r.Indexes[IndexOpen])
	m.l = open(m.t, m.l.dir, m.o)
	require.Zero(m.t, m.l.Recovery())
}

// sameBut checks that the files are the same, but for the durable marks of the entries from
// first to last, and the checksums over them.
func (m *mended) sameBut(before map[string][]byte, first, last uint64) {
	m.t.Helper()
	after := m.contents()
	for name, b := range before {
		if filepath.Ext(name) == ".index" {
			continue
		}
		require.Len(m.t, after[name], len(b), name)
		sum := seedOf(b)
		for pos := segmentHeaderSize; pos+entryHeaderSize <= len(b); {
			h, err := parseEntryHeader(b[pos:], sum)
			if err != nil {
				break
			}
			if got, err := parseEntryHeader(after[name][pos:], sum); err == nil && first <= h.index && h.index <= last {
				require.Less(m.t, got.mark, h.index)
				require.GreaterOrEqual(m.t, got.mark, h.mark, "what it says is not lost")
				got.mark = h.mark
				got.put(after[name][pos:], sum)
			}
			pos += int(entrySize(h.bodyLen))
		}
		require.True(m.t, bytes.Equal(b, after[name]), "%s differs", name)
	}
	require.Len(m.t, after, len(before), "nothing is left behind")
}

// policies are the ways to make a log durable, of which each stores entries its own way.
var policies = []SyncPolicy{SyncAlways(), SyncNever()}

// TestMend damages entries, in their bodies and their headers, at all places in all kinds of
// segments, and mends them.
func TestMend(t *testing.T) {
	const body = entryHeaderSize
	for name, damage := range map[string]func(m *mended, s *segment) (first, last uint64){
		"body": func(m *mended, s *segment) (first, last uint64) {
			i := s.before.Index + 7
			m.flip(i, body)
			return i, i
		},
		"header": func(m *mended, s *segment) (first, last uint64) {
			i := s.before.Index + 7
			m.flip(i, 9)
			return i, i
		},
		"length": func(m *mended, s *segment) (first, last uint64) {
			i := s.before.Index + 8
			m.flip(i, 48)
			return i, i
		},
		"end of the body": func(m *mended, s *segment) (first, last uint64) {
			i := s.before.Index + 9
			m.flip(i, -1)
			return i, i
		},
		"several": func(m *mended, s *segment) (first, last uint64) {
			i := s.before.Index + 5
			for k, at := range []int64{1, body + 3, 60, 20, -3, 33} {
				m.flip(i+5-uint64(k), at) // from behind: that they are found
			}
			return i, i + 5
		},
		"first": func(m *mended, s *segment) (first, last uint64) {
			i := s.before.Index + 1
			m.flip(i, 30)
			return i, i
		},
		"last": func(m *mended, s *segment) (first, last uint64) {
			m.flip(s.last.Index, 50)
			return s.last.Index, s.last.Index
		},
		"last body": func(m *mended, s *segment) (first, last uint64) {
			m.flip(s.last.Index, -1)
			return s.last.Index, s.last.Index
		},
		"all": func(m *mended, s *segment) (first, last uint64) {
			for i := s.last.Index; i > s.before.Index; i-- {
				m.flip(i, 1)
			}
			return s.before.Index + 1, s.last.Index
		},
	} {
		for _, policy := range policies {
			for where, i := range map[string]int{"first": 0, "middle": 1, "active": -1} {
				t.Run(fmt.Sprintf("%s/%s/%s", name, policy, where), func(t *testing.T) {
					m := newMended(t, vfs.NewMem(), Options{Sync: policy})
					before := m.contents()
					s := m.segment(i)
					sealed := s.sealed
					require.Equal(t, where != "active", sealed)
					first, last := damage(m, s)
					m.damaged(first, IndexRange{first, last})
					require.NoError(t, m.l.Mend(first, m.of(first, last)))
					m.sameBut(before, first, last)
					require.Equal(t, sealed, m.segment(i).sealed)
					m.whole(m.l)
					require.EqualValues(t, last-first+1, m.l.Metrics().Mended)
					for i := range 60 { // goes on, beyond the segment
						m.append(mendEntries + i)
					}
					m.whole(m.l)
					m.reopened()
					m.whole(m.l)
					require.NoError(t, m.l.Close())
				})
			}
		}
	}
}

// TestMendOnDisk is the same on a disk, with a segment that is not sealed although it is not
// the last, and one that is although it is.
func TestMendOnDisk(t *testing.T) {
	for _, policy := range policies {
		m := newMended(t, vfs.OS{}, Options{Sync: policy})
		for i := range 40 {
			m.append(mendEntries + i)
		}
		unsealed := m.segment(-2)
		require.False(t, unsealed.sealed)
		for _, i := range []uint64{5, unsealed.before.Index + 1, unsealed.last.Index, mendEntries + 40} {
			m.flip(i, 70)
			m.damaged(i, IndexRange{i, i})
			require.NoError(t, m.l.Mend(i, m.of(i, i)))
		}
		m.whole(m.l)
		m.ex.Advance(0)
		require.True(t, m.segment(-2).sealed)
		m.reopened()
		m.whole(m.l)
		last := m.segment(-2).last.Index
		require.NoError(t, m.l.TruncateSuffix(last))
		m.peer = m.peer[:last]
		require.True(t, m.l.active.sealed)
		for _, i := range []uint64{last - 3, last} {
			m.flip(i, 8)
			m.damaged(i, IndexRange{i, i})
			require.NoError(t, m.l.Mend(i, m.of(i, i)))
			require.Same(t, m.segment(-1), m.l.active)
		}
		for i := range 50 {
			m.append(200 + i)
		}
		m.whole(m.l)
		m.reopened()
		m.whole(m.l)
		require.NoError(t, m.l.Close())
	}
}

// TestMendTwoDamages mends one of two damages in a segment, and then the other: the one that
// is still there is in the way of no other entry.
func TestMendTwoDamages(t *testing.T) {
	for _, at := range []int64{entryHeaderSize + 1, 12} { // of a body, of a header
		for _, which := range []int{1, -1} {
			for _, turn := range []bool{false, true} {
				m := newMended(t, vfs.NewMem(), Options{})
				before := m.contents()
				s := m.segment(which)
				a, b := IndexRange{s.before.Index + 4, s.before.Index + 4}, IndexRange{s.before.Index + 9, s.before.Index + 10}
				for _, i := range []uint64{b.Last, b.First, a.First} {
					m.flip(i, at)
				}
				m.damaged(a.First, a, b)
				if turn {
					a, b = b, a
				}
				require.NoError(t, m.l.Mend(a.First, m.of(a.First, a.Last)))
				m.damaged(b.First, b)
				var left []uint64
				for i := b.First; i <= b.Last; i++ {
					left = append(left, i)
				}
				require.Subset(t, m.bad(m.l), left)
				r, err := m.l.Verify(t.Context(), nil)
				require.NoError(t, err)
				require.EqualValues(t, len(m.peer)-len(left), r.Entries)
				require.NoError(t, m.l.Mend(b.First, m.of(b.First, b.Last)))
				m.sameBut(before, min(a.First, b.First), max(a.Last, b.Last))
				m.whole(m.l)
				m.reopened()
				m.whole(m.l)
				require.NoError(t, m.l.Close())
			}
		}
	}
}

// TestMendTimeBound mends a segment in which the record with the largest timestamp cannot be
// read: who looks for such a time must be told, and not sent to another record.
func TestMendTimeBound(t *testing.T) {
	m := newMended(t, vfs.NewMem(), Options{})
	require.Equal(t, m.peer[2].Offset, m.since(998))
	m.flip(3, 10)
	require.NoError(t, m.l.Mend(1, m.of(1, 1)))
	require.NoError(t, m.l.Mend(5, nil))
	_, err := m.l.OffsetForTime(998)
	require.ErrorIs(t, err, ErrCorrupt)
	require.NoError(t, m.l.Mend(3, m.of(3, 3)))
	m.whole(m.l)
}

// TestMendIndex flips bits of index points, in memory: records that are whole cannot be read
// until the index is made anew, and nothing else is.
func TestMendIndex(t *testing.T) {
	for _, policy := range policies {
		for _, which := range []int{0, 1, -1} {
			m := newMended(t, vfs.NewMem(), Options{Sync: policy})
			before := m.contents()
			s := m.segment(which)
			for i := range int(s.ix.count.Load()) {
				s.ix.b[indexHeaderSize+i*pointSize+8] ^= 0x10
			}
			bad := m.bad(m.l)
			require.NotEmpty(t, bad)
			m.damaged(bad[0])
			var touched []string
			m.mem.Inject(func(op vfs.Op, name string) error {
				if op == vfs.OpWrite || op == vfs.OpTruncate || op == vfs.OpRename && !isTemp(filepath.Base(name)) {
					touched = append(touched, fmt.Sprint(op, name))
				}
				return nil
			})
			require.NoError(t, m.l.Mend(bad[0], nil))
			m.mem.Inject(nil)
			require.Empty(t, touched)
			require.Equal(t, policy.never && which == -1, m.segment(which).w != nil, "mapped for stores")
			m.sameBut(before, 0, 0)
			m.whole(m.l)
			require.Zero(t, m.l.Metrics().Mended)
			for i := range 60 {
				m.append(mendEntries + i)
			}
			m.whole(m.l)
			m.reopened()
			m.whole(m.l)
			require.NoError(t, m.l.Close())
		}
	}
}

// TestMendIndexAmongDamage makes the index of a segment anew in which entries are damaged, and
// then mends these.
func TestMendIndexAmongDamage(t *testing.T) {
	m := newMended(t, vfs.NewMem(), Options{})
	s := m.segment(1)
	i := s.before.Index + 6
	m.flip(i, 50)
	m.flip(s.last.Index, 1)
	s.ix.b[indexHeaderSize+8] ^= 0x40
	require.NoError(t, m.l.Mend(i, nil))
	m.damaged(i, IndexRange{i, i}, IndexRange{s.last.Index, s.last.Index})
	require.NoError(t, m.l.Mend(s.last.Index, m.of(s.last.Index, s.last.Index)))
	require.NoError(t, m.l.Mend(i, m.of(i, i)))
	m.whole(m.l)
	m.reopened()
	m.whole(m.l)
}

// TestMendHeader mends a segment whose own header is damaged as well: nothing of that is in
// use, and the copy has it whole.
func TestMendHeader(t *testing.T) {
	m := newMended(t, vfs.NewMem(), Options{})
	before := m.contents()
	flipByte(t, m.fs, m.segment(1).path, 58)
	flipByte(t, m.fs, m.segment(1).path, m.segment(1).fileSize()-footerSize+20)
	i := m.segment(1).last.Index
	m.flip(i, 50)
	m.damaged(i, IndexRange{i, i})
	require.NoError(t, m.l.Mend(i, m.of(i, i)))
	m.sameBut(before, i, i)
	m.whole(m.l)
	m.reopened()
}

// TestMendNotProven offers entries that are not those that were here.
func TestMendNotProven(t *testing.T) {
	m := newMended(t, vfs.NewMem(), Options{})
	s := m.segment(1)
	i, last := s.before.Index+4, s.last.Index
	for _, k := range []uint64{i, i + 1, last} {
		m.flip(k, 1)
	}
	same := func(e Entry) Entry { // as long, but with other bytes
		b := bytes.Clone(e.Body)
		b[len(b)-1] ^= 1
		return NewEntry(e.Index, e.Term, e.Kind, b)
	}
	changed := func(change func(e *Entry)) []Entry {
		entries := m.of(i, i+1)
		change(&entries[0])
		return entries
	}
	before := m.contents()
	for name, c := range map[string]struct {
		first   uint64
		entries []Entry
	}{
		"other bytes":          {i, changed(func(e *Entry) { *e = same(*e) })},
		"other last":           {last, []Entry{same(m.peer[last-1])}},
		"other term":           {i, changed(func(e *Entry) { e.Term++ })},
		"other term of last":   {last, []Entry{NewEntry(last, 1000, m.peer[last-1].Kind, m.peer[last-1].Body)}},
		"no term":              {i, changed(func(e *Entry) { e.Term = 0 })},
		"smaller term":         {i, changed(func(e *Entry) { e.Term = 1 })},
		"other kind":           {i, changed(func(e *Entry) { e.Kind = 3 - e.Kind })},
		"unknown kind":         {i, changed(func(e *Entry) { e.Kind = 7 })},
		"no kind":              {i, changed(func(e *Entry) { e.Kind = 0 })},
		"longer":               {i, changed(func(e *Entry) { *e = control(e.Index, e.Term, strings.Repeat("x", 2000)) })},
		"shorter":              {i, changed(func(e *Entry) { *e = control(e.Index, e.Term, "") })},
		"much too long":        {i, changed(func(e *Entry) { e.Body = make([]byte, MaxBodyBytes+1) })},
		"checksum":             {i, changed(func(e *Entry) { e.Checksum++ })},
		"born":                 {i, changed(func(e *Entry) { e.Born++ })},
		"born with another":    {i, changed(func(e *Entry) { o := same(*e); o.Born = e.Born; *e = o })},
		"index":                {i, changed(func(e *Entry) { e.Index++ })},
		"out of order":         {i, []Entry{m.peer[i], m.peer[i-1]}},
		"twice":                {i, []Entry{m.peer[i-1], m.peer[i-1]}},
		"a part of the range":  {i, m.of(i, i)},
		"one too many":         {last, m.of(last, last+1)},
		"much more":            {i, m.of(i, uint64(len(m.peer)))},
		"up to another damage": {i, m.of(i, last-1)},
		"of elsewhere":         {i, m.of(i+2, i+3)},
		"of no batch":          {i, changed(func(e *Entry) { *e = NewEntry(e.Index, e.Term, KindData, []byte("no batch")) })},
	} {
		err := m.l.Mend(c.first, c.entries)
		require.ErrorIs(t, err, ErrNotProven, name)
		require.ErrorContains(t, err, fmt.Sprint("mend entries ", c.first), name)
		require.NotErrorIs(t, err, ErrFailed, name)
	}
	m.unchanged(before, IndexRange{i, i + 1}, IndexRange{last, last})
	// The range may reach over what is whole, to another damage and beyond it.
	require.NoError(t, m.l.Mend(i-2, m.of(i-2, last)))
	m.whole(m.l)
	require.NoError(t, m.l.Close())
}

// unchanged checks that nothing has come of a mend: the same files, the same damage.
func (m *mended) unchanged(before map[string][]byte, damage ...IndexRange) {
	m.t.Helper()
	require.Equal(m.t, before, m.contents())
	m.damaged(damage[0].First, damage...)
	require.Zero(m.t, m.l.Metrics().Mended)
}

// TestMendBorn mends an entry whose body is not what it was born with, as compaction leaves
// it: that is known to be right only as long as the header says so.
func TestMendBorn(t *testing.T) {
	m := newMended(t, vfs.NewMem(), Options{})
	e := control(m.l.LastPlace().Index+1, 50, "body")
	e.Born = 77
	_, err := m.l.AppendEntries(e).Wait()
	require.NoError(t, err)
	m.peer = append(m.peer, e)
	m.peer[len(m.peer)-1].Offset = m.l.LastPlace().Offset
	m.flip(e.Index, -1)
	m.damaged(e.Index, IndexRange{e.Index, e.Index})
	other := e
	other.Body = []byte("Body")
	other.Checksum = batch.Checksum(other.Body)
	require.ErrorIs(t, m.l.Mend(e.Index, []Entry{other}), ErrNotProven)
	require.NoError(t, m.l.Mend(e.Index, []Entry{e}))
	m.whole(m.l)
	m.flip(e.Index, 1)
	require.ErrorIs(t, m.l.Mend(e.Index, []Entry{e}), ErrNotProven)
}

// TestMendRefusals has calls that cannot succeed.
func TestMendRefusals(t *testing.T) {
	m := newMended(t, vfs.NewMem(), Options{})
	s := m.segment(1)
	i := s.before.Index + 4
	for _, index := range []uint64{0, mendEntries + 1, 1 << 62, 1<<64 - 1} {
		var missing *IndexError
		require.ErrorAs(t, m.l.Mend(index, nil), &missing)
		require.Equal(t, IndexError{Index: index, First: 1, Last: mendEntries}, *missing)
		require.ErrorIs(t, m.l.Mend(index, []Entry{control(max(index, 1), 1, "")}), ErrNoEntry)
	}
	m.flip(i, 10)
	before := m.contents()
	var e *CorruptionError
	err := m.l.Mend(i+1, m.of(i+1, i+1))
	require.ErrorAs(t, err, &e)
	require.Equal(t, s.path, e.Path)
	require.Equal(t, i, e.Index)
	pos, h, err2 := s.findHeader(i-1, s.end.Load())
	require.NoError(t, err2)
	require.Equal(t, pos+entrySize(h.bodyLen), e.Position)
	require.NotErrorIs(t, err, ErrNotProven)
	m.unchanged(before, IndexRange{i, i})

	require.NoError(t, m.l.TruncatePrefix(m.peer[s.last.Index].Offset))
	require.ErrorIs(t, m.l.Mend(i, m.of(i, i)), ErrNoEntry)
	require.NoError(t, m.l.Close())
	require.ErrorIs(t, m.l.Mend(mendEntries, m.of(mendEntries, mendEntries)), ErrClosed)
	require.ErrorIs(t, m.l.Mend(mendEntries, nil), ErrClosed)
	_, err = m.l.Damaged(e)
	require.ErrorIs(t, err, ErrClosed)

	o := m.o
	o.ReadOnly = true
	l := open(t, "d", o)
	require.ErrorIs(t, l.Mend(mendEntries, m.of(mendEntries, mendEntries)), ErrReadOnly)
	got, err := l.Damaged(&CorruptionError{Index: mendEntries})
	require.NoError(t, err)
	require.Empty(t, got)
	require.NoError(t, l.Close())

	l = open(t, "d", m.o)
	l.mu.Lock()
	_ = l.fail(errPowerOff)
	l.mu.Unlock()
	require.ErrorIs(t, l.Mend(mendEntries, m.of(mendEntries, mendEntries)), ErrFailed)
}

// TestDamaged looks for the segment of an error in all the ways there are.
func TestDamaged(t *testing.T) {
	m := newMended(t, vfs.NewMem(), Options{})
	s := m.segment(1)
	i := s.before.Index + 4
	m.flip(i, 10)
	want := []IndexRange{{i, i}}
	for _, c := range []struct {
		e    *CorruptionError
		want []IndexRange
	}{
		{nil, nil},
		{&CorruptionError{Path: s.path}, want},
		{&CorruptionError{Path: s.path, Index: 1, Offset: 1}, want},
		{&CorruptionError{Path: "gone", Index: s.last.Index}, want},
		{&CorruptionError{Path: "gone", Index: s.before.Index + 1, Offset: 1}, want},
		{&CorruptionError{Path: "gone", Index: s.before.Index}, nil},
		{&CorruptionError{Path: "gone", Index: s.last.Index + 1}, nil},
		{&CorruptionError{Path: "gone", Index: 1000, Offset: s.before.Offset}, nil},
		{&CorruptionError{Path: "gone", Offset: s.before.Offset}, want},
		{&CorruptionError{Path: "gone", Offset: s.last.Offset - 1}, want},
		{&CorruptionError{Path: "gone", Offset: s.last.Offset}, nil},
		{&CorruptionError{Path: "gone", Offset: 1 << 60}, nil},
	} {
		got, err := m.l.Damaged(c.e)
		require.NoError(t, err)
		require.Equal(t, c.want, got, "%v", c.e)
	}
	require.NoError(t, m.l.TruncatePrefix(m.peer[s.last.Index].Offset))
	for _, e := range []*CorruptionError{{Path: s.path, Index: i, Offset: s.before.Offset}, {Path: s.path, Offset: 1}} {
		got, err := m.l.Damaged(e)
		require.NoError(t, err)
		require.Empty(t, got)
	}
	// The end of the active segment, of which nothing comes behind.
	m.flip(mendEntries, 10)
	m.flip(mendEntries-1, 10)
	m.damaged(mendEntries, IndexRange{mendEntries - 1, mendEntries})
	for _, e := range []*CorruptionError{{Path: s.path, Index: mendEntries + 1}, {Path: s.path, Offset: 1 << 60}} {
		got, err := m.l.Damaged(e)
		require.NoError(t, err)
		require.Empty(t, got)
	}
}

// TestMendReaders has readers that hold what was there before, and iterators that come to it
// after.
func TestMendReaders(t *testing.T) {
	m := newMended(t, vfs.NewMem(), Options{})
	s := m.segment(1)
	i := s.before.Index + 4
	entries, lease, err := m.l.ReadEntries(nil, i-2, i-1, MaxBodyBytes)
	require.NoError(t, err)
	var its []*Iterator
	for _, offset := range []uint64{0, m.peer[i-3].Offset, s.before.Offset} {
		it, err := m.l.Iterate(offset)
		require.NoError(t, err)
		require.True(t, it.Next())
		its = append(its, it)
	}
	m.flip(i, 10)
	m.flip(i+1, 100)
	require.NoError(t, m.l.Mend(i, m.of(i, i+1)))
	require.NotSame(t, s, m.segment(1))
	require.Positive(t, s.refs.Load(), "leased, and iterated")
	require.Equal(t, m.peer[i-3].Body, entries[0].Body)
	lease.Release()
	for _, it := range its {
		n := it.Offset()
		for ; it.Next(); n++ {
			require.Equal(t, n, it.Record().Offset)
		}
		require.NoError(t, it.Err())
		require.Equal(t, m.l.EndOffset(), n)
		it.Close()
	}
	require.Zero(t, s.refs.Load())
	m.whole(m.l)
	require.NoError(t, m.l.Close())
	require.Zero(t, m.mem.InUse())
}

// TestMendMark looks at the durable marks of entries that were mended.
func TestMendMark(t *testing.T) {
	m := newMended(t, vfs.NewMem(), Options{Sync: SyncNever()})
	mark := func(index uint64) uint64 {
		t.Helper()
		e, lease, err := m.l.ReadEntries(nil, index, index, MaxBodyBytes)
		require.NoError(t, err)
		lease.Release()
		return e[0].Mark
	}
	durable := m.l.durable.Load()
	require.Equal(t, m.segment(2).last.Index, durable)
	require.NoError(t, m.l.Mend(7, m.of(7, 8)))
	require.NoError(t, m.l.Mend(98, m.of(98, 99)))
	require.EqualValues(t, 6, mark(7))
	require.EqualValues(t, 7, mark(8))
	require.Equal(t, durable, mark(98), "what is only appended is not durable")
	require.NoError(t, m.l.Sync())
	require.NoError(t, m.l.Mend(mendEntries, m.of(mendEntries, mendEntries)))
	require.EqualValues(t, mendEntries-1, mark(mendEntries))
	require.Equal(t, durable, mark(99))
}

// TestMendEvent counts what was mended.
func TestMendEvent(t *testing.T) {
	var events []MendEvent
	m := newMended(t, vfs.NewMem(), Options{Events: Events{Mended: func(e MendEvent) { events = append(events, e) }}})
	require.NoError(t, m.l.Mend(3, m.of(3, 5)))
	require.NoError(t, m.l.Mend(mendEntries, m.of(mendEntries, mendEntries)))
	require.NoError(t, m.l.Mend(mendEntries, nil))
	require.ErrorIs(t, m.l.Mend(mendEntries, m.of(99, 99)), ErrNotProven)
	require.Equal(t, []MendEvent{{m.segment(0).path, 3, 3}, {m.segment(-1).path, mendEntries, 1}, {m.segment(-1).path, mendEntries, 0}}, events)
	require.EqualValues(t, 4, m.l.Metrics().Mended)
}
