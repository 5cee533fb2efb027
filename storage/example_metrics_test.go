package storage_test

import (
	"fmt"
	"log"
	"os"
	"time"

	"github.com/zue-log/zue/storage"
)

// Watch a log: a snapshot of its counters, and a call for each sync that was slow.
func ExampleLog_Metrics() {
	dir, err := os.MkdirTemp("", "zue")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	l, err := storage.Open(dir, storage.Options{SegmentBytes: 1 << 20, Events: storage.Events{
		Synced: func(e storage.SyncEvent) {
			if e.Duration > 10*time.Second {
				log.Printf("%s: a sync took %s", e.Path, e.Duration)
			}
		},
	}})
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	for range 3 {
		if _, err := l.Append(storage.Record{Value: []byte("v")}); err != nil {
			log.Fatal(err)
		}
	}
	m := l.Metrics()
	fmt.Println(m.Records, "records in", m.Segments, "segment,", m.Syncs, "syncs, durable up to entry", m.DurableIndex)
	// Output: 3 records in 1 segment, 3 syncs, durable up to entry 3
}

// Append without waiting, and wait for all at the end.
func ExampleLog_AppendAsync() {
	dir, err := os.MkdirTemp("", "zue")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	l, err := storage.Open(dir, storage.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	var last storage.Pending
	for i := range 1000 {
		last = l.AppendAsync(storage.Record{Value: []byte(fmt.Sprint(i))})
	}
	// Appends become durable in order: the last one answers for all.
	offset, err := last.Wait()
	fmt.Println(offset, err)
	// Output: 999 <nil>
}
