// Package status presents the pools: in the API and on the dashboard, as explanations and differences, and as metrics.
package status

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ballastlb/ballast/breaker"
	"github.com/ballastlb/ballast/healthcheck"
	"github.com/ballastlb/ballast/lbmodule/config"
	"github.com/ballastlb/ballast/lbmodule/overlay"
	"github.com/ballastlb/ballast/lbmodule/pool"
	"github.com/ballastlb/ballast/lbmodule/service"
)

// Pool is the JSON of a pool.
type Pool struct {
	Name   string `json:"name"`
	Policy string `json:"policy"`
	State  string `json:"state"` // ok, degraded, panic or down
	Usable int    `json:"usable"`
	Panic  bool   `json:"panic"`

	Queue int `json:"queue"` // requests that wait for a slot

	Answers
	Problems []Problem `json:"problems"` // what is wrong with the traffic, the worst first

	// RetryBudget is the number of retries that the pool could make now.
	RetryBudget float64 `json:"retry_budget"`

	Fairness    float64 `json:"fairness"`    // from 0 to 1: how evenly the last minute's requests were spread, by weight
	Utilization float64 `json:"utilization"` // from 0 to 1: share of the max_requests slots that are taken

	Transport Transport `json:"transport"`

	Subset *Subset `json:"subset,omitempty"` // absent if all backends are used
	Mirror *Mirror `json:"mirror,omitempty"` // absent if no requests are copied
	Canary *Canary `json:"canary,omitempty"` // absent if there is none

	Shadow *Shadow `json:"shadow,omitempty"` // absent without a shadow policy

	Discovery []Discovery `json:"discovery,omitempty"` // the sources that are polled for backends

	Warnings []string  `json:"warnings"` // settings that are valid but harmful
	Backends []Backend `json:"backends"` // sorted by name
}

// Transport is the JSON of how attempts went to the backends.
type Transport struct {
	Engine uint64            `json:"engine"` // attempts over the engine
	Others map[string]uint64 `json:"others"` // attempts over the configured transport, by the reason
}

// Subset is the JSON of a pool's subset. Backends outside it are listed only if they were edited, or on request.
type Subset struct {
	Size    int  `json:"size"`            // as configured, of each kind of backends
	Peer    *int `json:"peer,omitempty"`  // number of this balancer
	Peers   int  `json:"peers,omitempty"` // number of balancers
	Of      int  `json:"of"`              // all backends
	Chosen  int  `json:"chosen"`          // those in the subset
	Further int  `json:"further"`         // others that are used while no backend in the subset is usable
}

// Mirror is the JSON of a mirror and the outcomes of its copies.
type Mirror struct {
	Upstreams []string `json:"upstreams"`
	Share     float64  `json:"share"` // as configured
	InFlight  int64    `json:"in_flight"`

	Success     uint64 `json:"success"`
	ServerError uint64 `json:"server_error"` // answered with 5xx
	Failure     uint64 `json:"failure"`      // without a complete answer
	Timeout     uint64 `json:"timeout"`
	Dropped     uint64 `json:"dropped"` // not sent, or canceled by a reload
}

// newMirror describes the mirror of a load balancer; nil if it has none.
func newMirror(s *service.Service) *Mirror {
	settings := s.Mirror()
	if settings == nil {
		return nil
	}
	m := &s.Pool().Mirrored
	return &Mirror{
		Upstreams: settings.Upstreams, Share: settings.Share, InFlight: m.InFlight(),
		Success: m.Ended(pool.MirrorSuccess), ServerError: m.Ended(pool.MirrorServerError), Failure: m.Ended(pool.MirrorFailure),
		Timeout: m.Ended(pool.MirrorTimeout), Dropped: m.Ended(pool.MirrorDropped),
	}
}

// newSubset describes the subset of a set; nil if it has all backends.
func newSubset(s *service.Service, set *service.Set) *Subset {
	rule := s.Subset()
	if rule == nil {
		return nil
	}
	o := &Subset{Size: rule.Size, Peers: rule.Peers}
	if rule.Peers > 0 {
		o.Peer = &rule.Peer
	}
	if set != nil {
		o.Of, o.Chosen, o.Further = set.Counts()
	}
	return o
}

