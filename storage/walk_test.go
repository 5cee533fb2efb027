package storage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
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

// walked is a copy of what a walk came across.
type walked struct {
	items   []string // all of them, short
	state   StateItem
	entries []EntryItem
	damage  []DamageItem
	flaws   [][]Flaw // of each damage
	gaps    []GapItem
	spaces  []SpaceItem
	indexes []IndexItem
	footers []FooterItem
	report  Report
}

func (w *walked) visit(item Item) error {
	w.report.Add(item)
	switch item := item.(type) {
	case *StateItem:
		w.state = *item
		w.items = append(w.items, "state")
	case *SegmentItem:
		w.items = append(w.items, "segment")
	case *EntryItem:
		e := *item
		e.Entry.Body = bytes.Clone(e.Entry.Body)
		w.entries = append(w.entries, e)
		if w.items[len(w.items)-1] != "entries" {
			w.items = append(w.items, "entries")
		}
	case *DamageItem:
		w.flaws = append(w.flaws, item.Flaws())
		w.damage = append(w.damage, *item)
		w.items = append(w.items, "damage")
	case *GapItem:
		w.gaps = append(w.gaps, *item)
		w.items = append(w.items, "gap")
	case *SpaceItem:
		item.Flaws()
		w.spaces = append(w.spaces, *item)
		w.items = append(w.items, "space")
	case *FooterItem:
		w.footers = append(w.footers, *item)
		w.items = append(w.items, "footer")
	case *IndexItem:
		w.indexes = append(w.indexes, *item)
		w.items = append(w.items, "index")
	}
	return nil
}

func walk(t *testing.T, fsys vfs.FS, dir string) *walked {
	t.Helper()
	w := &walked{}
	require.NoError(t, Walk(fsys, dir, WalkOptions{Batches: true}, w.visit))
	return w
}

// memLog makes a log of n records in several small segments in memory. It is closed
// cleanly unless kill is set.
func memLog(t *testing.T, n int, kill bool) *vfs.Mem {
	t.Helper()
	disk := vfs.NewMem()
	ex := executor.NewManual(time.UnixMilli(1_700_000_000_000))
	o := Options{SegmentBytes: MinSegmentBytes, IndexInterval: 256, FS: disk, Executor: ex}
	l := open(t, "log", o)
	for i := range n {
		appendValue(t, l, walkValue(i))
		ex.Advance(time.Millisecond)
	}
	if !kill {
		require.NoError(t, l.Close())
	}
	return disk
}

func walkValue(i int) string {
	return fmt.Sprintf("record %d %s", i, strings.Repeat("x", 2000+i%8))
}

func memRead(t *testing.T, disk *vfs.Mem, path string) []byte {
	t.Helper()
	f, err := disk.Open(path, false)
	require.NoError(t, err)
	defer f.Close()
	size, err := f.Size()
	require.NoError(t, err)
	b := make([]byte, size)
	_, err = f.ReadAt(b, 0)
	require.NoError(t, err)
	return b
}

func memWrite(t *testing.T, disk *vfs.Mem, path string, b []byte, pos int64) {
	t.Helper()
	f, err := disk.Open(path, true)
	require.NoError(t, err)
	defer f.Close()
	_, err = f.WriteAt(b, pos)
	require.NoError(t, err)
}

func memSegments(t *testing.T, disk *vfs.Mem) []string {
	t.Helper()
	names, err := disk.List("log")
	require.NoError(t, err)
	var logs []string
	for _, name := range names {
		if strings.HasSuffix(name, ".log") {
			logs = append(logs, filepath.Join("log", name))
		}
	}
	return logs
}

