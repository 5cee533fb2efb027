package main

import (
	"bufio"
	"errors"
	"io"
)

var errLineTooLong = errors.New("line is too long")

// lineReader cuts its input into lines. bufio.Scanner will not do: when reading
// fails, it takes the half of a line that has come for a whole one.
type lineReader struct {
	r     *bufio.Reader
	limit int    // of a line, without its line feed
	long  []byte // a line that is longer than r's buffer
	ended bool   // a terminal would go on after its end, if it were read again
}

func newLineReader(r io.Reader, limit int) *lineReader {
	return &lineReader{r: bufio.NewReaderSize(r, 64<<10), limit: limit}
}

// next returns the next line without its line feed, valid until the next call, and
// how many bytes it took up. A last line needs no line feed. The error is io.EOF,
// errLineTooLong or the reader's.
func (l *lineReader) next() (line []byte, size int, err error) {
	if cap(l.long) > 1<<20 {
		l.long = nil // one such line does not mean that there are more
	}
	l.long = l.long[:0]
	if l.ended {
		return nil, 0, io.EOF
	}
	for {
		part, err := l.r.ReadSlice('\n')
		size += len(part)
		switch err {
		case nil:
			part = part[:len(part)-1]
		case bufio.ErrBufferFull:
		case io.EOF:
			l.ended = true
			if size == 0 {
				return nil, 0, io.EOF
			}
		default:
			return nil, 0, err
		}
		if len(part) > l.limit-len(l.long) {
			return nil, 0, errLineTooLong
		}
		if err != bufio.ErrBufferFull && len(l.long) == 0 {
			return part, size, nil
		}
		l.long = append(l.long, part...)
		if err != bufio.ErrBufferFull {
			return l.long, size, nil
		}
	}
}
