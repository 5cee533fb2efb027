package vfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
)

// Op names a call on a [Mem] or one of its files, for fault injection.
type Op string

// The operations that [Mem.Inject] can make fail.
const (
	OpCreate   Op = "create"
	OpOpen     Op = "open"
	OpRename   Op = "rename"
	OpRemove   Op = "remove"
	OpSyncDir  Op = "syncdir"
	OpRead     Op = "read"
	OpWrite    Op = "write"
	OpTruncate Op = "truncate"
	OpAllocate Op = "allocate"
	OpSync     Op = "sync"
	OpMap      Op = "map"
)

// sectorSize is the unit that reaches a disk whole or not at all.
const sectorSize = 512

// Mem is a file system in memory that knows what a crash would lose: [Mem.Crash]
// returns the disk as a reboot might find it. It is as strict as POSIX allows:
// of the sectors written since a file's last Sync each may be lost by itself, a
// changed length may be, and each change of a name since the last SyncDir. A write
// that is made to fail has written half of its bytes. After a Sync that was made to fail, what it should have
// written counts as clean, as on Linux: only writing it again lets a later Sync
// make it durable. Files grow only while they are not mapped. Its methods and
// those of its files may be called concurrently.
type Mem struct {
	mu     sync.Mutex
	dirs   map[string]bool
	names  map[string]*inode
	synced map[string]*inode
	ops    []nameOp       // what was done to names since, oldest first
	locked map[string]int // how many shared locks; -1: an exclusive one
	inUse  int            // files open and regions mapped
	fault  func(op Op, name string) error
}

// nameOp sets (or, where to is nil, removes) one name after removing another.
type nameOp struct {
	drop, set string
	to        *inode
}

type inode struct {
	mu     sync.Mutex
	data   []byte
	synced []byte
	stuck  map[int]string // sectors that a failed Sync has left clean, not durable, as they were
	maps   int
}

// NewMem returns an empty file system.
func NewMem() *Mem {
	return &Mem{
		dirs:   map[string]bool{".": true, "/": true},
		names:  map[string]*inode{},
		synced: map[string]*inode{},
		locked: map[string]int{},
	}
}

// Inject has fault called before each operation, whose error, if any, the
// operation returns instead of being done. The name is the one that the file was
// opened or created under. nil ends it.
func (m *Mem) Inject(fault func(op Op, name string) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fault = fault
}

// Crash returns what the disk holds after a power failure, choosing by rng among
// all that may be lost. A nil rng loses everything that may be. The receiver,
// which its user must have stopped using, stays as it is.
func (m *Mem) Crash(rng *rand.Rand) *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	after := NewMem()
	after.dirs = maps.Clone(m.dirs)
	names := maps.Clone(m.synced)
	if rng != nil {
		// A journal loses the last ones only; others lose any.
		kept, any := rng.IntN(len(m.ops)+1), rng.IntN(2) == 0
		for i, op := range m.ops {
			if any && rng.IntN(2) == 0 || !any && i < kept {
				op.apply(names)
			}
		}
	}
	// Sorted, since the order decides what each file draws from rng.
	for _, name := range slices.Sorted(maps.Keys(names)) {
		data := names[name].crash(rng)
		n := &inode{data: data, synced: slices.Clone(data)}
		after.names[name] = n
		after.synced[name] = n
	}
	return after
}

func (n *inode) crash(rng *rand.Rand) []byte {
	n.mu.Lock()
	defer n.mu.Unlock()
	if rng == nil {
		return slices.Clone(n.synced)
	}
	size := len(n.synced)
	if rng.IntN(2) == 0 {
		size = len(n.data)
	}
	out := make([]byte, size)
	copy(out, n.synced)
	for at := 0; at < min(size, len(n.data)); at += sectorSize {
		end := min(at+sectorSize, size, len(n.data))
		if !bytes.Equal(out[at:end], n.data[at:end]) && rng.IntN(2) == 0 {
			copy(out[at:end], n.data[at:end])
		}
	}
	return out
}

func (op nameOp) apply(names map[string]*inode) {
	if op.drop != "" {
		delete(names, op.drop)
	}
	if op.to != nil {
		names[op.set] = op.to
	}
}

// dir is the directory that op changes; a rename stays within one.
func (op nameOp) dir() string {
	if op.set != "" {
		return filepath.Dir(op.set)
	}
	return filepath.Dir(op.drop)
}

// do notes and applies a change of names. m.mu is held.
func (m *Mem) do(op nameOp) {
	op.apply(m.names)
	m.ops = append(m.ops, op)
}

// begin takes m.mu if no fault is injected.
func (m *Mem) begin(op Op, name string) error {
	m.mu.Lock()
	fault := m.fault
	if fault != nil {
		m.mu.Unlock() // it may block, or look at the file system
		if err := fault(op, name); err != nil {
			return &fs.PathError{Op: string(op), Path: name, Err: err}
		}
		m.mu.Lock()
	}
	return nil
}