func TestWalkWhole(t *testing.T) {
	const n = 25
	disk := memLog(t, n, false)
	w := walk(t, disk, "log")
	logs := memSegments(t, disk)
	require.Len(t, logs, 4)
	segment := []string{"segment", "entries", "footer", "index"}
	want := []string{"state"}
	for range logs[1:] {
		want = append(want, segment...)
	}
	require.Equal(t, append(want, "segment", "entries", "space", "index"), w.items)
	require.Len(t, w.entries, n)
	for i, e := range w.entries {
		require.EqualValues(t, i+1, e.Entry.Index)
		require.False(t, e.Resumed)
		require.Contains(t, string(e.Entry.Body), walkValue(i))
	}
	for _, x := range w.indexes {
		require.Equal(t, IndexGood, x.Health, x.Err)
	}
	require.EqualValues(t, n, w.state.Mark)
	require.Zero(t, w.spaces[0].Used)
	require.EqualValues(t, n, w.spaces[0].Next.Index)
	require.Empty(t, w.report.Damage)
	require.Equal(t, Report{Segments: 4, Sealed: 3, Entries: n, Records: n, Bytes: w.report.Bytes, EndOffset: n, Indexes: [4]int{4}}, w.report)
	require.Zero(t, disk.InUse())
}

// covered says whether a byte of a file is under a checksum.
func covered(disk *walked, path string, b []byte, pos int64) bool {
	if !strings.HasSuffix(path, ".log") {
		return true
	}
	if pos < segmentHeaderSize {
		return true
	}
	for _, e := range disk.entries {
		if e.Path == path && pos >= e.Position && pos < e.Position+e.Size {
			return pos < e.Position+entryHeaderSize+int64(len(e.Entry.Body))
		}
	}
	for _, f := range disk.footers {
		if f.Path == path && pos >= f.Position {
			return pos < f.Position+footerUsed
		}
	}
	return false
}

// TestWalkEveryByte flips each byte of a log: the walk reports a bad range that covers
// it, and all entries outside it.
func TestWalkEveryByte(t *testing.T) {
	const n = 14
	disk := memLog(t, n, false)
	clean := walk(t, disk, "log")
	require.Empty(t, clean.report.Damage)
	for _, path := range memSegments(t, disk) {
		b := memRead(t, disk, path)
		for pos := range b {
			if bodyOf(clean, path, int64(pos)) && pos%97 != 0 {
				continue // all bytes of a body are alike
			}
			memWrite(t, disk, path, []byte{b[pos] ^ 0x10}, int64(pos))
			w := walk(t, disk, "log")
			memWrite(t, disk, path, b[pos:pos+1], int64(pos))
			checkFlip(t, clean, w, path, b, int64(pos), n)
		}
	}
	require.Zero(t, disk.InUse())
}

// bodyOf says whether a position is in the body of an entry.
func bodyOf(w *walked, path string, pos int64) bool {
	for _, e := range w.entries {
		if e.Path == path && pos > e.Position+entryHeaderSize && pos < e.Position+e.Size-entryAlign-1 {
			return true
		}
	}
	return false
}

func checkFlip(t *testing.T, clean, w *walked, path string, b []byte, pos int64, n int) {
	t.Helper()
	at := fmt.Sprintf("%s at %d", path, pos)
	if !covered(clean, path, b, pos) {
		require.Empty(t, w.damage, at)
		require.Len(t, w.entries, n, at)
		return
	}
	require.Empty(t, w.gaps, at)
	require.Len(t, w.damage, 1, at)
	d := w.damage[0]
	require.True(t, d.Path == path && d.From <= pos && pos < d.To, "%s: %+v", at, d)
	require.Len(t, w.flaws[0], min(len(w.flaws[0]), 2), at)
	last := w.flaws[0][len(w.flaws[0])-1]
	require.Equal(t, pos, last.Position, "%s: %v", at, w.flaws[0])
	for _, e := range clean.entries {
		hit := e.Path == path && d.From < e.Position+e.Size && e.Position < d.To
		if hit {
			require.Equal(t, e.Entry.Index, d.Index, at)
			require.Equal(t, e.Entry.Offset, d.Offset, at)
			continue
		}
		found := false
		for _, got := range w.entries {
			found = found || got.Entry.Index == e.Entry.Index && bytes.Equal(got.Entry.Body, e.Entry.Body)
		}
		require.True(t, found, "%s: entry %d is lost to the walk", at, e.Entry.Index)
	}
}

