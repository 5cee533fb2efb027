package server

// Version is the version of the server.
const Version = "0.2.0"
