package exchange

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ballastlb/ballast/lbmodule/course"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

var (
	// ErrTryTimeout is the error of an attempt that was not answered within try_timeout.
	ErrTryTimeout error = &timeoutError{}
	// ErrBrokenOff is the error of an attempt whose answer broke off.
	ErrBrokenOff = errors.New("answer broke off")
)

type timeoutError struct{}

func (*timeoutError) Error() string   { return "backend did not answer within try_timeout" }
func (*timeoutError) Timeout() bool   { return true }
func (*timeoutError) Temporary() bool { return false }

// attempt makes one attempt, which begins at start, and returns the step that follows. If the front cannot make the request, it returns the
// front's error and no step.
func (x *Exchange) attempt(step *course.Step, start time.Time) (next course.Step, err error) {
	if step.Again {
		x.dropAttempt()
	}
	x.res, x.err = nil, nil
	target := x.course.Choice().Target
	x.Live.At(target.Address())
	x.plan.Observer.Chosen(x)
	n := x.course.Attempts()
	x.informed.begin(n)
	x.race.Store(nil)
	o := &x.out
	if *o, err = x.front.Attempt(x.ctx, n, target, x); err != nil {
		return course.Step{}, err
	}
	timer := x.prepare(o)
	x.begin(*x.course.Choice(), step.Reason, start)
	if body := x.front.Body(); body != nil {
		x.waited = body.Wait(start)
	}
	x.trail[x.current].span = x.plan.Observer.Begin(x, o, target.Address(), x.current, step.Reason, start)
	res, err := x.roundTrip(o, start)
	to, now := x.endMoving(), time.Now()
	if timer.stop() && x.ctx.Err() == nil {
		if err == nil {
			res.Body.Close() // its context has ended
		}
		res, err = nil, ErrTryTimeout
	}
	if to != nil {
		if err == nil {
			res.Body.Close() // it came too late
		}
		if res, err = nil, ErrGone; x.ctx.Err() != nil {
			to.Lease.Abandon()
			to, err = nil, context.Cause(x.ctx)
		}
	}
	x.endTicket(err, now)
	x.res, x.err, x.ended = res, err, now
	facts := x.facts(o.Request, res, err, x.trail[x.current].Start, now)
	x.front.Ended(res, err, x.trail[x.current].Start, now)
	if to != nil {
		next = x.course.Moved(&facts, *to, now)
	} else {
		next = x.course.Ended(&facts, now)
	}
	x.record(&facts, err, now)
	return next, nil
}

// roundTrip makes the attempt, in a race with a copy if hedging is on.
func (x *Exchange) roundTrip(o *Outgoing, start time.Time) (*http.Response, error) {
	x.beginTicket(start)
	if o.Request.Body == nil {
		if copied, after, ok := x.course.Copy(start); ok {
			return x.raced(copied, o, after)
		}
	}
	x.beginMoving(o)
	return o.Back.RoundTrip(o.Request)
}

// prepare gives the request of an attempt a view of the body, which can be detached later, and a timer that bounds the wait for the
// answer.
func (x *Exchange) prepare(o *Outgoing) *tryTimer {
	r := o.Request
	timeout := x.plan.TryTimeout
	if timeout > 0 && isGRPC(r.Header) {
		timeout = 0 // a stream's header may come with its first message, at any time
	}
	timer := (*tryTimer)(nil)
	if timeout > 0 {
		var ctx context.Context
		ctx, timer = newTryTimer(r.Context(), timeout)
		r = r.WithContext(ctx)
		o.Request = r
	}
	x.sent = nil
	if r.Body == nil {
		timer.start()
		return timer
	}
	limit := int64(0)
	switch {
	case x.plan.Rules.Retry.Attempts != 1 && x.course.Repeatable() && r.ContentLength <= x.plan.BodyLimit:
		limit = x.plan.BodyLimit
	case r.ContentLength > 0 && r.ContentLength <= x.plan.SmallBody:
		limit = x.plan.SmallBody // the back reads the body before it connects, and connecting may fail
	}
	if x.body == nil {
		x.body = new(requestBody)
		x.sent = &x.body.first
	} else {
		x.sent = new(sending)
	}
	x.sent.timer = timer
	x.body.attach(r, limit, o.Whole, x.sent)
	if isKeyed(r.Header) && !x.course.Repeatable() {
		r.GetBody = nil // keeps the transport from sending the request again, as in reverse_proxy
	}
	return timer
}

