package main

/*
#include "internal.h"
*/
import "C"

import (
	"fmt"
	"slices"
	"sync"
	"time"
	"unsafe"

	"github.com/zue-log/zue/storage"
)

// minRecordBytes and minHeaderBytes are what a record and a header of one take at least in
// a batch: so many fit at most that counts beyond it are refused before the records are
// looked at.
const (
	minRecordBytes = 7
	minHeaderBytes = 2
)

// tooLarge is a power of two, so that one comparison tells of two sizes whether one of
// them is too large to be a size at all. The engine has the exact limit.
const tooLarge = 2 * C.ZUE_MAX_BYTES

// keptRecords and keptHeaders are how long the lists may be that are kept for the next
// call.
const (
	keptRecords = 4096
	keptHeaders = 4096
)

//export zueGoAppend
func zueGoAppend(handle C.zue_log, key unsafe.Pointer, keySize C.size_t, value unsafe.Pointer, valueSize C.size_t, offset *C.zue_u64) C.int {
	l := lookUpLog(handle)
	if l == nil {
		return refuse(C.ZUE_EBADF)
	}
	if keySize|valueSize >= tooLarge || key == nil && keySize != 0 || value == nil && valueSize != 0 {
		return badField(0, key, keySize, value, valueSize)
	}
	first, err := l.Append(storage.Record{Key: view(key, keySize), Value: view(value, valueSize)})
	if err != nil {
		return fail(err)
	}
	*offset = C.zue_u64(first)
	return C.ZUE_OK
}

// badField says what is wrong with the fields of a record, one of which is.
func badField(n int, key unsafe.Pointer, keySize C.size_t, value unsafe.Pointer, valueSize C.size_t) C.int {
	switch {
	case key == nil && keySize != 0:
		return explain(C.ZUE_EINVAL, fmt.Sprintf("record %d: the key is NULL, and its size %d", n, keySize))
	case value == nil && valueSize != 0:
		return explain(C.ZUE_EINVAL, fmt.Sprintf("record %d: the value is NULL, and its size %d", n, valueSize))
	}
	return explain(C.ZUE_ETOOLARGE, fmt.Sprintf("record %d: a key of %d bytes and a value of %d (together at most %d)", n, keySize, valueSize, C.ZUE_MAX_BYTES))
}

// records is a list of views of the C program's records, used again by later calls.
type records struct {
	list    []storage.Record
	headers []storage.RecordHeader // of all of them
	size    uint64                 // what they take in a batch, at least
}

var lists = sync.Pool{New: func() any { return new(records) }}

// keep gives the list back, with nothing in it: the memory that it points to is the C
// program's again, which may free it, and then Go may have it.
func (r *records) keep() {
	clear(r.list)
	clear(r.headers)
	if cap(r.list) <= keptRecords && cap(r.headers) <= keptHeaders {
		lists.Put(r)
	}
}

// fill makes the views of count records, and checks them.
func (r *records) fill(first *C.zue_record, count C.size_t) C.int {
	if count == 0 {
		return explain(C.ZUE_EINVAL, "count is 0")
	}
	if count > C.ZUE_MAX_BYTES/minRecordBytes {
		return explain(C.ZUE_ETOOLARGE, fmt.Sprintf("%d records do not fit into one batch", count))
	}
	views := unsafe.Slice(first, int(count))
	if cap(r.list) < len(views) {
		r.list = make([]storage.Record, len(views))
	}
	list := r.list[:len(views)]
	r.list, r.headers, r.size = list, r.headers[:0], 0
	headers := 0
	for i := range views {
		v, rec := &views[i], &list[i]
		if uint64(v.key_size|v.value_size) >= tooLarge || v.key == nil && v.key_size != 0 || v.value == nil && v.value_size != 0 {
			return badField(i, v.key, v.key_size, v.value, v.value_size)
		}
		r.size += minRecordBytes + uint64(v.key_size+v.value_size)
		rec.Timestamp = int64(v.timestamp)
		rec.Key, rec.Value, rec.Headers = view(v.key, v.key_size), view(v.value, v.value_size), nil
		if v.header_count != 0 {
			if code := r.countHeaders(i, v); code != C.ZUE_OK {
				return code
			}
			headers += int(v.header_count)
		}
		if r.size > C.ZUE_MAX_BYTES {
			return r.refuseSize(i)
		}
	}
	if headers == 0 {
		return C.ZUE_OK
	}
	// Now there is a view of each, which takes more memory than it takes in a batch.
	r.headers = slices.Grow(r.headers, headers)
	for i := range views {
		if code := r.fillHeaders(i, &views[i]); code != C.ZUE_OK {
			return code
		}
	}
	return C.ZUE_OK
}

// refuseSize says that the records up to number n are.
func (r *records) refuseSize(n int) C.int {
	return explain(C.ZUE_ETOOLARGE, fmt.Sprintf("%d records of %d bytes together (at most %d)", n+1, r.size, C.ZUE_MAX_BYTES))
}

