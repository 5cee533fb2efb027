package server

import (
	"encoding/json"
	"time"

	"github.com/zue-log/zue/net/wire"
	"github.com/zue-log/zue/storage"
)

// Status is how a server and its log are: what it answers to a status request, as JSON.
// Members may be added; those that are there stay as they are.
type Status struct {
	Role     string  `json:"role"` // "standalone"
	Version  string  `json:"version"`
	Storage  string  `json:"storage_version"`
	Protocol int     `json:"protocol_version"`
	Uptime   float64 `json:"uptime_seconds"`
	// Sync says when an append is durable, as --sync takes it, and SyncMeaning in
	// plain words.
	Sync        string `json:"sync"`
	SyncMeaning string `json:"sync_meaning"`

	FirstOffset  uint64 `json:"first_offset"`
	EndOffset    uint64 `json:"end_offset"`
	LastIndex    uint64 `json:"last_index"`
	DurableIndex uint64 `json:"durable_index"`
	Segments     int    `json:"segments"`
	FileBytes    int64  `json:"file_bytes"`
	// Failed is why the log takes no appends until the server is started again; empty
	// if it does.
	Failed string `json:"failed,omitempty"`

	Connections    int `json:"connections"`
	MaxConnections int `json:"max_connections"`
}

// encode returns the status as JSON.
func (s Status) encode() []byte {
	b, err := json.Marshal(s)
	if err != nil {
		return []byte("{}") // cannot be: there is nothing in it that JSON has not
	}
	return b
}

// status returns how the server is at this moment.
func (s *Server) status() Status {
	m := s.log.Metrics()
	st := Status{
		Role: "standalone", Version: Version, Storage: storage.Version, Protocol: wire.ProtocolVersion,
		Uptime: time.Since(s.started).Seconds(), Sync: s.opts.Sync.String(), SyncMeaning: meaning(s.opts.Sync),
		FirstOffset: m.FirstOffset, EndOffset: m.EndOffset, LastIndex: m.LastIndex, DurableIndex: m.DurableIndex,
		Segments: m.Segments, FileBytes: m.FileBytes, MaxConnections: s.opts.MaxConnections,
	}
	if m.Failed != nil {
		st.Failed = m.Failed.Error()
	}
	s.mu.Lock()
	st.Connections = len(s.sessions)
	s.mu.Unlock()
	return st
}

// meaning says in plain words what a policy promises.
func meaning(p storage.SyncPolicy) string {
	switch {
	case p == storage.SyncAlways():
		return "an acknowledged record is on disk"
	case p == storage.SyncNever():
		return "an acknowledged record survives a crash of the server; one of the machine may lose it"
	}
	return "an acknowledged record survives a crash of the server; one of the machine may lose those of the last " + p.String()
}
