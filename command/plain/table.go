package plain

import (
	"io"
	"slices"
	"strings"
)

// Style is how text is highlighted. The zero value is plain.
type Style uint8

// Styles. Bold and Reverse are not colours: they are also used without colours.
const (
	Good Style = iota + 1
	Doubtful
	Bad
	Bold
	Reverse
)

var sequences = [...]string{Good: "\x1b[32m", Doubtful: "\x1b[33m", Bad: "\x1b[31m", Bold: "\x1b[1m", Reverse: "\x1b[7m"}

const reset = "\x1b[0m"

// Cell is a text with its style.
type Cell struct {
	Text  string
	Style Style
}

// ANSI returns the cell's text, cleaned and with the escape sequences of its style.
func (c Cell) ANSI() string {
	if c.Style == 0 || c.Text == "" {
		return Clean(c.Text)
	}
	return sequences[c.Style] + Clean(c.Text) + reset
}

// Table formats rows below headings. Columns are as wide as necessary, two spaces apart; the last one is not padded.
type Table struct {
	Color    bool
	Width    int // of the terminal: longer lines are wrapped; 0 for no limit
	headings []string
	rows     []row
	optional []string // headings of columns that may be left out, the first of them first
}

type row struct {
	cells []Cell
	note  string
}

// gap is the space between columns, hang the indentation of a note.
const gap, hang = 2, 4

// NewTable returns a table with these headings.
func NewTable(headings ...string) *Table { return &Table{headings: headings} }

// Row adds a row of texts and cells, as many as there are headings. An empty text shows as [None].
func (t *Table) Row(cells ...any) {
	r := row{cells: make([]Cell, len(cells))}
	for i, cell := range cells {
		switch c := cell.(type) {
		case Cell:
			r.cells[i] = c
		case string:
			r.cells[i] = Cell{Text: c}
		}
		if r.cells[i].Text == "" {
			r.cells[i].Text = None
		}
		r.cells[i].Text = Clean(r.cells[i].Text)
	}
	t.rows = append(t.rows, r)
}

// Note adds a text below the latest row.
func (t *Table) Note(text string) { t.rows[len(t.rows)-1].note = Clean(text) }

// Optional names columns that are left out, the first of them first, while the table is wider than Width.
func (t *Table) Optional(headings ...string) { t.optional = headings }

// Fits reports whether the table fits into that many columns, with its last column wrapped if necessary.
func (t *Table) Fits(width int) bool {
	const enough = 30 // least width of a wrapped last column
	widths := t.widths()
	last := len(widths) - 1
	return t.before(widths)+min(widths[last], max(enough, Width(t.headings[last]))) <= width
}

func (t *Table) widths() []int {
	widths := make([]int, len(t.headings))
	for i, heading := range t.headings {
		widths[i] = Width(heading)
	}
	for _, r := range t.rows {
		for i, cell := range r.cells {
			widths[i] = max(widths[i], Width(cell.Text))
		}
	}
	return widths
}

// before returns the width of all columns before the last one.
func (t *Table) before(widths []int) (n int) {
	for _, w := range widths[:len(widths)-1] {
		n += w + gap
	}
	return n
}

// WriteTo implements [io.WriterTo].
func (t *Table) WriteTo(w io.Writer) (int64, error) {
	t.leaveOut()
	widths := t.widths()
	last, before := len(widths)-1, t.before(widths)
	const least = 16 // least width at which text is wrapped
	room := 0
	if t.Width > 0 && t.Width-before >= min(least, widths[last]) {
		room = t.Width - before
	}
	var b strings.Builder
	headings := make([]Cell, len(t.headings))
	for i, heading := range t.headings {
		headings[i] = Cell{Text: heading}
	}
	t.line(&b, headings, widths)
	for _, r := range t.rows {
		pieces := Wrap(r.cells[last].Text, room)
		cells := slices.Clone(r.cells)
		for _, piece := range pieces {
			cells[last].Text = piece
			t.line(&b, cells, widths)
			cells = make([]Cell, len(cells))
			cells[last].Style = r.cells[last].Style
		}
		if r.note != "" {
			for _, piece := range Wrap(r.note, max(t.Width-hang, 0)) {
				b.WriteString(strings.Repeat(" ", hang) + piece + "\n")
			}
		}
	}
	n, err := io.WriteString(w, b.String())
	return int64(n), err
}

// leaveOut removes optional columns while the table is too wide.
func (t *Table) leaveOut() {
	for _, heading := range t.optional {
		if t.Width == 0 || t.Fits(t.Width) {
			return
		}
		t.Without(heading)
	}
}

// Without removes a column.
func (t *Table) Without(heading string) {
	i := slices.Index(t.headings, heading)
	if i < 0 {
		return
	}
	t.headings = slices.Delete(t.headings, i, i+1)
	for j := range t.rows {
		t.rows[j].cells = slices.Delete(t.rows[j].cells, i, i+1)
	}
}

func (t *Table) line(b *strings.Builder, cells []Cell, widths []int) {
	for i, cell := range cells {
		if t.Color {
			b.WriteString(cell.ANSI())
		} else {
			b.WriteString(cell.Text)
		}
		if i < len(cells)-1 {
			b.WriteString(strings.Repeat(" ", widths[i]-Width(cell.Text)+gap))
		}
	}
	b.WriteByte('\n')
}
