package draft

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// State is the result for a line.
type State int

// The states of a line. If a line gets several, the last one in this list is kept.
const (
	Unseen State = iota // not handled; Comments turns it into Left
	Done                // converted
	Near                // converted with a difference, which the notes describe
	Idle                // needs no conversion: Caddy or another program does it already
	Left                // not converted, or only in part
)

// Line is a line of the input that has an effect, or a directive that spans several lines.
type Line struct {
	Number  int
	Text    string // for comments, on one line
	State   State
	Notes   []string
	Guards  bool // it restricts access
	written bool
}

// Done marks the line as converted. It does not undo Leave.
func (l *Line) Done() { l.raise(Done, "") }

// Near marks the line as converted with a difference.
func (l *Line) Near(format string, args ...any) { l.raise(Near, fmt.Sprintf(format, args...)) }

// Idle marks the line as one that needs no conversion.
func (l *Line) Idle(format string, args ...any) { l.raise(Idle, fmt.Sprintf(format, args...)) }

// Leave marks the line, or a part of it, as not converted.
func (l *Line) Leave(format string, args ...any) { l.raise(Left, fmt.Sprintf(format, args...)) }

func (l *Line) raise(s State, note string) {
	l.State = max(l.State, s)
	if note != "" && !slices.Contains(l.Notes, note) {
		l.Notes = append(l.Notes, note)
		l.written = false
	}
}

// Ledger is the list of the lines of an input that have an effect.
type Ledger struct {
	File  string
	Lines []*Line
}

// Add adds a line.
func (l *Ledger) Add(number int, text string) *Line {
	line := &Line{Number: number, Text: text}
	l.Lines = append(l.Lines, line)
	return line
}

// Comments returns the comments on those of the lines that have notes and were not returned before, in the order of the input.
func (l *Ledger) Comments(lines ...*Line) []string {
	var said []string
	lines = slices.Clone(lines)
	slices.SortStableFunc(lines, func(a, b *Line) int { return cmp.Compare(a.Number, b.Number) })
	for _, line := range lines {
		if line.State == Unseen {
			line.Leave("it has no equivalent here")
		}
		if line.written || len(line.Notes) == 0 {
			continue
		}
		line.written = true
		what := map[State]string{Near: "nearly", Idle: "not needed", Left: "not converted"}[line.State]
		said = append(said, fmt.Sprintf("%s:%d: %s: %s (%s)", l.File, line.Number, what, line.Text, strings.Join(line.Notes, "; ")))
	}
	return said
}

// Of returns the lines in a state.
func (l *Ledger) Of(s State) []*Line {
	var found []*Line
	for _, line := range l.Lines {
		if line.State == s {
			found = append(found, line)
		}
	}
	return found
}
