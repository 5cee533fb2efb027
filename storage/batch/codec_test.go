package batch

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/snappy/xerial"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var codecs = []Codec{CodecNone, CodecGzip, CodecSnappy, CodecLZ4, CodecZstd}

// text is n bytes that compress.
func text(n int) []byte {
	return bytes.Repeat([]byte("the same words again and again, "), n/32+1)[:n]
}

// noise is n bytes that do not.
func noise(n int) []byte {
	rng := rand.NewChaCha8([32]byte{1})
	b := make([]byte, n)
	_, _ = rng.Read(b)
	return b
}

// withSection is a body of the given codec with the given compressed records.
func withSection(codec Codec, section []byte) []byte {
	body := bytes.Clone(Append(nil, sample, 0)[:HeaderSize])
	body[1] = byte(codec)
	return append(body, section...)
}

func TestCodecNames(t *testing.T) {
	for i, name := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		require.Equal(t, name, Codec(i).String())
		c, err := ParseCodec(name)
		require.NoError(t, err)
		require.Equal(t, Codec(i), c)
	}
	_, err := ParseCodec("brotli")
	require.ErrorIs(t, err, ErrUnsupported)
	require.Equal(t, "codec 7", Codec(7).String())
}

func TestCompressRoundTrip(t *testing.T) {
	many := make([]Record, 20_000)
	for i := range many {
		many[i] = Record{Timestamp: int64(1000 + i*i), Key: fmt.Append(nil, i%7), Value: text(i % 300)}
	}
	wide := make([]RecordHeader, 300)
	for i := range wide {
		wide[i] = RecordHeader{Key: fmt.Append(nil, "header", i), Value: text(i)}
	}
	cases := map[string][]Record{
		"edges":     sample,
		"one":       {{Timestamp: 1, Value: text(2000)}},
		"tiny":      {{Timestamp: -5}},
		"headers":   {{Timestamp: 1, Headers: wide}, {Timestamp: 2, Key: text(70), Value: text(9000), Headers: wide[:1]}},
		"many":      many,
		"large":     {{Timestamp: 1, Value: text(1 << 20)}, {Timestamp: 2, Key: text(1 << 20)}, {Timestamp: 3, Value: []byte{}}},
		"noise":     {{Timestamp: 1, Value: noise(1 << 20)}},
		"both":      {{Timestamp: 1, Value: append(noise(200_000), text(200_000)...)}},
		"far apart": {{Timestamp: -1 << 40, Value: text(100)}, {Timestamp: 1 << 40, Value: text(100)}},
	}
	for name, records := range cases {
		plain := Append(nil, records, 0)
		for _, codec := range codecs {
			t.Run(name+"/"+codec.String(), func(t *testing.T) {
				body, err := AppendCompressed([]byte("before"), records, 0, codec)
				require.NoError(t, err)
				require.Equal(t, "before", string(body[:6]))
				body = body[6:]
				require.LessOrEqual(t, len(body), len(plain))
				h, err := Check(body, len(plain))
				require.NoError(t, err)
				if len(body) == len(plain) {
					require.Equal(t, CodecNone, h.Codec())
				} else {
					require.Equal(t, codec, h.Codec())
					_, err = NewReader(body, 0)
					require.ErrorIs(t, err, ErrCompressed)
					_, err = Check(body, len(plain)-HeaderSize-1)
					require.ErrorIs(t, err, ErrTooLarge)
					got, err := Decompress([]byte("x"), body, len(plain)-HeaderSize-1)
					require.ErrorIs(t, err, ErrTooLarge)
					require.Equal(t, "x", string(got))
				}
				got, err := Decompress([]byte("before"), body, len(plain)-HeaderSize)
				require.NoError(t, err)
				require.True(t, bytes.Equal(append([]byte("before"), plain...), got))
			})
		}
	}
	for _, codec := range codecs {
		got, err := AppendCompressed([]byte("x"), nil, 0, codec)
		require.NoError(t, err)
		require.Equal(t, "x", string(got))
	}
	_, err := AppendCompressed(nil, sample, 0, 5)
	require.ErrorIs(t, err, ErrUnsupported)
}

// TestConcurrent shares the pools.
func TestConcurrent(t *testing.T) {
	records := benchBatch()
	plain := Append(nil, records, 0)
	var g sync.WaitGroup
	for worker := range 8 {
		g.Go(func() {
			for i := range 20 {
				body, err := AppendCompressed(nil, records, 0, codecs[(worker+i)%len(codecs)])
				if !assert.NoError(t, err) {
					return
				}
				got, err := Decompress(nil, body, len(plain))
				assert.NoError(t, err)
				assert.True(t, bytes.Equal(plain, got))
				_, err = Check(body, len(plain))
				assert.NoError(t, err)
			}
		})
	}
	g.Wait()
}

