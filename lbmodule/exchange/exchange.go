package exchange

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/ballastlb/ballast/lbmodule/course"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

// Front is the client's side of one request.
type Front interface {
	// These methods are for the course: see [course.Request].
	Key() pool.Key
	ShadowKey() pool.Key
	Session(m course.Members) (position int, known, signed bool)
	Origin() pool.Origin
	Client() string
	Idempotent() bool
	Upgrade() bool
	Foreign(m course.Members, candidates []int) (position int, own course.Target)

	// Wanted reports whether reverse_proxy's retry settings ask for another attempt after one that failed for that reason. answer is that of
	// the failed attempt; nil if there is none.
	Wanted(reason pool.RetryReason, answer *http.Response) bool

	// Attempt makes the request of attempt number n, which goes to that backend. Its body, if it has one, continues the client's body
	// where the last attempt stopped reading. When an informational answer arrives, inform decides whether to pass it on.
	Attempt(ctx context.Context, n int, to course.Target, inform Inform) (Outgoing, error)
	// Ended is called when the attempt that began at start has ended. Informational answers after that are too late for the client.
	Ended(answer *http.Response, err error, start, now time.Time)
	// Retrying is called before another attempt; err is the error of the last one.
	Retrying(err error)
	// Body returns the body as the client sends it; nil if there is none.
	Body() ClientBody
	// Copy makes a copy of r for another backend. ok is false if that is not possible. Another goroutine may call it.
	Copy(ctx context.Context, r *http.Request, to course.Target) (copied Outgoing, ok bool)
	// CopyWon is called when the copy for that backend has become the current attempt.
	CopyWon(to course.Target)
	// Bind adds a header field to the answer by which the client's session is bound to the backend at that position. With renew it does so
	// only if the client's session data is stale.
	Bind(m course.Members, position int, renew bool)

	// Answer passes an answer to the client. It returns at the end of the answer.
	Answer(answer *http.Response) error
	// Fail tells the client that the last attempt failed.
	Fail(err error) error
	// Refuse tells the client that no backend is available.
	Refuse(err error) error
}

// Inform decides whether an informational answer (1xx) of attempt number n may be passed to the client. It is safe for concurrent use.
type Inform interface{ MayInform(n int) bool }

// ClientBody is the body of a request as its client sends it.
type ClientBody interface {
	// Failure returns the error with which the body broke off; nil if it did not.
	Failure() error
	// Wait returns how long readers have waited for the client so far.
	Wait(now time.Time) time.Duration
	// Unread puts back what was read last, for the next reader.
	Unread(p []byte)
	// Lose marks the body as lost: some of it is gone or still being read, and the rest must not be mistaken for the whole body.
	Lose()
	// Stalled reports whether an attempt spent most of its time waiting for the client. waited is the result of Wait when it began.
	Stalled(began time.Time, waited time.Duration, now time.Time) bool
}

// Outgoing is the request of an attempt, and the round tripper that carries it to its backend.
type Outgoing struct {
	Request *http.Request
	Back    http.RoundTripper
	Whole   bool // the request's body is buffered, and starts at its beginning
	Inline  int  // length of a body, in bytes, that Back sends by itself; Request has none then
}

// Failure is the class of an attempt's error.
type Failure struct {
	Kind          course.Kind // never [course.Answered]
	Unreachable   bool        // the connection failed at the network level, such as refused
	NoDescriptors bool        // this process is out of file descriptors
	Timeout       bool        // a timeout expired, including one for making a connection
}

// Observer watches attempts, for logs and traces.
type Observer interface {
	// Chosen is called after the backend of an attempt is chosen and before the attempt begins.
	Chosen(x *Exchange)
	// Begin is called when an attempt or a copy begins: o goes to the backend with that address. others is the number of attempts before it,
	// reason why it is made. Begin may replace the request of o. Another goroutine may call Begin and End.
	Begin(x *Exchange, o *Outgoing, address string, others int, reason pool.RetryReason, start time.Time) Span
	// End is called when the attempt of a span has ended, with that status or error. It is not called for a nil span.
	End(s Span, status int, err error)
}

// Span is an [Observer]'s record of an attempt.
type Span any

