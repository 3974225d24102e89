package lbmodule

import (
	"context"
	"errors"
	"math"
	"net/http"
	"time"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

const (
	// maxHeld is how long a request waits at most while no backend has been checked yet.
	maxHeld = time.Second
	// minPoll is the least time between two looks at a pool, while somebody waits for it.
	minPoll = 10 * time.Millisecond
	// maxHolding is how many requests of a pool wait at a time until a dead backend is back.
	maxHolding = 10_000
	// maxReleases is how often a request is sent on its way after it has waited, should it find the backend dead again.
	maxReleases = 5
	// lastLook is for how long whoever is about to give up waits for the dead to be tried once more: the time between two tries may be
	// longer than what was left.
	lastLook = 100 * time.Millisecond
	// overtime is by how much an lb_try_interval that has begun may go beyond lb_try_duration. reverse_proxy lets it pass, too, and asks
	// once more after it; this is its default.
	overtime = 250 * time.Millisecond
)

// await waits until another choice may succeed, after one that failed with err. It returns false when the request has
// waited long enough, or its client is gone.
func (q *request) await(ctx context.Context, err error) bool {
	if ctx.Err() != nil {
		return false
	}
	snapshot := q.set.View().Snapshot()
	nobody := errors.Is(err, pool.ErrNone) || errors.Is(err, pool.ErrHeld)
	if nobody && len(snapshot.Eligible()) > 0 && !q.h.circuitBroken() {
		return true
	}
	if since := q.goneSince(snapshot, err); !since.IsZero() && q.h.hold > 0 {
		return q.holdOn(ctx, snapshot, since)
	}
	var until time.Time
	if errors.Is(err, pool.ErrHeld) {
		if q.heldUntil.IsZero() {
			q.heldUntil = time.Now().Add(maxHeld)
		}
		until = q.heldUntil
	}
	if q.h.retries.stock.waits() && q.stockLeft() > time.Until(until) && q.awaitStock(ctx, snapshot) {
		return true
	}
	left := time.Until(until)
	return left > 0 && (q.sleep(ctx, snapshot, min(left, maxHeld)) || ctx.Err() == nil)
}

// stockLeft is for how long the request may go on waiting as lb_try_duration says.
func (q *request) stockLeft() time.Duration {
	return q.h.retries.stock.duration - time.Since(q.started)
}

// awaitStock is await as reverse_proxy's words say: the dead are tried each lb_try_interval, and once more when the time is up. It
// returns false when that is over, or the client is gone.
func (q *request) awaitStock(ctx context.Context, snapshot *pool.Snapshot) bool {
	// A look counts as an attempt for lb_retries, which reverse_proxy would make.
	if n := q.h.retries.attempts; q.gaveUp || ctx.Err() != nil || n > 0 && max(q.attempts, 1)+q.looks >= n {
		return false
	}
	interval, left := max(q.h.retries.stock.interval, minPoll), q.stockLeft()
	d := min(interval, max(left, overtime))
	if left <= 0 {
		q.gaveUp = true
		interval, d = minPoll, lastLook
	}
	if !snapshot.Gone().IsZero() {
		q.h.pool.Hold(math.MaxInt) // counted only: reverse_proxy has no bound
		defer q.h.pool.EndHold()
	}
	q.stay()
	q.set.View().Look(interval, time.Now())
	if q.sleep(ctx, snapshot, d) {
		return true
	}
	q.looks++
	return ctx.Err() == nil
}

// sleep waits until there is another snapshot. It returns false when d is over before, or the client is gone.
func (q *request) sleep(ctx context.Context, snapshot *pool.Snapshot, d time.Duration) bool {
	defer func(start time.Time) { q.queued += time.Since(start) }(time.Now())
	superseded, changed := q.set.Superseded()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-snapshot.Replaced():
		return true
	case <-superseded:
		return true
	case <-changed:
		return true
	case <-timer.C:
		return false
	case <-ctx.Done():
		return false
	}
}

// goneSince is since when there has been nobody whom the request could go to, for no other reason than that no connection can be
// made; zero if that is not so.
func (q *request) goneSince(snapshot *pool.Snapshot, err error) time.Time {
	switch {
	case errors.Is(err, pool.ErrNone):
		return snapshot.Gone()
	case errors.Is(err, errSessionGone) && q.session.member >= 0:
		return q.set.View().Member(q.session.member).Died()
	default:
		return time.Time{}
	}
}

// holdOn waits until somebody is back. It returns false when the outage is older than `hold`, or the client is gone.
func (q *request) holdOn(ctx context.Context, snapshot *pool.Snapshot, since time.Time) bool {
	left := time.Until(since.Add(q.h.hold))
	if left <= 0 || !q.h.pool.Hold(maxHolding) {
		return false
	}
	defer q.h.pool.EndHold()
	q.stay()
	q.holds++
	woken := false
	if early := left - lastLook; early > 0 {
		if q.h.service.Quiet() && early > maxHeld {
			return q.sleep(ctx, snapshot, maxHeld) || ctx.Err() == nil // it may name others, and tells nobody
		}
		woken = q.sleep(ctx, snapshot, early)
		left = lastLook
	}
	if !woken && ctx.Err() == nil {
		q.set.View().Look(minPoll, time.Now())
		woken = q.sleep(ctx, snapshot, left)
	}
	q.patience = time.Now().Add(q.h.hold)
	return woken
}

// canHold tells whether the request, whose last attempt found no connection, may wait for one: nothing was sent.
func (q *request) canHold(r *http.Request) bool {
	return q.lost && q.h.hold > 0 && r.Context().Err() == nil && !q.body.failed() && q.body.rewindable()
}

// holdOut chooses the backend of another attempt after one that found no connection, when by the rules for retries there is none to be made,
// or nobody to make it to. Those who could not be connected to are dead then; the request goes to another, or waits for one to be back.
// That costs nothing of what retries may cost, because the request has not been sent.
func (q *request) holdOut(r *http.Request) bool {
	rules := &q.h.retries
	if retries := rules.attempts != 1 && (rules.stock != nil || rules.on[pool.RetryConnect]); !retries && q.others() {
		return false
	}
	q.lease.Release()
	now := time.Now()
	q.set.View().Lose(q.tried, now)
	q.unsent++
	q.patience = now.Add(q.h.hold)
	holds := q.holds
	if q.refused = q.choose(r, true); q.refused != nil {
		return false
	}
	if q.holds > holds {
		q.releases++
	}
	if q.releases > maxReleases {
		q.lease.Abandon()
		q.refused = pool.ErrNone
		return false
	}
	return true
}

// others tells whether there are backends that the request has not been to.
func (q *request) others() bool {
	if q.h.strict() && q.session.bound {
		return false
	}
	return q.set.View().Snapshot().Others(q.tried)
}

// stay keeps the request's set alive until leave is called: when the request has an answer, or is to have none.
func (q *request) stay() {
	if q.stays == q.set {
		return
	}
	q.set.Stay() // before it leaves another: what they share is to be tried without a gap
	q.leave()
	q.stays = q.set
}

// leave ends what stay began.
func (q *request) leave() {
	if q.stays != nil {
		q.stays.Leave()
		q.stays = nil
	}
}
