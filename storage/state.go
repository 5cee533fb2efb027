package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"

	"github.com/zue-log/zue/storage/vfs"
)

// Layout of the state file; FORMAT.md has the byte tables. Its parts are a page
// apart, so that writing one cannot damage another.
const (
	stateMagic   = "ZUESTAT\n"
	stateVersion = 1
	stateHeader  = 64
	stateSlot    = 4096

	markMagic = "ZUEMARK\n"
	markAt    = 2 * stateSlot
	markSize  = 24

	stateFileSize = markAt + 512

	// MaxStateBytes is the longest state that a log keeps for its user.
	MaxStateBytes = stateSlot - stateHeader
)

// flagReset says that all segments are void and the log begins at origin.
const flagReset = 1

// state is what a log remembers outside its segments and must not lose.
type state struct {
	seq    uint64 // which slot is newer; 0: none was ever written
	origin Place  // what the first entry kept follows
	reset  bool   // all segments are void
	user   []byte // what SetState was given
}

// stateFile keeps the state twice, and beside it the durable mark, which only
// sharpens what recovery can tell and so may be lost.
type stateFile struct {
	file vfs.File
	path string
	now  state
	// mark is the durable mark: all entries up to that index were durable once. noted
	// says that it is in the file durably. most is the largest that may be there after a
	// crash, since it is not synced each time, and another may have died before it was.
	mark, most uint64
	noted      bool
}

func (s *state) encode() []byte {
	b := make([]byte, stateHeader+len(s.user))
	le := binary.LittleEndian
	copy(b[4:12], stateMagic)
	le.PutUint32(b[12:], stateVersion)
	le.PutUint64(b[16:], s.seq)
	le.PutUint64(b[24:], s.origin.Index)
	le.PutUint64(b[32:], s.origin.Term)
	le.PutUint64(b[40:], s.origin.Offset)
	le.PutUint64(b[48:], s.origin.Chain)
	if s.reset {
		le.PutUint32(b[56:], flagReset)
	}
	le.PutUint32(b[60:], uint32(len(s.user)))
	copy(b[stateHeader:], s.user)
	le.PutUint32(b, crc32.Checksum(b[4:], castagnoli))
	return b
}

var errStateSlot = errors.New("state slot is not valid")

// parseState decodes a slot. One that was never written is a state of sequence 0.
func parseState(b []byte) (state, error) {
	if len(b) < stateHeader {
		return state{}, errStateSlot
	}
	if isZero(b) {
		return state{}, nil
	}
	le := binary.LittleEndian
	n := int64(le.Uint32(b[60:]))
	if n > int64(len(b)-stateHeader) || string(b[4:12]) != stateMagic || le.Uint32(b) != crc32.Checksum(b[4:stateHeader+n], castagnoli) {
		return state{}, errStateSlot
	}
	if v := le.Uint32(b[12:]); v != stateVersion {
		return state{}, fmt.Errorf("%w: state version %d, this library knows %d", ErrVersion, v, stateVersion)
	}
	flags := le.Uint32(b[56:])
	if flags&^flagReset != 0 {
		return state{}, fmt.Errorf("%w: state flags %#x", ErrVersion, flags)
	}
	return state{
		seq:    le.Uint64(b[16:]),
		origin: Place{Index: le.Uint64(b[24:]), Term: le.Uint64(b[32:]), Offset: le.Uint64(b[40:]), Chain: le.Uint64(b[48:])},
		reset:  flags&flagReset != 0,
		user:   append([]byte(nil), b[stateHeader:stateHeader+n]...),
	}, nil
}

func encodeMark(mark uint64) []byte {
	b := make([]byte, markSize)
	le := binary.LittleEndian
	copy(b[4:12], markMagic)
	le.PutUint32(b[12:], stateVersion)
	le.PutUint64(b[16:], mark)
	le.PutUint32(b, crc32.Checksum(b[4:], castagnoli))
	return b
}

