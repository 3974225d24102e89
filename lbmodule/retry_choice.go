package lbmodule

import (
	"context"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

// reserve chooses the backend of another attempt and reserves it; the attempt before ended for that reason. It waits
// where that makes sense. It returns false when there is to be none.
func (q *request) reserve(r *http.Request, res *http.Response, reason pool.RetryReason) bool {
	rules := &q.h.retries
	if res == nil {
		q.lease.Release() // it is of no use any more, and its backend may be the only one
	}
	if s := rules.stock; s != nil {
		return q.reserveStock(r, res, reason)
	}
	next, err := q.chooseNext(r)
	if err != nil {
		return false
	}
	same := next.lease.Held() && slices.Contains(q.tried, next.lease.Index())
	if next.lease.Held() && (reason != pool.RetryConnect && q.set.View().Doubtful(next.lease.Index(), time.Now()) ||
		same && res != nil && res.Header.Get("Retry-After") != "") {
		next.lease.Abandon()
		return false
	}
	if same {
		// A pause helps the backend that has just failed; it would not help another one.
		next.lease.Abandon()
		if !q.pause(r.Context(), rand.N(max(min(rules.base<<min(q.attempts-1, 20), rules.max), 1))) {
			return false
		}
		if next, err = q.chooseNext(r); err != nil {
			return false
		}
	}
	return q.spend(next, reason, false)
}

// reserveStock is reserve by reverse_proxy's words.
func (q *request) reserveStock(r *http.Request, res *http.Response, reason pool.RetryReason) bool {
	s := q.h.retries.stock
	if s.duration > 0 && q.stockLeft() <= 0 {
		return false
	}
	waited := false
	if q.lost && s.waits() && !q.others() {
		// Those who are back are found sooner than by asking them in turn.
		q.set.View().Lose(q.tried, time.Now())
		waited = true
	} else if !q.pause(r.Context(), s.interval) {
		return false
	}
	for ; ; waited = true {
		snapshot := q.set.View().Snapshot()
		next, err := q.chooseNext(r)
		if err == nil && waited && next.lease.Held() && next.lease.Dead() {
			next.lease.Abandon() // the snapshot does not show that yet
			err = pool.ErrNone
		}
		switch {
		case err == nil && waited:
			q.choice = next
			return true
		case err == nil:
			return q.spend(next, reason, q.lost && s.waits())
		case res != nil || s.duration == 0:
			return false // an answer is better than waiting for another
		}
		if !q.awaitStock(r.Context(), snapshot) {
			return false
		}
	}
}

// maxSuspects is how many backends another attempt passes over because they failed last.
const maxSuspects = 3

// chooseNext chooses and reserves the backend of another attempt: one that this request has not been to, and that did not
// fail when it was asked last, if there is one at hand.
func (q *request) chooseNext(r *http.Request) (choice, error) {
	set, err := q.h.service.Members(r, true)
	if err != nil {
		return choice{}, err
	}
	q.enter(set)
	best, err := q.acquire(r)
	tried := q.tried
	defer func() { q.tried = tried }()
	for range maxSuspects {
		if err != nil || !q.suspect(best, tried) {
			break
		}
		q.tried = append(slices.Clone(q.tried), best.lease.Index())
		other, none := q.acquire(r)
		if none != nil {
			break
		}
		if q.suspect(other, tried) || slices.Contains(q.tried, other.lease.Index()) {
			other.lease.Abandon()
			continue
		}
		best.lease.Abandon()
		best = other
	}
	return best, err
}

// suspect tells whether that choice is a backend that failed when it was asked last, though not by this request.
func (q *request) suspect(c choice, tried []int) bool {
	return c.lease.Held() && !slices.Contains(tried, c.lease.Index()) && q.set.View().Suspect(c.lease.Index())
}

// spend takes the retry from the pool's budget and makes next the backend of the next attempt. Waiting for a backend to
// become usable costs nothing. If free, nothing has been sent yet, and there is another attempt even when the budget is spent. Then so
// many connections are being refused that the backends tried are taken for dead at once, so that no other request has to try them.
func (q *request) spend(next choice, reason pool.RetryReason, free bool) bool {
	if now := time.Now(); !q.h.pool.SpendRetry(q.h.retries.budget, reason, now) {
		if !free {
			next.lease.Abandon()
			return false
		}
		q.set.View().Lose(q.tried, now)
	}
	q.lease.Release() // of an answer that is dropped
	q.choice = next
	return true
}

// pause waits for d. It returns false if the client does not wait as long.
func (q *request) pause(ctx context.Context, d time.Duration) bool {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= d || ctx.Err() != nil {
		return false
	}
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
