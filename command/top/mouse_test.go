package top

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestRead(t *testing.T) {
	keys := func(all ...Key) (inputs []Input) {
		for _, k := range all {
			inputs = append(inputs, Input{Key: k})
		}
		return inputs
	}
	for _, test := range []struct {
		sent string
		want []Input
		rest string
	}{
		{"", nil, ""}, {"qä", keys('q', 'ä'), ""}, {"\x1b", keys(Escape), ""}, {"\x1b[A\x1b[Bq", keys(Up, Down, 'q'), ""},
		{"\x1bOA", keys(Up), ""}, {"\x1b[5~\x1b[6~", keys(PageUp, PageDown), ""}, {"\x1b[1;5C", keys(Unknown), ""}, {"\x1b[", nil, "\x1b["},
		{"j\x1b[1;", keys('j'), "\x1b[1;"}, {"\xc3", nil, "\xc3"}, {"\x1b\x1b", keys(Escape, Escape), ""},
		{"\x1b[" + strings.Repeat("1", 25), keys(Unknown, '1', '1'), ""},
		{"\x1b[<0;5;7M\x1b[<0;5;7m", []Input{{Click, 6}}, ""}, {"\x1b[<4;1;1Mq", []Input{{Click, 0}, {Key: 'q'}}, ""},
		{"\x1b[<64;5;7M\x1b[<65;1;1M", keys(WheelUp, WheelDown), ""}, {"\x1b[<2;5;7M\x1b[<32;5;7M\x1b[<66;5;7M", nil, ""},
		{"\x1b[<0;99999;1234M", []Input{{Click, 1233}}, ""}, {"\x1b[<0;5", nil, "\x1b[<0;5"}, {"\x1b[<;;M\x1b[<0M\x1b[<0;1;xM", keys('M'), ""},
		{"\x1b[M dyj", []Input{{Click, 'y' - 0x21}, {Key: 'j'}}, ""}, {"\x1b[M#dy", nil, ""}, {"\x1b[M d", nil, "\x1b[M d"}, {"\x1b[M`!!", keys(WheelUp), ""},
	} {
		inputs, rest := Read([]byte(test.sent))
		if !slices.Equal(inputs, test.want) || string(rest) != test.rest {
			t.Errorf("%q: %v and %q, want %v and %q", test.sent, inputs, rest, test.want, test.rest)
		}
	}
}

// click clicks on the line of the frame that contains a text.
func click(t *testing.T, m *Model, width, height int, on string) {
	t.Helper()
	at := slices.IndexFunc(m.Frame(width, height), func(l Line) bool { return strings.Contains(l.String(), on) })
	if at < 0 {
		t.Fatalf("no line has %q", on)
	}
	inputs, rest := Read(fmt.Appendf(nil, "\x1b[<0;3;%dM\x1b[<0;3;%dm", at+1, at+1))
	if len(inputs) != 1 || len(rest) != 0 {
		t.Fatalf("%v and %q", inputs, rest)
	}
	if action := m.Take(inputs[0]); action != (Action{}) {
		t.Errorf("a click on %s does %+v", on, action)
	}
}

