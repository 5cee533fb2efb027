package batch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

// isKnown says whether err is of a kind that input may cause.
func isKnown(err error) bool {
	return errors.Is(err, ErrMalformed) || errors.Is(err, ErrUnsupported) || errors.Is(err, ErrTooLarge) || errors.Is(err, ErrCompressed)
}

// rawBatch is a body with the given records, each without its length, and times 0.
func rawBatch(records ...string) []byte {
	body := Append(nil, make([]Record, len(records)), 0)[:HeaderSize]
	for _, r := range records {
		body = binary.AppendVarint(body, int64(len(r)))
		body = append(body, r...)
	}
	return body
}

func TestCheck(t *testing.T) {
	h, err := Check(Append(nil, sample, 0), 100)
	require.NoError(t, err)
	require.EqualValues(t, 3, h.Count)

	// Each field of the header, and each byte of the records, by its fault.
	be := binary.BigEndian
	good := Append(nil, sample, 0)
	cases := []struct {
		name  string
		want  error
		fault func(b []byte) []byte
	}{
		{"short", ErrMalformed, func(b []byte) []byte { return b[:HeaderSize-1] }},
		{"no records", ErrMalformed, func(b []byte) []byte { be.PutUint32(b[36:], 0); return b[:HeaderSize] }},
		{"negative count", ErrMalformed, func(b []byte) []byte { be.PutUint32(b[36:], 1<<31); return b }},
		{"fewer records than offsets", ErrMalformed, func(b []byte) []byte { be.PutUint32(b[2:], 3); return b }},
		{"more records than offsets", ErrMalformed, func(b []byte) []byte { be.PutUint32(b[36:], 4); return b }},
		{"count beyond the bytes", ErrMalformed, func(b []byte) []byte { be.PutUint32(b[36:], 10); be.PutUint32(b[2:], 9); return b }},
		{"count beyond the limit", ErrTooLarge, func(b []byte) []byte { be.PutUint32(b[36:], 1000); be.PutUint32(b[2:], 999); return b }},
		{"greatest count", ErrTooLarge, func(b []byte) []byte {
			be.PutUint32(b[36:], math.MaxInt32)
			be.PutUint32(b[2:], math.MaxInt32-1)
			return b
		}},
		{"one record more than there is", ErrMalformed, func(b []byte) []byte { be.PutUint32(b[36:], 4); be.PutUint32(b[2:], 3); return b }},
		{"one record fewer", ErrMalformed, func(b []byte) []byte { be.PutUint32(b[36:], 2); be.PutUint32(b[2:], 1); return b }},
		{"codec 5", ErrUnsupported, func(b []byte) []byte { b[1] = 5; return b }},
		{"log append time", ErrUnsupported, func(b []byte) []byte { b[1] = 0x08; return b }},
		{"transactional", ErrUnsupported, func(b []byte) []byte { b[1] = 0x10; return b }},
		{"control", ErrUnsupported, func(b []byte) []byte { b[1] = 0x20; return b }},
		{"delete horizon", ErrUnsupported, func(b []byte) []byte { b[1] = 0x40; return b }},
		{"unknown attribute", ErrUnsupported, func(b []byte) []byte { b[1] = 0x80; return b }},
		{"unknown attribute, high", ErrUnsupported, func(b []byte) []byte { b[0] = 0x80; return b }},
		{"compressed, but not", ErrMalformed, func(b []byte) []byte { b[1] = byte(CodecZstd); return b }},
		{"maximum timestamp too great", ErrMalformed, func(b []byte) []byte { b[21]++; return b }},
		{"maximum timestamp too small", ErrMalformed, func(b []byte) []byte { b[21]--; return b }},
		{"base timestamp", ErrMalformed, func(b []byte) []byte { b[13]++; return b }},
		{"timestamp overflows", ErrMalformed, func(b []byte) []byte {
			be.PutUint64(b[6:], math.MaxInt64-100)
			be.PutUint64(b[14:], math.MaxInt64-100)
			return b
		}},
		{"timestamp underflows", ErrMalformed, func(b []byte) []byte {
			base := int64(math.MinInt64 + 100)
			be.PutUint64(b[6:], uint64(base))
			be.PutUint64(b[14:], uint64(base+500))
			return b
		}},
		{"producer without the rest", ErrMalformed, func(b []byte) []byte { be.PutUint64(b[22:], 1); return b }},
		{"epoch without the rest", ErrMalformed, func(b []byte) []byte { be.PutUint16(b[30:], 1); return b }},
		{"sequence without the rest", ErrMalformed, func(b []byte) []byte { be.PutUint32(b[32:], 1); return b }},
		{"producer -2", ErrMalformed, func(b []byte) []byte { be.PutUint64(b[22:], 1<<64-2); return b }},
		{"byte after the records", ErrMalformed, func(b []byte) []byte { return append(b, 0) }},
		{"byte missing", ErrMalformed, func(b []byte) []byte { return b[:len(b)-1] }},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := Check(c.fault(bytes.Clone(good)), 100)
			require.ErrorIs(t, err, c.want)
		})
	}
}

