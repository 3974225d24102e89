package simulate

import (
	"bytes"
	"cmp"
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// Sizes of a picture, in pixels.
const (
	pictureWidth = 960
	leftMargin   = 70
	rightMargin  = 190 // for the legend
	panelHeight  = 170
	panelGap     = 62
	titleHeight  = 44
)

// mostLines is the maximum number of backends with a line of their own in a panel. With more, lines show the least, the median and the
// greatest share.
const mostLines = 8

// mostMarks is the maximum number of events that are marked with a letter.
const mostMarks = 26

// colors are those of Okabe and Ito (2008), which color-blind people can distinguish.
var colors = []string{"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999933"}

// Picture writes results of the same scenario as an SVG picture: how long requests took, how many failed, and how the load was shared over time.
func Picture(w io.Writer, results []*Result) error {
	if len(results) == 0 || len(results[0].Timeline) == 0 {
		return fmt.Errorf("picture: there is nothing to show")
	}
	d := &drawing{results: results, y: titleHeight}
	d.latencies()
	d.failures()
	for _, r := range results {
		d.shares(r)
	}
	d.marks()
	height := d.y
	out := new(bytes.Buffer)
	fmt.Fprintf(out, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="system-ui, sans-serif" font-size="12" fill="#222">`+"\n",
		pictureWidth, height, pictureWidth, height)
	fmt.Fprintf(out, `<rect width="100%%" height="100%%" fill="#fff"/><text x="%d" y="24" font-size="16" font-weight="600">%s</text>`+"\n", leftMargin, escape(d.title()))
	out.Write(d.out.Bytes())
	out.WriteString("</svg>\n")
	_, err := w.Write(out.Bytes())
	return err
}

// drawing is the state of drawing a picture, from top to bottom.
type drawing struct {
	results []*Result
	out     bytes.Buffer
	y       int
}

func (d *drawing) title() string {
	r := d.results[0]
	balancers := ""
	if r.Balancers > 1 {
		balancers = fmt.Sprintf(" behind %d balancers", r.Balancers)
	}
	return fmt.Sprintf("pool %s: %d backends%s, %d requests, simulated", r.Pool, len(r.Backends), balancers, r.Requests)
}

// line is a line of a panel: a value for each slice of the timeline.
type line struct {
	name   string
	color  string
	dashed bool
	values []float64
}

// latencies draws a panel with p50 and p99.
func (d *drawing) latencies() {
	var lines []line
	for i, r := range d.results {
		p50, p99 := line{name: r.Policy + " p50", color: colorOf(i), dashed: true}, line{name: r.Policy + " p99", color: colorOf(i)}
		for _, s := range r.Timeline {
			p50.values, p99.values = append(p50.values, s.P50), append(p99.values, s.P99)
		}
		lines = append(lines, p99, p50)
	}
	d.panel("time until the answer, ms", lines, true)
}

// failures draws a panel with the share of failed requests.
func (d *drawing) failures() {
	var lines []line
	for i, r := range d.results {
		one := line{name: r.Policy, color: colorOf(i)}
		for _, s := range r.Timeline {
			one.values = append(one.values, 100*float64(s.Failed)/float64(max(s.Requests, 1)))
		}
		lines = append(lines, one)
	}
	d.panel("failed requests, %", lines, false)
}

// shares draws a panel with the share of each backend.
func (d *drawing) shares(r *Result) {
	var lines []line
	if len(r.Backends) <= mostLines {
		for i, b := range r.Backends {
			one := line{name: b.Name, color: colorOf(i)}
			for _, s := range r.Timeline {
				one.values = append(one.values, 100*s.Shares[i])
			}
			lines = append(lines, one)
		}
	} else {
		least, middle, most := line{name: "least", color: colorOf(0)}, line{name: "median", color: colorOf(2)}, line{name: "greatest", color: colorOf(1)}
		for _, s := range r.Timeline {
			sorted := slices.Sorted(slices.Values(s.Shares))
			least.values = append(least.values, 100*sorted[0])
			middle.values = append(middle.values, 100*sorted[len(sorted)/2])
			most.values = append(most.values, 100*sorted[len(sorted)-1])
		}
		lines = []line{most, middle, least}
	}
	d.panel(fmt.Sprintf("share of each backend with %s, %%", r.Policy), lines, false)
}

// marks writes the legend of the events' letters.
func (d *drawing) marks() {
	for i, e := range d.results[0].Events[:min(len(d.results[0].Events), mostMarks)] {
		text := fmt.Sprintf("%c  %s s: %s %s", 'A'+i, number(e.At), e.Backend, e.Set)
		const most = 120
		if runes := []rune(text); len(runes) > most {
			text = string(runes[:most-1]) + "…"
		}
		fmt.Fprintf(&d.out, `<text x="%d" y="%d" fill="#666">%s</text>`+"\n", leftMargin, d.y+12, escape(text))
		d.y += 18
	}
	d.y += 12
}

func colorOf(i int) string { return colors[i%len(colors)] }

// panel draws lines over the time. With log, the scale is logarithmic.
func (d *drawing) panel(title string, lines []line, log bool) {
	scale := newScale(lines, log)
	left, top := float64(leftMargin), float64(d.y+20)
	width := float64(pictureWidth - leftMargin - rightMargin)
	timeline := d.results[0].Timeline
	step := 1.0
	if len(timeline) > 1 {
		step = timeline[1].At - timeline[0].At
	}
	end := timeline[len(timeline)-1].At + step
	x := func(at float64) float64 { return left + width*at/end }
	y := func(v float64) float64 { return top + panelHeight*(1-scale.at(v)) }
	fmt.Fprintf(&d.out, `<text x="%d" y="%d" font-weight="600">%s</text>`+"\n", leftMargin, d.y+12, escape(title))
	for _, tick := range scale.ticks {
		fmt.Fprintf(&d.out, `<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" stroke="#ddd"/><text x="%.1f" y="%.1f" text-anchor="end">%s</text>`+"\n",
			left, left+width, y(tick), y(tick), left-6, y(tick)+4, number(tick))
	}
	for _, tick := range ticksTo(end) {
		fmt.Fprintf(&d.out, `<text x="%.1f" y="%.1f" text-anchor="middle">%s s</text>`+"\n", x(tick), top+panelHeight+16, number(tick))
	}
	for i, e := range d.results[0].Events {
		if e.At > end {
			continue
		}
		fmt.Fprintf(&d.out, `<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" stroke="#888" stroke-dasharray="3 3"><title>%s</title></line>`+"\n",
			x(e.At), x(e.At), top, top+panelHeight, escape(fmt.Sprintf("%s s: %s %s", number(e.At), e.Backend, e.Set)))
		if i < mostMarks {
			fmt.Fprintf(&d.out, `<text x="%.1f" y="%.1f" font-size="10" fill="#666">%c</text>`+"\n", x(e.At)+2, top+9, 'A'+i)
		}
	}
	for i, l := range lines {
		var points strings.Builder
		for k, v := range l.values {
			fmt.Fprintf(&points, "%.1f,%.1f ", x(timeline[k].At+step/2), y(v))
		}
		dash := ""
		if l.dashed {
			dash = ` stroke-dasharray="5 3"`
		}
		fmt.Fprintf(&d.out, `<polyline fill="none" stroke="%s" stroke-width="1.5"%s points="%s"/>`+"\n", l.color, dash, strings.TrimSpace(points.String()))
		fmt.Fprintf(&d.out, `<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" stroke="%s" stroke-width="2"%s/><text x="%.1f" y="%.1f">%s</text>`+"\n",
			left+width+12, left+width+32, top+8+float64(i)*16, top+8+float64(i)*16, l.color, dash, left+width+38, top+12+float64(i)*16, escape(shorten(l.name)))
	}
	d.y += 20 + panelHeight + panelGap - 20
}

