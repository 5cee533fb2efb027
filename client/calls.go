package client

import "github.com/zue-log/zue/net/wire"

// call is a request that waits for its answer.
type call struct {
	want wire.Type // of the answer, when it is not an error
	size int       // of the request's frame
	end  uint64    // where its frame ends in the stream of all bytes to be sent

	offset uint64 // asked for, when reading

	// One of the two, called exactly once, from the receiver's goroutine.
	appended func(offset uint64, err error)
	read     func(record Record, err error)
}

// callQueue holds the calls in the order in which their requests are sent, which
// is the order of the answers. It is a ring, so that a long pipeline moves and
// allocates nothing.
type callQueue struct {
	ring  []call // of a length that is 0 or a power of two
	head  int
	count int
}

func (q *callQueue) push(c call) {
	if q.count == len(q.ring) {
		ring := make([]call, max(16, 2*len(q.ring)))
		for i := range q.count {
			ring[i] = q.ring[(q.head+i)&(len(q.ring)-1)]
		}
		q.ring, q.head = ring, 0
	}
	q.ring[(q.head+q.count)&(len(q.ring)-1)] = c
	q.count++
}

// oldest returns the oldest call. There must be one.
func (q *callQueue) oldest() *call { return &q.ring[q.head] }

// pop takes the oldest call. There must be one.
func (q *callQueue) pop() call {
	c := q.ring[q.head]
	q.ring[q.head] = call{} // what its function holds is not ours to keep
	q.head = (q.head + 1) & (len(q.ring) - 1)
	q.count--
	return c
}
