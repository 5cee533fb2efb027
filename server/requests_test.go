package server

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zue-log/zue/net/wire"
	"github.com/zue-log/zue/storage"
	"github.com/zue-log/zue/storage/batch"
	"golang.org/x/sync/semaphore"
)

// message is what can be sent.
type message interface{ AppendTo([]byte) []byte }

// peer is a connection with a decoder.
type peer struct {
	t testing.TB
	c *net.TCPConn
	d *wire.Decoder
}

func newPeer(t testing.TB, addr string) *peer {
	c := dial(t, addr)
	return &peer{t, c, wire.NewDecoder(c, wire.MaxLargeFrame)}
}

func (p *peer) send(m message) {
	p.t.Helper()
	_, err := p.c.Write(m.AppendTo(nil))
	require.NoError(p.t, err)
}

// frame returns the next answer.
func (p *peer) frame() wire.Frame {
	p.t.Helper()
	for {
		f, ok, err := p.d.Next()
		require.NoError(p.t, err)
		if ok {
			return f
		}
		require.NoError(p.t, p.d.Fill())
	}
}

// refused expects an error response.
func (p *peer) refused(code wire.Code) string {
	p.t.Helper()
	f := p.frame()
	require.Equal(p.t, wire.TypeError, f.Type)
	e, err := wire.ParseError(f.Payload)
	require.NoError(p.t, err)
	require.Equal(p.t, code, e.Code, e.Message)
	return e.Message
}

func (p *peer) batch(m wire.BatchAppendRequest) wire.BatchAppendResponse {
	p.t.Helper()
	p.sendBatch(m)
	return p.receipt()
}

func (p *peer) sendBatch(m wire.BatchAppendRequest) {
	p.t.Helper()
	b, err := m.AppendTo(nil)
	require.NoError(p.t, err)
	_, err = p.c.Write(b)
	require.NoError(p.t, err)
}

func (p *peer) receipt() wire.BatchAppendResponse {
	p.t.Helper()
	f := p.frame()
	if f.Type == wire.TypeError {
		e, _ := wire.ParseError(f.Payload)
		p.t.Fatal(e)
	}
	m, err := wire.ParseBatchAppendResponse(f.Payload)
	require.NoError(p.t, err)
	return m
}

func (p *peer) fetch(m wire.FetchRequest) wire.FetchResponse {
	p.t.Helper()
	p.send(m)
	f := p.frame()
	require.Equal(p.t, wire.TypeFetchResponse, f.Type)
	a, err := wire.ParseFetchResponse(f.Payload)
	require.NoError(p.t, err)
	return a
}

// encoded is a batch of these values.
func encoded(codec batch.Codec, values ...string) wire.BatchAppendRequest {
	records := make([]storage.Record, len(values))
	for i, v := range values {
		records[i].Value = []byte(v)
	}
	body, err := batch.AppendCompressed(nil, records, 1000, codec)
	if err != nil {
		panic(err)
	}
	return wire.BatchAppendRequest{Checksum: batch.Checksum(body), Body: body}
}

// valuesOf decodes a fetch response from offset on.
func valuesOf(t testing.TB, a wire.FetchResponse, offset uint64) (values []string) {
	t.Helper()
	r, err := storage.NewEntryReader(storage.RawEntries{Bytes: a.Entries, Format: a.Format, Seed: a.Seed})
	require.NoError(t, err)
	for {
		e, ok, err := r.Next()
		require.NoError(t, err)
		if !ok {
			return values
		}
		records, err := e.Records()
		require.NoError(t, err)
		var rec storage.Record
		for {
			ok, err := records.Next(&rec)
			require.NoError(t, err)
			if !ok {
				break
			}
			if rec.Offset >= offset {
				values = append(values, string(rec.Value))
			}
		}
	}
}

