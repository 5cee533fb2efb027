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
// # Appending
//
// [Log.Append] returns when its records are durable, all or none, and concurrent calls
// share an fdatasync (see [SyncPolicy] for less). [Log.AppendAsync] returns at once, so
// that one caller can have thousands under way. [Log.AppendBatch] takes a batch that is
// encoded already, and [Log.AppendEntries] entries whose index and term a replication
// protocol has given. A full disk is an error of the append that meets it and leaves the
// log as it was ([IsFull]); a write or sync that fails otherwise ends all appends until
// the log is opened again ([ErrFailed]), since nobody can know then what is on the disk.
//
// # Reading
//
// [Log.Read] returns one record under a lease, [Log.ReadInto] copies it, [Log.Iterate]
// goes on from an offset and can wait for what is to come, [Log.OffsetForTime] finds an
// offset by timestamp, [Log.ReadEntries] returns whole entries. Readers take no lock, and
// never wait for an append. All bytes that are handed out have been verified; FORMAT.md
// says when, and what it costs. Damage is a [*CorruptionError]. A disk that fails under a
// mapping is a [*FaultError], as long as the bytes are touched by this package.
//
// # Keeping and removing
//
// A log is a row of segment files. [Log.TruncatePrefix], [Options.RetentionBytes] and
// [Options.RetentionAge] remove the oldest, whole; [Log.TruncateSuffix] takes back the
// newest entries, and [Log.Reset] all. None of that disturbs a reader under a lease.
//
// # Checking
//
// [Open] scans only what no clean close vouches for. [Log.Verify] checks everything while
// the log is in use; [Verify] and [Walk] go through the files of a log that nobody has
// open, or of a damaged one that cannot be opened, without changing them. A replica mends
// its log by what another one has: [Log.Damaged] says which entries it needs, and [Log.Mend]
// writes them in the place of those that are damaged. FORMAT.md has the files, byte by byte,
// and what recovery takes for torn and for corrupt.
package storage
