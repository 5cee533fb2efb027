package storage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zue-log/zue/storage/executor"
	"github.com/zue-log/zue/storage/vfs"
)

// fill makes a log of n records in several segments and returns the paths of its
// .log files.
func fill(t *testing.T, dir string, n int) []string {
	t.Helper()
	l := open(t, dir, small)
	for i := range n {
		appendValue(t, l, recordValue(i))
	}
	require.NoError(t, l.Close())
	logs, err := filepath.Glob(filepath.Join(dir, "*.log"))
	require.NoError(t, err)
	return logs
}

func recordValue(i int) string { return fmt.Sprintf("record %d %s", i, bytes.Repeat([]byte("x"), 400)) }

func checkAll(t *testing.T, l *Log, n int) {
	t.Helper()
	require.EqualValues(t, n, l.EndOffset())
	for i := range n {
		require.Equal(t, recordValue(i), readValue(t, l, uint64(i)))
	}
}

// edit changes the bytes of a file.
func edit(t *testing.T, path string, change func(b []byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, change(b), 0o644))
}

// lastEntry returns where the last entry of an unsealed segment's bytes begins,
// and where it ends.
func lastEntry(t *testing.T, b []byte) (start, end int) {
	t.Helper()
	pos := segmentHeaderSize
	for {
		h, _, err := parseEntry(b[pos:], seedOf(b))
		if err != nil {
			require.Positive(t, start)
			return start, pos
		}
		start = pos
		pos += int(entrySize(h.bodyLen))
	}
}

// seedOf is the seed of a segment's bytes.
func seedOf(b []byte) seed { return newSeed(binary.LittleEndian.Uint32(b[56:])) }

// forget makes a clean close look like a kill: no note of what was durable, no
// index that covers the last segment.
func forget(t *testing.T, dir, last string) {
	t.Helper()
	require.NoError(t, os.Remove(filepath.Join(dir, stateName)))
	require.NoError(t, os.Remove(last[:len(last)-len(".log")]+".index"))
}

func TestRecoveryAfterKill(t *testing.T) {
	dir := t.TempDir()
	logs := fill(t, dir, 100)
	require.Greater(t, len(logs), 2)
	forget(t, dir, logs[len(logs)-1])
	l := open(t, dir, small)
	defer l.Close()
	checkAll(t, l, 100)
	require.Positive(t, l.Recovery().Scanned)
	require.Less(t, l.Recovery().Scanned, int64(MinSegmentBytes), "only the last segment is scanned")
	require.Zero(t, l.Recovery().Torn)
}

// TestTornTail damages the last entry, of which nothing says that it was durable.
func TestTornTail(t *testing.T) {
	damages := map[string]func(b []byte, start, end int){
		"body":           func(b []byte, start, _ int) { b[start+entryHeaderSize+50] ^= 1 },
		"header":         func(b []byte, start, _ int) { b[start+10] ^= 1 },
		"half":           func(b []byte, start, end int) { clear(b[(start+end)/2 : end]) },
		"header missing": func(b []byte, start, _ int) { clear(b[start : start+entryHeaderSize]) },
		"all":            func(b []byte, start, end int) { clear(b[start:end]) },
		"not the next": func(b []byte, start, _ int) {
			h, err := parseEntryHeader(b[start:], seedOf(b))
			if err != nil {
				panic(err)
			}
			h.chain++
			h.put(b[start:], seedOf(b))
		},
	}
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			logs := fill(t, dir, 100)
			last := logs[len(logs)-1]
			forget(t, dir, last)
			edit(t, last, func(b []byte) []byte {
				start, end := lastEntry(t, b)
				damage(b, start, end)
				return b
			})
			var out bytes.Buffer
			o := small
			o.Logger = slog.New(slog.NewTextHandler(&out, nil))
			l := open(t, dir, o)
			checkAll(t, l, 99)
			if name == "all" {
				require.Zero(t, l.Recovery().Torn)
			} else {
				require.Positive(t, l.Recovery().Torn)
				require.Contains(t, out.String(), fmt.Sprintf("bytes=%d", l.Recovery().Torn))
			}
			require.True(t, isZero(l.active.b[l.active.end.Load():]), "leftovers behind the tail")
			// The place is used again.
			require.EqualValues(t, 99, appendValue(t, l, recordValue(99)))
			checkAll(t, l, 100)
			require.NoError(t, l.Close())
			l = open(t, dir, small)
			checkAll(t, l, 100)
			require.NoError(t, l.Close())
		})
	}
}

