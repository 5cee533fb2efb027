package server

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/zue-log/zue/net/wire"
	"github.com/zue-log/zue/replication"
	"github.com/zue-log/zue/replication/conf"
	"github.com/zue-log/zue/replication/core"
	"github.com/zue-log/zue/storage"
)

const (
	// electionTicks is how many ticks an election timeout has.
	electionTicks = 10
	// failedDrain is how long the clients of a node that has failed have for their answers.
	failedDrain = 2 * time.Second
	// bootIDFile tells the boots of a machine apart.
	bootIDFile = "/proc/sys/kernel/random/boot_id"
)

// Listener is what a [Member] listens on. A [net.TCPListener] is one.
type Listener interface {
	net.Listener
	// SetDeadline has Accept fail at that time. When the member stops, who has connected is
	// accepted by then if the listener is a [syscall.Conn], too.
	SetDeadline(time.Time) error
}

// MemberOptions say which node of which cluster a [Member] is.
type MemberOptions struct {
	// Dir is the node's data directory, which is created if need be.
	Dir string
	// Conf is what cluster.conf says, and Self the node's number in it.
	Conf conf.Conf
	Self core.NodeID
	// Secret is what the nodes of the cluster have in common, and nobody else knows; empty: they
	// believe each other without.
	Secret []byte
	// Listener takes the connections of clients and of other nodes, which come to the address
	// that Conf has. It is closed when the member stops, or could not start.
	Listener Listener
	// CatchUpRate bounds how fast nodes that are behind are sent entries while there are appends,
	// as [replication.Options] has it. Default: replication.DefaultCatchUpRate.
	CatchUpRate int64
	// Storage configures the log. ManualCommit is set. Sync other than storage.SyncAlways
	// means that an append is acknowledged when a quorum has it in memory. Logger and
	// Compression count for the member, too.
	Storage storage.Options
	// Server configures the sessions. Sync is that of Storage.
	Server Options

	// bootID is read from bootIDFile if it is empty.
	bootID string
}

// Member is a node of a cluster that runs: its log, its [replication.Node], the links to the
// others, and a [Server]. Its methods may be called concurrently.
type Member struct {
	opts     MemberOptions
	logger   *slog.Logger
	stopping chan struct{} // closed by Stop
	// inSyncChanges counts how often a replica came to be in sync, or ceased to be.
	inSyncChanges atomic.Uint64
	once          sync.Once
	done          chan struct{}
	closeListener func() error // does it once, and says what came of it

	mu     sync.Mutex
	grace  context.Context // of Stop
	life   *life           // the last one
	err    error
	asides []string // directories that were put aside
	// rejoin is the state with which the node begins anew, after its directory was put aside;
	// nil: as the directory has it. It is run's alone, and StartMember's before.
	rejoin []byte
}

// life is a member from the opening of its log to the end of that.
type life struct {
	member *Member
	log    *storage.Log
	node   *replication.Node
	peers  *peerNetwork
	server *Server
	turn   *turn
	served chan error
	watch  *watch
	ctx    context.Context // ends when the life does
	end    context.CancelFunc
	// nodeUp ends when the node does.
	nodeUp   context.Context
	nodeDown context.CancelFunc
	tasks    sync.WaitGroup
}

// StartMember starts a node. Its listener is closed if it could not be. The error wraps
// [ErrDataDir] if the directory is not this node's, in which case nothing was changed.
//
// A log that is damaged where it must be scanned is put aside: its directory gets another name,
// and the node begins anew as a new incarnation, and is brought up to date by the others. A
// cluster's only member is not, since nobody else has what it had.
func StartMember(o MemberOptions) (*Member, error) {
	m, err := newMember(o)
	if err == nil {
		m.life, err = m.begin()
	}
	if err != nil {
		return nil, errors.Join(err, o.Listener.Close())
	}
	go m.run(m.life)
	return m, nil
}

