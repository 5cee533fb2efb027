//go:build race

package sim

// defaultSeeds are fewer with the race detector, which makes runs slow, and finds nothing in
// what is one goroutine but for the storage's.
const defaultSeeds = 30
