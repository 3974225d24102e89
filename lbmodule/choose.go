package lbmodule

import (
	"errors"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/balance"
	"github.com/ballastlb/ballast/lbmodule/front"
	"github.com/ballastlb/ballast/lbmodule/policies"
	"github.com/ballastlb/ballast/lbmodule/pool"
	"github.com/ballastlb/ballast/lbmodule/service"
	"github.com/ballastlb/ballast/lbmodule/stock"
)

// requestVar is the request variable that holds the *request, for placeholders: the latest load balancer on a request's way is the one
// that they tell of.
const requestVar = "load_balancer.request"

// request is one client's request on its way through the load balancer: the attempt it is at, and those it had.
// It is used by one goroutine at a time.
type request struct {
	h     *Handler
	front front.Request
	w     http.ResponseWriter
	set   *service.Set // that choice and tried refer to
	choice
	verdict pool.Verdict // of the attempt that choice is for, if it is not told yet
	origin  pool.Origin

	key      pool.Key // for policies that choose by one
	session  session  // for policies that go by sessions
	attempts int
	tried    []int // positions in set of the members of attempts that failed
	again    bool  // there is to be another attempt, for which choice is made
	refused  error // why nobody was chosen; nil if somebody was

	started   time.Time // if retries are bounded by time
	looks     int       // how often it has waited for lb_try_interval
	gaveUp    bool      // that time is up, and the dead are being tried once more
	heldUntil time.Time // until when to wait for first probes to end; zero if there was no need to so far

	lost     bool         // no connection could be made for the last attempt
	unsent   int          // attempts that do not count, because of that
	patience time.Time    // until when it may wait for a slot, because of that; zero if there was no need to so far
	stays    *service.Set // that lives for the request's sake; nil if there is none
	holds    int          // how often it waited for a backend to be back
	releases int          // how often it went on after that, having found a backend gone

	live  pool.LiveRequest
	debug bool // the client is told how backends were chosen

	body   *requestBody  // nil if there is none
	waited time.Duration // for the client's body before the current attempt
	answer answerBody
	call   grpcCall // zero if the attempt is none, or has no answer

	queued      time.Duration    // waited before the first attempt
	trail       []attemptRecord  // the attempts so far, in the order in which they began
	current     int              // of trail
	retryReason pool.RetryReason // of the attempt before the current one
	passed      *http.Response   // the answer that the client gets; nil if there is none
	parent      trace.Span       // of the attempts' spans; nil if that has not been asked yet
	begun       time.Time        // when the current attempt was
	sending     *sending         // of the attempt's body; nil if there is none
	asked       *balance.Latency // of the backend that is to answer the attempt; nil if it has, or has failed to
	ticket      balance.Ticket   // what asked gave, unless the attempt has a body
	lastByte    bool             // how long it takes is known when the answer has ended

	informed informed
	race     atomic.Pointer[hedgeCopy] // that the current attempt may be in; nil if it is not hedged

	triedSpace [4]int // room for most tried lists
	trailSpace [1]attemptRecord
}

// choice is a backend that was chosen. The lease holds nothing if a policy came up with an upstream of its own making.
type choice struct {
	upstream *reverseproxy.Upstream
	lease    pool.Lease
}

// target returns the backend that was chosen as attempts need it.
func (q *request) target() *stock.Target {
	if q.lease.Held() {
		if i := q.lease.Index(); q.lease.Of(q.set.View()) && q.set.Upstream(i) == q.upstream {
			return q.set.Target(i)
		}
	}
	return q.h.stock.NewTarget(q.upstream)
}

// circuitBroken tells whether the circuit breaker of the transport, which is one for all backends, lets nobody pass.
func (h *Handler) circuitBroken() bool {
	return h.stock.CircuitBreaker != nil && !h.stock.CircuitBreaker.OK()
}

// next returns the backend of the next attempt. That of the first is chosen here, those of others when the attempt
// before has failed. It returns nil if there is none: q.refused says why.
func (q *request) next(r *http.Request, w http.ResponseWriter) *reverseproxy.Upstream {
	if !q.again {
		q.w, q.origin = w, front.OriginOf(r)
		if q.refused = q.chooseFirst(r); q.refused != nil {
			return nil
		}
	}
	q.attempts++
	q.live.At(q.upstream.Dial)
	if q.debug {
		q.explain(w)
	}
	q.verdict, q.sending, q.lastByte, q.call = pool.Verdict{}, nil, false, grpcCall{}
	return q.upstream
}

// chooseFirst chooses the backend of the first attempt, and waits for one where that makes sense.
func (q *request) chooseFirst(r *http.Request) error {
	q.h.pool.CountRequest()
	if q.h.retries.stock != nil {
		q.started = time.Now()
	}
	if err := q.front.Body().Refusal(r.Context()); err != nil {
		return err // it was collected first, and broke off
	}
	return q.choose(r, false)
}

// choose chooses a backend and reserves it. It waits where that makes sense; retry tells that an attempt has failed.
func (q *request) choose(r *http.Request, retry bool) error {
	// The loop ends: await waits for a bounded time in all.
	for {
		set, err := q.h.service.Members(r, retry)
		if err != nil {
			return err
		}
		q.enter(set)
		q.choice, err = q.acquireInTurn(r)
		if errors.Is(err, pool.ErrFull) {
			if size, timeout, may := q.mayQueue(time.Now()); may {
				if err = q.queueUp(r, size, timeout); !errors.Is(err, pool.ErrNone) {
					return err
				}
			}
		}
		if retry && q.lease.Held() && q.lease.Dead() {
			// The snapshot of a large pool takes a moment to show that.
			err = pool.ErrNone
			q.lease.Abandon()
			if q.sleep(r.Context(), q.set.View().Snapshot(), minPoll) || r.Context().Err() == nil && time.Now().Before(q.patience) {
				continue
			}
			return err
		}
		if err == nil || !q.await(r.Context(), err) {
			return err
		}
	}
}