func (m *Mem) check(op Op, name string) error {
	if err := m.begin(op, name); err != nil {
		return err
	}
	m.mu.Unlock()
	return nil
}

// MkdirAll implements [FS].
func (m *Mem) MkdirAll(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for d := filepath.Clean(dir); !m.dirs[d]; d = filepath.Dir(d) {
		m.dirs[d] = true
	}
	return nil
}

// List implements [FS].
func (m *Mem) List(dir string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir = filepath.Clean(dir)
	if !m.dirs[dir] {
		return nil, &fs.PathError{Op: "list", Path: dir, Err: fs.ErrNotExist}
	}
	var names []string
	for name := range m.names {
		if filepath.Dir(name) == dir {
			names = append(names, filepath.Base(name))
		}
	}
	slices.Sort(names)
	return names, nil
}

// Create implements [FS].
func (m *Mem) Create(name string) (File, error) {
	if err := m.begin(OpCreate, name); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	name = filepath.Clean(name)
	if m.names[name] != nil {
		return nil, &fs.PathError{Op: "create", Path: name, Err: fs.ErrExist}
	}
	if !m.dirs[filepath.Dir(name)] {
		return nil, &fs.PathError{Op: "create", Path: name, Err: fs.ErrNotExist}
	}
	n := &inode{}
	m.do(nameOp{set: name, to: n})
	m.inUse++
	return &memFile{fs: m, inode: n, name: name, writable: true}, nil
}

// Open implements [FS].
func (m *Mem) Open(name string, writable bool) (File, error) {
	if err := m.begin(OpOpen, name); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	name = filepath.Clean(name)
	n := m.names[name]
	if n == nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	m.inUse++
	return &memFile{fs: m, inode: n, name: name, writable: writable}, nil
}

// Rename implements [FS].
func (m *Mem) Rename(oldName, newName string) error {
	if err := m.begin(OpRename, oldName); err != nil {
		return err
	}
	defer m.mu.Unlock()
	oldName, newName = filepath.Clean(oldName), filepath.Clean(newName)
	n := m.names[oldName]
	if n == nil {
		return &fs.PathError{Op: "rename", Path: oldName, Err: fs.ErrNotExist}
	}
	if filepath.Dir(oldName) != filepath.Dir(newName) {
		return &fs.PathError{Op: "rename", Path: oldName, Err: errors.New("to another directory")}
	}
	m.do(nameOp{drop: oldName, set: newName, to: n})
	return nil
}

// Remove implements [FS].
func (m *Mem) Remove(name string) error {
	if err := m.begin(OpRemove, name); err != nil {
		return err
	}
	defer m.mu.Unlock()
	name = filepath.Clean(name)
	if m.names[name] == nil {
		return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrNotExist}
	}
	m.do(nameOp{drop: name})
	return nil
}

// SyncDir implements [FS].
func (m *Mem) SyncDir(dir string) error {
	if err := m.begin(OpSyncDir, dir); err != nil {
		return err
	}
	defer m.mu.Unlock()
	dir = filepath.Clean(dir)
	rest := m.ops[:0]
	for _, op := range m.ops {
		if op.dir() == dir {
			op.apply(m.synced)
		} else {
			rest = append(rest, op)
		}
	}
	m.ops = rest
	return nil
}

// Lock implements [FS].
func (m *Mem) Lock(name string, shared bool) (io.Closer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	name = filepath.Clean(name)
	if n := m.locked[name]; n < 0 || n > 0 && !shared {
		return nil, fmt.Errorf("%s: %w", name, ErrLocked)
	}
	if shared {
		m.locked[name]++
	} else {
		m.locked[name] = -1
	}
	return memLock{m, name}, nil
}

// InUse returns how many files are open and regions mapped, for tests that look for
// leaks.
func (m *Mem) InUse() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.inUse
}

func (m *Mem) use(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.inUse += n
}

// UnlockAll releases all locks, as the death of their holders does.
func (m *Mem) UnlockAll() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.locked)
}

type memLock struct {
	fs   *Mem
	name string
}

func (l memLock) Close() error {
	l.fs.mu.Lock()
	defer l.fs.mu.Unlock()
	if l.fs.locked[l.name] > 1 {
		l.fs.locked[l.name]--
	} else {
		delete(l.fs.locked, l.name)
	}
	return nil
}

type memFile struct {
	fs       *Mem
	inode    *inode
	name     string
	writable bool
}

var errReadOnly = errors.New("file is open for reading only")

func (f *memFile) change(op Op, do func(n *inode) error) error {
	if err := f.fs.check(op, f.name); err != nil {
		return err
	}
	if !f.writable {
		return &fs.PathError{Op: string(op), Path: f.name, Err: errReadOnly}
	}
	f.inode.mu.Lock()
	defer f.inode.mu.Unlock()
	return do(f.inode)
}

