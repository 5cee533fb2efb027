package transport

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zue-log/zue/net/wire"
)

// gate has Receive wait for frames of a type.
type gate struct {
	typ  wire.Type
	open chan struct{}
}

func (g *gate) wrap(receive func(uint16, wire.Frame, bool) error) func(uint16, wire.Frame, bool) error {
	return func(from uint16, f wire.Frame, more bool) error {
		if f.Type == g.typ {
			<-g.open
		}
		return receive(from, f, more)
	}
}

// startGated starts node a, which queues so many bytes, and b, which waits with frames of a type
// until the gate is open.
func (f *fabric) startGated(typ wire.Type, maxQueueBytes int) (a, b *node, g *gate) {
	a, b, g = &node{}, &node{}, &gate{typ, make(chan struct{})}
	oa, ob := f.options(a, 1, 2), f.options(b, 2, 1)
	oa.MaxQueueBytes = maxQueueBytes
	ob.Receive = g.wrap(ob.Receive)
	f.start(b, ob)
	f.start(a, oa)
	wait(3 * time.Second)
	return a, b, g
}

// A node that takes no entries still gets what is urgent; what there is no room for is dropped,
// and it is said so, but not each time.
func TestUrgentDoesNotWaitForBulk(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fabric) {
		a, b, g := f.startGated(wire.TypeReplicate, 64<<10)
		before := a.lost(2)
		entry := frame(wire.TypeReplicate, string(make([]byte, 1<<10)))
		sent := 0
		for a.Send(2, Bulk, entry, nil) {
			synctest.Wait() // the first are written, up to what the reader's buffer takes
			sent++
		}
		require.Greater(t, sent, 40)
		synctest.Wait()
		require.Equal(t, before+1, a.lost(2))
		for range 1000 {
			require.False(t, a.Send(2, Bulk, entry, nil))
		}
		require.True(t, a.Send(2, Urgent, frame(wire.TypeHeartbeat, "heartbeat"), nil))
		synctest.Wait()
		require.Equal(t, []got{{1, wire.TypeHeartbeat, "heartbeat"}}, b.received())
		require.Equal(t, before+1, a.lost(2), "not at once")
		wait(reportPause)
		require.Equal(t, before+2, a.lost(2))
		require.EqualValues(t, 1001, a.Links()[0].Bulk.Dropped)
		close(g.open)
		synctest.Wait()
		require.Len(t, b.received(), 1+sent, "what was taken has arrived, since it went on in time")
	})
}

// On the urgent lane the oldest give way.
func TestUrgentDropsTheOldest(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fabric) {
		a, b, g := f.startGated(wire.TypeHeartbeat, 16*10*(frameCost+10))
		for i := range 1000 {
			require.True(t, a.Send(2, Urgent, frame(wire.TypeHeartbeat, fmt.Sprintf("%5d", i)), nil))
			synctest.Wait()
		}
		require.EqualValues(t, 100, a.Links()[0].Urgent.QueuedBytes)
		close(g.open)
		synctest.Wait()
		all := b.received()
		require.Greater(t, len(all), 10)
		for i, got := range all[len(all)-10:] {
			require.Equal(t, fmt.Sprintf("%5d", 990+i), got.payload)
		}
		require.EqualValues(t, 1000, len(all)+int(a.Links()[0].Urgent.Dropped))
		require.Positive(t, a.lost(2))
	})
}

