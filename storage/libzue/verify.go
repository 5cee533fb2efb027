package main

/*
#include "internal.h"
*/
import "C"

import "context"

//export zueGoVerify
func zueGoVerify(handle C.zue_log, damaged *C.zue_u64) C.int {
	l := lookUpLog(handle)
	if l == nil {
		return refuse(C.ZUE_EBADF)
	}
	report, err := l.Verify(context.Background(), nil)
	*damaged = C.zue_u64(len(report.Damage))
	if err == nil && len(report.Damage) > 0 {
		err = report.Damage[0]
	}
	return fail(err)
}
