package batch

import (
	"bytes"
	"encoding/hex"
	"hash/crc32"
	"testing"

	"github.com/stretchr/testify/require"
)

var sample = []Record{
	{Timestamp: 1000, Key: []byte("k"), Value: []byte("v")},
	{Timestamp: 1500, Key: nil, Value: []byte{}, Headers: []RecordHeader{{Key: []byte("h"), Value: []byte("x")}, {Key: []byte{}, Value: nil}}},
	{Timestamp: 400, Key: []byte{}, Value: nil},
}

func decodeAll(body []byte, first uint64) ([]Record, error) {
	r, err := NewReader(body, first)
	if err != nil {
		return nil, err
	}
	var out []Record
	for {
		var rec Record
		ok, err := r.Next(&rec)
		if err != nil || !ok {
			return out, err
		}
		out = append(out, rec)
	}
}

func TestRoundTrip(t *testing.T) {
	body := Append(nil, sample, 0)
	require.Len(t, body, Size(sample, 0))
	got, err := decodeAll(body, 70)
	require.NoError(t, err)
	require.Len(t, got, len(sample))
	for i := range sample {
		want := sample[i]
		want.Offset = uint64(70 + i)
		require.Equal(t, want, got[i])
	}
	h, err := ParseHeader(body)
	require.NoError(t, err)
	require.Equal(t, Header{LastOffsetDelta: 2, BaseTimestamp: 1000, MaxTimestamp: 1500, ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1, Count: 3}, h)

	require.Empty(t, Append(nil, nil, 0))
	require.Zero(t, Size(nil, 0))
	now := Append(nil, []Record{{}}, 77)
	got, err = decodeAll(now, 0)
	require.NoError(t, err)
	require.EqualValues(t, 77, got[0].Timestamp)
}

// TestKafkaBytes pins the encoding of one record to bytes worked out by hand from
// Kafka's documentation of the format.
func TestKafkaBytes(t *testing.T) {
	body := Append(nil, []Record{{Timestamp: 0x0102030405, Key: []byte("key"), Value: []byte("value")}}, 0)
	require.Equal(t, "0000"+"00000000"+"0000000102030405"+"0000000102030405"+
		"ffffffffffffffff"+"ffff"+"ffffffff"+"00000001"+ // producer id, epoch, sequence; count
		"1c"+"00"+"00"+"00"+ // length 14, attributes, timestamp delta, offset delta
		"06"+"6b6579"+"0a"+"76616c7565"+"00", hex.EncodeToString(body))
	require.Equal(t, crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)), Checksum(body))
}

func TestSeek(t *testing.T) {
	body := Append(nil, sample, 0)
	r, err := NewReader(body, 0)
	require.NoError(t, err)
	var places []int
	for {
		at := r.Position()
		off, ok, err := r.Skip()
		require.NoError(t, err)
		if !ok {
			break
		}
		require.EqualValues(t, len(places), off)
		places = append(places, at)
	}
	require.Len(t, places, 3)
	for i, at := range places {
		r, err := NewReader(body, 0)
		require.NoError(t, err)
		require.NoError(t, r.Seek(at))
		var rec Record
		for k := i; k < 3; k++ {
			ok, err := r.Next(&rec)
			require.NoError(t, err)
			require.True(t, ok)
			require.EqualValues(t, k, rec.Offset)
		}
		ok, err := r.Next(&rec)
		require.NoError(t, err)
		require.False(t, ok)
	}
	require.ErrorIs(t, r.Seek(3), ErrMalformed)
	require.ErrorIs(t, r.Seek(len(body)+1), ErrMalformed)
}

func TestMalformed(t *testing.T) {
	good := Append(nil, sample, 0)
	for n := range good {
		_, err := decodeAll(good[:n], 0)
		require.ErrorIs(t, err, ErrMalformed, "cut at %d", n)
	}
	_, err := decodeAll(append(bytes.Clone(good), 0), 0)
	require.ErrorIs(t, err, ErrMalformed)
	for _, attributes := range []byte{attrTransactional, attrControl, 5, 6, 7} {
		b := bytes.Clone(good)
		b[1] = attributes
		_, err := decodeAll(b, 0)
		require.ErrorIs(t, err, ErrUnsupported)
	}
}

func TestSetProducer(t *testing.T) {
	body := Append(nil, []Record{{Value: []byte("v")}}, 1)
	before, err := ParseHeader(body)
	require.NoError(t, err)
	require.NoError(t, SetProducer(body, 1<<40, 3, 77))
	h, err := ParseHeader(body)
	require.NoError(t, err)
	before.ProducerID, before.ProducerEpoch, before.BaseSequence = 1<<40, 3, 77
	require.Equal(t, before, h)
	_, err = Check(body, len(body))
	require.NoError(t, err)
	require.ErrorIs(t, SetProducer(body, -1, 0, 0), ErrMalformed)
	require.ErrorIs(t, SetProducer(body[:10], 1, 0, 0), ErrMalformed)
}
