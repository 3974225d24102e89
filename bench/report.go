package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// report returns a table of medians over the rounds. The ratios are medians of those within each round, in which both sides ran under the
// same conditions.
func report(s scenario, contenders []contender, rounds [][]sample, verdicts []verdict) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s: medians of %d rounds\n", s.title, len(rounds))
	fmt.Fprintf(&b, "%-30s %14s %28s %10s %9s %9s %9s %7s\n", "", "CPU us/request", contenders[0].name+" / this one", "requests/s", "p50", "p99", "memory", "errors")
	for i, c := range contenders {
		of := func(figure func(sample) float64) float64 { return medianOf(rounds, i, figure) }
		ratio := ratios(rounds, 0, i)
		fmt.Fprintf(&b, "%-30s %14.1f %10.2f (%5.2f to %5.2f) %10.0f %9s %9s %6.0f MB %6d\n", c.name,
			of(sample.cpuPerRequest), median(ratio), slices.Min(ratio), slices.Max(ratio),
			of(func(s sample) float64 { return s.rate }),
			time.Duration(of(func(s sample) float64 { return float64(s.p50) })).Round(10*time.Microsecond),
			time.Duration(of(sample.tail)).Round(10*time.Microsecond),
			of(sample.megabytes), errorsOf(rounds, i))
	}
	for _, v := range verdicts {
		fmt.Fprintf(&b, "%s / %s, CPU per request: %.3f (%.3f to %.3f, %d pairs)\n", v.judged, v.reference,
			median(v.cpu), slices.Min(v.cpu), slices.Max(v.cpu), len(v.cpu))
	}
	b.WriteByte('\n')
	return b.String()
}

func (s sample) tail() float64      { return float64(s.p99) }
func (s sample) megabytes() float64 { return float64(s.memory) / 1e6 }

// medianOf returns the median of a figure of contender i.
func medianOf(rounds [][]sample, i int, figure func(sample) float64) float64 {
	var all []float64
	for _, r := range rounds {
		all = append(all, figure(r[i]))
	}
	return median(all)
}

// errorsOf returns the number of errors of contender i in all rounds.
func errorsOf(rounds [][]sample, i int) (n int) {
	for _, r := range rounds {
		n += r[i].errors
	}
	return n
}

// ratios returns the ratios of the CPU time per request of contenders i and k, round by round.
func ratios(rounds [][]sample, i, k int) []float64 {
	return within(rounds, i, k, func(a, b sample) float64 { return a.cpuPerRequest() / b.cpuPerRequest() })
}

// within returns the relation of contenders i and k, round by round.
func within(rounds [][]sample, i, k int, relation func(a, b sample) float64) []float64 {
	var all []float64
	for _, r := range rounds {
		all = append(all, relation(r[i], r[k]))
	}
	return all
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}
