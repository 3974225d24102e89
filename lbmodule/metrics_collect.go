package lbmodule

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/ballastlb/ballast/breaker"
	"github.com/ballastlb/ballast/lbmodule/overlay"
	"github.com/ballastlb/ballast/lbmodule/pool"
	"github.com/ballastlb/ballast/lbmodule/service"
)

// shownAlways are statuses that are shown from the start: what all is well looks like, and what Ballast answers itself when
// it is not. A counter that appears with its first event hides that from rate().
var shownAlways = []int{200, 499, 502, 503, 504}

// callsShownAlways are the statuses of gRPC calls that are: OK, and what speaks against a backend.
var callsShownAlways = statusSet{grpc: 1<<codes.OK | 1<<codes.Unknown | 1<<codes.DeadlineExceeded | 1<<codes.ResourceExhausted |
	1<<codes.Internal | 1<<codes.Unavailable | 1<<codes.DataLoss}

// trendNames are the names of the pool's windows.
var trendNames = [len(pool.TrendWindows)]string{"1m", "5m", "15m"}

// service sends the metrics of a load balancer's pool and of its backends.
func (e emitter) service(s *service.Service) {
	now := time.Now()
	p := s.Pool()
	p.Look(now)
	name := label(p.Name())
	e.answers(p, name)
	for reason := range pool.RetryReasons {
		e.emit(retriesMetric, float64(p.Retries(reason)), name, reason.String())
	}
	e.emit(reboundMetric, float64(p.Rebound()), name)
	e.emit(hedgesSentMetric, float64(p.Retries(pool.RetryHedge)), name)
	e.emit(hedgesWonMetric, float64(p.HedgesWon()), name)
	e.emit(budgetMetric, s.RetryBudget(now), name)
	e.emit(queueMetric, float64(p.QueueLength()), name)
	e.emit(heldMetric, float64(p.Holding()), name)
	for i, ratio := range p.ErrorRatios() {
		e.emit(errorsMetric, ratio, name, trendNames[i])
	}
	e.histogram(queueSecondsMetric, p.Queued.Distribution(), name)
	set, _ := s.Shown()
	if set == nil {
		e.state(name, 0, 0, false, 1, 0)
		e.rest(p, name, nil)
		return
	}
	snapshot := set.View().Snapshot()
	usable, total := snapshot.Usable()
	e.state(name, usable, total, snapshot.Panicking(), set.View().Fairness(), set.View().Utilization())
	e.rest(p, name, e.backends(s, set.View(), snapshot, name))
}

// state sends how a pool is.
func (e emitter) state(name string, usable, total int, panicking bool, fairness, utilization float64) {
	e.emit(backendsMetric, float64(total), name)
	e.emit(usableMetric, float64(usable), name)
	e.emit(panicMetric, number(panicking), name)
	e.emit(fairnessMetric, fairness, name)
	e.emit(utilizationMetric, utilization, name)
}

// backends sends the metrics of the backends that are told apart, and returns which these are.
func (e emitter) backends(s *service.Service, view *pool.View, snapshot *pool.Snapshot, name string) (told map[*pool.Member]bool) {
	at := make(map[string]int)
	for i := range view.Len() {
		at[view.Backend(i).Address] = i
	}
	running := s.Running(time.Now())
	slices.SortFunc(running, func(a, b overlay.Running) int { return strings.Compare(a.Name, b.Name) })
	// Two backends can end up with the same label, when a name is made UTF-8 or is that of the rest: the second is counted with the rest.
	taken := map[string]bool{otherBackends: true}
	told = make(map[*pool.Member]bool, len(running))
	for i := range running {
		position, is := at[running[i].Address]
		if !is {
			continue // it is not in use yet
		}
		m := view.Member(position)
		if backend := label(running[i].Name); m.Named() && !taken[backend] {
			taken[backend], told[m] = true, true
			warmth := 1.0
			effective := 0.0
			if snapshot.Has(position) {
				warmth = snapshot.Warmth(position)
				effective = float64(view.Backend(position).Weight) * warmth
			}
			e.emit(weightMetric, effective, name, backend)
			e.emit(slowStartMetric, warmth, name, backend)
			e.emit(drainingMetric, number(running[i].State != overlay.Ready), name, backend)
			e.member(m, name, backend)
		}
	}
	return told
}