// newMember checks what must be right before anything is opened.
func newMember(o MemberOptions) (*Member, error) {
	if o.Storage.Logger == nil {
		o.Storage.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Server.Logger == nil {
		o.Server.Logger = o.Storage.Logger
	}
	if _, ok := o.Conf.Node(o.Self); !ok {
		return nil, fmt.Errorf("node %d is not in cluster.conf", o.Self)
	}
	if err := errors.Join(o.Storage.Validate(), o.Server.Validate()); err != nil {
		return nil, err
	}
	if o.Storage.Sync != storage.SyncAlways() && o.bootID == "" {
		b, err := os.ReadFile(bootIDFile)
		if err != nil {
			return nil, fmt.Errorf("a cluster's node that does not sync each append must know when the machine was started anew: %w; sync always instead", err)
		}
		o.bootID = strings.TrimSpace(string(b))
	}
	if dir, err := filepath.EvalSymlinks(o.Dir); err == nil {
		o.Dir = dir // what is put aside is the directory, not a link to it
	}
	return &Member{
		opts: o, logger: o.Server.Logger, stopping: make(chan struct{}), done: make(chan struct{}),
		closeListener: sync.OnceValue(func() error {
			if err := o.Listener.Close(); err != nil {
				return fmt.Errorf("close the listener: %w", err)
			}
			return nil
		}),
	}, nil
}

// begin begins a life; with an empty directory, if the log that is there is damaged and may be
// put aside.
func (m *Member) begin() (*life, error) {
	held, err := inspect(m.opts.Dir)
	if err != nil {
		return nil, err
	}
	if err := checkMember(m.opts.Dir, m.opts.Self, held); err != nil {
		return nil, err
	}
	l, err := m.open()
	if !errors.Is(err, storage.ErrCorrupt) {
		return l, err
	}
	if err := m.setAside(err); err != nil {
		return nil, err
	}
	return m.open()
}

// setAside puts the data directory aside, of which nobody has anything open, for the damage that
// cause says. Its error has the cause if it could not be.
func (m *Member) setAside(cause error) error {
	held, err := inspect(m.opts.Dir)
	refuse := func(why string) error {
		return fmt.Errorf("%w; the node does not begin anew with an empty directory, since %s", cause, why)
	}
	switch {
	case err != nil:
		return refuse(fmt.Sprintf("it is not known whether another one has what it has (%v). If the cluster has others that work, move %s away and start the node again", err, m.opts.Dir))
	case held.member.Peer == 0:
		return refuse("it never was in a cluster")
	case held.member.Alone:
		return refuse("it is the only member of its cluster: nobody else has what it has. Look at it with zuedump, and see whether the machine has a copy")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.asides) > 0 {
		return refuse("it has done so already since it was started: the disk is not to be trusted")
	}
	to, err := putAside(m.opts.Dir, time.Now())
	if err != nil {
		return errors.Join(cause, err)
	}
	m.asides = append(m.asides, to)
	if held.member.Member {
		m.rejoin = held.member.Rejoin(newRand())
	}
	m.logger.Warn("the log is damaged and was put aside; the node begins anew, and gets its records from the others. "+
		"When it is in sync again, the directory can be removed; zuedump shows what is in it", "node", m.opts.Self, "data_dir", m.opts.Dir, "put_aside", to, "err", cause)
	return nil
}

// open opens the log and starts all that works on it.
func (m *Member) open() (_ *life, err error) {
	o := &m.opts
	options := o.Storage
	options.ManualCommit = true
	l := &life{member: m, served: make(chan error, 1)}
	if l.log, err = storage.Open(o.Dir, options); err != nil {
		return nil, err
	}
	if m.rejoin != nil {
		if err := l.log.SetState(m.rejoin); err != nil {
			return nil, errors.Join(fmt.Errorf("begin anew: %w", err), l.log.Close())
		}
		m.rejoin = nil
	}
	recovery := l.log.Recovery()
	m.logger.Info("log opened", "node", o.Self, "data_dir", o.Dir, "first_offset", l.log.FirstOffset(), "last_index", l.log.LastPlace().Index,
		"sync", o.Storage.Sync.String(), "bytes_scanned", recovery.Scanned, "torn_bytes_cut", recovery.Torn)
	l.ctx, l.end = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			l.end()
			err = errors.Join(err, l.close())
		}
	}()
	early := make(chan struct{}) // closed when there is a node to receive
	l.peers, err = connectPeers(networkOptions{
		conf: &o.Conf, self: o.Self, secret: o.Secret, logger: m.logger,
		receive: func(msg *core.Message, more bool) error {
			select {
			case <-early:
				return l.node.Step(l.ctx, msg, more)
			case <-l.ctx.Done():
				return l.ctx.Err()
			}
		},
		unreachable: func(id core.NodeID) {
			select {
			case <-early:
				_ = l.node.Unreachable(l.ctx, id) // it may have ended
			default:
			}
		},
	})
	if err != nil {
		return nil, fmt.Errorf("start the links to other nodes: %w", err)
	}
	if l.node, err = replication.Start(m.nodeOptions(l)); err != nil {
		return nil, fmt.Errorf("start node %d: %w", o.Self, err)
	}
	close(early)
	l.nodeUp, l.nodeDown = context.WithCancel(context.Background())
	l.tasks.Go(func() {
		<-l.node.Done()
		l.nodeDown()
	})
	return l, l.serve()
}

// tickOf is the time between two ticks of a node with that election timeout.
func tickOf(electionTimeout time.Duration) time.Duration {
	return max(electionTimeout/electionTicks, time.Millisecond)
}

