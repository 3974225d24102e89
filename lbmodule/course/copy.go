package course

import (
	"time"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

// Copy makes the decisions for a hedge: a copy of a request, sent to another backend while the first attempt waits for its answer. Another
// goroutine may use it concurrently with the course.
type Copy struct {
	rules   *Rules
	pool    *pool.Pool
	members Members
	key     pool.Key
	origin  pool.Origin
	first   int // position of the backend of the first attempt
}

// Copy returns the decisions for a copy of the request, and after which time the copy may be sent. ok is false if no copy may be sent. The
// request must have no body.
func (c *Course) Copy(now time.Time) (copied Copy, after time.Duration, ok bool) {
	// No sessions: another backend would not know the session.
	if !c.rules.Hedge.On || c.attempts > 1 || c.rules.Sessions || !c.choice.Lease.Held() || c.request.Upgrade() || !c.request.Idempotent() {
		return Copy{}, 0, false
	}
	after, known := c.pool.Latency.Quantile(c.rules.Hedge.Percentile, now)
	if !known || after <= 0 {
		return Copy{}, 0, false
	}
	return Copy{c.rules, c.pool, c.members, c.key, c.origin, c.choice.Lease.Index()}, after, true
}

// Choose chooses the backend of the copy and reserves a slot on it, if there is another one and the budgets allow a copy.
func (k *Copy) Choose(now time.Time) (Choice, bool) {
	if k.pool.QueueLength() > 0 || isSuperseded(k.members) {
		return Choice{}, false
	}
	view, key := k.members.View(), k.key
	key.Now = now
	lease, err := view.AcquireFor(key, []int{k.first}, false)
	if err != nil {
		return Choice{}, false
	}
	// An unchecked backend's address may depend on the request, and was resolved for the first attempt only.
	if lease.Index() == k.first || view.Backend(lease.Index()).Unchecked || !k.pool.SpendHedge(k.rules.Hedge.MaxExtra, k.rules.Retry.Budget, now) {
		lease.Abandon()
		return Choice{}, false
	}
	return Choice{k.members.Target(lease.Index()), lease}, true
}

// isSuperseded reports whether another list has replaced m, so that some of its members may have been removed.
func isSuperseded(m Members) bool {
	first, second := m.Superseded()
	select {
	case <-first:
		return true
	case <-second:
		return true
	default:
		return false
	}
}

// Good reports whether an answer to the copy is good enough to win the race.
func (k *Copy) Good(f *Facts) bool { return k.rules.Good(f) }

// Lost judges the backend of a copy that lost the race, and releases its lease. It returns the outcome.
func (k *Copy) Lost(choice *Choice, f *Facts, now time.Time) pool.Outcome {
	outcome := k.rules.classify(f)
	if k.rules.Good(f) {
		outcome = pool.Ignored
	}
	if l := &choice.Lease; outcome == pool.Failure || f.Kind == Answered && f.isRejection() {
		l.Failed(f.Took, now)
	} else {
		l.Unanswered(f.Took, now)
	}
	choice.Lease.Judge(pool.Verdict{Outcome: outcome, Refused: f.Unreachable, Origin: k.origin}, now)
	choice.Lease.Release()
	return outcome
}

// CopyWon makes the copy the current attempt, because it was answered first. f describes the result of the first attempt; it is nil if the
// first attempt was canceled because the copy won. after is how long the first attempt took.
func (c *Course) CopyWon(f *Facts, copied Choice, after time.Duration, now time.Time) {
	if f == nil {
		c.choice.Lease.Unanswered(after, now)
		c.outcome, c.last = pool.Ignored, Result{Outcome: pool.Ignored}
	} else {
		c.judge(f, now)
		c.choice.Lease.Judge(c.verdict, now)
	}
	c.choice.Lease.Release()
	c.choice = copied
	c.attempts++
}