// TestWalkState flips each byte of the state file: it says which of its parts is bad,
// and what the log has is still found.
func TestWalkState(t *testing.T) {
	disk := memLog(t, 9, false)
	path := filepath.Join("log", stateName)
	b := memRead(t, disk, path)
	for pos := range b {
		if b[pos] == 0 && pos%stateSlot > stateHeader+markSize && pos%97 != 0 {
			continue // space that is not used
		}
		memWrite(t, disk, path, []byte{b[pos] ^ 0x40}, int64(pos))
		w := walk(t, disk, "log")
		memWrite(t, disk, path, b[pos:pos+1], int64(pos))
		require.Empty(t, w.report.Damage, pos)
		require.Len(t, w.entries, 9)
		require.Equal(t, pos < stateHeader, w.state.Copies[0] != nil, pos)
		require.Equal(t, pos >= stateSlot && pos < stateSlot+stateHeader, w.state.Copies[1] != nil, pos)
		require.Equal(t, pos >= markAt && pos < markAt+markSize, w.state.MarkErr != nil, pos)
	}
	memWrite(t, disk, path, []byte{1}, 20)
	memWrite(t, disk, path, []byte{1}, stateSlot+20)
	w := walk(t, disk, "log")
	require.Len(t, w.damage, 1)
	require.Equal(t, path, w.damage[0].Path)
	require.Len(t, w.entries, 9)
}

// TestWalkIndex flips each byte of the index files.
func TestWalkIndex(t *testing.T) {
	disk := memLog(t, 9, false)
	logs := memSegments(t, disk)
	require.Len(t, logs, 2)
	for i, path := range logs {
		path = strings.TrimSuffix(path, ".log") + ".index"
		b := memRead(t, disk, path)
		used := indexHeaderSize + int(binary.LittleEndian.Uint32(b[16:]))*pointSize
		for pos := range used + 10 {
			memWrite(t, disk, path, []byte{b[pos] ^ 1}, int64(pos))
			w := walk(t, disk, "log")
			memWrite(t, disk, path, b[pos:pos+1], int64(pos))
			require.Equal(t, pos < used, w.indexes[i].Health == IndexWrong, "%s %d", path, pos)
			require.Equal(t, pos < used && i == 0, len(w.damage) == 1, "%s %d", path, pos)
			require.Len(t, w.entries, 9)
		}
	}
}

// TestWalkIndexPoints gives indexes points that are wrong under a right checksum.
func TestWalkIndexPoints(t *testing.T) {
	disk := memLog(t, 9, false)
	path := strings.TrimSuffix(memSegments(t, disk)[0], ".log") + ".index"
	b := memRead(t, disk, path)
	for name, change := range map[string]func(b []byte){
		"entry":  func(b []byte) { b[indexHeaderSize+pointSize+8] += 8 },
		"index":  func(b []byte) { b[indexHeaderSize+pointSize+4]++ },
		"offset": func(b []byte) { b[indexHeaderSize+pointSize]++ },
		"record": func(b []byte) { b[indexHeaderSize+pointSize+14] = 1 },
		"before": func(b []byte) { b[indexHeaderSize+pointSize+16]--; b[indexHeaderSize+pointSize+17]-- },
		"end":    func(b []byte) { b[24] += 8 },
	} {
		bad := bytes.Clone(b)
		change(bad)
		end := indexHeaderSize + int(binary.LittleEndian.Uint32(b[16:]))*pointSize
		binary.LittleEndian.PutUint32(bad, unseeded(bad[4:end]))
		memWrite(t, disk, path, bad, 0)
		w := walk(t, disk, "log")
		require.Equal(t, IndexWrong, w.indexes[0].Health, name)
		require.Len(t, w.damage, 1, name)
	}
	require.NoError(t, disk.Remove(path))
	w := walk(t, disk, "log")
	require.Equal(t, IndexMissing, w.indexes[0].Health)
	require.Empty(t, w.damage)
}