func TestCheckLimit(t *testing.T) {
	good := Append(nil, sample, 0)
	size := len(good) - HeaderSize
	_, err := Check(good, size-1)
	require.ErrorIs(t, err, ErrTooLarge)
	_, err = Check(good, size)
	require.NoError(t, err)
	for _, limit := range []int{0, -1, math.MinInt} {
		_, err = Check(good, limit)
		require.ErrorIs(t, err, ErrTooLarge)
	}
}

func TestCheckProducer(t *testing.T) {
	be := binary.BigEndian
	b := Append(nil, sample, 0)
	be.PutUint32(b[32:], 0) // as franz-go does without a producer
	_, err := Check(b, 100)
	require.NoError(t, err)
	be.PutUint64(b[22:], 7)
	be.PutUint16(b[30:], 0)
	h, err := Check(b, 100)
	require.NoError(t, err)
	require.EqualValues(t, 7, h.ProducerID)
}

func TestCheckRecords(t *testing.T) {
	const nulls = "\x01\x01" // key and value
	long := func(n byte) string { return string([]byte{n | 0x80, 0x80, 0x80, 0x80, 0x80, 0x00}) }
	for _, c := range []struct {
		name    string
		want    error // nil: good
		records []string
	}{
		{"one", nil, []string{"\x00\x00\x00" + nulls + "\x00"}},
		{"two", nil, []string{"\x00\x00\x00" + nulls + "\x00", "\x00\x00\x02" + nulls + "\x00"}},
		{"header", nil, []string{"\x00\x00\x00" + nulls + "\x02\x02h\x01"}},
		{"empty header", nil, []string{"\x00\x00\x00" + nulls + "\x02\x00\x00"}},
		{"longer varints than need be", nil, []string{"\x00\x80\x00\x80\x80\x00" + nulls + "\x80\x00"}},
		{"same offset twice", ErrMalformed, []string{"\x00\x00\x00" + nulls + "\x00", "\x00\x00\x00" + nulls + "\x00"}},
		{"offset left out", ErrMalformed, []string{"\x00\x00\x02" + nulls + "\x00"}},
		{"offset less than 0", ErrMalformed, []string{"\x00\x00\x01" + nulls + "\x00"}},
		{"swapped", ErrMalformed, []string{"\x00\x00\x02" + nulls + "\x00", "\x00\x00\x00" + nulls + "\x00"}},
		{"attributes", ErrUnsupported, []string{"\x01\x00\x00" + nulls + "\x00"}},
		{"empty", ErrMalformed, []string{"", "\x00\x00\x02" + nulls + "\x00"}},
		{"no offset", ErrMalformed, []string{"\x00\x00"}},
		{"no headers", ErrMalformed, []string{"\x00\x00\x00" + nulls}},
		{"key too long", ErrMalformed, []string{"\x00\x00\x00\x20\x01\x00"}},
		{"key less than null", ErrMalformed, []string{"\x00\x00\x00\x03\x01\x00"}},
		{"value too long", ErrMalformed, []string{"\x00\x00\x00\x01\x20\x00"}},
		{"value less than null", ErrMalformed, []string{"\x00\x00\x00\x01\x03\x00"}},
		{"byte left", ErrMalformed, []string{"\x00\x00\x00" + nulls + "\x00\x00"}},
		{"headers too many", ErrMalformed, []string{"\x00\x00\x00" + nulls + "\x04\x00\x00"}},
		{"headers less than none", ErrMalformed, []string{"\x00\x00\x00" + nulls + "\x01"}},
		{"null header key", ErrMalformed, []string{"\x00\x00\x00" + nulls + "\x02\x01\x00"}},
		{"header value less than null", ErrMalformed, []string{"\x00\x00\x00" + nulls + "\x02\x00\x03"}},
		{"key length of 6 bytes", ErrMalformed, []string{"\x00\x00\x00" + long(2) + "k\x01\x00"}},
		{"offset of 6 bytes", ErrMalformed, []string{"\x00\x00" + long(0) + nulls + "\x00"}},
		{"varint without end", ErrMalformed, []string{"\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Check(rawBatch(c.records...), 1000)
			if c.want == nil {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, c.want)
		})
	}
	length := Append(nil, make([]Record, 1), 0)
	length[HeaderSize] = 0x0b // -6
	_, err := Check(length, 1000)
	require.ErrorIs(t, err, ErrMalformed)
}

