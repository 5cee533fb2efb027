package storage_test

import (
	"fmt"
	"log"
	"os"

	"github.com/zue-log/zue/storage"
)

func Example() {
	dir, err := os.MkdirTemp("", "zue-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	l, err := storage.Open(dir, storage.Options{SegmentBytes: 1 << 20})
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()

	// Durable on return, both or neither.
	first, err := l.Append(
		storage.Record{Key: []byte("user:1"), Value: []byte("signed up")},
		storage.Record{Key: []byte("user:1"), Value: []byte("logged in")},
	)
	if err != nil {
		log.Fatal(err)
	}
	for offset := first; offset < l.EndOffset(); offset++ {
		record, lease, err := l.Read(offset)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%d %s: %s\n", record.Offset, record.Key, record.Value)
		lease.Release()
	}
	// Output:
	// 0 user:1: signed up
	// 1 user:1: logged in
}
