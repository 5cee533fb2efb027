package replication

import (
	"io"
	"net"
	"sync"
	"testing"

	"github.com/zue-log/zue/tests/programs"
)

// link carries what one node dials another for: messages from that one to the other. Cut, it
// swallows what comes, and tells neither, as a network does.
type link struct {
	listener net.Listener
	target   string
	tasks    sync.WaitGroup

	mu    sync.Mutex
	cut   bool
	conns map[net.Conn]bool
}

// newLink makes a link to an address, and returns it with its own.
func newLink(t testing.TB, target string) (*link, int) {
	t.Helper()
	l := programs.Listen(t)
	k := &link{listener: l, target: target, conns: map[net.Conn]bool{}}
	k.tasks.Go(k.accept)
	t.Cleanup(k.close)
	return k, l.Addr().(*net.TCPAddr).Port
}

func (k *link) close() {
	_ = k.listener.Close()
	k.drop()
	k.tasks.Wait()
}

// drop hangs up.
func (k *link) drop() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for c := range k.conns {
		_ = c.Close()
	}
}

// set cuts the link, or mends it. What was under way when it was cut never arrives.
func (k *link) set(cut bool) {
	k.mu.Lock()
	was := k.cut
	k.cut = cut
	k.mu.Unlock()
	if was && !cut {
		k.drop() // their bytes have gaps
	}
}

func (k *link) isCut() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.cut
}

func (k *link) keep(c net.Conn) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.conns[c] = true
}

func (k *link) forget(c net.Conn) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.conns, c)
	_ = c.Close()
}

func (k *link) accept() {
	for {
		c, err := k.listener.Accept()
		if err != nil {
			return
		}
		k.keep(c)
		k.tasks.Go(func() { k.carry(c) })
	}
}

// carry carries a connection, both ways.
func (k *link) carry(c net.Conn) {
	defer k.forget(c)
	if k.isCut() { // it looks as if it were connected
		_, _ = io.Copy(io.Discard, c)
		return
	}
	to, err := net.Dial("tcp", k.target)
	if err != nil {
		return
	}
	k.keep(to)
	defer k.forget(to)
	var both sync.WaitGroup
	pump := func(from, to net.Conn) {
		defer from.Close()
		defer to.Close()
		b := make([]byte, 64<<10)
		for {
			n, err := from.Read(b)
			if err != nil {
				return
			}
			if k.isCut() {
				continue
			}
			if _, err := to.Write(b[:n]); err != nil {
				return
			}
		}
	}
	both.Go(func() { pump(c, to) })
	both.Go(func() { pump(to, c) })
	both.Wait()
}