// Discovery is the JSON of a source of backends.
type Discovery struct {
	Source  string    `json:"source"` // file:<path>, a URL, or the name that is looked up
	OK      bool      `json:"ok"`     // the backends in use are those of its latest answer
	Since   time.Time `json:"since"`  // time of the last change of ok
	Error   string    `json:"error,omitempty"`
	Targets int       `json:"targets"` // how many of its backends are in use
}

// Backend is the JSON of a backend.
type Backend struct {
	Address         string             `json:"address"`
	Name            string             `json:"name"`
	Weight          int                `json:"weight"`
	EffectiveWeight float64            `json:"effective_weight"` // 0 while it gets no requests, less than weight during slow start
	MaxRequests     config.MaxRequests `json:"max_requests,omitempty"`
	Limit           int                `json:"limit,omitempty"` // the current limit of requests in flight, if max_requests is auto
	Backup          config.Backup      `json:"backup,omitempty"`
	Zone            string             `json:"zone,omitempty"`
	State           string             `json:"state"`                // ready, drain or maintenance
	SlowStart       *float64           `json:"slow_start,omitempty"` // share of its weight during slow start
	Health          string             `json:"health"`               // up, down or unknown
	Breaker         string             `json:"breaker"`              // closed, open or half_open
	Usable          bool               `json:"usable"`
	Reason          string             `json:"reason,omitempty"`  // why it is not usable
	Avoided         string             `json:"avoided,omitempty"` // why the policy gives it less than its share, if so
	Since           time.Time          `json:"since"`
	Downs           uint64             `json:"downs,omitempty"`        // how often it went down, independent of operators' changes
	DownSeconds     float64            `json:"down_seconds,omitempty"` // total time that it was down
	Until           *time.Time         `json:"until,omitempty"`        // when an open breaker becomes half-open, or when state expires
	InFlight        int64              `json:"in_flight"`
	Requests        uint64             `json:"requests"`
	Share           *float64           `json:"share,omitempty"` // of the pool's requests in the last minute, from 0 to 1
	Failures        uint64             `json:"failures"`
	LastCheck       *LastCheck         `json:"last_check,omitempty"`
	Source          string             `json:"source"` // config, dynamic or api

	Removing  bool   `json:"removing,omitempty"` // it leaves the pool when its requests have ended
	Added     *Mark  `json:"added,omitempty"`    // who added it, if it was added by the API
	Edits     []Edit `json:"edits,omitempty"`    // settings that were edited
	Persisted *bool  `json:"persisted,omitempty"`

	Shadow *ShadowShare `json:"shadow,omitempty"` // absent without a shadow policy

	Traffic
}

// Mark says who made a change, why, when, and for how long.
type Mark struct {
	Since    time.Time  `json:"since"`
	Until    *time.Time `json:"until,omitempty"`
	TimeLeft string     `json:"time_left,omitempty"`
	Owner    string     `json:"owner,omitempty"`
	Reason   string     `json:"reason,omitempty"`
}

// Edit is a setting that was edited.
type Edit struct {
	Field  overlay.Field `json:"field"`
	Value  any           `json:"value"`
	Config any           `json:"config,omitempty"` // the config's value
	Mark
}

// LastCheck is the result of the last probe.
type LastCheck struct {
	Time  time.Time `json:"time"`
	OK    bool      `json:"ok"`
	Ms    float64   `json:"ms"`
	Code  int       `json:"code,omitempty"`
	Error string    `json:"error,omitempty"`
}