// A single frame is taken though it is beyond the limit.
func TestQueueTakesOne(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fabric) {
		a := &node{}
		o := f.options(a, 1, 2)
		o.MaxQueueBytes = 1
		o.Dial = func(ctx context.Context, address string) (net.Conn, error) {
			<-time.After(time.Second)
			return nil, errNobody
		}
		f.start(a, o)
		require.True(t, a.Send(2, Bulk, frame(wire.TypeReplicate, "one"), nil))
		require.False(t, a.Send(2, Bulk, frame(wire.TypeReplicate, "two"), nil))
		require.True(t, a.Send(2, Urgent, frame(wire.TypeHeartbeat, "one"), nil))
		require.True(t, a.Send(2, Urgent, frame(wire.TypeHeartbeat, "two"), nil))
		require.Equal(t, 8, a.Links()[0].Bulk.QueuedBytes)
		wait(time.Second)
		link := a.Links()[0]
		require.EqualValues(t, 2, link.Bulk.Dropped, "all, when the dial has failed")
		require.EqualValues(t, 2, link.Urgent.Dropped)
		require.Zero(t, link.Bulk.QueuedBytes)
		require.Equal(t, errNobody.Error(), link.Bulk.LastError)
	})
}

// The waits between attempts double, up to the greatest.
func TestBackoff(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fabric) {
		a := &node{}
		f.start(a, f.options(a, 1, 2))
		wait(time.Second)
		early := f.dialed("2")
		// 20, 40, ... ms, each at least half of it: 1 s is over before the eighth; two lanes.
		require.GreaterOrEqual(t, early, 2*5)
		require.LessOrEqual(t, early, 2*7)
		wait(time.Minute)
		late := f.dialed("2") - early
		require.GreaterOrEqual(t, late, 2*55)
		require.LessOrEqual(t, late, 2*121)
		require.LessOrEqual(t, a.lost(2), 2*130)
	})
}

// Two that take turns in throwing one another out do so at a leisurely pace, and do not fill the
// log.
func TestTwinsDoNotSpin(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fabric) {
		a, twin, b := &node{}, &node{}, &node{}
		f.start(b, f.options(b, 2, 1))
		f.start(a, f.options(a, 1, 2))
		f.start(twin, f.options(twin, 1, 2), "its twin")
		wait(time.Minute)
		require.Less(t, f.dialed("2"), 2*2*130)
		require.LessOrEqual(t, a.log.count("\n")+twin.log.count("\n"), 20)
	})
}

// A peer that takes nothing is given up after 10 s; one that is slow is not.
func TestStall(t *testing.T) {
	for _, pause := range []time.Duration{9 * time.Second, 0} {
		t.Run(pause.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				x, y := net.Pipe()
				first := make(chan net.Conn, 1)
				first <- x
				a := &node{}
				f := newFabric(t)
				o := f.options(a, 1, 2)
				o.Addresses[2] = "2"
				ends := make(chan struct{})
				o.Dial = func(context.Context, string) (net.Conn, error) {
					select {
					case conn := <-first:
						return conn, nil
					default:
						return nil, errNobody
					}
				}
				tr, err := New(o)
				require.NoError(t, err)
				a.Transport = tr
				acceptor := &Transport{o: Options{Self: 2}, peers: map[uint16]*peer{1: {}}}
				dec := wire.NewDecoder(y, 0)
				hello, err := next(dec)
				require.NoError(t, err)
				_, err = acceptor.admit(y, dec, hello)
				require.NoError(t, err)
				_, err = y.Write(wire.PeerWelcome{}.AppendTo(nil))
				require.NoError(t, err)
				go func() {
					defer close(ends)
					b := make([]byte, 1)
					for pause > 0 {
						<-time.After(pause)
						if _, err := y.Read(b); err != nil {
							return
						}
					}
				}()
				synctest.Wait()
				require.True(t, a.Links()[0].Urgent.Connected || a.Links()[0].Bulk.Connected)
				lane := Urgent
				if a.Links()[0].Bulk.Connected {
					lane = Bulk
				}
				up := func() bool { l := a.Links()[0]; return l.Urgent.Connected || l.Bulk.Connected }
				require.True(t, a.Send(2, lane, frame(wire.TypeHeartbeat, "takes its time"), nil))
				wait(9 * time.Second)
				require.True(t, up())
				wait(2 * time.Second)
				require.Equal(t, pause > 0, up())
				wait(30 * time.Second)
				require.Equal(t, pause > 0, up())
				a.Close()
				y.Close()
				<-ends
			})
		})
	}
}

