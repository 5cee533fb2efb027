package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/zue-log/zue/net/wire"
	"github.com/zue-log/zue/storage"
)

const (
	// maxWait bounds how long a fetch waits for more: a client that is gone is noticed
	// by then.
	maxWait = 60 * time.Second
	// copied is how many bytes of a value, or of entries, are copied into the answers
	// that gather, rather than sent by a system call of their own.
	copied = 16 << 10
)

// answer answers a request that appends nothing. An error that is no *MalformedError ends
// the session.
func (c *session) answer(f wire.Frame) error {
	switch f.Type {
	case wire.TypeReadRequest:
		m, err := wire.ParseReadRequest(f.Payload)
		if err != nil {
			return err
		}
		return c.read(m.Offset)
	case wire.TypeHelloRequest:
		m, err := wire.ParseHelloRequest(f.Payload)
		if err == nil {
			c.hello(&m)
		}
		return err
	case wire.TypeFetchRequest:
		m, err := wire.ParseFetchRequest(f.Payload)
		if err != nil || c.unknownLog(m.Log) {
			return err
		}
		return c.fetch(&m)
	case wire.TypeOffsetForTimeRequest:
		m, err := wire.ParseOffsetForTimeRequest(f.Payload)
		if err == nil && !c.unknownLog(m.Log) {
			c.offsetForTime(m.Timestamp)
		}
		return err
	case wire.TypeStatusRequest:
		m, err := wire.ParseStatusRequest(f.Payload)
		if err == nil && !c.unknownLog(m.Log) {
			c.out = c.server.status().Response().AppendTo(c.out)
		}
		return err
	case wire.TypeBarrierRequest:
		m, err := wire.ParseBarrierRequest(f.Payload)
		if err != nil || c.unknownLog(m.Log) {
			return err
		}
		return c.barrier()
	case wire.TypeProducerRequest:
		m, err := wire.ParseProducerRequest(f.Payload)
		if err == nil && !c.unknownLog(m.Log) {
			c.newProducer()
		}
		return err
	case wire.TypeChainRequest:
		m, err := wire.ParseChainRequest(f.Payload)
		if err == nil && !c.unknownLog(m.Log) {
			c.chain(m.Offset)
		}
		return err
	case wire.TypeTransferRequest, wire.TypeRemoveRequest, wire.TypeAllowRequest:
		return c.manage(f)
	case wire.TypePeerHello:
		c.refusePeer()
		return nil
	}
	c.refuse(wire.CodeInvalidMessage, fmt.Sprintf("%s is no request that this server knows", f.Type))
	return nil
}

// unknownLog refuses a request for another log than the only one.
func (c *session) unknownLog(id wire.LogID) bool {
	if id != 0 {
		c.refuse(wire.CodeUnknownLog, fmt.Sprintf("there is no log %d here, only log 0", id))
	}
	return id != 0
}

func (c *session) hello(m *wire.HelloRequest) {
	if m.Version == 0 {
		c.refuse(wire.CodeInvalidMessage, "hello of version 0: versions begin with 1")
		return
	}
	c.server.logger.Debug("hello", "client", c.conn.RemoteAddr().String(), "name", m.Client, "version", m.Version)
	c.out = wire.HelloResponse{
		Version: min(m.Version, wire.ProtocolVersion), Server: "zue-server/" + Version, MaxFrame: wire.MaxLargeFrame,
	}.AppendTo(c.out)
}

// read answers a read request. A null value, which the original messages cannot
// express, is answered as an empty one.
func (c *session) read(offset uint64) error {
	rec, lease, err := c.server.log.Read(offset)
	if err != nil && c.mended(err) {
		rec, lease, err = c.server.log.Read(offset)
	}
	if err != nil {
		c.refuse(codeOf(err), err.Error())
		return nil
	}
	defer lease.Release()
	m := wire.ReadResponse{Key: rec.Key, Value: rec.Value}
	held := len(m.Key) // the value is sent from the mapped file, unless it was compressed
	if !lease.Maps(m.Value) {
		held += len(m.Value)
	}
	if held > smallFrame {
		return c.sendCopy(m, int64(bufferFactor*held))
	}
	out, err := m.AppendHeaderTo(c.out)
	if err != nil {
		c.refuse(wire.CodeSerialization, err.Error())
		return nil
	}
	c.out = out
	return c.send(m.Value)
}

