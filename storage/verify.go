package storage

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"

	"github.com/zue-log/zue/storage/batch"
	"github.com/zue-log/zue/storage/vfs"
)

// verifyStep is how many bytes a scrub checks between looks whether it is to stop.
const verifyStep = 1 << 20

// Report sums up what a scrub, or a walk, has come across. The zero Report is empty.
type Report struct {
	Segments int    // that were gone into
	Sealed   int    // of them
	Entries  uint64 // that are whole
	Records  uint64 // in them
	Bytes    int64  // that they take up, headers and padding included
	// EndOffset is the largest offset that comes after a whole entry; 0 without
	// one.
	EndOffset uint64
	// Torn is how many bytes behind the last entries there are that never were
	// durable, and Beyond how many whole segments are not of the log: because they
	// never were durable, or because it begins behind them.
	Torn   int64
	Beyond int
	// Indexes is how many index files of each health there are.
	Indexes [IndexWrong + 1]int
	// Damage is each bad range, gap and damaged file.
	Damage []*CorruptionError
}

// Add counts an item of a walk.
func (r *Report) Add(item Item) {
	switch item := item.(type) {
	case *SegmentItem:
		switch {
		case item.Beyond || item.Void:
			r.Beyond++
		case item.Sealed:
			r.Sealed++
			fallthrough
		default:
			r.Segments++
		}
	case *EntryItem:
		r.add(item)
	case *DamageItem:
		r.Damage = append(r.Damage, item.Corruption())
	case *GapItem:
		r.Damage = append(r.Damage, item.Corruption())
	case *SpaceItem:
		r.Torn += item.Used
	case *IndexItem:
		r.Indexes[item.Health]++
	}
}

// add is Add for an entry: there are many.
func (r *Report) add(e *EntryItem) {
	r.Entries++
	r.Bytes += e.Size
	r.EndOffset = max(r.EndOffset, e.Entry.Offset+uint64(e.Entry.Span))
	if e.Entry.Kind != KindData {
		return
	}
	if h, err := batch.ParseHeader(e.Entry.Body); err == nil {
		r.Records += uint64(h.Count)
	}
}

// Verify walks through the data directory dir and reports each bad range in it; see
// [Walk], which it is made of, for what it can be used on. Damage is in the report and
// no error. The error is that of ctx, once it is done, or says that the directory or
// one of its files could not be opened; the report then covers what came before.
func Verify(ctx context.Context, fsys vfs.FS, dir string, o WalkOptions) (Report, error) {
	var r Report
	next := int64(0)
	err := Walk(fsys, dir, o, func(item Item) error {
		if e, ok := item.(*EntryItem); ok {
			r.add(e)
			if r.Bytes < next {
				return nil
			}
			next = r.Bytes + verifyStep
		} else {
			r.Add(item)
		}
		return ctx.Err()
	})
	return r, err
}

// Verify checks all entries of the log, beyond what readers see: their checksums, and
// that each follows the one before it. It calls report, unless that is nil, with each
// bad range as it comes to it, and goes on behind it; the result has them all.
// Appends and reads go on meanwhile, and what is appended after Verify has come to its
// segment is not checked. Segments that are removed meanwhile are passed over. Several
// calls may run at once. The report leaves out what lies behind the log's end, and the
// indexes: its Torn, Beyond and Indexes are 0.
//
// The error is that of ctx, once it is done, or ErrClosed once the log is closed; the
// report then covers what came before. Damage is no error.
func (l *Log) Verify(ctx context.Context, report func(*CorruptionError)) (Report, error) {
	return l.VerifyPaced(ctx, nil, report)
}

