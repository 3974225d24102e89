package pool

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/ballastlb/ballast/breaker"
	"github.com/ballastlb/ballast/healthcheck"
)

// A dead member is tried in the background, by connecting to it: requests are none to make experiments with, and a backend that
// restarts is to be back when it is. There is one timer for each dead member, which is set only while somebody wants it to be
// tried, and one connection at a time, however many requests and views there are.

const (
	// firstRedial is when a member is tried after it died. The time doubles with each connection that fails, up to maxRedial.
	firstRedial = 100 * time.Millisecond
	maxRedial   = time.Second
	// redialJitter is the share of the time that chance takes off, so that members that died together are not tried together.
	redialJitter = 0.2
)

// Dialer makes a connection to a backend and closes it, or tells why there can be none. It must return when ctx is done.
type Dialer func(ctx context.Context) error

// redialing is how a dead member is tried. Member.mu guards it.
type redialing struct {
	dialers []*Dialer          // of those who want it to be tried; the latest is used
	givenUp bool               // nobody tries it any more, so that nobody knows whether it is still dead
	timer   *time.Timer        // fires when the next connection is due; nil if there was none yet
	due     time.Time          // when that is
	delay   time.Duration      // from the connection that failed last to the next
	end     context.CancelFunc // ends the connection that is being made; nil if there is none
}

// Redial has m tried by dial whenever it is dead, until the returned function is called. Of several the latest is used, and one of a
// config that has ended only where there is no other.
func (m *Member) Redial(dial Dialer, ended bool) (stop func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := &dial
	r := &m.vitals.redial
	r.givenUp = false
	at := len(r.dialers)
	if ended {
		at = 0
	}
	if r.dialers = slices.Insert(r.dialers, at, d); len(r.dialers) == 1 && m.dead.Load() {
		m.arm(firstRedial)
	}
	return func() { m.endRedial(d) }
}

func (m *Member) endRedial(d *Dialer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := &m.vitals.redial
	for i, other := range r.dialers {
		if other == d {
			r.dialers = slices.Delete(r.dialers, i, i+1)
			break
		}
	}
	if len(r.dialers) == 0 {
		r.givenUp = m.dead.Load()
		m.disarm()
	}
}

// forget takes a dead member for one that may be alive, if nobody has tried it for some time: it was in maintenance, or in no config.
// The caller holds m.mu.
func (m *Member) forget(now time.Time) (turned breaker.Transition) {
	h := m.vitals
	if !h.redial.givenUp {
		return turned
	}
	h.redial.givenUp = false
	if !m.dead.Load() {
		return turned
	}
	h.died = time.Time{}
	m.dead.Store(false)
	m.refused.Store(0)
	turned = h.breaker.Reach(now)
	m.life.Store(h.breaker.Generation())
	m.noteSlot()
	if h.wasUnreached() {
		h.state = healthcheck.State{}
	}
	return turned
}

// arm has m be tried after that time, if somebody wants it and nobody is at it. It is called with m.mu held.
func (m *Member) arm(delay time.Duration) {
	r := &m.vitals.redial
	r.delay = delay
	if len(r.dialers) == 0 || r.end != nil {
		return
	}
	delay -= time.Duration(redialJitter * rand.Float64() * float64(delay))
	r.due = time.Now().Add(delay)
	if r.timer == nil {
		r.timer = time.AfterFunc(delay, m.redial)
		return
	}
	r.timer.Reset(delay)
}

// disarm ends that m is tried. It is called with m.mu held.
func (m *Member) disarm() {
	r := &m.vitals.redial
	r.due = time.Time{}
	if r.timer != nil {
		r.timer.Stop()
	}
	if r.end != nil {
		r.end()
	}
}

// redial tries m.
func (m *Member) redial() {
	m.mu.Lock()
	r := &m.vitals.redial
	if !m.dead.Load() || len(r.dialers) == 0 || r.end != nil {
		m.mu.Unlock()
		return
	}
	dial, died := *r.dialers[len(r.dialers)-1], m.vitals.died
	ctx, cancel := context.WithCancel(context.Background())
	r.end = cancel
	m.mu.Unlock()
	err := dial(ctx)
	m.mu.Lock()
	stopped := ctx.Err() != nil
	cancel()
	r.end = nil
	reached := err == nil && !stopped && m.vitals.died.Equal(died)
	if m.dead.Load() && !reached {
		m.arm(min(max(2*r.delay, firstRedial), maxRedial))
	}
	m.mu.Unlock()
	if reached {
		m.reached(time.Now())
	}
}

