package lbmodule

import (
	"strconv"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/ballastlb/ballast/breaker"
	"github.com/ballastlb/ballast/lbmodule/overlay"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

// shownAlways are statuses that are shown from the start: what all is well looks like, and what Ballast answers itself when
// it is not. A counter that appears with its first event hides that from rate().
var shownAlways = []int{200, 499, 502, 503, 504}

// callsShownAlways are the statuses of gRPC calls that are: OK, and what speaks against a backend.
var callsShownAlways = statusSet{grpc: 1<<codes.OK | 1<<codes.Unknown | 1<<codes.DeadlineExceeded | 1<<codes.ResourceExhausted |
	1<<codes.Internal | 1<<codes.Unavailable | 1<<codes.DataLoss}

// trendNames are the names of the pool's windows.
var trendNames = [len(pool.TrendWindows)]string{"1m", "5m", "15m"}

// pool sends the metrics of a pool and its backends.
func (e emitter) pool(p *poolOverview) {
	name := label(p.Name)
	e.answers(p.pool, name)
	for reason := range pool.RetryReasons {
		e.emit(retriesMetric, float64(p.retries[reason]), name, reason.String())
	}
	e.emit(reboundMetric, float64(p.rebound), name)
	e.emit(hedgesSentMetric, float64(p.retries[pool.RetryHedge]), name)
	e.emit(hedgesWonMetric, float64(p.pool.HedgesWon()), name)
	e.emit(budgetMetric, p.RetryBudget, name)
	e.emit(queueMetric, float64(p.Queue), name)
	e.emit(heldMetric, float64(p.pool.Holding()), name)
	e.emit(backendsMetric, float64(p.total), name)
	e.emit(usableMetric, float64(p.Usable), name)
	e.emit(panicMetric, number(p.Panic), name)
	e.emit(fairnessMetric, p.Fairness, name)
	e.emit(utilizationMetric, p.Utilization, name)
	for i, ratio := range p.pool.ErrorRatios() {
		e.emit(errorsMetric, ratio, name, trendNames[i])
	}
	e.histogram(queueSecondsMetric, p.pool.Queued.Distribution(), name)
	// A name may be that of the rest, or once it is made UTF-8 another's: what would be told twice is told of the rest.
	taken := map[string]bool{otherBackends: true}
	told := make(map[*pool.Member]bool, len(p.Backends))
	for i := range p.Backends {
		b := &p.Backends[i]
		if backend := label(b.Name); b.member != nil && b.member.Named() && !taken[backend] {
			taken[backend], told[b.member] = true, true
			e.backend(b, name, backend)
		}
	}
	e.rest(p, name, told)
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

// backend sends the metrics of one backend.
func (e emitter) backend(b *backendOverview, labels ...string) {
	e.traffic(b.member.Traffic(), labels...)
	e.picks(b.member.Picks(), labels...)
	for state := range breaker.States {
		e.emit(breakerMetric, number(b.Breaker == state.String()), with(labels, state.String())...)
		e.emit(transitionsMetric, float64(b.turned[state]), with(labels, state.String())...)
	}
	e.emit(inFlightMetric, float64(b.InFlight), labels...)
	e.emit(healthyMetric, number(b.member.Vitals().Usable), labels...)
	e.emit(weightMetric, b.EffectiveWeight, labels...)
	e.emit(drainingMetric, number(b.State != string(overlay.Ready)), labels...)
	warmth := 1.0
	if b.SlowStart != nil {
		warmth = *b.SlowStart
	}
	e.emit(slowStartMetric, warmth, labels...)
	last := b.LastCheck
	if last == nil {
		last = new(lastCheck)
	}
	at := 0.0
	if !last.Time.IsZero() {
		at = float64(last.Time.UnixMilli()) / 1000
	}
	e.emit(checkOKMetric, number(last.OK), labels...)
	e.emit(checkTimeMetric, at, labels...)
	e.emit(checkTookMetric, last.Ms*float64(time.Millisecond)/float64(time.Second), labels...)
}

// rest sends what is counted of those that are not told apart, if there are any: of counts the sums, of their health the
// share that is fit.
func (e emitter) rest(p *poolOverview, name string, told map[*pool.Member]bool) {
	members, inFlight, healthy := 0, int64(0), 0
	for _, m := range p.pool.Members() {
		if told[m] {
			continue
		}
		members++
		inFlight += m.InFlight()
		if m.Vitals().Usable {
			healthy++
		}
	}
	others := p.pool.Others()
	counts, picks := others.Counts(), p.pool.OtherPicks()
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