func TestWalkMissingSegment(t *testing.T) {
	const n = 25
	for i := range 4 {
		disk := memLog(t, n, false)
		logs := memSegments(t, disk)
		require.Len(t, logs, 4)
		require.NoError(t, disk.Remove(logs[i]))
		w := walk(t, disk, "log")
		require.Len(t, w.gaps, 1)
		g := w.gaps[0]
		require.EqualValues(t, 7*i, g.Want.Offset)
		require.Len(t, w.report.Damage, 1)
		if i < 3 {
			require.Equal(t, logs[i+1], g.Path)
			require.EqualValues(t, 7*(i+1), g.Found.Offset)
			require.Len(t, w.entries, n-7)
		} else {
			require.True(t, g.AtEnd)
			require.Equal(t, DurableMark{Index: n, Source: MarkState, Path: "log/state", Position: markAt}, g.Mark)
			require.Len(t, w.entries, 21)
		}
	}
}

// TestWalkTail damages what is behind the last entry that is known to be durable, and
// the last one that is.
func TestWalkTail(t *testing.T) {
	const n = 18
	last := func(w *walked, i int) EntryItem { return w.entries[len(w.entries)-i] }
	for name, damage := range map[string]func(b []byte, e EntryItem){
		"body":      func(b []byte, e EntryItem) { b[e.Position+1000] ^= 1 },
		"header":    func(b []byte, e EntryItem) { b[e.Position+10] ^= 1 },
		"half":      func(b []byte, e EntryItem) { clear(b[e.Position+e.Size/2:][:e.Size/2]) },
		"gone":      func(b []byte, e EntryItem) { clear(b[e.Position:][:e.Size]) },
		"no header": func(b []byte, e EntryItem) { clear(b[e.Position:][:entryHeaderSize]) },
	} {
		for _, durable := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, durable %v", name, durable), func(t *testing.T) {
				disk := memLog(t, n, false)
				if !durable {
					require.NoError(t, disk.Remove("log/state"))
				}
				e := last(walk(t, disk, "log"), 1)
				b := memRead(t, disk, e.Path)
				damage(b, e)
				memWrite(t, disk, e.Path, b, 0)
				w := walk(t, disk, "log")
				require.Len(t, w.entries, n-1)
				if !durable {
					require.Empty(t, w.report.Damage)
					require.Equal(t, name != "gone", w.report.Torn > 0)
					require.Equal(t, e.Position, w.spaces[0].From)
					require.EqualValues(t, n-1, w.spaces[0].Next.Index)
					return
				}
				require.Len(t, w.damage, 1)
				require.Equal(t, e.Position, w.damage[0].From)
				require.EqualValues(t, n, w.damage[0].Index)
				require.Equal(t, MarkState, w.damage[0].Mark.Source)

				// The one before that: the last one's header says it was durable.
				require.NoError(t, disk.Remove("log/state"))
				disk = memLog(t, n, false)
				require.NoError(t, disk.Remove("log/state"))
				e = last(walk(t, disk, "log"), 2)
				b = memRead(t, disk, e.Path)
				damage(b, e)
				memWrite(t, disk, e.Path, b, 0)
				w = walk(t, disk, "log")
				require.Len(t, w.entries, n-1)
				require.Len(t, w.damage, 1)
				require.Equal(t, MarkEntry, w.damage[0].Mark.Source)
				require.Equal(t, e.Position, w.damage[0].From)
				require.Equal(t, e.Position+e.Size, w.damage[0].To)
				require.Zero(t, w.report.Torn)
			})
		}
	}
}

