package pool

import (
	"math"
	"time"

	"github.com/ballastlb/ballast/breaker"
	"github.com/ballastlb/ballast/healthcheck"
)

// deadAfter is the default number of consecutive failed connections after which a member is dead.
const deadAfter = 5

const (
	// coldest is the share of its weight that a member has at the start of its slow start.
	coldest = 0.1
	// rampSteps is the number of steps in which the share rises, and rampStep the minimum time between two steps.
	rampSteps = 20
	rampStep  = 50 * time.Millisecond
)

// vitals is the known health of a member. It belongs to the member and is the same for all views; what follows from it depends on each
// view's settings.
type vitals struct {
	state   healthcheck.State
	last    *healthcheck.Result // of the active check; nil before the first probe
	passive *breaker.Window     // nil until passive checks have seen a request
	breaker breaker.Breaker     // also open while the member is dead
	blame   *blame              // nil before the first request
	ramp    *ramp               // the last one; nil before the first
	since   time.Time           // when usable last changed
	outages outages
	died    time.Time // when connecting was last found impossible; zero while it is possible
	fault   string    // of the last failure or slow answer

	dialers []*Dialer  // registered by [Member.Redial]; the latest is used
	redial  *redialing // nil until it was first redialed

	failing   bool // passive checks found the member unfit
	usable    bool // its value at the last look
	proven    bool // it has been usable before
	cold      bool // it must be ramped up when it becomes usable
	unreached bool // state is down because the check could not connect
	givenUp   bool // the member is no longer redialed, so it may be alive again
}

// outages counts how often and for how long a member was down.
type outages struct {
	count uint64
	past  time.Duration
	began time.Time // start of the current outage; zero if there is none
}

// look notes whether the member is down.
func (o *outages) look(down bool, now time.Time) {
	switch {
	case down && o.began.IsZero():
		o.began = now
		o.count++
	case !down && !o.began.IsZero():
		o.past += max(now.Sub(o.began), 0)
		o.began = time.Time{}
	}
}

// total returns for how long the member was down in all.
func (o *outages) total(now time.Time) time.Duration {
	if o.began.IsZero() {
		return o.past
	}
	return o.past + max(now.Sub(o.began), 0)
}

// ramp is a slow start.
type ramp struct {
	began time.Time
	away  time.Duration // for how long the member was not usable before
}

// condition is what a view concludes from a member's vitals.
type condition struct {
	held      bool      // waits for its first probe
	down      bool      // checks found it unhealthy
	died      time.Time // when connecting was found impossible; zero if it is possible
	since     time.Time // of breaker
	breaker   breaker.State
	until     time.Time // when an open breaker turns half-open; zero if that does not depend on time
	ejected   bool      // the breaker takes it out
	withdrawn bool      // an administrator has taken it out
	proven    bool      // it has been usable before
	warmth    float64   // the share of its weight that it gets, up to 1
	next      time.Time // when the condition changes by the passage of time alone; zero if it does not
}

// fit reports whether nothing is wrong with the member.
func (c *condition) fit() bool { return !c.held && !c.down && !c.ejected && !c.dead() }

// dead reports whether no connection to the member can be made, so that attempts are pointless.
func (c *condition) dead() bool { return !c.died.IsZero() }

func (c *condition) usable() bool { return c.fit() && !c.withdrawn }

// lastResort reports whether the member may be used in a panic. A member that failed its first check may never have worked; while other
// members still wait for their first check, requests wait for those instead.
func (c *condition) lastResort(othersHeld bool) bool {
	return !c.held && !c.dead() && (c.proven || !othersHeld)
}

// flips lists what changed when a member was examined.
type flips struct {
	passive bool
	breaker breaker.Transition
}

