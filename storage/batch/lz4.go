package batch

import (
	"encoding/binary"
	"io"
	"math/bits"
	"slices"

	"github.com/pierrec/lz4/v4"
)

// An LZ4 frame is its magic number, two bytes of flags, perhaps the content's size,
// a byte of checksum, blocks, each after its length, a length of 0, and perhaps the
// content's checksum. It is read and written here, block by block, in place: the
// library's reader and writer copy through buffers of a block each, of up to 4 MiB
// whatever the batch's size.
const (
	lz4Magic = 0x184d2204

	lz4Version     = 0x40 // and its mask, 0xc0
	lz4Independent = 0x20
	lz4BlockSum    = 0x10
	lz4ContentSize = 0x08
	lz4ContentSum  = 0x04

	lz4MinBlock = 64 << 10
	lz4Stored   = 1 << 31 // of a block's length: it is not compressed
	lz4Ratio    = 255     // how many bytes one of a block stands for at most
)

// lz4Header is the header of the frames written: version 1, independent blocks of
// up to 64 KiB, no checksums, as in the Java client.
const lz4Header = "\x04\x22\x4d\x18" + "\x60\x40" + "\x82"

func appendLZ4(dst, src []byte) ([]byte, error) {
	le := binary.LittleEndian
	dst = append(dst, lz4Header...)
	for len(src) > 0 {
		block := src[:min(len(src), lz4MinBlock)]
		src = src[len(block):]
		at := len(dst) + 4
		dst = slices.Grow(dst, 4+len(block))[:at+len(block)]
		// No room to grow in makes it give up on a block that would.
		n, err := lz4.CompressBlock(block, dst[at:], nil)
		if err != nil {
			return nil, err
		}
		if n == 0 || n >= len(block) {
			n = copy(dst[at:], block)
			le.PutUint32(dst[at-4:], uint32(n)|lz4Stored)
		} else {
			le.PutUint32(dst[at-4:], uint32(n))
		}
		dst = dst[:at+n]
	}
	return le.AppendUint32(dst, 0), nil
}

// lz4Frame is what the header of a frame says.
type lz4Frame struct {
	blockMax   int
	blockSum   bool
	contentSum bool
	size       int64 // of the content, -1 if not known
}

// parseLZ4 reads the header of a frame and returns what follows it as well.
func parseLZ4(src []byte) (f lz4Frame, rest []byte, err error) {
	le := binary.LittleEndian
	if len(src) < len(lz4Header) {
		return f, nil, badData(CodecLZ4, io.ErrUnexpectedEOF)
	}
	flags, size := src[4], src[5]>>4
	// A bit of reserve, a dictionary, other block sizes, and blocks that refer to
	// earlier ones: Kafka's clients read none of these.
	if le.Uint32(src) != lz4Magic || flags&0xc3 != lz4Version || flags&lz4Independent == 0 ||
		size < 4 || size > 7 || src[5]&0x0f != 0 {
		return f, nil, badData(CodecLZ4, "not a frame of independent blocks")
	}
	f = lz4Frame{
		blockMax:   1 << (8 + 2*size),
		blockSum:   flags&lz4BlockSum != 0,
		contentSum: flags&lz4ContentSum != 0,
		size:       -1,
	}
	end := 6
	if flags&lz4ContentSize != 0 {
		end += 8
		if len(src) <= end {
			return f, nil, badData(CodecLZ4, io.ErrUnexpectedEOF)
		}
		if f.size = int64(le.Uint64(src[6:])); f.size < 0 {
			return f, nil, badData(CodecLZ4, "more bytes claimed than can be")
		}
	}
	if src[end] != byte(xxh32(src[4:end])>>8) {
		return f, nil, badData(CodecLZ4, "checksum of the header differs")
	}
	return f, src[end+1:], nil
}

// next returns the first block of b, which begins with its length, and what follows
// it. The end of the blocks is an empty one.
func (f *lz4Frame) next(b []byte) (block []byte, stored bool, rest []byte, err error) {
	le := binary.LittleEndian
	if len(b) < 4 {
		return nil, false, nil, badData(CodecLZ4, io.ErrUnexpectedEOF)
	}
	head := le.Uint32(b)
	if head == 0 {
		return nil, false, b[4:], nil
	}
	n, stored := int64(head&^lz4Stored), head&lz4Stored != 0
	end := 4 + n
	if f.blockSum {
		end += 4
	}
	if n == 0 || n > int64(f.blockMax) || end > int64(len(b)) {
		return nil, false, nil, badData(CodecLZ4, "bad block length")
	}
	block = b[4 : 4+n]
	return block, stored, b[end:], nil
}