// newRand draws from a seed that nobody can guess.
func newRand() *rand.Rand {
	var seed [32]byte
	_, _ = crand.Read(seed[:]) // it never fails
	return rand.New(rand.NewChaCha8(seed))
}

// nodeOptions are those of the node of a life.
func (m *Member) nodeOptions(l *life) replication.Options {
	o := &m.opts
	tick := tickOf(o.Conf.ElectionTimeout)
	ticks := func(d time.Duration) int { return max(int((d+tick-1)/tick), 1) }
	nodes := make([]core.NodeID, len(o.Conf.Nodes))
	for i, n := range o.Conf.Nodes {
		nodes[i] = n.ID
	}
	c := core.Config{
		Self: o.Self, Nodes: nodes, Preferred: o.Conf.Preferred(), Static: o.Conf.Static, Quorum: o.Conf.Quorum, MaxLag: o.Conf.MaxLag,
		ElectionTicks: electionTicks, ReportTicks: ticks(o.Conf.Heartbeat), TimeoutTicks: ticks(o.Conf.Timeout),
		Log: l.log, Rand: newRand(),
	}
	if o.Storage.Sync != storage.SyncAlways() {
		c.Unsynced, c.BootID = true, o.bootID
	}
	return replication.Options{Core: c, Tick: tick, Transport: l.peers, CatchUpRate: o.CatchUpRate, Logger: m.logger}
}

// serve begins to accept.
func (l *life) serve() (err error) {
	m := l.member
	options := m.opts.Server
	options.Sync = m.opts.Storage.Sync
	if l.server, err = New(l.log, options); err != nil {
		return err
	}
	l.server.cluster = &cluster{
		node: l.node, self: m.opts.Self, conf: &m.opts.Conf, peers: l.peers, codec: m.opts.Storage.Compression,
		notes: m.notes, changes: m.inSyncChanges.Load, room: semaphore.NewWeighted(maxInFlightBytes),
		ended: l.nodeUp, cut: l.nodeDown,
	}
	if l.turn, err = takeTurn(m.opts.Listener); err != nil {
		return err
	}
	l.watch = watchInSync(l)
	go func() { l.served <- l.server.Serve(l.turn) }()
	m.logger.Info("listening", "address", m.opts.Listener.Addr().String(), "node", m.opts.Self)
	return nil
}

// notes are what else the status warns of.
func (m *Member) notes() (w []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, dir := range m.asides {
		w = append(w, fmt.Sprintf("the log was damaged and put aside as %s; when this node is in sync again, that can be removed", dir))
	}
	return w
}

// run is the goroutine of a member.
func (m *Member) run(l *life) {
	defer close(m.done)
	var err error
	for l != nil {
		l, err = m.await(l)
	}
	err = errors.Join(err, m.closeListener())
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = err
}

// await waits for the end of a life, ends it, and returns the next one, or nil and why there is
// none.
func (m *Member) await(l *life) (*life, error) {
	select {
	case <-m.stopping:
		m.mu.Lock()
		grace := m.grace
		m.mu.Unlock()
		l.turn.beLast(m.closeListener)
		l.server.stopAccepting()
		l.handOver(grace)
		return nil, l.stop(grace)
	case <-l.node.Done():
		return m.beginAnew(l)
	case err := <-l.served:
		l.served <- err // for stop
		grace, cancel := context.WithTimeout(context.Background(), failedDrain)
		defer cancel()
		return nil, errors.Join(err, l.stop(grace))
	}
}

// beginAnew ends a life whose node has failed, and begins another one if it can.
func (m *Member) beginAnew(l *life) (*life, error) {
	cause := l.node.Err()
	_ = l.turn.Close() // who connects now waits for the next life
	grace, cancel := context.WithTimeout(context.Background(), failedDrain)
	defer cancel()
	err := l.stop(grace)
	if errors.Is(err, storage.ErrFailed) {
		err = nil // that is the cause, or came of it
	}
	if !errors.Is(cause, storage.ErrCorrupt) {
		return nil, errors.Join(explain(cause), err)
	}
	if err := m.setAside(cause); err != nil {
		return nil, err
	}
	next, err := m.open()
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	m.life = next
	m.mu.Unlock()
	return next, nil
}

// explain says why a node has failed, and what to do.
func explain(cause error) error {
	if errors.Is(cause, storage.ErrFailed) || storage.IsFull(cause) {
		return fmt.Errorf("the node has failed: %w; see to the disk, and start it again: it goes on from what is there", cause)
	}
	return fmt.Errorf("the node has failed: %w", cause)
}

