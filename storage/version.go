package storage

// Version is the version of this library, as CHANGELOG.md has it.
const Version = "0.2.0"

// FormatVersion is the version of the files that this library writes and reads: see
// FORMAT.md.
const FormatVersion = segmentVersion