// VerifyPaced is Verify for a scrub that must not take the disk from others: after each MiB or so
// of entries, and at the end, it calls pace with the number of bytes since the last time, which
// may wait, and whose error ends it and is returned. A nil pace waits for nothing.
func (l *Log) VerifyPaced(ctx context.Context, pace func(bytes int64) error, report func(*CorruptionError)) (Report, error) {
	v := logVerify{log: l, ctx: ctx, pace: pace, tell: report}
	for _, s := range *l.segments.Load() {
		if err := v.segment(s); err != nil {
			return v.report, fmt.Errorf("verify: %w", err)
		}
	}
	if err := v.wait(); err != nil {
		return v.report, fmt.Errorf("verify: %w", err)
	}
	return v.report, nil
}

// logVerify is one call of Log.Verify.
type logVerify struct {
	log    *Log
	ctx    context.Context
	pace   func(bytes int64) error // nil: there is no need to
	paced  int64                   // bytes that it was told of
	tell   func(*CorruptionError)
	report Report
	next   int64 // how many bytes there are at the next look whether to stop
	at     Place // where the log has come to
	known  bool  // or what comes before is removed, or damaged
	file   fileSource
}

func (v *logVerify) segment(s *segment) error {
	if err := v.stop(); err != nil {
		return err
	}
	if !s.acquire() {
		if s = v.log.copyOf(s); s == nil {
			v.known = false
			return nil // it was removed
		}
	}
	err := v.walk(s)
	if errors.Is(err, ErrFault) {
		// Between a look whether the bytes are there and their use.
		v.damage(&CorruptionError{Path: s.path, Reason: err.Error()})
		err = nil
	}
	return errors.Join(err, s.release())
}

// walk checks the entries of s, which is held.
func (v *logVerify) walk(s *segment) (err error) {
	defer catchFault(s.path, &err, debug.SetPanicOnFault(true))
	if v.known && s.before != v.at {
		v.damage((&GapItem{Path: s.path, Want: v.at, Found: s.before}).Corruption())
	}
	v.report.Segments++
	v.log.mu.Lock()
	if s.sealed {
		v.report.Sealed++
	}
	v.log.mu.Unlock()
	v.known = false
	end := s.end.Load()
	w := s.walk(end, v.visit)
	if f := v.log.openAgain(s); f != nil {
		v.file.forget()
		v.file.file = f
		w.src = &v.file
		defer f.Close() // it is only read
	}
	_, _, err = w.run(segmentHeaderSize)
	v.at, v.known = w.at, w.known
	return err
}

// openAgain opens the file of s, which is held, for reading all that its mapping has; nil
// if that is not sure. To read a file takes a fraction of the time, and of the memory for
// page tables, of touching each page of a mapping for the first time.
func (l *Log) openAgain(s *segment) vfs.File {
	// Once the end was cut off, and while it is, the name may be that of a shorter copy.
	epoch := l.epoch.Load()
	if epoch%2 != 0 || !slices.Contains(*l.segments.Load(), s) {
		return nil
	}
	f, err := l.fs.Open(s.path, false)
	if err != nil {
		return nil
	}
	if l.epoch.Load() != epoch {
		_ = f.Close() // it was only opened
		return nil
	}
	return f
}

func (v *logVerify) visit(item Item) error {
	switch item := item.(type) {
	case *EntryItem:
		v.report.add(item)
		if v.report.Bytes < v.next {
			return nil
		}
		v.next = v.report.Bytes + verifyStep
		if err := v.wait(); err != nil {
			return err
		}
	case *DamageItem:
		v.damage(item.Corruption())
	}
	return v.stop()
}

// wait calls pace for what was checked since it was called last.
func (v *logVerify) wait() error {
	n := v.report.Bytes - v.paced
	if v.pace == nil || n == 0 {
		return nil
	}
	v.paced = v.report.Bytes
	return v.pace(n)
}

func (v *logVerify) damage(e *CorruptionError) {
	v.report.Damage = append(v.report.Damage, e)
	v.log.report(e)
	if v.tell != nil {
		v.tell(e)
	}
}

// stop says why to stop, if so.
func (v *logVerify) stop() error {
	if v.log.done.Load() {
		return ErrClosed
	}
	return v.ctx.Err()
}
