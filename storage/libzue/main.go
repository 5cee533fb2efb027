// Command libzue is the storage engine as a C library: built with -buildmode=c-archive or
// c-shared it is libzue.a or libzue.so. Its interface is zue.h, which is documented there
// and written by hand; zue.c has the functions of it, and calls those that are exported
// here.
//
// Memory of the C program is passed to the engine as slices over it, which is sound
// because the engine keeps none of them beyond a call. No pointer to Go's own memory is
// given to C.
package main

/*
#include "internal.h"
*/
import "C"

import (
	"log/slog"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/zue-log/zue/storage"
	"github.com/zue-log/zue/storage/batch"
)

// The header cannot ask the engine for its version: this does not compile when they
// differ.
var _ = map[bool]struct{}{false: {}, C.ZUE_VERSION == storage.Version: {}}

// main is what a program in Go must have. A library's is never called.
func main() {}

// openLog is what a zue_log stands for.
type openLog struct {
	*storage.Log
	closed atomic.Bool // set before its iterators and pending appends are closed
}

var logs = newTable[*openLog](1, maxHandles)

// empty is all slices that have no bytes and are not nil.
var empty = []byte{}

// lookUpLog returns the log of a handle, nil if there is none.
func lookUpLog(handle C.zue_log) *openLog {
	l, _ := logs.get(uint64(handle))
	return l
}

//export zueGoOpen
func zueGoOpen(dir *C.char, size C.size_t, in *C.zue_options, handle *C.zue_log) C.int {
	opts, code := goOptions(in)
	if code != C.ZUE_OK {
		return code
	}
	// The engine keeps the name: it must not be the caller's memory.
	log, err := storage.Open(C.GoStringN(dir, C.int(size)), opts)
	if err != nil {
		return failOpen(err)
	}
	h, ok := logs.put(&openLog{Log: log})
	if !ok {
		_ = log.Close() // nothing was appended
		return refuse(C.ZUE_ELIMIT)
	}
	*handle = C.zue_log(h)
	return C.ZUE_OK
}

// goOptions translates what zue_open is given, which storage.Options.Validate checks but
// for what it cannot see any more.
func goOptions(in *C.zue_options) (storage.Options, C.int) {
	opts := storage.Options{
		ReadOnly:      in.flags&C.ZUE_READ_ONLY != 0,
		IndexInterval: int(in.index_interval),
		Compression:   batch.Codec(in.compression),
	}
	if in.flags&^(C.ZUE_READ_ONLY|C.ZUE_LOG_STDERR) != 0 {
		return opts, explain(C.ZUE_ENOTSUP, "options->flags has a flag that this version of the library does not know")
	}
	if in.compression > C.ZUE_COMPRESSION_ZSTD {
		return opts, explain(C.ZUE_ENOTSUP, "options->compression is none that this version of the library knows")
	}
	if in.flags&C.ZUE_LOG_STDERR != 0 {
		opts.Logger = slog.New(slog.NewTextHandler(standardError{}, nil))
	}
	const most = 1 << 53 // what is more is a negative number, most likely
	if in.segment_bytes > most || in.retention_bytes > most {
		return opts, explain(C.ZUE_EINVAL, "options: a number of bytes is too large")
	}
	opts.SegmentBytes, opts.RetentionBytes = int64(in.segment_bytes), int64(in.retention_bytes)
	interval, ok1 := milliseconds(in.sync_interval_ms)
	segmentAge, ok2 := milliseconds(in.segment_age_ms)
	retentionAge, ok3 := milliseconds(in.retention_age_ms)
	if !ok1 || !ok2 || !ok3 {
		return opts, explain(C.ZUE_EINVAL, "options: a number of milliseconds is too large")
	}
	opts.SegmentAge, opts.RetentionAge = segmentAge, retentionAge
	switch {
	case in.sync > C.ZUE_SYNC_NEVER:
		return opts, explain(C.ZUE_ENOTSUP, "options->sync is none that this version of the library knows")
	case in.sync == C.ZUE_SYNC_INTERVAL && interval > 0:
		opts.Sync = storage.SyncInterval(interval)
	case in.sync == C.ZUE_SYNC_INTERVAL:
		return opts, explain(C.ZUE_EINVAL, "options->sync_interval_ms must be at least 1 with ZUE_SYNC_INTERVAL")
	case interval != 0:
		return opts, explain(C.ZUE_EINVAL, "options->sync_interval_ms is set, but options->sync is not ZUE_SYNC_INTERVAL")
	case in.sync == C.ZUE_SYNC_NEVER:
		opts.Sync = storage.SyncNever()
	}
	if err := opts.Validate(); err != nil {
		return opts, explain(C.ZUE_EINVAL, err.Error())
	}
	return opts, C.ZUE_OK
}

