package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// report is a table of medians over the rounds. The ratios are medians of those within each round, where both sides saw
// the same machine.
func report(s scenario, contenders []contender, rounds [][]sample) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s: medians of %d rounds\n", s.title, len(rounds))
	fmt.Fprintf(&b, "%-30s %14s %28s %10s %9s %9s %9s %7s\n", "", "CPU us/request", contenders[0].name+" / this one", "requests/s", "p50", "p99", "memory", "errors")
	for i, c := range contenders {
		of := func(figure func(sample) float64) float64 {
			var all []float64
			for _, r := range rounds {
				all = append(all, figure(r[i]))
			}
			return median(all)
		}
		errors := 0
		for _, r := range rounds {
			errors += r[i].errors
		}
		ratio := ratios(rounds, 0, i)
		fmt.Fprintf(&b, "%-30s %14.1f %10.2f (%5.2f to %5.2f) %10.0f %9s %9s %6.0f MB %6d\n", c.name,
			of(sample.cpuPerRequest), median(ratio), slices.Min(ratio), slices.Max(ratio),
			of(func(s sample) float64 { return s.rate }),
			time.Duration(of(func(s sample) float64 { return float64(s.p50) })).Round(10*time.Microsecond),
			time.Duration(of(func(s sample) float64 { return float64(s.p99) })).Round(10*time.Microsecond),
			of(func(s sample) float64 { return float64(s.memory) / 1e6 }), errors)
	}
	ratio := ratios(rounds, 1, 0)
	fmt.Fprintf(&b, "%s / %s, CPU per request: %.3f (%.3f to %.3f, %d pairs)\n\n", contenders[1].name, contenders[0].name,
		median(ratio), slices.Min(ratio), slices.Max(ratio), len(ratio))
	return b.String()
}

// ratios of the CPU time per request of contenders i and k, round by round.
func ratios(rounds [][]sample, i, k int) []float64 {
	var all []float64
	for _, r := range rounds {
		all = append(all, r[i].cpuPerRequest()/r[k].cpuPerRequest())
	}
	return all
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}
