package plain

import (
	"io"
	"strings"
)

// Style is how text is set off. The zero value is plain.
type Style uint8

// Styles. Bold and Reverse are no colours: they are used where colours are not wanted, too.
const (
	Good Style = iota + 1
	Doubtful
	Bad
	Bold
	Reverse
)

var sequences = [...]string{Good: "\x1b[32m", Doubtful: "\x1b[33m", Bad: "\x1b[31m", Bold: "\x1b[1m", Reverse: "\x1b[7m"}

const reset = "\x1b[0m"

// Cell is a piece of text and how it is set off.
type Cell struct {
	Text  string
	Style Style
}

// ANSI returns the cell's text, cleaned and set off by escape sequences.
func (c Cell) ANSI() string {
	if c.Style == 0 || c.Text == "" {
		return Clean(c.Text)
	}
	return sequences[c.Style] + Clean(c.Text) + reset
}

// Table writes rows under headings in columns as wide as they must be, two spaces apart. The last column is as long as it is.
type Table struct {
	Color    bool
	headings []string
	rows     [][]Cell
}

// NewTable returns a table with these headings.
func NewTable(headings ...string) *Table { return &Table{headings: headings} }

// Row adds a row of texts and cells, as many as there are headings. An empty text shows as [None].
func (t *Table) Row(cells ...any) {
	row := make([]Cell, len(cells))
	for i, cell := range cells {
		switch c := cell.(type) {
		case Cell:
			row[i] = c
		case string:
			row[i] = Cell{Text: c}
		}
		if row[i].Text == "" {
			row[i].Text = None
		}
		row[i].Text = Clean(row[i].Text)
	}
	t.rows = append(t.rows, row)
}

// WriteTo implements [io.WriterTo].
func (t *Table) WriteTo(w io.Writer) (int64, error) {
	widths := make([]int, len(t.headings))
	for i, heading := range t.headings {
		widths[i] = Width(heading)
	}
	for _, row := range t.rows {
		for i, cell := range row {
			widths[i] = max(widths[i], Width(cell.Text))
		}
	}
	var b strings.Builder
	headings := make([]Cell, len(t.headings))
	for i, heading := range t.headings {
		headings[i] = Cell{Text: heading}
	}
	t.line(&b, headings, widths)
	for _, row := range t.rows {
		t.line(&b, row, widths)
	}
	n, err := io.WriteString(w, b.String())
	return int64(n), err
}

func (t *Table) line(b *strings.Builder, row []Cell, widths []int) {
	for i, cell := range row {
		if t.Color {
			b.WriteString(cell.ANSI())
		} else {
			b.WriteString(cell.Text)
		}
		if i < len(row)-1 {
			b.WriteString(strings.Repeat(" ", widths[i]-Width(cell.Text)+2))
		}
	}
	b.WriteByte('\n')
}
