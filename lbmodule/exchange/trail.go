package exchange

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ballastlb/ballast/lbmodule/course"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

// Attempt is the record of an attempt. The pool counts it when it has ended.
type Attempt struct {
	Address string        // of the backend
	Start   time.Time     // when it began
	Took    time.Duration // until the answer's header, or until it failed
	Status  int           // 0 without an answer
	Call    course.GRPC
	Err     error
	Reason  pool.RetryReason // why it was made; meaningless for the first attempt

	traffic *pool.Traffic
	span    Span
	outcome pool.Outcome
	ended   bool
}

// Record holds what logs and metrics show of a request, while its exchange runs and afterwards. It does not refer to the exchange. The zero
// Record is that of a request that has not begun.
type Record struct {
	trail   []Attempt // in the order in which they began
	current int       // index in trail
	queued  time.Duration
	refused error
	passed  int

	trailSpace [1]Attempt
}

// Trail returns the attempts so far, in the order in which they began. The caller must not change the slice.
func (r *Record) Trail() []Attempt { return r.trail }

// Current returns the current attempt, or the last one; nil if there was none.
func (r *Record) Current() *Attempt {
	if len(r.trail) == 0 {
		return nil
	}
	return &r.trail[r.current]
}

// Waited returns how long the request has waited for a backend.
func (r *Record) Waited() time.Duration { return r.queued }

// Refused returns why no backend was found; nil if one was.
func (r *Record) Refused() error { return r.refused }

// Passed returns the status of the answer that was passed to the client; 0 if there is none.
func (r *Record) Passed() int { return r.passed }

// begin adds the record of an attempt that is about to begin, and makes it the current one.
func (x *Exchange) begin(choice course.Choice, reason pool.RetryReason, start time.Time) {
	if x.trail == nil {
		x.trail = x.trailSpace[:0]
	}
	traffic := choice.Lease.Traffic()
	if traffic == nil {
		traffic = x.plan.Pool.Others()
	}
	if x.sent != nil {
		x.sent.traffic, x.sent.small = traffic, x.plan.SmallBody
	}
	x.current = len(x.trail)
	x.trail = append(x.trail, Attempt{Address: choice.Target.Address(), Start: start, Reason: reason, traffic: traffic})
}

// record records the result of the current attempt's round trip.
func (x *Exchange) record(f *course.Facts, err error, now time.Time) {
	a := &x.trail[x.current]
	last := x.course.LastResult()
	a.Took, a.outcome, a.Err = now.Sub(a.Start), last.Outcome, err
	if f.Kind == course.NotConnected {
		x.sent.unsent()
	} else {
		x.sent.count()
		a.traffic.CountIn(x.out.Inline)
	}
	if err != nil {
		x.close(now)
		return
	}
	a.Status, a.Call = f.Status, last.Status
	a.traffic.Answered(a.Took, now)
}

// dropAttempt ends the current attempt, which another one follows, and drops its answer.
func (x *Exchange) dropAttempt() {
	x.trail[x.current].traffic.Repeated()
	x.close(x.ended)
	x.body.detach()
	if x.err == nil {
		x.res.Body.Close()
		x.err = x.droppedError()
	}
	x.front.Retrying(x.err)
}

// droppedError returns the error of an attempt whose answer is dropped for another attempt.
func (x *Exchange) droppedError() error {
	a := &x.trail[x.current]
	if a.Call != course.NoGRPC {
		return fmt.Errorf("answer with status %s%s is dropped for another attempt", course.GRPCPrefix, a.Call)
	}
	return fmt.Errorf("answer with status %d is dropped for another attempt", a.Status)
}

// finish completes the record of the last attempt at the end of the exchange.
func (x *Exchange) finish(result course.Result, now time.Time) {
	a := x.Current()
	if a == nil || a.ended {
		return
	}
	a.outcome, a.Call = result.Outcome, result.Status
	if result.Broken {
		a.Err = ErrBrokenOff
	}
	x.close(now)
}

// close ends the current attempt and counts it, once.
func (x *Exchange) close(now time.Time) {
	a := &x.trail[x.current]
	if a.ended {
		return
	}
	a.ended = true
	x.sent.count()
	a.traffic.Ended(a.outcome, a.Status, now.Sub(a.Start))
	if a.Call != course.NoGRPC {
		a.traffic.EndedCall(int(a.Call) - 1)
	}
	if a.span != nil {
		x.plan.Observer.End(a.span, a.Status, a.Err)
	}
}

// promoteCopy makes the copy the current attempt, because it was answered first. err is the error of the first attempt.
func (x *Exchange) promoteCopy(r *race, f *course.Facts, err error) {
	now := time.Now()
	took := now.Sub(x.trail[x.current].Start)
	if errors.Is(err, context.Canceled) || errors.Is(err, ErrCopyWon) {
		f, err = nil, ErrCopyWon
	}
	x.course.CopyWon(f, r.choice, took, now)
	if f == nil {
		f = new(course.Facts)
	}
	x.record(f, err, now)
	x.close(now)
	x.begin(r.choice, pool.RetryHedge, r.start)
	x.trail[x.current].span = r.span
	x.plan.Pool.HedgeWon()
}

// recordLostCopy adds the record of a copy that lost. The copy itself is counted elsewhere: see race.lose.
func (x *Exchange) recordLostCopy(r *race) {
	a := Attempt{Address: r.choice.Target.Address(), Start: r.start, Took: time.Since(r.start), Err: ErrCopyLost, Reason: pool.RetryHedge, ended: true}
	select {
	case <-r.ended:
		a.Took, a.Status = r.took, r.status
		if !errors.Is(r.err, context.Canceled) {
			a.Err = r.err
		}
	default: // it is being canceled
	}
	x.trail = append(x.trail, a)
}
