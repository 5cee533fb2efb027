package main

/*
#cgo nocallback zue_internal_set_error
#cgo noescape zue_internal_set_error
#include <string.h>
#include "internal.h"
*/
import "C"

import (
	"context"
	"errors"
	"io/fs"
	"syscall"
	"unsafe"

	"github.com/zue-log/zue/storage"
	"github.com/zue-log/zue/storage/batch"
	"github.com/zue-log/zue/storage/vfs"
)

// codes says what becomes of an error: the first that it wraps counts. A failed log is
// that whatever the cause, and a full disk is only what IsFull says, which fail asks.
var codes = []struct {
	err  error
	code C.int
}{
	{storage.ErrFailed, C.ZUE_EFAILED},
	{storage.ErrCorrupt, C.ZUE_ECORRUPT},
	{storage.ErrFault, C.ZUE_EFAULT},
	{storage.ErrClosed, C.ZUE_ECLOSED},
	{context.Canceled, C.ZUE_ECLOSED},
	{context.DeadlineExceeded, C.ZUE_ETIMEDOUT},
	{storage.ErrOutOfRange, C.ZUE_EOFFSET},
	{storage.ErrTruncated, C.ZUE_EOFFSET},
	{storage.ErrTooLarge, C.ZUE_ETOOLARGE},
	{batch.ErrTooLarge, C.ZUE_ETOOLARGE},
	{storage.ErrReadOnly, C.ZUE_EREADONLY},
	{storage.ErrVersion, C.ZUE_EVERSION},
	{vfs.ErrLocked, C.ZUE_ELOCKED},
}

// openCodes is the same for what only zue_open tells from other errors of the operating
// system: there it is the program's directory that is at fault, later someone who has
// changed it.
var openCodes = []struct {
	err  error
	code C.int
}{
	{syscall.ENOMEM, C.ZUE_ENOMEM},
	{fs.ErrNotExist, C.ZUE_ENOENT},
	{fs.ErrPermission, C.ZUE_EACCES},
}

// fail returns the code of err, and keeps its text for zue_last_error; ZUE_OK for nil.
func fail(err error) C.int {
	if err == nil {
		return C.ZUE_OK
	}
	return explain(codeOf(err), err.Error())
}

// failOpen is fail for zue_open.
func failOpen(err error) C.int {
	code := codeOf(err)
	for i := range openCodes {
		if code == C.ZUE_EIO && errors.Is(err, openCodes[i].err) {
			code = openCodes[i].code
		}
	}
	return explain(code, err.Error())
}

func codeOf(err error) C.int {
	if storage.IsFull(err) {
		return C.ZUE_EFULL
	}
	for i := range codes {
		if errors.Is(err, codes[i].err) {
			return codes[i].code
		}
	}
	return C.ZUE_EIO
}

// explain keeps text for zue_last_error and returns code.
func explain(code C.int, text string) C.int {
	C.zue_internal_set_error((*C.char)(unsafe.Pointer(unsafe.StringData(text))), C.size_t(len(text)))
	return code
}

// refuse is explain for a code that says everything.
func refuse(code C.int) C.int {
	text := C.zue_strerror(code)
	C.zue_internal_set_error(text, C.strlen(text))
	return code
}
