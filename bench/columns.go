package main

import (
	"fmt"
	"time"
)

// column is a figure of the results.
type column struct {
	title string
	of    func(*measured) string
}

var (
	median50 = quantile("p50", 0.5)
	tail99   = quantile("p99", 0.99)
	tail999  = quantile("p99.9", 0.999)

	tail99Served = column{"p99 of those served", func(m *measured) string { return tenths(m.Only(isServed).Quantile(0.99)) }}
	tail99All    = column{"p99 of all", func(m *measured) string { return tenths(quantileOfAll(m.Summary, 0.99)) }}
	above        = longerThan("above 500 ms", outlierFrom)

	refused       = column{"refused", func(m *measured) string { return m.shareFailed(0, m.duration) }}
	failedAtFirst = column{"500 in the first second", func(m *measured) string { return m.shareFailed(0, time.Second) }}
	failedLater   = column{"500 after the first second", func(m *measured) string { return m.shareFailed(time.Second, m.duration) }}
	notServed     = column{"not served", func(m *measured) string { return fmt.Sprint(m.Sent - m.Only(isServed).Sent) }}
	held          = column{"requests it held", func(m *measured) string { return fmt.Sprint(m.held(stoppedFor)) }}

	itsShare   = column{"its share", func(m *measured) string { return percent(m.Backends[m.backends[0]], m.Sent) }}
	shareOfTwo = column{"their share", func(m *measured) string {
		return percent(m.Backends[m.backends[0]]+m.Backends[m.backends[1]], m.Sent)
	}}
	itsShareOfFair = column{"of its fair share", func(m *measured) string { return percents(m.ofFair(0, 0, m.duration)) }}
	shares         = column{"shares", func(m *measured) string {
		var all []float64
		for _, b := range m.backends {
			all = append(all, float64(m.Backends[b])/float64(max(m.Sent, 1)))
		}
		return percents(all...)
	}}
	ofWeights     = extremes("of the weights' shares", 20*time.Second)
	anyTenSeconds = extremes("of fair in any 10 s", 10*time.Second)

	secondsAfterOutlier = column{"of its fair share in seconds 1, 2, 3, 5 after that", func(m *measured) string {
		end, ok := m.outlierEnd()
		if !ok {
			return "no slow answer"
		}
		var all []float64
		for _, second := range []time.Duration{1, 2, 3, 5} {
			all = append(all, m.ofFair(0, end+(second-1)*time.Second, end+second*time.Second))
		}
		return percents(all...)
	}}
	halfAfterOutlier = column{"half its share after", func(m *measured) string {
		end, ok := m.outlierEnd()
		if !ok {
			return "no slow answer"
		}
		return m.showRegained(end, time.Second, 0.5)
	}}
	halfAfterPhase = column{"half its share after", func(m *measured) string { return m.showRegained(phaseFor, time.Second, 0.5) }}
	evenAfterPhase = column{"85 % after", func(m *measured) string { return m.showRegained(phaseFor, 2*time.Second, 0.85) }}
)

func quantile(title string, q float64) column {
	return column{title, func(m *measured) string { return tenths(m.Quantile(q)) }}
}

func longerThan(title string, d time.Duration) column {
	return column{title, func(m *measured) string { return fmt.Sprintf("%d of %d", countAbove(m.Summary, d), m.Sent) }}
}

// extremes shows the smallest and the largest share of any backend.
func extremes(title string, width time.Duration) column {
	return column{title, func(m *measured) string {
		least, most := m.extremes(width)
		return fmt.Sprintf("%.0f to %.0f %%", 100*least, 100*most)
	}}
}

// showRegained shows when the first backend had its share again.
func (m *measured) showRegained(start, width time.Duration, share float64) string {
	after, ok := m.regained(0, start, width, share)
	if !ok {
		return fmt.Sprintf("not in %.1f s", after.Seconds())
	}
	return fmt.Sprintf("%.1f s", after.Seconds())
}
