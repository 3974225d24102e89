package pool

import (
	"time"

	"github.com/ballastlb/ballast/breaker"
	"github.com/ballastlb/ballast/healthcheck"
)

// deadAfter is how many connections in a row must fail until a member is dead, where nothing is said about that.
const deadAfter = 5

const (
	// coldest is the share of its weight that a member is given when its slow start begins.
	coldest = 0.1
	// rampSteps is in how many steps the share rises, and rampStep the least time between two.
	rampSteps = 20
	rampStep  = 50 * time.Millisecond
)

// vitals are what is known of a member's health. They belong to the member and are the same for all views; what
// follows from them depends on the settings of the view.
type vitals struct {
	state   healthcheck.State
	last    healthcheck.Result // of the active check; the zero Result if there was none
	passive breaker.Window
	breaker breaker.Breaker // open as well while the member is dead
	blame   blame
	failing bool      // passive checks found the member unfit
	usable  bool      // so when last looked at
	proven  bool      // it has been usable
	cold    bool      // it has to be ramped up when it becomes usable
	ramp    time.Time // when the last ramp began; zero if there was none
	since   time.Time // when the member became what it is, usable or not

	died      time.Time // when it was last found that no connection can be made; zero while one can
	unreached bool      // state is down because the check could not connect
	redial    redialing
}

// condition is what a view makes of a member's vitals.
type condition struct {
	held      bool      // it waits for its first probe
	down      bool      // checks found it unfit
	died      time.Time // when it was found that no connection can be made; zero if it was not
	since     time.Time // of breaker
	breaker   breaker.State
	until     time.Time // when an open breaker turns half-open; zero if that is not a matter of time
	ejected   bool      // the breaker takes it out
	withdrawn bool      // people have taken it out
	proven    bool      // it has been usable
	warmth    float64   // share of its weight it is to get, up to 1
	next      time.Time // when this will be another without anything happening; zero if it will not
}

// fit tells whether nothing is wrong with it.
func (c *condition) fit() bool { return !c.held && !c.down && !c.ejected && !c.dead() }

// dead tells whether no connection can be made, so that trying makes no sense.
func (c *condition) dead() bool { return !c.died.IsZero() }

func (c *condition) usable() bool { return c.fit() && !c.withdrawn }

// lastResort tells whether the member may be used in a panic. One that has failed its first check never worked, as far
// as is known: while others still wait for theirs, these are waited for instead.
func (c *condition) lastResort(othersHeld bool) bool {
	return !c.held && !c.dead() && (c.proven || !othersHeld)
}

// flips are what turned over when a member was looked at.
type flips struct {
	passive bool
	breaker breaker.Transition
}

// examine tells what the settings of a view make of m, which is in that state there, and what turned over because of that.
func (m *Member) examine(s *Settings, state State, now time.Time) (c condition, f flips) {
	m.mu.Lock()
	defer m.mu.Unlock()
	h := m.vitals
	c.withdrawn = state != Ready
	if state == Maintenance {
		// It is not checked. When it comes back it may be another one.
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
	// Without a breaker only the dead are out, whatever it had found when there still was one.
	c.ejected = c.breaker != breaker.Closed && !s.DryRun && !s.ConnectionsOnly
	if usable := c.usable(); usable != h.usable || h.since.IsZero() {
		if usable && h.cold {
			h.ramp, h.cold = now, false
			m.latency.Forget() // it is of another life
		}
		h.usable, h.since = usable, now
	}
	h.proven = h.proven || h.usable
	c.proven = h.proven
	h.cold = h.cold || c.down || c.ejected || c.dead() || c.withdrawn
	c.warmth = 1
	if age := now.Sub(h.ramp); !h.ramp.IsZero() && age < s.SlowStart {
		c.warmth = coldest + (1-coldest)*max(float64(age), 0)/float64(s.SlowStart)
		c.soon(now.Add(max(s.SlowStart/rampSteps, rampStep)))
	}
	return c, f
}

// soon notes that the condition will be another at that time.
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

// judgePassive applies the passive checks and reports whether their verdict is another. It is called with m.mu held.
func (m *Member) judgePassive(p *Passive, now time.Time) (flipped bool) {
	h := m.vitals
	failing := false
	if p.Span > 0 && h.passive.Span() > 0 {
		n := h.passive.Counts(now)
		failing = p.MaxFails > 0 && n.Failures >= p.MaxFails ||
			p.MaxRatio > 0 && n.Requests >= p.MinRequests && float64(n.Failures) >= p.MaxRatio*float64(n.Requests)
	}
	flipped = failing != h.failing
	h.failing = failing
	return flipped
}

// Vitals is a member's health for those who show it.
type Vitals struct {
	Status healthcheck.Status // of the active check
	Usable bool
	Since  time.Time          // of Usable
	Last   healthcheck.Result // of the active check; the zero Result if there was none

	Failing bool // passive checks found the member unfit
	Dead    bool // no connection can be made
	Breaker breaker.State
	Cause   breaker.Cause          // why it opened last
	Until   time.Time              // when an open breaker turns half-open; zero if that is not a matter of time
	Turned  [breaker.States]uint64 // how often the breaker went into each state
}

// Vitals returns what is known of the member's health.
func (m *Member) Vitals() Vitals {
	m.mu.Lock()
	defer m.mu.Unlock()
	h := m.vitals
	v := Vitals{
		Status: h.state.Status, Usable: h.usable, Since: h.since, Last: h.last,
		Failing: h.failing, Dead: !h.died.IsZero(), Breaker: h.breaker.State(), Cause: h.breaker.Cause(), Turned: h.breaker.Turned(),
	}
	if v.Breaker == breaker.Open && !v.Dead {
		v.Until = h.breaker.Until()
	}
	return v
}

// wasUnreached tells whether all that checks have against a member that has worked is that they could not connect.
func (h *vitals) wasUnreached() bool {
	return h.state.Status == healthcheck.Down && h.unreached && h.proven
}

// Observer takes the results of an active check for a member.
type Observer struct {
	Member     *Member
	Thresholds healthcheck.Thresholds

	// Elsewhere tells that the probes are made at another address than the member's own. Then they say whether it is fit, but not
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
	m.vitals.state, m.vitals.last = after, r
	m.vitals.unreached = after.Status == healthcheck.Down && unreached && (m.vitals.unreached || before.Status != healthcheck.Down)
	m.mu.Unlock()
	// What happened to the backend is told before what follows for the pool.
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
		m.reached(now) // if it did not pass, it answers all the same
	}
	if after.Status != before.Status {
		m.refresh(now)
	}
	return after
}

// connected books whether a request could be given a connection to the member, which is dead after so many that could not.
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

// ObservePassive books a request for the passive checks of the view: whether it failed in their sense.
func (v *View) ObservePassive(i int, failed bool, now time.Time) {
	p := &v.settings.Passive
	if p.Span <= 0 {
		return
	}
	m := v.members[i]
	m.mu.Lock()
	w := &m.vitals.passive
	if w.Span() == 0 {
		*w = breaker.NewWindow(p.Span, now)
	} else if w.Span() != p.Span/10*10 {
		*w = w.Resized(p.Span, now)
	}
	w.Add(failed, false, now)
	before := m.vitals.failing
	flipped := m.judgePassive(p, now)
	// The views are to see the flip themselves, and to tell of it.
	m.vitals.failing = before
	m.mu.Unlock()
	if flipped {
		m.refresh(now)
	}
}
