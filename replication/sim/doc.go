// Package sim runs a cluster of real [core.Core]s over real logs on simulated disks, with a
// simulated network and clock, has everything happen that may, and looks for what must not.
// One seed decides everything, so that a failure can be seen again.
package sim