// countHeaders adds to the size what the headers of record n take at least.
func (r *records) countHeaders(n int, v *C.zue_record) C.int {
	if v.headers == nil {
		return explain(C.ZUE_EINVAL, fmt.Sprintf("record %d: headers is NULL, and header_count %d", n, v.header_count))
	}
	if uint64(v.header_count) > C.ZUE_MAX_BYTES/minHeaderBytes {
		return explain(C.ZUE_ETOOLARGE, fmt.Sprintf("record %d: %d headers", n, v.header_count))
	}
	r.size += uint64(v.header_count) * minHeaderBytes
	return C.ZUE_OK
}

// fillHeaders makes the views of the headers of record n.
func (r *records) fillHeaders(n int, v *C.zue_record) C.int {
	if v.header_count == 0 {
		return C.ZUE_OK
	}
	begin := len(r.headers)
	for i, h := range unsafe.Slice(v.headers, int(v.header_count)) {
		if h.name == nil && h.name_size != 0 || h.value == nil && h.value_size != 0 {
			return explain(C.ZUE_EINVAL, fmt.Sprintf("record %d, header %d: a NULL name or value, and its size is not 0", n, i))
		}
		if h.name_size > C.ZUE_MAX_BYTES || h.value_size > C.ZUE_MAX_BYTES {
			return explain(C.ZUE_ETOOLARGE, fmt.Sprintf("record %d, header %d: too large", n, i))
		}
		if r.size += uint64(h.name_size + h.value_size); r.size > C.ZUE_MAX_BYTES {
			return r.refuseSize(n)
		}
		r.headers = append(r.headers, storage.RecordHeader{Key: view(h.name, h.name_size), Value: view(h.value, h.value_size)})
	}
	r.list[n].Headers = r.headers[begin:len(r.headers):len(r.headers)]
	return C.ZUE_OK
}

//export zueGoAppendBatch
func zueGoAppendBatch(handle C.zue_log, first *C.zue_record, count C.size_t, offset *C.zue_u64) C.int {
	l := lookUpLog(handle)
	if l == nil {
		return refuse(C.ZUE_EBADF)
	}
	r := lists.Get().(*records)
	defer r.keep()
	if code := r.fill(first, count); code != C.ZUE_OK {
		return code
	}
	n, err := l.Append(r.list...)
	if err != nil {
		return fail(err)
	}
	*offset = C.zue_u64(n)
	return C.ZUE_OK
}

// pending is what a zue_pending stands for.
type pending struct {
	log *openLog
	storage.Pending
}

var pendings = newTable[pending](3, maxHandles)

//export zueGoAppendAsync
func zueGoAppendAsync(handle C.zue_log, first *C.zue_record, count C.size_t, out *C.zue_pending) C.int {
	l := lookUpLog(handle)
	if l == nil {
		return refuse(C.ZUE_EBADF)
	}
	r := lists.Get().(*records)
	defer r.keep()
	if code := r.fill(first, count); code != C.ZUE_OK {
		return code
	}
	// The handle first: an append that has none could not be taken back.
	h, ok := pendings.put(pending{log: l})
	if !ok {
		return refuse(C.ZUE_ELIMIT)
	}
	p := l.AppendAsync(r.list...)
	if err := p.Refused(); err != nil {
		pendings.take(h)
		return fail(err)
	}
	// If the log was closed meanwhile, the handle is a stale one, as it would be had the
	// log been closed a moment later.
	pendings.replace(h, pending{l, p})
	*out = C.zue_pending(h)
	return C.ZUE_OK
}

//export zueGoWait
func zueGoWait(handle C.zue_pending, timeout C.zue_i64, first *C.zue_u64) C.int {
	p, ok := pendings.get(uint64(handle))
	if !ok || p.Pending == (storage.Pending{}) { // a guess that met zueGoAppendAsync
		return refuse(C.ZUE_EBADF)
	}
	if timeout >= 0 && !p.within(timeout) {
		return refuse(C.ZUE_ETIMEDOUT)
	}
	n, err := p.Wait()
	pendings.take(uint64(handle))
	if err != nil {
		return fail(err)
	}
	*first = C.zue_u64(n)
	return C.ZUE_OK
}

// within says whether the append is done within so many milliseconds.
func (p *pending) within(timeout C.zue_i64) bool {
	select {
	case <-p.Done():
		return true
	default:
	}
	if timeout == 0 {
		return false
	}
	d := time.Duration(min(uint64(timeout), maxMilliseconds)) * time.Millisecond
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-p.Done():
		return true
	case <-timer.C:
		return false
	}
}

//export zueGoDrop
func zueGoDrop(handle C.zue_pending) C.int {
	if _, ok := pendings.take(uint64(handle)); !ok {
		return refuse(C.ZUE_EBADF)
	}
	return C.ZUE_OK
}
