package top

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/ballastlb/ballast/command/api"
	"github.com/ballastlb/ballast/command/plain"
)

// display is a terminal that shows what a Painter sends. Text that is not ASCII is wider in it than a Painter expects, by off.
type display struct {
	t           *testing.T
	cells       [][]string
	line, at    int
	off         int
	wholeScreen int // number of times that it was cleared
}

func newDisplay(t *testing.T, width, height int) *display {
	d := &display{t: t, cells: make([][]string, height)}
	for i := range d.cells {
		d.cells[i] = strings.Split(strings.Repeat(" ", width), "")
	}
	return d
}

var sequence = regexp.MustCompile(`^\x1b\[([0-9;]*)([A-Za-z])`)

func (d *display) obey(sent string) {
	d.t.Helper()
	for sent != "" {
		if found := sequence.FindStringSubmatch(sent); found != nil {
			sent = sent[len(found[0]):]
			d.obeySequence(found[1], found[2])
			continue
		}
		for _, r := range sent {
			sent = sent[len(string(r)):]
			d.put(string(r))
			break
		}
	}
}

func (d *display) obeySequence(parameters, what string) {
	d.t.Helper()
	var n [2]int
	for i, p := range strings.SplitN(parameters, ";", 2) {
		n[i], _ = strconv.Atoi(p)
	}
	switch what {
	case "H":
		d.line, d.at = n[0]-1, n[1]-1
	case "G":
		d.at = n[0] - 1
	case "J":
		d.wholeScreen++
		for i := range d.cells {
			d.blank(i, 0)
		}
	case "K":
		d.blank(d.line, map[int]int{0: min(d.at, len(d.cells[d.line])-1), 2: 0}[n[0]])
	case "m":
	default:
		d.t.Fatalf("sequence %s%s", parameters, what)
	}
}

func (d *display) blank(line, from int) {
	for i := from; i < len(d.cells[line]); i++ {
		d.cells[line][i] = " "
	}
}

func (d *display) put(r string) {
	w := plain.Width(r)
	if w == 0 {
		d.cells[d.line][d.at-1] += r
		return
	}
	if r[0] >= 0x80 {
		w = max(w+d.off, 1)
	}
	if d.at < len(d.cells[d.line]) {
		d.cells[d.line][d.at] = r
	}
	for i := d.at + 1; i < min(d.at+w, len(d.cells[d.line])); i++ {
		d.cells[d.line][i] = ""
	}
	d.at += w
}

func (d *display) text() string {
	var b strings.Builder
	for _, l := range d.cells {
		b.WriteString(strings.TrimRight(strings.Join(l, ""), " ") + "\n")
	}
	return b.String()
}

// TestPaint checks that the terminal shows the latest frame after small and large differences.
func TestPaint(t *testing.T) {
	for _, size := range [][2]int{{40, 10}, {80, 24}, {140, 24}, {1, 2}} {
		m, p := model(t), &Painter{Color: true}
		m.Write = true
		m.last.Pools[0].Backends[1].Name = "東京 🚀 हिन्दी"
		d := newDisplay(t, size[0], size[1])
		step := func(what string) {
			t.Helper()
			frame := m.Frame(size[0], size[1])
			want := ""
			for _, l := range texts(frame) {
				want += strings.TrimRight(l, " ") + "\n"
			}
			d.obey(string(p.Paint(frame, size[0])))
			if got := d.text(); got != want {
				t.Fatalf("%v after %q shows\n%swant\n%s", size, what, got, want)
			}
		}
		step("")
		for _, keys := range []string{"j", "j", "\r", "k", "\x1b", "?", " ", "/10\r", "\x1b", "d", "n", "s", "s"} {
			for _, in := range first(Read([]byte(keys))) {
				m.Take(in)
			}
			step(keys)
			m.Update(sample(t, len(keys)+3))
			step("a sample")
		}
		if d.wholeScreen != 1 {
			t.Errorf("the screen was cleared %d times", d.wholeScreen)
		}
	}
}

func first[T, U any](x T, _ U) T { return x }

// TestPaintsWhatChanged checks that a refresh sends little, and nothing if nothing has changed.
func TestPaintsWhatChanged(t *testing.T) {
	m, p := model(t), &Painter{}
	whole := len(p.Paint(m.Frame(140, 40), 140))
	if sent := p.Paint(m.Frame(140, 40), 140); len(sent) != 0 {
		t.Errorf("without a change it sends %q", sent)
	}
	m.last.Now = m.last.Now.Add(1e9)
	m.last.Pools[0].Backends[1].InFlight++
	if sent := p.Paint(m.Frame(140, 40), 140); len(sent) > whole/4 || !strings.Contains(string(sent), "38/100") {
		t.Errorf("%d bytes of %d: %q", len(sent), whole, sent)
	}
	for _, forget := range []func(){p.Forget, func() { p.Paint(m.Frame(40, 10), 40) }} {
		forget()
		if sent := string(p.Paint(m.Frame(140, 40), 140)); !strings.Contains(sent, "\x1b[2J") || !strings.Contains(sent, "least_conn") {
			t.Errorf("it does not send the whole frame again: %q", sent)
		}
	}
}

