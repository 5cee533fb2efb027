// Package server answers Zue's client protocol (net/PROTOCOL.md) from a log.
package server
