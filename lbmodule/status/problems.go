package status

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

// Problem is the JSON of something that is wrong with the traffic of a pool. The pool, or its backend, is the subject of What.
type Problem struct {
	Severity string `json:"severity"`          // bad or warn
	Backend  string `json:"backend,omitempty"` // its name; absent if it is the pool as a whole
	What     string `json:"what"`
	Why      string `json:"why,omitempty"`
}

// The severities.
const (
	severe = "bad"
	slight = "warn"
)

// The thresholds of problems.
const (
	// leastErrors is the smallest number of errors for which their share is computed.
	leastErrors = 5
	// noticeableErrors and severeErrors are shares of the answers that are 5xx.
	noticeableErrors, severeErrors = 0.01, 0.05
	// slowPool is the median response time, in milliseconds, from which on a pool is slow.
	slowPool = 1000
	// slowBackend is how many times the latency of its peers a slow backend has, and slowerBy by how many milliseconds it is slower at
	// least.
	slowBackend, slowerBy = 5, 20
	// mostNamed is the largest number of slow or avoided backends of a pool that are named.
	mostNamed = 5
)

// refusalWords are the reasons why requests are refused.
var refusalWords = [pool.Refusals]string{
	pool.RefusedNoBackend:    "no backend usable",
	pool.RefusedLimit:        "all backends at max_requests",
	pool.RefusedQueueFull:    "queue full",
	pool.RefusedQueueTimeout: "queue timeout",
	pool.RefusedSession:      "backend of the session not usable",
	pool.RefusedDrained:      "drain_timeout has passed",
	pool.RefusedShutdown:     "shutting down",
	pool.RefusedSource:       "no list of backends",
}

// problems returns what is wrong with the traffic of a pool, the worst first.
func problems(p *Pool, lately *pool.Lately) []Problem {
	found := slices.Concat(refusalProblem(lately), errorProblem(lately), slowProblem(p), backendProblems(p))
	if found == nil {
		found = []Problem{} // not nil, so that the JSON is a list
	}
	slices.SortStableFunc(found, func(a, b Problem) int { return cmp.Compare(a.Severity, b.Severity) })
	return found
}

// refusalProblem reports how many requests are refused, and why: the most frequent cause first.
func refusalProblem(lately *pool.Lately) []Problem {
	var causes []pool.Refusal
	total := uint64(0)
	for cause, n := range lately.Refused {
		if n > 0 {
			causes = append(causes, pool.Refusal(cause))
			total += n
		}
	}
	if total == 0 {
		return nil
	}
	slices.SortStableFunc(causes, func(a, b pool.Refusal) int { return cmp.Compare(lately.Refused[b], lately.Refused[a]) })
	why := make([]string, len(causes))
	for i, cause := range causes {
		if why[i] = refusalWords[cause]; len(causes) > 1 {
			why[i] += " (" + percent(float64(lately.Refused[cause])/float64(total)) + ")"
		}
	}
	what := fmt.Sprintf("refuses %s requests/s", short(lately.PerSecond(total)))
	if rate := lately.PerSecond(total); rate < 1 {
		what = fmt.Sprintf("has refused %d requests in %.0f s", total, lately.Span.Seconds())
	}
	return []Problem{{Severity: severe, What: what, Why: strings.Join(why, ", ")}}
}

// errorProblem reports the share of requests answered with 5xx, among those that were not refused.
func errorProblem(lately *pool.Lately) []Problem {
	errors, asked := lately.Classes[5], lately.Requests()-lately.Canceled
	for _, refused := range lately.Refused {
		// The two counters are not read atomically: a refusal may be counted whose answer is not.
		errors, asked = errors-min(refused, errors), asked-min(refused, asked)
	}
	share := float64(errors) / float64(max(asked, 1))
	if errors < leastErrors || share < noticeableErrors {
		return nil
	}
	problem := Problem{Severity: slight, What: "answers " + percent(share) + " of its requests with 5xx", Why: short(lately.PerSecond(errors)) + " errors/s"}
	if share >= severeErrors {
		problem.Severity = severe
	}
	return []Problem{problem}
}

// slowProblem reports that a pool as a whole is slow.
func slowProblem(p *Pool) []Problem {
	if l := p.Answers.LatencyMs; l != nil && l.P50 >= slowPool {
		return []Problem{{Severity: slight, What: "is slow", Why: fmt.Sprintf("half of its answers take %s or more", duration(l.P50))}}
	}
	return nil
}

// backendProblems names backends that are slower than their peers, the slowest first, and others that the policy avoids.
func backendProblems(p *Pool) []Problem {
	var timed []float64
	for i := range p.Backends {
		if b := &p.Backends[i]; b.Usable && b.LatencyMs != nil {
			timed = append(timed, b.LatencyMs.P95)
		}
	}
	slices.Sort(timed)
	type slow struct {
		Problem
		times float64
	}
	var found []slow
	for i := range p.Backends {
		b := &p.Backends[i]
		if !b.Usable || b.LatencyMs == nil && b.Avoided == "" {
			continue
		}
		gets := ""
		if b.Share != nil {
			gets = "it gets " + percent(*b.Share) + " of the requests"
		}
		if peers := medianWithout(timed, b.LatencyMs); peers > 0 && b.LatencyMs.P95 >= slowBackend*peers && b.LatencyMs.P95 >= peers+slowerBy {
			times := b.LatencyMs.P95 / peers
			why := fmt.Sprintf("p95 %s, %s times that of its peers", duration(b.LatencyMs.P95), short(times))
			found = append(found, slow{Problem{Severity: slight, Backend: b.Name, What: "is slow", Why: join(why, gets)}, times})
		} else if b.Avoided != "" {
			found = append(found, slow{Problem{Severity: slight, Backend: b.Name, What: "is avoided", Why: join(b.Avoided, gets)}, 0})
		}
	}
	slices.SortStableFunc(found, func(a, b slow) int { return cmp.Compare(b.times, a.times) })
	named := make([]Problem, 0, mostNamed)
	for _, f := range found[:min(len(found), mostNamed)] {
		named = append(named, f.Problem)
	}
	return named
}

// medianWithout returns the median of sorted values without the P95 of l, which is one of them; 0 if none is left or l is nil.
func medianWithout(sorted []float64, l *Latency) float64 {
	if l == nil || len(sorted) < 2 {
		return 0
	}
	at, _ := slices.BinarySearch(sorted, l.P95)
	// The lower of the two middle values: of two backends, the other one.
	middle := (len(sorted) - 2) / 2
	if middle >= at {
		middle++
	}
	return sorted[middle]
}

// join joins two clauses, of which the second may be empty.
func join(why, more string) string {
	if more == "" {
		return why
	}
	return why + "; " + more
}

// short formats a number with one decimal below 10, and none from there on.
func short(n float64) string {
	if n >= 9.95 {
		return strconv.FormatFloat(math.Round(n), 'f', 0, 64)
	}
	return strings.TrimSuffix(strconv.FormatFloat(n, 'f', 1, 64), ".0")
}

// percent formats a share.
func percent(share float64) string {
	switch n := share * 100; {
	case n > 0 && n < 0.1:
		return "less than 0.1 %"
	default:
		return short(n) + " %"
	}
}

// duration formats milliseconds.
func duration(ms float64) string {
	if ms >= 999.5 {
		return short(ms/1000) + " s"
	}
	return short(ms) + " ms"
}