// Overview describes a pool with the settings of the backends in running; all other values are current. It appends warnings to those of s.
func Overview(s *service.Service, running []overlay.Running, warnings []string) Pool {
	now := time.Now()
	p := s.Pool()
	p.Look(now)
	o := Pool{
		Fairness: 1, Name: p.Name(), Policy: s.PolicyName(), State: "down", Queue: p.QueueLength(), RetryBudget: s.RetryBudget(now),
		Warnings: append(append([]string{}, s.Warnings()...), warnings...), Backends: []Backend{},
	}
	o.Transport.Engine, o.Transport.Others = p.Ways()
	lately := p.Lately(now)
	o.Answers = newAnswers(p, &lately)
	for _, d := range s.Discoveries() {
		o.Discovery = append(o.Discovery, newDiscovery(&d))
	}
	set, dynamic := s.Shown()
	o.Subset, o.Mirror, o.Canary = newSubset(s, set), newMirror(s), NewCanary(s)
	at := make(map[string]int)
	var snapshot *pool.Snapshot
	var view *pool.View
	var avoided func(i int) string
	var shares []float64
	if set != nil {
		view = set.View()
		snapshot = view.Snapshot()
		o.judge(snapshot)
		avoided = whyAvoided(snapshot, now)
		o.Fairness, o.Utilization, shares = view.Fairness(), view.Utilization(), view.Shares()
		o.Answers.LatencyMs = newLatency(view.Quantiles(now, 0.50, 0.95, 0.99))
		for i := range set.View().Len() {
			at[set.View().Backend(i).Address] = i
		}
	}
	o.Shadow = newShadow(s, view, now)
	elsewhere := "not in use yet"
	if o.Subset != nil {
		elsewhere = OutsideSubset
	}
	for i := range running {
		b := Backend{Health: "unknown", Breaker: breaker.Closed.String(), Reason: elsewhere}
		if position, is := at[running[i].Address]; is {
			b = newBackend(set.View(), snapshot, position, s.Checked(), now)
			if b.Avoided = avoided(position); shares != nil {
				b.Share = &shares[position]
			}
		}
		b.addSettings(&running[i], dynamic, now)
		o.Backends = append(o.Backends, b)
	}
	slices.SortFunc(o.Backends, func(a, b Backend) int { return strings.Compare(a.Name, b.Name) })
	o.Problems = problems(&o, &lately)
	return o
}

// newDiscovery describes a source of backends.
func newDiscovery(d *service.Discovery) Discovery {
	o := Discovery{Source: d.Source, OK: d.OK, Since: d.Since, Targets: d.Size}
	switch {
	case d.Error != nil:
		o.Error = d.Error.Error()
	case !d.OK:
		o.Error = "has not been asked yet"
	}
	return o
}

// OutsideSubset is the reason why a backend outside the subset is not used.
const OutsideSubset = "outside the subset"

// judge sets the pool's state from a snapshot.
func (o *Pool) judge(snapshot *pool.Snapshot) {
	usable, total := snapshot.Usable()
	o.Usable, o.Panic = usable, snapshot.Panicking()
	switch {
	case o.Panic:
		o.State = "panic"
	case usable == 0:
		o.State = "down"
	case usable < total:
		o.State = "degraded"
	default:
		o.State = "ok"
	}
}

// newBackend describes the backend at index i of the view. checked says that there are active checks.
func newBackend(view *pool.View, snapshot *pool.Snapshot, i int, checked bool, now time.Time) Backend {
	b, m := view.Backend(i), view.Member(i)
	vitals, counts := m.Vitals(), m.Counts()
	o := Backend{
		Health: "unknown", Usable: vitals.Usable && b.Weight > 0 && b.State == pool.Ready, Since: vitals.Since,
		InFlight: counts.InFlight, Requests: counts.Requests, Failures: counts.Failures,
		Traffic: newTraffic(m, now), Limit: view.Limit(i), Shadow: newShadowShare(view, m),
	}
	o.Downs, o.DownSeconds = vitals.Downs, vitals.DownFor.Seconds()
	o.Breaker = vitals.Breaker.String()
	if !vitals.Until.IsZero() {
		o.Until = &vitals.Until
	}
	if !o.Usable {
		o.Reason = unusable(b, vitals)
	}
	if checked {
		o.Health = vitals.Status.String()
	}
	if snapshot.Has(i) {
		warmth := snapshot.Warmth(i)
		o.EffectiveWeight = float64(b.Weight) * warmth
		if warmth < 1 {
			o.SlowStart = &warmth
		}
	}
	if last := vitals.Last; !last.Time.IsZero() {
		o.LastCheck = &LastCheck{Time: last.Time, OK: last.OK(), Ms: milliseconds(last.Took), Code: last.Code}
		if last.Err != nil {
			o.LastCheck.Error = last.Err.Error()
		}
	}
	return o
}