// TestWalkBeyond tears an entry that was never durable, in a segment before the last.
func TestWalkBeyond(t *testing.T) {
	disk := vfs.NewMem()
	ex := executor.NewManual(time.UnixMilli(1_700_000_000_000))
	l := open(t, "log", Options{SegmentBytes: MinSegmentBytes, Sync: SyncNever(), FS: disk, Executor: ex})
	for i := range 10 {
		appendValue(t, l, walkValue(i))
	}
	// Killed before the first segment is sealed. The second's first entry is durable.
	logs := memSegments(t, disk)
	require.Len(t, logs, 2)
	memWrite(t, disk, logs[0], []byte{0xff}, 5000)
	w := walk(t, disk, "log")
	require.Empty(t, w.report.Damage)
	require.Len(t, w.entries, 2)
	require.EqualValues(t, 4320, w.spaces[0].From)
	require.Positive(t, w.spaces[0].Used)
	require.Equal(t, 1, w.report.Beyond)
	require.Equal(t, []string{"state", "segment", "entries", "space", "index", "segment"}, w.items)
}

// TestWalkFooter looks at segments whose sealing was interrupted, or whose footer is
// damaged, or is another's.
func TestWalkFooter(t *testing.T) {
	disk := memLog(t, 18, false)
	path := memSegments(t, disk)[1]
	whole := memRead(t, disk, path)
	f, err := disk.Open(path, true)
	require.NoError(t, err)
	require.NoError(t, f.Truncate(MinSegmentBytes))
	require.NoError(t, f.Close())
	w := walk(t, disk, "log")
	require.Empty(t, w.report.Damage)
	require.Len(t, w.entries, 18)
	require.Len(t, w.footers, 2)
	require.EqualValues(t, len(whole)-footerSize, w.footers[1].Position)

	putFooter(whole[len(whole)-footerSize:], w.footers[1].End, Place{Index: 14, Term: 1, Offset: 14, Chain: 5}, 1)
	f, err = disk.Open(path, true)
	require.NoError(t, err)
	require.NoError(t, f.Truncate(int64(len(whole))))
	require.NoError(t, f.Close())
	memWrite(t, disk, path, whole, 0)
	w = walk(t, disk, "log")
	require.Len(t, w.damage, 2, "the footer, and the index that does not end like it")
	require.ErrorIs(t, w.damage[0].Err, errFooterLast)
	require.Equal(t, "footer last chain", w.flaws[0][0].Field)
	require.Len(t, w.entries, 18)
}

// TestWalkRange zeroes ranges across entries, as lost sectors do.
func TestWalkRange(t *testing.T) {
	const n = 25
	for _, r := range [][2]int64{{512, 1024}, {4096, 8192}, {2192, 2256}, {2192, 6448}, {4000, 14960}} {
		disk := memLog(t, n, false)
		path := memSegments(t, disk)[1]
		clean := walk(t, disk, "log")
		memWrite(t, disk, path, make([]byte, r[1]-r[0]), r[0])
		w := walk(t, disk, "log")
		require.NotEmpty(t, w.damage)
		require.Empty(t, w.gaps)
		want := map[uint64]bool{}
		for _, e := range clean.entries {
			if e.Path != path || e.Position+e.Size <= r[0] || e.Position >= r[1] {
				want[e.Entry.Index] = true
			}
		}
		for _, e := range w.entries {
			delete(want, e.Entry.Index)
		}
		require.Empty(t, want, "%v: whole entries that were not found", r)
		require.LessOrEqual(t, w.damage[0].From, r[0]+entryAlign) // padding has no checksum
		require.GreaterOrEqual(t, w.damage[len(w.damage)-1].To, r[1])
	}
}

// badBlocks is a file system one of whose files cannot be read in places.
type badBlocks struct {
	vfs.FS
	path  string
	block map[int64]bool
}

type badFile struct {
	vfs.File
	fs *badBlocks
}

func (b *badBlocks) Open(name string, writable bool) (vfs.File, error) {
	f, err := b.FS.Open(name, writable)
	if err == nil && name == b.path {
		f = badFile{f, b}
	}
	return f, err
}

func (f badFile) ReadAt(p []byte, off int64) (int, error) {
	for at := off &^ (walkBlock - 1); at < off+int64(len(p)); at += walkBlock {
		if f.fs.block[at/walkBlock] {
			n, err := f.File.ReadAt(p[:max(at-off, 0)], off)
			return n, errors.Join(err, syscall.EIO)
		}
	}
	return f.File.ReadAt(p, off)
}

