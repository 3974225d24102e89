package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// memoryBar is by how many megabytes a judged contender may exceed the reference.
const memoryBar = 10

// verdict is the result of a pair in a scenario.
type verdict struct {
	scenario string
	pair
	cpu      []float64  // ratios within each round
	p99Ratio float64    // median of those within each round
	memory   float64    // median of the differences within each round, in megabytes
	us, p99  [2]float64 // medians of the judged contender and of the reference
	errors   [2]int     // of both
}

// judge compares the pairs of s that were measured.
func (s scenario) judge(contenders []contender, rounds [][]sample) []verdict {
	index := func(name string) int {
		return slices.IndexFunc(contenders, func(c contender) bool { return c.name == name })
	}
	pairs := slices.Clone(s.pairs)
	if index(stock) >= 0 {
		for _, p := range s.pairs {
			p.reference = stock
			pairs = append(pairs, p)
		}
	}
	var all []verdict
	for _, p := range pairs {
		i, k := index(p.judged), index(p.reference)
		if i < 0 || k < 0 {
			continue
		}
		all = append(all, verdict{
			scenario: s.name, pair: p, cpu: ratios(rounds, i, k),
			p99Ratio: median(within(rounds, i, k, func(a, b sample) float64 { return a.tail() / b.tail() })),
			memory:   median(within(rounds, i, k, func(a, b sample) float64 { return a.megabytes() - b.megabytes() })),
			us:       [2]float64{medianOf(rounds, i, sample.cpuPerRequest), medianOf(rounds, k, sample.cpuPerRequest)},
			p99:      [2]float64{medianOf(rounds, i, sample.tail), medianOf(rounds, k, sample.tail)},
			errors:   [2]int{errorsOf(rounds, i), errorsOf(rounds, k)},
		})
	}
	return all
}

// met returns whether the bounds are met and, if not, which are not. The printed, rounded figures decide.
func (v verdict) met() string {
	if v.bar == 0 {
		return "-"
	}
	var missed []string
	if shown(median(v.cpu), 3) > v.bar {
		missed = append(missed, "CPU")
	}
	if !v.cpuOnly && shown(v.p99Ratio, 2) > 1 {
		missed = append(missed, "p99")
	}
	if !v.cpuOnly && shown(v.memory, 0) > memoryBar {
		missed = append(missed, "memory")
	}
	if v.errors[0] > v.errors[1] {
		missed = append(missed, fmt.Sprintf("%d errors", v.errors[0]))
	}
	if len(missed) > 0 {
		return "no: " + strings.Join(missed, ", ")
	}
	return "yes"
}

// shown returns a number rounded to that many decimals.
func shown(n float64, decimals int) float64 {
	unit := math.Pow10(decimals)
	return math.Round(n*unit)/unit + 0 // adding 0 turns -0 into 0
}

// summary returns the verdicts as a Markdown table; "" if there are none.
func summary(verdicts []verdict) string {
	if len(verdicts) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString("| scenario | compared | CPU | lowest and highest | us per request | p99 | p99, ms | memory | CPU at most | met |\n|---|---|---|---|---|---|---|---|---|---|\n")
	for _, v := range verdicts {
		bar := "-"
		if v.bar > 0 {
			bar = fmt.Sprintf("%.2f", v.bar)
		}
		fmt.Fprintf(&b, "| `%s` | %s / %s | %.3f | %.3f to %.3f | %.1f / %.1f | %.2f | %s / %s | %+.0f MB | %s | %s |\n", v.scenario, v.judged, v.reference,
			median(v.cpu), slices.Min(v.cpu), slices.Max(v.cpu), v.us[0], v.us[1], v.p99Ratio, milliseconds(v.p99[0]), milliseconds(v.p99[1]), shown(v.memory, 0), bar, v.met())
	}
	return b.String()
}

// milliseconds formats a latency in nanoseconds.
func milliseconds(ns float64) string { return fmt.Sprintf("%.2f", time.Duration(ns).Seconds()*1000) }