// Plan holds what all exchanges of a load balancer share.
type Plan struct {
	Rules    *course.Rules
	Pool     *pool.Pool
	Observer Observer
	Kind     func(err error) Failure // classifies an attempt's error

	TryTimeout time.Duration // from a request's last byte to the answer's header; 0 for none
	BodyLimit  int64         // the largest body that is kept for another attempt, in bytes
	SmallBody  int64         // the largest body that the back reads before it has a connection, in bytes
	Panicked   func(value any, stack []byte)
}

// Exchange carries one request through its attempts. It must be used by one goroutine, except for methods that say otherwise.
type Exchange struct {
	plan   *Plan
	front  Front
	course course.Course
	ctx    context.Context

	Live pool.LiveRequest

	out   Outgoing       // the current attempt's
	res   *http.Response // answer of the last attempt; nil if it has none
	err   error          // of the last attempt; nil if it has an answer
	ended time.Time      // when res or err came
	over  time.Time      // when Run returned; zero before that

	body   *requestBody  // nil if there is none
	sent   *sending      // the attempt's body; nil if there is none
	ticket pool.Ticket   // for the wait for the answer; with a body, the ticket is in sent
	waited time.Duration // how long the client's body had been awaited when the current attempt began
	answer answerBody
	probe  *streamProbe // nil if the current attempt is not a probe by a stream
	*Record

	informed informed
	moving   moving
	race     atomic.Pointer[race] // nil if the current attempt cannot have a copy
}

// Init makes x the exchange of a new request. [Exchange.Run] must follow, or [Exchange.Refuse].
func (x *Exchange) Init(plan *Plan, source course.Source, front Front, record *Record) {
	x.plan, x.front, x.Record, x.Live.Mover = plan, front, record, x
	x.course.Init(plan.Rules, plan.Pool, source, (*request)(x))
}

// Context returns the context of the request.
func (x *Exchange) Context() context.Context { return x.ctx }

// Ended returns when Run returned; the current time if it has not.
func (x *Exchange) Ended() time.Time {
	if x.over.IsZero() {
		return time.Now()
	}
	return x.over
}

// Course returns the course of the request.
func (x *Exchange) Course() *course.Course { return &x.course }

// Traffic returns where the current attempt is counted. It must not be called before the first attempt has begun.
func (x *Exchange) Traffic() *pool.Traffic { return x.trail[x.current].traffic }

// Refuse ends an exchange that does not run: no backend can be found for any request.
func (x *Exchange) Refuse(err error) {
	x.course.Refuse(err)
	x.refused = err
}

// Run carries the request through its course. It returns the result of the front's Answer, Fail or Refuse.
func (x *Exchange) Run(ctx context.Context, now time.Time) error {
	x.ctx = ctx
	// Deferred, because a panic (http.ErrAbortHandler, when an answer breaks off) must release the lease as well.
	defer x.end()
	if err := x.brokenOff(); err != nil {
		x.plan.Pool.CountRequest()
		x.Refuse(err)
		return x.fail(err)
	}
	step := x.course.Begin(now)
	for { // bound: the rules of the course bound its attempts and its waits
		switch step.Do {
		case course.Send:
			var err error
			if step, err = x.attempt(&step, now); err != nil {
				return x.fail(err)
			}
			now = x.ended
		case course.Wait:
			woken := x.wait(&step)
			now = time.Now()
			step = x.course.Resume(woken, now)
			x.queued = x.course.Waited()
		case course.Queue:
			err := x.plan.Pool.Wait(ctx, x.front.Client(), step.Size, step.Timeout, func() error { return x.course.Try(time.Now()) })
			now = time.Now()
			step = x.course.Queued(err, now)
			x.queued = x.course.Waited()
		case course.Give:
			return x.give()
		case course.Fail:
			return x.fail(x.err)
		case course.Refuse:
			return x.giveUp(x.front.Refuse(step.Err))
		}
	}
}

// brokenOff returns the error of a body that broke off before the first attempt: while the front buffered it, or because an announced body
// is missing.
func (x *Exchange) brokenOff() error {
	if body := x.front.Body(); body != nil {
		return body.Failure()
	}
	return nil
}

// fail tells the client that the last attempt failed with err. HTTP/2 transports report a canceled request without its cause, which may be
// a drain.
func (x *Exchange) fail(err error) error {
	if errors.Is(err, context.Canceled) && errors.Is(context.Cause(x.ctx), pool.ErrDrained) {
		err = pool.ErrDrained
	}
	return x.giveUp(x.front.Fail(err))
}

