package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
)

// chunks is a reader that gives one chunk a read, then err.
type chunks struct {
	chunks [][]byte
	err    error
}

func (c *chunks) Read(p []byte) (int, error) {
	if len(c.chunks) == 0 {
		return 0, c.err
	}
	n := copy(p, c.chunks[0])
	c.chunks[0] = c.chunks[0][n:]
	if len(c.chunks[0]) == 0 {
		c.chunks = c.chunks[1:]
	}
	return n, nil
}

func rawFrame(t Type, payload []byte) []byte {
	return append(appendHeader(nil, t, len(payload)), payload...)
}

// readAll decodes to the end, with copies of the payloads. After each step it
// checks the bound on memory.
func readAll(t testing.TB, d *Decoder) ([]Frame, error) {
	t.Helper()
	var frames []Frame
	for {
		for {
			f, ok, err := d.Next()
			if err != nil {
				return frames, err
			}
			if !ok {
				break
			}
			f.Payload = bytes.Clone(f.Payload)
			frames = append(frames, f)
		}
		had := d.end - d.start
		err := d.Fill()
		if len(d.buf) > max(keepBuffer, 2*had) {
			t.Fatalf("a buffer of %d for %d bytes at hand", len(d.buf), had)
		}
		if err != nil {
			return frames, err
		}
	}
}

func TestDecoderGivesAllFramesOfOneRead(t *testing.T) {
	stream := AppendResponse{Offset: 1}.AppendTo(nil)
	stream = AppendResponse{Offset: 2}.AppendTo(stream)
	stream = append(stream, 9, 0, 0) // a part of a third
	d := NewDecoder(&chunks{chunks: [][]byte{stream}, err: io.EOF}, 0)

	_, ok, err := d.Next()
	require.NoError(t, err)
	require.False(t, ok, "Next does not read")
	require.NoError(t, d.Fill())
	for want := uint64(1); want <= 2; want++ {
		f, ok, err := d.Next()
		require.NoError(t, err)
		require.True(t, ok)
		m, err := ParseAppendResponse(f.Payload)
		require.NoError(t, err)
		require.Equal(t, want, m.Offset)
	}
	_, ok, err = d.Next()
	require.NoError(t, err)
	require.False(t, ok)
	require.Equal(t, io.ErrUnexpectedEOF, d.Fill())
	require.Equal(t, io.ErrUnexpectedEOF, d.Fill())
}

func TestDecoderFillKeepsFramesThatWereNotTaken(t *testing.T) {
	stream := AppendResponse{Offset: 1}.AppendTo(nil)
	d := NewDecoder(bytes.NewReader(stream), 0)
	for range 3 {
		require.NoError(t, d.Fill())
	}
	_, ok, err := d.Next()
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, io.EOF, d.Fill())
}

func TestDecoderPassesOnUnknownTypesAndEmptyPayloads(t *testing.T) {
	d := NewDecoder(bytes.NewReader(rawFrame(0x42, nil)), 0)
	frames, err := readAll(t, d)
	require.Equal(t, io.EOF, err)
	require.Len(t, frames, 1)
	require.Equal(t, Type(0x42), frames[0].Type)
	require.Empty(t, frames[0].Payload)
}

