package main

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/ballastlb/ballast/bench/openloop"
)

// measured is the result of one contender.
type measured struct {
	*openloop.Summary // of the measured time; its first request is due at 0
	backends          []string
	weights           []int // of the backends; nil for 1 each
	duration          time.Duration
}

// from returns the summary of the requests that were due at start or later, with start as their 0.
func from(start time.Duration, got *openloop.Summary) *openloop.Summary {
	counted := got.Only(func(r openloop.Request) bool { return r.Due >= start })
	for i := range counted.Requests {
		counted.Requests[i].Due -= start
	}
	return counted
}

// ofFair returns the share that backend i had of the requests due from start to end, relative to its fair share, which is proportional to
// its weight.
func (m *measured) ofFair(i int, start, end time.Duration) float64 {
	its, all := 0, 0
	for _, r := range m.Requests {
		if r.Due >= start && r.Due < end {
			all++
			if r.Backend == m.backends[i] {
				its++
			}
		}
	}
	fair := 1 / float64(len(m.backends))
	if m.weights != nil {
		sum := 0
		for _, w := range m.weights {
			sum += w
		}
		fair = float64(m.weights[i]) / float64(sum)
	}
	return float64(its) / float64(max(all, 1)) / fair
}

// extremes returns the smallest and the largest part of its fair share that any backend had in any window of that width. A window begins
// every second.
func (m *measured) extremes(width time.Duration) (least, most float64) {
	var all []float64
	for start := time.Duration(0); start+width <= m.duration; start += time.Second {
		for i := range m.backends {
			all = append(all, m.ofFair(i, start, start+width))
		}
	}
	if all == nil {
		return 0, 0
	}
	return slices.Min(all), slices.Max(all)
}

// regained returns how long after start the first window of that width ended in which backend i had that part of its fair share.
func (m *measured) regained(i int, start, width time.Duration, share float64) (after time.Duration, ok bool) {
	const step = 100 * time.Millisecond
	for end := start + width; end <= m.duration; end += step {
		if m.ofFair(i, end-width, end) >= share {
			return end - start, true
		}
	}
	return m.duration - start, false
}

// outlierEnd returns when the slowest answer of the first backend ended, if it was one of those meant to be slow.
func (m *measured) outlierEnd() (end time.Duration, ok bool) {
	for _, r := range slices.Backward(m.Requests) {
		if r.Backend == m.backends[0] {
			return r.Due + r.Latency, r.Latency > outlierFrom
		}
	}
	return 0, false
}

// held returns how many requests the first backend had until it continued, and no other backend had answered by then.
func (m *measured) held(wentOn time.Duration) int {
	return m.Only(func(r openloop.Request) bool {
		return r.Due < wentOn && r.Due+r.Latency >= wentOn && (r.Backend == m.backends[0] || r.Backend == "")
	}).Sent
}

func isServed(r openloop.Request) bool { return r.Status == http.StatusOK }

// quantileOfAll returns a quantile of all latencies. A request that is not served counts with the timeout: a refusal is not a fast answer.
func quantileOfAll(got *openloop.Summary, q float64) time.Duration {
	served := got.Only(isServed)
	if rank := q * float64(got.Sent); rank < float64(served.Sent) {
		return served.Quantile(rank / float64(served.Sent))
	}
	return unevenTimeout
}

func countAbove(got *openloop.Summary, d time.Duration) int {
	return got.Only(func(r openloop.Request) bool { return r.Latency > d }).Sent
}

// shareFailed returns the share of the requests from start to end that were not answered with 200.
func (m *measured) shareFailed(start, end time.Duration) string {
	due := m.Only(func(r openloop.Request) bool { return r.Due >= start && r.Due < end })
	return percent(due.Sent-due.Statuses[http.StatusOK], due.Sent)
}

func percent(n, of int) string { return fmt.Sprintf("%.1f %%", 100*float64(n)/float64(max(of, 1))) }

// percents formats several shares.
func percents(shares ...float64) string {
	var all []string
	for _, s := range shares {
		all = append(all, fmt.Sprintf("%.0f", 100*s))
	}
	return strings.Join(all, ", ") + " %"
}

// tenths formats a latency in milliseconds.
func tenths(d time.Duration) string { return fmt.Sprintf("%.1f ms", d.Seconds()*1000) }