// snapshot reads all files of a directory.
func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	names, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, n := range names {
		b, err := os.ReadFile(filepath.Join(dir, n.Name()))
		require.NoError(t, err)
		if n.Name() != lockName {
			out[n.Name()] = string(b)
		}
	}
	return out
}

// damages are what a disk, or a person, may do to the files of a log that was closed.
var damages = map[string]func(t *testing.T, dir string, logs []string){
	"last entry, known durable by the state file": func(t *testing.T, dir string, logs []string) {
		last := logs[len(logs)-1]
		require.NoError(t, os.Remove(last[:len(last)-4]+".index"))
		edit(t, last, func(b []byte) []byte { s, _ := lastEntry(t, b); b[s+100] ^= 4; return b })
	},
	"last entry gone": func(t *testing.T, dir string, logs []string) {
		last := logs[len(logs)-1]
		require.NoError(t, os.Remove(last[:len(last)-4]+".index"))
		edit(t, last, func(b []byte) []byte { s, e := lastEntry(t, b); clear(b[s:e]); return b })
	},
	"an entry in the middle, known durable by later headers": func(t *testing.T, dir string, logs []string) {
		forget(t, dir, logs[len(logs)-1])
		edit(t, logs[len(logs)-1], func(b []byte) []byte { b[segmentHeaderSize+100] ^= 4; return b })
	},
	"a header in the middle wiped": func(t *testing.T, dir string, logs []string) {
		forget(t, dir, logs[len(logs)-1])
		edit(t, logs[len(logs)-1], func(b []byte) []byte { clear(b[segmentHeaderSize:][:entryHeaderSize]); return b })
	},
	"a segment missing": func(t *testing.T, dir string, logs []string) {
		require.NoError(t, os.Remove(logs[1]))
	},
	"the first segment missing": func(t *testing.T, dir string, logs []string) {
		require.NoError(t, os.Remove(logs[0]))
	},
	"the last segment missing": func(t *testing.T, dir string, logs []string) {
		require.NoError(t, os.Remove(logs[len(logs)-1]))
	},
	"all segments missing": func(t *testing.T, dir string, logs []string) {
		for _, p := range logs {
			require.NoError(t, os.Remove(p))
		}
	},
	"a segment's header damaged": func(t *testing.T, dir string, logs []string) {
		edit(t, logs[1], func(b []byte) []byte { b[30] ^= 1; return b })
	},
	"the last segment's header wiped": func(t *testing.T, dir string, logs []string) {
		forget(t, dir, logs[len(logs)-1])
		edit(t, logs[len(logs)-1], func(b []byte) []byte { clear(b[:segmentHeaderSize]); return b })
	},
	"a segment under another name": func(t *testing.T, dir string, logs []string) {
		require.NoError(t, os.Rename(logs[1], filepath.Join(dir, segmentName(1))))
	},
	"foreign bytes under a segment's name": func(t *testing.T, dir string, logs []string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, segmentName(5000)), bytes.Repeat([]byte("mine"), 100), 0o644))
	},
	"a sealed segment whose index is gone": func(t *testing.T, dir string, logs []string) {
		require.NoError(t, os.Remove(logs[0][:len(logs[0])-4]+".index"))
		edit(t, logs[0], func(b []byte) []byte { b[segmentHeaderSize+100] ^= 1; return b })
	},
}

