// Package unit holds black-box tests of what the libraries promise together; the
// tests of each package lie beside its code.
package unit

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/zue-log/zue/net/wire"
	"github.com/zue-log/zue/replication"
	"github.com/zue-log/zue/storage"
)

var release = regexp.MustCompile(`(?m)^## (\S+)`)

// TestVersions holds the version that each library says it has against the newest
// one in its changelog.
func TestVersions(t *testing.T) {
	for module, version := range map[string]string{
		"storage":     storage.Version,
		"net":         wire.Version,
		"replication": replication.Version,
	} {
		text, err := os.ReadFile(filepath.Join("..", "..", module, "CHANGELOG.md"))
		require.NoError(t, err)
		newest := release.FindStringSubmatch(string(text))
		require.NotNil(t, newest, "%s: no release in the changelog", module)
		require.Equal(t, newest[1], version, module)
	}
}
