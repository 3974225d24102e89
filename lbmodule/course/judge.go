package course

import (
	"strconv"
	"time"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

// Kind is how an attempt ended.
type Kind uint8

const (
	// Answered means that the header of an answer arrived.
	Answered Kind = iota
	// NotConnected means that no connection could be made, so that the backend has received nothing of the request.
	NotConnected
	// TimedOut means that no answer arrived in time.
	TimedOut
	// Broken means that the connection broke, or that the backend sent no valid answer.
	Broken
)

// Facts are what is known of an attempt when its answer begins, or when it has failed.
type Facts struct {
	Kind Kind

	// Of the answer, if there is one.
	Status     int
	RetryAfter bool // it has a Retry-After
	Stream     bool // how long it lasts depends on the client
	Body       bool // it has a body
	Call       Call // zero if the attempt is not a gRPC call

	// Of the failure, if the attempt failed.
	Unreachable   bool // the connection failed at the network level, such as refused
	NoDescriptors bool // this process is out of file descriptors
	Excused       bool // the cause is not the backend: the client left, or its body broke off

	// Of the client.
	Gone        bool // it left, or the deadline of its request passed
	BodyFailed  bool // its body broke off
	ClientFault bool // if the attempt failed, that is the client's fault

	Took     time.Duration // since the attempt began
	Answered time.Duration // since the request's last byte was sent; valid if Known
	Known    bool
}

// The statuses that the rules below name.
const (
	statusTooManyRequests     = 429
	statusInternalServerError = 500
	statusServiceUnavailable  = 503
)

// isOverload reports whether the answer says that the backend is overloaded.
func (f *Facts) isOverload() bool {
	return f.Status == statusTooManyRequests || f.Status == statusServiceUnavailable && f.RetryAfter
}

// isRejection reports whether an answer is an error or a refusal, which never counts as a fast answer, however soon it comes.
func (f *Facts) isRejection() bool {
	return f.Status >= statusInternalServerError || f.Status == statusTooManyRequests || f.Status >= 400 && f.RetryAfter
}

// classify returns what an attempt says about its backend. The following are not failures of the backend: the client canceled the request,
// broke it off or was too slow to send it; this process is out of file descriptors; the status is one that a healthy application gives. A
// backend that says it is overloaded counts neither as a success nor as a failure: ejecting it would overload the others.
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

// fault describes what was wrong with an attempt that failed.
func (f *Facts) fault() string {
	switch {
	case f.Kind == NotConnected:
		return "no connection"
	case f.Kind == TimedOut:
		return "no answer in time"
	case f.Kind == Broken:
		return "connection broke off, or no valid answer"
	case f.Call.Status != NoGRPC && f.Status < 400:
		return "gRPC status " + f.Call.Status.String()
	default:
		return "status " + strconv.Itoa(f.Status)
	}
}

// Good reports whether the answer of an attempt is good enough to win a race, so that the other attempt is not awaited.
func (r *Rules) Good(f *Facts) bool {
	return f.Kind == Answered && r.classify(f) == pool.Success && !f.isRejection()
}

// judge records what the attempt says about its backend, as far as that is known when the header of the answer has arrived.
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
	switch {
	case c.verdict.Outcome == pool.Failure:
		c.verdict.Fault = f.fault()
	case c.verdict.Slow:
		c.verdict.Fault = "slow answer"
	}
	c.outcome = c.verdict.Outcome
	c.last = Result{Outcome: c.outcome, Status: c.call.Status}
	if c.rules.Hedge.On && c.outcome == pool.Success && !c.call.Pending {
		c.pool.Latency.Add(f.Took, now)
	}
	c.learn(f, now)
	c.count(f)
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
		// A stream must not hold the slot of a half-open probe for as long as it lasts. See [Course.Probe].
		if l.Probing() && c.rules.BreakerOff {
			l.Judge(c.verdict, now) // only the connection matters
			c.judged = true
		}
	// A success is judged when the answer has ended, because it may still break off. A stream is judged now, because its end
	// may come too late to learn from, and so is a probe, because the breaker waits for it.
	case c.outcome == pool.Failure || l.Probing() || f.Stream:
		l.Judge(c.verdict, now)
		c.verdict = pool.Verdict{}
	}
}

// count counts the attempt for the side of the pool that chose its backend, if the sides are compared, as for a canary. For this, every 5xx
// is a failure.
func (c *Course) count(f *Facts) {
	side := c.choice.Lease.Side()
	if side == nil {
		return
	}
	c.countedFailed = c.outcome == pool.Failure || f.Kind == Answered && f.Status >= statusInternalServerError && !f.ClientFault
	switch {
	case c.countedFailed:
		side.Failed()
	case c.outcome == pool.Ignored: // the client left, or the backend is overloaded
	case f.Known:
		side.Answered(f.Answered)
	default:
		side.Answered(f.Took)
	}
}

// LastResult returns what the last attempt says about its backend, as far as it was known when the header of its answer arrived.
func (c *Course) LastResult() Result { return c.last }

// Call returns what is known of the current attempt as a gRPC call.
func (c *Course) Call() *Call { return &c.call }

// Probe returns the lease of a stream that is a half-open probe, and the verdict to pass to [pool.Lease.Judge] once the stream has gone
// well for a while. ok is false if the current attempt is not such a stream, or has been judged.
func (c *Course) Probe() (l *pool.Lease, v pool.Verdict, ok bool) {
	l = &c.choice.Lease
	return l, c.verdict, c.call.Pending && c.outcome == pool.Success && l.Probing() && !c.judged
}

