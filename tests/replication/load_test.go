package replication

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zue-log/zue/client"
	"github.com/zue-log/zue/net/wire"
	"github.com/zue-log/zue/replication/history"
)

// load is clients that append, read and ask for barriers, one request after the other each, and
// all that they were answered.
type load struct {
	*cluster
	began time.Time
	stop  context.CancelFunc
	tasks sync.WaitGroup

	mu         sync.Mutex
	operations []*history.Operation
	read       map[uint64]string // what readers have found
	acked      int
	maybe      int
	why        map[string]int // of those
	lastAck    time.Time
	longest    time.Duration // between two acknowledgements
}

// startLoad starts so many clients of the whole cluster.
func (c *cluster) startLoad(clients int) *load {
	c.t.Helper()
	ctx, stop := context.WithCancel(c.t.Context())
	l := &load{cluster: c, began: time.Now(), stop: stop, read: map[uint64]string{}, why: map[string]int{}, lastAck: time.Now()}
	for id := range clients {
		cl := c.dial()
		l.tasks.Go(func() { l.run(ctx, id, cl) })
	}
	c.t.Cleanup(func() {
		stop()
		l.tasks.Wait()
	})
	return l
}

// begin notes that an operation is called. end notes its answer.
func (l *load) begin(o *history.Operation) *history.Operation {
	l.mu.Lock()
	defer l.mu.Unlock()
	o.Called = time.Since(l.began)
	l.operations = append(l.operations, o)
	return o
}

func (l *load) end(o *history.Operation, offset uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	o.Offset, o.Returned = offset, time.Since(l.began)
	if o.Kind == history.Append {
		l.acked++
		now := time.Now()
		l.longest = max(l.longest, now.Sub(l.lastAck))
		l.lastAck = now
	}
}

// run is one client.
func (l *load) run(ctx context.Context, id int, c *client.Client) {
	rng := rand.New(rand.NewPCG(uint64(id), 1))
	for i := 0; ctx.Err() == nil; i++ {
		switch n := rng.IntN(10); {
		case n < 7:
			l.append(ctx, c, id, fmt.Sprintf("%d/%d", id, i))
		case n < 9:
			l.readSome(ctx, id, rng)
		default:
			o := l.begin(&history.Operation{Client: id, Kind: history.Barrier})
			if end, err := c.Barrier(ctx); err == nil {
				l.end(o, end)
			}
		}
	}
}

// append appends a value, and says whether that was acknowledged.
func (l *load) append(ctx context.Context, c *client.Client, id int, value string) bool {
	o := l.begin(&history.Operation{Client: id, Kind: history.Append, Values: []string{value}})
	offset, err := c.Append(ctx, nil, []byte(value))
	if err == nil {
		l.end(o, offset)
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	o.Refused = errors.Is(err, client.ErrNotApplied)
	if !o.Refused {
		l.maybe++
		l.why[err.Error()]++
	}
	return false
}

// appendAll appends values, one after the other.
func (l *load) appendAll(values ...string) {
	l.t.Helper()
	c := l.dial()
	for _, v := range values {
		require.True(l.t, l.append(l.t.Context(), c, -1, v))
	}
}

// readSome reads a record that some client was told of, from any node.
func (l *load) readSome(ctx context.Context, id int, rng *rand.Rand) {
	l.mu.Lock()
	acked := l.acked
	l.mu.Unlock()
	if acked == 0 {
		return
	}
	n := l.nodes[rng.IntN(len(l.nodes))]
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	c, err := client.Dial(ctx, []string{n.address()}, client.Options{NoRetry: true})
	if err != nil {
		return // it is down
	}
	defer c.Close()
	offset := uint64(rng.IntN(acked))
	o := l.begin(&history.Operation{Client: id, Kind: history.Read})
	rec, err := c.Read(ctx, offset)
	if err != nil {
		return
	}
	l.end(o, offset)
	l.mu.Lock()
	defer l.mu.Unlock()
	if was, ok := l.read[offset]; ok && was != string(rec.Value) {
		l.t.Errorf("offset %d was read as %q and as %q", offset, was, rec.Value)
	}
	l.read[offset] = string(rec.Value)
}

// acknowledged returns how many appends were.
func (l *load) acknowledged() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acked
}

// more waits until so many more appends are acknowledged.
func (l *load) more(n int) {
	l.t.Helper()
	want := l.acknowledged() + n
	l.eventually(fmt.Sprintf("%d more appends", n), func() error {
		if got := l.acknowledged(); got < want {
			return fmt.Errorf("%d of %d", got, want)
		}
		return nil
	})
}

// check ends the load, has the cluster become whole, and holds all that clients were told against
// what every node has.
func (l *load) check() {
	l.t.Helper()
	l.stop()
	l.tasks.Wait()
	l.heal()
	for _, n := range l.nodes {
		if n.p == nil {
			n.start()
		}
	}
	end := l.settled() // appends that nobody waits for any more may yet come
	want := l.nodes[0].valuesBelow(end)
	for _, n := range l.nodes[1:] {
		require.Equal(l.t, want, n.valuesBelow(end), "node %d", n.id)
	}
	where := map[string]uint64{}
	for i, v := range want {
		if at, ok := where[v]; ok {
			l.t.Errorf("%q is at %d and at %d", v, at, i)
		}
		where[v] = uint64(i)
	}
	for offset, v := range l.read {
		require.Equal(l.t, want[offset], v, "what was read at %d", offset)
	}
	confirmed, err := history.Check(l.operations, where, time.Minute)
	require.NoError(l.t, err)
	l.t.Logf("%d records, %d acknowledged, %d maybe, %d operations, linearizable (confirmed by porcupine: %t); longest pause between acknowledgements %v",
		end, l.acked, l.maybe, len(l.operations), confirmed, l.longest.Round(time.Millisecond))
}

// codeOf returns the code of a server's refusal, 0 if err is none.
func codeOf(err error) wire.Code {
	var refusal *wire.Error
	if errors.As(err, &refusal) {
		return refusal.Code
	}
	return 0
}
