package client

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"math"
	"time"

	"github.com/zue-log/zue/net/wire"
	"github.com/zue-log/zue/storage"
	"github.com/zue-log/zue/storage/batch"
)

// FetchOptions say how much is fetched. The zero value is good.
type FetchOptions struct {
	// MaxBytes bounds the encoded entries of an answer, which has one at least if there
	// is any; 0 means 1 MiB.
	MaxBytes int
	// MinBytes is how many bytes of entries the server waits for; 0 means 1.
	MinBytes int
	// Wait is how long it waits for them; 0 means not at all. A server waits for 60 s
	// at most, and a client for half of Options.StallTimeout.
	Wait time.Duration
}

const defaultFetchBytes = 1 << 20

// Fetched are entries of the log, each of some records.
type Fetched struct {
	Offset uint64 // that was asked for
	First  uint64 // the first offset that the log keeps
	End    uint64 // the log's end offset
	// Raw are the entries as they stand in the log: none at its end. The first may
	// begin before Offset.
	Raw storage.RawEntries
}

// Next returns the offset to fetch from to go on.
func (f *Fetched) Next() uint64 { return f.Raw.EndOffset(f.Offset) }

// Records returns the records from Offset on, each verified by its entry's checksum, and
// their offsets found to follow one another. An error, which wraps [ErrCorrupt], is the
// last of them; so is one that wraps [storage.ErrVersion], for entries of a format that
// this library does not know. The records' bytes are those of Raw, where they are not compressed.
func (f *Fetched) Records() iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		cur := newCursor(f.Raw, f.Offset)
		var rec Record
		for {
			ok, err := cur.next(&rec)
			if err != nil {
				yield(Record{}, err)
				return
			}
			if !ok || !yield(rec, nil) {
				return
			}
		}
	}
}

// Fetch fetches records from an offset on: those of whole entries, as many as
// [FetchOptions.MaxBytes] lets in. When it may wait it has a connection of its own, so
// that it does not hold up others. What its server does not have yet is fetched from the leader
// as [Client.Read] says. All errors are [*OpError]s; an offset before the first or beyond the
// end of the log is a *wire.Error.
func (c *Client) Fetch(ctx context.Context, offset uint64, o FetchOptions) (*Fetched, error) {
	f, err := c.fetchHere(ctx, offset, o)
	if err != nil && c.behind(err, offset) {
		o.Wait = 0 // the leader has some; appends must not wait for more
		f, err = do(ctx, c.lead, c.fetchRequest(offset, o), parseFetched(offset))
	}
	if err == nil {
		c.learn(f.End)
	}
	return f, err
}

// fetchHere is Fetch from the client's server.
func (c *Client) fetchHere(ctx context.Context, offset uint64, o FetchOptions) (*Fetched, error) {
	r := c.fetchRequest(offset, o)
	if o.Wait <= 0 {
		return do(ctx, c.main, r, parseFetched(offset))
	}
	l := c.borrow()
	f, err := do(ctx, l, r, parseFetched(offset))
	c.giveBack(l, err != nil)
	return f, err
}

func (c *Client) fetchRequest(offset uint64, o FetchOptions) *request {
	// The server must not take as long as is given to it for saying anything.
	wait := max(0, min(o.Wait, c.opts.StallTimeout/2, math.MaxUint32*time.Millisecond))
	return &request{
		op: OpFetch, offset: offset, want: wire.TypeFetchResponse, size: smallRequest,
		encode: infallible(wire.FetchRequest{
			Offset:     offset,
			MaxBytes:   clampUint32(orDefault(o.MaxBytes, defaultFetchBytes)),
			MinBytes:   clampUint32(orDefault(o.MinBytes, 1)),
			WaitMillis: uint32(wait.Milliseconds()),
		}),
	}
}

func clampUint32(n int) uint32 { return uint32(max(0, min(n, math.MaxUint32))) }

// parseFetched makes a parser of the answer to a fetch from offset on.
func parseFetched(offset uint64) func([]byte) (*Fetched, error) {
	return func(payload []byte) (*Fetched, error) {
		m, err := wire.ParseFetchResponse(payload)
		if err != nil {
			return nil, err
		}
		return &Fetched{
			Offset: offset, First: m.First, End: m.End,
			Raw: storage.RawEntries{Bytes: bytes.Clone(m.Entries), Format: m.Format, Seed: m.Seed},
		}, nil
	}
}

// cursor reads records out of entries, from an offset on, and verifies them.
type cursor struct {
	entries *storage.EntryReader
	err     error
	records batch.Reader
	within  bool   // records has those of an entry
	opened  bool   // there was an entry with records
	dense   bool   // that entry has a record at each of its offsets
	end     uint64 // behind that entry
	offset  uint64 // the lowest that the next record can have
}

func newCursor(raw storage.RawEntries, offset uint64) *cursor {
	entries, err := storage.NewEntryReader(raw)
	return &cursor{entries: entries, err: err, offset: offset}
}

// next decodes the next record; false if there is none. An error is final.
func (c *cursor) next(rec *Record) (bool, error) {
	for c.err == nil {
		if !c.within {
			ok, err := c.open()
			if c.err = err; !ok || err != nil {
				break
			}
		}
		ok, err := c.records.Next(rec)
		switch {
		case err != nil:
			c.err = fmt.Errorf("%w: record at offset %d: %w", ErrCorrupt, c.offset, err)
		case !ok && c.dense && c.offset != c.end:
			c.err = fmt.Errorf("%w: no record at offset %d", ErrCorrupt, c.offset)
		case !ok:
			c.within, c.offset = false, c.end
		case rec.Offset < c.offset:
			// Of the part of a batch that was not asked for.
		case c.dense && rec.Offset != c.offset:
			c.err = fmt.Errorf("%w: record at offset %d where %d was due", ErrCorrupt, rec.Offset, c.offset)
		default:
			c.offset = rec.Offset + 1
			return true, nil
		}
	}
	return false, c.err
}

// open goes to the next entry with records.
func (c *cursor) open() (bool, error) {
	for {
		e, ok, err := c.entries.Next()
		if err != nil {
			return false, fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		if !ok {
			return false, nil
		}
		if e.Span == 0 { // a control entry
			if e.Offset != c.offset && c.opened {
				return false, fmt.Errorf("%w: entry at offset %d where %d was due", ErrCorrupt, e.Offset, c.offset)
			}
			continue
		}
		c.end = e.Offset + uint64(e.Span)
		if c.offset < e.Offset || c.offset >= c.end {
			return false, fmt.Errorf("%w: records %d to %d where %d was due", ErrCorrupt, e.Offset, c.end-1, c.offset)
		}
		if c.records, err = e.Records(); err != nil {
			return false, fmt.Errorf("%w: records %d to %d: %w", ErrCorrupt, e.Offset, c.end-1, err)
		}
		h := c.records.Header()
		if int64(h.LastOffsetDelta)+1 != int64(e.Span) {
			return false, fmt.Errorf("%w: records %d to %d, of which the batch has %d", ErrCorrupt, e.Offset, c.end-1, int64(h.LastOffsetDelta)+1)
		}
		c.within, c.dense, c.opened = true, int64(h.Count) == int64(e.Span), true
		return true, nil
	}
}
