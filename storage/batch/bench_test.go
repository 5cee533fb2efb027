package batch

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"
)

const benchRecords = 1000

// benchBatch is a batch of records with a key of 16 bytes and a value of 100 that
// compresses as text does.
func benchBatch() []Record {
	rng := rand.New(rand.NewPCG(1, 2))
	words := []string{"order", "created", "customer", "warehouse", "amount", "delivered", "pending", "Berlin"}
	out := make([]Record, benchRecords)
	for i := range out {
		key := binary.BigEndian.AppendUint64(make([]byte, 8, 16), rng.Uint64())
		var value []byte
		for len(value) < 100 {
			value = fmt.Appendf(value, "%s=%d,", words[rng.IntN(len(words))], rng.IntN(10000))
		}
		out[i] = Record{Timestamp: 1_700_000_000_000 + int64(i), Key: key, Value: value[:100]}
	}
	return out
}

// perRecord makes b report the time of one of n records.
func perRecord(b *testing.B, n int) {
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/record")
}

func BenchmarkAppend(b *testing.B) {
	for _, n := range []int{1, benchRecords} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			records := benchBatch()[:n]
			var dst []byte
			b.ReportAllocs()
			for b.Loop() {
				dst = Append(dst[:0], records, 0)
			}
			perRecord(b, n)
		})
	}
}

func BenchmarkSize(b *testing.B) {
	records := benchBatch()
	b.ReportAllocs()
	for b.Loop() {
		Size(records, 0)
	}
	perRecord(b, benchRecords)
}

func BenchmarkNext(b *testing.B) {
	body := Append(nil, benchBatch(), 0)
	b.ReportAllocs()
	for b.Loop() {
		r, err := NewReader(body, 0)
		if err != nil {
			b.Fatal(err)
		}
		var rec Record
		n := 0
		for {
			ok, err := r.Next(&rec)
			if err != nil {
				b.Fatal(err)
			}
			if !ok {
				break
			}
			n += len(rec.Value)
		}
		if n != 100*benchRecords {
			b.Fatal(n)
		}
	}
	perRecord(b, benchRecords)
}

func BenchmarkSkip(b *testing.B) {
	body := Append(nil, benchBatch(), 0)
	b.Run("Skip", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			r, _ := NewReader(body, 0)
			for ok := true; ok; {
				_, ok, _ = r.Skip()
			}
		}
		perRecord(b, benchRecords)
	})
	b.Run("SkipTime", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			r, _ := NewReader(body, 0)
			for ok := true; ok; {
				_, _, ok, _ = r.SkipTime()
			}
		}
		perRecord(b, benchRecords)
	})
}

func BenchmarkCheck(b *testing.B) {
	for codec := CodecNone; codec <= CodecZstd; codec++ {
		b.Run(codec.String(), func(b *testing.B) {
			body, err := AppendCompressed(nil, benchBatch(), 0, codec)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Check(body, 1<<20); err != nil {
					b.Fatal(err)
				}
			}
			perRecord(b, benchRecords)
		})
	}
}

func BenchmarkCompress(b *testing.B) {
	records := benchBatch()
	size := Size(records, 0)
	for codec := CodecNone; codec <= CodecZstd; codec++ {
		b.Run(codec.String(), func(b *testing.B) {
			var dst []byte
			b.ReportAllocs()
			b.SetBytes(int64(size))
			for b.Loop() {
				var err error
				if dst, err = AppendCompressed(dst[:0], records, 0, codec); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(size)/float64(len(dst)), "ratio")
		})
	}
}

func BenchmarkDecompress(b *testing.B) {
	records := benchBatch()
	for codec := CodecNone; codec <= CodecZstd; codec++ {
		b.Run(codec.String(), func(b *testing.B) {
			body, err := AppendCompressed(nil, records, 0, codec)
			if err != nil {
				b.Fatal(err)
			}
			var dst []byte
			b.ReportAllocs()
			b.SetBytes(int64(Size(records, 0)))
			for b.Loop() {
				if dst, err = Decompress(dst[:0], body, 1<<20); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
