package top

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ballastlb/ballast/command/api"
	"github.com/ballastlb/ballast/command/plain"
)

var update = flag.Bool("update", false, "rewrite the golden frames")

// noon is the time of the server in the tests.
var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// sample returns the pools of testdata, with their counters multiplied by second.
func sample(t *testing.T, second int) Sample {
	t.Helper()
	text, err := os.ReadFile("testdata/pools.json")
	if err != nil {
		t.Fatal(err)
	}
	s := Sample{Taken: time.Unix(int64(second), 0), Now: noon.Add(time.Duration(second) * time.Second)}
	if err := json.Unmarshal(text, &s.Pools); err != nil {
		t.Fatal(err)
	}
	for i := range s.Pools {
		s.Pools[i].Requests *= uint64(second)
		for j := range s.Pools[i].Backends {
			b := &s.Pools[i].Backends[j]
			b.Requests, b.Failures = b.Requests*uint64(second), b.Failures*uint64(second)
		}
	}
	return s
}

// model returns a model with two samples, a second apart.
func model(t *testing.T) *Model {
	t.Helper()
	m := &Model{Address: "localhost:2019"}
	m.Update(sample(t, 1))
	m.Update(sample(t, 2))
	return m
}

func press(m *Model, keys string) (last Action) {
	for _, k := range keys {
		last = m.Press(Key(k))
	}
	return last
}

