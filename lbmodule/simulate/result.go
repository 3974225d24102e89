package simulate

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ballastlb/ballast/lbmodule/policies"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

// Result holds the measurements of a simulation for the requests that arrived after the warm-up.
type Result struct {
	Pool      string `json:"pool"`
	Policy    string `json:"policy"`
	Seed      uint64 `json:"seed"`
	Balancers int    `json:"balancers"`

	Requests  int            `json:"requests"`
	Failed    int            `json:"failed"`   // no answer, or 429 or a status from 500 on
	Endings   map[string]int `json:"endings"`  // how requests ended
	Statuses  map[int]int    `json:"statuses"` // of answered requests
	Latency   Latency        `json:"latency_ms"`
	Retries   int            `json:"retries"`    // attempts after the first, without copies
	Copies    int            `json:"copies"`     // hedged requests
	CopiesWon int            `json:"copies_won"` // copies that were answered first

	// Fairness is Jain's index of the attempts divided by the weights, over the primary backends: 1 if each has its share, 1/n if one of n has
	// all.
	Fairness float64 `json:"fairness"`

	// LeastLoad and LargestLoad are the extremes of the primary backends' loads, divided by their fair shares by weight: 1 if each has its
	// share.
	LeastLoad   float64 `json:"least_load"`
	LargestLoad float64 `json:"largest_load"`

	// Members is the sum over the balancers of the backends that each uses, which is the number of probes in each interval of a health check.
	Members int `json:"members"`

	Backends []BackendResult `json:"backends"`
	Timeline []Slice         `json:"timeline"`

	All []Served `json:"-"` // the requests, in the order of their arrival

	NotSimulated []string `json:"not_simulated,omitempty"` // settings of the pool that were left out
	Events       []Mark   `json:"events,omitempty"`
}

