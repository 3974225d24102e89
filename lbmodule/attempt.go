package lbmodule

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ballastlb/ballast/lbmodule/engine"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

// attempt makes one attempt over that transport. If it fails and there is to be another, the backend of that one is
// reserved when attempt returns, and q.again is set.
func (q *request) attempt(transport http.RoundTripper, original *http.Request) (*http.Response, error) {
	q.again = false
	r, timer := q.prepare(original)
	q.begin(q.choice, time.Now())
	q.waited = q.front.Body().Wait(q.begun)
	q.informed.begin(q.attempts)
	q.race.Store(nil)
	r = q.trace(r)
	res, err := q.roundTrip(transport, r, q.begun)
	now := time.Now()
	if timer.stop() && original.Context().Err() == nil {
		if err == nil {
			res.Body.Close() // it has been cut off
		}
		res, err = nil, errTryTimeout
	}
	q.front.Ended(res, err, q.begun, now)
	q.hears(err, now)
	q.call = newGRPCCall(original, res, q.live.Started(), now)
	q.attempted(original.Context(), res, err, now, now.Sub(q.begun))
	if err == nil && !q.h.retries.lookAt(res, q.call.status) {
		return q.pass(original, res), nil
	}
	if reason, again := q.another(original, res, err); again {
		q.again = true
		q.repeat(reason, now)
		q.body.detach()
		if err == nil {
			res.Body.Close()
			err = errDropped(res.StatusCode, q.call.status)
		}
		return nil, err
	}
	if err != nil {
		if refused := q.front.Body().Refusal(original.Context()); refused != nil {
			err = refused
		}
		return nil, err
	}
	return q.pass(original, res), nil
}

// another chooses and reserves the backend of another attempt, if there is to be one, and tells why there is.
func (q *request) another(r *http.Request, res *http.Response, err error) (reason pool.RetryReason, again bool) {
	reason, ok := q.reason(r, res, err)
	ok = ok && q.informed.end()
	holds := q.canHold(r)
	if q.lease.Held() && (ok || holds) {
		q.tried = append(q.tried, q.lease.Index())
	}
	if ok && (!holds || q.others()) && q.reserve(r, res, reason) {
		return reason, true
	}
	return pool.RetryConnect, holds && q.holdOut(r)
}

// pass passes an answer on to the client.
func (q *request) pass(original *http.Request, res *http.Response) *http.Response {
	q.passed = res
	q.leave()
	q.bind(original)
	q.watch(original.Context(), res)
	return res
}

// roundTrip makes the attempt, hedged where that is asked for.
func (q *request) roundTrip(transport http.RoundTripper, r *http.Request, start time.Time) (*http.Response, error) {
	q.asks(start)
	if delay := q.hedgeDelay(r, start); delay > 0 {
		return q.hedged(transport, r, delay)
	}
	return transport.RoundTrip(r)
}

// prepare returns the request of an attempt: with a view of the body that can be taken away from it, and a bound on the
// time it may take to be answered.
func (q *request) prepare(r *http.Request) (*http.Request, *tryTimer) {
	rules := &q.h.retries
	timeout := rules.tryTimeout
	if timeout > 0 && isGRPC(r.Header) {
		timeout = 0 // streams are answered when there is something to say
	}
	timer := (*tryTimer)(nil)
	if timeout > 0 {
		var ctx context.Context
		ctx, timer = newTryTimer(r.Context(), timeout)
		r = r.WithContext(ctx)
	}
	if r.Body == nil {
		timer.start()
		return r, timer
	}
	limit := int64(0)
	switch {
	case rules.attempts != 1 && q.repeatable(r) && r.ContentLength <= rules.bodyLimit:
		limit = rules.bodyLimit
	case r.ContentLength > 0 && r.ContentLength <= engine.MaxBody:
		limit = engine.MaxBody // it is read before there is a connection, and there may be none
	}
	if q.body == nil {
		q.body = new(requestBody)
	}
	// There is a request for each attempt, so its fields are ours to change.
	sent := new(sending)
	q.sending = sent
	q.body.attach(r, limit, q.h.stock.RequestBuffers != 0, func() {
		sent.finished(time.Now())
		timer.start()
	})
	if isKeyed(r.Header) && !q.repeatable(r) {
		r.GetBody = nil // so that the transport does not send it again, as it would not for reverse_proxy
	}
	return r, timer
}

