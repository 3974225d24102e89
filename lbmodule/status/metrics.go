package status

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ballastlb/ballast/lbmodule/manage"
	"github.com/ballastlb/ballast/lbmodule/overlay"
	"github.com/ballastlb/ballast/lbmodule/pool"
	"github.com/ballastlb/ballast/lbmodule/service"
)

// family is a metric and its label names.
type family struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
}

// families lists all metrics except the histograms.
var families []*family

func newFamily(kind prometheus.ValueType, name, help string, labels ...string) *family {
	f := &family{prometheus.NewDesc("caddy_load_balancer_"+name, help, labels, nil), kind}
	families = append(families, f)
	return f
}

func gauge(name, help string, labels ...string) *family {
	return newFamily(prometheus.GaugeValue, name, help, labels...)
}

func counter(name, help string, labels ...string) *family {
	return newFamily(prometheus.CounterValue, name, help, labels...)
}

// Metrics of a pool.
var (
	requestsMetric = counter("requests_total",
		"Requests by response status; 499 if the client left first.", "pool", "code")
	retriesMetric = counter("retries_total",
		"Retried attempts, by the failure of the previous attempt; hedge for hedged requests.", "pool", "reason")
	budgetMetric = gauge("retry_budget_remaining",
		"Retries that the budget of the pool allows now.", "pool")
	hedgesSentMetric = counter("hedges_sent_total",
		"Hedged requests: second attempts that were sent.", "pool")
	hedgesWonMetric = counter("hedges_won_total",
		"Hedged requests whose second attempt was answered first.", "pool")
	mirroredMetric = counter("mirrored_total",
		"Mirrored requests: success, server_error for a 5xx, failure without a whole response, timeout, or dropped if not sent or given up by a reload.",
		"pool", "outcome")
	mirrorInFlightMetric = gauge("mirror_in_flight",
		"Mirrored requests in flight.", "pool")
	queueMetric = gauge("queue_length",
		"Requests that wait for a slot on a backend.", "pool")
	heldMetric = gauge("held_requests",
		"Requests that wait for a dead backend to return.", "pool")
	backendsMetric = gauge("backends",
		"Backends with a weight above 0.", "pool")
	usableMetric = gauge("usable_backends",
		"Backends that are usable.", "pool")
	panicMetric = gauge("panic",
		"Whether so few backends of the pool are usable that all are used, except dead ones (1), or not (0).", "pool")
	subsetMetric = gauge("subset_size",
		"Backends that this balancer uses: all, or its subset.", "pool")
	subsetOfMetric = gauge("subset_of",
		"All backends, in the subset or not.", "pool")
	subsetFurtherMetric = gauge("subset_further",
		"Backends outside the subset that are used because none in it is usable.", "pool")
	fairnessMetric = gauge("fairness_ratio",
		"Evenness of the requests of the last minute over the backends in use, by weight: 1 is even, 1/n is all to one of n (Jain's index).", "pool")
	utilizationMetric = gauge("utilization_ratio",
		"Share of the slots taken on backends in use that have a max_requests; 0 if none has.", "pool")
	errorsMetric = gauge("error_ratio",
		"Share of requests answered with 5xx, averaged over 1m, 5m and 15m as load averages are.", "pool", "window")
	reboundMetric = counter("sessions_rebound_total",
		"Sessions moved to another backend because their own was gone.", "pool")
)

// Metrics of a pool's dynamic sources.
var (
	discoveryUpMetric = gauge("discovery_up",
		"Whether the latest answers of all polled dynamic sources are good and in use (1), or one is bad or missing (0); 1 without such sources.", "pool")
	discoveryTargetsMetric = gauge("discovery_targets",
		"Backends named by polled dynamic sources, by the last good answer of each.", "pool")
)

var nodesMetric = gauge("nodes",
	"Nodes that share the storage, including this one: alive, or gone for at most an hour.", "state")

var stateWritesMetric = counter("state_writes_total",
	"Attempts to write edits made at runtime to storage: ok or failed.", "result")

// Histograms.
var (
	queueSecondsMetric = prometheus.NewDesc("caddy_load_balancer_queue_seconds",
		"Time that requests waited in the queue, whatever their outcome.", []string{"pool"}, nil)
	mirrorSecondsMetric = prometheus.NewDesc("caddy_load_balancer_mirror_duration_seconds",
		"Duration of mirrored requests until the response header.", []string{"pool"}, nil)
	durationMetric = prometheus.NewDesc("caddy_load_balancer_attempt_duration_seconds",
		"Duration of attempts by phase: connecting (new connections only), until the response header (first_byte), until the end or the failure (total).",
		[]string{"pool", "backend", "phase"}, nil)
)

// otherBackends is the label of all backends without a label of their own: those beyond the first thousand of a pool (in histograms, beyond
// the first 200), and those whose address depends on the request.
const otherBackends = "_other"

// Metrics collects the metrics of pools. It reads the live state at each scrape, so they always agree with it. Label values come from the
// config, never from clients.
type Metrics struct {
	// Services returns one load balancer for each pool. ok is false while no config has any.
	Services func() (all []*service.Service, ok bool)

	// Nodes returns the numbers of nodes of the fleet that are alive, including this one, and that are gone. It is nil without a fleet.
	Nodes func() (alive, gone int)
}