func TestWalkUnreadable(t *testing.T) {
	const n = 25
	disk := memLog(t, n, false)
	path := memSegments(t, disk)[1]
	clean := walk(t, disk, "log")
	for block := range int64(4) {
		fsys := &badBlocks{FS: disk, path: path, block: map[int64]bool{block: true}}
		w := walk(t, fsys, "log")
		require.NotEmpty(t, w.damage)
		from, to := block*walkBlock, (block+1)*walkBlock
		lost := 0
		for _, e := range clean.entries {
			if e.Path == path && e.Position < to && e.Position+e.Size > from {
				lost++
			}
		}
		if block == 0 {
			lost = 7 // without the header there is no seed
		}
		require.Len(t, w.entries, n-lost, "block %d", block)
		require.ErrorIs(t, w.damage[0].Err, syscall.EIO)
	}
	// A file that cannot be read at all.
	disk.Inject(func(op vfs.Op, name string) error {
		if op == vfs.OpRead && name == path {
			return syscall.EIO
		}
		return nil
	})
	w := walk(t, disk, "log")
	require.Len(t, w.entries, n-7)
	require.Len(t, w.damage, 1)
	require.Equal(t, "segment header", w.flaws[0][0].Field)
	disk.Inject(nil)
	require.Zero(t, disk.InUse())
}

func TestWalkVoid(t *testing.T) {
	disk := memLog(t, 18, false)
	sf, err := openState(disk, "log/state", true)
	require.NoError(t, err)
	require.NoError(t, sf.save(state{origin: Place{Index: 7, Term: 1, Offset: 7, Chain: walk(t, disk, "log").footers[0].Last.Chain}}))
	w := walk(t, disk, "log")
	require.Empty(t, w.report.Damage)
	require.Len(t, w.entries, 11)
	require.Equal(t, 1, w.report.Beyond)

	require.NoError(t, sf.save(state{origin: Place{Index: 100, Term: 1, Offset: 90}, reset: true}))
	w = walk(t, disk, "log")
	require.Empty(t, w.report.Damage)
	require.Empty(t, w.entries)
	require.NoError(t, sf.file.Close())
}

func TestWalkSegmentAlone(t *testing.T) {
	disk := memLog(t, 18, false)
	for i, path := range memSegments(t, disk) {
		w := &walked{}
		require.NoError(t, WalkSegment(disk, path, WalkOptions{}, w.visit))
		require.Empty(t, w.report.Damage)
		require.Len(t, w.entries, []int{7, 7, 4}[i])
	}
	require.ErrorIs(t, WalkSegment(disk, "log/none", WalkOptions{}, (&walked{}).visit), fs.ErrNotExist)
}

func TestWalkErrors(t *testing.T) {
	disk := memLog(t, 3, false)
	require.ErrorIs(t, Walk(disk, "none", WalkOptions{}, (&walked{}).visit), fs.ErrNotExist)
	stop := errors.New("stop")
	for n := range 6 {
		left := n
		err := Walk(disk, "log", WalkOptions{}, func(Item) error {
			if left--; left < 0 {
				return stop
			}
			return nil
		})
		require.Equal(t, stop, err)
	}
	require.Zero(t, disk.InUse())
}

// TestWalkBatches gives an entry a body that is no batch, under right checksums.
func TestWalkBatches(t *testing.T) {
	disk := memLog(t, 3, false)
	path := memSegments(t, disk)[0]
	b := memRead(t, disk, path)
	pos := segmentHeaderSize
	h, body, err := parseEntry(b[pos:], seedOf(b))
	require.NoError(t, err)
	body[batch.HeaderSize+4]++ // the first record's offset delta
	h.bodyCRC = unseeded(body)
	h.put(b[pos:], seedOf(b))
	memWrite(t, disk, path, b, 0)
	w := walk(t, disk, "log")
	require.Len(t, w.damage, 1)
	require.Equal(t, "entry body", w.flaws[0][0].Field)
	require.Len(t, w.entries, 2)
	w = &walked{}
	require.NoError(t, Walk(disk, "log", WalkOptions{}, w.visit))
	require.Empty(t, w.damage)
}

