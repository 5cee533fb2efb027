package wire

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzParse gives each payload to each parser. What is accepted must encode to
// the same bytes again.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob(filepath.Join("testdata", "*.hex"))
	require.NoError(f, err)
	for _, file := range files {
		frame := readHex(f, file)
		f.Add(frame[HeaderSize], frame[HeaderSize+1:])
	}
	f.Add(uint8(TypeError), []byte("\x10\x02\x00\x00\x00\xff\xfe"))
	f.Fuzz(func(t *testing.T, typ uint8, payload []byte) {
		if len(payload) > MaxFrame-1 {
			t.Skip("no decoder gives such a payload")
		}
		m, err := parse(Frame{Type: Type(typ), Payload: payload})
		if err != nil {
			var malformed *MalformedError
			require.ErrorAs(t, err, &malformed)
			return
		}
		again := encode(t, m)
		if e, ok := m.(*Error); ok && !bytes.Contains(payload, []byte(e.Message)) {
			// The text was repaired. From then on it must stay as it is.
			parsed, err := ParseError(again[HeaderSize+1:])
			require.NoError(t, err)
			require.Equal(t, e, parsed)
			return
		}
		require.Equal(t, rawFrame(Type(typ), payload), again)
	})
}

// FuzzMessages goes the other way: any fields, encoded, parse to themselves.
func FuzzMessages(f *testing.F) {
	f.Add(true, []byte(nil), []byte("value"), uint64(5), uint8(1), "text")
	f.Add(false, []byte{}, []byte{}, uint64(1<<64-1), uint8(0x14), "\xff")
	f.Fuzz(func(t *testing.T, null bool, key, value []byte, offset uint64, code uint8, text string) {
		if null {
			key = nil
		} else if key == nil {
			key = []byte{}
		}
		if value == nil {
			value = []byte{}
		}
		for _, m := range []any{
			AppendRequest{Key: key, Value: value}, AppendResponse{Offset: offset},
			ReadRequest{Offset: offset}, ReadResponse{Key: key, Value: value},
			TransferRequest{Node: uint16(offset)}, ChainRequest{Offset: offset}, ChainResponse{Index: offset, Chain: ^offset},
		} {
			frame := encode(t, m)
			got, err := parse(Frame{Type: Type(frame[HeaderSize]), Payload: frame[HeaderSize+1:]})
			require.NoError(t, err)
			require.Equal(t, m, got)
		}
		frame := (&Error{Code: Code(code), Message: text}).AppendTo(nil)
		got, err := ParseError(frame[HeaderSize+1:])
		require.NoError(t, err)
		require.Equal(t, frame, got.AppendTo(nil))
	})
}

// FuzzDecoder cuts any stream in any way: the frames, and how it ends, are those
// of a plain walk over the bytes, and memory stays within the bound. The stream is
// head, a large frame (which the fuzzer need not find and minimize), and tail.
func FuzzDecoder(f *testing.F) {
	var frames []byte
	for i := range 8 {
		frames = append(frames, rawFrame(Type(i), make([]byte, i*i))...)
	}
	f.Add(frames, uint32(0), frames, uint64(1), uint32(MaxFrame))
	f.Add(frames, uint32(200<<10), frames, uint64(2), uint32(MaxFrame))
	f.Add(frames, uint32(70<<10), frames[:len(frames)-1], uint64(3), uint32(0))
	f.Add(frames, uint32(5000), frames, uint64(4), uint32(1000))
	f.Add([]byte{}, uint32(0), []byte{0, 0, 0, 0}, uint64(5), uint32(10))
	f.Fuzz(func(t *testing.T, head []byte, large uint32, tail []byte, seed uint64, limit uint32) {
		stream := bytes.Clone(head)
		if large %= 300 << 10; large > 0 {
			stream = append(stream, rawFrame(0x42, make([]byte, large))...)
		}
		stream = append(stream, tail...)
		maxFrame := int(limit % (MaxFrame + 1))
		want, wantErr := walk(stream, maxFrame)
		rng := rand.New(rand.NewPCG(seed, 0))
		widest := []int{1, 10, 5000, 1 << 20}[rng.IntN(4)]
		if len(stream) > 5000 {
			widest = max(widest, 5000) // bytes one by one would take all the time
		}
		var cut [][]byte
		for rest := stream; len(rest) > 0; {
			n := min(1+rng.IntN(widest), len(rest))
			cut, rest = append(cut, rest[:n:n]), rest[n:]
		}
		got, err := readAll(t, NewDecoder(&chunks{chunks: cut, err: io.EOF}, maxFrame))
		require.Equal(t, wantErr, err)
		require.Equal(t, len(want), len(got))
		for i := range want {
			require.Equal(t, want[i].Type, got[i].Type)
			require.True(t, bytes.Equal(want[i].Payload, got[i].Payload))
		}
	})
}

// walk is the Decoder without its difficulty: the whole stream is at hand.
func walk(stream []byte, maxFrame int) (frames []Frame, err error) {
	if maxFrame <= 0 {
		maxFrame = MaxFrame
	}
	for len(stream) > 0 {
		if len(stream) < HeaderSize {
			return frames, io.ErrUnexpectedEOF
		}
		length := binary.LittleEndian.Uint32(stream)
		if length == 0 || uint64(length) > uint64(maxFrame) {
			return frames, &FrameError{Length: length, Limit: maxFrame}
		}
		if uint64(len(stream)-HeaderSize) < uint64(length) {
			return frames, io.ErrUnexpectedEOF
		}
		body := stream[HeaderSize : HeaderSize+int(length)]
		frames = append(frames, Frame{Type: Type(body[0]), Payload: body[1:]})
		stream = stream[HeaderSize+int(length):]
	}
	return frames, io.EOF
}