// examine returns the condition of m, whose state in the view is given, and what has changed because of it.
func (m *Member) examine(s *Settings, state State, now time.Time) (c condition, f flips) {
	m.mu.Lock()
	defer m.mu.Unlock()
	h := m.vitals
	c.withdrawn = state != Ready
	if state == Maintenance {
		// It is not checked in maintenance, and may be another process when it comes back.
		h.state = healthcheck.State{}
	}
	f.breaker = m.forget(now)
	down := false
	if s.Checked {
		unknown := h.state.Status == healthcheck.Unknown
		c.held = unknown && s.Initial == HoldUntilChecked
		down = h.state.Status == healthcheck.Down || unknown && s.Initial == StartDown
	}
	f.passive = m.judgePassive(&s.Passive, now)
	if h.failing {
		c.soon(h.passive.NextExpiry(now))
	}
	c.down = down || h.failing
	c.died = h.died
	if !c.dead() {
		if turned := h.breaker.Tick(now); turned.Happened() {
			f.breaker = turned
			m.life.Store(h.breaker.Generation())
		}
		if h.breaker.State() == breaker.Open {
			c.until = h.breaker.Until()
			c.soon(c.until)
		}
	}
	c.breaker, c.since = h.breaker.State(), h.breaker.Since()
	// Without a breaker, only dead members are out, whatever the breaker found while there was one.
	c.ejected = c.breaker != breaker.Closed && !s.DryRun && !s.ConnectionsOnly
	if usable := c.usable(); usable != h.usable || h.since.IsZero() {
		if usable && h.cold {
			h.ramp, h.cold = &ramp{now, now.Sub(h.since)}, false
			if !h.proven {
				h.ramp.away = math.MaxInt64 // it may be a backend that has never worked
			}
			m.latency.Forget() // it belongs to the previous process
			m.forgetLimit()
			m.forgetShades()
		}
		h.usable, h.since = usable, now
	}
	if h.proven {
		h.outages.look(c.down || c.ejected || c.dead(), now)
	}
	h.proven = h.proven || h.usable
	c.proven = h.proven
	h.cold = h.cold || c.down || c.ejected || c.dead() || c.withdrawn
	c.warmth = 1
	if h.ramp != nil {
		if age, length := now.Sub(h.ramp.began), s.rampOf(h.ramp.away); age < length {
			c.warmth = coldest + (1-coldest)*max(float64(age), 0)/float64(length)
			c.soon(now.Add(max(length/rampSteps, rampStep)))
		}
	}
	return c, f
}

// rampOf returns for how long a member is ramped up that was away for that long.
func (s *Settings) rampOf(away time.Duration) time.Duration {
	if s.ShortestRamp <= 0 {
		return s.SlowStart
	}
	return min(max(away, s.ShortestRamp), s.SlowStart)
}

// soon records that the condition changes at that time.
func (c *condition) soon(at time.Time) {
	if c.next.IsZero() || !at.IsZero() && at.Before(c.next) {
		c.next = at
	}
}

func (s *Settings) deadAfter() int32 {
	if s.DeadAfter > 0 {
		return int32(s.DeadAfter)
	}
	return deadAfter
}

// judgePassive applies the passive checks and reports whether their verdict has changed. The caller holds m.mu.
func (m *Member) judgePassive(p *Passive, now time.Time) (flipped bool) {
	h := m.vitals
	failing := false
	if p.Span > 0 && h.passive != nil {
		n := h.passive.Counts(now)
		failing = p.MaxFails > 0 && n.Failures >= p.MaxFails ||
			p.MaxRatio > 0 && n.Requests >= p.MinRequests && float64(n.Failures) >= p.MaxRatio*float64(n.Requests)
	}
	flipped = failing != h.failing
	h.failing = failing
	return flipped
}

// Vitals is a member's health for display.
type Vitals struct {
	Status healthcheck.Status // of the active check
	Usable bool
	Since  time.Time          // when Usable last changed
	Last   healthcheck.Result // of the active check; the zero Result before the first probe

	Downs   uint64        // how often it went down since it was first usable, not counting administrative states
	DownFor time.Duration // for how long it was down in all, up to now

	Failing bool // passive checks found the member unhealthy
	Dead    bool // no connection can be made
	Breaker breaker.State
	Cause   breaker.Cause          // why the breaker opened last
	Fault   string                 // what was wrong with the last answer that the breaker counted as bad; "" if unknown
	Until   time.Time              // when an open breaker turns half-open; zero if that does not depend on time
	Turned  [breaker.States]uint64 // number of transitions into each state
}

