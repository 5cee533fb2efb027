package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/zue-log/zue/client"
	"github.com/zue-log/zue/net/wire"
	"github.com/zue-log/zue/storage/batch"
)

func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := client.Dial(ctx, []string{"10.0.0.1:9000", "10.0.0.2:9000"}, client.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	offset, err := c.Append(ctx, []byte("user-17"), []byte(`{"event":"login"}`))
	switch {
	case errors.Is(err, client.ErrMaybeApplied):
		log.Fatalf("look before you append it again: %v", err)
	case err != nil:
		log.Fatalf("safe to append it again: %v", err)
	}

	record, err := c.Read(ctx, offset)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%d: %s = %s\n", record.Offset, record.Key, record.Value)
}

// A batch is appended whole or not at all and, here, only if nobody else has appended
// anything since its records were made up.
func ExampleClient_AppendBatchAt() {
	ctx := context.Background()
	c, err := client.Dial(ctx, []string{"127.0.0.1:9000"}, client.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	end, err := c.Barrier(ctx)
	if err != nil {
		log.Fatal(err)
	}
	b, err := client.EncodeBatch([]client.Record{
		{Key: []byte("account-1"), Value: []byte("-100")},
		{Key: []byte("account-2"), Value: []byte("+100")},
	}, batch.CodecNone)
	if err != nil {
		log.Fatal(err)
	}
	receipt, err := c.AppendBatchAt(ctx, end, b)
	var refused *wire.Error
	if errors.As(err, &refused) && refused.Code == wire.CodeOffsetMismatch {
		log.Fatal("somebody was faster; look at what has come, and decide anew")
	} else if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("offsets %d and %d, on %d disks\n", receipt.First, receipt.First+1, receipt.Copies)
}

func ExampleProducer() {
	ctx := context.Background()
	c, err := client.Dial(ctx, []string{"127.0.0.1:9000"}, client.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	p, err := c.Producer(client.ProducerOptions{Linger: 5 * time.Millisecond, Codec: batch.CodecZstd, Idempotent: true})
	if err != nil {
		log.Fatal(err)
	}
	defer p.Close()

	for _, line := range []string{"one", "two", "three"} {
		err := p.Send(ctx, client.Record{Value: []byte(line)}, func(offset uint64, err error) {
			if err != nil {
				log.Printf("%s: %v", line, err)
			}
		})
		if err != nil { // not taken: the function is not called
			log.Fatal(err)
		}
	}
	if err := p.Flush(ctx); err != nil { // waits until all functions have returned
		log.Fatal(err)
	}
}

func ExampleTail() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := client.Dial(ctx, []string{"127.0.0.1:9000"}, client.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	t := c.Tail(0, client.TailOptions{})
	defer t.Close()
	for t.Next(ctx) {
		r := t.Record()
		fmt.Printf("%d: %s\n", r.Offset, r.Value)
	}
	if err := t.Err(); !errors.Is(err, context.DeadlineExceeded) {
		log.Fatal(err)
	}
}
