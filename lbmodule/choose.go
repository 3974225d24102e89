package lbmodule

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

// requestVar is the request variable that holds the *request. Proxying clones the request but not its
// variables, so selector and transport find it there. A load balancer in handle_response routes of another
// overwrites it, after the other's last attempt.
const requestVar = "load_balancer.request"

// request is one client's request on its way through the load balancer: the attempt it is at, and those it had.
// It is used by one goroutine at a time.
type request struct {
	h       *Handler
	set     *memberSet // that lease and tried refer to
	lease   pool.Lease
	outcome pool.Outcome // of the attempt that lease is for

	attempts int
	tried    []int // positions in set of the members of attempts that failed
	refused  error // why the last choice yielded nobody; nil if it yielded somebody
	dynamic  bool  // set came from a dynamic source

	heldUntil time.Time // until when to wait for first probes to end; zero if there was no need to so far

	triedSpace [4]int // room for most tried lists
}

// selector is the place where reverse_proxy asks for the backend of the next attempt.
type selector struct{}

// Select implements reverseproxy.Selector. It does not look at the upstreams it is given: they are those of
// the config, and the pool knows them already.
func (selector) Select(_ reverseproxy.UpstreamPool, r *http.Request, w http.ResponseWriter) *reverseproxy.Upstream {
	return caddyhttp.GetVar(r.Context(), requestVar).(*request).next(r, w)
}

// next ends the attempt before, if there was one, and chooses the backend of the next.
func (q *request) next(r *http.Request, w http.ResponseWriter) *reverseproxy.Upstream {
	q.endAttempt()
	set, dynamic, err := q.h.members(r, q.attempts > 0)
	if err != nil {
		q.refused = err
		return nil
	}
	q.enter(set, dynamic)
	if q.h.CB != nil && !q.h.CB.OK() {
		q.refused = pool.ErrNone
		return nil
	}
	var u *reverseproxy.Upstream
	// The loop ends: awaitCheck waits for a second in all.
	for {
		u, q.lease, q.refused = set.acquire(q.h.policy, q.tried, r, w)
		if q.refused == nil {
			break
		}
		if !errors.Is(q.refused, pool.ErrHeld) || !q.awaitCheck(r.Context(), set) {
			return nil
		}
	}
	q.attempts++
	q.outcome = pool.Ignored // until the transport has been reached
	return u
}

// maxHeld is how long a request waits at most while no backend has been checked yet.
const maxHeld = time.Second

// awaitCheck waits until another choice may succeed where all that could be chosen wait for their first probe. It
// returns false when the request has waited long enough, or its client is gone.
func (q *request) awaitCheck(ctx context.Context, set *memberSet) bool {
	if q.heldUntil.IsZero() {
		q.heldUntil = time.Now().Add(maxHeld)
	}
	snapshot := set.view.Snapshot()
	if len(snapshot.Eligible()) > 0 {
		return true
	}
	timer := time.NewTimer(time.Until(q.heldUntil))
	defer timer.Stop()
	select {
	case <-snapshot.Replaced():
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

// enter makes set the one that the request chooses from.
func (q *request) enter(set *memberSet, dynamic bool) {
	q.dynamic = dynamic
	if q.set == set {
		return
	}
	before := q.set
	q.set = set
	if before == nil {
		q.tried = q.triedSpace[:0]
		return
	}
	// The dynamic source has named other backends meanwhile: those already tried may have moved.
	moved := q.tried[:0]
	for _, i := range q.tried {
		if at := set.find(before.view.Backend(i).Address); at >= 0 {
			moved = append(moved, at)
		}
	}
	q.tried = moved
}

// attempted is told how the round trip of the current attempt ended.
func (q *request) attempted(ctx context.Context, res *http.Response, err error, took time.Duration) {
	status := 0
	if res != nil {
		status = res.StatusCode
	}
	q.outcome = classify(ctx, status, err)
	q.observe(ctx, res, err, took)
	// reverse_proxy itself tells a circuit breaker about upstreams of the config only.
	if q.dynamic && q.h.CB != nil && err == nil {
		q.h.CB.RecordMetric(status, took)
	}
}

// endAttempt releases the lease of an attempt that did not answer the request.
func (q *request) endAttempt() {
	if !q.lease.Held() {
		return
	}
	q.tried = append(q.tried, q.lease.Index())
	q.lease.Release(q.outcome)
}

// end releases what the request still holds.
func (q *request) end() { q.lease.Release(q.outcome) }

// members returns the set that r is to be balanced over and whether a dynamic source named it.
func (h *Handler) members(r *http.Request, retry bool) (*memberSet, bool, error) {
	if h.dynamic != nil {
		set, err := h.dynamic.members(r, retry)
		if err == nil {
			return set, true, nil
		}
		if h.static == nil {
			return nil, false, err
		}
		// Upstreams of the config stand in for a dynamic source that cannot answer.
	}
	return h.static, false, nil
}