// shorten cuts a name that does not fit into the legend.
func shorten(name string) string {
	const most = 24
	if runes := []rune(name); len(runes) > most {
		return string(runes[:most-1]) + "…"
	}
	return name
}

// scale maps values to the height of a panel, from 0 to 1.
type scale struct {
	log         bool
	least, most float64
	ticks       []float64
}

func newScale(lines []line, log bool) scale {
	s := scale{log: log, least: math.Inf(1)}
	for _, l := range lines {
		for _, v := range l.values {
			s.most = max(s.most, v)
			if v > 0 {
				s.least = min(s.least, v)
			}
		}
	}
	if !log || math.IsInf(s.least, 1) {
		s.log, s.least = false, 0
		s.ticks = ticksTo(cmp.Or(s.most, 1))
		s.most = s.ticks[len(s.ticks)-1]
		return s
	}
	s.least, s.most = math.Pow(10, math.Floor(math.Log10(s.least))), math.Pow(10, math.Ceil(math.Log10(s.most)))
	if s.most <= s.least {
		s.most = s.least * 10
	}
	for tick := s.least; tick <= s.most*1.01; tick *= 10 {
		s.ticks = append(s.ticks, tick)
	}
	return s
}

func (s *scale) at(v float64) float64 {
	if !s.log {
		return v / s.most
	}
	return max(math.Log(v/s.least)/math.Log(s.most/s.least), 0)
}

// ticksTo returns round numbers from 0 to most or a little beyond, four to eight of them.
func ticksTo(most float64) (ticks []float64) {
	unit := math.Pow(10, math.Floor(math.Log10(most)))
	for _, step := range []float64{unit / 5, unit / 2, unit, 2 * unit} {
		if most/step <= 6 {
			for n := 0; ; n++ {
				ticks = append(ticks, float64(n)*step)
				if float64(n)*step >= most {
					return ticks
				}
			}
		}
	}
	return []float64{0, most}
}

// number formats a number with four significant digits.
func number(v float64) string { return fmt.Sprintf("%.4g", v) }

func escape(text string) string {
	var b bytes.Buffer
	_ = xml.EscapeText(&b, []byte(text)) // a buffer never fails
	return b.String()
}