// attempted is told how the round trip of the current attempt ended.
func (q *request) attempted(ctx context.Context, res *http.Response, err error, now time.Time, took time.Duration) {
	if breaker := q.h.stock.CircuitBreaker; breaker != nil && err == nil {
		breaker.RecordMetric(res.StatusCode, took)
	}
	q.verdict = pool.Verdict{
		Outcome: q.classify(ctx, res, err),
		Refused: err != nil && isUnreachable(err),
		Slow:    q.h.slow > 0 && took >= q.h.slow,
		Origin:  q.origin,
	}
	switch {
	case q.verdict.Outcome == pool.Success:
		q.verdict.Outcome = q.call.outcome(&q.h.failureStatus)
	case err != nil && q.call.excused && !q.verdict.Refused:
		q.verdict.Outcome = pool.Ignored
	}
	q.record(res, err, q.verdict.Outcome, now)
	if q.h.Hedge.Enabled() && q.verdict.Outcome == pool.Success && q.call.pending == nil {
		q.h.pool.Latency.Add(took, now)
	}
	q.learn(ctx, res, err, now)
	ignored := q.verdict.Outcome == pool.Ignored
	q.lost = q.verdict.Refused && !ignored && q.lease.Held() && !q.set.View().Backend(q.lease.Index()).Unchecked
	if !q.lease.Held() || err != nil && ignored {
		return
	}
	if p := &q.h.passive; p.settings.Span > 0 && ctx.Err() == nil {
		q.set.View().ObservePassive(q.lease.Index(), p.failed(res, err, took), now)
	}
	if ignored {
		return
	}
	if q.call.pending != nil && q.verdict.Outcome == pool.Success {
		q.expect(now)
		return
	}
	// A success is judged when the answer has ended, because it may yet break off; but not where that would take too long
	// to learn from, or a probe is waited for.
	if q.verdict.Outcome == pool.Failure || q.lease.Probing() || isStream(res) {
		q.lease.Judge(q.verdict, now)
		q.verdict = pool.Verdict{}
	}
}

// isStream tells whether an answer may go on for as long as the client likes.
func isStream(res *http.Response) bool {
	contentType := res.Header.Get("Content-Type")
	return res.StatusCode == http.StatusSwitchingProtocols || strings.HasPrefix(contentType, "text/event-stream") || isGRPCType(contentType)
}

// watch has q learn when the answer breaks off. The body of one that switches protocols is a connection, and stays one.
func (q *request) watch(ctx context.Context, res *http.Response) {
	if res.StatusCode == http.StatusSwitchingProtocols || res.Body == nil || res.Body == http.NoBody {
		return
	}
	q.answer = answerBody{ReadCloser: res.Body, ctx: ctx, q: q}
	res.Body = &q.answer
}

// answerBody is an answer's body that notices when it breaks off.
type answerBody struct {
	io.ReadCloser
	ctx      context.Context
	q        *request // that it answers
	broken   bool
	complete bool // it has been read to its end
}

func (b *answerBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.complete = b.complete || err == io.EOF
	if n > 0 && b.q.call.pending != nil {
		b.q.streams()
	}
	if err != nil && err != io.EOF && !errors.Is(err, context.Canceled) && b.ctx.Err() == nil && !b.q.isClients() {
		b.broken = true
	}
	return n, err
}

// end judges what the request has not been told yet about its backend, and gives the backend up.
func (q *request) end() {
	now := time.Now()
	q.hears(context.Canceled, now) // of an attempt that panicked
	q.settle(now)
	q.finish(now)
	if q.lease.Held() {
		if q.answer.broken {
			q.verdict = pool.Verdict{Outcome: pool.Failure, Origin: q.origin}
		}
		q.learnEnd(now)
		q.lease.Judge(q.verdict, now)
	}
	q.lease.Release()
	q.leave()
	q.live.Done()
	q.body.detach()
	q.body.forget()
	q.front.End(now)
}

// tryTimer ends an attempt that is not answered in time. A nil tryTimer never does.
type tryTimer struct {
	timeout time.Duration
	cancel  context.CancelCauseFunc
	timer   atomic.Pointer[time.Timer] // once started
	over    atomic.Uint32              // what ended it: stopped or fired; 0 while nothing has
}

const (
	stopped = 1 + iota
	fired
)

// newTryTimer returns a timer that is not running yet, and the context that it ends. The context ends with its parent at
// the latest, so there is nobody who has to cancel it.
func newTryTimer(parent context.Context, timeout time.Duration) (context.Context, *tryTimer) {
	ctx, cancel := context.WithCancelCause(parent)
	return ctx, &tryTimer{timeout: timeout, cancel: cancel}
}

// start begins to count, when the request's last byte has been read. It may be called by the transport's goroutines, and
// more than once.
func (t *tryTimer) start() {
	if t == nil || t.over.Load() != 0 || t.timer.Load() != nil {
		return
	}
	timer := time.AfterFunc(t.timeout, func() {
		if t.over.CompareAndSwap(0, fired) {
			t.cancel(errTryTimeout)
		}
	})
	if !t.timer.CompareAndSwap(nil, timer) || t.over.Load() != 0 {
		timer.Stop()
	}
}

// stop ends counting and tells whether time was up before.
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