func (e emitter) answers(p *pool.Pool, name string) {
	counts := make(map[int]uint64, len(shownAlways))
	for _, status := range shownAlways {
		counts[status] = 0
	}
	for status, n := range p.Answers {
		counts[status] = n
	}
	for status, n := range counts {
		code := strconv.Itoa(status)
		if status == 0 {
			code = "other"
		}
		e.emit(requestsMetric, float64(n), name, code)
	}
}

// member sends what is known of a backend that is told apart.
func (e emitter) member(m *pool.Member, labels ...string) {
	e.traffic(m.Traffic(), labels...)
	e.picks(m.Picks(), labels...)
	vitals := m.Vitals()
	for state := range breaker.States {
		e.emit(breakerMetric, number(vitals.Breaker == state), with(labels, state.String())...)
		e.emit(transitionsMetric, float64(vitals.Turned[state]), with(labels, state.String())...)
	}
	e.emit(inFlightMetric, float64(m.InFlight()), labels...)
	e.emit(healthyMetric, number(vitals.Usable), labels...)
	last := vitals.Last
	at, ok := 0.0, false
	if !last.Time.IsZero() {
		at, ok = float64(last.Time.UnixMilli())/1000, last.OK()
	}
	e.emit(checkOKMetric, number(ok), labels...)
	e.emit(checkTimeMetric, at, labels...)
	e.emit(checkTookMetric, last.Took.Seconds(), labels...)
}

// rest sends what is counted of those that are not told apart, if there are any: of counts the sums, of their health the
// share that is fit.
func (e emitter) rest(p *pool.Pool, name string, told map[*pool.Member]bool) {
	members, inFlight, healthy := 0, int64(0), 0
	for _, m := range p.Members() {
		if told[m] {
			continue
		}
		members++
		inFlight += m.InFlight()
		if m.Vitals().Usable {
			healthy++
		}
	}
	others := p.Others()
	counts, picks := others.Counts(), p.OtherPicks()
	if members == 0 && counts == (pool.TrafficCounts{}) && picks == (pool.Picks{}) {
		return
	}
	e.traffic(others, name, otherBackends)
	e.picks(picks, name, otherBackends)
	e.emit(inFlightMetric, float64(inFlight), name, otherBackends)
	e.emit(healthyMetric, float64(healthy)/float64(max(members, 1)), name, otherBackends)
}

// traffic sends what is counted of attempts.
func (e emitter) traffic(t *pool.Traffic, labels ...string) {
	counts := t.Counts()
	for outcome := range pool.Outcomes {
		e.emit(attemptsMetric, float64(counts.Ended[outcome]), with(labels, outcome.String())...)
	}
	for class := range pool.Classes {
		e.emit(responsesMetric, float64(counts.Answers[class]), with(labels, className(class))...)
	}
	for i, n := range counts.Calls {
		if status := grpcStatus(i + 1); n > 0 || status != otherGRPC && callsShownAlways.hasGRPC(status) {
			e.emit(callsMetric, float64(n), with(labels, status.String())...)
		}
	}
	for mode := range pool.EjectionModes {
		e.emit(ejectionsMetric, float64(counts.Ejections[mode]), with(labels, mode.String())...)
	}
	e.emit(repeatedMetric, float64(counts.Retried), labels...)
	for phase := range pool.Phases {
		e.histogram(durationMetric, t.Duration(phase), with(labels, phase.String())...)
	}
}

// picks sends what latency decided.
func (e emitter) picks(p pool.Picks, labels ...string) {
	e.emit(avoidedMetric, float64(p.Avoided), labels...)
	e.emit(trialsMetric, float64(p.Trials), labels...)
}

// with returns the labels with another one.
func with(labels []string, last string) []string {
	return append(labels[:len(labels):len(labels)], last)
}