// sendCopy sends an answer whose copy takes up n bytes, which a client that does not read
// must not have from more than the server's budget.
func (c *session) sendCopy(m wire.ReadResponse, n int64) error {
	if err := c.flush(); err != nil {
		return err
	}
	c.release()
	if err := c.acquire(n); err != nil {
		return err
	}
	defer c.server.memory.Release(n)
	out, err := m.AppendTo(c.out)
	if err != nil {
		c.refuse(wire.CodeSerialization, err.Error())
		return nil
	}
	c.out = out
	return c.flush()
}

// send sends b, which belongs behind c.out: copied, or, if it is long, from where it is,
// so that a client which does not read costs no memory.
func (c *session) send(b []byte) error {
	if len(b) <= copied {
		c.out = append(c.out, b...)
		return nil
	}
	err := c.write(c.out, b)
	c.out = c.out[:0]
	return err
}

func (c *session) offsetForTime(ms int64) {
	offset, err := c.server.log.OffsetForTime(ms)
	if err != nil && c.mended(err) {
		offset, err = c.server.log.OffsetForTime(ms)
	}
	if err != nil {
		c.refuse(codeOf(err), err.Error())
		return
	}
	c.out = wire.OffsetForTimeResponse{Offset: offset}.AppendTo(c.out)
}

// fetch answers a fetch request, when there is enough, or its time is up.
func (c *session) fetch(m *wire.FetchRequest) error {
	log := c.server.log
	most := int(min(max(m.MaxBytes, 1), wire.MaxFetchEntries)) // there is always an entry, if any
	least := min(int(m.MinBytes), most)
	raw, lease, err := log.ReadRaw(m.Offset, most)
	if err != nil && c.mended(err) {
		raw, lease, err = log.ReadRaw(m.Offset, most)
	}
	if err == nil && m.WaitMillis > 0 && len(raw.Bytes) < least {
		// Answers to earlier requests need not wait for it, nor others for their memory.
		if err := c.flush(); err != nil {
			lease.Release()
			return err
		}
		c.release()
		raw, lease, err = c.awaitMore(m, least, most, raw, lease)
	}
	if err == nil && len(raw.Bytes) > wire.MaxFetchEntries {
		lease.Release()
		err = fmt.Errorf("fetch from offset %d: %w: its entry has %d bytes and does not fit in a frame; read its records one by one",
			m.Offset, storage.ErrTooLarge, len(raw.Bytes))
	}
	if err != nil {
		c.refuse(codeOf(err), err.Error())
		return nil
	}
	defer lease.Release()
	c.out = wire.FetchResponse{First: log.FirstOffset(), End: log.EndOffset(), Format: raw.Format, Seed: raw.Seed, Entries: raw.Bytes}.
		AppendHeaderTo(c.out)
	return c.send(raw.Bytes) // from the mapped file to the socket
}

// awaitMore waits until there are at least so many bytes from the request's offset on, or
// there will be no more of them in one answer, and returns them.
func (c *session) awaitMore(m *wire.FetchRequest, least, most int, raw storage.RawEntries, lease storage.Lease) (storage.RawEntries, storage.Lease, error) {
	log := c.server.log
	ctx, cancel := context.WithTimeout(c.server.waits, min(time.Duration(m.WaitMillis)*time.Millisecond, maxWait))
	defer cancel()
	for before := -1; len(raw.Bytes) < least; {
		end := raw.EndOffset(m.Offset)
		if end < log.EndOffset() {
			if len(raw.Bytes) == before {
				break // the next entry is in another segment, or too long
			}
		} else if err := log.WaitFor(ctx, end); err != nil {
			if ctx.Err() == nil && !errors.Is(err, storage.ErrClosed) {
				lease.Release()
				return raw, storage.Lease{}, err
			}
			break // time is up, or the server stops
		}
		before = len(raw.Bytes)
		lease.Release()
		var err error
		if raw, lease, err = log.ReadRaw(m.Offset, most); err != nil {
			return raw, storage.Lease{}, err
		}
	}
	return raw, lease, nil
}