// TestGolden decodes batches that another implementation has written: see
// testdata/README.md.
func TestGolden(t *testing.T) {
	const at = 1_700_000_000_000
	value := []byte(strings.Repeat("the same words again and again, ", 8))
	want := []Record{
		{Offset: 7, Timestamp: at, Key: []byte("key"), Value: []byte("value")},
		{Offset: 8, Timestamp: at + 5, Value: value},
		{Offset: 9, Timestamp: at + 3, Key: []byte{}, Headers: []RecordHeader{{Key: []byte("h"), Value: []byte("x")}, {Key: []byte{}}}},
		{Offset: 10, Timestamp: at + 200, Key: []byte("last"), Value: value},
	}
	for name, codec := range map[string]Codec{
		"none": CodecNone, "gzip": CodecGzip, "snappy": CodecSnappy, "xerial": CodecSnappy, "lz4": CodecLZ4, "zstd": CodecZstd,
	} {
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join("testdata", name+".hex"))
			require.NoError(t, err)
			whole, err := hex.DecodeString(strings.TrimSpace(string(text)))
			require.NoError(t, err)
			body := whole[21:]
			require.Equal(t, binary.BigEndian.Uint32(whole[17:]), Checksum(body))
			h, err := Check(body, 1<<20)
			require.NoError(t, err)
			require.Equal(t, codec, h.Codec())
			plain, err := Decompress(nil, body, 1<<20)
			require.NoError(t, err)
			got, err := decodeAll(plain, 7)
			require.NoError(t, err)
			require.Equal(t, want, got)
		})
	}
}

// TestForeignFrames decodes what other writers make of the formats' options.
func TestForeignFrames(t *testing.T) {
	plain := append(text(300_000), noise(100_000)...)
	check := func(t *testing.T, codec Codec, section []byte) {
		t.Helper()
		got, err := decompress([]byte("before"), section, codec, len(plain))
		require.NoError(t, err)
		require.True(t, bytes.Equal(append([]byte("before"), plain...), got))
		_, err = decompress(nil, section, codec, len(plain)-1)
		require.ErrorIs(t, err, ErrTooLarge)
		_, err = decompress(nil, append(bytes.Clone(section), 0), codec, len(plain))
		require.ErrorIs(t, err, ErrMalformed)
		for _, n := range []int{0, 1, 5, 10, 100, len(section) / 2, len(section) - 1} {
			_, err = decompress(nil, section[:n], codec, 1<<20)
			if codec == CodecGzip && errors.Is(err, ErrTooLarge) {
				continue // what is now at the end says so
			}
			require.ErrorIs(t, err, ErrMalformed, "cut at %d", n)
		}
	}
	for _, size := range []lz4.BlockSize{lz4.Block64Kb, lz4.Block256Kb, lz4.Block1Mb, lz4.Block4Mb} {
		for flags := range 8 {
			t.Run(fmt.Sprintf("lz4/%d/%d", size, flags), func(t *testing.T) {
				var out bytes.Buffer
				w := lz4.NewWriter(&out)
				options := []lz4.Option{lz4.BlockSizeOption(size), lz4.ChecksumOption(flags&1 != 0), lz4.BlockChecksumOption(flags&2 != 0)}
				if flags&4 != 0 {
					options = append(options, lz4.SizeOption(uint64(len(plain))))
				}
				require.NoError(t, w.Apply(options...))
				_, err := w.Write(plain)
				require.NoError(t, err)
				require.NoError(t, w.Close())
				check(t, CodecLZ4, out.Bytes())
			})
		}
	}
	for _, crc := range []bool{false, true} {
		t.Run(fmt.Sprintf("zstd stream/%v", crc), func(t *testing.T) {
			// As the Java client does, without the content's size.
			var out bytes.Buffer
			w, err := zstd.NewWriter(&out, zstd.WithEncoderCRC(crc), zstd.WithWindowSize(2<<20))
			require.NoError(t, err)
			for part := plain; len(part) > 0; part = part[10_000:] {
				_, err = w.Write(part[:10_000])
				require.NoError(t, err)
			}
			require.NoError(t, w.Close())
			check(t, CodecZstd, out.Bytes())
		})
	}
	t.Run("xerial", func(t *testing.T) { check(t, CodecSnappy, xerial.Encode(nil, plain)) })
	t.Run("snappy", func(t *testing.T) { check(t, CodecSnappy, s2.EncodeSnappy(nil, plain)) })
	t.Run("gzip", func(t *testing.T) {
		var out bytes.Buffer
		w := gzip.NewWriter(&out)
		w.Name, w.Comment, w.Extra = "name", "comment", []byte("extra")
		_, err := w.Write(plain)
		require.NoError(t, err)
		require.NoError(t, w.Close())
		check(t, CodecGzip, out.Bytes())
	})
}

