package main

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestMain is also what workers begin with.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "--worker" {
		main()
	}
	os.Exit(m.Run())
}

// runSim runs the command.
func runSim(t *testing.T, args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = run(t.Context(), args, &out, &errs)
	return code, out.String(), errs.String()
}

func TestSeedsAreSpread(t *testing.T) {
	code, stdout, stderr := runSim(t, "--seeds", "5", "--seed", "40", "--duration", "3s", "--workers", "2")
	require.Zero(t, code, "%s%s", stdout, stderr)
	require.Contains(t, stdout, "5 seeds from 40 on, 0 with violations")
	require.Regexp(t, `Messages  [1-9]`, stdout)
}

func TestReplay(t *testing.T) {
	code, one, _ := runSim(t, "--seed", "7", "--duration", "3s")
	require.Zero(t, code)
	_, two, _ := runSim(t, "--seed", "7", "--duration", "3s", "--verbose")
	require.Contains(t, two, one[:strings.Index(one, "\n")], "the same trace")
	require.Contains(t, two, "boots")
	require.NotContains(t, one, "boots")
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{"--nodes", "8"}, {"--bogus"}, {"--duration", "0s"}, {"--workers", "0"}} {
		code, _, stderr := runSim(t, args...)
		require.Equal(t, exitUsage, code)
		require.Contains(t, stderr, "sim: ")
	}
	code, _, stderr := runSim(t, "word")
	require.NotZero(t, code)
	require.Contains(t, stderr, "word")
}