// TestWalkWhileAppending walks a log that grows, rolls and seals meanwhile.
func TestWalkWhileAppending(t *testing.T) {
	for policy, n := range map[SyncPolicy]int{SyncAlways(): 200, SyncNever(): 1500} {
		t.Run(policy.String(), func(t *testing.T) {
			dir := t.TempDir()
			o := small
			o.Sync = policy
			l := open(t, dir, o)
			var group sync.WaitGroup
			group.Go(func() {
				rng := rand.New(rand.NewPCG(3, 4))
				for i := range n {
					appendValue(t, l, fmt.Sprint(i, strings.Repeat("y", rng.IntN(900))))
				}
			})
			before := uint64(0)
			for range 40 {
				atLeast := l.EndOffset()
				w := walk(t, vfs.OS{}, dir)
				require.Empty(t, w.report.Damage)
				require.Zero(t, w.report.Beyond)
				require.GreaterOrEqual(t, uint64(len(w.entries)), max(before, atLeast))
				for i, e := range w.entries {
					require.EqualValues(t, i, e.Entry.Offset)
				}
				before = uint64(len(w.entries))
			}
			group.Wait()
			require.NoError(t, l.Close())
			require.Len(t, walk(t, vfs.OS{}, dir).entries, n)
		})
	}
}

// TestWalkAfterCrash walks through what crashes leave, of which nothing is damage, and
// then has the log opened: the walk has told what recovery does.
func TestWalkAfterCrash(t *testing.T) {
	for seed := range uint64(150) {
		rng := rand.New(rand.NewPCG(seed, 1))
		disk := vfs.NewMem()
		ex := executor.NewManual(time.UnixMilli(1_700_000_000_000))
		o := Options{SegmentBytes: MinSegmentBytes, IndexInterval: 256, FS: disk, Executor: ex}
		if rng.IntN(3) > 0 {
			o.Sync = SyncNever()
		}
		l := open(t, "log", o)
		for i := range rng.IntN(60) {
			appendValue(t, l, fmt.Sprint(i, strings.Repeat("c", rng.IntN(2000))))
			switch rng.IntN(12) {
			case 0:
				ex.Advance(time.Duration(rng.IntN(2000)) * time.Millisecond)
			case 1:
				require.NoError(t, l.Sync())
			case 2:
				require.NoError(t, l.TruncateSuffix(max(l.LastPlace().Index, 3)-3))
			case 3:
				require.NoError(t, l.TruncatePrefix(l.EndOffset()/2))
			}
		}
		disk = disk.Crash(rng)
		w := walk(t, disk, "log")
		require.Empty(t, w.report.Damage, "seed %d", seed)
		o.FS = disk
		l = open(t, "log", o)
		require.EqualValues(t, l.LastPlace().Index-l.FirstPlace().Index, len(w.entries), "seed %d", seed)
		for i, e := range w.entries {
			require.Equal(t, l.FirstPlace().Index+1+uint64(i), e.Entry.Index, "seed %d", seed)
		}
		if w.report.Beyond == 0 {
			require.Equal(t, l.Recovery().Torn, w.report.Torn, "seed %d", seed)
		}
		require.NoError(t, l.Close())
	}
}

