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
	headerSize = unsafe.Sizeof(C.zue_internal_header{})
	// headerSlack is how much of a buffer may be lost to align the headers in it.
	headerSlack = uintptr(unsafe.Alignof(C.zue_internal_header{}) - 1)
)

//export zueGoRead
func zueGoRead(handle C.zue_log, offset C.zue_u64, buffer unsafe.Pointer, capacity C.size_t, record *C.zue_record, needed *C.size_t) C.int {
	out := (*C.zue_internal_record)(unsafe.Pointer(record))
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
func packOne(rec *storage.Record, buffer unsafe.Pointer, out *C.zue_internal_record) (fault bool) {
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
func pack(rec *storage.Record, buffer unsafe.Pointer, out *C.zue_internal_record) {
	p := packer{memory: buffer}
	var headers C.uintptr_t
	if len(rec.Headers) != 0 {
		headers = p.headers(rec.Headers)
	}
	key, value := p.bytes(rec.Key), p.bytes(rec.Value)
	describe(rec, out)
	out.key, out.value, out.headers = key, value, headers
}

// describe fills in *out but for its pointers, which become null.
func describe(rec *storage.Record, out *C.zue_internal_record) {
	out.offset, out.timestamp = C.zue_u64(rec.Offset), C.zue_i64(rec.Timestamp)
	out.key, out.key_size = 0, C.size_t(len(rec.Key))
	out.value, out.value_size = 0, C.size_t(len(rec.Value))
	out.headers, out.header_count = 0, C.size_t(len(rec.Headers))
}

// packer copies to memory of C's, of which so much is used. A pointer to the end of it,
// which may be in other memory, is never made.
type packer struct {
	memory unsafe.Pointer
	used   uintptr
}

// headers copies a list, of at least one: first the array of them, then their bytes. It
// returns where the array is.
func (p *packer) headers(list []storage.RecordHeader) C.uintptr_t {
	p.used += -(uintptr(p.memory) + p.used) & headerSlack
	at := unsafe.Add(p.memory, p.used)
	headers := unsafe.Slice((*C.zue_internal_header)(at), len(list))
	p.used += uintptr(len(list)) * headerSize
	for i := range headers {
		h := &headers[i]
		h.name_size, h.value_size = C.size_t(len(list[i].Key)), C.size_t(len(list[i].Value))
		h.name, h.value = p.bytes(list[i].Key), p.bytes(list[i].Value)
	}
	return C.uintptr_t(uintptr(at))
}

// bytes copies b, and returns where it is: null if it is.
func (p *packer) bytes(b []byte) C.uintptr_t {
	if len(b) == 0 {
		if b == nil {
			return 0
		}
		return C.uintptr_t(uintptr(unsafe.Pointer(&C.zue_internal_empty)))
	}
	at := unsafe.Add(p.memory, p.used)
	copy(unsafe.Slice((*byte)(at), len(b)), b)
	p.used += uintptr(len(b))
	return C.uintptr_t(uintptr(at))
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
