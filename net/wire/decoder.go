package wire

import (
	"encoding/binary"
	"errors"
	"io"
	"math/bits"
	"sync"
)

const (
	// startBuffer is what an idle connection costs.
	startBuffer = 4 << 10
	// keepBuffer is what a busy connection may keep. It holds enough small frames
	// for the cost of a read to vanish, and is little enough for thousands of
	// connections.
	keepBuffer = 1 << keepBits
	keepBits   = 16
	// maxPooledBuffer is the largest buffer that is kept for other large frames.
	maxPooledBuffer = 1 << maxPooledBits
	maxPooledBits   = 23
	// maxEmptyReads bounds a reader that returns nothing and no error, as in bufio.
	maxEmptyReads = 100
)

// Decoder cuts a stream of bytes into frames. It reads only when told to, so that
// a server can take all the frames that one read brought, answer them, and flush
// once:
//
//	for {
//		for {
//			frame, ok, err := d.Next()
//			if err != nil {
//				return err // framing is lost
//			}
//			if !ok {
//				break
//			}
//			answer(frame)
//		}
//		flush()
//		if err := d.Fill(); err != nil {
//			return err // io.EOF: the peer closed between two frames
//		}
//	}
//
// Memory follows the bytes that arrive, never the length that a frame claims: the
// buffer is at most twice the unread bytes (and at least 4 KiB, up to 64 KiB for
// a busy connection). After a large frame it shrinks back.
//
// A Decoder is not safe for concurrent use.
type Decoder struct {
	r        io.Reader
	maxFrame int

	buf        []byte
	start, end int // unread bytes are buf[start:end]

	err     error // framing is lost or the stream has ended, for good
	pending error // came with the bytes of the last read; for the next Fill
	full    bool  // the last read filled the buffer: more is waiting
}

// NewDecoder returns a Decoder that reads from r and accepts frames whose length
// field is at most maxFrame; 0 or less means [MaxFrame].
func NewDecoder(r io.Reader, maxFrame int) *Decoder {
	if maxFrame <= 0 {
		maxFrame = MaxFrame
	}
	return &Decoder{r: r, maxFrame: maxFrame, buf: make([]byte, startBuffer)}
}

// SetMaxFrame has the Decoder accept frames whose length field is at most maxFrame, from the
// next frame on; 0 or less means [MaxFrame]. It is for a server that has learned who its
// client is.
func (d *Decoder) SetMaxFrame(maxFrame int) {
	if maxFrame <= 0 {
		maxFrame = MaxFrame
	}
	d.maxFrame = maxFrame
}

// Next returns the next frame if all of it has been read already; it never reads.
// The payload is valid until the next call of [Decoder.Fill], and must not be
// touched after it: the memory may then be another connection's. ok is false when
// more bytes are needed. The error is a [*FrameError], from then on each time.
func (d *Decoder) Next() (f Frame, ok bool, err error) {
	size, err := d.frameSize()
	if err != nil || size == 0 || size > d.end-d.start {
		return Frame{}, false, err
	}
	b := d.buf[d.start : d.start+size : d.start+size]
	d.start += size
	return Frame{Type: Type(b[HeaderSize]), Payload: b[HeaderSize+typeSize:]}, true, nil
}

// Buffered returns how many bytes are at hand that Next has not returned: when it has
// nothing more to give, those of a frame whose rest is to come.
func (d *Decoder) Buffered() int { return d.end - d.start }

// Fill reads once from the reader, which waits for at least one byte. It ends the
// life of all payloads returned by [Decoder.Next]. It is for when Next has nothing
// more to give; when a whole frame is at hand, it does nothing.
//
// The error is io.EOF when the stream ended between two frames,
// io.ErrUnexpectedEOF when it ended within one, the [*FrameError] that Next
// returned, or the reader's own. After an error of the reader's own, such as a
// deadline, no bytes are lost and Fill may be called again.
func (d *Decoder) Fill() error {
	size, err := d.frameSize()
	if err != nil {
		return err
	}
	if d.err != nil {
		return d.err
	}
	if size > 0 && size <= d.end-d.start {
		return nil
	}
	if err := d.pending; err != nil {
		d.pending = nil
		return d.readError(err)
	}
	d.makeRoom(size)
	room := d.buf[d.end:]
	if size > keepBuffer {
		// What follows a large frame must not take up the room of one by itself.
		room = room[:min(len(room), size-d.end+keepBuffer)]
	}
	for range maxEmptyReads {
		n, err := d.r.Read(room)
		if n < 0 || n > len(room) {
			return errors.New("wire: reader returned an impossible count")
		}
		d.end += n
		d.full = n == len(room)
		if n > 0 {
			d.pending = err
			return nil
		}
		if err != nil {
			return d.readError(err)
		}
	}
	return io.ErrNoProgress
}

