package exchange

import (
	"context"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/ballastlb/ballast/lbmodule/course"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

// Front is the client's side of one request.
type Front interface {
	// These are asked by the course: see [course.Request].
	Key() pool.Key
	Session(m course.Members) (position int, known, signed bool)
	Origin() pool.Origin
	Client() string
	Idempotent() bool
	Upgrade() bool
	Foreign(m course.Members, candidates []int) (position int, own course.Target)

	// Wanted reports whether the words of reverse_proxy ask for another attempt after one that ended for that reason, with this answer
	// if it has one.
	Wanted(reason pool.RetryReason, answer *http.Response) bool

	// Attempt makes the request of the next attempt, which goes to that backend. Its body, if it has one, is the client's, from where it
	// was read last; whole tells that it is a copy which begins at the beginning. An informational answer of the backend is passed on if
	// inform says so of the attempt of number n when it has come.
	Attempt(ctx context.Context, n int, to course.Target, inform Inform) (r *http.Request, whole bool, err error)
	// Ended is told how the attempt ended that began at start. What the backend says of it after that is too late for the client.
	Ended(answer *http.Response, err error, start, now time.Time)
	// Retrying is told that another attempt follows one that ended with that error.
	Retrying(err error)
	// Body tells how the client sends its body; it is nil where there is none.
	Body() ClientBody
	// Copy makes the copy of a request for another backend. ok is false if there can be none. It may be called by another goroutine.
	Copy(ctx context.Context, r *http.Request, to course.Target) (copied *http.Request, ok bool)
	// Overtaken tells that the copy for that backend has become the current attempt.
	Overtaken(to course.Target)
	// Bind tells the client with the answer that its session is bound to the backend at that position. With renew it is told only if
	// what it knows is out of date.
	Bind(m course.Members, position int, renew bool)

	// Answer gives the client an answer. It returns when that has ended.
	Answer(answer *http.Response) error
	// Fail tells the client that the last attempt failed.
	Fail(err error) error
	// Refuse tells the client that there is no backend for it.
	Refuse(err error) error
}

// Inform reports whether the client may be given an informational answer of the attempt of that number. It may be called by several
// goroutines.
type Inform interface{ MayInform(n int) bool }

// ClientBody is the body of a request as its client sends it.
type ClientBody interface {
	// Failure is how the client broke the body off; nil if it did not.
	Failure() error
	// Wait is for how long the client has been waited for until now.
	Wait(now time.Time) time.Duration
	// Unread puts back what has been read last, for whoever reads the body next.
	Unread(p []byte)
	// Lose tells that some of the body is gone, or is still being read: the rest must not be taken for the body.
	Lose()
	// Stalled reports whether an attempt that began then, when the client had been waited for so long, spent its time on that.
	Stalled(began time.Time, waited time.Duration, now time.Time) bool
}

// Back carries attempts to backends.
type Back interface {
	http.RoundTripper
	// Kind tells what an error of RoundTrip means.
	Kind(err error) Failure
}

// Failure is what an error of an attempt means.
type Failure struct {
	Kind          course.Kind // never [course.Answered]
	Unreachable   bool        // not even the network could make a connection
	NoDescriptors bool        // this process cannot open another connection
	Timeout       bool        // a time was up, also where no connection could be made for that
}

// Observer is told of attempts as they are made.
type Observer interface {
	// Chosen is called when the backend of an attempt is chosen, before it is made.
	Chosen(x *Exchange)
	// Begin is called when an attempt begins, or a copy of the request is sent: r is made, to the backend of that address, after so many
	// others, for that reason. The request that it returns is made in its place. It may be called by another goroutine, and so may End.
	Begin(x *Exchange, r *http.Request, address string, others int, reason pool.RetryReason, start time.Time) (*http.Request, Span)
	// End is called when what began has ended, with that status or error, unless the span is nil.
	End(s Span, status int, err error)
}

// Span is what an [Observer] keeps of an attempt.
type Span any

// Plan is what all exchanges of a load balancer have in common.
type Plan struct {
	Rules    *course.Rules
	Pool     *pool.Pool
	Back     Back
	Observer Observer

	TryTimeout time.Duration // from a request's last byte to the answer's header; 0 for none
	BodyLimit  int64         // up to which size a body is kept for another attempt, in bytes
	SmallBody  int64         // up to which size the back reads a body before it has a connection
	Panicked   func(value any, stack []byte)
}

// Exchange is one request on its way. It is used by one goroutine, but for what says otherwise.
type Exchange struct {
	plan   *Plan
	front  Front
	course course.Course
	ctx    context.Context

	Live pool.LiveRequest

	res   *http.Response // of the last attempt; nil if it has none
	err   error          // of the last attempt; nil if it has an answer
	ended time.Time      // when that came

	body   *requestBody  // nil if there is none
	sent   *sending      // of the attempt's body; nil if there is none
	ticket pool.Ticket   // that the attempt waits for its answer, unless it has a body
	waited time.Duration // for the client before the current attempt
	answer answerBody
	probe  *streamProbe // nil if the current attempt is none
	passed *http.Response

	trail   []Attempt // the attempts so far, in the order in which they began
	current int       // of trail

	informed informed
	race     atomic.Pointer[race] // that the current attempt may be in; nil if it has no copy

	trailSpace [1]Attempt
}

// Init makes x the exchange of a request that came just now. [Exchange.Run] must follow.
func (x *Exchange) Init(plan *Plan, source course.Source, front Front) {
	x.plan, x.front = plan, front
	x.course = course.New(plan.Rules, plan.Pool, source, (*request)(x))
}

// Context is the context of the request.
func (x *Exchange) Context() context.Context { return x.ctx }

// Course is what has been decided so far.
func (x *Exchange) Course() *course.Course { return &x.course }

// Passed is the answer that the client gets; nil if there is none.
func (x *Exchange) Passed() *http.Response { return x.passed }

// Run carries the request through its course. It returns what the front made of its end.
func (x *Exchange) Run(ctx context.Context, now time.Time) error {
	x.ctx = ctx
	// A panic (http.ErrAbortHandler, when an answer breaks off) must give the slot back, too.
	defer x.end()
	if err := x.brokenOff(); err != nil {
		x.plan.Pool.CountRequest()
		x.course.Refuse(err)
		return x.giveUp(x.front.Fail(err))
	}
	step := x.course.Begin(now)
	for { // bound: the rules of the course bound its attempts, and for how long it waits
		switch step.Do {
		case course.Send:
			var err error
			if step, err = x.attempt(&step); err != nil {
				return x.giveUp(x.front.Fail(err))
			}
		case course.Wait:
			woken := x.wait(&step)
			step = x.course.Resume(woken, time.Now())
		case course.Queue:
			err := x.plan.Pool.Wait(ctx, x.front.Client(), step.Size, step.Timeout, func() error { return x.course.Try(time.Now()) })
			step = x.course.Queued(err, time.Now())
		case course.Give:
			return x.give()
		case course.Fail:
			return x.giveUp(x.front.Fail(x.err))
		case course.Refuse:
			return x.giveUp(x.front.Refuse(step.Err))
		}
	}
}

// brokenOff is how the client broke its body off before there was an attempt: the front has collected that first, or knows that what was
// announced does not come.
func (x *Exchange) brokenOff() error {
	if body := x.front.Body(); body != nil {
		return body.Failure()
	}
	return nil
}

// giveUp leaves the body as it came to whoever has the request next, such as a route for errors, and returns err.
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
	case <-x.ctx.Done():
		return course.Gone
	}
}