// golden compares a frame with the one in testdata.
func golden(t *testing.T, name string, lines []string) {
	t.Helper()
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	got := strings.Join(lines, "\n") + "\n"
	file := filepath.Join("testdata", name+".txt")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func texts(lines []Line) []string {
	all := make([]string, len(lines))
	for i, l := range lines {
		all[i] = l.String()
	}
	return all
}

func TestFrames(t *testing.T) {
	for _, test := range []struct {
		name          string
		width, height int
		prepare       func(m *Model)
	}{
		{"wide", 170, 18, nil},
		{"whole_reasons", 140, 18, nil},
		{"usual", 80, 24, nil},
		{"details", 80, 24, func(m *Model) {
			press(m, "jjjj\r")
			m.last.EventsOf, m.last.Events = [2]string{"shop", "a"}, []string{"11:57:00  backend_up", "11:58:00  backend_down  dial tcp 10.0.0.5:8080: connect: connection refused and so on\x1b"}
		}},
		{"details_narrow", 40, 12, func(m *Model) { press(m, "\rj") }},
		{"details_of_another", 80, 24, func(m *Model) {
			m.last.EventsOf, m.last.Events = [2]string{"shop", "a"}, []string{"of another"}
			press(m, "\r")
		}},
		{"details_confirm", 80, 24, func(m *Model) { m.Write = true; press(m, "jjjj\rd") }},
		{"details_over", 80, 24, func(m *Model) { press(m, "jjjj\r\x1b"); m.Press(Escape) }},
		{"narrow", 40, 12, nil},
		{"first", 120, 18, func(m *Model) { *m = Model{Address: m.Address, last: m.last} }},
		{"empty", 80, 6, func(m *Model) { *m = Model{Address: m.Address} }},
		{"scrolled", 100, 8, func(m *Model) { press(m, "jjjjj") }},
		{"scrolled_to_a_pool", 100, 8, func(m *Model) { press(m, "jjjjjjkkkkkk") }},
		{"filtered", 120, 12, func(m *Model) { press(m, "/drain\r") }},
		{"filtered_avoided", 120, 12, func(m *Model) { press(m, "/avoid\r") }},
		{"filtering", 120, 12, func(m *Model) { press(m, "/nothing like it") }},
		{"by_state", 120, 18, func(m *Model) { press(m, "s") }},
		{"by_latency", 120, 18, func(m *Model) { press(m, "sssss") }},
		{"help_usual", 80, 26, func(m *Model) { m.Write = true; press(m, "?") }},
		{"help", 120, 26, func(m *Model) { press(m, "?") }},
		{"help_write", 120, 26, func(m *Model) { m.Write = true; press(m, "?") }},
		{"confirm", 120, 18, func(m *Model) { m.Write = true; press(m, "jd") }},
		{"read_only", 120, 18, func(m *Model) { press(m, "jd") }},
		{"away", 120, 18, func(m *Model) { m.Fail(errors.New("cannot reach \x1b]0;evil\a")) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := model(t)
			if test.prepare != nil {
				test.prepare(m)
			}
			golden(t, test.name, texts(m.Frame(test.width, test.height)))
		})
	}
	t.Run("all", func(t *testing.T) { golden(t, "all", texts(model(t).All())) })
	t.Run("colors", func(t *testing.T) {
		var lines []string
		for _, l := range model(t).Frame(120, 18) {
			lines = append(lines, strings.ReplaceAll(l.ANSI(true), "\x1b", "ESC"))
		}
		golden(t, "colors", lines)
	})
}

// TestFramesFit checks frames of every size: they are as high as the terminal, at most as wide, and show the selected backend.
func TestFramesFit(t *testing.T) {
	for _, keys := range []string{"", "jjjj", "jjjjjjjj", "?", "/a", "d", "jj+", "jjjj\r"} {
		for width := 0; width < 140; width += 17 {
			for height := range 10 {
				m := model(t)
				m.Write = true
				press(m, keys)
				lines := m.Frame(width, height)
				if len(lines) != height {
					t.Fatalf("%q: %d lines on %d", keys, len(lines), height)
				}
				for _, l := range lines {
					if got := plain.Width(l.String()); got > width {
						t.Fatalf("%q: %d columns on %d: %s", keys, got, width, l)
					}
				}
				selected := slices.ContainsFunc(lines, func(l Line) bool { return strings.HasPrefix(l.String(), ">") })
				if want := width > 0 && height > 0 && keys != "?" && keys != "jjjj\r"; selected != want {
					t.Fatalf("%q at %dx%d: selected backend shown: %v\n%s", keys, width, height, selected, strings.Join(texts(lines), "\n"))
				}
			}
		}
	}
}

// TestControlCharacters checks that escape sequences in the texts of the API are not sent to the terminal.
func TestControlCharacters(t *testing.T) {
	const evil = "\x1b[2J\u009b1m\a\r\n\t\u202e"
	b := api.Backend{
		Name: evil, Address: evil, Zone: evil, State: evil, Health: evil, Breaker: evil, Reason: evil, Avoided: evil, Source: evil,
		LastCheck: &api.Check{Error: evil}, Edits: []api.Edit{{Field: evil, Value: json.RawMessage(`"\u001b"`), Mark: api.Mark{Owner: evil, Reason: evil}}},
		Added: &api.Mark{Owner: evil, Reason: evil},
	}
	m := &Model{Address: evil, Write: true}
	m.Update(Sample{Pools: []api.Pool{{Name: evil, Policy: evil, State: evil, Warnings: []string{evil}, Backends: []api.Backend{b}}}})
	check := func() {
		t.Helper()
		for _, l := range append(m.Frame(300, 12), m.All()...) {
			for _, text := range []string{l.String(), l.ANSI(false), l.ANSI(true)} {
				for _, own := range []string{"\x1b[0m", "\x1b[1m", "\x1b[7m", "\x1b[31m", "\x1b[32m", "\x1b[33m"} {
					text = strings.ReplaceAll(text, own, "")
				}
				if clean := plain.Clean(text); clean != text {
					t.Errorf("%q", text)
				}
			}
		}
	}
	check()
	m.Fail(errors.New(evil))
	m.Say(evil)
	check()
	press(m, "d")
	check()
	press(m, "n/"+evil)
	check()
}

func TestKeys(t *testing.T) {
	t.Run("quit", func(t *testing.T) {
		for _, key := range []string{"q", "\x03", "?\x03", "/a\x03"} {
			if !press(model(t), key).Quit {
				t.Errorf("%q does not quit", key)
			}
		}
		for _, key := range []string{"j", "?q", "/q", "x", "\x1b"} {
			if press(model(t), key).Quit {
				t.Errorf("%q quits", key)
			}
		}
	})
	t.Run("select", func(t *testing.T) {
		m := model(t)
		for _, step := range []struct {
			key  Key
			want string
		}{
			{Down, "10.0.0.2:8080"}, {Down, "10.0.0.3:8080"}, {Up, "10.0.0.2:8080"}, {Home, "10.0.0.1:8080"}, {Up, "10.0.0.1:8080"},
			{End, "b2"}, {Down, "b2"}, {PageUp, "10.0.0.1:8080"}, {PageDown, "b2"},
		} {
			m.Press(step.key)
			if m.selected.backend != step.want {
				t.Errorf("%d selects %v, want %s", step.key, m.selected, step.want)
			}
		}
	})
	t.Run("the selected one is kept", func(t *testing.T) {
		m := model(t)
		press(m, "jjs/10\r")
		m.Update(sample(t, 3))
		if rows := m.rows(); rows[m.cursor(rows)].backend.Name != "10.0.0.3:8080" {
			t.Errorf("selected is %v", m.selected)
		}
	})
	t.Run("filter", func(t *testing.T) {
		m := model(t)
		press(m, "/xy\x7f\x08\x08OPEN")
		if m.filter != "OPEN" || len(m.rows()) != 2 {
			t.Errorf("filter %q, %d rows", m.filter, len(m.rows()))
		}
		press(m, "\r")
		m.Press(Escape)
		if m.filter != "" || m.mode != browsing {
			t.Errorf("filter %q, mode %d", m.filter, m.mode)
		}
	})
	t.Run("sort", func(t *testing.T) {
		m := model(t)
		for _, want := range []string{"10.0.0.3:8080", "10.0.0.2:8080", "10.0.0.2:8080", "10.0.0.2:8080", "10.0.0.1:8080", "10.0.0.1:8080"} {
			press(m, "s")
			if got := m.rows()[1].backend.Name; got != want {
				t.Errorf("first by %s is %s, want %s", m.order, got, want)
			}
		}
	})
}

func TestChanges(t *testing.T) {
	for _, test := range []struct{ keys, want string }{
		{"dy", `10.0.0.1:8080 {"state":"drain"}`},
		{"ry", `10.0.0.1:8080 {"state":"ready"}`},
		{"jmY", `10.0.0.2:8080 {"state":"maintenance"}`},
		{"+y", `10.0.0.1:8080 {"weight":2}`},
		{"-y", `10.0.0.1:8080 {"weight":0}`},
		{"---y", `10.0.0.1:8080 {"weight":0}`},
		{"j+++-y", `10.0.0.2:8080 {"weight":5}`},
		{"d+y", ""}, {"dn", ""}, {"dq", ""}, {"d", ""}, {"y", ""}, {"/dy", ""}, {"/nobody\rdy", ""},
	} {
		m := model(t)
		m.Write = true
		got := ""
		if c := press(m, test.keys).Change; c != nil {
			fields, err := json.Marshal(c.Fields)
			if err != nil {
				t.Fatal(err)
			}
			got = fmt.Sprintf("%s %s", c.Backend, fields)
			if c.Pool != "shop" {
				t.Errorf("%q: pool %s", test.keys, c.Pool)
			}
		}
		if got != test.want {
			t.Errorf("%q changes %s, want %s", test.keys, got, test.want)
		}
	}
	m := model(t)
	for _, keys := range []string{"dy", "my", "ry", "+y", "-y"} {
		if press(m, keys).Change != nil {
			t.Errorf("%q changes something without being allowed to", keys)
		}
	}
}

// TestChangeOfWhatWasAsked changes the list during a question: the answer is about the backend in the question.
func TestChangeOfWhatWasAsked(t *testing.T) {
	m := model(t)
	m.Write = true
	press(m, "jd")
	next := sample(t, 3)
	next.Pools[0].Backends = next.Pools[0].Backends[2:]
	m.Update(next)
	if c := press(m, "y").Change; c == nil || c.Backend != "10.0.0.2:8080" {
		t.Errorf("changes %+v", c)
	}
	m = model(t)
	m.Write = true
	press(m, "j+")
	m.Update(next)
	if c := press(m, "+y").Change; c != nil {
		t.Errorf("changes %+v, which has been removed", c)
	}
}

func TestRates(t *testing.T) {
	at := func(second int64, requests, failures uint64) Sample {
		return Sample{Taken: time.Unix(second, 0), Pools: []api.Pool{{Name: "p", Backends: []api.Backend{{Name: "b", Requests: requests, Failures: failures}}}}}
	}
	for _, test := range []struct {
		name          string
		before, after Sample
		want          rate
	}{
		{"the first", Sample{}, at(1, 5, 5), rate{}},
		{"some", at(1, 10, 0), at(3, 30, 5), rate{true, 10, 0.25}},
		{"none", at(1, 10, 2), at(3, 10, 2), rate{true, 0, 0}},
		{"reset", at(1, 10, 2), at(3, 1, 0), rate{}},
		{"failures of earlier requests", at(1, 10, 0), at(2, 11, 5), rate{true, 1, 1}},
		{"the same moment", at(1, 10, 0), at(1, 11, 5), rate{}},
	} {
		if got := rates(test.before, test.after)[name{"p", "b"}]; got != test.want {
			t.Errorf("%s: %+v, want %+v", test.name, got, test.want)
		}
	}
}

func FuzzPress(f *testing.F) {
	f.Add([]byte("jd+y/a\x1b[B\x1b?q"), 80, 24)
	f.Add([]byte("\x1b[<0;5;7M\x1b[<0;5;7m\x1b[<65;1;1M\x1b[M\x20\x21\x29\x1b[<0;5;7M"), 80, 9)
	f.Fuzz(func(t *testing.T, sent []byte, width, height int) {
		m := model(t)
		m.Write = true
		width, height = max(width, 0)%300, max(height, 0)%100
		inputs, rest := Read(sent)
		if len(rest) > 24 {
			t.Errorf("%d bytes are kept", len(rest))
		}
		for _, in := range inputs {
			m.Take(in)
			if got := len(m.Frame(width, height)); got != height {
				t.Errorf("%d lines on %d", got, height)
			}
		}
	})
}

// TestOpen checks that enter opens the selected backend, that the selection still moves, and that esc goes back before it clears the filter.
func TestOpen(t *testing.T) {
	m := model(t)
	if _, _, open := m.Open(); open {
		t.Error("open from the start")
	}
	press(m, "/drain\r\r")
	if pool, backend, open := m.Open(); !open || pool != "shop" || backend != "[2001:db8::17]:8080" {
		t.Errorf("%s %s %v", pool, backend, open)
	}
	m.Press(Escape)
	if _, _, open := m.Open(); open || m.filter != "drain" {
		t.Errorf("open %v, filter %q", open, m.filter)
	}
	m.Press(Escape)
	if m.filter != "" {
		t.Errorf("filter %q", m.filter)
	}
	press(m, "\rk")
	if _, backend, open := m.Open(); !open || backend != "10.0.0.3:8080" {
		t.Errorf("%s %v", backend, open)
	}
	m.last.Pools = m.last.Pools[1:]
	if text := strings.Join(texts(m.Frame(80, 10)), "\n"); strings.Contains(text, "in pool") {
		t.Errorf("details of another backend than the one that was removed:\n%s", text)
	}
	none := &Model{}
	press(none, "\r")
	if _, _, open := none.Open(); open {
		t.Error("no backend is open")
	}
}
