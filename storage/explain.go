package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/zue-log/zue/storage/batch"
)

// Flaw is one thing that is wrong with damaged bytes.
type Flaw struct {
	// Field names it as FORMAT.md does, such as "entry index". A "checksum" differs
	// where it is not known, or not by the checksum alone, which bytes are bad.
	Field    string
	Position int64  // of its first byte in the file, or of those that are summed
	Found    string // what is there
	Want     string // what should be; "" if that is not known
}

// String describes f in a few words.
func (f Flaw) String() string {
	if f.Want == "" {
		return fmt.Sprintf("%s at position %d: %s", f.Field, f.Position, f.Found)
	}
	return fmt.Sprintf("%s at position %d: found %s, expected %s", f.Field, f.Position, f.Found, f.Want)
}

// clue finds, when asked, what is wrong. nil knows nothing.
type clue func() []Flaw

func (c clue) flaws() []Flaw {
	if c == nil {
		return nil
	}
	return c()
}

// field is one field of a structure in a file.
type field struct {
	name     string
	at, size int
	hex      bool
}

var entryLayout = []field{
	{"header CRC", 0, 4, true},
	{"body CRC", 4, 4, true},
	{"index", 8, 8, false},
	{"offset", 16, 8, false},
	{"term", 24, 8, false},
	{"chain", 32, 8, true},
	{"durable mark", 40, 8, false},
	{"body length", 48, 4, false},
	{"span", 52, 4, false},
	{"born CRC", 56, 4, true},
	{"kind", 60, 1, false},
	{"zeros", 61, 3, true},
}

var segmentLayout = []field{
	{"CRC", 0, 4, true},
	{"magic", 4, 8, true},
	{"version", 12, 4, false},
	{"index before", 16, 8, false},
	{"term before", 24, 8, false},
	{"first offset", 32, 8, false},
	{"chain before", 40, 8, true},
	{"creation time", 48, 8, false},
	{"seed", 56, 4, true},
	{"zeros", 60, 4, true},
}

var footerLayout = []field{
	{"CRC", 0, 4, true},
	{"magic", 4, 8, true},
	{"version", 12, 4, false},
	{"end of the entries", 16, 8, false},
	{"last index", 24, 8, false},
	{"last term", 32, 8, false},
	{"next offset", 40, 8, false},
	{"last chain", 48, 8, true},
	{"largest timestamp", 56, 8, false},
	{"zeros", 64, 8, true},
}

// value is the field's, in b.
func (f field) value(b []byte) uint64 {
	var v uint64
	for i := range f.size {
		v |= uint64(b[f.at+i]) << (8 * i)
	}
	return v
}

func (f field) format(v uint64) string {
	if f.hex {
		return fmt.Sprintf("0x%0*x", 2*f.size, v)
	}
	return fmt.Sprint(v)
}

// structure is bytes of a known layout that begin with a checksum over the rest.
type structure struct {
	name   string
	layout []field
	pos    int64
	b      []byte
	sum    func(b []byte) uint32
}

