package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"sync"

	"github.com/zue-log/zue/client"
	"github.com/zue-log/zue/net/wire"
)

func Example() {
	ctx := context.Background()
	c, err := client.Dial(ctx, "127.0.0.1:9001", client.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	offset, err := c.Append(ctx, []byte("user-17"), []byte(`{"event":"login"}`))
	var refused *wire.Error
	switch {
	case errors.As(err, &refused) && refused.Code == wire.CodeNotLeader:
		log.Fatalf("send it to the leader: %s", refused.Message)
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

func ExampleClient_AppendAsync() {
	ctx := context.Background()
	c, err := client.Dial(ctx, "127.0.0.1:9001", client.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	var pending sync.WaitGroup
	for _, line := range []string{"one", "two", "three"} {
		pending.Add(1)
		err := c.AppendAsync(ctx, nil, []byte(line), func(offset uint64, err error) {
			defer pending.Done()
			if err != nil {
				log.Print(err)
			}
		})
		if err != nil { // not queued: the function is not called
			pending.Done()
			log.Fatal(err)
		}
	}
	pending.Wait() // for all answers
}
