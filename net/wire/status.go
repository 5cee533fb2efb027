package wire

import "encoding/json"

// Status is what the JSON of a [StatusResponse] says: how a server and its log are.
// Members may be added; those that are there stay as they are.
type Status struct {
	Role     string  `json:"role"` // such as "standalone"
	Version  string  `json:"version"`
	Storage  string  `json:"storage_version"`
	Protocol int     `json:"protocol_version"`
	Uptime   float64 `json:"uptime_seconds"`
	// Sync says when an append is durable, as the server's --sync takes it, and
	// SyncMeaning in plain words.
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

// Response returns the answer that says so.
func (s Status) Response() StatusResponse {
	b, err := json.Marshal(s)
	if err != nil {
		b = []byte("{}") // cannot be: there is nothing in it that JSON has not
	}
	return StatusResponse{JSON: b}
}