// TestCorruptionIsNotCut damages what was durable, in ways that look like a torn
// tail but for the durable mark.
func TestCorruptionIsNotCut(t *testing.T) {
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			logs := fill(t, dir, 100)
			damage(t, dir, logs)
			before := snapshot(t, dir)
			_, err := Open(dir, small)
			var ce *CorruptionError
			require.ErrorAs(t, err, &ce)
			require.ErrorIs(t, err, ErrCorrupt)
			after := snapshot(t, dir)
			for name, b := range before {
				if filepath.Ext(name) == ".log" {
					require.Equal(t, b, after[name], "%s was changed", name)
				}
			}
			_, err = Open(dir, small)
			require.ErrorIs(t, err, ErrCorrupt, "it stays so")
		})
	}
}

func TestCorruptionInSealedSegmentIsReadAsError(t *testing.T) {
	dir := t.TempDir()
	logs := fill(t, dir, 100)
	edit(t, logs[0], func(b []byte) []byte { b[segmentHeaderSize+150] ^= 1; return b })
	l := open(t, dir, small)
	defer l.Close()
	_, _, err := l.Read(0)
	var ce *CorruptionError
	require.ErrorAs(t, err, &ce)
	require.Equal(t, logs[0], ce.Path)
	require.EqualValues(t, segmentHeaderSize, ce.Position)
	require.EqualValues(t, 0, ce.Offset)
	require.Equal(t, recordValue(1), readValue(t, l, 1))
}

// TestIndexIsACache loses and spoils index files in every way.
func TestIndexIsACache(t *testing.T) {
	spoil := map[string]func(t *testing.T, path string, other []byte){
		"missing": func(t *testing.T, path string, _ []byte) { require.NoError(t, os.Remove(path)) },
		"empty":   func(t *testing.T, path string, _ []byte) { require.NoError(t, os.WriteFile(path, nil, 0o644)) },
		"short": func(t *testing.T, path string, _ []byte) {
			edit(t, path, func(b []byte) []byte { return b[:indexHeaderSize+8] })
		},
		"flipped": func(t *testing.T, path string, _ []byte) {
			edit(t, path, func(b []byte) []byte { b[indexHeaderSize+5] ^= 1; return b })
		},
		"zeros":     func(t *testing.T, path string, _ []byte) { edit(t, path, func(b []byte) []byte { clear(b); return b }) },
		"another's": func(t *testing.T, path string, other []byte) { require.NoError(t, os.WriteFile(path, other, 0o644)) },
		"version": func(t *testing.T, path string, _ []byte) {
			edit(t, path, func(b []byte) []byte { b[12] = 99; return b })
		},
	}
	for name, damage := range spoil {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			logs := fill(t, dir, 100)
			indexes := slices.Clone(logs)
			var contents [][]byte
			for i, p := range logs {
				indexes[i] = p[:len(p)-4] + ".index"
				b, err := os.ReadFile(indexes[i])
				require.NoError(t, err)
				contents = append(contents, b)
			}
			for i, p := range indexes {
				damage(t, p, contents[(i+1)%len(contents)])
			}
			l := open(t, dir, small)
			require.Equal(t, len(logs), l.Recovery().IndexesRebuilt)
			checkAll(t, l, 100)
			require.NoError(t, l.Close())
			l = open(t, dir, small)
			require.Zero(t, l.Recovery(), "rebuilt for good")
			checkAll(t, l, 100)
			require.NoError(t, l.Close())
		})
	}
}

func TestUnknownVersionIsRefused(t *testing.T) {
	for _, name := range []string{segmentName(0), stateName} {
		dir := t.TempDir()
		fill(t, dir, 3)
		edit(t, filepath.Join(dir, name), func(b []byte) []byte {
			for _, at := range []int{0, stateSlot} {
				if at+64 > len(b) || isZero(b[at:at+64]) {
					continue
				}
				// A segment's header is as long as a state's.
				b[at+12] = 9
				sum := crcOf(b[at+4 : at+64])
				copy(b[at:], sum)
			}
			return b
		})
		_, err := Open(dir, small)
		require.ErrorIs(t, err, ErrVersion, name)
		require.ErrorContains(t, err, name)
	}
}

