package storage

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/zue-log/zue/storage/batch"
)

// benchmarkRecords makes a log of total records in batches of n, with values of size
// bytes, keys of 16 and ascending times. With mixed sizes they vary from half to one
// and a half times that.
func benchmarkRecords(b *testing.B, total, n, size int, mixed bool, codec batch.Codec) *Log {
	b.Helper()
	l := benchmarkLog(b, Options{Sync: SyncNever(), Compression: codec})
	records := make([]Record, n)
	rng := rand.New(rand.NewPCG(2, 2))
	value := make([]byte, 2*size)
	for i := range value {
		value[i] = byte(i % 23)
	}
	for at := 0; at < total; at += n {
		for i := range records {
			k := size
			if mixed {
				k = size/2 + rng.IntN(size)
			}
			records[i] = Record{Timestamp: int64(1_000_000 + at + i), Key: value[:16], Value: value[:k]}
		}
		_, err := l.Append(records...)
		require.NoError(b, err)
	}
	return l
}

// BenchmarkReadMixed is BenchmarkRead of records whose sizes vary.
func BenchmarkReadMixed(b *testing.B) {
	const total = 1_000_000
	for _, n := range []int{1, 1000} {
		b.Run(fmt.Sprintf("batch=%d", n), func(b *testing.B) {
			benchmarkReads(b, benchmarkRecords(b, total, n, 100, true, batch.CodecNone), total)
		})
	}
}

// BenchmarkReadInto copies records of 100 B by random offset.
func BenchmarkReadInto(b *testing.B) {
	const total = 1_000_000
	l := benchmarkRecords(b, total, 1000, 100, false, batch.CodecNone)
	rng := rand.New(rand.NewPCG(1, 1))
	buf := make([]byte, 0, 4096)
	for b.Loop() {
		if _, _, err := l.ReadInto(rng.Uint64N(total), buf); err != nil {
			b.Fatal(err)
		}
	}
}

func benchmarkReads(b *testing.B, l *Log, total uint64) {
	b.Helper()
	rng := rand.New(rand.NewPCG(1, 1))
	bad := 0
	b.ResetTimer()
	for range b.N {
		offset := rng.Uint64N(total)
		rec, lease, err := l.Read(offset)
		if err != nil || rec.Offset != offset {
			bad++
		}
		lease.Release()
	}
	require.Zero(b, bad)
}

// BenchmarkIterate scans; its unit is one record.
func BenchmarkIterate(b *testing.B) {
	for _, size := range []int{100, 1024} {
		for _, n := range []int{1, 1000} {
			for _, codec := range []batch.Codec{batch.CodecNone, batch.CodecLZ4} {
				if codec != batch.CodecNone && n == 1 {
					continue
				}
				b.Run(fmt.Sprintf("size=%d/batch=%d/%v", size, n, codec), func(b *testing.B) {
					total := 40_000_000 / size
					total -= total % n
					l := benchmarkRecords(b, total, n, size, false, codec)
					b.SetBytes(int64(size))
					b.ResetTimer()
					for left := b.N; left > 0; {
						it, err := l.Iterate(0)
						require.NoError(b, err)
						seen := 0
						for left > 0 && it.Next() {
							seen += len(it.Record().Value) / size
							left--
						}
						require.NoError(b, it.Err())
						require.Positive(b, seen)
						it.Close()
					}
				})
			}
		}
	}
}

// BenchmarkOffsetForTime looks random times up.
func BenchmarkOffsetForTime(b *testing.B) {
	const total = 1_000_000
	for _, n := range []int{1, 1000} {
		b.Run(fmt.Sprintf("batch=%d", n), func(b *testing.B) {
			l := benchmarkRecords(b, total, n, 100, false, batch.CodecNone)
			rng := rand.New(rand.NewPCG(1, 1))
			for b.Loop() {
				k := rng.Uint64N(total)
				if offset, err := l.OffsetForTime(int64(1_000_000 + k)); err != nil || offset != k {
					b.Fatal(offset, err)
				}
			}
		})
	}
}

// BenchmarkReadEntries reads all entries in turn, at most 64 KiB of bodies at a time;
// its unit is one entry.
func BenchmarkReadEntries(b *testing.B) {
	for _, n := range []int{1, 100} {
		b.Run(fmt.Sprintf("batch=%d", n), func(b *testing.B) {
			l := benchmarkRecords(b, 200_000, n, 100, false, batch.CodecNone)
			var entries []Entry
			index, last := uint64(1), l.LastPlace().Index
			b.ResetTimer()
			for done := 0; done < b.N; done += len(entries) {
				if index > last {
					index = 1
				}
				got, lease, err := l.ReadEntries(entries[:0], index, math.MaxUint64, 64<<10)
				require.NoError(b, err)
				entries = got
				index += uint64(len(got))
				lease.Release()
			}
		})
	}
}
