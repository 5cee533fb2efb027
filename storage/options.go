package storage

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/zue-log/zue/storage/batch"
	"github.com/zue-log/zue/storage/executor"
	"github.com/zue-log/zue/storage/vfs"
)

// Defaults and bounds of Options.
const (
	DefaultSegmentBytes  = 64 << 20
	MinSegmentBytes      = 16 << 10
	MaxSegmentBytes      = 1 << 30
	DefaultIndexInterval = 4 << 10
	MinIndexInterval     = 64
	MaxIndexInterval     = 1 << 20
)

// Options configures a log. The zero value is the default configuration.
type Options struct {
	// Sync says when appended records are made durable. Default: SyncAlways.
	Sync SyncPolicy
	// SegmentBytes is the size of a segment file, from MinSegmentBytes to
	// MaxSegmentBytes; a longer entry gets a file of its own size. One segment
	// is allocated ahead, so a log takes up at least two. Default:
	// DefaultSegmentBytes.
	SegmentBytes int64
	// IndexInterval is how many bytes of log, from MinIndexInterval to
	// MaxIndexInterval, one index point stands for: a reader walks half of it
	// on average. Default: DefaultIndexInterval.
	IndexInterval int
	// ReadOnly opens an existing log without changing anything: indexes that
	// are missing are made in memory, and what a crash left behind the last
	// whole entry is passed over. Any number of processes may have a log open
	// so, while none has it open for writing.
	ReadOnly bool
	// SegmentAge is how old a segment gets before an append begins a new one, so
	// that retention can remove it. The next one must have been made by then, in
	// the background or because the log was opened when its last was too old. A log
	// that nobody appends to keeps its last segment. Default, 0: no limit.
	SegmentAge time.Duration
	// RetentionBytes is how large all segment files together may become before
	// the oldest are removed, whole. Default, 0: no limit.
	RetentionBytes int64
	// RetentionAge is how old the newest record of a segment, by its timestamp,
	// gets before the segment is removed. Default, 0: no limit.
	RetentionAge time.Duration
	// Compression is what Append and AppendAsync compress the records of one
	// call with, if that makes them smaller. Readers see no difference. Default:
	// batch.CodecNone.
	Compression batch.Codec
	// ManualCommit lets readers see only what Commit has been told to be
	// committed: for a log whose entries can still be taken back when they are
	// durable here, as those of a replica.
	ManualCommit bool
	// Events are called when something happens.
	Events Events
	// Logger gets a line for each event that an operator should know of: bytes
	// cut off in recovery, foreign files, failures of background work. Its handler
	// may be called while appends wait: it must be quick, and must not call the log.
	// Default: none.
	Logger *slog.Logger
	// FS is the file system. Default: vfs.OS.
	FS vfs.FS
	// Executor runs background work and tells the time. Default:
	// executor.System.
	Executor executor.Executor
}

// Validate reports every fault of o at once; zero fields, which mean the
// default, are none.
func (o *Options) Validate() error {
	var errs []error
	if n := o.SegmentBytes; n != 0 && (n < MinSegmentBytes || n > MaxSegmentBytes) {
		errs = append(errs, fmt.Errorf("segment size of %d bytes is not from %d to %d", n, MinSegmentBytes, MaxSegmentBytes))
	}
	if n := o.IndexInterval; n != 0 && (n < MinIndexInterval || n > MaxIndexInterval) {
		errs = append(errs, fmt.Errorf("index interval of %d bytes is not from %d to %d", n, MinIndexInterval, MaxIndexInterval))
	}
	for _, age := range []struct {
		of string
		d  time.Duration
	}{{"segment", o.SegmentAge}, {"retention", o.RetentionAge}} {
		if age.d < 0 || age.d > 0 && age.d < time.Millisecond {
			errs = append(errs, fmt.Errorf("%s age of %s is less than 1ms", age.of, age.d))
		}
	}
	if o.RetentionBytes < 0 {
		errs = append(errs, fmt.Errorf("retention of %d bytes is negative", o.RetentionBytes))
	}
	if o.Compression > batch.CodecZstd {
		errs = append(errs, fmt.Errorf("compression: %s is unknown", o.Compression))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("storage options: %w", err)
	}
	return nil
}

// withDefaults fills in what is zero.
func (o Options) withDefaults() Options {
	if o.SegmentBytes == 0 {
		o.SegmentBytes = DefaultSegmentBytes
	}
	if o.IndexInterval == 0 {
		o.IndexInterval = DefaultIndexInterval
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.FS == nil {
		o.FS = vfs.OS{}
	}
	if o.Executor == nil {
		o.Executor = executor.System{}
	}
	return o
}

// SyncPolicy says when appended records are made durable. The zero value is
// SyncAlways.
type SyncPolicy struct {
	never    bool
	interval time.Duration
}

// SyncAlways makes an append return only when its records are durable, and
// readers see only such records. Concurrent appends share one fdatasync.
func SyncAlways() SyncPolicy { return SyncPolicy{} }

// SyncInterval makes an append return when its records have been given to the
// operating system, and has them durable within about d. A crash of the process
// loses none of them, one of the machine those of the last d. A d that is not
// positive means SyncAlways.
func SyncInterval(d time.Duration) SyncPolicy { return SyncPolicy{interval: max(d, 0)} }

// SyncNever is SyncInterval without an end: records are durable after Sync or
// Close, when their segment is sealed, or when the operating system pleases.
func SyncNever() SyncPolicy { return SyncPolicy{never: true} }

// always says whether each append waits for its own sync.
func (p SyncPolicy) always() bool { return !p.never && p.interval == 0 }

// String returns the form that ParseSyncPolicy takes.
func (p SyncPolicy) String() string {
	switch {
	case p.never:
		return "never"
	case p.interval > 0:
		return "interval=" + p.interval.String()
	default:
		return "always"
	}
}

// ParseSyncPolicy reads "always", "never" or "interval=<duration>", the duration
// as time.ParseDuration has it.
func ParseSyncPolicy(s string) (SyncPolicy, error) {
	switch s {
	case "always":
		return SyncAlways(), nil
	case "never":
		return SyncNever(), nil
	}
	if text, ok := strings.CutPrefix(s, "interval="); ok {
		if d, err := time.ParseDuration(text); err == nil && d > 0 {
			return SyncInterval(d), nil
		}
	}
	return SyncPolicy{}, fmt.Errorf("sync policy %q is none of always, never, interval=<duration> (such as interval=50ms)", s)
}
