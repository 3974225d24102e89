package top

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ballastlb/ballast/command/api"
	"github.com/ballastlb/ballast/command/plain"
)

// Line is a line of a frame: pieces of clean text.
type Line []plain.Cell

// String is the line's text.
func (l Line) String() string {
	var b strings.Builder
	for _, c := range l {
		b.WriteString(c.Text)
	}
	return b.String()
}

// ANSI is the line's text for a terminal. Without colors, what is bold or reversed is so all the same.
func (l Line) ANSI(color bool) string {
	var b strings.Builder
	for _, c := range l.styled(color) {
		b.WriteString(c.ANSI())
	}
	return b.String()
}

// styled are the line's cells with the styles that are wanted.
func (l Line) styled(color bool) Line {
	if color {
		return l
	}
	cells := slices.Clone(l)
	for i := range cells {
		if s := cells[i].Style; s != plain.Bold && s != plain.Reverse {
			cells[i].Style = 0
		}
	}
	return cells
}

// clip leaves out what does not fit into the width.
func (l Line) clip(width int) Line {
	for i, c := range l {
		w := plain.Width(c.Text)
		if w > width {
			clipped := slices.Clone(l[:i+1])
			clipped[i].Text = plain.Clip(c.Text, width)
			return clipped
		}
		width -= w
	}
	return l
}

// Frame is what is shown now, in as many lines as the terminal has and none wider than it is.
func (m *Model) Frame(width, height int) []Line {
	rows := m.rows()
	at := m.cursor(rows)
	lines := m.table(rows, at, width)
	frame, body := []Line{m.title(), lines[0]}, lines[1:]
	room := height - len(frame) - 1
	if room < 1 { // no place for anything but what matters most
		frame, room = nil, max(height, 0)
	}
	m.scroll(rows, at, room)
	body = body[m.top:min(m.top+room, len(body))]
	m.above, m.more = len(frame), false
	if m.open && at >= 0 && rows[at].name() == m.selected { // else it has gone
		body = m.skim(m.detail(&rows[at], width), room)
		if len(frame) > 1 {
			frame[1] = nil // no headings
		}
	}
	if m.mode == helping {
		body = m.skim(m.help(), room)
	}
	m.listed = len(body)
	frame = append(frame, body...)
	if len(frame) < height {
		frame = append(frame, make([]Line, height-len(frame))...)
	}
	if height > 3 {
		frame[height-1] = m.footer()
	}
	for i := range frame {
		frame[i] = frame[i].clip(width)
	}
	return frame
}

// skim is the part of a text that has room, from the line to which it was scrolled.
func (m *Model) skim(all []Line, room int) []Line {
	m.skip = min(max(m.skip, 0), max(len(all)-room, 0))
	m.more = m.skip+room < len(all)
	return all[m.skip:min(m.skip+room, len(all))]
}

// All is everything, in lines as long as they are and without a cursor: a frame for scripts.
func (m *Model) All() []Line {
	return append([]Line{m.title()}, m.table(m.rows(), -1, 0)...)
}

// scroll chooses the first line of the body that is shown, so that the line of the cursor is among them, and the pool's heading if it
// stands above it.
func (m *Model) scroll(rows []row, at, room int) {
	m.top = min(m.top, max(len(rows)-room, 0))
	if at < 0 {
		return
	}
	first := at
	if rows[at-1].backend == nil && room > 1 {
		first--
	}
	m.top = min(max(m.top, at-room+1), first)
}

// title says where we are and how things stand in all.
func (m *Model) title() Line {
	backends, usable, requests := 0, 0, 0.0
	for _, p := range m.last.Pools {
		backends, usable, requests = backends+len(p.Backends), usable+p.Usable, requests+m.rates[name{pool: p.Name}].requests
	}
	line := Line{
		{Text: "Ballast", Style: plain.Bold},
		text(fmt.Sprintf(" at %s   %d/%d usable   %s req/s   ", m.Address, usable, backends, plain.Number(requests))),
		text(m.last.Now.Format("15:04:05")),
	}
	if m.trouble != "" {
		line = append(Line{{Text: plain.Clean(m.trouble), Style: plain.Bad}, text("   ")}, line...)
	}
	return line
}

// table is the headings' line and one for each row. With a width, columns that have no room are left out.
func (m *Model) table(rows []row, at, width int) []Line {
	cells := make([][]plain.Cell, len(rows))
	reasons := make([]string, len(rows))
	longest := 0
	widths := make([]int, len(columns))
	for i, c := range columns {
		widths[i] = len(c.heading)
	}
	for i := range rows {
		if rows[i].backend == nil {
			continue
		}
		cells[i] = make([]plain.Cell, len(columns))
		for j, c := range columns {
			cells[i][j] = c.value(&rows[i], m.last.Now)
			widths[j] = max(widths[j], plain.Width(cells[i][j].Text))
		}
		// What the state says already need not be said twice.
		reasons[i] = plain.Clean(strings.TrimPrefix(plain.Why(rows[i].backend, m.last.Now), plain.Status(rows[i].backend).Text+": "))
		longest = max(longest, plain.Width(reasons[i]))
	}
	if width > 0 {
		widths[0] = min(widths[0], max(width*2/5, len(columns[0].heading)))
	}
	shown := fit(widths, width, longest)
	headings := Line{text("  ")}
	for _, j := range shown {
		headings = append(headings, pad(text(columns[j].heading), widths[j], columns[j].right), text("  "))
	}
	lines := []Line{append(headings, text(reasonHeading))}
	for i := range rows {
		if rows[i].backend == nil {
			lines = append(lines, m.heading(&rows[i]))
			continue
		}
		line := Line{text("  ")}
		for _, j := range shown {
			line = append(line, pad(cells[i][j], widths[j], columns[j].right), text("  "))
		}
		line = append(line, plain.Cell{Text: reasons[i]})
		if i == at {
			line[0].Text = "> "
			line = append(line, text(strings.Repeat(" ", max(width-plain.Width(line.String()), 0))))
			for j := range line {
				line[j].Style = plain.Reverse
			}
		}
		lines = append(lines, line)
	}
	return lines
}

