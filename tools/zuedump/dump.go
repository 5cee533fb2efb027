package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/zue-log/zue/storage"
	"github.com/zue-log/zue/storage/batch"
)

// maxShown is how many bytes of a key or a value are printed without --full.
const maxShown = 64

// dumper prints the items of a walk.
type dumper struct {
	ctx    context.Context
	config config
	out    *bufio.Writer
	alone  bool // a single file, not a directory
	report storage.Report

	path      string // of the segment at hand
	sealed    bool
	heading   bool // the columns' names are still to come
	explained bool // the first bad place was
}

func newDumper(ctx context.Context, c config, out io.Writer, alone bool) *dumper {
	return &dumper{ctx: ctx, config: c, out: bufio.NewWriterSize(out, 64<<10), alone: alone}
}

func (d *dumper) visit(item storage.Item) error {
	if err := d.ctx.Err(); err != nil {
		return err
	}
	d.report.Add(item)
	if s, ok := item.(*storage.SegmentItem); ok {
		d.path, d.sealed, d.heading = s.Path, s.Sealed, true
	}
	if !d.wanted(item) {
		return nil
	}
	if d.config.json {
		return d.json(item)
	}
	return d.text(item)
}

// wanted says whether the item is to be printed. Damage always is.
func (d *dumper) wanted(item storage.Item) bool {
	c := &d.config
	switch item := item.(type) {
	case *storage.StateItem:
		return c.state || c.entries()
	case *storage.SegmentItem, *storage.FooterItem:
		return c.entries()
	case *storage.IndexItem:
		if d.alone && !c.index && item.Health == storage.IndexMissing {
			return false
		}
		return c.index || c.entries()
	case *storage.EntryItem:
		e := &item.Entry
		return c.entries() && e.Offset <= c.to && (e.Offset >= c.from || e.Offset+uint64(e.Span) > c.from)
	case *storage.SpaceItem:
		return c.entries() || item.Used > 0
	}
	return true
}

// text prints an item for people.
func (d *dumper) text(item storage.Item) error {
	switch item := item.(type) {
	case *storage.StateItem:
		d.state(item)
	case *storage.SegmentItem:
		d.segment(item)
	case *storage.EntryItem:
		return d.entry(item)
	case *storage.DamageItem:
		d.damage(item)
	case *storage.GapItem:
		d.gap(item)
	case *storage.SpaceItem:
		d.space(item)
	case *storage.FooterItem:
		d.printf("%12d  footer: the entries end at position %d with entry %d; next offset %d; latest timestamp %s\n",
			item.Position, item.End, item.Last.Index, item.Last.Offset, stamp(item.MaxTime, item.HasTime))
	case *storage.IndexItem:
		d.index(item)
	}
	return d.err()
}

// printf prints to the buffer, which keeps the first error for err.
func (d *dumper) printf(format string, args ...any) { _, _ = fmt.Fprintf(d.out, format, args...) }

// err returns what went wrong in printing.
func (d *dumper) err() error {
	_, err := d.out.Write(nil)
	return err
}

func place(p storage.Place) string {
	if p == (storage.Place{}) {
		return "nothing"
	}
	return fmt.Sprintf("entry %d of term %d, offset %d, chain %016x", p.Index, p.Term, p.Offset, p.Chain)
}

func stamp(ms int64, ok bool) string {
	if !ok {
		return "none"
	}
	return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z")
}

func (d *dumper) state(s *storage.StateItem) {
	if s.Missing {
		d.printf("%s: missing, or never written\n", s.Path)
		return
	}
	d.printf("%s: the first entry follows %s; durable up to entry %d; %d bytes of its user's\n", s.Path, place(s.Origin), s.Mark, len(s.User))
	if s.Reset {
		d.printf("  a reset was under way: all segments are void\n")
	}
	for i, err := range s.Copies {
		if err != nil {
			d.printf("  copy %d: %v; the next opening makes it good from the other\n", i+1, err)
		}
	}
	if s.MarkErr != nil {
		d.printf("  %v: what a crash has torn cannot be told from damage as well as with it\n", s.MarkErr)
	}
	if d.config.state {
		d.printf("  sequence %d\n  user %s\n", s.Sequence, quote(append([]byte{}, s.User...), true))
	}
}

func (d *dumper) segment(s *storage.SegmentItem) {
	kind := "not sealed"
	switch {
	case s.Void:
		kind = "void: the state says that it is not of the log; the next opening removes it"
	case s.Beyond:
		kind = "behind the end of the log, never durable; the next opening removes it"
	case s.Err != nil:
		kind = s.Err.Error()
	case s.Sealed:
		kind = "sealed"
	}
	d.printf("\n%s: %d bytes, %s", s.Path, s.Size, kind)
	if s.Err == nil {
		d.printf("; made %s; follows %s", s.Created.Format("2006-01-02T15:04:05.000Z"), place(s.Before))
	}
	d.printf("\n")
}

