// Command zue-client appends records to a Zue log and reads them back.
//
//	zue-client append <host> <port> <key> <value>   prints the offset
//	zue-client append <host> <port> --stdin         appends every line of standard input
//	zue-client read <host> <port> <offset>          prints the value
//	zue-client read <host> <port> --from <offset>   prints the values from there on
//	zue-client tail <host> <port>                   prints values as they are appended
//	zue-client status <host> <port>                 prints how the server, or its cluster, is
//	zue-client cluster <command> <host> <port> ...  changes a cluster, or compares its nodes
//	zue-client bench <host> <port>                  measures the server
//
// Results go to standard output, everything else to standard error. The exit status
// is 0 when all went well, 1 when something failed, 2 for wrong usage, and 141 when nobody
// reads the output any more.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	// Else writing to a pipe that nobody reads would end the program before it
	// could say what has become of the records.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// After the first signal the default comes back, so that a second one ends
	// the program at once.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
