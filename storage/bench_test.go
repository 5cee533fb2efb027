package storage

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

func benchmarkLog(b *testing.B, o Options) *Log {
	b.Helper()
	l, err := Open(b.TempDir(), o)
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, l.Close()) })
	b.ReportAllocs()
	return l
}

// BenchmarkAppend appends records of 100 B with keys of 16 B; its unit is one
// record.
func BenchmarkAppend(b *testing.B) {
	for _, policy := range []SyncPolicy{SyncAlways(), SyncNever()} {
		for _, n := range []int{1, 1000} {
			b.Run(fmt.Sprintf("sync=%s/batch=%d", policy, n), func(b *testing.B) {
				l := benchmarkLog(b, Options{Sync: policy})
				records := make([]Record, n)
				for i := range records {
					records[i] = Record{Timestamp: 1, Key: make([]byte, 16), Value: make([]byte, 100)}
				}
				b.ResetTimer()
				for i := 0; i < b.N; i += n {
					if _, err := l.Append(records...); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkAppendConcurrent has 64 callers that each wait for their record to be
// durable.
func BenchmarkAppendConcurrent(b *testing.B) {
	l := benchmarkLog(b, Options{})
	b.SetParallelism(32) // of GOMAXPROCS, 2 here
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		rec := Record{Key: make([]byte, 16), Value: make([]byte, 100)}
		for pb.Next() {
			if _, err := l.Append(rec); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkRead reads records of 100 B by random offset.
func BenchmarkRead(b *testing.B) {
	const total = 1_000_000
	for _, n := range []int{1, 1000} {
		b.Run(fmt.Sprintf("batch=%d", n), func(b *testing.B) {
			l := benchmarkLog(b, Options{Sync: SyncNever()})
			records := make([]Record, n)
			for i := range records {
				records[i] = Record{Timestamp: 1, Key: make([]byte, 16), Value: make([]byte, 100)}
			}
			for range total / n {
				_, err := l.Append(records...)
				require.NoError(b, err)
			}
			bad := 0
			rng := rand.New(rand.NewPCG(1, 1))
			b.ResetTimer()
			for range b.N {
				off := rng.Uint64N(total)
				rec, lease, err := l.Read(off)
				if err != nil || rec.Offset != off {
					bad++
				}
				lease.Release()
			}
			require.Zero(b, bad)
		})
	}
}