// TestCheckFlips turns each bit of a batch: what Check then takes, the Reader takes.
func TestCheckFlips(t *testing.T) {
	good := Append(nil, sample, 0)
	for i := range len(good) * 8 {
		b := bytes.Clone(good)
		b[i/8] ^= 1 << (i % 8)
		if _, err := Check(b, 1000); err == nil {
			got, err := decodeAll(b, 0)
			require.NoError(t, err)
			require.Len(t, got, len(sample))
		}
	}
}

func TestNoAllocations(t *testing.T) {
	records := benchBatch()
	body := Append(nil, records, 0)
	require.Zero(t, testing.AllocsPerRun(10, func() {
		if _, err := Check(body, 1<<20); err != nil {
			t.Fatal(err)
		}
	}))
	require.Zero(t, testing.AllocsPerRun(10, func() {
		r, _ := NewReader(body, 0)
		var rec Record
		for {
			if ok, err := r.Next(&rec); !ok {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
		}
	}))
}

func FuzzCheck(f *testing.F) {
	for _, codec := range codecs {
		for _, records := range [][]Record{sample, sample[:1], {{Timestamp: 1, Value: text(5000)}, {Timestamp: 2, Headers: sample[1].Headers}}} {
			body, err := AppendCompressed(nil, records, 0, codec)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(body)
		}
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		const limit = 1 << 20
		h, err := Check(body, limit)
		if err != nil {
			if !isKnown(err) {
				t.Fatal(err)
			}
			return
		}
		// What is good can be read, and is what it says.
		plain, err := Decompress(nil, body, limit)
		if err != nil {
			t.Fatal(err)
		}
		records, err := decodeAll(plain, 0)
		if err != nil || len(records) != int(h.Count) {
			t.Fatal(len(records), err)
		}
		latest := int64(math.MinInt64)
		for i := range records {
			latest = max(latest, records[i].Timestamp)
			if records[i].Offset != uint64(i) {
				t.Fatal(i, records[i].Offset)
			}
		}
		if latest != h.MaxTimestamp {
			t.Fatal(latest, h.MaxTimestamp)
		}
		// So is what it is encoded to anew. Its differences of times may wrap.
		if _, err := decodeAll(Append(nil, records, 0), 0); err != nil {
			t.Fatal(err)
		}
	})
}
