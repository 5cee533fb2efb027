//go:build cgo

package main

import (
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"github.com/zue-log/zue/storage"
)

// What a C program has freed may be Go's memory later, in which no pointer may be that Go
// does not know.
func TestAKeptListPointsToNothing(t *testing.T) {
	r := records{
		list:    []storage.Record{{Key: []byte("k"), Value: []byte("v")}, {Value: []byte("v")}},
		headers: []storage.RecordHeader{{Key: []byte("n"), Value: []byte("v")}},
	}
	r.list[1].Headers = r.headers
	r.keep()
	require.Equal(t, make([]storage.Record, 2), r.list)
	require.Equal(t, make([]storage.RecordHeader, 1), r.headers)
}

func TestAViewOfNothingPointsToNothing(t *testing.T) {
	require.Nil(t, view(nil, 0))
	var b [1]byte
	v := view(unsafe.Pointer(&b), 0)
	require.NotNil(t, v)
	require.Empty(t, v)
	require.NotEqual(t, unsafe.Pointer(&b), unsafe.Pointer(unsafe.SliceData(v)))
}