func (d *dumper) entry(item *storage.EntryItem) error {
	if d.heading {
		d.heading = false
		d.printf("%12s %8s %5s %-13s %-7s %8s %-6s %-16s %s\n", "position", "index", "term", "offsets", "kind", "bytes", "codec", "chain", "timestamps")
	}
	e := &item.Entry
	offsets := "-"
	if e.Span > 0 {
		offsets = strconv.FormatUint(e.Offset, 10)
		if e.Span > 1 {
			offsets += "-" + strconv.FormatUint(e.Offset+uint64(e.Span)-1, 10)
		}
	}
	codec, times := "-", "-"
	if h, err := batch.ParseHeader(e.Body); err == nil && e.Kind == storage.KindData {
		codec, times = h.Codec().String(), stamp(h.BaseTimestamp, true)
		if h.MaxTimestamp != h.BaseTimestamp {
			times += " to " + stamp(h.MaxTimestamp, true)
		}
	}
	d.printf("%12d %8d %5d %-13s %-7s %8d %-6s %016x %s\n", item.Position, e.Index, e.Term, offsets, e.Kind, len(e.Body), codec, e.Chain, times)
	if !d.config.records {
		return d.err()
	}
	return d.eachRecord(e, func(r *storage.Record) error {
		d.printf("%12s offset %d  %s  %s = %s", "", r.Offset, stamp(r.Timestamp, true), quote(r.Key, d.config.full), quote(r.Value, d.config.full))
		for _, h := range r.Headers {
			d.printf("  %s: %s", quote(h.Key, d.config.full), quote(h.Value, d.config.full))
		}
		d.printf("\n")
		return d.err()
	})
}

// eachRecord calls print with the records of a data entry that are asked for. A batch
// that cannot be read is said to be so, and is no error: --check reports it.
func (d *dumper) eachRecord(e *storage.Entry, print func(*storage.Record) error) error {
	if e.Kind != storage.KindData {
		return nil
	}
	r, err := batch.NewReader(e.Body, e.Offset)
	if errors.Is(err, batch.ErrCompressed) {
		var body []byte
		if body, err = batch.Decompress(nil, e.Body, storage.MaxBodyBytes); err == nil {
			r, err = batch.NewReader(body, e.Offset)
		}
	}
	var rec storage.Record
	for err == nil {
		var ok bool
		if ok, err = r.Next(&rec); !ok {
			break
		}
		if rec.Offset < d.config.from || rec.Offset > d.config.to {
			continue
		}
		if err := print(&rec); err != nil {
			return err
		}
	}
	if err != nil && !d.config.json {
		d.printf("%12s records cannot be read: %v\n", "", err)
	}
	return d.err()
}

// quote makes bytes printable, in one line.
func quote(b []byte, full bool) string {
	if b == nil {
		return "null"
	}
	if full || len(b) <= maxShown {
		return strconv.Quote(string(b))
	}
	return fmt.Sprintf("%s... (%d bytes)", strconv.Quote(string(b[:maxShown])), len(b))
}

func (d *dumper) index(x *storage.IndexItem) {
	d.printf("%12s  %s: %s", "index", x.Path, x.Health)
	switch x.Health {
	case storage.IndexGood:
		d.printf(", %d points up to position %d, offset %d", x.Count, x.End, x.Last.Offset)
	case storage.IndexOpen:
		d.printf(": a process has the log open, or did not close it")
	case storage.IndexMissing:
		d.printf("; the next opening makes it anew")
	default:
		d.printf(": %v; the next opening makes it anew", x.Err)
	}
	d.printf("\n")
	if !d.config.index {
		return
	}
	if x.Count > 0 {
		d.printf("%12s %12s %12s %12s  %s\n", "offset", "index", "position", "record at", "latest timestamp before")
	}
	for p := range x.Points() {
		if p.Offset >= d.config.from && p.Offset <= d.config.to {
			d.printf("%12d %12d %12d %12d  %s\n", p.Offset, p.Index, p.Position, p.Record, stamp(p.Before, p.HasTime))
		}
	}
}

// finish prints the summary, if it is asked for, and what is left in the buffer.
func (d *dumper) finish() error {
	if d.config.check && d.config.json {
		d.write(d.summary())
	} else if d.config.check {
		r := &d.report
		d.printf("%s: segments %d (sealed %d), entries %d, records %d, bytes of entries %d, end offset %d\n",
			d.config.path, r.Segments, r.Sealed, r.Entries, r.Records, r.Bytes, r.EndOffset)
		var indexes []string
		for health, n := range r.Indexes {
			if n > 0 {
				indexes = append(indexes, fmt.Sprintf("%d %s", n, storage.IndexHealth(health)))
			}
		}
		if len(indexes) > 0 {
			d.printf("indexes: %s\n", strings.Join(indexes, ", "))
		}
		if r.Torn > 0 || r.Beyond > 0 {
			d.printf("torn: bytes behind the last entry %d, segments that the next opening removes %d\n", r.Torn, r.Beyond)
		}
		if len(r.Damage) == 0 {
			d.printf("no damage\n")
		} else {
			d.printf("DAMAGED, bad places: %d\n", len(r.Damage))
		}
	}
	return d.out.Flush()
}
