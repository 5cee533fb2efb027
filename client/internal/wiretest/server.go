// Package wiretest is a Zue server for tests of clients: a log in memory behind
// the real wire protocol (append, read and batch append), which misbehaves where a test
// wants it to; and a cluster of such.
package wiretest

import (
	"bytes"
	"errors"
	"io"
	"math"
	"net"
	"strconv"
	"sync"
	"testing"

	"github.com/zue-log/zue/net/wire"
	"github.com/zue-log/zue/storage/batch"
	"github.com/zue-log/zue/tests/programs"
)

// Record is a record of the server's log.
type Record struct {
	// Key is nil for the null key.
	Key []byte
	// Value may be empty.
	Value []byte
}

// Action is what the server does with one request instead of carrying it out. At
// most one of its fields is set.
type Action struct {
	// Reply is sent as it is.
	Reply []byte
	// Ignore leaves the request without an answer.
	Ignore bool
	// Hang closes the connection, after all answers before have been sent.
	Hang bool
	// ApplyAndHang carries the request out, and closes the connection without its
	// answer.
	ApplyAndHang bool
}

// Refuse is the action of an error response.
func Refuse(code wire.Code, message string) *Action {
	return &Action{Reply: (&wire.Error{Code: code, Message: message}).AppendTo(nil)}
}

// Options say how a server misbehaves. The zero value does not.
type Options struct {
	// Script is asked about each request but that for the status, numbered from 0 over
	// all connections; nil, or a nil Action, means that it is carried out. It is called by
	// one goroutine at a time.
	Script func(n int, f wire.Frame) *Action
	// ReplyChunk cuts answers into writes of so many bytes; 0 means whole.
	ReplyChunk int

	log *memoryLog // of a cluster; nil: one of its own
}

// memoryLog is a log that servers may share.
type memoryLog struct {
	mu       sync.Mutex
	records  []Record
	produced map[sequenced]uint64 // first offsets of producers' batches
	next     map[int64]int32      // sequence numbers that are due, by producer
}

func newMemoryLog() *memoryLog {
	return &memoryLog{produced: map[sequenced]uint64{}, next: map[int64]int32{}}
}

// sequenced is what tells a batch of a producer from all others.
type sequenced struct {
	id       int64
	epoch    int16
	sequence int32
}

// Server is a log in memory that answers over the wire protocol. Its methods are safe for
// concurrent use.
type Server struct {
	opts     Options
	listener net.Listener // nil when it listens nowhere
	tasks    sync.WaitGroup

	log      *memoryLog
	mu       sync.Mutex
	requests int
	conns    map[net.Conn]struct{} // nil once the server is closed
}

// Start starts a server on a port of 127.0.0.1, which programs.Listen gives. It is closed, and
// all its goroutines have ended, when the test ends.
func Start(t testing.TB, opts Options) *Server {
	t.Helper()
	listener := programs.Listen(t)
	s := StartUnheard(t, opts)
	s.listener = listener
	s.tasks.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			s.Serve(conn)
		}
	})
	return s
}

// StartUnheard starts a server that listens nowhere: it answers only on what
// [Server.Serve] is given. So it can be in a synctest bubble, where waiting for a
// network would keep the clock from moving. It is closed when the test ends.
func StartUnheard(t testing.TB, opts Options) *Server {
	t.Helper()
	s := &Server{opts: opts, log: opts.log, conns: map[net.Conn]struct{}{}}
	if s.log == nil {
		s.log = newMemoryLog()
	}
	t.Cleanup(s.Close)
	return s
}

// Close closes the listener and all connections, and waits for the end of all
// goroutines. It may be called more than once.
func (s *Server) Close() {
	if s.listener != nil {
		_ = s.listener.Close() // twice is fine
	}
	s.mu.Lock()
	for conn := range s.conns {
		_ = conn.Close()
	}
	s.conns = nil
	s.mu.Unlock()
	s.tasks.Wait()
}

// Address returns "host:port".
func (s *Server) Address() string { return s.listener.Addr().String() }

// Port returns the port in decimal.
func (s *Server) Port() string {
	return strconv.Itoa(s.listener.Addr().(*net.TCPAddr).Port)
}

// Records returns a copy of the log.
func (s *Server) Records() []Record {
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	return append([]Record(nil), s.log.records...)
}

// Append puts a record into the log, past the wire.
func (s *Server) Append(key, value []byte) {
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	s.log.records = append(s.log.records, Record{Key: bytes.Clone(key), Value: bytes.Clone(value)})
}

// Serve answers on a connection, which it takes over, in a goroutine of the server.
func (s *Server) Serve(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns == nil {
		_ = conn.Close() // the server is closed
		return
	}
	s.conns[conn] = struct{}{}
	s.tasks.Go(func() {
		_ = s.serve(conn) // how a client hangs up is its own affair
		s.mu.Lock()
		delete(s.conns, conn)
		s.mu.Unlock()
		_ = conn.Close()
	})
}

// keepReplies bounds the buffer that a connection keeps, so that tests can measure
// what memory their client holds.
const keepReplies = 64 << 10

var errHangUp = errors.New("the script says so")

func (s *Server) serve(conn net.Conn) error {
	d := wire.NewDecoder(conn, wire.MaxLargeFrame)
	var spare []byte
	for {
		var err error
		if spare, err = s.answerAll(conn, d, spare); err != nil {
			return err
		}
		if err := d.Fill(); err != nil {
			return err
		}
	}
}