// TestForeignReaders has the libraries' own readers read what the LZ4 writer here
// makes.
func TestForeignReaders(t *testing.T) {
	for _, plain := range [][]byte{{}, text(1), text(65536), text(65537), noise(65536), append(noise(100_000), text(100_000)...)} {
		section, err := appendLZ4(nil, plain)
		require.NoError(t, err)
		var got bytes.Buffer
		_, err = got.ReadFrom(lz4.NewReader(bytes.NewReader(section)))
		require.NoError(t, err)
		require.True(t, bytes.Equal(plain, got.Bytes()))
	}
}

// TestNotPlainSnappy refuses the decoder's own extension of the format, which other
// clients cannot read.
func TestNotPlainSnappy(t *testing.T) {
	block := s2.EncodeBetter(nil, []byte(strings.Repeat("abcdefgh", 100)+"x"+strings.Repeat("abcdefgh", 100)))
	_, err := s2.Decode(nil, block)
	require.NoError(t, err)
	_, err = readSnappy(nil, block, 1<<20)
	require.ErrorIs(t, err, ErrMalformed)
}

// bombs are small sections that claim, or really have, 1 GiB of zeros.
func bombs(t *testing.T) map[string][]byte {
	const size = 1 << 30
	le := binary.LittleEndian

	// A gzip file: a compressed piece that begins and ends at a byte, repeated.
	var piece bytes.Buffer
	w, err := flate.NewWriter(&piece, flate.BestCompression)
	require.NoError(t, err)
	_, err = w.Write(make([]byte, 1<<20))
	require.NoError(t, err)
	require.NoError(t, w.Flush())
	zip := append([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff}, bytes.Repeat(piece.Bytes(), size>>20)...)
	zip = append(zip, 1, 0, 0, 0xff, 0xff) // the last block, stored, empty
	zip = le.AppendUint32(zip, 0)
	lying := le.AppendUint32(bytes.Clone(zip), 1000)
	zip = le.AppendUint32(zip, size)

	// LZ4: a block of 4 MiB, repeated.
	block := make([]byte, lz4.CompressBlockBound(4<<20))
	n, err := lz4.CompressBlock(make([]byte, 4<<20), block, nil)
	require.NoError(t, err)
	head := []byte{0x04, 0x22, 0x4d, 0x18, 0x60, 0x70}
	frame := append(head, byte(xxh32(head[4:])>>8))
	for range size >> 22 {
		frame = append(le.AppendUint32(frame, uint32(n)), block[:n]...)
	}
	frame = le.AppendUint32(frame, 0)

	// Zstandard, with no size: blocks that repeat a byte, and compressed ones.
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderCRC(false), zstd.WithWindowSize(128<<10))
	require.NoError(t, err)
	var stream bytes.Buffer
	enc.Reset(&stream)
	pattern := bytes.Repeat([]byte("0123456789abcdef"), 8<<10)
	for range size >> 17 / 4 {
		_, err = enc.Write(pattern)
		require.NoError(t, err)
	}
	require.NoError(t, enc.Close())
	repeat := []byte{0x28, 0xb5, 0x2f, 0xfd, 0, 7 << 3} // a window of 128 KiB
	for i := range size >> 17 {
		last := byte(0)
		if i == size>>17-1 {
			last = 1
		}
		repeat = append(repeat, last|1<<1, 0, 0x10, 0)
	}
	// Blocks of literals only, one byte repeated 131072 times, and no sequences.
	literals := bytes.Clone(repeat[:6])
	for range 1000 {
		literals = append(literals, 5<<3|2<<1, 0, 0, 0x0d, 0, 0x20, 0, 0)
	}
	literals = append(literals, 1, 0, 0)
	sized := enc.EncodeAll(make([]byte, 64<<20), nil)

	snap := append(binary.AppendUvarint(nil, size), bytes.Repeat([]byte{0xfe, 1, 0}, 1000)...)
	framed := append([]byte(xerialMagic), 0, 0, 0, 1, 0, 0, 0, 1)
	chunk := s2.EncodeSnappy(nil, make([]byte, 1<<20))
	for range 100 {
		framed = append(binary.BigEndian.AppendUint32(framed, uint32(len(chunk))), chunk...)
	}
	return map[string][]byte{
		"gzip": zip, "gzip/lying": lying, "lz4": frame, "snappy": snap, "snappy/xerial": framed,
		"zstd": repeat, "zstd/compressed": stream.Bytes(), "zstd/sized": sized,
		"zstd/literals": literals,
	}
}