// TestWideNames checks that wide names do not shift the columns, whatever width a terminal gives them.
func TestWideNames(t *testing.T) {
	for _, name := range []string{"ascii", "東京", "🚀🇯🇵👩‍🚀", "cafe\u0301", "हिन्दी", "ｗｉｄｅ", "größer"} {
		for off := -1; off <= 1; off++ {
			for _, keys := range []string{"", "j"} { // selected, and not
				m := &Model{Address: "here"}
				m.Update(Sample{Pools: []api.Pool{{Name: name, Backends: []api.Backend{{Name: name + " first name", Weight: 7, EffectiveWeight: 7, Reason: "why"}, {Name: name, Weight: 5, EffectiveWeight: 5, Reason: "because"}}}}})
				press(m, keys)
				d := newDisplay(t, 140, 6)
				d.off = off
				d.obey(string((&Painter{}).Paint(m.Frame(140, 6), 140)))
				for line, want := range map[int]map[string]string{3: {"WEIGHT": "     7", "REASON": "why   "}, 4: {"WEIGHT": "     5", "REASON": "becaus"}} {
					for heading, value := range want {
						at := strings.Index(strings.Join(d.cells[1], ""), heading)
						if got := strings.Join(d.cells[line][at:at+len(value)], ""); got != value {
							t.Errorf("%s, off by %d: %q under %s, want %q:\n%s", name, off, got, heading, value, d.text())
						}
					}
				}
			}
		}
	}
}

// TestWideChanges checks that nothing remains of an earlier text whose width the terminal sees differently.
func TestWideChanges(t *testing.T) {
	for off := -1; off <= 1; off++ {
		changed, p := newDisplay(t, 140, 6), &Painter{}
		changed.off = off
		for _, reason := range []string{"ascii at first", "東京東京東京", "xxxxxxxxxxxx", "東x京🚀🚀🚀", "京x東🚀🚀🚀", "हिन्दी", "東", ""} {
			m := &Model{Address: "here"}
			m.Update(Sample{Pools: []api.Pool{{Name: "p", Backends: []api.Backend{{Name: "b"}, {Name: fmt.Sprintf("%-12.4s", reason), Reason: reason}}}}})
			frame := m.Frame(140, 6)
			anew := newDisplay(t, 140, 6)
			anew.off = off
			anew.obey(string((&Painter{}).Paint(frame, 140)))
			changed.obey(string(p.Paint(frame, 140)))
			if got, want := changed.text(), anew.text(); got != want {
				t.Errorf("off by %d, after the change to %q it shows\n%swant\n%s", off, reason, got, want)
			}
		}
	}
}

// TestNoColors checks that without colours, only bold and reversed text is styled.
func TestNoColors(t *testing.T) {
	for _, color := range []bool{false, true} {
		sent := string((&Painter{Color: color}).Paint(model(t).Frame(120, 18), 120))
		if got := regexp.MustCompile(`\x1b\[(3|4|9|10)[0-9;]+m`).MatchString(sent); got != color {
			t.Errorf("colours wanted %v, sent %v: %q", color, got, sent)
		}
		if !strings.Contains(sent, "\x1b[7m") || !strings.Contains(sent, "\x1b[1m") {
			t.Errorf("nothing is bold or reversed: %q", sent)
		}
	}
}

func TestResize(t *testing.T) {
	m, p := model(t), &Painter{}
	press(m, "jjjj")
	for _, size := range [][2]int{{140, 40}, {40, 10}, {80, 24}, {20, 3}} {
		d := newDisplay(t, size[0], size[1])
		for i := range d.cells {
			d.cells[i][size[0]-1] = "x" // left from before
		}
		frame := m.Frame(size[0], size[1])
		d.obey(string(p.Paint(frame, size[0])))
		want := fmt.Sprintln(strings.Join(texts(frame), "\n"))
		if got := d.text(); strings.Contains(got, "x\n") || !strings.Contains(got, "> a") || strings.Count(want, "\n") != size[1] {
			t.Errorf("%v shows\n%s", size, got)
		}
	}
}