func TestClick(t *testing.T) {
	for _, size := range [][2]int{{140, 40}, {80, 24}, {40, 10}, {60, 6}} {
		m := model(t)
		press(m, "jj") // scrolls the list in the smallest frame
		selects := func(on, want string) {
			t.Helper()
			click(t, m, size[0], size[1], on)
			if m.selected.backend != want || m.open {
				t.Errorf("%v: a click on %q selects %v, opens %v", size, on, m.selected, m.open)
			}
		}
		selects("10.0.0.2", "10.0.0.2:8080")
		selects("10.0.0.3", "10.0.0.3:8080")
		selects("Ballast", "10.0.0.3:8080")
		selects("REASON", "10.0.0.3:8080")
		selects("q quit", "10.0.0.3:8080")
		click(t, m, size[0], size[1], "10.0.0.3")
		if _, backend, open := m.Open(); !open || backend != "10.0.0.3:8080" {
			t.Errorf("%v: the second click opens %s %v", size, backend, open)
		}
		for line := range size[1] { // also where the list has its rows
			m.Take(Input{Click, line})
		}
		if _, backend, open := m.Open(); !open || backend != "10.0.0.3:8080" {
			t.Errorf("%v: a third click shows %s, open %v", size, backend, open)
		}
	}
	t.Run("a pool", func(t *testing.T) {
		m := model(t)
		press(m, "j")
		click(t, m, 80, 24, "hash")
		if m.selected.backend != "10.0.0.2:8080" || m.open {
			t.Errorf("selects %v, opens %v", m.selected, m.open)
		}
	})
	t.Run("a question", func(t *testing.T) {
		m := model(t)
		m.Write = true
		press(m, "d")
		click(t, m, 80, 24, "10.0.0.2")
		m.Take(Input{Key: WheelDown})
		if m.selected.backend != "10.0.0.1:8080" {
			t.Errorf("selects %v", m.selected)
		}
		if c := press(m, "y").Change; c == nil || c.Backend != "10.0.0.1:8080" {
			t.Errorf("changes %+v", c)
		}
	})
	t.Run("the help", func(t *testing.T) {
		m := model(t)
		press(m, "j?")
		m.Frame(80, 24)
		m.Take(Input{Click, 6})
		if m.selected.backend != "10.0.0.2:8080" || m.open || m.mode != helping {
			t.Errorf("selects %v, opens %v", m.selected, m.open)
		}
	})
	t.Run("while a filter is typed", func(t *testing.T) {
		m := model(t)
		press(m, "/10")
		click(t, m, 80, 24, "10.0.0.2")
		click(t, m, 80, 24, "10.0.0.2")
		if m.selected.backend != "10.0.0.2:8080" || m.open || m.mode != filtering {
			t.Errorf("selects %v, opens %v", m.selected, m.open)
		}
	})
}

func TestWheel(t *testing.T) {
	m := model(t)
	m.Frame(80, 6)
	for _, step := range []struct {
		key  Key
		want string
	}{{WheelDown, "[2001:db8::17]:8080"}, {WheelDown, "b2"}, {WheelDown, "b2"}, {WheelUp, "[2001:db8::17]:8080"}} {
		m.Take(Input{Key: step.key})
		if m.selected.backend != step.want || !strings.Contains(strings.Join(texts(m.Frame(80, 6)), "\n"), "> "+step.want) {
			t.Errorf("selects %v, want %s", m.selected, step.want)
		}
	}
	shown := func() string { return strings.Join(texts(m.Frame(80, 10)), "\n") }
	for _, opened := range []struct{ key, first, last string }{{"\r", "in pool", "events  "}, {"?", "up, down", "Any other key"}} {
		press(m, opened.key)
		if text := shown(); !strings.Contains(text, opened.first) || strings.Contains(text, opened.last) || !strings.Contains(text, "page down more") {
			t.Errorf("%q begins with\n%s", opened.key, text)
		}
		for range 20 {
			m.Take(Input{Key: WheelDown})
			shown()
		}
		if text := shown(); strings.Contains(text, opened.first) || !strings.Contains(text, opened.last) || strings.Contains(text, "page down more") {
			t.Errorf("%q ends with\n%s", opened.key, text)
		}
		m.Take(Input{Key: WheelUp})
		if text := shown(); !strings.Contains(text, "page down more") {
			t.Errorf("%q does not scroll back:\n%s", opened.key, text)
		}
		m.Press(Escape)
		m.Press(PageUp)
		if text := shown(); !strings.Contains(text, ">") {
			t.Errorf("%q stays:\n%s", opened.key, text)
		}
		m.Press(End)
	}
}

func TestControlKeys(t *testing.T) {
	for _, mode := range []string{"", "?", "/a", "d", "\r"} {
		m := model(t)
		m.Write = true
		press(m, mode)
		if before := m.mode; !press(m, "\x1a").Suspend || !press(m, "\x0c").Redraw || m.mode != before {
			t.Errorf("%q: ctrl-z or ctrl-l do something else", mode)
		}
	}
}
