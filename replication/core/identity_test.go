package core_test

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/zue-log/zue/replication/core"
	"github.com/zue-log/zue/storage"
	"github.com/zue-log/zue/storage/vfs"
)

func TestIdentity(t *testing.T) {
	id, err := core.ReadIdentity(nil)
	require.NoError(t, err)
	require.Zero(t, id)
	_, err = core.ReadIdentity([]byte("rubbish"))
	require.ErrorIs(t, err, core.ErrState)

	s := three(t)
	n := s.nodes[1]
	st := n.core.Status()
	id, err = core.ReadIdentity(n.log.State())
	require.NoError(t, err)
	require.Equal(t, core.Identity{Peer: st.Self, Cluster: st.Cluster, Member: true}, id)

	// With the state that it rejoins by the node is a new one, of the same cluster.
	s.nodes[0].core.Append(values("a"))
	s.settle()
	n.crash()
	n.disk = vfs.NewMem()
	log, err := storage.Open("log", storage.Options{FS: n.disk, ManualCommit: true, SegmentBytes: storage.MinSegmentBytes})
	require.NoError(t, err)
	require.NoError(t, log.SetState(id.Rejoin(rand.New(rand.NewPCG(1, 1)))))
	require.NoError(t, log.Close())
	n.boot()
	s.tick(nil, 20)
	again := n.core.Status()
	require.Equal(t, core.RoleFollower, again.Role)
	require.Equal(t, st.Cluster, again.Cluster)
	require.NotEqual(t, st.Self, again.Self)
	require.EqualValues(t, 1, n.log.EndOffset())
}

func TestIdentityOfTheOnlyMember(t *testing.T) {
	s := &story{t: t, quorum: 1, names: map[core.PeerID]string{}}
	n := &actor{story: s, id: 1, disk: vfs.NewMem()}
	s.nodes = append(s.nodes, n)
	n.boot()
	s.tick(nil, 10)
	require.Equal(t, core.RoleLeader, n.core.Status().Role)
	id, err := core.ReadIdentity(n.log.State())
	require.NoError(t, err)
	require.True(t, id.Alone)
}
