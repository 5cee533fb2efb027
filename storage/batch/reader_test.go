package batch

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestVarint compares with the standard library's.
func TestVarint(t *testing.T) {
	values := []int64{0, 1, -1, 63, 64, -64, -65, 8191, 8192, -8192, -8193, math.MaxInt64, math.MinInt64}
	rng := rand.New(rand.NewPCG(3, 4))
	for range 10_000 {
		values = append(values, int64(rng.Uint64())>>rng.IntN(64))
	}
	for _, v := range values {
		b := binary.AppendVarint(nil, v)
		require.Equal(t, len(b), varintSize(v), v)
		got, at := varint(append([]byte{9}, b...), 1)
		require.Equal(t, v, got)
		require.Equal(t, len(b)+1, at)
		for n := range b {
			_, at = varint(b[:n], 0)
			require.Negative(t, at)
		}
	}
	for range 10_000 {
		b := make([]byte, rng.IntN(12))
		for i := range b {
			b[i] = byte(rng.Uint64()) | 0x80*byte(rng.IntN(2))
		}
		want, n := binary.Varint(b)
		got, at := varint(b, 0)
		if n <= 0 {
			require.Negative(t, at, "%x", b)
			continue
		}
		require.Equal(t, n, at, "%x", b)
		require.Equal(t, want, got, "%x", b)
	}
}

// TestUsual has records at the edges of what the fast way takes: each comes out as by
// the slow one.
func TestUsual(t *testing.T) {
	sizes := []int{-1, 0, 1, 2, 3, 62, 63, 64, 65, 126, 127, 128, 8180, 8190, 8191, 8192, 8193, 20_000}
	var records []Record
	for _, key := range sizes {
		for _, value := range sizes {
			for _, stamp := range []int64{0, -70, 70, 9000, 1 << 40} {
				rec := Record{Timestamp: 1 << 41, Key: []byte{}, Value: []byte{}}
				if len(records) > 0 {
					rec.Timestamp += stamp
				}
				if rec.Key = text(max(key, 0)); key < 0 {
					rec.Key = nil
				}
				if rec.Value = text(max(value, 0)); value < 0 {
					rec.Value = nil
				}
				records = append(records, rec)
			}
		}
	}
	for i := range records {
		records[i].Offset = uint64(i)
	}
	body := Append(nil, records, 0)
	require.Equal(t, len(body), Size(records, 0))
	_, err := Check(body, len(body))
	require.NoError(t, err)
	got, err := decodeAll(body, 0)
	require.NoError(t, err)
	require.Equal(t, records, got)
	compareWays(t, body, 5)
}

func TestSkipTime(t *testing.T) {
	r, err := NewReader(Append(nil, sample, 0), 70)
	require.NoError(t, err)
	require.EqualValues(t, 3, r.Header().Count)
	for i := range sample {
		offset, timestamp, ok, err := r.SkipTime()
		require.NoError(t, err)
		require.True(t, ok)
		require.EqualValues(t, 70+i, offset)
		require.Equal(t, sample[i].Timestamp, timestamp)
	}
	_, _, ok, err := r.SkipTime()
	require.NoError(t, err)
	require.False(t, ok)
}

// TestLogAppendTime has every record at the time that a broker gave the batch.
func TestLogAppendTime(t *testing.T) {
	body := Append(nil, sample, 0)
	body[1] |= attrLogAppendTime
	got, err := decodeAll(body, 0)
	require.NoError(t, err)
	for _, rec := range got {
		require.EqualValues(t, 1500, rec.Timestamp)
	}
	compareWays(t, body, 0)
	r, err := NewReader(body, 0)
	require.NoError(t, err)
	_, timestamp, _, err := r.SkipTime()
	require.NoError(t, err)
	require.EqualValues(t, 1500, timestamp)
}

// compareWays reads body by all of a Reader's ways at once. Next and its slow way are
// the same; so are SkipTime and its own, which may go on where Next finds a fault.
func compareWays(t *testing.T, body []byte, first uint64) {
	t.Helper()
	r, err := NewReader(body, first)
	if err != nil {
		return
	}
	for {
		fast, slow, skip, slowSkip := r, r, r, r
		var a, b Record
		ok, err := fast.Next(&a)
		slowOK, slowErr := slow.next(&b)
		if ok != slowOK || (err == nil) != (slowErr == nil) || err != nil && err.Error() != slowErr.Error() {
			t.Fatalf("at %d: %v %v, %v %v", r.at, ok, err, slowOK, slowErr)
		}
		offset, timestamp, skipOK, skipErr := skip.SkipTime()
		offset2, timestamp2, skipOK2, skipErr2 := slowSkip.skip()
		if offset != offset2 || timestamp != timestamp2 || skipOK != skipOK2 || (skipErr == nil) != (skipErr2 == nil) || skip.at != slowSkip.at {
			t.Fatalf("at %d: %d %d %v %v, %d %d %v %v", r.at, offset, timestamp, skipOK, skipErr, offset2, timestamp2, skipOK2, skipErr2)
		}
		if !ok {
			return
		}
		if !reflect.DeepEqual(a, b) || fast.at != slow.at || fast.left != slow.left {
			t.Fatalf("at %d: %v, %v", r.at, a, b)
		}
		if !skipOK || offset != a.Offset || timestamp != a.Timestamp || skip.at != fast.at || skip.left != fast.left {
			t.Fatalf("at %d: %v, skipped to %d %d %v %v", r.at, a, offset, timestamp, skipOK, skipErr)
		}
		if cap(a.Key) != len(a.Key) || cap(a.Value) != len(a.Value) {
			t.Fatal("a field's capacity reaches beyond it")
		}
		r = fast
	}
}

func FuzzReader(f *testing.F) {
	f.Add(Append(nil, sample, 0), 41)
	f.Add(Append(nil, sample[:1], 0), 0)
	f.Add(Append(nil, []Record{{Timestamp: 3, Key: text(16), Value: text(100)}, {Timestamp: 9000, Value: text(9000)}}, 0), 40)
	f.Fuzz(func(t *testing.T, body []byte, at int) {
		compareWays(t, body, 9)
		records, err := decodeAll(body, 9)
		if err != nil && !isKnown(err) {
			t.Fatal(err)
		}
		if err == nil && len(records) > 0 {
			// What decodes, encodes to something that decodes to the same.
			again, err := decodeAll(Append(nil, records, records[0].Timestamp), records[0].Offset)
			if err != nil || len(again) != len(records) {
				t.Fatal(len(again), len(records), err)
			}
			for i := range records {
				a, b := &records[i], &again[i]
				if !bytes.Equal(a.Key, b.Key) || !bytes.Equal(a.Value, b.Value) || !reflect.DeepEqual(a.Headers, b.Headers) {
					t.Fatal(a, b)
				}
			}
		}
		r, err := NewReader(body, 0)
		if err != nil || r.Seek(at) != nil {
			return
		}
		var rec Record
		for ok := true; ok && err == nil; {
			ok, err = r.Next(&rec)
		}
	})
}