func TestLeftoversAndForeignFiles(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir, 3)
	leftovers := []string{"segment-7.tmp", indexName(12345)}
	foreign := []string{"notes.txt", "segment-notes.tmp", "123.log", "00000000000000000000.bak"}
	for _, n := range slices.Concat(leftovers, foreign) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, n), []byte("x"), 0o644))
	}
	var out bytes.Buffer
	o := small
	o.Logger = slog.New(slog.NewTextHandler(&out, nil))
	l := open(t, dir, o)
	checkAll(t, l, 3)
	require.NoError(t, l.Close())
	for _, n := range leftovers {
		_, err := os.Stat(filepath.Join(dir, n))
		require.ErrorIs(t, err, fs.ErrNotExist, n)
	}
	for _, n := range foreign {
		require.FileExists(t, filepath.Join(dir, n))
		require.Contains(t, out.String(), n)
	}
}

// TestInterruptedSeal reopens a log whose roll was done and whose sealing was not,
// at each of its steps.
func TestInterruptedSeal(t *testing.T) {
	for _, step := range []string{"before the footer", "before the truncation"} {
		t.Run(step, func(t *testing.T) {
			dir := t.TempDir()
			logs := fill(t, dir, 100)
			edit(t, logs[0], func(b []byte) []byte {
				_, end := lastEntry(t, b)
				grown := append(b, make([]byte, 4096)...)
				if step == "before the footer" {
					clear(grown[end:])
				}
				return grown
			})
			l := open(t, dir, small)
			checkAll(t, l, 100)
			require.Zero(t, l.Recovery().Torn)
			require.NoError(t, l.Close())
			l = open(t, dir, small)
			require.Zero(t, l.Recovery(), "it was sealed")
			checkAll(t, l, 100)
			require.NoError(t, l.Close())
		})
	}
}

func TestDirectoryThatIsAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	require.NoError(t, os.WriteFile(path, nil, 0o644))
	_, err := Open(path, Options{})
	var pe *fs.PathError
	require.True(t, errors.As(err, &pe), "%v", err)
}

// TestValueThatLooksLikeAnEntry stores the bytes of an entry that claims all sorts
// of things as a record's value, and tears the entry that holds it: a client's bytes
// are never taken for the log's own.
func TestValueThatLooksLikeAnEntry(t *testing.T) {
	forged, _ := appendEntry(nil, 0, Place{Index: 1000}, 999, &payload{kind: KindData, at: anywhere, span: 1, records: []Record{{Value: []byte("forged")}}, now: 1})
	dir := t.TempDir()
	l := open(t, dir, small)
	appendValue(t, l, "first")
	appendValue(t, l, string(bytes.Repeat(forged, 20)))
	require.NoError(t, l.Close())
	last := filepath.Join(dir, segmentName(0))
	forget(t, dir, last)
	edit(t, last, func(b []byte) []byte { s, _ := lastEntry(t, b); b[s+9] ^= 1; return b })
	l = open(t, dir, small)
	require.EqualValues(t, 1, l.EndOffset())
	require.Positive(t, l.Recovery().Torn)
	require.NoError(t, l.Close())
}

// TestOnlyTheLastGroupHasNoWitness damages the last group but one of a log whose
// groups formed while the one before was being synced.
func TestOnlyTheLastGroupHasNoWitness(t *testing.T) {
	dir := t.TempDir()
	logs := fill(t, dir, 5)
	forget(t, dir, logs[0])
	edit(t, logs[0], func(b []byte) []byte {
		start, _ := lastEntry(t, b)
		pos := segmentHeaderSize
		for {
			h, _, err := parseEntry(b[pos:], seedOf(b))
			require.NoError(t, err)
			next := pos + int(entrySize(h.bodyLen))
			if next == start {
				b[pos+100] ^= 1
				return b
			}
			pos = next
		}
	})
	_, err := Open(dir, small)
	require.ErrorIs(t, err, ErrCorrupt)
}

