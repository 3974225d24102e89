package top

import (
	"bytes"
	"fmt"
	"slices"
	"unicode/utf8"

	"github.com/ballastlb/ballast/command/plain"
)

// Painter keeps the frame that a terminal shows, and returns the differences to send for the next one.
//
// The library tcell was tried instead. It would add four modules to the builds of users, does not leave the screen while more than 256
// keys are waiting, as after a paste, and fails with locales and terminals that it has no tables for. It sends as many bytes.
type Painter struct {
	Color bool

	width int
	shown [][]piece
}

// piece is a cell with its position in a line.
type piece struct {
	column int
	text   string // with its style
	ascii  bool   // its width is certain; terminals disagree about other characters
}

// Forget makes Paint return the whole next frame, because the terminal may show something else.
func (p *Painter) Forget() { p.shown = nil }

// Paint returns the text and escape sequences that make the terminal show a frame.
func (p *Painter) Paint(frame []Line, width int) []byte {
	const clearAll = "\x1b[0m\x1b[2J"
	var b bytes.Buffer
	if p.shown == nil || p.width != width || len(p.shown) != len(frame) {
		b.WriteString(clearAll)
		p.width, p.shown = width, make([][]piece, len(frame))
	}
	for i, line := range frame {
		pieces, end := line.pieces(p.Color)
		if slices.Equal(pieces, p.shown[i]) {
			continue
		}
		if !paintChanged(&b, i, p.shown[i], pieces) {
			paintLine(&b, i, pieces)
		}
		if n := len(pieces); end < width && (n == 0 || n != len(p.shown[i]) || pieces[n-1] != p.shown[i][n-1]) {
			b.WriteString("\x1b[K") // not in a full line, where it would erase the last character
		}
		p.shown[i] = pieces
	}
	return b.Bytes()
}

// paintLine writes a line. After a piece of uncertain width it moves the cursor to the next column, so that a terminal that finds it
// wider or narrower shifts only that piece.
func paintLine(b *bytes.Buffer, line int, pieces []piece) {
	fmt.Fprintf(b, "\x1b[%d;1H", line+1)
	if slices.ContainsFunc(pieces, func(x piece) bool { return !x.ascii }) {
		b.WriteString("\x1b[2K") // otherwise parts of the old line could remain
	}
	for i, x := range pieces {
		if i > 0 && !pieces[i-1].ascii {
			fmt.Fprintf(b, "\x1b[%dG", x.column+1)
		}
		b.WriteString(x.text)
	}
}

// paintChanged writes the changed pieces of a line. It returns false if their widths are uncertain or their number differs. If a piece
// grew, all pieces after it have changed, because their columns did.
func paintChanged(b *bytes.Buffer, line int, before, after []piece) bool {
	if len(before) != len(after) {
		return false
	}
	for i := range after {
		if before[i] != after[i] && (!before[i].ascii || !after[i].ascii) {
			return false
		}
	}
	for i, x := range after {
		if x == before[i] {
			continue
		}
		if i == 0 || after[i-1] == before[i-1] { // otherwise the cursor is there already
			fmt.Fprintf(b, "\x1b[%d;%dH", line+1, x.column+1)
		}
		b.WriteString(x.text)
	}
	return true
}

// pieces returns the line's cells with their columns, and the column after the last one.
func (l Line) pieces(color bool) (pieces []piece, end int) {
	for _, c := range l.styled(color) {
		if c.Text == "" {
			continue
		}
		pieces = append(pieces, piece{column: end, text: c.ANSI(), ascii: isASCII(c.Text)})
		end += plain.Width(c.Text)
	}
	return pieces, end
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}
