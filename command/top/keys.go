package top

import (
	"fmt"
	"unicode"
	"unicode/utf8"

	"github.com/ballastlb/ballast/command/api"
)

// Key is a key that was pressed: a character, or one of those below.
type Key rune

// Keys that are no characters.
const (
	Up Key = -1 - iota
	Down
	PageUp
	PageDown
	Home
	End
	Escape
	Unknown
)

// Keys that are control characters.
const (
	interrupt Key = 0x03
	enter     Key = '\r'
	newline   Key = '\n'
	rubout    Key = 0x7f
	backspace Key = 0x08
)

// sequences are what terminals send for keys that are no characters.
var sequences = map[string]Key{
	"\x1b[A": Up, "\x1b[B": Down, "\x1bOA": Up, "\x1bOB": Down, "\x1b[5~": PageUp, "\x1b[6~": PageDown,
	"\x1b[H": Home, "\x1b[F": End, "\x1bOH": Home, "\x1bOF": End, "\x1b[1~": Home, "\x1b[4~": End,
}

// ReadKeys tells which keys were pressed from what a terminal sent, and returns the beginning of one that is not complete yet. An
// escape character on its own is the key of that name.
func ReadKeys(sent []byte) (keys []Key, rest []byte) {
	for len(sent) > 0 {
		if sent[0] == 0x1b && len(sent) > 1 && (sent[1] == '[' || sent[1] == 'O') {
			n := sequenceLength(sent)
			if n == 0 {
				return keys, sent
			}
			key, ok := sequences[string(sent[:n])]
			if !ok {
				key = Unknown
			}
			keys, sent = append(keys, key), sent[n:]
			continue
		}
		if sent[0] == 0x1b {
			keys, sent = append(keys, Escape), sent[1:]
			continue
		}
		if !utf8.FullRune(sent) {
			return keys, sent
		}
		r, n := utf8.DecodeRune(sent)
		keys, sent = append(keys, Key(r)), sent[n:]
	}
	return keys, nil
}

// sequenceLength is how long the escape sequence at the beginning of sent is; 0 if its end is not there. One that is longer than
// any key's is cut off.
func sequenceLength(sent []byte) int {
	const longest = 16
	for i := 2; i < len(sent); i++ {
		if sent[i] >= 0x40 || i == longest { // parameters are below
			return i + 1
		}
	}
	return 0
}

// Change is a change to a backend that the user has confirmed.
type Change struct {
	Pool, Backend string
	Fields        map[string]any
	what          string
	weight        int // if that is what changes
}

// Action is what a key asks for.
type Action struct {
	Quit   bool
	Change *Change // nil: none
}

// page is how far the page keys go.
const page = 10

// Press takes a key.
func (m *Model) Press(k Key) Action {
	m.message = ""
	if k == interrupt {
		return Action{Quit: true}
	}
	switch m.mode {
	case filtering:
		m.editFilter(k)
	case confirming:
		return m.answer(k)
	case helping:
		m.mode = looking
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
			m.open = true
		}
	case Escape:
		if !m.open {
			m.filter = ""
		}
		m.open = false
	case 's':
		m.order = (m.order + 1) % orders
	case '?', 'h':
		m.mode = helping
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
