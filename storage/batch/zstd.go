package batch

import (
	"io"
	"slices"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// Kafka's clients read windows of 128 MiB, the zstd library's default. No window is
// allocated here, since the output serves as one.
const zstdMaxWindow = 128 << 20

// zstdBlock is the size of the largest block, zstdSlack what the decoder wants
// beyond the output to copy in whole words.
const (
	zstdBlock = 128 << 10
	zstdSlack = 16
)

// zstdWriter and zstdReader are what the pools hold: an encoder or decoder, or why
// there is none.
type zstdWriter struct {
	z   *zstd.Encoder
	err error
}

type zstdReader struct {
	z   *zstd.Decoder
	err error
}

var (
	zstdWriters = sync.Pool{New: func() any {
		// No checksum, as in the Java client: the batch has one.
		z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false),
			zstd.WithWindowSize(1<<20), zstd.WithLowerEncoderMem(true))
		return &zstdWriter{z, err}
	}}
	zstdReaders = sync.Pool{New: func() any {
		z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(zstdMaxWindow), zstd.WithDecodeAllCapLimit(true))
		return &zstdReader{z, err}
	}}
)

func appendZstd(dst, src []byte) ([]byte, error) {
	w := zstdWriters.Get().(*zstdWriter)
	if w.err != nil {
		return nil, w.err
	}
	defer zstdWriters.Put(w)
	return w.z.EncodeAll(src, dst), nil
}

func readZstd(dst, src []byte, limit int) ([]byte, error) {
	least, most, err := zstdSize(src)
	if err != nil {
		return nil, err
	}
	if least > int64(limit) {
		return nil, tooLarge(CodecZstd, limit)
	}
	r := zstdReaders.Get().(*zstdReader)
	if r.err != nil {
		return nil, r.err
	}
	defer zstdReaders.Put(r)
	room := int(min(most, int64(limit)))
	if least < most && room <= maxScratch {
		// The size is only bounded, by much for a small frame: decode elsewhere
		// and let dst grow by what it is.
		s := getScratch()
		defer s.put()
		s.b = slices.Grow(s.b[:0], room+zstdSlack)
		out, err := r.decode(s.b, src, room, limit)
		if err != nil {
			return nil, err
		}
		return append(dst, out...), nil
	}
	start := len(dst)
	dst = slices.Grow(dst, room+zstdSlack)
	out, err := r.decode(dst[start:start], src, room, limit)
	if err != nil {
		return nil, err
	}
	return dst[:start+len(out)], nil
}

// decode decodes src in dst, an empty slice with capacity for room bytes and the
// slack.
func (r *zstdReader) decode(dst, src []byte, room, limit int) ([]byte, error) {
	out, err := r.z.DecodeAll(src, dst[:0:room+zstdSlack])
	// A block that does not fit is one of the decoder's errors, among those for
	// blocks that are bad. out has the blocks before it.
	full := err != nil && room == limit && len(out) > room-zstdBlock
	switch {
	case full, err == nil && len(out) > limit:
		return nil, tooLarge(CodecZstd, limit)
	case err != nil:
		return nil, badData(CodecZstd, err)
	}
	return out, nil
}

// zstdSize returns the size of what src, one frame, decodes to: what the frame says,
// or else the bounds that follow from its blocks.
func zstdSize(src []byte) (least, most int64, err error) {
	var h zstd.Header
	rest, err := h.DecodeAndStrip(src)
	if err != nil {
		return 0, 0, badData(CodecZstd, err)
	}
	if h.Skippable || h.DictionaryID != 0 {
		return 0, 0, badData(CodecZstd, "a skippable frame or a dictionary")
	}
	block := int64(zstdBlock)
	if !h.SingleSegment {
		block = int64(min(zstdBlock, h.WindowSize))
	}
	for last := false; !last; {
		if len(rest) < 3 {
			return 0, 0, badData(CodecZstd, io.ErrUnexpectedEOF)
		}
		header := int64(rest[0]) | int64(rest[1])<<8 | int64(rest[2])<<16
		last = header&1 != 0
		n := header >> 3
		switch header >> 1 & 3 {
		case 0: // raw
			least, most = least+n, most+n
		case 1: // one byte, repeated
			least, most = least+n, most+n
			n = 1
		default: // compressed, or reserved, which the decoder refuses
			most += block
		}
		if n > int64(len(rest)-3) {
			return 0, 0, badData(CodecZstd, io.ErrUnexpectedEOF)
		}
		rest = rest[3+n:]
	}
	if h.HasCheckSum {
		rest = rest[min(4, len(rest)):] // the decoder sees if it is short
	}
	if len(rest) > 0 {
		return 0, 0, badData(CodecZstd, "bytes after the end")
	}
	if h.HasFCS {
		if h.FrameContentSize > uint64(most) {
			return 0, 0, badData(CodecZstd, "more bytes claimed than can be")
		}
		least, most = int64(h.FrameContentSize), int64(h.FrameContentSize)
	}
	return least, most, nil
}