func TestBatchAppend(t *testing.T) {
	addr, _, log := start(t, storage.Options{})
	p := newPeer(t, addr)
	require.Equal(t, wire.BatchAppendResponse{First: 0, Count: 2, Term: 1, Copies: 1}, p.batch(encoded(batch.CodecNone, "a", "b")))
	require.Equal(t, wire.BatchAppendResponse{First: 2, Count: 3, Term: 1, Copies: 1}, p.batch(encoded(batch.CodecZstd, "c", "d", "e")))

	m := encoded(batch.CodecNone, "f")
	m.Conditional, m.EndOffset = true, 4
	p.sendBatch(m)
	require.Contains(t, p.refused(wire.CodeOffsetMismatch), "ends at offset 5")
	m.EndOffset = 5
	require.EqualValues(t, 5, p.batch(m).First)

	bad := encoded(batch.CodecNone, "x")
	bad.Checksum++
	p.sendBatch(bad)
	p.refused(wire.CodeInvalidMessage)
	bad = encoded(batch.CodecNone, "x")
	bad.Body[len(bad.Body)-1]++ // the number of headers
	bad.Checksum = batch.Checksum(bad.Body)
	p.sendBatch(bad)
	p.refused(wire.CodeInvalidMessage)
	other := encoded(batch.CodecNone, "x")
	other.Log = 7
	p.sendBatch(other)
	p.refused(wire.CodeUnknownLog)
	require.EqualValues(t, 6, log.EndOffset())

	// Without a sync the receipt says so.
	addr, _, _ = start(t, storage.Options{Sync: storage.SyncNever()})
	require.Zero(t, newPeer(t, addr).batch(encoded(batch.CodecNone, "a")).Copies)
}

// TestOrder sends appends of both sorts, good and bad, and reads among them, in one write:
// the answers come in order, and each sees what came before.
func TestOrder(t *testing.T) {
	addr, _, _ := start(t, storage.Options{})
	p := newPeer(t, addr)
	var out []byte
	bad := encoded(batch.CodecNone, "x")
	bad.Checksum++
	for range 50 {
		out, _ = wire.AppendRequest{Value: []byte("one")}.AppendTo(out)
		out, _ = encoded(batch.CodecNone, "two", "three").AppendTo(out)
		out, _ = bad.AppendTo(out)
		out, _ = wire.AppendRequest{Value: []byte("four")}.AppendTo(out)
		out = wire.BarrierRequest{}.AppendTo(out)
	}
	_, err := p.c.Write(out)
	require.NoError(t, err)
	for i := range uint64(50) {
		one, err := wire.ParseAppendResponse(p.frame().Payload)
		require.NoError(t, err)
		require.Equal(t, 4*i, one.Offset)
		require.Equal(t, 4*i+1, p.receipt().First)
		p.refused(wire.CodeInvalidMessage)
		four, err := wire.ParseAppendResponse(p.frame().Payload)
		require.NoError(t, err)
		require.Equal(t, 4*i+3, four.Offset)
		end, err := wire.ParseBarrierResponse(p.frame().Payload)
		require.NoError(t, err)
		require.Equal(t, 4*i+4, end.End)
	}
}

func TestFetch(t *testing.T) {
	addr, _, log := start(t, storage.Options{SegmentBytes: 1 << 20})
	p := newPeer(t, addr)
	rng := rand.New(rand.NewPCG(1, 1))
	var want []string
	for i := range 300 {
		noise := make([]byte, 9000) // that no codec makes shorter
		for k := range noise {
			noise[k] = byte(rng.Uint32())
		}
		v := fmt.Sprint(i, string(noise))
		want = append(want, v)
		if i%3 == 2 {
			p.batch(encoded(batch.Codec(i%5), want[i-2:]...))
		}
	}
	require.Greater(t, log.Metrics().Segments, 2)
	for _, most := range []uint32{0, 1000, 40_000, 1 << 30} {
		var got []string
		for len(got) < len(want) {
			a := p.fetch(wire.FetchRequest{Offset: uint64(len(got)), MaxBytes: most})
			require.EqualValues(t, 0, a.First)
			require.EqualValues(t, len(want), a.End)
			values := valuesOf(t, a, uint64(len(got)))
			require.NotEmpty(t, values)
			got = append(got, values...)
		}
		require.Equal(t, want, got)
	}
	require.Equal(t, want[1:3], valuesOf(t, p.fetch(wire.FetchRequest{Offset: 1}), 1), "within a batch")
	require.Empty(t, p.fetch(wire.FetchRequest{Offset: 300, MaxBytes: 100}).Entries)
	p.send(wire.FetchRequest{Offset: 301})
	p.refused(wire.CodeInvalidOffset)
	p.send(wire.FetchRequest{Log: 1})
	p.refused(wire.CodeUnknownLog)
}

