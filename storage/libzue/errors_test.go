//go:build cgo

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/zue-log/zue/storage"
	"github.com/zue-log/zue/storage/vfs"
)

// The numbers are those of zue.h, which never change.
func TestCodeOfAnError(t *testing.T) {
	for _, c := range []struct {
		err  error
		code int
	}{
		{&storage.OffsetError{}, -1011},
		{storage.ErrTooLarge, -1012},
		{vfs.ErrLocked, -1013},
		{storage.ErrReadOnly, -1014},
		{storage.ErrClosed, -1015},
		{context.Canceled, -1015},
		{context.DeadlineExceeded, -1010},
		{&os.PathError{Err: syscall.ENOSPC}, -1016},
		{syscall.EDQUOT, -1016},
		{errors.Join(storage.ErrFailed, syscall.ENOSPC), -1017},
		{errors.Join(storage.ErrFailed, storage.ErrClosed), -1017},
		{&storage.CorruptionError{}, -1018},
		{storage.ErrVersion, -1019},
		{&storage.FaultError{}, -1020},
		{os.ErrNotExist, -1023},
		{syscall.EACCES, -1023},
		{syscall.ENOMEM, -1023},
		{errors.New("something else"), -1023},
	} {
		require.EqualValues(t, c.code, codeOf(c.err), "%v", c.err)
		require.EqualValues(t, c.code, fail(fmt.Errorf("wrapped: %w", c.err)))
	}
	require.EqualValues(t, 0, fail(nil))
}

// Those that only zue_open may return, and that it returns the others, too.
func TestCodeOfAnErrorOfOpen(t *testing.T) {
	for _, c := range []struct {
		err  error
		code int
	}{
		{os.ErrNotExist, -1021},
		{&os.PathError{Err: syscall.EACCES}, -1022},
		{syscall.ENOMEM, -1005},
		{errors.Join(storage.ErrVersion, os.ErrNotExist), -1019},
		{syscall.ENOSPC, -1016},
		{errors.New("something else"), -1023},
	} {
		require.EqualValues(t, c.code, failOpen(fmt.Errorf("wrapped: %w", c.err)), "%v", c.err)
	}
}