// addSettings adds the backend's settings and its edits.
func (o *Backend) addSettings(r *overlay.Running, dynamic bool, now time.Time) {
	o.Address, o.Name, o.Weight, o.MaxRequests, o.Backup, o.Zone = r.Address, r.Name, r.Weight, config.MaxRequests(r.MaxRequests), config.Backup(r.Backup), r.Zone
	o.State, o.Removing = string(r.State), r.Removed != nil
	switch {
	case r.Config == nil:
		o.Source = "api"
	case dynamic:
		o.Source = "dynamic"
	default:
		o.Source = "config"
	}
	for _, e := range r.Edits {
		shown := Edit{Field: e.Field, Value: e.Value, Mark: Mark{Since: e.Since, Owner: e.Owner, Reason: e.Reason}}
		if r.Config != nil {
			shown.Config = r.Config.Get(e.Field)
		}
		shown.setUntil(e.Until, now)
		if o.Edits = append(o.Edits, shown); e.Field == overlay.StateField && shown.Until != nil {
			o.Until = shown.Until
		}
	}
	if r.Added != nil {
		o.Added = &Mark{Since: r.Added.Since, Owner: r.Added.Owner, Reason: r.Added.Reason}
		o.Added.setUntil(r.Added.Until, now)
	}
}

// setUntil sets when a temporary change ends.
func (m *Mark) setUntil(until, now time.Time) {
	if !until.IsZero() {
		m.Until, m.TimeLeft = &until, until.Sub(now).Round(time.Second).String()
	}
}

// unusable returns why a backend is not usable.
func unusable(b pool.Backend, v pool.Vitals) string {
	switch {
	case b.State == pool.Maintenance:
		return "maintenance"
	case b.State != pool.Ready:
		return "draining"
	case b.Weight == 0:
		return "weight is 0"
	case v.Dead:
		return "cannot be reached"
	case v.Status == healthcheck.Down:
		return "active check failed"
	case v.Failing:
		return "passive check failed"
	case v.Breaker != breaker.Closed:
		why := "breaker is " + v.Breaker.String() + ": " + v.Cause.String()
		if v.Fault != "" {
			why += " (last: " + v.Fault + ")"
		}
		return why
	default:
		return "not checked yet"
	}
}

// Traffic is the JSON of a backend's request counters. Backends beyond the first thousand of a pool are counted together and have no
// numbers here.
type Traffic struct {
	LatencyMs *Latency          `json:"latency_ms,omitempty"` // of the last ten to twenty seconds with requests; absent if there was none in the last minute
	Codes     map[string]uint64 `json:"codes,omitempty"`      // answers by class: 2xx, 3xx, 4xx, 5xx
	Retries   uint64            `json:"retries"`              // attempts that were retried after they failed here
	BytesIn   uint64            `json:"bytes_in"`             // of the bodies of requests, sent to the backend
	BytesOut  uint64            `json:"bytes_out"`            // of the bodies of answers, received from the backend
}

// newTraffic describes the requests of a member.
func newTraffic(m *pool.Member, now time.Time) (o Traffic) {
	if !m.Named() {
		return o
	}
	counts := m.Traffic().SinceReset()
	o.Retries, o.BytesIn, o.BytesOut = counts.Retried, counts.BytesIn, counts.BytesOut
	o.Codes = make(map[string]uint64, 4)
	for class := 2; class < pool.Classes; class++ {
		o.Codes[className(class)] = counts.Answers[class]
	}
	if o.LatencyMs = newLatency(m.Traffic().Quantiles(now, 0.50, 0.95, 0.99)); o.LatencyMs != nil {
		o.LatencyMs.EWMA = milliseconds(m.Latency().Estimate())
	}
	return o
}

// className returns the name of a class of statuses.
func className(class int) string {
	if class == 0 {
		return "other"
	}
	return strconv.Itoa(class) + "xx"
}

// milliseconds returns d in milliseconds.
func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
