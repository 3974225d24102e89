package top

// notch is how far a step of the wheel goes.
const notch = 3

// Take takes a key, or what the mouse did.
func (m *Model) Take(in Input) Action {
	if in.Key == Click {
		m.click(in.Line)
		return Action{}
	}
	return m.Press(in.Key)
}

// click selects the backend on a line of the last frame, and opens it if it is selected already. It answers no question, and closes
// nothing: somebody who clicks twice out of habit would not see what opened.
func (m *Model) click(line int) {
	if m.open || m.mode != looking && m.mode != filtering || line < m.above || line >= m.above+m.listed {
		return
	}
	rows := m.rows()
	i := m.top + line - m.above
	if i >= len(rows) || rows[i].backend == nil {
		return
	}
	m.message = ""
	if at := m.cursor(rows); at == i && m.mode == looking {
		m.open, m.skip = true, 0
	}
	m.selected = rows[i].name()
}

// wheel scrolls. In the list that moves the selection, which the list follows; a question stays as it is.
func (m *Model) wheel(by int) {
	switch {
	case m.mode == helping, m.mode == looking && m.open:
		m.skip += by
	case m.mode != confirming:
		m.move(by)
	}
}
