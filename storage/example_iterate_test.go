package storage_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/zue-log/zue/storage"
)

// Follow a log: what it has, and then each record when it is there.
func ExampleLog_Iterate() {
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
	go func() {
		for _, v := range []string{"one", "two", "three"} {
			if _, err := l.Append(storage.Record{Value: []byte(v)}); err != nil {
				log.Fatal(err)
			}
		}
	}()

	it, err := l.Iterate(0)
	if err != nil {
		log.Fatal(err)
	}
	defer it.Close()
	for it.Offset() < 3 {
		if err := it.Wait(context.Background()); err != nil {
			log.Fatal(err)
		}
		for it.Next() {
			fmt.Println(it.Record().Offset, string(it.Record().Value))
		}
		if err := it.Err(); err != nil {
			log.Fatal(err)
		}
	}
	// Output:
	// 0 one
	// 1 two
	// 2 three
}
