package pool

import (
	"context"
	"errors"
	"net"
	"slices"
	"syscall"
	"time"

	"github.com/ballastlb/ballast/breaker"
	"github.com/ballastlb/ballast/healthcheck"
)

// A dead member is redialed in the background, so that no request is risked and a restarted backend is used again as soon as it listens.
// There is one timer for each dead member, which is set only while a dialer is registered for it, and one connection attempt at a time,
// however many requests and views there are.

const (
	// firstRedial is the delay from a member's death to its first redial. It doubles with each failure, up to maxRedial.
	firstRedial = 100 * time.Millisecond
	maxRedial   = time.Second
	// redialJitter is the share by which a delay is shortened at random, so that members that died together are not redialed together.
	redialJitter = 0.2
)

// Dialer connects to the backend with this address and closes the connection, or returns why it cannot. It must return when ctx is done.
type Dialer func(ctx context.Context, address string) error

// ErrNotTried is returned by a [Dialer] that could not try to connect, for a reason that is not the backend's.
var ErrNotTried = errors.New("connecting was not tried")

// redialing is the state of redialing a dead member. Member.mu guards it.
type redialing struct {
	timer   Timer              // fires when the next connection is due; nil before the first time
	due     time.Time          // when timer fires
	delay   time.Duration      // from the last failed connection to the next
	suspect bool               // the breaker has opened: the next redial finds out whether the member is dead
	end     context.CancelFunc // cancels the current connection attempt; nil if there is none
}

// Redial makes dial redial m whenever m is dead, until EndRedial. Of several dialers the latest is used; one of a config that has ended is used
// only if there is no other.
func (m *Member) Redial(dial *Dialer, ended bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	h := m.vitals
	h.givenUp = false
	at := len(h.dialers)
	if ended {
		at = 0
	}
	if h.dialers = slices.Insert(h.dialers, at, dial); len(h.dialers) == 1 && m.dead.Load() {
		m.arm(firstRedial)
	}
}

// EndRedial undoes one Redial, if there was one.
func (m *Member) EndRedial(dial *Dialer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	h := m.vitals
	i := slices.Index(h.dialers, dial)
	if i < 0 {
		return
	}
	if h.dialers = slices.Delete(h.dialers, i, i+1); len(h.dialers) == 0 {
		h.givenUp = m.dead.Load()
		m.disarm()
	}
}

