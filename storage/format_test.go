package storage

import (
	"encoding/hex"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestFormatExample holds the hex dump in FORMAT.md against the code.
func TestFormatExample(t *testing.T) {
	text, err := os.ReadFile("FORMAT.md")
	require.NoError(t, err)
	_, dump, ok := strings.Cut(string(text), "<!-- dump -->\n```\n")
	require.True(t, ok)
	dump, _, _ = strings.Cut(dump, "```")
	var want string
	for _, m := range regexp.MustCompile(`(?m)^[0-9a-f]{4} ((?: [0-9a-f]{2})+)`).FindAllStringSubmatch(dump, -1) {
		want += strings.ReplaceAll(m[1], " ", "")
	}
	b := make([]byte, segmentHeaderSize)
	(&segmentHeader{created: 1_700_000_000_000, seed: 0x5eed}).put(b)
	b, _ = appendEntry(b, newSeed(0x5eed), Place{}, 0, &payload{kind: KindData, at: anywhere, span: 1,
		records: []Record{{Timestamp: 1_700_000_000_123, Key: []byte("k"), Value: []byte("hello")}}})
	require.Equal(t, hex.EncodeToString(b), want)
}