func unseeded(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// differs is the flaw that field name of s has v and not want.
func (s *structure) differs(name string, want uint64) []Flaw {
	for _, f := range s.layout {
		if v := f.value(s.b); f.name == name && v != want {
			return []Flaw{{s.name + " " + name, s.pos + int64(f.at), f.format(v), f.format(want)}}
		}
	}
	return nil
}

// checksum returns nothing if the checksum of s is right. If changing one byte makes
// it right, that is the damage (one byte in 2^32 does so by chance); else only the
// checksums are known to differ.
func (s *structure) checksum() []Flaw {
	le := binary.LittleEndian
	want := s.sum(s.b[4:])
	if le.Uint32(s.b) == want {
		return nil
	}
	mended := append([]byte(nil), s.b...)
	for i := range mended {
		for range 255 {
			mended[i]++
			if le.Uint32(mended) != s.sum(mended[4:]) {
				continue
			}
			for _, f := range s.layout {
				if i >= f.at && i < f.at+f.size {
					return []Flaw{{s.name + " " + f.name, s.pos + int64(i), f.format(f.value(s.b)), f.format(f.value(mended))}}
				}
			}
		}
		mended[i]++
	}
	return []Flaw{{s.name + " checksum", s.pos, fmt.Sprintf("0x%08x", want), fmt.Sprintf("0x%08x", le.Uint32(s.b))}}
}

// clue makes the clue for what is wrong at pos, where bad says that it is.
func (w *segmentWalk) clue(pos int64, bad error) clue {
	at, known := w.at, w.known
	return func() []Flaw {
		var unreadable *unreadableError
		if errors.As(bad, &unreadable) {
			return []Flaw{{Field: "block", Position: unreadable.from, Found: "unreadable: " + unreadable.err.Error()}}
		}
		b, err := w.src.read(pos, min(entryHeaderSize, w.limit-pos))
		if err != nil {
			return nil
		}
		if len(b) < entryHeaderSize {
			return []Flaw{{"entry header", pos, fmt.Sprintf("%d bytes, then the file or its entries end", len(b)), "64 bytes"}}
		}
		next := "an entry"
		if known {
			next = fmt.Sprintf("entry %d, offset %d", at.Index+1, at.Offset)
		}
		if isZero(b) {
			return []Flaw{{"entry header", pos, "64 zeros", next}}
		}
		s := structure{name: "entry", layout: entryLayout, pos: pos, b: append([]byte(nil), b...), sum: w.seed.checksum}
		if flaws := s.checksum(); len(flaws) == 1 && flaws[0].Field != "entry checksum" {
			return flaws
		} else if flaws != nil {
			return append(flaws, s.entryFields(at, known, w.limit-pos)...)
		}
		if flaws := s.entryFields(at, known, w.limit-pos); flaws != nil {
			return flaws
		}
		return w.bodyFlaws(pos, bad)
	}
}

// entryFields says which fields of an entry's header are not possible, by themselves
// and at that place, with room bytes for the entry.
func (s *structure) entryFields(at Place, known bool, room int64) []Flaw {
	var flaws []Flaw
	h := decodeEntryHeader(s.b)
	bad := func(name, want string) {
		for _, f := range s.layout {
			if f.name == name {
				flaws = append(flaws, Flaw{"entry " + name, s.pos + int64(f.at), f.format(f.value(s.b)), want})
			}
		}
	}
	if known {
		flaws = append(flaws, s.differs("index", at.Index+1)...)
		flaws = append(flaws, s.differs("offset", at.Offset)...)
		if h.term < at.Term {
			bad("term", fmt.Sprintf("at least %d", at.Term))
		}
		flaws = append(flaws, s.differs("chain", h.link(at.Chain))...)
	} else if h.index <= at.Index {
		bad("index", fmt.Sprintf("more than %d", at.Index))
	}
	if h.mark >= h.index {
		bad("durable mark", fmt.Sprintf("less than the index, %d", h.index))
	}
	if most := min(MaxBodyBytes, room-entryHeaderSize); int64(h.bodyLen) > most {
		bad("body length", fmt.Sprintf("at most %d", most))
	}
	switch {
	case h.kind != KindData && h.kind != KindControl:
		bad("kind", "1 or 2")
	case h.kind == KindControl && h.span != 0:
		bad("span", "0 for a control entry")
	case h.kind == KindData && h.span == 0:
		bad("span", "at least 1 for a data entry")
	}
	return append(flaws, s.differs("zeros", 0)...)
}

// bodyFlaws says what is wrong with an entry whose header is right.
func (w *segmentWalk) bodyFlaws(pos int64, bad error) []Flaw {
	if errors.Is(bad, batch.ErrMalformed) || errors.Is(bad, batch.ErrUnsupported) || errors.Is(bad, batch.ErrTooLarge) {
		return []Flaw{{"entry body", pos + entryHeaderSize, bad.Error(), "a record batch"}}
	}
	b, err := w.src.read(pos, entryHeaderSize)
	if err != nil || len(b) < entryHeaderSize {
		return nil
	}
	h := decodeEntryHeader(b)
	size := entrySize(h.bodyLen)
	if b, err = w.src.read(pos, size); err != nil {
		return nil
	}
	if int64(len(b)) < size {
		return []Flaw{{"entry body", pos + entryHeaderSize, fmt.Sprintf("%d bytes, then the file ends", len(b)-entryHeaderSize),
			fmt.Sprintf("%d bytes", h.bodyLen)}}
	}
	body := b[entryHeaderSize:][:h.bodyLen]
	sum := batch.Checksum(body)
	if sum == h.bodyCRC {
		return nil
	}
	start := pos + entryHeaderSize
	flaws := []Flaw{{"entry body checksum", start, fmt.Sprintf("0x%08x", sum), fmt.Sprintf("0x%08x", h.bodyCRC)}}
	if i, by, ok := changedByte(body, sum^h.bodyCRC); ok {
		return append(flaws, Flaw{"entry body", start + int64(i), fmt.Sprintf("0x%02x", body[i]), fmt.Sprintf("0x%02x", body[i]^by)})
	}
	for at := footerAt(start); at+footerSize <= start+int64(len(body)); at += footerSize {
		if isZero(body[at-start:][:footerSize]) {
			return append(flaws, Flaw{Field: "entry body", Position: at, Found: "512 zeros, a whole sector: that looks like a write which did not reach the disk"})
		}
	}
	return flaws
}

// maxSearched is how long a body may be, in bytes, to look in it for one byte that
// accounts for its checksum: among more, one does by chance too often.
const maxSearched = 64 << 10

// changedByte looks for the one byte of b that, changed by xor with by, changes the CRC
// of b by difference: one with a single bit changed, of which there is at most one,
// else the only one there is.
func changedByte(b []byte, difference uint32) (at int, by byte, ok bool) {
	undo := undoTable()
	found := 0
	for i := len(b) - 1; i >= 0; i-- {
		// difference is now that of a change to b[i] as the last byte.
		k := undo[difference>>24]
		if castagnoli[k] == difference {
			at, by = i, k
			if k&(k-1) == 0 {
				return at, by, true
			}
			found++
		}
		difference = (difference^castagnoli[k])<<8 | uint32(k)
	}
	return at, by, found == 1 && len(b) <= maxSearched
}

// undoTable gives the place in castagnoli of the value with a given high byte.
func undoTable() (undo [256]byte) {
	for i, v := range castagnoli {
		undo[v>>24] = byte(i)
	}
	return undo
}

// seedBehind returns what the seed must be for sum to be the checksum of b: the bytes
// of b, undone one by one.
func seedBehind(b []byte, sum uint32) seed {
	undo := undoTable()
	state := ^sum
	for i := len(b) - 1; i >= 0; i-- {
		k := undo[state>>24]
		state = (state^castagnoli[k])<<8 | uint32(k^b[i])
	}
	return seed(^state)
}

// headerClue makes the clue for a damaged segment header or footer. before is the
// place that it should have, if known.
func headerClue(b []byte, pos int64, name string, layout []field, names [4]string, place Place, known bool) clue {
	s := structure{name: name, layout: layout, pos: pos, b: append([]byte(nil), b...), sum: unseeded}
	magic := segmentMagic
	if name == "footer" {
		magic = footerMagic
	}
	return func() []Flaw {
		if len(s.b) < layout[len(layout)-1].at+layout[len(layout)-1].size {
			return []Flaw{{name, pos, fmt.Sprintf("%d bytes, then the file ends", len(s.b)), ""}}
		}
		if isZero(s.b) {
			return []Flaw{{Field: name, Position: pos, Found: "zeros"}}
		}
		flaws := s.checksum()
		if len(flaws) == 1 && flaws[0].Field != name+" checksum" {
			return flaws
		}
		flaws = append(flaws, s.differs("magic", binary.LittleEndian.Uint64([]byte(magic)))...)
		flaws = append(flaws, s.differs("version", segmentVersion)...)
		if known {
			for i, v := range [4]uint64{place.Index, place.Term, place.Offset, place.Chain} {
				flaws = append(flaws, s.differs(names[i], v)...)
			}
		}
		return flaws
	}
}

// The fields that have a place, in a segment's header and in its footer.
var (
	segmentPlace = [4]string{"index before", "term before", "first offset", "chain before"}
	footerPlace  = [4]string{"last index", "last term", "next offset", "last chain"}
)