// TestFetchWaits has a fetch wait for more, for its time, and for the server's end.
func TestFetchWaits(t *testing.T) {
	// Without syncs no segment is left early, which would end an answer.
	addr, s, _ := start(t, storage.Options{Sync: storage.SyncNever()})
	p, q := newPeer(t, addr), newPeer(t, addr)
	q.batch(encoded(batch.CodecNone, "a"))
	begin := time.Now()
	require.Empty(t, p.fetch(wire.FetchRequest{Offset: 1, MaxBytes: 1000, MinBytes: 1, WaitMillis: 30}).Entries)
	require.GreaterOrEqual(t, time.Since(begin), 30*time.Millisecond)

	// An earlier request is answered before it waits.
	out := wire.BarrierRequest{}.AppendTo(nil)
	out = wire.FetchRequest{Offset: 0, MaxBytes: 1 << 20, MinBytes: 300, WaitMillis: 60_000}.AppendTo(out)
	_, err := p.c.Write(out)
	require.NoError(t, err)
	require.Equal(t, wire.TypeBarrierResponse, p.frame().Type)
	for range 3 {
		q.batch(encoded(batch.CodecNone, "b"))
	}
	a, err := wire.ParseFetchResponse(p.frame().Payload)
	require.NoError(t, err)
	got := valuesOf(t, a, 0)
	require.Equal(t, []string{"a", "b", "b", "b"}[:len(got)], got)
	require.GreaterOrEqual(t, len(got), 3, "104 bytes each, 300 were asked for")

	p.send(wire.FetchRequest{Offset: 4, MaxBytes: 1000, MinBytes: 1, WaitMillis: 60_000})
	require.Eventually(t, func() bool { return s.status().Connections == 2 }, time.Minute, time.Millisecond)
	require.NoError(t, s.Shutdown(context.Background()))
	f := p.frame()
	require.Equal(t, wire.TypeFetchResponse, f.Type, "the server's end ends the waiting")
	require.ErrorIs(t, p.d.Fill(), io.EOF)
}

func TestOffsetForTime(t *testing.T) {
	addr, _, _ := start(t, storage.Options{})
	p := newPeer(t, addr)
	p.batch(encoded(batch.CodecNone, "a", "b")) // at 1000
	for ms, want := range map[int64]uint64{-5: 0, 1000: 0, 1001: 2} {
		p.send(wire.OffsetForTimeRequest{Timestamp: ms})
		m, err := wire.ParseOffsetForTimeResponse(p.frame().Payload)
		require.NoError(t, err)
		require.Equal(t, want, m.Offset)
	}
	p.send(wire.OffsetForTimeRequest{Log: 9})
	p.refused(wire.CodeUnknownLog)
}