// bound returns how many bytes the blocks at the start of b, which are checked to
// make up all of it but a checksum, decompress to at most.
func (f *lz4Frame) bound(b []byte) (int64, error) {
	total := int64(0)
	for {
		block, stored, rest, err := f.next(b)
		if err != nil {
			return 0, err
		}
		b = rest
		switch {
		case len(block) == 0:
			if want := 4; f.contentSum && len(b) != want || !f.contentSum && len(b) != 0 {
				return 0, badData(CodecLZ4, "bytes after the end, or too few")
			}
			return total, nil
		case stored:
			total += int64(len(block))
		default:
			total += min(int64(f.blockMax), int64(len(block))*lz4Ratio)
		}
	}
}

func readLZ4(dst, src []byte, limit int) ([]byte, error) {
	le := binary.LittleEndian
	f, b, err := parseLZ4(src)
	if err != nil {
		return nil, err
	}
	room, err := f.bound(b)
	if err != nil {
		return nil, err
	}
	if f.size > room {
		return nil, badData(CodecLZ4, "more bytes claimed than can be")
	}
	if f.size >= 0 {
		room = f.size
	}
	if f.size > int64(limit) {
		return nil, tooLarge(CodecLZ4, limit)
	}
	start := len(dst)
	end := start + int(min(room, int64(limit)))
	dst = slices.Grow(dst, end-start)
	for {
		block, stored, rest, err := f.next(b)
		if err != nil {
			return nil, err
		}
		if len(block) == 0 {
			b = rest
			break
		}
		if f.blockSum && le.Uint32(b[4+len(block):]) != xxh32(block) {
			return nil, badData(CodecLZ4, "checksum of a block differs")
		}
		b = rest
		to := dst[len(dst):min(len(dst)+f.blockMax, end)]
		n, ok := readLZ4Block(to, block, stored)
		switch {
		case !ok && len(to) < f.blockMax && room > int64(limit):
			return nil, tooLarge(CodecLZ4, limit)
		case !ok:
			return nil, badData(CodecLZ4, "bad block")
		}
		dst = dst[:len(dst)+n]
	}
	if f.size >= 0 && int64(len(dst)-start) != f.size {
		return nil, badData(CodecLZ4, "size differs")
	}
	if f.contentSum && le.Uint32(b) != xxh32(dst[start:]) {
		return nil, badData(CodecLZ4, "checksum differs")
	}
	return dst, nil
}

// readLZ4Block decompresses a block to dst and returns its size; false if it is bad
// or too large for that.
func readLZ4Block(dst, block []byte, stored bool) (int, bool) {
	if stored {
		return copy(dst, block), len(block) <= len(dst)
	}
	n, err := lz4.UncompressBlock(block, dst)
	return n, err == nil
}

// xxh32 is the 32-bit xxHash of b with seed 0, the checksum of LZ4 frames.
func xxh32(b []byte) uint32 {
	const p1, p2, p3, p4, p5 = 2654435761, 2246822519, 3266489917, 668265263, 374761393
	le := binary.LittleEndian
	h := uint32(p5)
	n := uint32(len(b))
	if len(b) >= 16 {
		v := [4]uint32{(p1 + p2) & 0xffffffff, p2, 0, -p1 & 0xffffffff}
		for ; len(b) >= 16; b = b[16:] {
			for i := range v {
				v[i] = bits.RotateLeft32(v[i]+le.Uint32(b[4*i:])*p2, 13) * p1
			}
		}
		h = bits.RotateLeft32(v[0], 1) + bits.RotateLeft32(v[1], 7) + bits.RotateLeft32(v[2], 12) + bits.RotateLeft32(v[3], 18)
	}
	h += n
	for ; len(b) >= 4; b = b[4:] {
		h = bits.RotateLeft32(h+le.Uint32(b)*p3, 17) * p4
	}
	for _, c := range b {
		h = bits.RotateLeft32(h+uint32(c)*p5, 11) * p1
	}
	h = (h ^ h>>15) * p2
	h = (h ^ h>>13) * p3
	return h ^ h>>16
}
