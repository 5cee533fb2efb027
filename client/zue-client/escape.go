package main

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxMessage bounds an error as it is printed: a server may send megabytes.
const maxMessage = 4 << 10

// printable makes one short line of an error's text, much of which may be the
// server's: what is no printable character, as the codes that move a terminal's
// cursor or begin a line that looks like ours, comes as in a Go string.
func printable(text string) string {
	var b strings.Builder
	for len(text) > 0 {
		if b.Len() > maxMessage {
			b.WriteString(" ... (" + strconv.Itoa(len(text)) + " bytes more)")
			break
		}
		r, size := utf8.DecodeRuneInString(text)
		if strconv.IsPrint(r) && (r != utf8.RuneError || size > 1) {
			b.WriteRune(r)
		} else {
			quoted := strconv.Quote(text[:size])
			b.WriteString(quoted[1 : len(quoted)-1])
		}
		text = text[size:]
	}
	return b.String()
}