// Unserved reports, after Run has returned an error, why no backend served the request. left says that the client left while the request
// waited for a backend. unavailable is the error if no backend was available, whatever the request was; nil if neither applies.
func (x *Exchange) Unserved() (left bool, unavailable error) {
	refused, cause := x.course.Refused(), context.Cause(x.ctx)
	switch {
	case errors.Is(cause, context.Canceled) && (refused != nil || x.course.Lost()):
		return true, nil
	case refused != nil:
		return false, refused
	case errors.Is(cause, pool.ErrDrained):
		return false, pool.ErrDrained
	default:
		return false, nil
	}
}

// giveUp restores the body for the next handler of the request, such as a route for errors, and returns err.
func (x *Exchange) giveUp(err error) error {
	if err != nil && x.body != nil {
		x.body.detach()
		x.body.giveBack(x.front.Body())
	}
	return err
}

// wait waits as a step says.
func (x *Exchange) wait(step *course.Step) course.Woken {
	if x.ctx.Err() != nil {
		return course.Gone
	}
	timer := time.NewTimer(time.Until(step.Until))
	defer timer.Stop()
	select {
	case <-step.Wake[0]:
		return course.Signaled
	case <-step.Wake[1]:
		return course.Signaled
	case <-step.Wake[2]:
		return course.Signaled
	case <-timer.C:
		return course.Elapsed
	case <-x.plan.Pool.Dismissed():
		return course.Gone
	case <-x.ctx.Done():
		return course.Gone
	}
}

// give gives the client the answer of the last attempt.
func (x *Exchange) give() error {
	x.passed = x.res.StatusCode
	if at, renew, ok := x.course.Rebind(); ok {
		x.front.Bind(x.course.Members(), at, renew)
	}
	x.watch()
	return x.front.Answer(x.res)
}

// end ends the course and the record of the last attempt, in every case.
func (x *Exchange) end() {
	now := time.Now()
	x.over = now
	x.endTicket(context.Canceled, now) // in case the attempt panicked
	if to := x.endMoving(); to != nil {
		to.Lease.Abandon()
	}
	if x.passed != 0 {
		x.passed = x.res.StatusCode // the front may have replaced it
	}
	ending := course.Ending{Broken: x.answer.broken, Complete: x.answer.complete, Judged: x.probe.stop()}
	if x.answer.complete && x.res != nil {
		ending.Status = course.ParseGRPC(x.res.Trailer.Get(grpcStatus))
	}
	ending.Answered, ending.Known = x.took(now)
	x.finish(x.course.End(ending, now), now)
	x.queued, x.refused = x.course.Waited(), x.course.Refused()
	x.Live.Done()
	x.body.detach()
	x.body.forget()
}

// Settled reports, after Run has returned, whether nothing can refer to x any more, so that it may be used for another request: its only
// attempt was answered, and there was no copy, no probe by a stream and no span.
func (x *Exchange) Settled() bool {
	return x.err == nil && x.course.Attempts() == 1 && len(x.trail) == 1 && x.trail[0].span == nil && x.probe == nil
}

// request is an exchange as a [course.Request].
type request Exchange

func (q *request) Key() pool.Key       { return q.front.Key() }
func (q *request) ShadowKey() pool.Key { return q.front.ShadowKey() }
func (q *request) Origin() pool.Origin { return q.front.Origin() }
func (q *request) Client() string      { return q.front.Client() }
func (q *request) Idempotent() bool    { return q.front.Idempotent() }
func (q *request) Upgrade() bool       { return q.front.Upgrade() }
func (q *request) EndInforming() bool  { return q.informed.end() }

func (q *request) Rewindable() bool { return q.body.rewindable() }
func (q *request) Rewind() bool     { return q.body.rewind() }

func (q *request) Session(m course.Members) (position int, known, signed bool) {
	return q.front.Session(m)
}

func (q *request) Foreign(m course.Members, candidates []int) (position int, own course.Target) {
	return q.front.Foreign(m, candidates)
}

func (q *request) Wanted(reason pool.RetryReason) bool {
	return q.front.Wanted(reason, q.res)
}

func (q *request) Deadline() (deadline time.Time, ok bool) { return q.ctx.Deadline() }
