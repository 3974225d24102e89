package top

import (
	"bytes"
	"fmt"
	"slices"
	"unicode/utf8"

	"github.com/ballastlb/ballast/command/plain"
)

// Painter knows what a terminal shows, and says what to send to it for the next frame: what is not the same.
//
// A library, tcell, was tried in its place. It is four more modules for users, does not leave the screen while more than 256 keys are
// waiting, as after a paste, and ends in locales and terminals that it has no table of. It sends as much.
type Painter struct {
	Color bool

	width int
	shown [][]piece
}

// piece is a cell in its place.
type piece struct {
	column int
	text   string // with its style
	sure   bool   // how wide it is: terminals do not agree about all that is not ASCII
}

// Forget lets the next frame be sent whole: the terminal may show something else.
func (p *Painter) Forget() { p.shown = nil }

// Paint returns what makes the terminal show a frame.
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
			b.WriteString("\x1b[K") // not in a full line, where it takes the last character off again
		}
		p.shown[i] = pieces
	}
	return b.Bytes()
}

// paintLine writes a line. What follows a piece of unsure width is put into its column: where a terminal has another opinion, that piece
// alone looks odd.
func paintLine(b *bytes.Buffer, line int, pieces []piece) {
	fmt.Fprintf(b, "\x1b[%d;1H", line+1)
	if slices.ContainsFunc(pieces, func(x piece) bool { return !x.sure }) {
		b.WriteString("\x1b[2K") // what stood there must not show through
	}
	for i, x := range pieces {
		if i > 0 && !pieces[i-1].sure {
			fmt.Fprintf(b, "\x1b[%dG", x.column+1)
		}
		b.WriteString(x.text)
	}
}

// paintChanged writes the pieces of a line that have changed, if their widths are sure. Where one grew, all after it have changed.
func paintChanged(b *bytes.Buffer, line int, before, after []piece) bool {
	if len(before) != len(after) {
		return false
	}
	for i := range after {
		if before[i] != after[i] && (!before[i].sure || !after[i].sure) {
			return false
		}
	}
	for i, x := range after {
		if x == before[i] {
			continue
		}
		if i == 0 || after[i-1] == before[i-1] { // else the cursor is there
			fmt.Fprintf(b, "\x1b[%d;%dH", line+1, x.column+1)
		}
		b.WriteString(x.text)
	}
	return true
}

// pieces are the line's cells in their places, and the column behind them.
func (l Line) pieces(color bool) (pieces []piece, end int) {
	for _, c := range l.styled(color) {
		if c.Text == "" {
			continue
		}
		pieces = append(pieces, piece{column: end, text: c.ANSI(), sure: isASCII(c.Text)})
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
