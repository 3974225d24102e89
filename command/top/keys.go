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
	weight        int // if that is what changes
}

// Action is what a key asks for.
type Action struct {
	Quit    bool
	Suspend bool    // hand the terminal back to the shell, for a while
	Redraw  bool    // the terminal shows something else than it was sent
	Change  *Change // nil: none
}

// page is how far the page keys go.
const page = 10

// Press takes a key.
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
	if by := map[Key]int{PageUp: -page, PageDown: page}[k]; by != 0 && (m.mode == helping || m.mode == looking && m.open) {
		m.skip += by
		return Action{}
	}
	switch m.mode {
	case filtering:
		m.editFilter(k)
	case confirming:
		return m.answer(k)
	case helping:
		m.mode, m.skip = looking, 0
	default:
		return m.command(k)
	}
	return Action{}
}

func (m *Model) editFilter(k Key) {
	switch k {
	case enter, newline:
		m.mode = looking
	case Escape:
		m.mode, m.filter = looking, ""
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
			m.selected = rows[m.cursor(rows)].name() // also when it was only the first
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
		m.message = "read-only: changes are for top --write"
		return
	}
	rows := m.rows()
	at := m.cursor(rows)
	if at < 0 {
		return
	}
	p, b := rows[at].pool, rows[at].backend
	m.selected = rows[at].name() // also when it was only the first
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
		c.weigh(k, b)
	}
	m.mode, m.pending = confirming, c
}

// weigh makes the weight of a change larger or smaller.
func (c *Change) weigh(k Key, b *api.Backend) {
	const most = 65535
	if k == '+' {
		c.weight = min(c.weight+1, most)
	} else {
		c.weight = max(c.weight-1, 0)
	}
	c.Fields = map[string]any{"weight": c.weight}
	c.what = fmt.Sprintf("weight of %s of pool %s from %d to %d", b.Name, c.Pool, b.Weight, c.weight)
}

// answer takes the answer to a question. While it is about a weight, that can still be changed.
func (m *Model) answer(k Key) Action {
	c := m.pending
	switch k {
	case 'y', 'Y':
		m.mode, m.pending = looking, nil
		return Action{Change: c}
	case '+', '-':
		if _, ok := c.Fields["weight"]; ok {
			if b := m.find(c); b != nil {
				c.weigh(k, b)
				return Action{}
			}
		}
	}
	m.mode, m.pending, m.message = looking, nil, "nothing was changed"
	return Action{}
}

// find returns the backend that a change is about; nil if it has gone.
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

// What says in words what is changed.
func (c *Change) What() string { return c.what }