// Vitals returns the member's health.
func (m *Member) Vitals() Vitals {
	m.mu.Lock()
	defer m.mu.Unlock()
	h := m.vitals
	v := Vitals{
		Status: h.state.Status, Usable: h.usable, Since: h.since, Downs: h.outages.count, DownFor: h.outages.total(m.pool.now()),
		Failing: h.failing, Dead: !h.died.IsZero(), Breaker: h.breaker.State(), Cause: h.breaker.Cause(), Fault: h.fault, Turned: h.breaker.Turned(),
	}
	if h.last != nil {
		v.Last = *h.last
	}
	if v.Breaker == breaker.Open && !v.Dead {
		v.Until = h.breaker.Until()
	}
	return v
}

// wasUnreached reports whether the member has worked before, and the only thing that checks found is that they could not connect.
func (h *vitals) wasUnreached() bool {
	return h.state.Status == healthcheck.Down && h.unreached && h.proven
}

// Observer receives the results of an active check for a member.
type Observer struct {
	Member     *Member
	Thresholds healthcheck.Thresholds

	// Elsewhere says that probes go to another address than the member's own. Then they show whether the member is healthy, but not
	// whether it can be connected to.
	Elsewhere bool
}

// State implements [probe.Observer].
func (o Observer) State() healthcheck.State {
	o.Member.mu.Lock()
	defer o.Member.mu.Unlock()
	return o.Member.vitals.state
}

// Observe implements [probe.Observer].
func (o Observer) Observe(r healthcheck.Result) healthcheck.State {
	m, now := o.Member, r.Time.Add(r.Took)
	unreached := r.Refused && !o.Elsewhere
	m.mu.Lock()
	before := m.vitals.state
	after := before.After(r.OK(), o.Thresholds)
	if r.OK() && !o.Elsewhere && m.vitals.wasUnreached() {
		after = healthcheck.State{Status: healthcheck.Up}
	}
	m.vitals.state, m.vitals.last = after, &r
	m.vitals.unreached = after.Status == healthcheck.Down && unreached && (m.vitals.unreached || before.Status != healthcheck.Down)
	m.mu.Unlock()
	// The member's event is reported before the pool's.
	switch e := (Event{Pool: m.pool.name, Backend: m.address, Reason: ReasonCheck, Err: r.Err}); {
	case after.Status == before.Status:
	case after.Status == healthcheck.Down:
		e.Kind = BackendDown
		m.pool.report(e)
	case before.Status == healthcheck.Down:
		e.Kind = BackendUp
		m.pool.report(e)
	}
	switch {
	case unreached && after.Status == healthcheck.Down:
		m.lost(false, now)
	case (r.OK() || r.Code != 0) && !o.Elsewhere:
		m.reached(now) // even a failed probe shows that the member answers
	}
	if after.Status != before.Status {
		m.refresh(now)
	}
	// A backend that answers its check, even with a failure, may still finish the requests that it has.
	if after.Status == healthcheck.Down && r.Code == 0 && !o.Elsewhere {
		m.moveWaiting(r.Err, r.Time, now)
	}
	return after
}

// connected records whether a request could connect to the member. After several failures in a row the member is dead.
func (m *Member) connected(ok bool, after int32, now time.Time) {
	switch {
	case !ok:
		if m.refused.Add(1) >= after && !m.dead.Load() {
			m.lost(true, now)
		}
	case m.refused.Load() != 0:
		m.reached(now)
	}
}

// ObservePassive records a request for the view's passive checks: whether they count it as failed.
func (v *View) ObservePassive(i int, failed bool, now time.Time) {
	p := &v.settings.Passive
	if p.Span <= 0 {
		return
	}
	m := v.members[i]
	m.mu.Lock()
	if w := m.vitals.passive; w == nil {
		fresh := breaker.NewWindow(p.Span, now)
		m.vitals.passive = &fresh
	} else if w.Span() != p.Span/10*10 {
		*w = w.Resized(p.Span, now)
	}
	m.vitals.passive.Add(failed, false, now)
	before := m.vitals.failing
	flipped := m.judgePassive(p, now)
	// Each view must see the change itself, and report it.
	m.vitals.failing = before
	m.mu.Unlock()
	if flipped {
		m.refresh(now)
	}
}
