package top

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ballastlb/ballast/command/api"
	"github.com/ballastlb/ballast/command/plain"
)

// Line is a line of a frame. Its text contains no control characters.
type Line []plain.Cell

// String returns the line's text.
func (l Line) String() string {
	var b strings.Builder
	for _, c := range l {
		b.WriteString(c.Text)
	}
	return b.String()
}

// ANSI returns the line's text with escape sequences for a terminal. Without color, only bold and reversed text is styled.
func (l Line) ANSI(color bool) string {
	var b strings.Builder
	for _, c := range l.styled(color) {
		b.WriteString(c.ANSI())
	}
	return b.String()
}

// styled returns the line without its colors, unless color is true. Bold and reversed text stays.
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

// clip cuts the line off at a width.
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

// Frame returns the current frame for a terminal of this size: height lines, each at most width wide.
func (m *Model) Frame(width, height int) []Line {
	rows := m.rows()
	at := m.cursor(rows)
	lines := m.table(rows, at, width)
	frame, body := []Line{m.title(), lines[0]}, lines[1:]
	room := height - len(frame) - 1
	if room < 1 { // too small for the title and the headings
		frame, room = nil, max(height, 0)
	}
	m.scroll(rows, at, room)
	body = body[m.top:min(m.top+room, len(body))]
	m.above, m.more = len(frame), false
	if m.open && at >= 0 && rows[at].name() == m.selected { // false if the open backend has been removed
		body = m.scrolled(m.detail(&rows[at], width), room)
		if len(frame) > 1 {
			frame[1] = nil // no headings
		}
	}
	if m.mode == helping {
		body = m.scrolled(m.help(), room)
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

// scrolled returns the part of a text that fits into the room, from the line to which the user has scrolled.
func (m *Model) scrolled(all []Line, room int) []Line {
	m.skip = min(max(m.skip, 0), max(len(all)-room, 0))
	m.more = m.skip+room < len(all)
	return all[m.skip:min(m.skip+room, len(all))]
}

// All returns a frame for scripts: all rows, with lines of any width, and without a cursor.
func (m *Model) All() []Line {
	return append([]Line{m.title()}, m.table(m.rows(), -1, 0)...)
}

// scroll chooses the first visible line of the body, so that the cursor's line is visible, and with it the pool's heading if that is the
// line above.
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

// title returns the line with the address, the totals and the time, after the error if there is no newer sample.
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

// table returns the line of headings and one line for each row. It leaves out columns that do not fit into width; 0 is no limit.
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
		// The state is not repeated in the reason.
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

// wide is the width from which on reasons are shown in full if they take at most half of the width.
const wide = 120

// fit returns the columns that fit beside the reasons. In a narrow terminal, long reasons get only a part of the room that they need.
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
		enough = width / 2 // the reason is worth more than the columns that it replaces
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

// pad clips or pads a cell to the width of its column.
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

// heading returns the line of a pool.
func (m *Model) heading(r *row) Line {
	p := r.pool
	state := plain.State(p)
	state.Text = plain.Clean(state.Text)
	line := Line{{Text: plain.Clean(p.Name), Style: plain.Bold}, text("  "), state, text(fmt.Sprintf("  %d/%d usable  ", p.Usable, len(p.Backends)))}
	for _, problem := range p.Problems {
		if problem.Backend != "" {
			continue // the backend's own line shows it
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

// footer returns the last line: the keys, a question, the filter, or the result of a change.
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
		"  page up, page down  move by ten, or scroll an open backend or this page;",
		"                      home and end go to the first and the last",
		"  enter               open the backend; esc goes back",
		"  mouse               click to select, again to open; the wheel scrolls",
		"  /                   filter by text in name, address, zone, state or reason;",
		"                      esc clears the filter",
		"  s                   sort by name, state, in flight, req/s, errors, p99",
		"  q, ctrl-c           quit; ctrl-z suspends, ctrl-l redraws the screen",
		"",
		"  WEIGHT              effective/configured, where they differ",
		"  REQ/S, ERRORS       since the last refresh",
		"  P50, P99            response times",
		"  RETRIES             attempts repeated after one here failed",
		"  BREAKER             if open: time until it lets requests through",
		"  SINCE               age of the current state",
		"",
	}
	if m.Write {
		lines = append(lines,
			"  d, r, m             drain, make ready, put into maintenance",
			"  +, -                change the weight, more than once until confirmed",
			"  y                   confirm; any other key changes nothing")
	} else {
		lines = append(lines, "  Changes need top --write.")
	}
	lines = append(lines, "", "  Any other key goes back.")
	help := make([]Line, len(lines))
	for i, l := range lines {
		help[i] = Line{text(l)}
	}
	return help
}