// parseMark decodes the durable mark; 0 if it is not valid.
func parseMark(b []byte) uint64 {
	le := binary.LittleEndian
	if len(b) < markSize || string(b[4:12]) != markMagic || le.Uint32(b[12:]) != stateVersion ||
		le.Uint32(b) != crc32.Checksum(b[4:markSize], castagnoli) {
		return 0
	}
	return le.Uint64(b[16:])
}

// createState makes the state file of a new log.
func createState(fsys vfs.FS, dir, path string) (*stateFile, error) {
	f, err := fsys.Create(path)
	if err != nil {
		return nil, fmt.Errorf("create state: %w", err)
	}
	sf := &stateFile{file: f, path: path}
	if err = f.Allocate(stateFileSize); err == nil {
		err = fsys.SyncDir(dir)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("create state: %w", err), f.Close())
	}
	return sf, nil
}

// openState opens the state file; one that does not exist yields fs.ErrNotExist. If it is
// writable, both slots are written again: one may be damaged, and what is read need not be
// on the disk, if whoever wrote it was killed or a sync failed. Two slots that are both in
// the page cache only could be torn at once.
func openState(fsys vfs.FS, path string, writable bool) (*stateFile, error) {
	f, err := fsys.Open(path, writable)
	if err != nil {
		return nil, fmt.Errorf("open state: %w", err)
	}
	sf := &stateFile{file: f, path: path}
	if err := sf.read(writable); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return sf, nil
}

func (sf *stateFile) read(repair bool) error {
	b := make([]byte, stateFileSize)
	// A file that ends early has zeros there: it was never allocated.
	if _, err := sf.file.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read state: %w", err)
	}
	sf.mark, sf.most = parseMark(b[markAt:]), math.MaxUint64
	one, err1 := parseState(b[:stateSlot])
	two, err2 := parseState(b[stateSlot:markAt])
	for _, err := range []error{err1, err2} {
		if errors.Is(err, ErrVersion) {
			return fmt.Errorf("%s: %w", sf.path, err)
		}
	}
	// Both slots are written at each save, one after the other: what a crash
	// tears is one of them, and so is what the other is for.
	if err1 != nil && err2 != nil {
		return &CorruptionError{Path: sf.path, Reason: "both copies of the state are damaged"}
	}
	sf.now = one
	if err1 != nil || err2 == nil && two.seq > one.seq {
		sf.now = two
	}
	if !repair {
		return nil
	}
	// A power failure, or a copy, may have left it without blocks of its own.
	if err := sf.file.Allocate(stateFileSize); err != nil {
		return fmt.Errorf("allocate state: %w", err)
	}
	if sf.now.seq > 0 {
		return sf.write(sf.now)
	}
	return nil
}

// change makes a change of the state, durably.
func (sf *stateFile) change(change func(s *state)) error {
	next := sf.now
	change(&next)
	return sf.save(next)
}

// save makes next the state, durably.
func (sf *stateFile) save(next state) error {
	next.seq = sf.now.seq + 1
	return sf.write(next)
}

func (sf *stateFile) write(next state) error {
	b := next.encode()
	for _, at := range []int64{0, stateSlot} {
		if _, err := sf.file.WriteAt(b, at); err != nil {
			return fmt.Errorf("write state: %w", err)
		}
		if err := sf.file.Sync(); err != nil {
			return fmt.Errorf("write state: %w", err)
		}
	}
	sf.now = next
	return nil
}

// saveMark notes that all entries up to index mark are durable. Without durably, the
// note outlives this process, but perhaps not the machine. An error leaves open whether
// the note is there.
func (sf *stateFile) saveMark(mark uint64, durably bool) error {
	sf.most, sf.noted = max(sf.most, mark), false
	if _, err := sf.file.WriteAt(encodeMark(mark), markAt); err != nil {
		return fmt.Errorf("write durable mark: %w", err)
	}
	if durably {
		if err := sf.file.Sync(); err != nil {
			return fmt.Errorf("write durable mark: %w", err)
		}
		sf.most, sf.noted = mark, true
	}
	sf.mark = mark
	return nil
}