// learn updates the backend's latency with the end of the attempt. It does so for every policy, because the latency is displayed and a
// reload may bring another policy.
func (c *Course) learn(f *Facts, now time.Time) {
	l := &c.choice.Lease
	if !l.Held() {
		return
	}
	failed := f.Kind != Answered || f.isRejection() || c.call.isRejection() || c.outcome == pool.Failure
	switch {
	case f.Kind != Answered && c.outcome == pool.Ignored:
		if (f.Gone || c.call.Excused) && f.Known {
			l.Unanswered(f.Answered, now) // the client ran out of patience
		}
	case failed && c.isWatched(f, now):
		l.Unanswered(f.Answered, now)
	case failed:
		l.Failed(f.Answered, now)
	case c.call.Pending: // see Streams and learnCall
	case c.call.endedByClient():
		l.Unanswered(f.Answered, now)
	case c.rules.UntilLastByte && !f.Stream && f.Body:
		c.lastByte = true
	case f.Known:
		c.answeredIn(f.Answered, now)
	}
	if f.suggestsOverload(c) {
		c.choice.Lease.Overloaded(now)
	}
	if f.Kind == Answered && f.Stream {
		c.choice.Lease.Stream()
	}
}

// answeredIn records how long the backend took for a good answer.
func (c *Course) answeredIn(took time.Duration, now time.Time) {
	c.choice.Lease.Answered(took, now)
}

// suggestsOverload reports whether an attempt suggests that its backend is overloaded: the backend says so, or does not answer. Other errors,
// which may come fast, and failed connections say nothing about that.
func (f *Facts) suggestsOverload(c *Course) bool {
	switch f.Kind {
	case Answered:
		return f.isOverload() || f.Status == statusServiceUnavailable || c.call.isOverload()
	case TimedOut, Broken:
		return c.outcome != pool.Ignored
	default:
		return false
	}
}

// isWatched reports whether the breaker or the passive checks count the failure and may eject the backend for it. If its latency made the
// policy avoid it as well, there would never be enough failures to eject and report it.
func (c *Course) isWatched(f *Facts, now time.Time) bool {
	if c.rules.Passive.On && c.rules.Passive.failed(f, f.Answered) {
		return true
	}
	return c.outcome == pool.Failure && c.choice.Lease.Deciding(c.verdict.Refused, now)
}

// Streams is called when body data arrives for an answer whose gRPC status is pending. A backend that fails at once sends no body, so from
// then on the time of the header is the latency.
func (c *Course) Streams(now time.Time) {
	if c.call.begun {
		return
	}
	c.call.begun = true
	if c.choice.Lease.Held() && c.known {
		c.answeredIn(c.took, now)
	}
}

// Ending is how an answer ended.
type Ending struct {
	Broken   bool // it broke off
	Complete bool // it was read to its end
	Status   GRPC // the status in its trailer
	Judged   bool // its backend was judged with the result of [Course.Probe]

	Answered time.Duration // since the request's last byte was sent; valid if Known
	Known    bool
}

// Result is the result of an attempt, for logs and counters.
type Result struct {
	Outcome pool.Outcome
	Status  GRPC
	Broken  bool // the outcome is due to an answer that broke off
}

// End ends the course in every case: it passes the rest of the verdict to the pool and releases the lease.
func (c *Course) End(e Ending, now time.Time) Result {
	c.endHold()
	result := c.settle(&e, now)
	if l := &c.choice.Lease; l.Held() {
		if side := l.Side(); side != nil && c.outcome == pool.Failure && !c.countedFailed {
			side.Failed()
		}
		if e.Broken {
			c.verdict = pool.Verdict{Outcome: pool.Failure, Fault: "answer broke off", Origin: c.origin}
		}
		c.learnEnd(&e, now)
		l.Judge(c.verdict, now)
		l.Release()
	}
	c.leave()
	c.phase = over
	return result
}

// settle makes the final verdict on the current attempt after the end of its answer, when a pending gRPC status is known.
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
			if c.verdict.Outcome = c.call.outcome(&c.rules.Failures); c.verdict.Outcome == pool.Failure {
				c.verdict.Fault = "gRPC status " + status.String()
			}
			c.outcome = c.verdict.Outcome
			c.learnCall(now)
		case !c.call.begun:
			c.verdict.Outcome, c.outcome = pool.Ignored, pool.Ignored // the client left
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

// learnCall updates the backend's latency with the end of a gRPC call whose status was in the trailer.
func (c *Course) learnCall(now time.Time) {
	l := &c.choice.Lease
	failed := c.outcome == pool.Failure || c.call.isRejection()
	if c.call.isOverload() {
		c.choice.Lease.Overloaded(now)
	}
	switch {
	case !l.Held():
	case failed && !c.isWatched(&Facts{Status: statusOK, Answered: c.took}, now):
		l.Failed(c.took, now)
	case failed, c.call.endedByClient():
		l.Unanswered(c.took, now)
	case !c.call.begun && c.known:
		c.answeredIn(c.took, now)
	}
}

// learnEnd updates the backend's latency with what is known only at the end of the answer.
func (c *Course) learnEnd(e *Ending, now time.Time) {
	switch l := &c.choice.Lease; {
	case e.Broken && !c.choice.Lease.Deciding(false, now):
		l.Failed(e.Answered, now)
	case !c.lastByte || !e.Known:
	case e.Complete:
		c.answeredIn(e.Answered, now)
	default:
		l.Unanswered(e.Answered, now)
	}
}
