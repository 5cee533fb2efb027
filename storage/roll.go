package storage

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/zue-log/zue/storage/vfs"
)

const zeroChunk = 1 << 20

// readySegment is a segment file without a header or a name.
type readySegment struct {
	file vfs.File
	path string
	size int64
}

// discard closes and removes it.
func (r *readySegment) discard(fsys vfs.FS) error {
	return errors.Join(r.file.Close(), fsys.Remove(r.path))
}

// takeReady returns a file for a segment of size bytes, made in the background if
// there is one.
func (l *Log) takeReady(size int64) (*readySegment, error) {
	l.mu.Lock()
	r := l.ready
	if r != nil && r.size == size {
		l.ready = nil
	} else {
		r = nil
	}
	path := l.tempName()
	l.mu.Unlock()
	if r != nil {
		return r, nil
	}
	return l.makeReady(path, size, false)
}

// newSegment makes the segment that g begins: a file with a header, not yet under its
// name, and an empty index. After an error nothing is left of it.
func (l *Log) newSegment(g *group) (*segment, error) {
	r, err := l.takeReady(g.newSize)
	if err != nil {
		return nil, err
	}
	header := make([]byte, segmentHeaderSize)
	h := segmentHeader{before: g.before.place, created: l.opts.Executor.Now().UnixMilli(), seed: g.newSeed}
	h.put(header)
	if _, err := r.file.WriteAt(header, 0); err != nil {
		return nil, errors.Join(err, r.discard(l.fs))
	}
	s, err := l.mapReady(r, h)
	if err != nil {
		return nil, errors.Join(err, l.fs.Remove(r.path))
	}
	return s, nil
}

// mapReady makes a segment of r, whose header is h, with an empty index. It closes r
// if that fails.
func (l *Log) mapReady(r *readySegment, h segmentHeader) (*segment, error) {
	s, err := mapSegment(r.file, r.path, r.size)
	if err != nil {
		return nil, err
	}
	s.begin(h)
	if err := l.mapForStores(s); err != nil {
		return nil, errors.Join(err, s.release())
	}
	s.ix, err = createIndex(l.fs, l.path(indexName(h.before.Offset)), indexCapacity(r.size, l.opts.IndexInterval))
	if err != nil {
		return nil, errors.Join(err, s.release())
	}
	return s, nil
}

// mapForStores maps an active segment for writing, where single appends are stored
// that way. Readers have a mapping of their own, which they cannot write to.
func (l *Log) mapForStores(s *segment) error {
	if l.opts.Sync.always() {
		return nil
	}
	var err error
	s.w, err = s.file.Map(len(s.b), true)
	return err
}

// name gives s, whose first entry is written, its name.
func (l *Log) name(s *segment) error {
	path := l.path(segmentName(s.before.Offset))
	if err := l.fs.Rename(s.path, path); err != nil {
		return err
	}
	s.path = path
	return l.fs.SyncDir(l.dir)
}

// activate makes s the active segment, has the one before it sealed and the one
// after it prepared.
func (l *Log) activate(s *segment) {
	l.mu.Lock()
	old := l.active
	l.active = s
	l.publish(append(slices.Clip(*l.segments.Load()), s))
	l.counts.Rolls++
	if old != nil && !old.sealed {
		l.background(0, l.sealRolled)
	}
	l.prepareNext()
	l.mu.Unlock()
	if hook := l.opts.Events.Rolled; hook != nil {
		hook(RollEvent{Path: s.path, FirstOffset: s.before.Offset})
	}
}

// prepareNext has the next segment's file made in the background. l.mu is held.
func (l *Log) prepareNext() {
	if l.ready != nil || l.preparing {
		return
	}
	l.preparing = true
	path := l.tempName()
	l.background(0, func() {
		r, err := l.makeReady(path, l.opts.SegmentBytes, l.opts.Sync.always())
		l.mu.Lock()
		defer l.mu.Unlock()
		l.preparing = false
		if err == nil {
			l.ready = r
		} else if !errors.Is(err, ErrClosed) {
			// The append that needs the segment tries again, and reports.
			l.opts.Logger.Warn("could not prepare the next segment", "dir", l.dir, "err", err)
		}
	})
}

// tempName names a new temporary file. l.mu is held.
func (l *Log) tempName() string {
	l.temps++
	return l.path(tempPrefix + strconv.Itoa(l.temps) + tempSuffix)
}

// isTemp says whether tempName makes such names.
func isTemp(name string) bool {
	n, ok := strings.CutPrefix(name, tempPrefix)
	n, dot := strings.CutSuffix(n, tempSuffix)
	_, err := strconv.ParseUint(n, 10, 64)
	return ok && dot && err == nil
}

// makeReady makes a segment file with blocks of its own. If it is to be filled
// with zeros, later syncs need not tell the file system that its blocks have
// become used: an fdatasync of 4 KiB takes half the time.
func (l *Log) makeReady(path string, size int64, fill bool) (*readySegment, error) {
	f, err := l.fs.Create(path)
	if err != nil {
		return nil, err
	}
	if err = f.Allocate(size); err == nil && fill {
		if err = writeZeros(f, 0, size, l.closing); err == nil {
			err = f.Sync()
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close(), l.fs.Remove(path))
	}
	return &readySegment{f, path, size}, nil
}

// sealRolled seals the segments before the active one, oldest first, so that a
// footer says of all entries before it, too, that they are durable. Then it removes
// what retention lets go.
func (l *Log) sealRolled() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.awaitSync()
	// Nor after a sync has failed: one that comes later would seem to succeed.
	for _, s := range *l.segments.Load() {
		if s.sealed || s == l.active || l.failed != nil || l.closed {
			continue
		}
		l.syncing = true
		l.mu.Unlock()
		err := l.seal(s)
		l.mu.Lock()
		l.syncing = false
		l.changed.Broadcast()
		if err != nil {
			_ = l.fail(fmt.Errorf("seal %s: %w", s.path, err))
			return
		}
		s.sealed = true
		l.counts.Seals++
		l.markDurable(s.last.Index)
	}
	l.retain()
}

// seal closes s for good: everything in it durable, the index complete, the file
// cut to size behind a footer. It is no longer written to.
func (l *Log) seal(s *segment) error {
	if err := l.timedSync(s, s.end.Load()); err != nil {
		return err
	}
	if err := s.ix.seal(s.coverage()); err != nil {
		return err
	}
	end := s.end.Load()
	footer := make([]byte, footerSize)
	putFooter(footer, end, s.last, s.maxTime.Load())
	if _, err := s.file.WriteAt(footer, footerAt(end)); err != nil {
		return err
	}
	if err := s.closeStores(); err != nil {
		return err
	}
	if err := s.file.Truncate(footerAt(end) + footerSize); err != nil {
		return err
	}
	if err := s.file.Sync(); err != nil {
		return err
	}
	return s.closeFiles()
}
