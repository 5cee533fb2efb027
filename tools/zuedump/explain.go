package main

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/zue-log/zue/storage"
)

// explanation says in plain words what a bad place means and what to do.
type explanation struct {
	meaning string
	advice  string
}

// where prints the first byte that is bad, as closely as it is known, and what is wrong
// with it.
func (d *dumper) where(flaws []storage.Flaw) {
	first, summed := int64(-1), int64(-1)
	for _, f := range flaws {
		switch {
		case strings.HasSuffix(f.Field, " checksum"):
			summed = f.Position
		case first < 0 || f.Position < first:
			first = f.Position
		}
	}
	switch {
	case first >= 0:
		d.printf("  first bad byte: position %d\n", first)
	case summed >= 0:
		d.printf("  first bad byte: at or after position %d; the checksum does not say where\n", summed)
	}
	for _, f := range flaws {
		d.printf("  what:  %s\n", f)
	}
}

// damage prints a bad range, the first one with an explanation.
func (d *dumper) damage(x *storage.DamageItem) {
	where := fmt.Sprintf("position %d to %d of %s", x.From, x.To-1, x.Path)
	if x.To <= x.From {
		where = fmt.Sprintf("position %d of %s", x.From, x.Path)
	}
	d.printf("DAMAGE: %s%s: %v\n", where, expected(x.Index, x.Offset), x.Err)
	if d.explained {
		return
	}
	d.explained = true
	d.where(x.Flaws())
	d.explanation(d.explainDamage(x))
}

func expected(index, offset uint64) string {
	if index == 0 {
		return ""
	}
	return fmt.Sprintf(" (where entry %d, offset %d, should be)", index, offset)
}

func (d *dumper) explanation(e explanation) {
	d.printf("  means: %s\n  do:    %s\n", e.meaning, e.advice)
}

const (
	copyFirst = "Before anything else, copy the whole directory."
	replace   = "Put back the file from a backup, or let a replica of the cluster be made anew from the others; " +
		"an entry with the same index and chain is the same entry everywhere."
	disk = "Look for errors of the disk in the kernel's log."
)

// explainDamage explains bytes that were durable once.
func (d *dumper) explainDamage(x *storage.DamageItem) explanation {
	var unreadable *fs.PathError
	switch {
	case errors.Is(x.Err, storage.ErrVersion):
		return explanation{"Corrupt or not, the file is of a version of the format that this program does not know.",
			"Use a newer zuedump."}
	case strings.HasSuffix(x.Path, ".index"):
		return explanation{"Corrupt: the index was durable when its segment was sealed. No record is lost: an index is only a short cut.",
			"Delete the file; the next opening of the log makes it anew. " + disk}
	case x.Path != d.path:
		return explanation{"Corrupt: each copy is durable before the other is written, so no crash damages both. What the log's user keeps there (a replica: its term and vote) is lost.",
			copyFirst + " Put back the state file from a backup; a replica must be made anew. " + disk}
	case errors.As(x.Err, &unreadable):
		return explanation{"The operating system cannot read these bytes: the disk is failing, or a file system above it.",
			copyFirst + " " + disk + " " + replace}
	}
	meaning := "Corrupt, not torn: "
	switch {
	case x.Mark.Source != storage.MarkNone:
		meaning += x.Mark.String() + ", so these bytes were on the disk once, and have changed since."
	case d.sealed:
		meaning += "the segment is sealed, and all in it was durable before its footer was written, so these bytes have changed since."
	case x.From == 0:
		meaning += "a segment's header is durable before its file gets its name, so these bytes have changed since."
	default:
		meaning += "these bytes were durable before those behind them were written, and have changed since."
	}
	switch {
	case x.Index == 0 && x.From > 0:
		return explanation{meaning, "Nothing, if all else is well: no record is lost, and the next opening checks the segment's entries and writes its footer anew. " + disk}
	case d.sealed && x.From > 0:
		return explanation{meaning, copyFirst + " The log still opens, and all but the damaged entries can be read. " + replace + " " + disk}
	}
	return explanation{meaning, copyFirst + " The log may refuse to open, lest something be cut off that can be saved. " + replace + " " + disk}
}

// gap prints a place where segments do not follow one another.
func (d *dumper) gap(g *storage.GapItem) {
	d.printf("DAMAGE: %s%s: %s\n", g.Path, expected(g.Want.Index+1, g.Want.Offset), g.Corruption().Reason)
	if d.explained {
		return
	}
	d.explained = true
	d.explanation(explainGap(g))
}

func explainGap(g *storage.GapItem) explanation {
	missing := fmt.Sprintf("%020d.log", g.Want.Offset)
	switch {
	case g.AtEnd:
		return explanation{"Corrupt: " + g.Mark.String() + ". The log's last segment, or more of them, is missing.",
			copyFirst + " Look for the file " + missing + " and those after it, and put them back. " + replace}
	case g.Found.Index > g.Want.Index:
		return explanation{fmt.Sprintf("Corrupt: entries %d to %d (offsets %d to %d) are missing between two segments, and segments are sealed in order.",
			g.Want.Index+1, g.Found.Index, g.Want.Offset, g.Found.Offset-1),
			copyFirst + " Look for the file " + missing + ", and put it back. " + replace}
	default:
		return explanation{"The segment is of another log, or of another history of this one.",
			copyFirst + " Find out where the file comes from. " + replace}
	}
}

// space prints what is behind the last entry of a segment.
func (d *dumper) space(s *storage.SpaceItem) {
	if s.Used == 0 {
		d.printf("%12d  unused space: %d bytes of zeros; the next entry is %d, offset %d\n", s.From, s.To-s.From, s.Next.Index+1, s.Next.Offset)
		return
	}
	reason := "zeros, and then other bytes"
	if s.Err != nil {
		reason = s.Err.Error()
	}
	d.printf("torn: position %d to %d of %s (where entry %d, offset %d, will be): %s\n", s.From, s.From+s.Used-1, s.Path,
		s.Next.Index+1, s.Next.Offset, reason)
	if d.explained {
		return
	}
	d.explained = true
	d.where(s.Flaws())
	d.explanation(d.explainSpace(s))
}

func (d *dumper) explainSpace(s *storage.SpaceItem) explanation {
	e := explanation{
		fmt.Sprintf("Torn, not corrupt: nothing says that entry %d was ever durable (%s). So it is what was being written when the process or the machine stopped, or is being written just now.",
			s.Next.Index+1, s.Mark),
		"Nothing: the next opening overwrites these bytes. No append that was acknowledged under sync \"always\" is among them, unless the log was killed within a second of it and the disk has damaged it since.",
	}
	if d.alone {
		e.advice += " But this was one file: dump its directory, for the state file and other segments may say that it was durable."
	}
	return e
}
