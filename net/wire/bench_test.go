package wire

import (
	"bytes"
	"fmt"
	"testing"
)

func BenchmarkAppendRequestEncode(b *testing.B) {
	m := AppendRequest{Key: make([]byte, 16), Value: make([]byte, 128)}
	buf := make([]byte, 0, m.Size())
	b.ReportAllocs()
	b.SetBytes(int64(m.Size()))
	for b.Loop() {
		var err error
		if buf, err = m.AppendTo(buf[:0]); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendRequestParse(b *testing.B) {
	frame := encode(b, AppendRequest{Key: make([]byte, 16), Value: make([]byte, 128)})
	b.ReportAllocs()
	b.SetBytes(int64(len(frame)))
	for b.Loop() {
		if _, err := ParseAppendRequest(frame[HeaderSize+1:]); err != nil {
			b.Fatal(err)
		}
	}
}

// endless gives the same frames over and over.
type endless struct {
	stream []byte
	at     int
}

func (e *endless) Read(p []byte) (int, error) {
	n := copy(p, e.stream[e.at:])
	e.at = (e.at + n) % len(e.stream)
	return n, nil
}

func BenchmarkDecoder(b *testing.B) {
	for _, size := range []int{128, 4 << 10, 256 << 10, 1 << 20} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			frame := encode(b, AppendRequest{Value: make([]byte, size)})
			d := NewDecoder(&endless{stream: bytes.Repeat(frame, max(1, 1<<20/len(frame)))}, 0)
			b.ReportAllocs()
			b.SetBytes(int64(len(frame)))
			for b.Loop() {
				for {
					_, ok, err := d.Next()
					if err != nil {
						b.Fatal(err)
					}
					if ok {
						break
					}
					if err := d.Fill(); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
