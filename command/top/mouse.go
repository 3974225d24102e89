package top

// notch is the number of rows or lines that a step of the wheel moves by.
const notch = 3

// Take handles a key or an action of the mouse.
func (m *Model) Take(in Input) Action {
	if in.Key == Click {
		m.click(in.Line)
		return Action{}
	}
	return m.Press(in.Key)
}

// click selects the backend on a line of the last frame, or opens it if it is selected already. It does not answer a question, and does
// not close details: a double click would close what its first click has opened.
func (m *Model) click(line int) {
	if m.open || m.mode != browsing && m.mode != filtering || line < m.above || line >= m.above+m.listed {
		return
	}
	rows := m.rows()
	i := m.top + line - m.above
	if i >= len(rows) || rows[i].backend == nil {
		return
	}
	m.message = ""
	if at := m.cursor(rows); at == i && m.mode == browsing {
		m.open, m.skip = true, 0
	}
	m.selected = rows[i].name()
}

// wheel scrolls the details or the help. In the list it moves the selection, and the list follows. It does nothing during a question.
func (m *Model) wheel(by int) {
	switch {
	case m.mode == helping, m.mode == browsing && m.open:
		m.skip += by
	case m.mode != confirming:
		m.move(by)
	}
}