// lost makes m dead: no connection to it can be made. If it was requests that found that, its breaker is open for as long as that is so;
// a check tells of what it finds itself.
func (m *Member) lost(byRequests bool, now time.Time) {
	p := m.pool
	p.ejecting.Lock()
	m.mu.Lock()
	if m.dead.Load() {
		m.mu.Unlock()
		p.ejecting.Unlock()
		return
	}
	m.vitals.died = now
	m.dead.Store(true)
	m.deaths.Add(1)
	var turned breaker.Transition
	if byRequests {
		turned = m.vitals.breaker.Lose(now)
	}
	m.life.Store(m.vitals.breaker.Generation())
	m.noteSlot()
	m.arm(firstRedial)
	m.mu.Unlock()
	if turned.Happened() {
		m.countEjection(true)
		m.noteOpened(false)
	}
	events := m.refreshQuietly(now)
	p.ejecting.Unlock()
	m.tellBreaker(turned)
	p.Report(events)
}

// reached books that a connection to m could be made. If it was dead it is not any more, and not down either if that is all that
// its active check had found. One that has never worked waits for its check.
func (m *Member) reached(now time.Time) {
	m.refused.Store(0)
	if !m.dead.Load() {
		return
	}
	m.mu.Lock()
	if !m.dead.Load() {
		m.mu.Unlock()
		return
	}
	h := m.vitals
	h.died = time.Time{}
	m.dead.Store(false)
	m.disarm()
	turned := h.breaker.Reach(now)
	m.life.Store(h.breaker.Generation())
	m.noteSlot()
	up := h.wasUnreached()
	if up {
		h.state = healthcheck.State{Status: healthcheck.Up}
	}
	m.mu.Unlock()
	m.hurryOthers()
	if up {
		m.pool.report(Event{Kind: BackendUp, Pool: m.pool.name, Backend: m.address, Reason: ReasonConnected})
	}
	m.tellBreaker(turned)
	m.refresh(now)
}

// hurryOthers has all members be tried where all were dead: what was wrong with them is over, and m must not take the load of all
// for long.
func (m *Member) hurryOthers() {
	watchers := m.watchers.Load()
	if watchers == nil {
		return
	}
	for _, w := range *watchers {
		if !w.view.snap.Load().Gone().IsZero() {
			w.view.hurry()
		}
	}
}

// lookCost is what a look takes at least for each member: however short the interval, there are at most a thousand connections a second.
const lookCost = time.Millisecond

// Look has the dead members be tried at once, but not more often than each interval, nor than so many members allow.
func (v *View) Look(interval time.Duration, now time.Time) {
	interval = max(interval, time.Duration(len(v.members))*lookCost)
	last := v.looked.Load()
	if now.UnixNano()-last >= int64(interval) && v.looked.CompareAndSwap(last, now.UnixNano()) {
		v.hurry()
	}
}

// hurrySpread is what comes between two members that are tried at once, on average, so that a large pool does not have as many
// connections being made as it has members.
const hurrySpread = 50 * time.Microsecond

// hurry has the dead members be tried at once.
func (v *View) hurry() {
	now := time.Now()
	for i, m := range v.members {
		delay := time.Duration(i) * hurrySpread
		m.mu.Lock()
		r := &m.vitals.redial
		if m.dead.Load() && (r.due.Before(now) || r.due.After(now.Add(delay))) {
			before := r.delay
			m.arm(delay)
			r.delay = before // it is one more connection, not the first of many
		}
		m.mu.Unlock()
	}
}

// tellBreaker reports that the breaker of m has turned, for all views.
func (m *Member) tellBreaker(t breaker.Transition) {
	if t.Happened() {
		m.pool.report(Event{Kind: BreakerTurned, Pool: m.pool.name, Backend: m.address, Reason: t.Cause.String(), Breaker: t})
	}
}

// Lose makes those of the members at these positions dead whose last connections failed. It is for a request that has found no other
// member to go to: they are not worth finding out about by further requests.
func (v *View) Lose(positions []int, now time.Time) {
	for _, i := range positions {
		if m := v.members[i]; m.refused.Load() > 0 && !v.backends[i].Unchecked {
			m.lost(true, now)
		}
	}
}