// acquireInTurn is acquire for those who come new: nobody overtakes those who wait.
func (q *request) acquireInTurn(r *http.Request) (choice, error) {
	if q.h.pool.QueueLength() > 0 && q.h.Queue.Enabled() && !q.h.strict() {
		return choice{}, pool.ErrFull
	}
	return q.acquire(r)
}

// strict tells whether sessions may be at their own backend only. They have nothing to do with a queue for any backend.
func (h *Handler) strict() bool {
	return h.sessions != nil && h.sessions.Strictly()
}

// mayQueue tells whether the request may wait for a slot, with how many others and for how long. Where there is no queue, those may
// who had to wait for a backend: they are all let go together when one is back, however short the queue for others is.
func (q *request) mayQueue(now time.Time) (size int, timeout time.Duration, may bool) {
	timeout = q.patience.Sub(now)
	if may = timeout > 0; may {
		size = maxHolding
	}
	if queue := q.h.Queue; queue.Enabled() {
		return max(size, queue.Size), max(timeout, time.Duration(queue.Timeout)), true
	}
	return size, timeout, may
}

// queueUp waits for a slot.
func (q *request) queueUp(r *http.Request, size int, timeout time.Duration) error {
	start := time.Now()
	defer func() {
		q.queued += time.Since(start)
		q.h.pool.Queued.Add(q.queued)
	}()
	return q.h.pool.Wait(r.Context(), front.ClientOf(r), size, timeout, func() error {
		set, err := q.h.service.Members(r, false)
		if err != nil {
			return err
		}
		q.enter(set)
		q.choice, err = q.acquire(r)
		return err
	})
}

// acquire chooses a backend of the set and reserves it.
func (q *request) acquire(r *http.Request) (choice, error) {
	if q.h.circuitBroken() {
		return choice{}, pool.ErrNone
	}
	safe := !q.set.View().Snapshot().Probing() || q.repeatable(r)
	if q.h.keyed != nil && !q.key.Known {
		q.key = q.h.keyed.Key(r)
	}
	if q.h.sessions != nil {
		return q.acquireSession(safe, r)
	}
	key := q.key
	key.Now = q.justCame()
	return acquireIn(q.set, q.h.policy, key, q.tried, safe, r, q.w)
}

// justCame is when the request came, if it has not waited since; zero otherwise.
func (q *request) justCame() time.Time {
	if q.attempts > 0 || q.queued > 0 || q.h.Queue.Enabled() {
		return time.Time{}
	}
	return q.live.Started()
}

// enter makes set the one that the request chooses from.
func (q *request) enter(set *service.Set) {
	if q.set == set {
		return
	}
	before := q.set
	q.set = set
	if before == nil {
		q.tried = q.triedSpace[:0]
		return
	}
	// There are other backends meanwhile: those already tried may have moved.
	moved := q.tried[:0]
	for _, i := range q.tried {
		if at := set.Find(before.View().Backend(i).Address); at >= 0 {
			moved = append(moved, at)
		}
	}
	q.tried = moved
}

// acquireIn chooses a backend of the set by policy, preferably none of tried, and reserves a slot on it; safe tells that the request
// may be made again if that fails.
func acquireIn(set *service.Set, policy reverseproxy.Selector, key pool.Key, tried []int, safe bool, r *http.Request, w http.ResponseWriter) (choice, error) {
	if _, ours := policy.(policies.Balancer); !ours {
		return chooseBy(set, policy, tried, safe, r, w)
	}
	lease, err := set.View().AcquireFor(key, tried, safe)
	if err != nil {
		return choice{}, err
	}
	return choice{set.Upstream(lease.Index()), lease}, nil
}

// chooseBy has a policy that is not ours choose among the eligible upstreams.
func chooseBy(set *service.Set, policy reverseproxy.Selector, tried []int, safe bool, r *http.Request, w http.ResponseWriter) (choice, error) {
	snapshot := set.View().Snapshot()
	all := set.Eligible()
	if lease, ok := set.View().AcquireProbe(tried, safe); ok {
		return choice{set.Upstream(lease.Index()), lease}, nil
	}
	if len(all) == 0 {
		if snapshot.Held() {
			return choice{}, pool.ErrHeld
		}
		return choice{}, pool.ErrNone
	}
	candidates := all
	if len(tried) > 0 {
		candidates = slices.DeleteFunc(slices.Clone(all), func(u *reverseproxy.Upstream) bool {
			return slices.ContainsFunc(tried, func(i int) bool { return set.Upstream(i) == u })
		})
		if len(candidates) == 0 {
			candidates = all
		}
	}
	// Each turn but the last takes a candidate away that has no free slot, or that is being ramped up and left out
	// this time: such policies know no weights that could be lowered.
	for len(candidates) > 0 {
		u := policy.Select(candidates, r, w)
		if u == nil {
			break
		}
		i := set.Find(u.Dial)
		if i < 0 || set.Upstream(i) != u {
			return choice{upstream: u}, nil
		}
		passedOver := len(candidates) > 1 && rand.Float64() >= snapshot.Warmth(i)
		if !passedOver {
			if lease, ok := set.View().AcquireMember(i); ok {
				return choice{u, lease}, nil
			}
		}
		candidates = slices.DeleteFunc(slices.Clone(candidates), func(c *reverseproxy.Upstream) bool { return c == u })
	}
	return choice{}, pool.ErrFull
}
