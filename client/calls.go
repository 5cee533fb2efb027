package client

import "github.com/zue-log/zue/net/wire"

// request is a message to be sent, and what its answer is to be.
type request struct {
	op     Op
	offset uint64    // asked for; for errors
	want   wire.Type // of the answer, when it is not an error
	size   int       // of the frame, or no less: what it takes of the window
	encode func(dst []byte) ([]byte, error)
}

// smallRequest is a size for requests of a few fixed fields.
const smallRequest = 64

// waiter gets the answer to a request, from the receiver's goroutine: answered or
// failed is called, once, or failed after answered has returned an error.
type waiter interface {
	// answered gets the payload of the answer, which is valid until it returns. An
	// error says that it makes no sense.
	answered(payload []byte) error
	failed(err error)
}

// waiting is a waiter that parses an answer and calls a function with it.
type waiting[T any] struct {
	parse func(payload []byte) (T, error)
	done  func(T, error)
}

func (w *waiting[T]) answered(payload []byte) error {
	v, err := w.parse(payload)
	if err == nil {
		w.done(v, nil)
	}
	return err
}

func (w *waiting[T]) failed(err error) {
	var none T
	w.done(none, err)
}

// call is a request that waits for its answer.
type call struct {
	op     Op
	offset uint64
	want   wire.Type
	size   int    // of the request's frame
	end    uint64 // where its frame ends in the stream of all bytes to be sent
	waiter waiter
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
	q.ring[q.head] = call{} // what its waiter holds is not ours to keep
	q.head = (q.head + 1) & (len(q.ring) - 1)
	q.count--
	return c
}
