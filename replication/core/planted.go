//go:build !planted

package core

// planted says whether a bug is to be there that the simulator must find. It never is, but
// with the build tag planted.
func planted(string) bool { return false }