// forget treats a dead member as possibly alive if it has not been redialed for some time, because it was in maintenance or in no config.
// The caller holds m.mu.
func (m *Member) forget(now time.Time) (turned breaker.Transition) {
	h := m.vitals
	if !h.givenUp {
		return turned
	}
	h.givenUp = false
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

// arm schedules a redial of m after that time, if a dialer is registered and none is running. The caller holds m.mu.
func (m *Member) arm(delay time.Duration) {
	h := m.vitals
	if h.redial == nil {
		h.redial = new(redialing)
	}
	r := h.redial
	r.delay = delay
	if len(h.dialers) == 0 || r.end != nil {
		return
	}
	delay -= time.Duration(redialJitter * m.pool.Dice().Float64() * float64(delay))
	r.due = m.pool.now().Add(delay)
	if r.timer == nil {
		r.timer = m.pool.afterFunc(delay, m.redial)
		return
	}
	r.timer.Reset(delay)
}

// disarm stops redialing m. The caller holds m.mu.
func (m *Member) disarm() {
	r := m.vitals.redial
	if r == nil {
		return
	}
	r.due = time.Time{}
	if r.timer != nil {
		r.timer.Stop()
	}
	if r.end != nil {
		r.end()
	}
}

// suspectDead is called when the breaker of m has opened. A backend that is killed breaks the connections of some requests and refuses
// those of others: too few may be refused in a row to make it dead. One more connection, in the background, finds out whether it is.
// Otherwise its return would be noticed only when the open time has passed. None is made in a dry run, in which no breaker may take a
// member out.
func (m *Member) suspectDead(s *Settings) {
	if !s.Dials || s.DryRun {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	h := m.vitals
	if m.dead.Load() || len(h.dialers) == 0 || h.redial != nil && h.redial.end != nil {
		return
	}
	m.arm(0)
	h.redial.suspect = true
}

// redial redials m once.
func (m *Member) redial() {
	m.mu.Lock()
	h := m.vitals
	r := h.redial
	suspect := r.suspect && !m.dead.Load()
	r.suspect = false
	if !m.dead.Load() && !suspect || len(h.dialers) == 0 || r.end != nil {
		m.mu.Unlock()
		return
	}
	dial, died := *h.dialers[len(h.dialers)-1], h.died
	opened := h.breaker.Generation()
	ctx, cancel := context.WithCancel(context.Background())
	r.end = cancel
	m.mu.Unlock()
	began := m.pool.now()
	err := dial(ctx, m.address)
	m.mu.Lock()
	stopped := ctx.Err() != nil
	cancel()
	r.end = nil
	reached := err == nil && !stopped && m.vitals.died.Equal(died)
	found := suspect && err != nil && !stopped && !errors.Is(err, ErrNotTried) && !m.dead.Load() && m.vitals.breaker.Explain(opened)
	if m.dead.Load() && !reached {
		m.arm(min(max(2*r.delay, firstRedial), maxRedial))
	}
	m.mu.Unlock()
	switch {
	case reached:
		m.reached(m.pool.now())
	case found:
		m.lost(true, m.pool.now())
	}
	if !stopped && m.dead.Load() {
		m.moveWaiting(err, began, m.pool.now())
	}
}

// lost marks m as dead: no connection to it can be made. If requests found that, its breaker stays open for as long; a check reports its
// findings itself.
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

// moveWaiting moves the requests that wait for an answer of m to other members, if m is silent. It is called when an attempt to connect, or
// a check, has failed with err; began is when that attempt began. Only silence shows that requests wait in vain. A host that refuses
// connections is alive: if the process had died, the host would have reset the requests' connections, and a process may have stopped
// listening while it finishes its requests. A process with a full backlog, or one whose check hangs, is silent as well, but still answers
// requests, which HeardSince shows.
func (m *Member) moveWaiting(err error, began, now time.Time) {
	if isSilence(err) && m.load.Load() > 0 && !m.latency.HeardSince(began) {
		m.pool.Live.MoveFrom(m.address, now)
	}
}

// isSilence reports whether err means that nothing has answered, not even with a refusal. It excludes the timeouts of a name server and of
// a unix socket whose backlog is full.
func isSilence(err error) bool {
	if _, lookup := errors.AsType[*net.DNSError](err); lookup || errors.Is(err, syscall.EAGAIN) {
		return false
	}
	timeout, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err)
	return ok && timeout.Timeout() || errors.Is(err, syscall.EHOSTUNREACH)
}

// reached records that a connection to m could be made. m is no longer dead, and no longer down either if connecting was all that its
// active check found wrong. A member that has never worked still waits for its check.
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

// hurryOthers redials all members at once if all were dead: their common problem is over, and m must not carry the load of all for long.
func (m *Member) hurryOthers() {
	for w := range m.watchers.Load().all {
		if !w.view.snap.Load().Gone().IsZero() {
			w.view.hurry()
		}
	}
}

// lookCost is the minimum time per member between two looks: even with a short interval, there are at most a thousand connections a
// second.
const lookCost = time.Millisecond

// Look redials the dead members at once, but at most once per interval, and less often in large pools.
func (v *View) Look(interval time.Duration, now time.Time) {
	interval = max(interval, time.Duration(len(v.members))*lookCost)
	last := v.looked.Load()
	if now.UnixNano()-last >= int64(interval) && v.looked.CompareAndSwap(last, now.UnixNano()) {
		v.hurry()
	}
}

// hurrySpread is the average time between two members that are redialed at once, so that a large pool does not make as many connections
// at the same time as it has members.
const hurrySpread = 50 * time.Microsecond

// hurry redials the dead members at once.
func (v *View) hurry() {
	now := v.pool.now()
	for i, m := range v.members {
		delay := time.Duration(i) * hurrySpread
		m.mu.Lock()
		if r := m.vitals.redial; m.dead.Load() && (r.due.Before(now) || r.due.After(now.Add(delay))) {
			before := r.delay
			m.arm(delay)
			r.delay = before // this connection is an additional one, not the first of a series
		}
		m.mu.Unlock()
	}
}

// tellBreaker reports for all views that m's breaker has changed its state.
func (m *Member) tellBreaker(t breaker.Transition) {
	if t.Happened() {
		m.pool.report(Event{Kind: BreakerTurned, Pool: m.pool.name, Backend: m.address, Reason: t.Cause.String(), Breaker: t})
	}
}

// Lose marks the members at these positions whose last connections failed as dead. It is called when a request found no other member, so
// that later requests do not have to try these members.
func (v *View) Lose(positions []int, now time.Time) {
	for _, i := range positions {
		if m := v.members[i]; m.refused.Load() > 0 && !v.backends[i].Unchecked {
			m.lost(true, now)
		}
	}
}