// Release gives back the memory of a large frame that Next has returned, and ends the life
// of all payloads, as Fill does later: for who is to wait before that. What has been read
// behind the frame is kept, and is not more than 64 KiB.
func (d *Decoder) Release() {
	if d.start > 0 && len(d.buf) > keepBuffer {
		d.makeRoom(0)
	}
}

// Full reports whether the last read filled all of its room, so that more may have arrived.
func (d *Decoder) Full() bool { return d.full }

// frameSize returns the size on the wire of the frame at hand, or 0 when its
// length field has not arrived.
func (d *Decoder) frameSize() (int, error) {
	if d.end-d.start < HeaderSize {
		return 0, nil
	}
	length := binary.LittleEndian.Uint32(d.buf[d.start:])
	if length == 0 || uint64(length) > uint64(d.maxFrame) {
		// The bytes at hand stay where they are, so the error stays too.
		return 0, &FrameError{Length: length, Limit: d.maxFrame}
	}
	if length > MaxFrame {
		if d.end-d.start < HeaderSize+typeSize {
			return 0, nil // the type decides
		}
		if limit := Type(d.buf[d.start+HeaderSize]).limit(d.maxFrame); int(length) > limit {
			return 0, &FrameError{Length: length, Limit: limit}
		}
	}
	return HeaderSize + int(length), nil
}

// FrameSize returns the size on the wire of the frame whose beginning has been read, its
// length field included; 0 when that is not known yet. The frame is not to be trusted to
// come.
func (d *Decoder) FrameSize() int {
	size, _ := d.frameSize() // an error is for Next to return
	return size
}

// makeRoom moves the unread bytes to the front, and sees to it that there is room
// for more. need is the size of the frame they begin, 0 when not known.
//
// The unread bytes are a part of one frame. Once moved, it stays at the front
// until it is complete, so no byte is moved twice but by a doubling: the work is
// linear in the bytes read, however they are cut.
func (d *Decoder) makeRoom(need int) {
	unread := d.end - d.start
	size := len(d.buf)
	switch {
	case d.start > 0 && size > keepBuffer:
		// A large frame has been handed out. What it needed is given back at
		// once: the connection may be idle from here on.
		size = max(keepBuffer, min(size, 1<<bits.Len(uint(unread))))
	case unread == size:
		size = 2 * size
		if size > maxPooledBuffer {
			size = min(size, need)
		}
	case d.full && size < keepBuffer:
		size = 2 * size
	}
	if size != len(d.buf) {
		buf := getBuffer(size)
		copy(buf, d.buf[d.start:d.end])
		putBuffer(d.buf)
		d.buf = buf
	} else if d.start > 0 {
		copy(d.buf, d.buf[d.start:d.end])
	}
	d.start, d.end = 0, unread
}

func (d *Decoder) readError(err error) error {
	if err != io.EOF {
		return err
	}
	d.err = io.EOF
	if d.end > d.start {
		d.err = io.ErrUnexpectedEOF
	}
	return d.err
}

// largeBuffers holds buffers of 2*keepBuffer, 4*keepBuffer, ... maxPooledBuffer
// that large frames have left, for the next ones of any connection. Without it, a
// connection that sends frames of 1 MiB spends nine tenths of its time on fresh
// memory (BenchmarkDecoder).
var largeBuffers [maxPooledBits - keepBits]sync.Pool

func getBuffer(size int) []byte {
	if i := poolOf(size); i >= 0 {
		if b, ok := largeBuffers[i].Get().(*[]byte); ok {
			return *b
		}
	}
	return make([]byte, size)
}

func putBuffer(b []byte) {
	if i := poolOf(len(b)); i >= 0 {
		largeBuffers[i].Put(&b)
	}
}

// poolOf returns the place in largeBuffers for buffers of this size, -1 if none.
func poolOf(size int) int {
	if size <= keepBuffer || size > maxPooledBuffer || size&(size-1) != 0 {
		return -1
	}
	return bits.TrailingZeros(uint(size)) - keepBits - 1
}