// wide is from where on reasons are shown whole, as long as they take half of the width at most.
const wide = 120

// fit returns the columns that there is room for beside the reasons, which are content with some of theirs.
func fit(widths []int, width, longest int) []int {
	shown := make([]int, len(widths))
	for i := range shown {
		shown[i] = i
	}
	if width <= 0 {
		return shown
	}
	enough := max(width/5, 10)
	if width >= wide {
		enough = width / 2 // the reason tells what some of the columns do
	}
	for {
		need, last := 2+min(max(longest, len(reasonHeading)), enough), -1
		for i, j := range shown {
			need += widths[j] + 2
			if columns[j].rank > 0 && (last < 0 || columns[j].rank > columns[shown[last]].rank) {
				last = i
			}
		}
		if need <= width || last < 0 {
			return shown
		}
		shown = slices.Delete(shown, last, last+1)
	}
}

// pad makes a cell as wide as its column.
func pad(c plain.Cell, width int, right bool) plain.Cell {
	c.Text = plain.Clip(c.Text, width)
	blank := strings.Repeat(" ", width-plain.Width(c.Text))
	if right {
		c.Text = blank + c.Text
	} else {
		c.Text += blank
	}
	return c
}

// heading is the line of a pool.
func (m *Model) heading(r *row) Line {
	p := r.pool
	state := plain.State(p)
	state.Text = plain.Clean(state.Text)
	line := Line{{Text: plain.Clean(p.Name), Style: plain.Bold}, text("  "), state, text(fmt.Sprintf("  %d/%d usable  ", p.Usable, len(p.Backends)))}
	for _, problem := range p.Problems {
		if problem.Backend != "" {
			continue // the backend's own line tells
		}
		cell := plain.Problem(&api.Pool{}, &problem)
		cell.Text = plain.Clean(strings.TrimSpace(cell.Text))
		line = append(line, cell, text("  "))
	}
	line = append(line, text(fmt.Sprintf("%s  %s req/s  queue %d  retries %s", plain.Policy(p.Policy), m.rates[name{pool: p.Name}], p.Queue, plain.Number(p.RetryBudget))))
	for _, w := range p.Warnings {
		line = append(line, plain.Cell{Text: "  " + plain.Clean(w), Style: plain.Doubtful})
	}
	return line
}

// footer is what can be done, what is asked, or what came of it.
func (m *Model) footer() Line {
	switch {
	case m.mode == confirming:
		return Line{{Text: plain.Clean(m.pending.what + "? y/n"), Style: plain.Bold}}
	case m.mode == filtering:
		return Line{{Text: plain.Clean("filter: " + m.filter + "_"), Style: plain.Bold}}
	case m.message != "":
		return Line{{Text: plain.Clean(m.message), Style: plain.Bold}}
	}
	keys := "q quit  up/down select  enter details  / filter  s sort: " + m.order.String() + "  ? help"
	if m.open {
		keys = "q quit  up/down select  esc back  ? help"
	}
	if m.more {
		keys = "page down more  " + keys
	}
	if m.filter != "" {
		keys = "filter: " + m.filter + " (esc clears)  " + keys
	}
	if m.Write {
		keys += "  d drain  r ready  m maintenance  +/- weight"
	}
	return Line{text(keys)}
}

func (m *Model) help() []Line {
	lines := []string{
		"  up, down, k, j      select a backend",
		"  page up, page down  ten further, or scroll an open backend or this page;",
		"                      home and end go to the first and the last",
		"  enter               open the backend; esc goes back",
		"  mouse               click to select, again to open; the wheel scrolls",
		"  /                   filter by text in name, address, zone, state or reason;",
		"                      esc shows all again",
		"  s                   sort by name, state, in flight, req/s, errors, p99",
		"  q, ctrl-c           quit; ctrl-z suspends, ctrl-l draws all anew",
		"",
		"  WEIGHT              effective/configured, where they differ",
		"  REQ/S, ERRORS       since the last refresh",
		"  P50, P99            response times",
		"  RETRIES             attempts repeated after one here failed",
		"  BREAKER             time until it lets requests through again",
		"  SINCE               age of the current state",
		"",
	}
	if m.Write {
		lines = append(lines,
			"  d, r, m             drain, make ready, put into maintenance",
			"  +, -                change the weight, more than once until confirmed",
			"  y                   confirm; any other key changes nothing")
	} else {
		lines = append(lines, "  Changes are for top --write.")
	}
	lines = append(lines, "", "  Any other key goes back.")
	help := make([]Line, len(lines))
	for i, l := range lines {
		help[i] = Line{text(l)}
	}
	return help
}
