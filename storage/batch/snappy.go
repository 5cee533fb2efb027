package batch

import (
	"bytes"
	"encoding/binary"
	"io"
	"slices"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/snappy"
)

// xerialMagic begins the framing in which the Java client has snappy blocks. No
// snappy block begins so. Two 32-bit numbers follow, the version and the least
// version that can read it, then blocks, each after its length.
const (
	xerialMagic  = "\x82SNAPPY\x00"
	xerialHeader = len(xerialMagic) + 8
)

func appendSnappy(dst, src []byte) []byte {
	start := len(dst)
	dst = slices.Grow(dst, s2.MaxEncodedLen(len(src)))
	block := s2.EncodeSnappy(dst[start:cap(dst)], src) // in place, since there is room
	return dst[:start+len(block)]
}

func readSnappy(dst, src []byte, limit int) ([]byte, error) {
	if !bytes.HasPrefix(src, []byte(xerialMagic)) {
		size, err := snappySize(src, limit)
		if err != nil {
			return nil, err
		}
		return readSnappyBlock(slices.Grow(dst, size), src, size)
	}
	// Once to add up the sizes, so that there is room for all, and once to decode.
	total := 0
	for at := xerialHeader; at != len(src); {
		_, size, next, err := xerialBlock(src, at, limit)
		if err != nil {
			return nil, err
		}
		if total += size; total > limit {
			return nil, tooLarge(CodecSnappy, limit)
		}
		at = next
	}
	dst = slices.Grow(dst, total)
	for at := xerialHeader; at != len(src); {
		block, size, next, err := xerialBlock(src, at, limit)
		if err != nil {
			return nil, err
		}
		if dst, err = readSnappyBlock(dst, block, size); err != nil {
			return nil, err
		}
		at = next
	}
	return dst, nil
}

// xerialBlock returns the block whose length is at src[at:], the size that it says it
// has, and the next one's place.
func xerialBlock(src []byte, at, limit int) (block []byte, size, next int, err error) {
	if at > len(src)-4 {
		return nil, 0, 0, badData(CodecSnappy, io.ErrUnexpectedEOF)
	}
	n := int64(binary.BigEndian.Uint32(src[at:]))
	at += 4
	if n > int64(len(src)-at) {
		return nil, 0, 0, badData(CodecSnappy, io.ErrUnexpectedEOF)
	}
	next = at + int(n)
	block = src[at:next]
	size, err = snappySize(block, limit)
	return block, size, next, err
}

// snappyRatio is how many bytes one of a block stands for at most: a copy of 64
// takes 3.
const snappyRatio = 22

// snappySize returns the size that a block says it has.
func snappySize(block []byte, limit int) (int, error) {
	size, err := s2.DecodedLen(block)
	if err != nil {
		return 0, badData(CodecSnappy, err)
	}
	if size > limit {
		return 0, tooLarge(CodecSnappy, limit)
	}
	if int64(size) > int64(len(block))*snappyRatio {
		return 0, badData(CodecSnappy, "more bytes claimed than can be")
	}
	return size, nil
}

// readSnappyBlock appends the size bytes of a block to dst, which has room for
// them. The decoder is the strict one: the default one takes blocks that other
// clients cannot read.
func readSnappyBlock(dst, block []byte, size int) ([]byte, error) {
	start := len(dst)
	end := start + size
	if _, err := snappy.DecodeStrict(dst[start:end:end], block); err != nil {
		return nil, badData(CodecSnappy, err)
	}
	return dst[:end], nil
}
