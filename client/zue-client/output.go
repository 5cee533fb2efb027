package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"syscall"
	"unicode/utf8"

	"github.com/zue-log/zue/client"
)

// errNobodyReads is in the tree of an error when what reads the output has gone, as head does
// when it has enough. That is no failure to tell anybody of, but for an append.
var errNobodyReads = errors.New("nobody reads the output")

// outputError marks an error of writing to standard output. Elsewhere EPIPE means that a
// connection is lost.
func outputError(err error) error {
	if errors.Is(err, syscall.EPIPE) {
		return fmt.Errorf("%w: %w", errNobodyReads, err)
	}
	return err
}

func (a *app) printOffset(offset uint64) error {
	format := "%d\n"
	if a.json {
		format = `{"offset":%d}` + "\n"
	}
	_, err := fmt.Fprintf(a.stdout, format, offset)
	return err
}

// printRecord prints a record as JSON, or its value, raw or with a line feed.
func printRecord(w io.Writer, r client.Record, json, raw bool) error {
	var out []byte
	switch {
	case json:
		out = fmt.Appendf(out, `{"offset":%d,`, r.Offset)
		if r.Key == nil {
			out = append(out, `"key":null`...)
		} else {
			out = appendJSONField(out, "key", r.Key)
		}
		out = append(out, ',')
		out = appendJSONField(out, "value", r.Value)
		out = append(out, '}', '\n')
	case raw:
		out = r.Value
	default:
		out = append(append(out, r.Value...), '\n') // the value is a part of others' memory
	}
	_, err := w.Write(out)
	return err
}

// appendJSONField appends bytes as a string, or in base64 under another name when
// they are no text: so a reader is never given a text that is not the bytes.
func appendJSONField(dst []byte, name string, value []byte) []byte {
	if !utf8.Valid(value) {
		dst = fmt.Appendf(dst, `"%s_base64":"`, name)
		dst = base64.StdEncoding.AppendEncode(dst, value)
		return append(dst, '"')
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // "<" is no danger here, and hard to read as \u003c
	_ = e.Encode(string(value))
	dst = fmt.Appendf(dst, `"%s":`, name)
	return append(dst, bytes.TrimSuffix(b.Bytes(), []byte("\n"))...)
}

// printSpan prints where the records of --stdin are.
func (a *app) printSpan(t tally) error {
	var err error
	switch {
	case a.json && t.stored == 0:
		_, err = fmt.Fprintln(a.stdout, `{"records":0,"first_offset":null,"last_offset":null}`)
	case a.json:
		_, err = fmt.Fprintf(a.stdout, `{"records":%d,"first_offset":%d,"last_offset":%d}`+"\n", t.stored, t.first, t.last)
	case t.stored > 0:
		_, err = fmt.Fprintf(a.stdout, "%d %d\n", t.first, t.last)
	}
	return err
}

// printMidway prints as JSON what is known when not all of --stdin was stored: what
// surely is, from the first line on, and which lines after these may be.
func (a *app) printMidway(t tally) error {
	result := struct {
		Records     uint64  `json:"records"`
		FirstOffset *uint64 `json:"first_offset"`
		LastOffset  *uint64 `json:"last_offset"`
		UnknownFrom *uint64 `json:"unknown_from_line"`
		UnknownTo   *uint64 `json:"unknown_to_line"`
	}{Records: t.prefix}
	if t.prefix > 0 {
		result.FirstOffset, result.LastOffset = &t.first, &t.prefixLast
	}
	if from, to := t.maybe(); from > 0 {
		result.UnknownFrom, result.UnknownTo = &from, &to
	}
	return json.NewEncoder(a.stdout).Encode(result)
}
