// Package storage is an append-only log of records in a directory: durable, read by
// offset from memory-mapped files, checked by checksums, and recovered after a
// crash.
//
//	log, err := storage.Open("data", storage.Options{})
//	first, err := log.Append(storage.Record{Key: []byte("k"), Value: []byte("v")})
//	record, lease, err := log.Read(first)
//	use(record.Value) // points into the mapped file
//	lease.Release()
//	err = log.Close()
//
// An append returns when its records are durable, and concurrent ones share an
// fdatasync (see [SyncPolicy] for less). FORMAT.md has the files, byte by byte, and
// what recovery takes for torn and for corrupt.
package storage