// handOver has another node lead, if this one does, and waits until one is known to; for an
// election timeout at most.
func (l *life) handOver(ctx context.Context) {
	conf := &l.member.opts.Conf
	ctx, cancel := context.WithTimeout(ctx, conf.ElectionTimeout)
	defer cancel()
	st, err := l.node.Status(ctx)
	if err != nil || st.Role != core.RoleLeader || len(st.Voters) < 2 || conf.Static {
		return
	}
	to := l.heir(&st)
	if to == 0 {
		l.member.logger.Warn("leadership was not handed over: no other node is in sync and can be reached", "node", l.member.opts.Self)
		return
	}
	if _, err := l.node.Transfer(ctx, to); err != nil {
		l.member.logger.Warn("leadership was not handed over", "node", l.member.opts.Self, "to", to, "err", err)
		return
	}
	poll := time.NewTicker(max(conf.ElectionTimeout/(5*electionTicks), time.Millisecond))
	defer poll.Stop()
	for {
		st, err := l.node.Status(ctx)
		switch {
		case err != nil:
			l.member.logger.Warn("leadership was not handed over in time", "node", l.member.opts.Self, "to", to)
			return
		case st.Leader != 0 && st.Leader != st.Self:
			l.member.logger.Info("leadership was handed over", "node", l.member.opts.Self, "to", st.Leader.Node())
			return
		}
		select {
		case <-poll.C:
		case <-ctx.Done(): // Status says so
		}
	}
}

// heir returns the node that is to lead next: of the voters in sync to which there is a link, the
// one that has most of the log. The node knows less of links, and might wait for one that is gone.
func (l *life) heir(st *core.Status) (best core.NodeID) {
	up := map[core.NodeID]bool{}
	for _, link := range l.peers.links() {
		up[link.node] = link.up
	}
	var least uint64
	for i := range st.Replicas {
		r := &st.Replicas[i]
		if up[r.Peer.Node()] && r.InSync && slices.Contains(st.Voters, r.Peer) && (best == 0 || r.Lag < least) {
			best, least = r.Peer.Node(), r.Lag
		}
	}
	return best
}

// stop ends a life in order: clients get their answers first, until ctx ends.
func (l *life) stop(ctx context.Context) error {
	if err := l.server.Shutdown(ctx); err != nil {
		// Nothing acknowledged is lost by it: the clients were too slow to take their
		// answers.
		l.member.logger.Warn("connections were cut", "node", l.member.opts.Self, "err", err)
	}
	<-l.served
	l.end()
	l.watch.stop()
	return l.close()
}

// close stops what has been started, but for the server.
func (l *life) close() error {
	if l.node != nil {
		l.node.Stop()
	}
	l.tasks.Wait()
	if l.peers != nil {
		l.peers.Close()
	}
	if l.server != nil {
		l.server.peers.Wait()
	}
	return l.log.Close()
}

// Stop stops the node, as far as ctx allows in order: it accepts who has connected, and nobody after
// that, hands leadership over if it leads, answers what has arrived, and closes its log. It returns Err.
func (m *Member) Stop(ctx context.Context) error {
	m.once.Do(func() {
		m.mu.Lock()
		m.grace = ctx
		m.mu.Unlock()
		close(m.stopping)
	})
	<-m.done
	return m.Err()
}

// Done returns a channel that is closed when the member has ended: by Stop, or since it failed.
func (m *Member) Done() <-chan struct{} { return m.done }

// Err returns why the member has failed, after Done; nil if it was stopped and all went well.
func (m *Member) Err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

// Addr returns where it listens.
func (m *Member) Addr() net.Addr { return m.opts.Listener.Addr() }

// Status returns how the node is, as a client is told.
func (m *Member) Status() wire.Status {
	m.mu.Lock()
	l := m.life
	m.mu.Unlock()
	return l.server.status()
}

// turn is a listener for one life, which leaves the one that it stands for open, unless it is the
// last: connections that come in between wait.
type turn struct {
	Listener
	mu     sync.Mutex
	closed bool
	end    func() error // of the last one: closes the listener
}

func takeTurn(l Listener) (*turn, error) {
	if err := l.SetDeadline(time.Time{}); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", l.Addr(), err)
	}
	return &turn{Listener: l}, nil
}

// beLast has Close close the listener that it stands for, by end.
func (t *turn) beLast(end func() error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.end = end
}

// SyscallConn implements syscall.Conn, if the listener does.
func (t *turn) SyscallConn() (syscall.RawConn, error) {
	if l, ok := t.Listener.(syscall.Conn); ok {
		return l.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

// Accept implements net.Listener.
func (t *turn) Accept() (net.Conn, error) {
	conn, err := t.Listener.Accept()
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil && t.closed {
		err = net.ErrClosed
	}
	return conn, err
}

// Close implements net.Listener.
func (t *turn) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	if t.end != nil {
		return t.end()
	}
	return t.SetDeadline(time.Unix(1, 0)) // Accept returns
}