func TestDecoderCutAnywhere(t *testing.T) {
	var stream []byte
	for i := range 5 {
		stream = append(stream, rawFrame(Type(i), bytes.Repeat([]byte{byte(i)}, i*i))...)
	}
	want, err := readAll(t, NewDecoder(bytes.NewReader(stream), 0))
	require.Equal(t, io.EOF, err)
	require.Len(t, want, 5)
	for i := range len(stream) {
		d := NewDecoder(&chunks{chunks: [][]byte{stream[:i:i], stream[i:]}[btoi(i == 0):], err: io.EOF}, 0)
		got, err := readAll(t, d)
		require.Equal(t, io.EOF, err)
		require.Equal(t, want, got)
	}
	got, err := readAll(t, NewDecoder(iotest.OneByteReader(bytes.NewReader(stream)), 0))
	require.Equal(t, io.EOF, err)
	require.Equal(t, want, got)
	got, err = readAll(t, NewDecoder(iotest.DataErrReader(bytes.NewReader(stream)), 0))
	require.Equal(t, io.EOF, err)
	require.Equal(t, want, got)
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func TestDecoderRefusesImpossibleLengths(t *testing.T) {
	for _, c := range []struct {
		length uint32
		limit  int
		text   string
	}{
		{0, 100, "frame of length 0: not even a type"},
		{101, 100, "frame of length 101 is beyond the limit of 100"},
		{MaxFrame + 1, 0, "frame of length 10485761 is beyond the limit of 10485760"},
		{1 << 31, 0, "frame of length 2147483648 is beyond the limit of 10485760"},
		{1<<32 - 1, 0, "frame of length 4294967295 is beyond the limit of 10485760"},
	} {
		stream := rawFrame(7, []byte("good"))
		stream = binary.LittleEndian.AppendUint32(stream, c.length)
		stream = append(stream, rawFrame(8, []byte("never seen"))...)
		d := NewDecoder(bytes.NewReader(stream), c.limit)
		frames, err := readAll(t, d)
		require.Len(t, frames, 1, "frames before the bad one are given")
		var frameErr *FrameError
		require.ErrorAs(t, err, &frameErr)
		require.Equal(t, c.length, frameErr.Length)
		require.EqualError(t, err, c.text)
		require.ErrorAs(t, d.Fill(), &frameErr, "framing stays lost")
		_, ok, err := d.Next()
		require.False(t, ok)
		require.ErrorAs(t, err, &frameErr)
	}
	// The limit itself is fine.
	frames, err := readAll(t, NewDecoder(bytes.NewReader(rawFrame(7, make([]byte, 99))), 100))
	require.Equal(t, io.EOF, err)
	require.Len(t, frames, 1)
}

func TestDecoderAllocatesNothingForAClaim(t *testing.T) {
	claim := binary.LittleEndian.AppendUint32(nil, MaxFrame)
	d := NewDecoder(&chunks{chunks: [][]byte{claim, []byte("x")}, err: io.EOF}, 0)
	_, err := readAll(t, d)
	require.Equal(t, io.ErrUnexpectedEOF, err)
	require.Len(t, d.buf, startBuffer)
}

func TestDecoderShrinksBackAfterALargeFrame(t *testing.T) {
	large := rawFrame(7, make([]byte, MaxFrame-1))
	small := rawFrame(8, []byte("small"))
	d := NewDecoder(&chunks{chunks: [][]byte{large, small}, err: io.EOF}, 0)
	for {
		f, ok, err := d.Next()
		require.NoError(t, err)
		if ok {
			require.Len(t, f.Payload, MaxFrame-1)
			require.Len(t, d.buf, HeaderSize+MaxFrame, "no more than the frame needs")
			break
		}
		require.NoError(t, d.Fill())
	}
	require.NoError(t, d.Fill())
	require.Len(t, d.buf, keepBuffer)
	f, ok, err := d.Next()
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, "small", string(f.Payload))
}

func TestDecoderGoesOnAfterAReadersError(t *testing.T) {
	frame := rawFrame(7, []byte("payload"))
	src := &chunks{chunks: [][]byte{frame[:6]}, err: os.ErrDeadlineExceeded}
	d := NewDecoder(src, 0)
	require.NoError(t, d.Fill())
	require.ErrorIs(t, d.Fill(), os.ErrDeadlineExceeded)
	src.chunks = [][]byte{frame[6:]}
	require.NoError(t, d.Fill())
	f, ok, err := d.Next()
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, "payload", string(f.Payload))
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestDecoderSurvivesBadReaders(t *testing.T) {
	d := NewDecoder(readerFunc(func([]byte) (int, error) { return 0, nil }), 0)
	require.Equal(t, io.ErrNoProgress, d.Fill())
	for _, n := range []int{-1, 1 << 20} {
		d = NewDecoder(readerFunc(func([]byte) (int, error) { return n, nil }), 0)
		require.ErrorContains(t, d.Fill(), "impossible count")
	}
	boom := errors.New("boom")
	d = NewDecoder(iotest.ErrReader(boom), 0)
	require.ErrorIs(t, d.Fill(), boom)
}

// The bytes that compaction moves are linear in the bytes read, even when many
// frames are cut so that each read ends in a part of the next one.
func TestDecoderWorkIsLinear(t *testing.T) {
	frame := rawFrame(7, make([]byte, 40<<10))
	stream := bytes.Repeat(frame, 50)
	for _, chunk := range []int{1 << 10, 7777, 41 << 10, 64 << 10, 1 << 20} {
		var cut [][]byte
		for rest := stream; len(rest) > 0; {
			n := min(chunk, len(rest))
			cut, rest = append(cut, rest[:n:n]), rest[n:]
		}
		d := NewDecoder(&chunks{chunks: cut, err: io.EOF}, 0)
		moved, frames := 0, 0
		for {
			f, ok, err := d.Next()
			require.NoError(t, err)
			if ok {
				require.Len(t, f.Payload, 40<<10)
				frames++
				continue
			}
			unread, start := d.end-d.start, d.start
			size := len(d.buf)
			err = d.Fill()
			if start > 0 || len(d.buf) != size {
				moved += unread
			}
			if err != nil {
				require.Equal(t, io.EOF, err)
				break
			}
		}
		require.Equal(t, 50, frames)
		require.Less(t, moved, 2*len(stream))
	}
}
