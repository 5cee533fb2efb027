package storage

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zue-log/zue/storage/executor"
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

// BenchmarkOpenAfterKill opens a log of 1 GiB, records of 1 KiB in batches of 1,000, that
// was killed: as Open does, and with everything checked before the log is used.
func BenchmarkOpenAfterKill(b *testing.B) {
	dir := b.TempDir()
	o := Options{Sync: SyncNever(), Executor: executor.NewManual(time.Unix(1, 0))}
	l, err := Open(dir, o)
	require.NoError(b, err)
	records := make([]Record, 1000)
	for i := range records {
		records[i] = Record{Timestamp: 1, Key: make([]byte, 16), Value: make([]byte, 1024)}
	}
	for l.Metrics().Bytes < 1<<30 {
		_, err := l.Append(records...)
		require.NoError(b, err)
		o.Executor.(*executor.Manual).Advance(0) // seals what it can
	}
	require.NoError(b, l.release()) // all that a kill does
	for _, how := range []string{"open", "open and verify"} {
		b.Run(how, func(b *testing.B) {
			b.ReportAllocs()
			for range b.N {
				l, err := Open(dir, o)
				if err == nil && how != "open" {
					var r Report
					r, err = l.Verify(context.Background(), nil)
					require.Empty(b, r.Damage)
				}
				require.NoError(b, err)
				require.NotZero(b, l.Recovery().Scanned)
				require.NoError(b, l.release())
			}
		})
	}
}