// isKeyed reports whether a request has one of the fields that make net/http's transport regard it as idempotent.
func isKeyed(h http.Header) bool { return h["Idempotency-Key"] != nil || h["X-Idempotency-Key"] != nil }

// facts returns what is known of the attempt that r made.
func (x *Exchange) facts(r *http.Request, res *http.Response, err error, start, now time.Time) (f course.Facts) {
	clientGone := x.ctx.Err()
	f.Gone, f.Took = clientGone != nil, now.Sub(start)
	f.Answered, f.Known = x.took(now)
	if body := x.front.Body(); body != nil {
		f.BodyFailed = x.body.failed() || body.Failure() != nil
		f.ClientFault = f.BodyFailed || body.Stalled(start, x.waited, now)
	}
	after := now.Sub(x.course.Began())
	request := messageOf(r.Header)
	if err != nil {
		failure := x.plan.Kind(err)
		f.Kind, f.Unreachable, f.NoDescriptors = failure.Kind, failure.Unreachable, failure.NoDescriptors
		f.Excused = errors.Is(err, context.Canceled) || errors.Is(clientGone, context.Canceled) || x.body.failed() || errors.Is(err, ErrBodyTaken) || errors.Is(err, ErrGone)
		f.Call = course.NewCall(request, nil, 0, false, after)
		return f
	}
	f.Status, f.RetryAfter = res.StatusCode, first(res.Header, "Retry-After") != ""
	f.Stream, f.Body = isStream(res), res.Body != nil && res.Body != http.NoBody
	if request.Is {
		answer := messageOf(res.Header)
		f.Call = course.NewCall(request, &answer, res.StatusCode, f.Body, after)
	}
	return f
}

const grpcStatus = "Grpc-Status"

// first returns the first value of the field of that canonical name. Unlike [http.Header.Get], it does not check the name.
func first(h http.Header, name string) string {
	if values := h[name]; len(values) > 0 {
		return values[0]
	}
	return ""
}

// messageOf returns what a header says about gRPC.
func messageOf(h http.Header) (m course.Message) {
	contentType := first(h, "Content-Type")
	if m.Is = isGRPCType(contentType); !m.Is {
		return m
	}
	return course.Message{Is: true, Web: strings.HasPrefix(contentType, "application/grpc-web"), Status: h.Get(grpcStatus), Timeout: h.Get("Grpc-Timeout")}
}

// isGRPC reports whether a message is gRPC or gRPC-Web.
func isGRPC(h http.Header) bool { return isGRPCType(first(h, "Content-Type")) }

func isGRPCType(contentType string) bool { return strings.HasPrefix(contentType, "application/grpc") }

// isStream reports whether an answer is a stream, whose duration depends on the client.
func isStream(res *http.Response) bool {
	contentType := first(res.Header, "Content-Type")
	return res.StatusCode == http.StatusSwitchingProtocols || strings.HasPrefix(contentType, "text/event-stream") || isGRPCType(contentType)
}

// beginTicket records in the backend's latency estimate that a request waits for its answer. A request with a body waits once its last byte
// has been sent.
func (x *Exchange) beginTicket(now time.Time) {
	ticket := x.course.Choice().Lease.Ticket() // a copy may take the attempt's place
	if x.sent != nil {
		x.sent.ticket = ticket
		return
	}
	ticket.Ask(now)
	x.ticket = ticket
}

// endTicket records the end of the wait; err is the error of the attempt. The backend counts as alive, unless the attempt ended because
// nothing arrived.
func (x *Exchange) endTicket(err error, now time.Time) {
	if race := x.race.Load(); race != nil && err == nil {
		err = race.firstErr
	}
	silent := err != nil && (errors.Is(err, context.Canceled) || errors.Is(err, ErrCopyWon) || x.isTimeout(err))
	if sent := x.sent; sent != nil {
		sent.endTicket(!silent, now)
		return
	}
	x.ticket.Told(!silent, now)
}

// isTimeout reports whether an attempt failed because of a timeout.
func (x *Exchange) isTimeout(err error) bool {
	f := x.plan.Kind(err)
	return f.Kind == course.TimedOut || f.Timeout
}

