package main

import (
	"fmt"
	"slices"
	"strings"
)

// figure is a measured quantity of a contender.
type figure struct {
	name     string
	of       func(sample) float64
	decimals int // with which it is printed
}

var (
	cpuFigure  = figure{"CPU, us per request", sample.cpuPerRequest, 1}
	tailFigure = figure{"p99, ms", func(s sample) float64 { return s.tail() / 1e6 }, 2}
	rateFigure = figure{"requests/s", func(s sample) float64 { return s.rate }, 0}
	idleFigure = figure{"KiB per connection", func(s sample) float64 { return float64(s.memory) / 1024 / idleConnections }, 1}
)

// goal is a bound for a figure.
type goal struct {
	figure
	most, least float64 // of its ratio to the reference's; 0 for no bound
	absolute    bool    // the bounds apply to the figure itself
}

// line is a row of the table of goals.
type line struct {
	scenario string
	goal
	cells    []string  // the figure of each contender
	value    float64   // of the judged contender
	ratios   []float64 // within each round; nil if the reference was not measured
	failures int       // of all contenders, in the row for failures, which has no figure
}

// bar describes the goal.
func (l line) bar() string {
	switch {
	case l.of == nil:
		return "none"
	case l.absolute:
		return fmt.Sprintf("at most %.*f by itself", l.decimals, l.most)
	case l.most > 0:
		return fmt.Sprintf("at most %.2f", l.most)
	case l.least > 0:
		return fmt.Sprintf("at least %.2f", l.least)
	default:
		return "-"
	}
}

// outcome returns whether the goal is reached. The printed, rounded figure decides.
func (l line) outcome() string {
	var reached bool
	switch {
	case l.of == nil:
		reached = l.failures == 0
	case l.absolute:
		reached = shown(l.value, l.decimals) <= l.most
	case l.ratios == nil || l.most == 0 && l.least == 0:
		return "-"
	default:
		ratio := shown(median(l.ratios), 2)
		reached = (l.most == 0 || ratio <= l.most) && ratio >= l.least
	}
	if reached {
		return "reached"
	}
	return "missed"
}

// goalTable returns the lines as a table in Markdown; "" if there are none.
func goalTable(lines []line) string {
	if len(lines) == 0 {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "| | | %s | of %s | lowest and highest | bar | |\n|---|---|%s---|---|---|---|\n",
		strings.Join(expressColumns, " | "), expressBar, strings.Repeat("---|", len(expressColumns)))
	last := ""
	for _, l := range lines {
		title := l.scenario
		if title == last {
			title = ""
		}
		last = l.scenario
		ratio, span := "-", "-"
		if l.ratios != nil {
			ratio, span = fmt.Sprintf("%.2f", median(l.ratios)), fmt.Sprintf("%.2f to %.2f", slices.Min(l.ratios), slices.Max(l.ratios))
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s |\n", title, l.name, strings.Join(l.cells, " | "), ratio, span, l.bar(), l.outcome())
	}
	return b.String()
}

// failures returns an error if a request has failed: requests that are not served are cheap.
func failures(lines []line) error {
	var failed []string
	n := 0
	for _, l := range lines {
		if l.failures > 0 {
			n += l.failures
			failed = append(failed, l.scenario)
		}
	}
	if n == 0 {
		return nil
	}
	return fmt.Errorf("%d requests failed: %s", n, strings.Join(failed, "; "))
}
