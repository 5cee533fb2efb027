package main

import (
	"encoding/json"
	"fmt"
	"unicode/utf8"

	"github.com/zue-log/zue/storage"
	"github.com/zue-log/zue/storage/batch"
)

// object is one line of JSON. The names of its fields are documented in the command's
// help, and stay.
type object map[string]any

// write prints o in a line, its type first.
func (d *dumper) write(kind string, o object) {
	d.printf("{\"type\":%q", kind)
	text, err := json.Marshal(o) // its keys are sorted
	if err != nil {
		// It is made of strings, numbers and objects.
		d.printf(",\"error\":%q}\n", err.Error())
		return
	}
	if len(text) > 2 {
		d.printf(",%s\n", text[1:])
	} else {
		d.printf("}\n")
	}
}

// json prints an item, and for an entry its records if they are asked for.
func (d *dumper) json(item storage.Item) error {
	switch item := item.(type) {
	case *storage.StateItem:
		d.write("state", stateObject(item))
	case *storage.SegmentItem:
		d.write("segment", object{"path": item.Path, "size": item.Size, "before": placeObject(item.Before), "created": item.Created.UnixMilli(),
			"sealed": item.Sealed, "void": item.Void, "beyond": item.Beyond, "error": text(item.Err)})
	case *storage.EntryItem:
		d.write("entry", entryObject(item))
		if d.config.records {
			return d.eachRecord(&item.Entry, func(r *storage.Record) error {
				d.write("record", recordObject(r))
				return d.err()
			})
		}
	case *storage.DamageItem:
		e := d.explainDamage(item)
		d.write("damage", object{"path": item.Path, "from": item.From, "to": item.To, "index": item.Index, "offset": item.Offset,
			"reason": text(item.Err), "durable_mark": markObject(item.Mark), "flaws": flawObjects(item.Flaws()), "meaning": e.meaning, "advice": e.advice})
	case *storage.GapItem:
		e := explainGap(item)
		d.write("gap", object{"path": item.Path, "want": placeObject(item.Want), "found": placeObject(item.Found), "at_end": item.AtEnd,
			"reason": item.Corruption().Reason, "durable_mark": markObject(item.Mark), "meaning": e.meaning, "advice": e.advice})
	case *storage.SpaceItem:
		d.write("space", d.spaceObject(item))
	case *storage.FooterItem:
		d.write("footer", object{"path": item.Path, "position": item.Position, "end": item.End, "last": placeObject(item.Last),
			"max_timestamp": optional(item.MaxTime, item.HasTime)})
	case *storage.IndexItem:
		d.write("index", object{"path": item.Path, "health": item.Health.String(), "error": text(item.Err), "points": item.Count,
			"end": item.End, "last": placeObject(item.Last)})
		if d.config.index {
			d.jsonPoints(item)
		}
	}
	return d.err()
}

func (d *dumper) jsonPoints(x *storage.IndexItem) {
	for p := range x.Points() {
		if p.Offset >= d.config.from && p.Offset <= d.config.to {
			d.write("point", object{"offset": p.Offset, "index": p.Index, "position": p.Position, "record": p.Record,
				"max_timestamp_before": optional(p.Before, p.HasTime)})
		}
	}
}

// text is an error's text, or null.
func text(err error) any {
	if err == nil {
		return nil
	}
	return err.Error()
}

func optional(v int64, ok bool) any {
	if !ok {
		return nil
	}
	return v
}

// putBytes sets a field to bytes as a string, or in base64 under another name when
// they are no text: so a reader is never given a text that is not the bytes.
func putBytes(o object, name string, b []byte) {
	switch {
	case b == nil:
		o[name] = nil
	case utf8.Valid(b):
		o[name] = string(b)
	default:
		o[name+"_base64"] = b
	}
}

func placeObject(p storage.Place) object {
	return object{"index": p.Index, "term": p.Term, "offset": p.Offset, "chain": fmt.Sprintf("%016x", p.Chain)}
}

// markObject is null without a mark.
func markObject(m storage.DurableMark) any {
	source := map[storage.MarkSource]string{storage.MarkState: "state", storage.MarkEntry: "entry", storage.MarkFooter: "footer"}[m.Source]
	if source == "" {
		return nil
	}
	return object{"index": m.Index, "source": source, "path": m.Path, "position": m.Position}
}

func flawObjects(flaws []storage.Flaw) []object {
	out := []object{}
	for _, f := range flaws {
		out = append(out, object{"field": f.Field, "position": f.Position, "found": f.Found, "expected": f.Want})
	}
	return out
}

func stateObject(s *storage.StateItem) object {
	o := object{"path": s.Path, "missing": s.Missing, "sequence": s.Sequence, "origin": placeObject(s.Origin), "reset": s.Reset,
		"durable_mark": s.Mark, "copies": []any{text(s.Copies[0]), text(s.Copies[1])}, "mark_error": text(s.MarkErr)}
	putBytes(o, "user", s.User)
	return o
}

func entryObject(item *storage.EntryItem) object {
	e := &item.Entry
	o := object{"path": item.Path, "position": item.Position, "size": item.Size, "index": e.Index, "term": e.Term, "offset": e.Offset,
		"span": e.Span, "kind": e.Kind.String(), "bytes": len(e.Body), "checksum": fmt.Sprintf("%08x", e.Checksum),
		"chain": fmt.Sprintf("%016x", e.Chain), "durable_mark": e.Mark, "resumed": item.Resumed,
		"codec": nil, "records": 0, "base_timestamp": nil, "max_timestamp": nil}
	if h, err := batch.ParseHeader(e.Body); err == nil && e.Kind == storage.KindData {
		o["codec"], o["records"] = h.Codec().String(), h.Count
		o["base_timestamp"], o["max_timestamp"] = h.BaseTimestamp, h.MaxTimestamp
	}
	return o
}

func recordObject(r *storage.Record) object {
	o := object{"offset": r.Offset, "timestamp": r.Timestamp}
	putBytes(o, "key", r.Key)
	putBytes(o, "value", r.Value)
	headers := []object{}
	for _, h := range r.Headers {
		header := object{}
		putBytes(header, "key", h.Key)
		putBytes(header, "value", h.Value)
		headers = append(headers, header)
	}
	o["headers"] = headers
	return o
}

func (d *dumper) spaceObject(s *storage.SpaceItem) object {
	o := object{"path": s.Path, "from": s.From, "to": s.To, "torn_bytes": s.Used, "reason": text(s.Err), "next": placeObject(s.Next),
		"durable_mark": markObject(s.Mark), "flaws": flawObjects(s.Flaws()), "meaning": "zeros", "advice": ""}
	if s.Used > 0 {
		e := d.explainSpace(s)
		o["meaning"], o["advice"] = e.meaning, e.advice
	}
	return o
}

func (d *dumper) summary() (string, object) {
	r := &d.report
	indexes := object{}
	for health, n := range r.Indexes {
		indexes[storage.IndexHealth(health).String()] = n
	}
	return "summary", object{"segments": r.Segments, "sealed": r.Sealed, "entries": r.Entries, "records": r.Records, "bytes": r.Bytes,
		"end_offset": r.EndOffset, "torn_bytes": r.Torn, "segments_beyond": r.Beyond, "indexes": indexes, "damaged": len(r.Damage)}
}