// standardError is the C program's. Go's os.Stderr would end the process when its reader is
// gone, also one that ignores SIGPIPE.
type standardError struct{}

// Write never fails: that no one reads the log is no reason to do anything else.
func (standardError) Write(text []byte) (int, error) {
	C.zue_internal_write_stderr((*C.char)(unsafe.Pointer(unsafe.SliceData(text))), C.size_t(len(text)))
	return len(text), nil
}

// milliseconds makes a duration of n; false if it is too long for one.
func milliseconds(n C.zue_u64) (time.Duration, bool) {
	return time.Duration(n) * time.Millisecond, uint64(n) <= maxMilliseconds
}

// maxMilliseconds is about 292 years.
const maxMilliseconds = uint64(1<<63-1) / uint64(time.Millisecond)

//export zueGoClose
func zueGoClose(handle C.zue_log) C.int {
	l, ok := logs.take(uint64(handle))
	if !ok {
		return refuse(C.ZUE_EBADF)
	}
	l.closed.Store(true)
	for _, it := range iterators.takeAll(func(it *iterator) bool { return it.log == l }) {
		it.close()
	}
	err := l.Close()
	pendings.takeAll(func(p pending) bool { return p.log == l })
	return fail(err)
}

//export zueGoRange
func zueGoRange(handle C.zue_log, first, end *C.zue_u64) C.int {
	l := lookUpLog(handle)
	if l == nil {
		return refuse(C.ZUE_EBADF)
	}
	// The first offset never passes the end; so the later look is at the end.
	*first = C.zue_u64(l.FirstOffset())
	*end = C.zue_u64(l.EndOffset())
	return C.ZUE_OK
}

//export zueGoOffsetForTime
func zueGoOffsetForTime(handle C.zue_log, timestamp C.zue_i64, out *C.zue_u64) C.int {
	l := lookUpLog(handle)
	if l == nil {
		return refuse(C.ZUE_EBADF)
	}
	offset, err := l.OffsetForTime(int64(timestamp))
	if err != nil {
		return fail(err)
	}
	*out = C.zue_u64(offset)
	return C.ZUE_OK
}

//export zueGoSync
func zueGoSync(handle C.zue_log) C.int {
	l := lookUpLog(handle)
	if l == nil {
		return refuse(C.ZUE_EBADF)
	}
	return fail(l.Sync())
}

//export zueGoTruncatePrefix
func zueGoTruncatePrefix(handle C.zue_log, offset C.zue_u64) C.int {
	l := lookUpLog(handle)
	if l == nil {
		return refuse(C.ZUE_EBADF)
	}
	return fail(l.TruncatePrefix(uint64(offset)))
}

//export zueGoMetrics
func zueGoMetrics(handle C.zue_log, out *C.zue_metrics) C.int {
	l := lookUpLog(handle)
	if l == nil {
		return refuse(C.ZUE_EBADF)
	}
	m, recovery := l.Metrics(), l.Recovery()
	*out = C.zue_metrics{
		first_offset: C.zue_u64(m.FirstOffset), end_offset: C.zue_u64(m.EndOffset),
		segments: C.zue_u64(m.Segments), file_bytes: C.zue_u64(m.FileBytes), queued_bytes: C.zue_u64(m.QueuedBytes),
		groups: C.zue_u64(m.Groups), entries: C.zue_u64(m.Entries), records: C.zue_u64(m.Records), bytes: C.zue_u64(m.Bytes),
		syncs: C.zue_u64(m.Syncs), sync_ns: C.zue_u64(m.SyncTime), removed_segments: C.zue_u64(m.RemovedSegments),
		corruptions: C.zue_u64(m.Corruptions), recovery_scanned: C.zue_u64(recovery.Scanned), recovery_torn: C.zue_u64(recovery.Torn),
	}
	if m.Failed != nil {
		out.failed = 1
	}
	return C.ZUE_OK
}

// zueGoNothing is a call that does nothing: the first that a thread makes. The benchmark
// measures by it what a call into Go costs.
//
//export zueGoNothing
func zueGoNothing() C.int { return C.ZUE_OK }

// view makes a slice over memory of the C program's; nil of a null pointer. The size has
// been checked.
func view(p unsafe.Pointer, size C.size_t) []byte {
	if p == nil {
		return nil
	}
	if size == 0 {
		return empty // where p points to may be anything, also Go's own memory
	}
	return unsafe.Slice((*byte)(p), int(size))
}
