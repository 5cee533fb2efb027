package storage

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zue-log/zue/storage/vfs"
)

// listFS calls a function before the first List.
type listFS struct {
	vfs.FS
	once func()
}

func (f *listFS) List(dir string) ([]string, error) {
	if f.once != nil {
		f.once()
		f.once = nil
	}
	return f.FS.List(dir)
}

// TestWalkBesideRetention: segments are removed between Walk's read of the state and its
// listing of the directory. "segments that are removed meanwhile are passed over."
func TestWalkBesideRetention(t *testing.T) {
	mem, ex := vfs.NewMem(), manual()
	l := open(t, "d", Options{FS: mem, Executor: ex, SegmentBytes: MinSegmentBytes})
	for i := range 100 {
		appendValue(t, l, recordValue(i))
	}
	ex.Advance(2 * time.Second)
	fsys := &listFS{FS: mem, once: func() { require.NoError(t, l.TruncatePrefix(60)) }}
	r, err := Verify(t.Context(), fsys, "d", WalkOptions{})
	require.NoError(t, err)
	require.Empty(t, r.Damage)
}

// TestWalkInMidRemoval: the walk is at the second of four segments that are being
// removed; the first is gone, and the state says that the log begins at the fifth.
func TestWalkInMidRemoval(t *testing.T) {
	mem, ex := vfs.NewMem(), manual()
	l := open(t, "d", Options{FS: mem, Executor: ex, SegmentBytes: MinSegmentBytes})
	for i := range 200 {
		appendValue(t, l, recordValue(i))
	}
	ex.Advance(2 * time.Second)
	segments := *l.segments.Load()
	require.Greater(t, len(segments), 5)
	second := "d/" + segmentName(segments[1].before.Offset)
	reached, proceed, removed := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	var once sync.Once
	mem.Inject(func(op vfs.Op, name string) error {
		if op == vfs.OpRemove && name == second {
			once.Do(func() { close(reached); <-proceed })
		}
		return nil
	})
	var rep Report
	err := Walk(mem, "d", WalkOptions{}, func(item Item) error {
		rep.Add(item)
		if _, ok := item.(*StateItem); ok { // the directory has been listed
			go func() { removed <- l.TruncatePrefix(segments[4].before.Offset) }()
			<-reached
		}
		return nil
	})
	close(proceed)
	require.NoError(t, <-removed)
	require.NoError(t, err)
	require.Empty(t, rep.Damage)
}

// longFS has all segments and indexes seem to be of 4 GiB + 1 page, as a damaged file
// system may, and notes the longest read.
type longFS struct {
	vfs.FS
	longest *atomic.Int64
}

type longFile struct {
	vfs.File
	fs longFS
}

func (f longFS) Open(name string, w bool) (vfs.File, error) {
	g, err := f.FS.Open(name, w)
	if err != nil || strings.HasSuffix(name, stateName) {
		return g, err
	}
	return longFile{g, f}, nil
}

func (longFile) Size() (int64, error) { return 1<<32 + 4096, nil }

func (f longFile) ReadAt(p []byte, off int64) (int, error) {
	f.fs.longest.Store(max(f.fs.longest.Load(), int64(len(p))))
	return f.File.ReadAt(p, off)
}

// TestWalkOverlongFiles walks through files that Open refuses for their length.
func TestWalkOverlongFiles(t *testing.T) {
	mem := vfs.NewMem()
	l := open(t, "d", Options{FS: mem, Executor: manual(), SegmentBytes: MinSegmentBytes})
	appendValue(t, l, "x")
	require.NoError(t, l.Close())
	var longest atomic.Int64
	r, err := Verify(t.Context(), longFS{mem, &longest}, "d", WalkOptions{})
	require.NoError(t, err)
	require.Len(t, r.Damage, 1)
	require.LessOrEqual(t, longest.Load(), int64(1<<20))
}

// TestFooterVersion: "A file of an unknown version is refused."
func TestFooterVersion(t *testing.T) {
	disk := memLog(t, 25, false)
	path := memSegments(t, disk)[0]
	b := memRead(t, disk, path)
	at := len(b) - footerSize
	b[at+12] = 2
	copy(b[at:], crcOf(b[at+4:at+footerUsed]))
	memWrite(t, disk, path, b[at:], int64(at))
	_, err := Open("log", Options{FS: disk, Executor: manual(), SegmentBytes: MinSegmentBytes, IndexInterval: 256})
	require.ErrorIs(t, err, ErrVersion)
	r, err := Verify(t.Context(), disk, "log", WalkOptions{})
	require.NoError(t, err)
	require.NotEmpty(t, r.Damage)
}

// TestReportSealed compares what Log.Verify and Verify say of the same log.
func TestReportSealed(t *testing.T) {
	mem, ex := vfs.NewMem(), manual()
	l := open(t, "d", Options{FS: mem, Executor: ex, SegmentBytes: MinSegmentBytes})
	for i := range 100 {
		appendValue(t, l, recordValue(i))
	}
	ex.Advance(2 * time.Second)
	a, err := l.Verify(t.Context(), nil)
	require.NoError(t, err)
	b, err := Verify(t.Context(), mem, "d", WalkOptions{})
	require.NoError(t, err)
	require.Equal(t, b.Sealed, a.Sealed)
}

// TestWalkIndexAfterTwoCrashes: the power fails while an index is sealed, and again in
// the next Open before its SyncDir. Open is content; Walk speaks of damage.
func TestWalkIndexAfterTwoCrashes(t *testing.T) {
	bad := 0
	var last *CorruptionError
	for seed := range uint64(100) {
		mem, ex := vfs.NewMem(), manual()
		o := Options{FS: mem, Executor: ex, SegmentBytes: MinSegmentBytes, IndexInterval: 64}
		l := open(t, "d", o)
		for i := range 500 {
			appendValue(t, l, fmt.Sprint(i))
			if l.Metrics().Rolls == 2 {
				break
			}
		}
		off := false
		mem.Inject(func(op vfs.Op, name string) error {
			if off || op == vfs.OpSync && strings.HasSuffix(name, ".tmp") && l.Metrics().Syncs > 0 && isIndexTemp(name) {
				off = true
				return errPowerOff
			}
			return nil
		})
		ex.Advance(0) // seals
		require.True(t, off)
		mem.Inject(nil)
		disk := mem.Crash(rand.New(rand.NewPCG(seed, 0)))
		disk.Inject(func(op vfs.Op, _ string) error {
			if op == vfs.OpSyncDir {
				return errPowerOff
			}
			return nil
		})
		_, err := Open("d", Options{FS: disk, Executor: manual(), SegmentBytes: MinSegmentBytes, IndexInterval: 64})
		require.ErrorIs(t, err, errPowerOff)
		disk.Inject(nil)
		disk = disk.Crash(nil)
		r, err := Verify(t.Context(), disk, "d", WalkOptions{})
		require.NoError(t, err)
		if len(r.Damage) > 0 {
			bad++
			last = r.Damage[0]
		}
		again := open(t, "d", Options{FS: disk, Executor: manual(), SegmentBytes: MinSegmentBytes, IndexInterval: 64})
		require.NoError(t, again.Close())
	}
	require.Zero(t, bad, "of 100 seeds; the last: %v", last)
}

// isIndexTemp says whether a temporary name is an index's: the second of each pair.
func isIndexTemp(name string) bool {
	var n int
	_, err := fmt.Sscanf(name[strings.LastIndex(name, "-")+1:], "%d.tmp", &n)
	return err == nil && n%2 == 0
}
