package transport

import (
	"fmt"
	"net"
	"sync"
	"testing"

	"github.com/zue-log/zue/net/wire"
)

// BenchmarkLoopback is for frames sent, received and handed over, with at most window of them
// under way, over TCP within one process.
func BenchmarkLoopback(b *testing.B) {
	const window = 256
	for _, size := range []int{1 << 10, 64 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			room := make(chan struct{}, window)
			receiver, err := New(Options{Self: 2, Addresses: map[uint16]string{1: "127.0.0.1:1"}, Receive: func(uint16, wire.Frame, bool) error {
				<-room
				return nil
			}})
			if err != nil {
				b.Fatal(err)
			}
			var tasks sync.WaitGroup
			tasks.Go(func() {
				for range 2 {
					conn, err := listener.Accept()
					if err != nil {
						return
					}
					tasks.Go(func() { _ = serve(receiver, conn) })
				}
			})
			sender, err := New(Options{Self: 1, Addresses: map[uint16]string{2: listener.Addr().String()}, Receive: func(uint16, wire.Frame, bool) error { return nil }})
			if err != nil {
				b.Fatal(err)
			}
			f := net.Buffers{make([]byte, 64), make([]byte, size-64)}
			if err := wire.SealPeerFrame(wire.TypeReplicate, f); err != nil {
				b.Fatal(err)
			}
			room <- struct{}{}
			sender.Send(2, Bulk, f, nil) // waits for the connection
			for range window {
				room <- struct{}{}
				sender.Send(2, Bulk, f, nil)
			}
			b.ReportAllocs()
			b.SetBytes(int64(size))
			for b.Loop() {
				room <- struct{}{}
				if !sender.Send(2, Bulk, f, nil) {
					b.Fatal("dropped")
				}
			}
			b.StopTimer()
			sender.Close()
			close(room)
			receiver.Close()
			listener.Close()
			tasks.Wait()
		})
	}
}
