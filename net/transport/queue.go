package transport

import (
	"encoding/binary"
	"fmt"
	"net"

	"github.com/zue-log/zue/net/wire"
)

// queued is a frame that waits.
type queued struct {
	frame net.Buffers
	size  int
	done  func() // is called when it has been written or dropped; nil: nothing is
}

// end says that the frame is not needed any more.
func (f *queued) end() {
	if f.done != nil {
		f.done()
	}
}

// queue is frames that wait, oldest first. It keeps its memory, so that in the long run nothing
// is allocated.
type queue struct {
	frames []queued
	first  int // of frames: those before it have been taken
	bytes  int // of those that wait
}

func (q *queue) len() int { return len(q.frames) - q.first }

// cost is what they take of the queue's limit.
func (q *queue) cost() int { return q.bytes + q.len()*frameCost }

func (q *queue) push(f queued) {
	if q.first > 0 && len(q.frames) == cap(q.frames) && q.first >= len(q.frames)/2 {
		n := copy(q.frames, q.frames[q.first:])
		clear(q.frames[n:])
		q.frames, q.first = q.frames[:n], 0
	}
	q.frames = append(q.frames, f)
	q.bytes += f.size
}

// front returns the oldest; there must be one.
func (q *queue) front() *queued { return &q.frames[q.first] }

// pop removes the oldest; there must be one.
func (q *queue) pop() {
	f := q.front()
	q.bytes -= f.size
	*f = queued{}
	if q.first++; q.first == len(q.frames) {
		q.frames, q.first = q.frames[:0], 0
	}
}

// clear removes all, and returns how many they were. It gives back memory, too.
func (q *queue) clear() int {
	n := q.len()
	for i := range q.frames[q.first:] {
		q.frames[q.first+i].end()
	}
	*q = queue{}
	return n
}

// frameSize returns the size of a frame, or why it is none that may be sent.
func frameSize(frame net.Buffers) (int, error) {
	size := 0
	for _, part := range frame {
		size += len(part)
	}
	if len(frame) == 0 || len(frame[0]) < wire.PeerHeaderSize {
		return size, fmt.Errorf("frame of %d bytes without a header in its first part", size)
	}
	length := binary.LittleEndian.Uint32(frame[0])
	typ := wire.Type(frame[0][wire.HeaderSize])
	if !typ.IsPeer() || int64(length) != int64(size-wire.HeaderSize) || length > wire.MaxPeerFrame || typ != wire.TypeReplicate && length > wire.MaxFrame {
		return size, fmt.Errorf("frame of %v, of %d bytes, says that it has %d: it would not be taken", typ, size-wire.HeaderSize, length)
	}
	return size, nil
}
