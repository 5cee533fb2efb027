package storage

import (
	"encoding/binary"
	"hash/crc32"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/zue-log/zue/storage/batch"
)

func crcOf(b []byte) []byte {
	return binary.LittleEndian.AppendUint32(nil, crc32.Checksum(b, castagnoli))
}

func TestEntryRoundTrip(t *testing.T) {
	p := Place{Index: 41, Term: 3, Offset: 100, Chain: 0xfeed}
	records := []Record{{Timestamp: 5, Value: []byte("a")}, {Timestamp: 6, Key: []byte("k"), Value: []byte("bcd")}}
	b, after := appendEntry(nil, 7, p, 40, &payload{kind: KindData, at: anywhere, term: 4, span: 2, records: records})
	require.Equal(t, Place{Index: 42, Term: 4, Offset: 102, Chain: after.Chain}, after)
	require.Zero(t, len(b)%entryAlign)
	h, body, err := parseEntry(b, 7)
	require.NoError(t, err)
	require.NoError(t, h.follows(p))
	require.EqualValues(t, 40, h.mark)
	require.Equal(t, after, h.after())
	require.Len(t, body, batch.Size(records, 0))

	// Every field that replicas share is in the chain.
	for _, change := range []func(h *entryHeader){
		func(h *entryHeader) { h.index++ }, func(h *entryHeader) { h.offset++ }, func(h *entryHeader) { h.term++ },
		func(h *entryHeader) { h.span++ }, func(h *entryHeader) { h.bornCRC++ }, func(h *entryHeader) { h.kind++ },
	} {
		other := h
		change(&other)
		require.NotEqual(t, h.chain, other.link(p.Chain))
	}
	require.NotEqual(t, h.chain, h.link(p.Chain+1))
	// The durable mark is a replica's own; compaction may change the body.
	other := h
	other.mark, other.bodyCRC, other.bodyLen = 1, 2, 3
	require.Equal(t, h.chain, other.link(p.Chain))

	// Every bit of header and body is under a checksum.
	for i := range entryHeaderSize + len(body) {
		b[i] ^= 0x10
		_, _, err := parseEntry(b, 7)
		require.Error(t, err, "byte %d", i)
		b[i] ^= 0x10
	}
}

func FuzzParseEntry(f *testing.F) {
	b, _ := appendEntry(nil, 7, Place{}, 0, &payload{kind: KindData, at: anywhere, span: 1, records: []Record{{Value: []byte("v")}}, now: 1})
	f.Add(b)
	f.Add(make([]byte, entryHeaderSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, body, err := parseEntry(b, 7)
		if err != nil {
			return
		}
		again := make([]byte, entryHeaderSize)
		h.put(again, 7)
		require.Equal(t, b[:entryHeaderSize], again)
		require.Len(t, body, int(h.bodyLen))
	})
}

func FuzzParseIndex(f *testing.F) {
	f.Add([]byte(indexMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		// The checksum would keep the fuzzer out.
		if len(b) >= indexHeaderSize {
			n := indexHeaderSize + int(binary.LittleEndian.Uint32(b[16:]))*pointSize
			if n <= len(b) {
				copy(b, crcOf(b[4:n]))
			}
		}
		c, err := parseIndexHeader(b)
		if err == nil {
			require.LessOrEqual(t, indexHeaderSize+int(c.count)*pointSize, len(b))
		}
	})
}

func FuzzParseSegment(f *testing.F) {
	b := make([]byte, 1024)
	h := segmentHeader{Place{Index: 1, Term: 1, Offset: 1, Chain: 1}, 5, 6}
	h.put(b)
	putFooter(b[512:], 300, Place{Index: 2, Term: 1, Offset: 5}, 99)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= segmentHeaderSize {
			copy(b, crcOf(b[4:segmentHeaderSize]))
			h, err := parseSegmentHeader(b)
			if err == nil {
				again := make([]byte, segmentHeaderSize)
				h.put(again)
				require.Equal(t, b[16:60], again[16:60])
			}
		}
		if len(b) >= 512+footerUsed {
			copy(b[512:], crcOf(b[512+4:512+footerUsed]))
			if end, _, _, ok := parseFooter(b[512:], 512); ok {
				require.Equal(t, int64(512), footerAt(end))
			}
		}
	})
}

func FuzzParseState(f *testing.F) {
	f.Add((&state{seq: 1, user: []byte("user")}).encode())
	f.Add(encodeMark(5))
	f.Fuzz(func(t *testing.T, b []byte) {
		// The checksums would keep the fuzzer out.
		if len(b) >= stateHeader {
			if n := stateHeader + int64(binary.LittleEndian.Uint32(b[60:])); n <= int64(len(b)) {
				copy(b, crcOf(b[4:n]))
			}
		}
		if s, err := parseState(b); err == nil && s.seq > 0 {
			require.Equal(t, b[4:stateHeader+len(s.user)], s.encode()[4:])
		}
		if len(b) >= markSize {
			copy(b, crcOf(b[4:markSize]))
		}
		if mark := parseMark(b); mark > 0 {
			require.Equal(t, b[:markSize], encodeMark(mark))
		}
	})
}
