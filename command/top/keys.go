package top

import (
	"fmt"
	"unicode"
	"unicode/utf8"

	"github.com/ballastlb/ballast/command/api"
)

// Change is a change to a backend that the user has confirmed.
type Change struct {
	Pool, Backend string
	Fields        map[string]any
	what          string
	weight        int // the new weight, if the change is about it
}

// Action is what the caller must do after a key.
type Action struct {
	Quit    bool
	Suspend bool    // give the terminal back to the shell until it resumes the process
	Redraw  bool    // draw the whole screen, because other output has changed it
	Change  *Change // nil if there is none
}

// page is the number of rows or lines that the page keys move by.
const page = 10

// Press handles a key.
func (m *Model) Press(k Key) Action {
	m.message = ""
	switch k {
	case interrupt:
		return Action{Quit: true}
	case suspend:
		return Action{Suspend: true}
	case redraw:
		return Action{Redraw: true}
	case WheelUp:
		m.wheel(-notch)
		return Action{}
	case WheelDown:
		m.wheel(notch)
		return Action{}
	}
	if by := map[Key]int{PageUp: -page, PageDown: page}[k]; by != 0 && (m.mode == helping || m.mode == browsing && m.open) {
		m.skip += by
		return Action{}
	}
	switch m.mode {
	case filtering:
		m.editFilter(k)
	case confirming:
		return m.answer(k)
	case helping:
		m.mode, m.skip = browsing, 0
	default:
		return m.command(k)
	}
	return Action{}
}

func (m *Model) editFilter(k Key) {
	switch k {
	case enter, newline:
		m.mode = browsing
	case Escape:
		m.mode, m.filter = browsing, ""
	case rubout, backspace:
		_, n := utf8.DecodeLastRuneInString(m.filter)
		m.filter = m.filter[:len(m.filter)-n]
	default:
		const longest = 100
		if k >= 0 && unicode.IsPrint(rune(k)) && len(m.filter) < longest {
			m.filter += string(rune(k))
		}
	}
}

func (m *Model) command(k Key) Action {
	switch k {
	case 'q', 'Q':
		return Action{Quit: true}
	case Up, 'k':
		m.move(-1)
	case Down, 'j':
		m.move(1)
	case PageUp:
		m.move(-page)
	case PageDown:
		m.move(page)
	case Home:
		m.move(-1 << 30)
	case End:
		m.move(1 << 30)
	case '/':
		m.mode = filtering
	case enter, newline:
		if rows := m.rows(); m.cursor(rows) >= 0 {
			m.selected = rows[m.cursor(rows)].name() // it may be the first by default only
			m.open, m.skip = true, 0
		}
	case Escape:
		if !m.open {
			m.filter = ""
		}
		m.open = false
	case 's':
		m.order = (m.order + 1) % orders
	case '?', 'h':
		m.mode, m.skip = helping, 0
	case 'd', 'r', 'm', '+', '-':
		m.propose(k)
	}
	return Action{}
}

// propose prepares a change of the selected backend, to be confirmed.
func (m *Model) propose(k Key) {
	if !m.Write {
		m.message = "read-only: changes need top --write"
		return
	}
	rows := m.rows()
	at := m.cursor(rows)
	if at < 0 {
		return
	}
	p, b := rows[at].pool, rows[at].backend
	m.selected = rows[at].name() // it may be the first by default only
	c := &Change{Pool: p.Name, Backend: b.Name}
	last := ""
	if b.Usable && p.Usable == 1 {
		last = ", its last usable backend"
	}
	switch k {
	case 'd':
		c.Fields, c.what = map[string]any{"state": "drain"}, fmt.Sprintf("drain %s of pool %s%s", b.Name, p.Name, last)
	case 'm':
		c.Fields, c.what = map[string]any{"state": "maintenance"}, fmt.Sprintf("put %s of pool %s%s into maintenance", b.Name, p.Name, last)
	case 'r':
		c.Fields, c.what = map[string]any{"state": "ready"}, fmt.Sprintf("make %s of pool %s ready", b.Name, p.Name)
	default:
		c.weight = b.Weight
		c.stepWeight(k, b)
	}
	m.mode, m.pending = confirming, c
}

// stepWeight changes the weight by one.
func (c *Change) stepWeight(k Key, b *api.Backend) {
	const most = 65535
	if k == '+' {
		c.weight = min(c.weight+1, most)
	} else {
		c.weight = max(c.weight-1, 0)
	}
	c.Fields = map[string]any{"weight": c.weight}
	c.what = fmt.Sprintf("weight of %s of pool %s from %d to %d", b.Name, c.Pool, b.Weight, c.weight)
}

// answer handles the answer to a question. If the question is about a weight, + and - still change it.
func (m *Model) answer(k Key) Action {
	c := m.pending
	switch k {
	case 'y', 'Y':
		m.mode, m.pending = browsing, nil
		return Action{Change: c}
	case '+', '-':
		if _, ok := c.Fields["weight"]; ok {
			if b := m.find(c); b != nil {
				c.stepWeight(k, b)
				return Action{}
			}
		}
	}
	m.mode, m.pending, m.message = browsing, nil, "nothing was changed"
	return Action{}
}

// find returns the backend of a change, nil if it has been removed.
func (m *Model) find(c *Change) *api.Backend {
	for i := range m.last.Pools {
		for j := range m.last.Pools[i].Backends {
			if b := &m.last.Pools[i].Backends[j]; m.last.Pools[i].Name == c.Pool && b.Name == c.Backend {
				return b
			}
		}
	}
	return nil
}

// What describes the change in words.
func (c *Change) What() string { return c.what }