// took returns how long the attempt has taken, counted from the request's last byte, because a client that is slow to send says nothing
// about the backend. If the answer arrived before that byte was sent, the time is unknown.
func (x *Exchange) took(now time.Time) (took time.Duration, known bool) {
	if x.sent == nil {
		if len(x.trail) == 0 {
			return 0, false
		}
		return now.Sub(x.trail[x.current].Start), true
	}
	sent := x.sent.done.Load()
	if sent == 0 {
		return 0, false
	}
	return now.Sub(time.Unix(0, sent)), true
}

// sending tracks the body of an attempt while it is sent.
type sending struct {
	traffic *pool.Traffic // counts the bytes for the backend
	small   int64         // up to so many bytes may be read before there is a connection
	held    atomic.Int64  // bytes read that traffic does not count yet
	done    atomic.Int64  // when its last byte was read, in Unix nanoseconds; 0 before that
	ticket  pool.Ticket   // for the wait that begins at done; finished owns it until waits is waiting
	waits   atomic.Uint32 // the state of the ticket: see below
	timer   *tryTimer     // started at done
}

// The values of sending.waits.
const (
	waitsNotYet = iota
	waiting
	waitsNoMore
)

// took implements [sender]. A back may read a small body before it connects. Its bytes are counted when there is a connection.
func (s *sending) took(n int) {
	if s.held.Add(int64(n)) > s.small {
		s.count()
	}
}

// count counts the bytes that were read and are not counted yet. A nil sending has none.
func (s *sending) count() {
	if s != nil {
		s.traffic.CountIn(int(s.held.Swap(0)))
	}
}

// unsent drops the bytes that were read for a connection that was not made. A nil sending has none.
func (s *sending) unsent() {
	if s != nil {
		s.held.Store(0)
	}
}

// sent implements [sender].
func (s *sending) sent() {
	s.finished(time.Now())
	s.timer.start()
}

// finished records that the last byte was read, and begins the ticket. The transport's goroutines may call it, and more than once.
func (s *sending) finished(now time.Time) {
	if !s.done.CompareAndSwap(0, now.UnixNano()) {
		return
	}
	s.ticket.Ask(now)
	if !s.waits.CompareAndSwap(waitsNotYet, waiting) {
		s.ticket.Told(false, now) // the attempt has already ended
	}
}

// endTicket ends the ticket if it has begun, and keeps it from beginning otherwise.
func (s *sending) endTicket(alive bool, now time.Time) {
	if s.waits.Swap(waitsNoMore) == waiting {
		s.ticket.Told(alive, now)
	}
}

// tryTimer cancels an attempt that is not answered in time. A nil tryTimer never does.
type tryTimer struct {
	timeout time.Duration
	cancel  context.CancelCauseFunc
	timer   atomic.Pointer[time.Timer] // once started
	over    atomic.Uint32              // stopped or fired; 0 before that
}

const (
	stopped = 1 + iota
	fired
)

// newTryTimer returns a timer that is not running yet, and the context that it cancels. The context needs no cancel function,
// because it ends with its parent at the latest.
func newTryTimer(parent context.Context, timeout time.Duration) (context.Context, *tryTimer) {
	ctx, cancel := context.WithCancelCause(parent)
	return ctx, &tryTimer{timeout: timeout, cancel: cancel}
}

// start starts the timer, when the request's last byte has been read. The transport's goroutines may call it, and more than
// once.
func (t *tryTimer) start() {
	if t == nil || t.over.Load() != 0 || t.timer.Load() != nil {
		return
	}
	timer := time.AfterFunc(t.timeout, func() {
		if t.over.CompareAndSwap(0, fired) {
			t.cancel(ErrTryTimeout)
		}
	})
	if !t.timer.CompareAndSwap(nil, timer) || t.over.Load() != 0 {
		timer.Stop()
	}
}

// stop stops the timer and reports whether it had fired.
func (t *tryTimer) stop() bool {
	if t == nil {
		return false
	}
	if !t.over.CompareAndSwap(0, stopped) {
		return true
	}
	if timer := t.timer.Load(); timer != nil {
		timer.Stop()
	}
	return false
}