// TestWalkAgreesWithOpen damages logs at random. Where Open refuses the walk sees
// damage, and where the walk sees none Open finds the same entries.
func TestWalkAgreesWithOpen(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 2))
		disk := memLog(t, 1+rng.IntN(20), false)
		if rng.IntN(2) == 0 {
			require.NoError(t, disk.Remove("log/state"))
		}
		logs := memSegments(t, disk)
		for _, path := range logs {
			if path == logs[len(logs)-1] || rng.IntN(2) == 0 {
				require.NoError(t, disk.Remove(strings.TrimSuffix(path, ".log")+".index"))
			}
		}
		for range 1 + rng.IntN(3) {
			path := logs[rng.IntN(len(logs))]
			size := int64(len(memRead(t, disk, path)))
			pos := rng.Int64N(size)
			bad := make([]byte, min(1+rng.Int64N(1<<rng.IntN(12)), size-pos))
			if rng.IntN(2) == 0 {
				for i := range bad {
					bad[i] = byte(rng.Uint32())
				}
			}
			memWrite(t, disk, path, bad, pos)
		}
		w := walk(t, disk, "log")
		l, err := Open("log", Options{SegmentBytes: MinSegmentBytes, IndexInterval: 256, FS: disk, Executor: executor.NewManual(time.Unix(1, 0))})
		if err != nil {
			require.NotEmpty(t, w.report.Damage, "seed %d: %v", seed, err)
			continue
		}
		if len(w.report.Damage) == 0 {
			require.EqualValues(t, l.EndOffset(), w.report.EndOffset, "seed %d", seed)
			require.EqualValues(t, l.EndOffset(), len(w.entries), "seed %d", seed)
		}
		require.NoError(t, l.Close())
	}
}

// FuzzWalkSegment walks through any bytes as a segment's file. The seeds are whole
// segments, so that mutations leave most checksums right.
func FuzzWalkSegment(f *testing.F) {
	for _, sealed := range []bool{false, true} {
		b := make([]byte, segmentHeaderSize, 4096)
		(&segmentHeader{seed: 0x5eed}).put(b)
		var p Place
		for i := range 4 {
			b, p = appendEntry(b, newSeed(0x5eed), p, p.Index, &payload{kind: KindData, at: anywhere, span: 1,
				records: []Record{{Timestamp: int64(i + 1), Value: bytes.Repeat([]byte{byte(i)}, 30*i)}}})
		}
		b, p = appendEntry(b, newSeed(0x5eed), p, p.Index, &payload{kind: KindControl, at: anywhere, body: []byte("x")})
		end := int64(len(b))
		if sealed {
			b = append(b, make([]byte, footerAt(end)+footerSize-end)...)
			putFooter(b[footerAt(end):], end, p, 4)
		}
		f.Add(b, uint16(0), uint16(0), byte(0))
		f.Add(b, uint16(200), uint16(40), byte(0))
	}
	f.Fuzz(func(t *testing.T, b []byte, at, n uint16, fill byte) {
		b = bytes.Clone(b)
		// Overwrite a range: most structure stays whole.
		for i := int(at); i < min(int(at)+int(n), len(b)); i++ {
			b[i] = fill
		}
		disk := vfs.NewMem()
		require.NoError(t, disk.MkdirAll("log"))
		file, err := disk.Create("log/00000000000000000000.log")
		require.NoError(t, err)
		_, err = file.WriteAt(b, 0)
		require.NoError(t, err)
		size, at64 := int64(len(b)), int64(0)
		inside := func(from, to int64) {
			if from < at64 || to < from || to > size {
				t.Fatalf("range %d to %d, behind %d, of %d bytes", from, to, at64, size)
			}
			at64 = to
		}
		for _, alone := range []bool{false, true} {
			at64 = 0
			w := &walked{}
			visit := func(item Item) error {
				switch item := item.(type) {
				case *EntryItem:
					inside(item.Position, item.Position+item.Size)
				case *DamageItem:
					if item.Path != "log" && strings.HasSuffix(item.Path, ".log") && item.Err.Error() != "the file's name is not its first offset" {
						inside(item.From, item.To)
					}
				case *SpaceItem:
					inside(item.From, item.To)
				case *FooterItem:
					inside(max(item.Position, at64), max(item.Position, at64)+footerUsed)
				}
				return w.visit(item)
			}
			if alone {
				err = WalkSegment(disk, "log/00000000000000000000.log", WalkOptions{Batches: true}, visit)
			} else {
				err = Walk(disk, "log", WalkOptions{Batches: true}, visit)
			}
			require.NoError(t, err)
		}
	})
}
