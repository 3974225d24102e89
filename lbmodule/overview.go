package lbmodule

import (
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/ballastlb/ballast/breaker"
	"github.com/ballastlb/ballast/healthcheck"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

// poolOverview is a pool as it is shown.
type poolOverview struct {
	Name   string `json:"name"`
	Policy string `json:"policy"`
	State  string `json:"state"` // ok, degraded, panic or down
	Usable int    `json:"usable"`
	Panic  bool   `json:"panic"`

	Queue int `json:"queue"` // requests that wait for a slot

	// RetryBudget is how many retries the pool could spend now.
	RetryBudget float64 `json:"retry_budget"`
	retries     [pool.RetryReasons]uint64

	Backends []backendOverview `json:"backends"` // sorted by name
}

// backendOverview is a backend as it is shown.
type backendOverview struct {
	Address         string     `json:"address"`
	Name            string     `json:"name"`
	Weight          int        `json:"weight"`
	EffectiveWeight float64    `json:"effective_weight"` // 0 while it gets no requests, less than weight while it is ramped up
	MaxRequests     int        `json:"max_requests,omitempty"`
	Backup          bool       `json:"backup,omitempty"`
	Health          string     `json:"health"`  // up, down or unknown
	Breaker         string     `json:"breaker"` // closed, open or half_open
	Usable          bool       `json:"usable"`
	Reason          string     `json:"reason,omitempty"` // why it is not usable
	Since           time.Time  `json:"since"`
	Until           *time.Time `json:"until,omitempty"` // when an open breaker turns half-open
	InFlight        int64      `json:"in_flight"`
	Requests        uint64     `json:"requests"`
	Failures        uint64     `json:"failures"`
	LastCheck       *lastCheck `json:"last_check,omitempty"`
	Source          string     `json:"source"` // config or dynamic

	turned [breaker.States]uint64 // how often the breaker went into each state
}

// lastCheck is the result of the last probe.
type lastCheck struct {
	Time  time.Time `json:"time"`
	OK    bool      `json:"ok"`
	Ms    float64   `json:"ms"`
	Code  int       `json:"code,omitempty"`
	Error string    `json:"error,omitempty"`
}

// overview describes the pools of a's config, sorted by name.
func (a *App) overview() []poolOverview {
	a.mu.Lock()
	handlers := slices.Clone(a.handlers)
	a.mu.Unlock()
	all := []poolOverview{}
	for _, h := range handlers {
		// Handlers that share a pool show the same.
		if slices.ContainsFunc(all, func(p poolOverview) bool { return p.Name == h.pool.Name() }) {
			continue
		}
		all = append(all, h.overview(a))
	}
	slices.SortFunc(all, func(a, b poolOverview) int { return strings.Compare(a.Name, b.Name) })
	return all
}

func (h *Handler) overview(a *App) poolOverview {
	o := poolOverview{
		Name: h.pool.Name(), Policy: h.policyName(), Queue: h.pool.QueueLength(), RetryBudget: h.pool.RetryBudget(h.retries.budget, time.Now()),
		Backends: []backendOverview{},
	}
	set, source := h.static.Load(), "config"
	if h.dynamic != nil {
		if current := h.dynamic.current.Load(); current != nil || set == nil {
			set, source = current, "dynamic"
		}
	}
	for reason := range pool.RetryReasons {
		o.retries[reason] = h.pool.Retries(reason)
	}
	if set == nil {
		o.State = "down"
		return o
	}
	snapshot := set.view.Snapshot()
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
	for i := range set.view.Len() {
		o.Backends = append(o.Backends, h.backendOverview(a, set.view, snapshot, i, source))
	}
	slices.SortFunc(o.Backends, func(a, b backendOverview) int { return strings.Compare(a.Name, b.Name) })
	return o
}

func (h *Handler) backendOverview(a *App, view *pool.View, snapshot *pool.Snapshot, i int, source string) backendOverview {
	b, m := view.Backend(i), view.Member(i)
	vitals, counts := m.Vitals(), m.Counts()
	o := backendOverview{
		Address: b.Address, Name: a.backendName(h.pool.Name(), b.Address), Weight: b.Weight, MaxRequests: b.MaxRequests, Backup: b.Backup,
		Health: "unknown", Usable: vitals.Usable && b.Weight > 0, Since: vitals.Since,
		InFlight: counts.InFlight, Requests: counts.Requests, Failures: counts.Failures, Source: source,
	}
	o.Breaker, o.turned = vitals.Breaker.String(), vitals.Turned
	if !vitals.Until.IsZero() {
		o.Until = &vitals.Until
	}
	if !o.Usable {
		o.Reason = unusable(b, vitals)
	}
	if h.active != nil {
		o.Health = vitals.Status.String()
	}
	if snapshot.Has(i) {
		o.EffectiveWeight = float64(b.Weight) * snapshot.Warmth(i)
	}
	if last := vitals.Last; !last.Time.IsZero() {
		o.LastCheck = &lastCheck{Time: last.Time, OK: last.OK(), Ms: float64(last.Took) / float64(time.Millisecond), Code: last.Code}
		if last.Err != nil {
			o.LastCheck.Error = last.Err.Error()
		}
	}
	return o
}

// unusable tells why a backend is not usable.
func unusable(b pool.Backend, v pool.Vitals) string {
	switch {
	case b.Weight == 0:
		return "weight is 0"
	case v.Dead:
		return "cannot be reached"
	case v.Status == healthcheck.Down:
		return "active check failed"
	case v.Failing:
		return "passive check failed"
	case v.Breaker != breaker.Closed:
		return "breaker is " + v.Breaker.String()
	default:
		return "not checked yet"
	}
}

// policyName is the name of the selection policy.
func (h *Handler) policyName() string {
	if m, ok := h.policy.(caddy.Module); ok {
		return m.CaddyModule().ID.Name()
	}
	return ""
}