// give gives the client the answer of the last attempt.
func (x *Exchange) give() error {
	x.passed = x.res
	if at, renew, ok := x.course.Rebind(); ok {
		x.front.Bind(x.course.Members(), at, renew)
	}
	x.watch()
	return x.front.Answer(x.res)
}

// end ends the course, and tells of the last attempt, however it went.
func (x *Exchange) end() {
	now := time.Now()
	x.hear(context.Canceled, now) // of an attempt that panicked
	ending := course.Ending{Broken: x.answer.broken, Complete: x.answer.complete, Judged: x.probe.stop()}
	if x.answer.complete && x.res != nil {
		ending.Status = course.ParseGRPC(x.res.Trailer.Get(grpcStatus))
	}
	ending.Answered, ending.Known = x.took(now)
	x.finish(x.course.End(ending, now), now)
	x.Live.Done()
	x.body.detach()
	x.body.forget()
}

// request is an exchange as its course sees it.
type request Exchange

func (q *request) Key() pool.Key       { return q.front.Key() }
func (q *request) Origin() pool.Origin { return q.front.Origin() }
func (q *request) Client() string      { return q.front.Client() }
func (q *request) Idempotent() bool    { return q.front.Idempotent() }
func (q *request) Upgrade() bool       { return q.front.Upgrade() }
func (q *request) EndInforming() bool  { return q.informed.end() }

func (q *request) Rewindable() bool { return q.body.rewindable() }

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
