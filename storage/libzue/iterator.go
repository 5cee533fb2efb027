package main

/*
#include <stdlib.h>
#include "internal.h"
*/
import "C"

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"time"
	"unsafe"

	"github.com/zue-log/zue/storage"
)

// iteratorBytes is how much memory an iterator has for the records of one call, if no
// record is larger.
const iteratorBytes = 256 << 10

// iterator is what a zue_iter stands for.
type iterator struct {
	log    *openLog
	ctx    context.Context // done when the iterator is closed
	cancel context.CancelFunc

	// mu is held by the call that uses what follows.
	mu     sync.Mutex
	it     *storage.Iterator
	held   bool // whether it is at a record that has not been given out
	closed bool
	// memory is the C library's, for the records given out last.
	memory unsafe.Pointer
	size   uintptr
}

// maxIterators is lower than what other handles have: each may take memory for records.
const maxIterators = 1 << 16

var iterators = newTable[*iterator](2, maxIterators)

//export zueGoIterOpen
func zueGoIterOpen(handle C.zue_log, from C.zue_u64, out *C.zue_iter) C.int {
	l := lookUpLog(handle)
	if l == nil {
		return refuse(C.ZUE_EBADF)
	}
	it, err := l.Iterate(uint64(from))
	if err != nil {
		return fail(err)
	}
	i := &iterator{log: l, it: it}
	i.ctx, i.cancel = context.WithCancel(context.Background())
	h, ok := iterators.put(i)
	if !ok {
		i.close()
		return refuse(C.ZUE_ELIMIT)
	}
	// zue_close may have looked for iterators before this one was there.
	if l.closed.Load() {
		if _, ok := iterators.take(h); ok {
			i.close()
		}
		return refuse(C.ZUE_ECLOSED)
	}
	*out = C.zue_iter(h)
	return C.ZUE_OK
}

// acquire returns the iterator of a handle, for this call alone; else a code.
func acquire(handle C.zue_iter) (*iterator, C.int) {
	i, ok := iterators.get(uint64(handle))
	if !ok {
		return nil, refuse(C.ZUE_EBADF)
	}
	if !i.mu.TryLock() {
		return nil, refuse(C.ZUE_EBUSY)
	}
	if i.closed {
		i.mu.Unlock()
		return nil, refuse(C.ZUE_EBADF)
	}
	return i, C.ZUE_OK
}

// close wakes the call that waits, waits for the one that uses the iterator, and frees
// everything.
func (i *iterator) close() {
	i.cancel()
	i.mu.Lock()
	defer i.mu.Unlock()
	i.closed = true
	i.it.Close()
	C.free(i.memory)
	i.memory, i.size = nil, 0
}

//export zueGoIterClose
func zueGoIterClose(handle C.zue_iter) C.int {
	i, ok := iterators.take(uint64(handle))
	if !ok {
		return refuse(C.ZUE_EBADF)
	}
	i.close()
	return C.ZUE_OK
}

//export zueGoIterNext
func zueGoIterNext(handle C.zue_iter, out *C.zue_record, capacity C.size_t, count *C.size_t) C.int {
	i, code := acquire(handle)
	if i == nil {
		return code
	}
	defer i.mu.Unlock()
	// No more records than bytes are copied in one call, or nearly so: most records
	// have some. So a capacity that is too large for a slice is none.
	views := unsafe.Slice((*C.zue_internal_record)(unsafe.Pointer(out)), int(min(capacity, iteratorBytes)))
	n, code := i.next(views)
	*count = C.size_t(n)
	return code
}

// next gives out records, as many as there are, views has room for, and memory holds. It
// returns how many, and a code if it is none.
func (i *iterator) next(views []C.zue_internal_record) (int, C.int) {
	for {
		n, fault := i.copyOut(views)
		switch {
		case n > 0:
			return n, C.ZUE_OK // the next call comes upon what has ended it again
		case fault:
			return 0, refuse(C.ZUE_EFAULT)
		case !i.held && i.it.Err() == nil:
			return 0, refuse(C.ZUE_EEND)
		case !i.held:
			return 0, fail(i.it.Err())
		}
		// There is no memory yet, or the record is larger than it.
		rec := i.it.Record()
		if size := packedSize(rec); !i.grow(size) {
			return 0, explain(C.ZUE_ENOMEM, fmt.Sprintf("no memory for the %d bytes of record %d", size, rec.Offset))
		}
	}
}

// copyOut copies records to memory, and says how many. A record that does not fit, or
// that cannot be read, which is a fault, stays held.
func (i *iterator) copyOut(views []C.zue_internal_record) (n int, fault bool) {
	defer catchFault(&fault, debug.SetPanicOnFault(true))
	used := uintptr(0)
	for n < len(views) {
		if !i.held && !i.it.Next() {
			break
		}
		i.held = true
		rec := i.it.Record()
		size := packedSize(rec)
		if size > i.size-used || i.memory == nil {
			break // what is in memory must stay where it is
		}
		pack(rec, unsafe.Add(i.memory, used), &views[n])
		i.held = false
		used += size
		n++
	}
	return n, false
}

// grow makes memory at least size bytes large. What is in it is lost.
func (i *iterator) grow(size uintptr) bool {
	size = max(size, iteratorBytes)
	p := C.zue_internal_alloc(C.size_t(size))
	if p == nil {
		return false
	}
	C.free(i.memory)
	i.memory, i.size = p, size
	return true
}

//export zueGoIterWait
func zueGoIterWait(handle C.zue_iter, timeout C.zue_i64) C.int {
	i, code := acquire(handle)
	if i == nil {
		return code
	}
	defer i.mu.Unlock()
	if i.held {
		return C.ZUE_OK
	}
	ctx := i.ctx
	if timeout >= 0 && uint64(timeout) <= maxMilliseconds {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(timeout)*time.Millisecond)
		defer cancel()
	}
	return fail(i.it.Wait(ctx))
}

//export zueGoIterOffset
func zueGoIterOffset(handle C.zue_iter, offset *C.zue_u64) C.int {
	i, code := acquire(handle)
	if i == nil {
		return code
	}
	defer i.mu.Unlock()
	*offset = C.zue_u64(i.it.Offset())
	if i.held {
		*offset = C.zue_u64(i.it.Record().Offset)
	}
	return C.ZUE_OK
}
