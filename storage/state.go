package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"

	"github.com/zue-log/zue/storage/vfs"
)

// Layout of the state file; FORMAT.md has the byte table. The slots are a page
// apart, so that writing one cannot damage the other.
const (
	stateMagic   = "ZUESTAT\n"
	stateVersion = 1
	stateUsed    = 64
	stateSlot    = 4096
)

// state is the little that a log remembers outside its segments.
type state struct {
	seq     uint64 // which slot is newer
	durable uint64 // all entries up to this index were durable once
}

// stateFile keeps two slots and writes them in turn.
type stateFile struct {
	file vfs.File
	path string
	now  state
}

func (s state) encode() []byte {
	b := make([]byte, stateUsed)
	le := binary.LittleEndian
	copy(b[4:12], stateMagic)
	le.PutUint32(b[12:], stateVersion)
	le.PutUint64(b[16:], s.seq)
	le.PutUint64(b[24:], s.durable)
	le.PutUint32(b, crc32.Checksum(b[4:], castagnoli))
	return b
}

var errStateSlot = errors.New("state slot is not valid")

func parseState(b []byte) (state, error) {
	le := binary.LittleEndian
	if len(b) < stateUsed || string(b[4:12]) != stateMagic || le.Uint32(b) != crc32.Checksum(b[4:stateUsed], castagnoli) {
		return state{}, errStateSlot
	}
	if v := le.Uint32(b[12:]); v != stateVersion {
		return state{}, fmt.Errorf("%w: state version %d, this library knows %d", ErrVersion, v, stateVersion)
	}
	return state{seq: le.Uint64(b[16:]), durable: le.Uint64(b[24:])}, nil
}

// openState opens or creates the state file. Slots that cannot be read count for
// nothing: what they hold only sharpens what recovery can tell.
func openState(fsys vfs.FS, dir, path string) (*stateFile, error) {
	f, err := fsys.Open(path, true)
	if errors.Is(err, fs.ErrNotExist) {
		if f, err = fsys.Create(path); err == nil {
			if err = f.Allocate(2 * stateSlot); err == nil {
				err = fsys.SyncDir(dir)
			}
			if err != nil {
				err = errors.Join(err, f.Close())
			}
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open state: %w", err)
	}
	sf := &stateFile{file: f, path: path}
	for slot := range int64(2) {
		b := make([]byte, stateUsed)
		if _, err := f.ReadAt(b, slot*stateSlot); err != nil && !errors.Is(err, io.EOF) {
			return nil, errors.Join(fmt.Errorf("read state: %w", err), f.Close())
		}
		s, err := parseState(b)
		if errors.Is(err, ErrVersion) {
			return nil, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
		}
		if err == nil && s.seq >= sf.now.seq {
			sf.now = s
		}
	}
	return sf, nil
}

// save writes durable into the older slot, durably.
func (sf *stateFile) save(durable uint64) error {
	next := state{seq: sf.now.seq + 1, durable: durable}
	if _, err := sf.file.WriteAt(next.encode(), int64(next.seq%2)*stateSlot); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	if err := sf.file.Sync(); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	sf.now = next
	return nil
}
