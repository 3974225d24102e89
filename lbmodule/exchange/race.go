package exchange

import (
	"context"
	"errors"
	"net/http"
	"runtime/debug"
	"sync"
	"time"

	"github.com/ballastlb/ballast/lbmodule/course"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

var (
	// ErrCopyWon is the error of an attempt that was canceled because a copy of its request was answered first.
	ErrCopyWon = errors.New("a copy of the request was answered first")
	// ErrCopyLost is the error of a copy that was canceled because the first attempt was answered first.
	ErrCopyLost = errors.New("the request was answered before its copy")
	// ErrCopyPanicked is the error of a copy whose transport panicked.
	ErrCopyPanicked = errors.New("copy of the request panicked")
)

// race is the race between an attempt and a copy of its request to another backend (hedging: Dean and Barroso, The Tail at Scale, 2013).
type race struct {
	x           *Exchange
	copied      course.Copy
	ctx         context.Context // of the first attempt
	cancelFirst context.CancelCauseFunc
	first       *http.Request
	firstErr    error // the first attempt's error, if the copy won

	mu     sync.Mutex // guards the fields below until ended is closed
	sent   bool
	winner winner
	cancel context.CancelCauseFunc
	choice course.Choice
	start  time.Time
	span   Span // of the copy; nil without one
	res    *http.Response
	facts  course.Facts // of the copy

	// The end of a copy that lost.
	took   time.Duration
	status int
	err    error

	ended chan struct{} // closed when the copy has been answered or has failed
}

type winner uint8

const (
	undecided winner = iota
	firstWon
	copyWon
)

// raced makes an attempt, and sends a copy of the request to another backend if there is no answer after that time. The first good answer
// wins; if it is the copy's, the copy becomes the current attempt.
func (x *Exchange) raced(copied course.Copy, o *Outgoing, after time.Duration) (*http.Response, error) {
	r := o.Request
	ctx, cancel := context.WithCancelCause(r.Context())
	c := &race{x: x, copied: copied, ctx: r.Context(), cancelFirst: cancel, first: r, ended: make(chan struct{})}
	x.race.Store(c)
	timer := time.AfterFunc(after, c.send)
	returned := false
	defer func() {
		if !returned {
			c.abandon() // RoundTrip panicked; the panic goes on
		}
	}()
	res, err := o.Back.RoundTrip(r.WithContext(ctx))
	returned = true
	if timer.Stop() {
		return res, err
	}
	now := time.Now()
	f := x.facts(r, res, err, x.trail[x.current].Start, now)
	if copied.Good(&f) && c.decide(firstWon) {
		if c.started() {
			x.recordLostCopy(c)
		}
		return res, nil
	}
	if !c.started() {
		return res, err
	}
	<-c.ended
	if c.outcome() != copyWon {
		x.Live.Copied("", nil)
		x.recordLostCopy(c)
		return res, err
	}
	c.firstErr = err
	x.promoteCopy(c, &f, err)
	if err == nil {
		res.Body.Close()
	}
	x.Live.At(c.choice.Target.Address())
	x.front.CopyWon(c.choice.Target)
	return c.res, nil
}

// decide makes w the winner if there is none yet, and cancels the loser. It reports whether w has won.
func (c *race) decide(w winner) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.winner != undecided {
		return false
	}
	c.winner = w
	c.x.Live.Copied("", nil)
	if w == copyWon {
		c.cancelFirst(ErrCopyWon)
	} else if c.cancel != nil {
		c.cancel(context.Canceled)
	}
	return true
}

// abandon ends the copy after a panic of the first attempt, when its answer cannot be used.
func (c *race) abandon() {
	if c.decide(firstWon) || c.outcome() != copyWon {
		return
	}
	<-c.ended
	c.lose(c.res, nil, time.Now())
}

func (c *race) outcome() winner {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.winner
}

// started reports whether a copy has been sent. If not, it keeps one from being sent.
func (c *race) started() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.sent && c.winner == undecided {
		c.winner = firstWon
	}
	return c.sent
}

// forbidCopy keeps a copy from being sent, and reports whether none has been sent: an informational answer may be passed on only if the
// final answer is certain to come from the same backend.
func (c *race) forbidCopy() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sent {
		return false
	}
	c.winner = firstWon
	return true
}

// send sends the copy. It runs on its own goroutine; the hedging budget bounds how many there are.
func (c *race) send() {
	o, ok := c.prepare()
	if !ok {
		return
	}
	defer close(c.ended)
	defer func() {
		// Nothing else recovers panics on this goroutine, and the first attempt must continue.
		if p := recover(); p != nil {
			c.x.plan.Panicked(p, debug.Stack())
			c.choice.Lease.Release()
			c.err = ErrCopyPanicked
			c.endSpan()
		}
	}()
	res, err := o.Back.RoundTrip(o.Request)
	now := time.Now()
	c.facts = c.x.copyFacts(o.Request, res, err, c.start, now)
	c.res = res
	if c.copied.Good(&c.facts) && c.decide(copyWon) {
		return
	}
	c.lose(res, err, now)
}

// lose records a copy that lost, and closes its answer.
func (c *race) lose(res *http.Response, err error, now time.Time) {
	traffic := c.choice.Lease.Traffic()
	if c.copied.Good(&c.facts) {
		c.err = ErrCopyLost
	}
	if c.took = now.Sub(c.start); err != nil {
		c.err = err
	}
	if res != nil {
		c.status = res.StatusCode
		traffic.Answered(c.took, now)
		res.Body.Close()
	}
	outcome := c.copied.Lost(&c.choice, &c.facts, now)
	traffic.Ended(outcome, c.status, c.took)
	c.endSpan()
}

func (c *race) endSpan() {
	if c.span != nil {
		c.x.plan.Observer.End(c.span, c.status, c.err)
	}
}

// prepare chooses the backend of the copy and makes its request. It fails if there is no other backend or no budget.
func (c *race) prepare() (o Outgoing, ok bool) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.winner != undecided || c.ctx.Err() != nil {
		return o, false
	}
	choice, ok := c.copied.Choose(now)
	if !ok {
		return o, false
	}
	ctx, cancel := context.WithCancelCause(c.ctx)
	o, ok = c.x.front.Copy(ctx, c.first, choice.Target)
	if !ok {
		cancel(nil)
		choice.Lease.Abandon()
		return o, false
	}
	c.choice, c.sent, c.start, c.cancel = choice, true, now, cancel
	c.x.Live.Copied(choice.Target.Address(), cancel)
	c.span = c.x.plan.Observer.Begin(c.x, &o, choice.Target.Address(), 1, pool.RetryHedge, now)
	return o, true
}

// copyFacts returns what is known of a copy, which has no body and is not a gRPC call.
func (x *Exchange) copyFacts(r *http.Request, res *http.Response, err error, start, now time.Time) (f course.Facts) {
	gone := r.Context().Err()
	f.Took = now.Sub(start)
	if err != nil {
		failure := x.plan.Kind(err)
		f.Kind, f.Unreachable, f.NoDescriptors = failure.Kind, failure.Unreachable, failure.NoDescriptors
		f.Excused = errors.Is(err, context.Canceled) || errors.Is(gone, context.Canceled)
		return f
	}
	f.Status, f.RetryAfter = res.StatusCode, res.Header.Get("Retry-After") != ""
	return f
}
