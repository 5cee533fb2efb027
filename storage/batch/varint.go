package batch

import "math/bits"

// maxVarint is the length of the longest varint.
const maxVarint = 10

// The functions that read take and return a position in b. A negative one says that
// something before was bad. It stays so through every further call, and so is
// looked at once for a record.

// varint reads a zigzag varint at b[at:] and returns the position after it.
func varint(b []byte, at int) (int64, int) {
	if at < 0 || at >= len(b) {
		return 0, -1
	}
	b = b[at:]
	if b[0] < 0x80 {
		return unzigzag(uint64(b[0])), at + 1
	}
	if len(b) >= 2 && b[1] < 0x80 {
		return unzigzag(uint64(b[0]&0x7f) | uint64(b[1])<<7), at + 2
	}
	var u uint64
	for i, c := range b[:min(len(b), maxVarint)] {
		if i == maxVarint-1 && c > 1 {
			break // beyond 64 bits
		}
		u |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			return unzigzag(u), at + i + 1
		}
	}
	return 0, -1
}

// A short varint is one of at most two bytes, as nearly all in a batch are. Some of
// them together fit in a word, and are read from there.

// notShort is the length, in bits, of what is not a short varint. It is so great
// that a sum with it is no length in a word either.
const notShort = 64

// short returns the short varint in the low bytes of w, and its length in bits.
func short(w uint64) (u uint64, length uint) {
	if w&0x80 == 0 {
		return w & 0x7f, 8
	}
	if w&0x8000 == 0 {
		return w&0x7f | w>>1&0x3f80, 16
	}
	return 0, notShort
}

func unzigzag(u uint64) int64 { return int64(u>>1) ^ -int64(u&1) }

// varintSize is the length of v as a varint: its significant bits over 7, rounded
// up, without a division.
func varintSize(v int64) int {
	u := uint64(v)<<1 ^ uint64(v>>63)
	return (bits.Len64(u|1)*9 + 64) >> 6
}

// field reads a length and as many bytes at b[at:], nil for a null field, and
// returns the position after them.
func field(b []byte, at int) ([]byte, int) {
	n, at := varint(b, at)
	if at < 0 || n > int64(len(b)-at) || n < -1 {
		return nil, -1
	}
	if n < 0 {
		return nil, at
	}
	end := at + int(n)
	return b[at:end:end], end
}
