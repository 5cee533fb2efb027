package wire

// Version is the version of this library, as CHANGELOG.md has it.
const Version = "0.2.0"
