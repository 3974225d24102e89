package draft

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// State is what became of a line.
type State int

// The states of a line; of those that were said of it, the last here counts.
const (
	Unseen State = iota // not looked at; the end of the conversion makes it Left
	Done                // expressed in the output
	Near                // expressed, but not quite the same; the notes say how
	Idle                // has nothing to convert: Caddy does it by itself, or something else does
	Left                // not expressed, or not all of it
)

// Line is a line of the input that has an effect, or a directive that spans several.
type Line struct {
	Number  int
	Text    string // for comments, on one line
	State   State
	Notes   []string
	Guards  bool // it restricts access
	written bool
}

// Done says that the line is expressed in the output. It does not take back that a part was left.
func (l *Line) Done() { l.raise(Done, "") }

// Near says that the line is expressed, with a difference.
func (l *Line) Near(format string, args ...any) { l.raise(Near, fmt.Sprintf(format, args...)) }

// Idle says that there is nothing to convert.
func (l *Line) Idle(format string, args ...any) { l.raise(Idle, fmt.Sprintf(format, args...)) }

// Leave says that the line, or a part of it, is not expressed.
func (l *Line) Leave(format string, args ...any) { l.raise(Left, fmt.Sprintf(format, args...)) }

func (l *Line) raise(s State, note string) {
	// What is expressed somewhere is no longer idle; otherwise the worst that was said of it counts.
	l.State = max(l.State, s)
	if note != "" && !slices.Contains(l.Notes, note) {
		l.Notes = append(l.Notes, note)
		l.written = false
	}
}

// Ledger has all lines of an input that have an effect.
type Ledger struct {
	File  string
	Lines []*Line
}

// Add takes a line down.
func (l *Ledger) Add(number int, text string) *Line {
	line := &Line{Number: number, Text: text}
	l.Lines = append(l.Lines, line)
	return line
}

// Comments returns what is to be said of the lines among these that were not said of before, in the order of the input.
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

// Of returns the lines in that state.
func (l *Ledger) Of(s State) []*Line {
	var found []*Line
	for _, line := range l.Lines {
		if line.State == s {
			found = append(found, line)
		}
	}
	return found
}