// TestInterruptedSealAtAnyAlignment kills the log between footer and truncation,
// with the tail at every distance from the footer.
func TestInterruptedSealAtAnyAlignment(t *testing.T) {
	for pad := range 64 {
		mem := vfs.NewMem()
		ex := executor.NewManual(time.Unix(1, 0))
		o := Options{FS: mem, Executor: ex, SegmentBytes: MinSegmentBytes}
		l := open(t, "d", o)
		n := 0
		for ; len(*l.segments.Load()) < 2; n++ {
			appendValue(t, l, string(make([]byte, 700+pad*8*(1-min(n, 1)))))
		}
		mem.Inject(func(op vfs.Op, _ string) error {
			if op == vfs.OpTruncate {
				return errors.New("killed")
			}
			return nil
		})
		ex.Advance(0)
		mem.Inject(nil)
		mem.UnlockAll()
		o.Executor = executor.NewManual(time.Unix(2, 0))
		l = open(t, "d", o)
		require.EqualValues(t, n, l.EndOffset())
		require.Zero(t, l.Recovery().Torn)
		require.NoError(t, l.Close())
	}
}

// TestStateCopies damages one copy of the state, then both.
func TestStateCopies(t *testing.T) {
	mem := vfs.NewMem()
	sf, err := createState(mem, ".", stateName)
	require.NoError(t, err)
	for n := range byte(4) {
		want := state{seq: uint64(n) + 1, origin: Place{1, 2, 3, uint64(n)}, reset: n%2 == 1, user: bytes.Repeat([]byte{n}, int(n)*1000)}
		require.NoError(t, sf.save(want))
		require.NoError(t, sf.saveMark(uint64(n)+10, true))
		want.user = append([]byte(nil), want.user...)
		again, err := openState(mem.Crash(nil), stateName, true)
		require.NoError(t, err)
		require.Equal(t, want, again.now)
		require.EqualValues(t, n+10, again.mark)
		for _, at := range []int64{0, stateSlot} {
			_, err = sf.file.WriteAt([]byte{0xff}, at+30)
			require.NoError(t, err)
			again, err = openState(mem, stateName, true)
			require.NoError(t, err)
			require.Equal(t, want, again.now)
		}
		_, err = sf.file.WriteAt([]byte{0xff}, 30)
		require.NoError(t, err)
		_, err = sf.file.WriteAt([]byte{0xff}, stateSlot+30)
		require.NoError(t, err)
		_, err = openState(mem, stateName, true)
		require.ErrorIs(t, err, ErrCorrupt)
		require.NoError(t, sf.write(sf.now))
	}
	_, err = sf.file.WriteAt([]byte{0xff}, markAt+17)
	require.NoError(t, err)
	again, err := openState(mem, stateName, false)
	require.NoError(t, err)
	require.Zero(t, again.mark)
}

// TestStateTornAtAnyWrite crashes in a save: the old state or the new one is there.
func TestStateTornAtAnyWrite(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 0))
		mem := vfs.NewMem()
		sf, err := createState(mem, ".", stateName)
		require.NoError(t, err)
		require.NoError(t, sf.save(state{user: bytes.Repeat([]byte("a"), 3000)}))
		left := 1 + rng.IntN(4)
		mem.Inject(func(op vfs.Op, _ string) error {
			if left--; left <= 0 && op == vfs.OpSync {
				return errPowerOff
			}
			return nil
		})
		saved := sf.save(state{user: bytes.Repeat([]byte("b"), 3000)}) == nil
		mem.Inject(nil)
		again, err := openState(mem.Crash(rng), stateName, true)
		require.NoError(t, err)
		got := string(again.now.user)
		require.True(t, got == string(bytes.Repeat([]byte("b"), 3000)) || !saved && got == string(bytes.Repeat([]byte("a"), 3000)))
	}
}

// TestReadOnlyAfterKill opens a log for reading that was killed after a clean close and
// more appends: its index covers a part of the segment.
func TestReadOnlyAfterKill(t *testing.T) {
	dir := t.TempDir()
	for i := range 2 {
		l := open(t, dir, small)
		for k := range 5 {
			appendValue(t, l, recordValue(5*i+k))
		}
		if i == 1 {
			copied := t.TempDir()
			require.NoError(t, os.CopyFS(copied, os.DirFS(dir)))
			o := small
			o.ReadOnly = true
			ro, err := Open(copied, o)
			require.NoError(t, err)
			checkAll(t, ro, 10)
			require.NoError(t, ro.Close())
		}
		require.NoError(t, l.Close())
	}
}

