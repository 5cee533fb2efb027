package storage

import (
	"fmt"
	"iter"
	"time"
)

// Item is one thing that [Walk] comes across: a *[StateItem], *[SegmentItem],
// *[EntryItem], *[DamageItem], *[GapItem], *[SpaceItem], *[FooterItem] or
// *[IndexItem]. It, and all that it points to, is valid until the visitor returns.
type Item interface{ item() }

func (*StateItem) item()   {}
func (*SegmentItem) item() {}
func (*EntryItem) item()   {}
func (*DamageItem) item()  {}
func (*GapItem) item()     {}
func (*SpaceItem) item()   {}
func (*FooterItem) item()  {}
func (*IndexItem) item()   {}

// StateItem is the state file: what a log remembers outside its segments.
type StateItem struct {
	Path    string
	Missing bool // there is no such file, or nothing was ever written to it
	// Copies says what is wrong with each of the two copies; nil is good. A
	// crash may leave one of them damaged, which costs nothing.
	Copies   [2]error
	Sequence uint64 // of the copy that counts; each change has the next one
	Origin   Place  // what the first entry kept follows
	Reset    bool   // the log is being reset to Origin: all segments are void
	User     []byte // what the log's user keeps there
	Mark     uint64 // all entries up to this index were durable; 0: not known
	MarkErr  error  // what is wrong with Mark, which is 0 then
}

// SegmentItem begins a segment. What follows, up to the next one, is of it.
type SegmentItem struct {
	Path    string
	Size    int64     // of the file, in bytes
	Before  Place     // what its first entry follows; zero if Err is set
	Created time.Time // to the millisecond
	Sealed  bool      // it has a footer at its end
	// Void: the log's state says that this segment is no longer, or never was,
	// part of the log. The next opening removes it; a walk does not go into it.
	Void bool
	// Beyond: the log ends before this segment, which never was durable. The
	// next opening removes it; a walk does not go into it.
	Beyond bool
	Err    error // what is wrong with its header; a *DamageItem follows
}

// EntryItem is an entry that is whole.
type EntryItem struct {
	Path     string
	Position int64 // of its header in the file
	Size     int64 // how many bytes it takes up there, padding included
	// Resumed: what comes before it is damaged or missing, so that nothing
	// shows that it is the next entry; by itself it is whole.
	Resumed bool
	Entry   Entry
}

// DamageItem is a range of bytes that were durable once, or are below the end of
// an open log, and are not what was written.
type DamageItem struct {
	Path     string
	From, To int64  // positions: of the first byte, and after the last
	Index    uint64 // the entry that should be here; 0: none, or not known
	Offset   uint64 // its first offset, if Index is not 0
	Err      error  // what is wrong
	// Mark says why these bytes count as having been durable, where that is
	// not plain from where they are, as in a sealed segment.
	Mark DurableMark

	clue clue
}

// Corruption returns d as an error.
func (d *DamageItem) Corruption() *CorruptionError {
	return &CorruptionError{Path: d.Path, Position: d.From, Index: d.Index, Offset: d.Offset, Reason: d.Err.Error()}
}

// Flaws says what was found at d, and what was expected, field by field, in the
// order of their positions; none if it is not known more closely. It computes for
// a while: up to a second for a body of 32 MiB.
func (d *DamageItem) Flaws() []Flaw { return d.clue.flaws() }

// GapItem says that a segment does not follow the one before it, or the state's
// origin; or, at the end, that entries are gone which were durable.
type GapItem struct {
	Path  string // the segment that does not follow; the directory at the end
	Want  Place  // where the log has come to
	Found Place  // what the segment says that it follows; zero at the end
	AtEnd bool
	Mark  DurableMark // at the end: what says that there were entries
}

// Corruption returns g as an error.
func (g *GapItem) Corruption() *CorruptionError {
	reason := fmt.Sprintf("the segment follows entry %d (offset %d), and the log has come to entry %d (offset %d): what is between is missing",
		g.Found.Index, g.Found.Offset, g.Want.Index, g.Want.Offset)
	switch {
	case g.AtEnd:
		reason = fmt.Sprintf("entries up to %d were durable once, and are gone", g.Mark.Index)
	case g.Found.Index <= g.Want.Index:
		reason = fmt.Sprintf("the segment follows entry %d (offset %d) of another history: the log has come to entry %d (offset %d)",
			g.Found.Index, g.Found.Offset, g.Want.Index, g.Want.Offset)
	}
	return &CorruptionError{Path: g.Path, Index: g.Want.Index + 1, Offset: g.Want.Offset, Reason: reason}
}