// answerAll answers all that has been read, in one write. It returns a buffer for
// the next answers, and why there will be none.
func (s *Server) answerAll(conn net.Conn, d *wire.Decoder, spare []byte) ([]byte, error) {
	replies := spare[:0]
	for {
		f, ok, err := d.Next()
		if err == nil && ok {
			if replies, err = s.answer(replies, f); err == nil {
				continue
			}
		}
		if writeErr := s.write(conn, replies); writeErr != nil {
			return nil, writeErr
		}
		if cap(replies) > keepReplies {
			replies = nil
		}
		return replies, err
	}
}

func (s *Server) write(w io.Writer, b []byte) error {
	size := s.opts.ReplyChunk
	if size <= 0 {
		size = len(b)
	}
	for len(b) > 0 {
		n := min(size, len(b))
		if _, err := w.Write(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

func (s *Server) answer(replies []byte, f wire.Frame) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.Type == wire.TypeStatusRequest && s.opts.log == nil {
		end := uint64(len(s.Records()))
		return wire.Status{Role: "standalone", CommittedOffset: end, EndOffset: end}.Response().AppendTo(replies), nil
	}
	n := s.requests
	s.requests++
	if s.opts.Script != nil {
		if a := s.opts.Script(n, f); a != nil {
			switch {
			case a.Ignore:
				return replies, nil
			case a.Hang:
				return replies, errHangUp
			case a.ApplyAndHang:
				s.log.apply(nil, f)
				return replies, errHangUp
			}
			return append(replies, a.Reply...), nil
		}
	}
	return s.log.apply(replies, f), nil
}

// apply carries a request out and appends its answer.
func (s *memoryLog) apply(replies []byte, f wire.Frame) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	refuse := func(code wire.Code, message string) []byte {
		return (&wire.Error{Code: code, Message: message}).AppendTo(replies)
	}
	switch f.Type {
	case wire.TypeAppendRequest:
		m, err := wire.ParseAppendRequest(f.Payload)
		if err != nil {
			return refuse(wire.CodeInvalidMessage, err.Error())
		}
		s.records = append(s.records, Record{Key: bytes.Clone(m.Key), Value: bytes.Clone(m.Value)})
		return wire.AppendResponse{Offset: uint64(len(s.records) - 1)}.AppendTo(replies)
	case wire.TypeReadRequest:
		m, err := wire.ParseReadRequest(f.Payload)
		if err != nil {
			return refuse(wire.CodeInvalidMessage, err.Error())
		}
		if m.Offset >= uint64(len(s.records)) {
			return refuse(wire.CodeInvalidOffset, "beyond the end")
		}
		r := s.records[m.Offset]
		replies, err := wire.ReadResponse{Key: r.Key, Value: r.Value}.AppendTo(replies)
		if err != nil {
			return refuse(wire.CodeSerialization, err.Error())
		}
		return replies
	}
	if f.Type == wire.TypeBatchAppendRequest {
		return s.applyBatch(replies, f)
	}
	return refuse(wire.CodeInvalidMessage, "unknown "+f.Type.String())
}

// applyBatch is apply for a batch. s.mu is held.
func (s *memoryLog) applyBatch(replies []byte, f wire.Frame) []byte {
	refuse := func(code wire.Code, message string) []byte {
		return (&wire.Error{Code: code, Message: message}).AppendTo(replies)
	}
	m, err := wire.ParseBatchAppendRequest(f.Payload)
	if err != nil {
		return refuse(wire.CodeInvalidMessage, err.Error())
	}
	end := uint64(len(s.records))
	if m.Conditional && m.EndOffset != end {
		return refuse(wire.CodeOffsetMismatch, "the log ends at offset "+strconv.FormatUint(end, 10))
	}
	h, err := batch.Check(m.Body, 4*wire.MaxBatchBody)
	if err != nil || batch.Checksum(m.Body) != m.Checksum {
		return refuse(wire.CodeInvalidMessage, "not a batch, or a wrong checksum")
	}
	by := sequenced{h.ProducerID, h.ProducerEpoch, h.BaseSequence}
	if first, ok := s.produced[by]; ok && by.id >= 0 {
		return wire.BatchAppendResponse{First: first, Count: uint32(h.Count), Term: 1, Copies: 1, Duplicate: true}.AppendTo(replies)
	}
	if s.next[by.id] != by.sequence && by.id >= 0 { // a new producer begins with 0
		return refuse(wire.CodeSequenceGap, "not the next")
	}
	s.produced[by], s.next[by.id] = end, int32((int64(by.sequence)+int64(h.Count))&math.MaxInt32)
	body, err := batch.Decompress(nil, m.Body, 4*wire.MaxBatchBody)
	if err != nil {
		return refuse(wire.CodeInvalidMessage, err.Error())
	}
	r, err := batch.NewReader(body, 0)
	var rec batch.Record
	for ok := err == nil; ok; {
		if ok, err = r.Next(&rec); ok {
			s.records = append(s.records, Record{Key: rec.Key, Value: rec.Value}) // body is a copy
		}
	}
	if err != nil {
		return refuse(wire.CodeInvalidMessage, err.Error())
	}
	return wire.BatchAppendResponse{First: end, Count: uint32(h.Count), Term: 1, Copies: 1}.AppendTo(replies)
}