// Latency is the distribution of how long requests took, in milliseconds. Failed requests are included.
type Latency struct {
	Mean float64 `json:"mean"`
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`
	Max  float64 `json:"max"`
}

// BackendResult holds the measurements of a backend.
type BackendResult struct {
	Name      string  `json:"name"`
	Attempts  int     `json:"attempts"`
	Failed    int     `json:"failed"`
	Share     float64 `json:"share"`           // of all attempts
	Fair      float64 `json:"fair"`            // its share by weight among the primary backends; 0 for a backup
	P99       float64 `json:"p99_ms"`          // of the requests that it answered
	Ejections int     `json:"ejections"`       // how often breakers took it out, summed over the balancers
	Limit     int     `json:"limit,omitempty"` // the last adaptive limit if max_requests is auto, summed over the balancers
}

// Slice holds the measurements of the requests that arrived in one part of the time.
type Slice struct {
	At       float64   `json:"at"` // seconds since the end of the warm-up
	Requests int       `json:"requests"`
	Failed   int       `json:"failed"`
	P50      float64   `json:"p50_ms"`
	P99      float64   `json:"p99_ms"`
	Shares   []float64 `json:"shares"` // of the requests that were answered, by backend
}

// Mark is an event of the scenario.
type Mark struct {
	At      float64 `json:"at"`
	Backend string  `json:"backend"`
	Set     string  `json:"set"`
}

// sliceCount is the approximate number of slices of a timeline.
const sliceCount = 60

// widths are the possible lengths of a slice.
var widths = []time.Duration{
	100 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second,
	30 * time.Second, time.Minute, 5 * time.Minute, 15 * time.Minute, 30 * time.Minute,
}

// result computes the result.
func (w *world) result(p *Pool, s *Scenario) *Result {
	r := &Result{
		Pool: p.Title(), Policy: strings.TrimPrefix(policies.Name(w.policy), "lb_"), Seed: s.Seed, Balancers: s.Balancers,
		Requests: len(w.requests), Endings: make(map[string]int), Statuses: make(map[int]int),
		Retries: w.retries - w.copiesWon, Copies: w.copies, CopiesWon: w.copiesWon, NotSimulated: p.NotSimulated(),
	}
	slices.SortStableFunc(w.requests, func(a, b Served) int { return cmp.Compare(a.Due, b.Due) })
	took := make([]time.Duration, 0, len(w.requests))
	for i := range w.requests {
		q := &w.requests[i]
		took = append(took, q.Took)
		r.Endings[endingNames[q.ending]]++
		if q.ending == answered {
			r.Statuses[int(q.Status)]++
		}
		if q.failed() {
			r.Failed++
		}
	}
	r.Latency, r.All = latencyOf(took), w.requests
	w.sumUpBackends(r)
	r.Timeline = w.timeline(time.Duration(s.Duration))
	for _, e := range s.Events {
		r.Events = append(r.Events, Mark{At: time.Duration(e.At).Seconds(), Backend: cmp.Or(e.Backend, "*"), Set: string(e.Behavior)})
	}
	return r
}

func (w *world) sumUpBackends(r *Result) {
	all, weights := 0, 0
	for i, b := range w.balancing.backends {
		all += w.perBack[i].n
		if b.Backup == 0 {
			weights += b.Weight
		}
	}
	byBackend := make([][]time.Duration, len(w.backends))
	for i := range w.requests {
		if q := &w.requests[i]; q.Backend >= 0 {
			byBackend[q.Backend] = append(byBackend[q.Backend], q.Took)
		}
	}
	sum, squares, n, least, largest := 0.0, 0.0, 0.0, math.Inf(1), 0.0
	for i, b := range w.balancing.backends {
		one := BackendResult{Name: w.names[i], Attempts: w.perBack[i].n, Failed: w.perBack[i].failed, P99: latencyOf(byBackend[i]).P99}
		one.Share = float64(one.Attempts) / float64(max(all, 1))
		if b.Backup == 0 && b.Weight > 0 {
			one.Fair = float64(b.Weight) / float64(weights)
			x := float64(one.Attempts) / float64(b.Weight)
			sum, squares, n = sum+x, squares+x*x, n+1
			least, largest = min(least, x), max(largest, x)
		}
		r.Backends = append(r.Backends, one)
	}
	for _, b := range w.balancers {
		r.Members += len(b.members)
		for position, i := range b.members {
			r.Backends[i].Limit += b.view.Limit(position)
			r.Backends[i].Ejections += int(b.view.Member(position).Traffic().Counts().Ejections[pool.EjectionEnforced])
		}
	}
	if n > 0 && sum > 0 {
		r.LeastLoad, r.LargestLoad = round(least*n/sum), round(largest*n/sum)
	}
	if squares > 0 {
		r.Fairness = sum * sum / (n * squares)
	}
}

// timeline cuts the time into slices.
func (w *world) timeline(duration time.Duration) (all []Slice) {
	width := duration/sliceCount + 1
	for _, candidate := range widths {
		if width <= candidate+1 {
			width = candidate
			break
		}
	}
	left := w.requests
	for at := time.Duration(0); at < duration; at += width {
		n, _ := slices.BinarySearchFunc(left, at+width, func(q Served, end time.Duration) int { return cmp.Compare(q.Due, end) })
		s := Slice{At: at.Seconds(), Requests: n, Shares: make([]float64, len(w.backends))}
		took := make([]time.Duration, 0, n)
		answers := 0
		for i := range left[:n] {
			q := &left[i]
			took = append(took, q.Took)
			if q.failed() {
				s.Failed++
			}
			if q.Backend >= 0 {
				answers++
				s.Shares[q.Backend]++
			}
		}
		for i := range s.Shares {
			s.Shares[i] = round(s.Shares[i] / float64(max(answers, 1)))
		}
		l := latencyOf(took)
		s.P50, s.P99 = l.P50, l.P99
		all = append(all, s)
		left = left[n:]
	}
	return all
}

// latencyOf returns the distribution of durations, which it sorts.
func latencyOf(took []time.Duration) (l Latency) {
	n := len(took)
	if n == 0 {
		return l
	}
	slices.Sort(took)
	sum := 0.0
	for _, d := range took {
		sum += d.Seconds()
	}
	at := func(q float64) float64 { return milliseconds(took[min(int(q*float64(n)), n-1)]) }
	return Latency{Mean: round(sum / float64(n) * 1e3), P50: at(0.5), P90: at(0.9), P99: at(0.99), P999: at(0.999), Max: milliseconds(took[n-1])}
}

func milliseconds(d time.Duration) float64 { return round(d.Seconds() * 1e3) }

// round rounds x to six digits after the point.
func round(x float64) float64 { return math.Round(x*1e6) / 1e6 }

// Failure is a cause of failed requests.
type Failure struct {
	Cause    string
	Requests int
}

// Failures returns why requests failed, the most frequent cause first.
func (r *Result) Failures() (all []Failure) {
	for how, n := range r.Endings {
		if how != endingNames[answered] {
			all = append(all, Failure{how, n})
		}
	}
	for status, n := range r.Statuses {
		if q := (Served{Status: uint16(status)}); q.failed() {
			all = append(all, Failure{"status " + strconv.Itoa(status), n})
		}
	}
	slices.SortFunc(all, func(a, b Failure) int {
		return cmp.Or(cmp.Compare(b.Requests, a.Requests), strings.Compare(a.Cause, b.Cause))
	})
	return all
}
