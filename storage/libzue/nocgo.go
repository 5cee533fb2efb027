//go:build !cgo

// Without cgo there is no library. With this file there is still a package, so that
// commands which name all of the module do not fail.
package main

func main() {}
