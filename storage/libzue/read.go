package main

/*
#include "internal.h"
*/
import "C"

import (
	"runtime"
	"runtime/debug"
	"unsafe"

	"github.com/zue-log/zue/storage"
)

const (
	headerSize = unsafe.Sizeof(C.zue_header{})
	// headerSlack is how much of a buffer may be lost to align the headers in it.
	headerSlack = uintptr(unsafe.Alignof(C.zue_header{}) - 1)
)

//export zueGoRead
func zueGoRead(handle C.zue_log, offset C.zue_u64, buffer unsafe.Pointer, capacity C.size_t, out *C.zue_record, needed *C.size_t) C.int {
	l := lookUpLog(handle)
	if l == nil {
		return refuse(C.ZUE_EBADF)
	}
	rec, lease, err := l.Read(uint64(offset))
	if err != nil {
		return fail(err)
	}
	defer lease.Release()
	size := packedSize(&rec)
	if C.size_t(size) > capacity {
		*needed = C.size_t(size)
		describe(&rec, out)
		return refuse(C.ZUE_ESMALL)
	}
	if faulted := packOne(&rec, buffer, out); faulted {
		return refuse(C.ZUE_EFAULT)
	}
	*needed = C.size_t(size)
	return C.ZUE_OK
}

// packOne is pack with the fault caught.
func packOne(rec *storage.Record, buffer unsafe.Pointer, out *C.zue_record) (fault bool) {
	defer catchFault(&fault, debug.SetPanicOnFault(true))
	pack(rec, buffer, out)
	return false
}

// packedSize returns how large a buffer pack needs for rec, wherever the buffer begins.
func packedSize(rec *storage.Record) uintptr {
	size := uintptr(len(rec.Key) + len(rec.Value))
	if len(rec.Headers) != 0 {
		size += headersSize(rec.Headers)
	}
	return size
}

// headersSize is packedSize for what headers need in addition.
func headersSize(headers []storage.RecordHeader) uintptr {
	size := headerSlack
	for i := range headers {
		size += headerSize + uintptr(len(headers[i].Key)+len(headers[i].Value))
	}
	return size
}

// pack copies rec to buffer, which is large enough, and makes *out a view of it. Its
// caller catches faults: bytes of a mapped file that cannot be read would end the process.
// *out is not written to then.
func pack(rec *storage.Record, buffer unsafe.Pointer, out *C.zue_record) {
	var headers *C.zue_header
	at := buffer
	if len(rec.Headers) != 0 {
		headers, at = packHeaders(rec.Headers, at)
	}
	key, at := put(rec.Key, at)
	value, _ := put(rec.Value, at)
	describe(rec, out)
	out.key, out.value, out.headers = key, value, headers
}

// describe fills in *out but for its pointers, which become null.
func describe(rec *storage.Record, out *C.zue_record) {
	out.offset, out.timestamp = C.zue_u64(rec.Offset), C.zue_i64(rec.Timestamp)
	out.key, out.key_size = nil, C.size_t(len(rec.Key))
	out.value, out.value_size = nil, C.size_t(len(rec.Value))
	out.headers, out.header_count = nil, C.size_t(len(rec.Headers))
}

// packHeaders copies headers, at least one, to at: first the array of them, then their
// bytes. It returns where the array is and what follows.
func packHeaders(list []storage.RecordHeader, at unsafe.Pointer) (*C.zue_header, unsafe.Pointer) {
	at = unsafe.Add(at, -uintptr(at)&headerSlack)
	headers := unsafe.Slice((*C.zue_header)(at), len(list))
	at = unsafe.Add(at, uintptr(len(list))*headerSize)
	for i := range headers {
		h := &headers[i]
		h.name_size, h.value_size = C.size_t(len(list[i].Key)), C.size_t(len(list[i].Value))
		h.name, at = put(list[i].Key, at)
		h.value, at = put(list[i].Value, at)
	}
	return &headers[0], at
}

// put copies b to at, and returns where it is there, null if it is, and what follows.
func put(b []byte, at unsafe.Pointer) (where, next unsafe.Pointer) {
	if len(b) == 0 {
		if b == nil {
			return nil, at
		}
		return unsafe.Pointer(&C.zue_internal_empty), at
	}
	copy(unsafe.Slice((*byte)(at), len(b)), b)
	return at, unsafe.Add(at, len(b))
}

// catchFault ends the panic of a fault in a mapped file, and sets *fault, a result of the
// function that defers it. Other panics go on. old is how faults were treated before.
func catchFault(fault *bool, old bool) {
	debug.SetPanicOnFault(old)
	r := recover()
	if r == nil {
		return
	}
	// Only faults at an address have this method.
	if _, ok := r.(interface {
		runtime.Error
		Addr() uintptr
	}); !ok {
		panic(r)
	}
	*fault = true
}