// Who receives a frame knows whether more has arrived behind it.
func TestMoreHasArrived(t *testing.T) {
	var more []bool
	tr, err := New(Options{Self: 2, Addresses: map[uint16]string{1: "1"}, Dial: nowhere, Receive: func(_ uint16, _ wire.Frame, m bool) error {
		more = append(more, m)
		return nil
	}})
	require.NoError(t, err)
	defer tr.Close()
	var arrived []byte
	for range 3 {
		arrived = append(arrived, slices.Concat(frame(wire.TypeReplicate, "x")...)...)
	}
	reads := io.MultiReader(bytes.NewReader(arrived), bytes.NewReader(arrived[:len(arrived)/3]))
	require.ErrorIs(t, tr.receive(wire.NewDecoder(reads, wire.MaxLargeFrame), 1, &incoming{}), io.EOF)
	require.Equal(t, []bool{true, true, false, false}, more)
}

// However long a node is blocked, those that connect to it anew do not pile up, and when it goes
// on, frames come in their order.
func TestBlockedReceiverIsBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fabric) {
		a, b := &node{}, &node{}
		g := gate{wire.TypeReplicate, make(chan struct{})}
		oa, ob := f.options(a, 1, 2), f.options(b, 2, 1)
		ob.Receive = g.wrap(ob.Receive)
		f.start(b, ob)
		f.start(a, oa)
		wait(3 * time.Second)
		dialed := f.dialed("2")
		large := string(make([]byte, 100<<10)) // more than the reader's buffer takes
		for i := range 60 {
			a.Send(2, Bulk, frame(wire.TypeReplicate, fmt.Sprint(i), large), nil)
			wait(5 * time.Second)
			b.Transport.mu.Lock()
			// Two that it has dialed, an urgent one, and of bulk one that is blocked and one
			// that waits.
			require.LessOrEqual(t, len(b.conns), 5)
			b.Transport.mu.Unlock()
		}
		require.Greater(t, f.dialed("2"), dialed+10)
		close(g.open)
		wait(20 * time.Second)
		last := -1
		for _, got := range b.received() {
			var i int
			_, err := fmt.Sscan(strings.TrimRight(got.payload, "\x00"), &i)
			require.NoError(t, err)
			require.Greater(t, i, last)
			last = i
		}
		require.Equal(t, 59, last)
	})
}

// Who lends a frame its memory is told when that is free again: once for each frame that was
// taken, however it ended, and never for one that was not.
func TestSendSaysWhenItIsDone(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fabric) {
		a, _, g := f.startGated(wire.TypeHeartbeat, 16*10*(frameCost+10))
		defer close(g.open)
		var mu sync.Mutex
		ended := map[int]int{}
		sent := 0
		send := func(lane Lane, typ wire.Type) bool {
			i := sent
			sent++
			return a.Send(2, lane, frame(typ, fmt.Sprintf("%5d", i)), func() {
				mu.Lock()
				defer mu.Unlock()
				ended[i]++
			})
		}
		count := func() (n int) {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			for i, times := range ended {
				require.Equal(t, 1, times, i)
			}
			return len(ended)
		}
		require.False(t, a.Send(3, Bulk, frame(wire.TypeReplicate), func() { t.Error("it was not taken") }))
		require.False(t, a.Send(2, Bulk, nil, func() { t.Error("it is no frame") }))
		require.True(t, send(Bulk, wire.TypeReplicate))
		require.Equal(t, 1, count(), "it was written")
		for range 1000 {
			require.True(t, send(Urgent, wire.TypeHeartbeat))
			synctest.Wait()
		}
		waiting := sent - count()
		require.Equal(t, 11, waiting, "one is being written, ten wait; of those before some were written, and the others dropped")
		a.Close()
		require.Equal(t, sent, count(), "what waited was dropped")
		require.False(t, a.Send(2, Bulk, frame(wire.TypeReplicate), func() { t.Error("it was closed") }))
	})
}