// Describe implements [prometheus.Collector].
func (Metrics) Describe(descs chan<- *prometheus.Desc) {
	for _, f := range families {
		descs <- f.desc
	}
	descs <- queueSecondsMetric
	descs <- mirrorSecondsMetric
	descs <- shadowSecondsMetric
	descs <- durationMetric
}

// Collect implements [prometheus.Collector].
func (m Metrics) Collect(found chan<- prometheus.Metric) {
	all, ok := m.Services()
	if !ok {
		return
	}
	e := emitter(found)
	written, failed := manage.Writes()
	e.emit(stateWritesMetric, float64(written), "ok")
	e.emit(stateWritesMetric, float64(failed), "failed")
	alive, gone := 1, 0
	if m.Nodes != nil {
		alive, gone = m.Nodes()
	}
	e.emit(nodesMetric, float64(alive), "alive")
	e.emit(nodesMetric, float64(gone), "gone")
	for _, s := range all {
		e.service(s)
	}
}

// emitter sends metrics.
type emitter chan<- prometheus.Metric

func (e emitter) emit(f *family, value float64, labels ...string) {
	e <- prometheus.MustNewConstMetric(f.desc, f.kind, value, labels...)
}

// label makes a text of the config a valid label. Environment variables may contain invalid UTF-8, which labels must not.
func label(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// shownAlways lists the statuses that are shown from the start: success, and the statuses of Ballast's own answers. A counter that
// appears only with its first event hides that event from rate().
var shownAlways = []int{200, 499, 502, 503, 504}

// trendNames are the names of the pool's averaging windows.
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
	e.discovery(s, name)
	e.mirrored(&p.Mirrored, name)
	e.canary(s, name)
	set, _ := s.Shown()
	if set == nil {
		e.state(name, 0, 0, false, 1, 0)
		e.subset(name, 0, 0, 0)
		e.shadow(nil, name, now)
		e.shadowShare(pool.ShadowShare{}, name, otherBackends)
		e.rest(p, name, nil)
		return
	}
	snapshot := set.View().Snapshot()
	usable, total := snapshot.Usable()
	e.state(name, usable, total, snapshot.Panicking(), set.View().Fairness(), set.View().Utilization())
	of, chosen, further := set.Counts()
	e.subset(name, of, chosen, further)
	e.shadow(set.View(), name, now)
	told := e.backends(s, set.View(), snapshot, name)
	e.shadowRest(set.View(), name, told)
	e.rest(p, name, told)
}

// discovery sends the state of the sources of backends.
func (e emitter) discovery(s *service.Service, name string) {
	up, targets := true, 0
	for _, d := range s.Discoveries() {
		up = up && d.OK
		targets += d.Size
	}
	e.emit(discoveryUpMetric, number(up), name)
	e.emit(discoveryTargetsMetric, float64(targets), name)
}

// state sends the state of a pool.
func (e emitter) state(name string, usable, total int, panicking bool, fairness, utilization float64) {
	e.emit(backendsMetric, float64(total), name)
	e.emit(usableMetric, float64(usable), name)
	e.emit(panicMetric, number(panicking), name)
	e.emit(fairnessMetric, fairness, name)
	e.emit(utilizationMetric, utilization, name)
}

// subset sends how many backends of a pool are used.
func (e emitter) subset(name string, of, chosen, further int) {
	e.emit(subsetMetric, float64(chosen), name)
	e.emit(subsetOfMetric, float64(of), name)
	e.emit(subsetFurtherMetric, float64(further), name)
}

// mirrored sends the outcomes of copies for mirrors.
func (e emitter) mirrored(m *pool.Mirrored, name string) {
	for outcome := range pool.MirrorOutcomes {
		e.emit(mirroredMetric, float64(m.Ended(outcome)), name, outcome.String())
	}
	e.emit(mirrorInFlightMetric, float64(m.InFlight()), name)
	e.histogram(mirrorSecondsMetric, m.Took.Distribution(), name)
}

// backends sends the metrics of the backends that have a label of their own, and returns these backends.
func (e emitter) backends(s *service.Service, view *pool.View, snapshot *pool.Snapshot, name string) (told map[*pool.Member]bool) {
	at := make(map[string]int)
	for i := range view.Len() {
		at[view.Backend(i).Address] = i
	}
	running := s.Running(time.Now())
	slices.SortFunc(running, func(a, b overlay.Running) int { return strings.Compare(a.Name, b.Name) })
	// Two backends can end up with the same label, if a name is made valid UTF-8 or is _other. The second is counted as _other.
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
			e.emit(limitMetric, float64(view.Limit(position)), name, backend)
			e.emit(slowStartMetric, warmth, name, backend)
			e.emit(drainingMetric, number(running[i].State != overlay.Ready), name, backend)
			e.member(m, name, backend)
			if shadow := view.Shadow(); shadow != nil {
				e.shadowShare(shadow.Share(m), name, backend)
			}
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
	for cause := range pool.Refusals {
		e.emit(refusedMetric, float64(p.Refused(cause)), name, cause.String())
	}
}

// with returns labels with last appended.
func with(labels []string, last string) []string {
	return append(labels[:len(labels):len(labels)], last)
}

func must(m prometheus.Metric, err error) prometheus.Metric {
	if err != nil {
		panic(err) // the number of labels is wrong
	}
	return m
}
