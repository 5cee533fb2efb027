package batch

import (
	"bytes"
	"encoding/binary"
	"io"
	"slices"
	"sync"

	"github.com/klauspost/compress/gzip"
)

// gzipWriter is an encoder and the slice that it appends to.
type gzipWriter struct {
	z   *gzip.Writer
	out []byte
}

func (w *gzipWriter) Write(p []byte) (int, error) {
	w.out = append(w.out, p...)
	return len(p), nil
}

// gzipReader is a decoder and what it reads from.
type gzipReader struct {
	z    gzip.Reader
	src  bytes.Reader
	more [1]byte // for a read at the end
}

var (
	gzipWriters = sync.Pool{New: func() any {
		w := new(gzipWriter)
		w.z = gzip.NewWriter(w)
		return w
	}}
	gzipReaders = sync.Pool{New: func() any { return new(gzipReader) }}
)

func appendGzip(dst, src []byte) ([]byte, error) {
	w := gzipWriters.Get().(*gzipWriter)
	defer gzipWriters.Put(w)
	w.out = dst
	w.z.Reset(w)
	_, err := w.z.Write(src)
	if err == nil {
		err = w.z.Close()
	}
	out := w.out
	w.out = nil
	return out, err
}

// The smallest gzip file, and how many bytes one of deflate stands for at most.
const (
	minGzip   = 18
	gzipRatio = 1032
)

func readGzip(dst, src []byte, limit int) ([]byte, error) {
	if len(src) < minGzip {
		return nil, badData(CodecGzip, io.ErrUnexpectedEOF)
	}
	// The trailer has the size modulo 4 GiB: that of no other size is right, and
	// the reader checks it.
	size := int64(binary.LittleEndian.Uint32(src[len(src)-4:]))
	if size > int64(len(src))*gzipRatio {
		return nil, badData(CodecGzip, "more bytes claimed than can be")
	}
	if size > int64(limit) {
		return nil, tooLarge(CodecGzip, limit)
	}
	r := gzipReaders.Get().(*gzipReader)
	defer func() {
		r.src.Reset(nil)
		r.z.Header = gzip.Header{}
		gzipReaders.Put(r)
	}()
	r.src.Reset(src)
	if err := r.z.Reset(&r.src); err != nil {
		return nil, badData(CodecGzip, err)
	}
	r.z.Multistream(false)
	start := len(dst)
	dst = slices.Grow(dst, int(size))[:start+int(size)]
	if _, err := io.ReadFull(&r.z, dst[start:]); err != nil {
		return nil, badData(CodecGzip, err)
	}
	// The checksum is verified at the end, which is beyond the last byte.
	if n, err := r.z.Read(r.more[:]); n > 0 || err != io.EOF {
		return nil, badData(CodecGzip, "size or checksum differs")
	}
	if r.src.Len() > 0 {
		return nil, badData(CodecGzip, "bytes after the end")
	}
	return dst, nil
}
