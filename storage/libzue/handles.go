//go:build cgo

package main

import (
	"sync"
	"sync/atomic"
)

// A handle is, from its highest bit on: 4 bits kind, 36 bits generation, 24 bits slot. The
// generation grows each time the slot is given out, from 1, so that no handle is given
// out twice.
const (
	slotBits       = 24
	generationBits = 36
	maxGeneration  = 1<<generationBits - 1

	chunkSize = 1 << 8
	maxChunks = 1 << 12

	maxHandles = chunkSize * maxChunks // of a kind, 2^20
)

// table finds what the handles of one kind stand for. It may be used concurrently;
// looking up takes no lock.
type table[T any] struct {
	kind   uint64
	limit  uint32 // how many slots there may be
	chunks [maxChunks]atomic.Pointer[chunk[T]]

	mu   sync.Mutex
	used uint32 // slots that have been given out
	free []uint32
}

type chunk[T any] [chunkSize]slot[T]

type slot[T any] struct {
	entry      atomic.Pointer[entry[T]]
	generation uint64 // of the last handle; the table's mutex guards it
}

// entry has its own handle, so that one load tells both whether the handle is good and
// what it stands for.
type entry[T any] struct {
	handle uint64
	value  T
}

func newTable[T any](kind uint64, limit uint32) *table[T] {
	return &table[T]{kind: kind, limit: limit}
}

// slot returns the slot that a handle names, nil if it cannot be one of the table's.
func (t *table[T]) slot(handle uint64) *slot[T] {
	n := handle & (1<<slotBits - 1)
	if n >= maxHandles || handle>>(slotBits+generationBits) != t.kind {
		return nil
	}
	c := t.chunks[n/chunkSize].Load()
	if c == nil {
		return nil
	}
	return &c[n%chunkSize]
}

// get returns what handle stands for; false if nothing.
func (t *table[T]) get(handle uint64) (value T, ok bool) {
	if s := t.slot(handle); s != nil {
		if e := s.entry.Load(); e != nil && e.handle == handle {
			return e.value, true
		}
	}
	return value, false
}

// put makes a handle for value; false if there are too many.
func (t *table[T]) put(value T) (handle uint64, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.used
	if last := len(t.free) - 1; last >= 0 {
		n, t.free = t.free[last], t.free[:last]
	} else if t.used == t.limit {
		return 0, false
	} else {
		t.used++
	}
	if t.chunks[n/chunkSize].Load() == nil {
		t.chunks[n/chunkSize].Store(new(chunk[T]))
	}
	s := &t.chunks[n/chunkSize].Load()[n%chunkSize]
	s.generation++
	handle = t.kind<<(slotBits+generationBits) | s.generation<<slotBits | uint64(n)
	s.entry.Store(&entry[T]{handle, value})
	return handle, true
}

// replace changes what handle stands for, if anything.
func (t *table[T]) replace(handle uint64, value T) {
	s := t.slot(handle)
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := s.entry.Load(); e != nil && e.handle == handle {
		s.entry.Store(&entry[T]{handle, value})
	}
}

// take is get, and the handle is none from then on. Of several calls one gets the value.
func (t *table[T]) take(handle uint64) (value T, ok bool) {
	s := t.slot(handle)
	if s == nil {
		return value, false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	e := s.entry.Load()
	if e == nil || e.handle != handle {
		return value, false
	}
	t.release(s, uint32(handle&(1<<slotBits-1)))
	return e.value, true
}

// takeAll takes all whose value is wanted, and returns them.
func (t *table[T]) takeAll(wanted func(T) bool) []T {
	t.mu.Lock()
	defer t.mu.Unlock()
	var taken []T
	for n := range t.used {
		s := &t.chunks[n/chunkSize].Load()[n%chunkSize]
		if e := s.entry.Load(); e != nil && wanted(e.value) {
			taken = append(taken, e.value)
			t.release(s, n)
		}
	}
	return taken
}

// release empties a slot, to be given out again as long as it has generations left. t.mu
// is held.
func (t *table[T]) release(s *slot[T], n uint32) {
	s.entry.Store(nil)
	if s.generation < maxGeneration {
		t.free = append(t.free, n)
	}
}