func TestBombs(t *testing.T) {
	const limit = 16 << 20
	// What making room for the limit takes: with the race detector, twice that.
	var dst []byte
	room := allocated(func() { dst = slices.Grow(dst, limit) })
	for name, section := range bombs(t) {
		t.Run(name, func(t *testing.T) {
			codec, err := ParseCodec(strings.Split(name, "/")[0])
			require.NoError(t, err)
			body := withSection(codec, section)
			want := ErrTooLarge
			if name == "gzip/lying" {
				want = ErrMalformed
			}
			_, err = Check(body, limit) // fills the pools
			require.ErrorIs(t, err, want)
			used := allocated(func() { _, err = Decompress(nil, body, limit) })
			require.ErrorIs(t, err, want)
			most := room + 1<<20
			if name == "zstd/literals" {
				most += limit * 5 / 4 // see Decompress
			}
			require.Less(t, used, most)
			t.Logf("%d bytes, %d allocated: %v", len(section), used, err)
		})
	}
}

// allocated returns how many bytes f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// TestFalseClaims has sizes that are not those of the content.
func TestFalseClaims(t *testing.T) {
	plain := text(10_000)
	for _, codec := range codecs[1:] {
		good, err := compress(nil, plain, codec)
		require.NoError(t, err)
		var places []int
		switch codec {
		case CodecGzip:
			places = []int{len(good) - 4, len(good) - 3, len(good) - 8}
		case CodecSnappy:
			places = []int{0, 1}
		case CodecLZ4:
			places = []int{4, 5, 6, 7, 8, 9}
		default:
			places = []int{5, 6}
		}
		for _, at := range places {
			for bit := range 8 {
				bad := bytes.Clone(good)
				bad[at] ^= 1 << bit
				got, err := decompress(nil, bad, codec, 1<<20)
				require.Error(t, err, "%v, byte %d, bit %d: %d bytes", codec, at, bit, len(got))
			}
		}
	}
}

func TestXXH32(t *testing.T) {
	// The values are those of the xxHash specification's test.
	require.EqualValues(t, 0x02cc5d05, xxh32(nil))
	require.EqualValues(t, 0x32d153ff, xxh32([]byte("abc")))
	require.EqualValues(t, 0xe2293b2f, xxh32([]byte("Nobody inspects the spammish repetition")))
}

func FuzzDecompress(f *testing.F) {
	for _, codec := range codecs {
		for _, records := range [][]Record{sample, {{Timestamp: 1, Value: text(5000)}, {Timestamp: 2, Value: noise(70_000)}}} {
			body, err := AppendCompressed(nil, records, 0, codec)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(body)
		}
		section, err := compress(nil, text(3000), codec)
		if err == nil {
			f.Add(withSection(codec, section))
		}
	}
	f.Add(withSection(CodecSnappy, xerial.Encode(nil, text(40_000))))
	f.Fuzz(func(t *testing.T, body []byte) {
		const limit = 1 << 20
		dst := []byte("before")
		out, err := Decompress(dst, body, limit)
		if err != nil {
			if !isKnown(err) {
				t.Fatal(err)
			}
			if string(out) != "before" {
				t.Fatal("dst changed")
			}
			return
		}
		plain := out[len(dst):]
		h, err := ParseHeader(plain)
		if err != nil || h.Codec() != CodecNone {
			t.Fatal(h, err)
		}
		if was, _ := ParseHeader(body); was.Codec() == CodecNone {
			return
		}
		if len(plain)-HeaderSize > limit {
			t.Fatal(len(plain))
		}
		// A limit of what there is suffices, and one less does not.
		n := len(plain) - HeaderSize
		if again, err := Decompress(nil, body, n); err != nil || !bytes.Equal(again, plain) {
			t.Fatal(err)
		}
		if n > 0 {
			if _, err := Decompress(nil, body, n-1); err == nil {
				t.Fatal("more than the limit")
			}
		}
	})
}