// grow makes the file at least size long. n.mu is held.
func (n *inode) grow(size int) error {
	if size <= len(n.data) {
		return nil
	}
	if n.maps > 0 {
		return errors.New("a mapped file cannot grow in memory")
	}
	n.data = append(n.data, make([]byte, size-len(n.data))...)
	return nil
}

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.fs.check(OpRead, f.name); err != nil {
		return 0, err
	}
	f.inode.mu.Lock()
	defer f.inode.mu.Unlock()
	if off >= int64(len(f.inode.data)) {
		return 0, io.EOF
	}
	n := copy(p, f.inode.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	err := f.fs.check(OpWrite, f.name)
	if err == nil && !f.writable {
		return 0, &fs.PathError{Op: string(OpWrite), Path: f.name, Err: errReadOnly}
	}
	if err != nil {
		p = p[:len(p)/2]
	}
	f.inode.mu.Lock()
	defer f.inode.mu.Unlock()
	return len(p), errors.Join(err, f.inode.write(p, int(off)))
}

// write puts p at position at. n.mu is held.
func (n *inode) write(p []byte, at int) error {
	if err := n.grow(at + len(p)); err != nil {
		return err
	}
	copy(n.data[at:], p)
	for i := at / sectorSize; i <= (at+len(p)-1)/sectorSize; i++ {
		delete(n.stuck, i)
	}
	return nil
}

func (f *memFile) Size() (int64, error) {
	f.inode.mu.Lock()
	defer f.inode.mu.Unlock()
	return int64(len(f.inode.data)), nil
}

func (f *memFile) Truncate(size int64) error {
	return f.change(OpTruncate, func(n *inode) error {
		if int(size) < len(n.data) {
			// Bytes beyond the end read as zeros if the file grows again.
			clear(n.data[size:])
			n.data = n.data[:size]
			return nil
		}
		return n.grow(int(size))
	})
}

func (f *memFile) Allocate(size int64) error {
	return f.change(OpAllocate, func(n *inode) error { return n.grow(int(size)) })
}

func (f *memFile) Sync() error {
	fault := f.fs.check(OpSync, f.name)
	f.inode.mu.Lock()
	defer f.inode.mu.Unlock()
	if fault != nil {
		f.inode.failSync()
		return fault
	}
	f.inode.sync()
	return nil
}

func (f *memFile) WriteSync(p []byte, off int64) error {
	if _, err := f.WriteAt(p, off); err != nil {
		return err
	}
	fault := f.fs.check(OpSync, f.name)
	n := f.inode
	n.mu.Lock()
	defer n.mu.Unlock()
	if fault != nil {
		n.failSync()
		return fault
	}
	// The length has become durable, and these sectors have.
	n.synced = append(n.synced, make([]byte, max(0, len(n.data)-len(n.synced)))...)
	from, to := int(off)&^(sectorSize-1), min((int(off)+len(p)+sectorSize-1)&^(sectorSize-1), len(n.data))
	copy(n.synced[from:to], n.data[from:to])
	return nil
}

// sync makes durable what is not stuck. n.mu is held.
func (n *inode) sync() {
	before := n.synced
	n.synced = slices.Clone(n.data)
	for i, was := range n.stuck {
		at := i * sectorSize
		if at < len(n.data) && string(n.data[at:min(at+sectorSize, len(n.data))]) != was {
			delete(n.stuck, i) // stored to since, through a mapping
		} else if at < len(n.data) {
			clear(n.synced[at:min(at+sectorSize, len(n.data))])
			if at < len(before) {
				copy(n.synced[at:min(at+sectorSize, len(n.data))], before[at:])
			}
		}
	}
}

// failSync leaves the sectors stuck that differ from what is durable. n.mu is
// held.
func (n *inode) failSync() {
	if n.stuck == nil {
		n.stuck = map[int]string{}
	}
	for at := 0; at < len(n.data); at += sectorSize {
		end := min(at+sectorSize, len(n.data))
		if end > len(n.synced) || !bytes.Equal(n.data[at:end], n.synced[at:end]) {
			n.stuck[at/sectorSize] = string(n.data[at:end])
		}
	}
}

func (f *memFile) Map(length int, writable bool) (Mapping, error) {
	if err := f.fs.check(OpMap, f.name); err != nil {
		return nil, err
	}
	f.inode.mu.Lock()
	defer f.inode.mu.Unlock()
	if length > len(f.inode.data) || writable && !f.writable {
		return nil, &fs.PathError{Op: "map", Path: f.name, Err: fs.ErrInvalid}
	}
	f.inode.maps++
	f.fs.use(1)
	return &memMapping{f.fs, f.inode, f.inode.data[:length:length]}, nil
}

func (f *memFile) Close() error {
	f.fs.use(-1)
	return nil
}

type memMapping struct {
	fs    *Mem
	inode *inode
	bytes []byte
}

func (m *memMapping) Bytes() []byte { return m.bytes }

func (m *memMapping) Store(p []byte, off int64) {
	m.inode.mu.Lock()
	defer m.inode.mu.Unlock()
	copy(m.bytes[off:], p)
}

func (m *memMapping) Close() error {
	m.inode.mu.Lock()
	defer m.inode.mu.Unlock()
	m.inode.maps--
	m.bytes = nil
	m.fs.use(-1)
	return nil
}
