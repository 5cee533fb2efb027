package server

import (
	"time"

	"github.com/zue-log/zue/net/wire"
	"github.com/zue-log/zue/storage"
)

// status returns how the server is at this moment.
func (s *Server) status() wire.Status {
	m := s.log.Metrics()
	st := wire.Status{
		Role: "standalone", Version: Version, Storage: storage.Version, Protocol: wire.ProtocolVersion,
		Uptime: time.Since(s.started).Seconds(), Sync: s.opts.Sync.String(), SyncMeaning: meaning(s.opts.Sync),
		FirstOffset: m.FirstOffset, CommittedOffset: m.EndOffset, EndOffset: m.EndOffset, LastIndex: m.LastIndex, DurableIndex: m.DurableIndex,
		Segments: m.Segments, FileBytes: m.FileBytes, MaxConnections: s.opts.MaxConnections,
	}
	if m.Failed != nil {
		st.Failed = m.Failed.Error()
	}
	st.Connections = s.count()
	if s.cluster != nil {
		s.cluster.fill(&st, s.opts.Sync)
	}
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
