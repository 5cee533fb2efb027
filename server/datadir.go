package server

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/zue-log/zue/replication/core"
	"github.com/zue-log/zue/storage"
	"github.com/zue-log/zue/storage/vfs"
)

// ErrDataDir is wrapped by the error for a data directory that is not what the server was started
// for: a standalone server's, a cluster's, or another node's. Nothing in it was changed.
var ErrDataDir = errors.New("the data directory is another's")

// holding is what a data directory holds.
type holding struct {
	entries bool // there are some, or were
	member  core.Identity
}

var errEnough = errors.New("enough was seen")

// inspect looks into a data directory, which need not be there, and changes nothing.
func inspect(dir string) (holding, error) {
	var h holding
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return h, nil
	}
	var state error
	err := storage.Walk(vfs.OS{}, dir, storage.WalkOptions{}, func(i storage.Item) error {
		switch item := i.(type) {
		case *storage.StateItem:
			if item.Copies[0] != nil && item.Copies[1] != nil {
				state = fmt.Errorf("%s: %w", item.Path, item.Copies[0])
			} else {
				h.member, state = core.ReadIdentity(item.User)
			}
			h.entries = item.Origin.Index > 0
			return nil
		case *storage.SegmentItem:
			h.entries = h.entries || !item.Void
		}
		return errEnough
	})
	if err != nil && err != errEnough {
		return h, fmt.Errorf("look into the data directory: %w", err)
	}
	if state != nil {
		return h, fmt.Errorf("look into the data directory %s: %w", dir, state)
	}
	return h, nil
}

// CheckStandalone says with an error that wraps ErrDataDir whether a data directory is that of a
// cluster's node, which a server without replication must not append to. It may not be there.
func CheckStandalone(dir string) error {
	h, err := inspect(dir)
	switch {
	case errors.Is(err, core.ErrState):
		return fmt.Errorf("%w: %w", ErrDataDir, err)
	case err != nil:
		return nil // opening it says better what is wrong
	case h.member.Peer != 0:
		return fmt.Errorf("%w: %s is that of node %d of cluster %016x: start it as that, with its cluster.conf, or choose another directory",
			ErrDataDir, dir, h.member.Peer.Node(), h.member.Cluster)
	}
	return nil
}

// checkMember says whether a data directory can be that of a cluster's node.
func checkMember(dir string, self core.NodeID, h holding) error {
	switch node := h.member.Peer.Node(); {
	case node == self:
		return nil
	case node != 0:
		return fmt.Errorf("%w: %s is that of node %d of cluster %016x, not of node %d: give each node a directory of its own",
			ErrDataDir, dir, node, h.member.Cluster, self)
	case h.entries:
		return fmt.Errorf("%w: %s has the log of a server without replication, or its state file is lost: a cluster's node begins with an empty directory. "+
			"To have its records in the cluster, serve it as before and append them there", ErrDataDir, dir)
	}
	return nil
}

// asideFormat is how the name of a directory that was put aside says when.
const asideFormat = "20060102T150405Z"

// putAside renames a damaged data directory, and returns its new name.
func putAside(dir string, now time.Time) (to string, err error) {
	dir = filepath.Clean(dir)
	to = dir + ".damaged-" + now.UTC().Format(asideFormat)
	for n := 2; ; n++ {
		if _, err := os.Lstat(to); errors.Is(err, fs.ErrNotExist) {
			break
		}
		to = fmt.Sprintf("%s.damaged-%s-%d", dir, now.UTC().Format(asideFormat), n)
	}
	if err := os.Rename(dir, to); err != nil {
		return "", fmt.Errorf("put the damaged data directory aside: %w; move what is in it elsewhere by hand, and start the node again", err)
	}
	if err := (vfs.OS{}).SyncDir(filepath.Dir(dir)); err != nil {
		return "", fmt.Errorf("put the damaged data directory aside: %w", err)
	}
	return to, nil
}