func TestStatusAndHello(t *testing.T) {
	addr, _, _ := start(t, storage.Options{Sync: storage.SyncInterval(time.Second)})
	p := newPeer(t, addr)
	p.send(wire.HelloRequest{Version: 9, Client: "test"})
	h, err := wire.ParseHelloResponse(p.frame().Payload)
	require.NoError(t, err)
	require.Equal(t, wire.HelloResponse{Version: 1, Server: "zue-server/" + Version, MaxFrame: wire.MaxLargeFrame}, h)
	p.send(wire.HelloRequest{})
	p.refused(wire.CodeInvalidMessage)
	p.batch(encoded(batch.CodecNone, "a", "b"))
	p.send(wire.StatusRequest{})
	m, err := wire.ParseStatusResponse(p.frame().Payload)
	require.NoError(t, err)
	var st wire.Status
	require.NoError(t, json.Unmarshal(m.JSON, &st))
	require.Equal(t, "standalone", st.Role)
	require.Equal(t, "interval=1s", st.Sync)
	require.Contains(t, st.SyncMeaning, "survives")
	require.EqualValues(t, 2, st.EndOffset)
	require.Equal(t, 1, st.Connections)
	require.Positive(t, st.FileBytes)
	for _, m := range []message{wire.StatusRequest{Log: 2}, wire.BarrierRequest{Log: 2}} {
		p.send(m)
		p.refused(wire.CodeUnknownLog)
	}
}

// TestTooManyConnections turns clients away beyond the limit, and takes them again below.
func TestTooManyConnections(t *testing.T) {
	addr, _, _ := start(t, storage.Options{}, func(s *Server) { s.opts.MaxConnections = 2 })
	p, q := newPeer(t, addr), newPeer(t, addr)
	p.batch(encoded(batch.CodecNone, "a"))
	q.batch(encoded(batch.CodecNone, "b"))
	third := newPeer(t, addr)
	require.Contains(t, third.refused(wire.CodeOverloaded), "2 connections")
	require.ErrorIs(t, third.d.Fill(), io.EOF)
	require.NoError(t, p.c.Close())
	require.Eventually(t, func() bool {
		r := newPeer(t, addr)
		r.send(wire.BarrierRequest{})
		return r.frame().Type == wire.TypeBarrierResponse
	}, time.Minute, time.Millisecond)
	_, err := New(nil, Options{MaxConnections: -1})
	require.ErrorContains(t, err, "connections")
}

// TestFrameLimits sends frames that are longer than their types may be.
func TestFrameLimits(t *testing.T) {
	addr, _, _ := start(t, storage.Options{})
	p := newPeer(t, addr)
	m := wire.BatchAppendRequest{Body: make([]byte, wire.MaxBatchBody)}
	p.sendBatch(m) // it fits, and is no batch
	p.refused(wire.CodeInvalidMessage)
	head := []byte{1, 0, 0xa0, 0, byte(wire.TypeAppendRequest)} // 10 MiB and a byte
	_, err := p.c.Write(head)
	require.NoError(t, err)
	p.refused(wire.CodeInvalidMessage)
	require.ErrorIs(t, p.d.Fill(), io.EOF)
}

// TestRequestBudget has one client take all the memory for large frames: another's is not
// read until there is room, and small requests are answered all the while.
func TestRequestBudget(t *testing.T) {
	memory := semaphore.NewWeighted(MinRequestBytes)
	addr, _, _ := start(t, storage.Options{}, func(s *Server) { s.memory = memory })
	greedy, other, small := newPeer(t, addr), newPeer(t, addr), newPeer(t, addr)
	frame, err := wire.AppendRequest{Value: make([]byte, wire.MaxRecord)}.AppendTo(nil)
	require.NoError(t, err)
	_, err = greedy.c.Write(frame[:100_000])
	require.NoError(t, err)
	sent := make(chan error, 1)
	require.Eventually(t, func() bool {
		there := memory.TryAcquire(MinRequestBytes)
		if there {
			memory.Release(MinRequestBytes)
		}
		return !there
	}, time.Minute, time.Millisecond, "the greedy one has its memory")
	go func() {
		_, err := other.c.Write(frame)
		sent <- err
	}()
	select {
	case err := <-sent:
		t.Fatalf("10 MiB were read: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	small.send(wire.BarrierRequest{})
	require.Equal(t, wire.TypeBarrierResponse, small.frame().Type)
	require.NoError(t, greedy.c.Close())
	require.NoError(t, <-sent)
	require.Equal(t, wire.TypeAppendResponse, other.frame().Type)
}
