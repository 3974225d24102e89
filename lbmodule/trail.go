package lbmodule

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap/zapcore"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

// errBrokenOff is what became of an attempt whose answer ended before its end.
var errBrokenOff = errors.New("answer broke off")

// errLost is what became of a copy of a request that was not the first to be answered.
var errLost = errors.New("the request was answered before its copy")

// attemptRecord is what there is to tell of an attempt. It is counted when it has ended.
type attemptRecord struct {
	address string // of the backend
	traffic *pool.Traffic
	span    trace.Span // nil without tracing
	start   time.Time
	took    time.Duration // until the answer's header, or until it failed
	status  int           // 0 without an answer
	grpc    grpcStatus
	err     error
	outcome pool.Outcome
	ended   bool
}

// begin makes a record of an attempt that is about to be made on that backend.
func (q *request) begin(c choice, start time.Time) {
	if q.trail == nil {
		q.trail = q.trailSpace[:0]
	}
	traffic := c.lease.Traffic()
	if traffic == nil {
		traffic = q.h.pool.Others()
	}
	q.current, q.begun = len(q.trail), start
	q.trail = append(q.trail, attemptRecord{address: c.upstream.Dial, traffic: traffic, start: start})
}

// record notes how the round trip of the current attempt ended.
func (q *request) record(res *http.Response, err error, outcome pool.Outcome, now time.Time) {
	a := &q.trail[q.current]
	a.took, a.outcome, a.err = now.Sub(a.start), outcome, err
	if err != nil {
		q.finish(now)
		return
	}
	a.status, a.grpc = res.StatusCode, q.call.status
	a.traffic.Answered(a.took, now)
}

// repeat notes that the current attempt, which ended then, is made again for that reason.
func (q *request) repeat(reason pool.RetryReason, now time.Time) {
	q.retryReason = reason
	q.trail[q.current].traffic.Repeated()
	q.finish(now)
}

// finish counts the current attempt, once it has ended.
func (q *request) finish(now time.Time) {
	if len(q.trail) == 0 {
		return
	}
	a := &q.trail[q.current]
	if a.ended {
		return
	}
	a.ended = true
	if q.answer.broken {
		a.outcome, a.err = pool.Failure, errBrokenOff
	}
	a.traffic.Ended(a.outcome, a.status, now.Sub(a.start))
	if a.grpc != noGRPC {
		a.traffic.EndedCall(int(a.grpc) - 1)
	}
	endSpan(a.span, a.status, a.err)
}

// overtaken notes that the copy was answered first, and makes it the current attempt. res and err are how the first attempt
// ended.
func (q *request) overtaken(ctx context.Context, c *hedgeCopy, res *http.Response, err error) {
	now := time.Now()
	took := now.Sub(q.begun)
	if errors.Is(err, context.Canceled) || errors.Is(err, errHedgeWon) {
		q.lease.Latency().Unanswered(took, now)
		q.record(res, errHedgeWon, pool.Ignored, now)
	} else {
		q.attempted(ctx, res, err, now, took)
		q.lease.Judge(q.verdict, now)
	}
	q.finish(now)
	q.begin(c.choice, c.start)
	q.trail[q.current].span = c.span
	q.h.pool.HedgeWon()
}

// outrun notes that there was a copy, and that it was not the first to be answered. The copy counts itself.
func (q *request) outrun(c *hedgeCopy) {
	a := attemptRecord{address: c.choice.upstream.Dial, start: c.start, took: time.Since(c.start), err: errLost, ended: true}
	select {
	case <-c.ended:
		a.took, a.status = c.took, c.status
		if !errors.Is(c.err, context.Canceled) {
			a.err = c.err
		}
	default: // it is being canceled
	}
	q.trail = append(q.trail, a)
}

// attemptList are attempts as logs and placeholders show them.
type attemptList []shownAttempt

type shownAttempt struct {
	Backend string  `json:"backend"`
	Status  int     `json:"status"` // 0 without an answer
	GRPC    string  `json:"grpc_status,omitempty"`
	Ms      float64 `json:"ms"` // until the answer's header, or until it failed
	Error   string  `json:"error,omitempty"`
}

// String is the list as JSON, which is what a placeholder stands for.
func (l attemptList) String() string {
	text, err := json.Marshal(l)
	if err != nil {
		return ""
	}
	return string(text)
}

// MarshalLogArray implements [zapcore.ArrayMarshaler].
func (l attemptList) MarshalLogArray(e zapcore.ArrayEncoder) error {
	for _, a := range l {
		if err := e.AppendObject(a); err != nil {
			return err
		}
	}
	return nil
}

// MarshalLogObject implements [zapcore.ObjectMarshaler].
func (a shownAttempt) MarshalLogObject(e zapcore.ObjectEncoder) error {
	e.AddString("backend", a.Backend)
	e.AddInt("status", a.Status)
	if a.GRPC != "" {
		e.AddString("grpc_status", a.GRPC)
	}
	e.AddFloat64("ms", a.Ms)
	if a.Error != "" {
		e.AddString("error", a.Error)
	}
	return nil
}

// attemptsMade are the attempts that the request has had so far.
func (q *request) attemptsMade() attemptList {
	list := make(attemptList, len(q.trail))
	for i := range q.trail {
		a := &q.trail[i]
		list[i] = shownAttempt{Backend: q.h.manager.Name(a.address), Status: a.status, GRPC: a.grpc.String(), Ms: milliseconds(a.took)}
		if a.err != nil {
			list[i].Error = a.err.Error()
		}
	}
	return list
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