// TestRemovalStaysDone kills a log that has removed a segment, but not durably, and cuts
// the power of the next one: the segment must not be back.
func TestRemovalStaysDone(t *testing.T) {
	mem, ex := vfs.NewMem(), manual()
	o := Options{FS: mem, Executor: ex, SegmentBytes: MinSegmentBytes}
	l := open(t, "d", o)
	appendValue(t, l, "first")
	appendValue(t, l, strings.Repeat("x", 8000))
	last := l.LastPlace().Index
	appendValue(t, l, strings.Repeat("y", 9000))
	require.EqualValues(t, 2, l.Metrics().Rolls)
	for range 6 {
		appendValue(t, l, "z")
	}
	dead := false
	mem.Inject(func(op vfs.Op, name string) error {
		if dead || op == vfs.OpSyncDir {
			dead = true
			return errPowerOff
		}
		return nil
	})
	require.Error(t, l.TruncateSuffix(last))
	mem.Inject(nil)
	mem.UnlockAll() // killed
	o.Executor = manual()
	l = open(t, "d", o)
	require.EqualValues(t, 2, l.EndOffset())
	off := appendValue(t, l, "acknowledged")
	o.FS, o.Executor = mem.Crash(nil), manual()
	l = open(t, "d", o)
	require.Equal(t, "acknowledged", readValue(t, l, off))
}

// TestShortFileOfControlEntries opens a segment without a record whose file ends with its
// last entry.
func TestShortFileOfControlEntries(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, small)
	require.NoError(t, appendControl(l, 6))
	pos := l.tail.pos
	require.NoError(t, l.Close())
	require.NoError(t, os.Truncate(filepath.Join(dir, segmentName(0)), pos))
	l = open(t, dir, small)
	require.EqualValues(t, 1, l.LastPlace().Index)
	appendValue(t, l, "x")
	require.NoError(t, l.Close())
	l = open(t, dir, small)
	es, lease, err := l.ReadEntries(nil, 1, 1000, 1000)
	require.NoError(t, err)
	require.Len(t, es, 2)
	require.Len(t, es[0].Body, 6)
	lease.Release()
	require.NoError(t, l.Close())
}

// TestLaterHeaderIsDamaged has the log end in one segment, torn, and the header of a later
// one damaged.
func TestLaterHeaderIsDamaged(t *testing.T) {
	mem := vfs.NewMem()
	o := Options{FS: mem, Executor: manual(), SegmentBytes: MinSegmentBytes, Sync: SyncNever()}
	l := open(t, "d", o)
	for l.Metrics().Rolls < 2 {
		appendValue(t, l, recordValue(1))
	}
	disk := mem.Crash(nil)
	overwrite(t, disk, "d/"+segmentName(l.active.before.Offset), 20, 9)
	o.FS, o.Executor = disk, manual()
	_, err := Open("d", o)
	require.ErrorIs(t, err, ErrCorrupt)
}

// TestFirstEntryIsDamaged damages the only entry of a named segment: it was durable before
// the segment had that name, although no mark says so.
func TestFirstEntryIsDamaged(t *testing.T) {
	for _, value := range []byte{0, 0x55} {
		mem := vfs.NewMem()
		l := open(t, "d", Options{FS: mem, Executor: manual(), SegmentBytes: MinSegmentBytes})
		appendValue(t, l, "x")
		disk := mem.Crash(nil)
		overwrite(t, disk, "d/"+segmentName(0), segmentHeaderSize, value)
		_, err := Open("d", Options{FS: disk, Executor: manual(), SegmentBytes: MinSegmentBytes})
		require.ErrorIs(t, err, ErrCorrupt)
		r, err := Verify(t.Context(), disk, "d", WalkOptions{})
		require.NoError(t, err)
		require.Len(t, r.Damage, 1)
	}
}
