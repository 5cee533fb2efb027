package client

import (
	"sync"
	"testing"

	"github.com/zue-log/zue/client/internal/wiretest"
	"github.com/zue-log/zue/net/wire"
)

// The server of the benchmarks answers and keeps nothing.
func benchClient(b *testing.B) *conn {
	reply := &wiretest.Action{Reply: wire.AppendResponse{Offset: 1}.AppendTo(nil)}
	s := wiretest.Start(b, wiretest.Options{Script: func(int, wire.Frame) *wiretest.Action { return reply }})
	return dial(b, s, Options{})
}

func BenchmarkAppend(b *testing.B) {
	c := benchClient(b)
	value := make([]byte, 128)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Append(b.Context(), nil, value); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendAsync(b *testing.B) {
	c := benchClient(b)
	value := make([]byte, 128)
	var wg sync.WaitGroup
	done := func(_ uint64, err error) {
		if err != nil {
			b.Error(err)
		}
		wg.Done()
	}
	b.ReportAllocs()
	b.SetBytes(int64(wire.AppendRequest{Value: value}.Size()))
	for b.Loop() {
		wg.Add(1)
		if err := c.AppendAsync(b.Context(), nil, value, done); err != nil {
			b.Fatal(err)
		}
	}
	wg.Wait()
}
