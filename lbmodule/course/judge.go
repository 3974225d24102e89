package course

import (
	"time"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

// Kind is what an attempt came to.
type Kind uint8

const (
	// Answered is that an answer began.
	Answered Kind = iota
	// NotConnected is that no connection could be made, so that the backend knows nothing of the request.
	NotConnected
	// TimedOut is that there was no answer in time.
	TimedOut
	// Broken is that the connection broke, or that what came was no answer.
	Broken
)

// Facts are what is known of an attempt when its answer begins, or when it has failed.
type Facts struct {
	Kind Kind

	// Of the answer, if there is one.
	Status     int
	RetryAfter bool // it says when to come back
	Stream     bool // it may go on for as long as the client likes
	Body       bool // it has one
	Call       Call // the gRPC call that the attempt is

	// Of the failure, if it is one.
	Unreachable   bool // not even the network could make a connection
	NoDescriptors bool // this process cannot open another connection
	Excused       bool // it ended for no reason that concerns the backend: the client has left, or broke its body off

	// Of the client.
	Gone        bool // it has left, or its time is up
	BodyFailed  bool // its body broke off
	ClientFault bool // what went wrong with the attempt is its doing, if something did

	Took     time.Duration // since the attempt began
	Answered time.Duration // since the request's last byte was sent, if Known
	Known    bool
}

// The statuses that the rules below name.
const (
	statusTooManyRequests     = 429
	statusInternalServerError = 500
	statusServiceUnavailable  = 503
)

// isOverload tells whether a backend says that it has too much to do.
func (f *Facts) isOverload() bool {
	return f.Status == statusTooManyRequests || f.Status == statusServiceUnavailable && f.RetryAfter
}

// speaksAgainst tells whether an answer makes nobody fast, however soon it came: a refusal, or an error.
func (f *Facts) speaksAgainst() bool {
	return f.Status >= statusInternalServerError || f.Status == statusTooManyRequests || f.Status >= 400 && f.RetryAfter
}

// classify tells what an attempt says about its backend. A request that its client gave up, broke off or was too slow to send, and
// descriptors that this process has run out of, are no backend's failure; neither is a status that a healthy application gives. A
// backend that says it has too much to do is neither well nor broken: taking it out would give the others too much to do.
func (r *Rules) classify(f *Facts) pool.Outcome {
	switch {
	case f.Kind == Answered && f.isOverload(), f.Kind != Answered && (f.Excused || f.NoDescriptors):
		return pool.Ignored
	case f.Kind == Answered && !r.Failures.HasHTTP(f.Status):
		return pool.Success
	case f.ClientFault:
		return pool.Ignored
	default:
		return pool.Failure
	}
}

// Good tells whether an attempt has an answer that is to be preferred to another one that is still to come.
func (r *Rules) Good(f *Facts) bool {
	return f.Kind == Answered && r.classify(f) == pool.Success && !f.speaksAgainst()
}

// judge books what the attempt says about its backend, as far as that is known when the answer begins.
func (c *Course) judge(f *Facts, now time.Time) {
	if b := c.rules.Breaker; b != nil && f.Kind == Answered {
		b.RecordMetric(f.Status, f.Took)
	}
	c.call, c.took, c.known = f.Call, f.Answered, f.Known
	failed := f.Kind != Answered
	c.verdict = pool.Verdict{
		Outcome: c.rules.classify(f),
		Refused: f.Unreachable,
		Slow:    c.rules.Slow > 0 && f.Took >= c.rules.Slow,
		Origin:  c.origin,
	}
	switch {
	case c.verdict.Outcome == pool.Success:
		c.verdict.Outcome = c.call.outcome(&c.rules.Failures)
	case failed && c.call.Excused && !c.verdict.Refused:
		c.verdict.Outcome = pool.Ignored
	}
	c.outcome = c.verdict.Outcome
	c.last = Result{Outcome: c.outcome, Status: c.call.Status}
	if c.rules.Hedge.On && c.outcome == pool.Success && !c.call.Pending {
		c.pool.Latency.Add(f.Took, now)
	}
	c.learn(f, now)
	ignored := c.outcome == pool.Ignored
	l := &c.choice.Lease
	c.lost = f.Unreachable && !ignored && l.Held() && !c.view.Backend(l.Index()).Unchecked
	if !l.Held() || failed && ignored {
		return
	}
	if c.rules.Passive.On && !f.Gone {
		c.view.ObservePassive(l.Index(), c.rules.Passive.failed(f, f.Took), now)
	}
	switch {
	case ignored:
	case c.call.Pending && c.outcome == pool.Success:
		// The slot of a probe is not to be held for as long as a stream may last. See [Course.Probe].
		if l.Probing() && c.rules.BreakerOff {
			l.Judge(c.verdict, now) // only the connection matters
			c.judged = true
		}
	// A success is judged when the answer has ended, because it may yet break off; but not where that would take too long
	// to learn from, or a probe is waited for.
	case c.outcome == pool.Failure || l.Probing() || f.Stream:
		l.Judge(c.verdict, now)
		c.verdict = pool.Verdict{}
	}
}

// Last is what the attempt that ended last said about its backend, as far as that was known when its answer began.
func (c *Course) Last() Result { return c.last }

// Call is what is known of the current attempt as a gRPC call.
func (c *Course) Call() *Call { return &c.call }

// Probe returns what to judge the backend by once a stream that probes it has gone well for a while. ok is false where the current
// attempt is no such stream, or has been judged.
func (c *Course) Probe() (l *pool.Lease, v pool.Verdict, ok bool) {
	l = &c.choice.Lease
	return l, c.verdict, c.call.Pending && c.outcome == pool.Success && l.Probing() && !c.judged
}

// learn tells the backend's latency how the attempt has ended. It is told whatever the policy: it shows, and another policy may come
// with a reload.
func (c *Course) learn(f *Facts, now time.Time) {
	l := c.choice.Lease.Latency()
	if l == nil {
		return
	}
	failed := f.Kind != Answered || f.speaksAgainst() || c.call.speaksAgainst() || c.outcome == pool.Failure
	switch {
	case f.Kind != Answered && c.outcome == pool.Ignored:
		if (f.Gone || c.call.Excused) && f.Known {
			l.Unanswered(f.Answered, now) // the client had had enough
		}
	case failed && c.isWatched(f, now):
		l.Unanswered(f.Answered, now)
	case failed:
		l.Failed(f.Answered, now)
	case c.call.Pending: // it is told when there is something in the answer, or it has ended
	case c.call.ownDoing():
		l.Unanswered(f.Answered, now)
	case c.rules.UntilLastByte && !f.Stream && f.Body:
		c.lastByte = true
	case f.Known:
		l.Answered(f.Answered, now)
	}
}

// isWatched tells whether a failure is one that the backend may yet be taken out for. Then it is not to be avoided as well: its
// breaker, or the passive checks, would never see enough of them to do so, nor tell anybody.
func (c *Course) isWatched(f *Facts, now time.Time) bool {
	if c.rules.Passive.On && c.rules.Passive.failed(f, f.Answered) {
		return true
	}
	return c.outcome == pool.Failure && c.choice.Lease.Deciding(c.verdict.Refused, now)
}

// Streams is told that a part of the body has come of an answer whose gRPC status is still to come. A backend that fails at once
// sends none.
func (c *Course) Streams(now time.Time) {
	if c.call.begun {
		return
	}
	c.call.begun = true
	if l := c.choice.Lease.Latency(); l != nil && c.known {
		l.Answered(c.took, now)
	}
}

// Ending is how an answer ended.
type Ending struct {
	Broken   bool // it broke off
	Complete bool // it was read to its end
	Status   GRPC // the status in its trailer
	Judged   bool // its backend has been judged by [Course.Probe]

	Answered time.Duration // since the request's last byte was sent, if Known
	Known    bool
}

// Result is what is told of an attempt when it is over.
type Result struct {
	Outcome pool.Outcome
	Status  GRPC
	Broken  bool // the answer broke off, and that is why
}

// End ends the course, however it went: what the pool has not been told yet it is told, and the slot is given back.
func (c *Course) End(e Ending, now time.Time) Result {
	c.endHold()
	result := c.settle(&e, now)
	if l := &c.choice.Lease; l.Held() {
		if e.Broken {
			c.verdict = pool.Verdict{Outcome: pool.Failure, Origin: c.origin}
		}
		c.learnEnd(&e, now)
		l.Judge(c.verdict, now)
		l.Release()
	}
	c.leave()
	c.phase = over
	return result
}

// settle judges the current attempt now that its answer is over, as far as its gRPC status was still to come.
func (c *Course) settle(e *Ending, now time.Time) Result {
	if c.call.Pending {
		c.call.Pending = false
		judged := c.judged || e.Judged
		switch {
		case e.Broken && c.call.timeUp(now.Sub(c.began)):
			e.Broken, c.call.Excused = false, true
			c.verdict.Outcome, c.outcome = pool.Ignored, pool.Ignored
			return Result{Outcome: pool.Ignored, Status: c.call.Status, Broken: true}
		case e.Broken:
		case e.Complete:
			status := e.Status
			if status == NoGRPC {
				status = OtherGRPC
			}
			c.call.end(status, now.Sub(c.began))
			c.verdict.Outcome = c.call.outcome(&c.rules.Failures)
			c.outcome = c.verdict.Outcome
			c.learnCall(now)
		case !c.call.begun:
			c.verdict.Outcome, c.outcome = pool.Ignored, pool.Ignored // the client has left
		}
		if judged && c.outcome == pool.Success && !e.Broken {
			c.verdict = pool.Verdict{}
		}
	}
	if e.Broken {
		c.outcome = pool.Failure
	}
	return Result{Outcome: c.outcome, Status: c.call.Status, Broken: e.Broken}
}

// learnCall tells the backend's latency how a call ended whose status came last.
func (c *Course) learnCall(now time.Time) {
	l := c.choice.Lease.Latency()
	failed := c.outcome == pool.Failure || c.call.speaksAgainst()
	switch {
	case l == nil:
	case failed && !c.isWatched(&Facts{Status: statusOK, Answered: c.took}, now):
		l.Failed(c.took, now)
	case failed, c.call.ownDoing():
		l.Unanswered(c.took, now)
	case !c.call.begun && c.known:
		l.Answered(c.took, now)
	}
}

// learnEnd tells it what is known only when the answer has ended.
func (c *Course) learnEnd(e *Ending, now time.Time) {
	switch l := c.choice.Lease.Latency(); {
	case e.Broken && !c.choice.Lease.Deciding(false, now):
		l.Failed(e.Answered, now)
	case !c.lastByte || !e.Known:
	case e.Complete:
		l.Answered(e.Answered, now)
	default:
		l.Unanswered(e.Answered, now)
	}
}
