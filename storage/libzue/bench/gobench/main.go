// Command gobench does in Go what bench.c does in C, for that to be compared to:
//
//	gobench <case> <records> <directory>
//
// It prints how many nanoseconds of CPU time a record took.
package main

import (
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/zue-log/zue/storage"
)

const (
	valueBytes = 100
	batch      = 100
)

var value = make([]byte, valueBytes)

// cases are those of bench.c. Each returns what had been used when it began
// what is measured.
var cases = map[string]func(log *storage.Log, records int) (time.Duration, error){
	"append":      appendOne,
	"append-100":  appendBatches,
	"read":        readEach,
	"iterate":     iterate,
	"iterate-100": iterate,
}

func main() {
	if len(os.Args) != 4 || cases[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: gobench <case> <records> <directory>")
		os.Exit(2)
	}
	records, err := strconv.Atoi(os.Args[2])
	if err == nil {
		err = measure(cases[os.Args[1]], records, os.Args[3])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "gobench:", err)
		os.Exit(1)
	}
}

func measure(run func(*storage.Log, int) (time.Duration, error), records int, dir string) error {
	log, err := storage.Open(dir, storage.Options{Sync: storage.SyncNever()})
	if err != nil {
		return err
	}
	begin, err := run(log, records)
	took := used() - begin
	if err != nil {
		return err
	}
	fmt.Println(float64(took.Nanoseconds()) / float64(records))
	return log.Close()
}

// used returns what the process has used of its processors, as bench.c has it.
func used() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err) // it cannot fail
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func appendOne(log *storage.Log, records int) (time.Duration, error) {
	begin := used()
	for range records {
		if _, err := log.Append(storage.Record{Value: value}); err != nil {
			return begin, err
		}
	}
	return begin, nil
}

func appendBatches(log *storage.Log, records int) (time.Duration, error) {
	list := make([]storage.Record, batch)
	for i := range list {
		list[i].Value = value
	}
	begin := used()
	for range records / batch {
		if _, err := log.Append(list...); err != nil {
			return begin, err
		}
	}
	return begin, nil
}

func readEach(log *storage.Log, records int) (time.Duration, error) {
	if _, err := appendBatches(log, records); err != nil {
		return 0, err
	}
	buffer := make([]byte, 2*valueBytes)
	begin := used()
	n := 0
	for range records {
		n = (n + 7919) % records
		if _, _, err := log.ReadInto(uint64(n), buffer[:0]); err != nil {
			return begin, err
		}
	}
	return begin, nil
}

// iterate copies each record, as the C interface does.
func iterate(log *storage.Log, records int) (time.Duration, error) {
	if _, err := appendBatches(log, records); err != nil {
		return 0, err
	}
	buffer := make([]byte, batch*valueBytes)
	begin := used()
	it, err := log.Iterate(0)
	if err != nil {
		return begin, err
	}
	defer it.Close()
	for n := 0; it.Next(); n++ {
		copy(buffer[n%batch*valueBytes:], it.Record().Value)
	}
	return begin, it.Err()
}