// SpaceItem is what lies behind the last entry of a segment that is not sealed.
type SpaceItem struct {
	Path     string
	From, To int64 // positions: behind the last entry, and the file's end
	// Used is how many bytes there are up to the last that is not zero. They
	// are torn: nothing says that they were durable, and the next opening
	// overwrites them. In a log that is being appended to they may be an entry
	// in the making.
	Used int64
	Err  error // why no entry begins at From, if Used is not 0
	// Next is what the next entry will follow.
	Next Place
	// Mark is the largest durable mark there is. It does not reach beyond Next.
	Mark DurableMark

	clue clue
}

// Flaws is like [DamageItem.Flaws].
func (s *SpaceItem) Flaws() []Flaw { return s.clue.flaws() }

// FooterItem is the footer of a segment.
type FooterItem struct {
	Path     string
	Position int64 // in the file
	End      int64 // position where the entries stop
	Last     Place // after the last of them
	// MaxTime is the largest timestamp of the segment's records, in
	// milliseconds since the Unix epoch, if HasTime.
	MaxTime int64
	HasTime bool // the segment has records
}

// IndexHealth says what an index file is worth.
type IndexHealth int

// The states of an index file. A missing, open or wrong index is made anew by the
// next opening; for a wrong one of a sealed segment, a *DamageItem follows.
const (
	IndexGood    IndexHealth = iota // right as far as it says that it goes
	IndexOpen                       // the log is open, or was not closed cleanly
	IndexMissing                    // there is no such file
	IndexWrong                      // damaged, or another segment's
)

// String returns good, open, missing or wrong.
func (h IndexHealth) String() string {
	switch h {
	case IndexGood:
		return "good"
	case IndexOpen:
		return "open"
	case IndexMissing:
		return "missing"
	default:
		return "wrong"
	}
}

// IndexItem is the index file of a segment.
type IndexItem struct {
	Path   string
	Health IndexHealth
	Err    error // why it is wrong, or could not be read
	Count  int   // of its points
	End    int64 // position in the segment up to which it says that it goes
	Last   Place // the place there

	base Place
	b    []byte
}

// IndexPoint is one point of an index.
type IndexPoint struct {
	Offset   uint64 // of the record
	Index    uint64 // of its entry
	Position int64  // of the entry in the segment
	Record   int64  // of the record in the entry's body; 0: it is the first
	Before   int64  // largest timestamp before it in the segment, if HasTime
	HasTime  bool
}

// Points yields the index's points in order. They are as the file has them: in a
// wrong index, wrong.
func (x *IndexItem) Points() iter.Seq[IndexPoint] {
	return func(yield func(IndexPoint) bool) {
		for i := range x.Count {
			p := parsePoint(x.b[indexHeaderSize+i*pointSize:])
			if !yield(IndexPoint{
				Offset:   x.base.Offset + uint64(p.offset),
				Index:    x.base.Index + 1 + uint64(p.index),
				Position: int64(p.entry),
				Record:   int64(p.record),
				Before:   p.before,
				HasTime:  p.before != noTime,
			}) {
				return
			}
		}
	}
}

// MarkSource says where a durable mark was found.
type MarkSource int

// The sources of durable marks.
const (
	MarkNone   MarkSource = iota // there is no mark
	MarkState                    // the state file
	MarkEntry                    // the header of an entry
	MarkFooter                   // the footer of a segment
)

// DurableMark is a note, found in a log's files, that all entries up to an index
// were durable. It tells damage from what a crash tears. The zero DurableMark is
// none.
type DurableMark struct {
	Index    uint64
	Source   MarkSource
	Path     string // of the file that has it
	Position int64  // in that file, of the header or the footer
}

// String says where the mark comes from.
func (m DurableMark) String() string {
	switch m.Source {
	case MarkState:
		return fmt.Sprintf("the state file says that entries up to %d were durable", m.Index)
	case MarkEntry:
		return fmt.Sprintf("the entry header at position %d of %s says that entries up to %d were durable", m.Position, m.Path, m.Index)
	case MarkFooter:
		return fmt.Sprintf("the footer at position %d of %s says that entries up to %d were durable", m.Position, m.Path, m.Index)
	default:
		return "nothing says that any entry was durable"
	}
}
