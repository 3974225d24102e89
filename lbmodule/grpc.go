package lbmodule

import (
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

// The outcome of a gRPC call is its gRPC status; HTTP's is 200 nearly always. It stands in the header of an answer that has nothing
// else (trailers-only), and after the body of all others. So an answer with a body is judged when it has ended, and not before: what
// fails at its end was no success at its beginning. gRPC-Web has its trailers in the body, where nobody looks for them: only a status
// in the header is seen there.

// grpcNames are the statuses of gRPC by their codes, as its documentation names them (github.com/grpc/grpc, doc/statuscodes.md).
var grpcNames = [...]string{
	"ok", "cancelled", "unknown", "invalid_argument", "deadline_exceeded", "not_found", "already_exists", "permission_denied",
	"resource_exhausted", "failed_precondition", "aborted", "out_of_range", "unimplemented", "internal", "unavailable", "data_loss",
	"unauthenticated",
}

// What is counted has a place for each of them, and one for all others.
var _ [pool.Calls]struct{} = [len(grpcNames) + 1]struct{}{}

// grpcStatus is how a gRPC call ended: 1 more than the code of its status.
type grpcStatus uint8

const (
	// noGRPC is that there is no status: it is no gRPC call, or has not ended.
	noGRPC grpcStatus = 0
	// otherGRPC is a status that gRPC does not have, or none where there must be one.
	otherGRPC = grpcStatus(len(grpcNames) + 1)
)

// code is the status as gRPC's clients take it: what gRPC does not have is unknown. There must be one.
func (s grpcStatus) code() codes.Code {
	if s == otherGRPC {
		return codes.Unknown
	}
	return codes.Code(s - 1)
}

// String returns the status as logs and metrics show it, "" for none.
func (s grpcStatus) String() string {
	switch s {
	case noGRPC:
		return ""
	case otherGRPC:
		return "other"
	default:
		return grpcNames[s-1]
	}
}

// statusIn returns the status in a header or a trailer.
func statusIn(h http.Header) grpcStatus {
	value := h.Get("Grpc-Status")
	if value == "" {
		return noGRPC
	}
	code, err := strconv.Atoi(value)
	if err != nil || code < 0 || code >= len(grpcNames) {
		return otherGRPC
	}
	return grpcStatus(code + 1)
}

// isGRPC tells whether a message is of gRPC, or of gRPC-Web.
func isGRPC(h http.Header) bool { return isGRPCType(h.Get("Content-Type")) }

func isGRPCType(contentType string) bool { return strings.HasPrefix(contentType, "application/grpc") }

func isGRPCWeb(h http.Header) bool {
	return strings.HasPrefix(h.Get("Content-Type"), "application/grpc-web")
}

// grpcCall is what is known of the current attempt as a gRPC call. The zero grpcCall is none.
type grpcCall struct {
	status  grpcStatus
	excused bool   // it ended because the time was up that the client had set
	timeout string // that time, as in its header

	pending *http.Response // the answer that has the status in its trailer; nil if there is no need to wait for that
	took    time.Duration  // until its header
	known   bool           // took is
	begun   bool           // a part of its body has come
	judged  bool           // as a success, before its end
	probe   *streamProbe   // nil if it is none
}

// newGRPCCall returns what the header of an answer tells of the call; res is nil if there is none. asked is when the client did.
func newGRPCCall(r *http.Request, res *http.Response, asked, now time.Time) (c grpcCall) {
	if !isGRPC(r.Header) || res != nil && !isGRPC(res.Header) {
		return c
	}
	c.timeout = r.Header.Get("Grpc-Timeout")
	if res == nil {
		c.excused = c.timeUp(now.Sub(asked)) // servers break off what has taken too long
		return c
	}
	switch status := statusIn(res.Header); {
	case status != noGRPC:
		c.ended(status, now.Sub(asked))
	case res.StatusCode != http.StatusOK || isGRPCWeb(res.Header):
		// The status of HTTP is all there is.
	case res.Body == nil || res.Body == http.NoBody:
		c.ended(otherGRPC, now.Sub(asked))
	default:
		c.pending = res
	}
	return c
}

// ended notes how the call ended, that long after the client had asked.
func (c *grpcCall) ended(status grpcStatus, after time.Duration) {
	c.status, c.pending = status, nil
	c.excused = c.is(codes.DeadlineExceeded) && c.timeUp(after)
}

// timeUp tells whether the time that the client has set is over when so much has passed. Clocks differ, and timers are not exact.
func (c *grpcCall) timeUp(after time.Duration) bool {
	timeout := grpcTimeout(c.timeout)
	return timeout > 0 && after >= timeout-timeout/10
}

// is tells whether the call has ended with that code.
func (c *grpcCall) is(code codes.Code) bool { return c.status != noGRPC && c.status.code() == code }

// ownDoing tells whether the call ended because its client wanted it to.
func (c *grpcCall) ownDoing() bool { return c.excused || c.is(codes.Canceled) }

// outcome is what the call says about its backend, as far as it is known.
func (c *grpcCall) outcome(failures *statusSet) pool.Outcome {
	switch {
	case c.excused, c.is(codes.ResourceExhausted):
		return pool.Ignored
	case failures.hasGRPC(c.status):
		return pool.Failure
	case c.ownDoing():
		return pool.Ignored
	default:
		return pool.Success
	}
}

// speaksAgainst is [speaksAgainst] for calls: the statuses are those that Envoy takes for 429 and 5xx (grpcToHttpStatus).
func (c *grpcCall) speaksAgainst() bool {
	if c.status == noGRPC || c.excused {
		return false
	}
	switch c.status.code() {
	case codes.Unknown, codes.DeadlineExceeded, codes.ResourceExhausted, codes.Unimplemented, codes.Internal, codes.Unavailable, codes.DataLoss:
		return true
	default:
		return false
	}
}

// grpcTimeout reads the value of a grpc-timeout, 0 for none.
func grpcTimeout(value string) time.Duration {
	const most = 8 // digits
	if len(value) < 2 || len(value) > most+1 {
		return 0
	}
	n, err := strconv.ParseUint(value[:len(value)-1], 10, 32)
	if err != nil {
		return 0
	}
	var unit time.Duration
	switch value[len(value)-1] {
	case 'H':
		unit = time.Hour
	case 'M':
		unit = time.Minute
	case 'S':
		unit = time.Second
	case 'm':
		unit = time.Millisecond
	case 'u':
		unit = time.Microsecond
	case 'n':
		unit = time.Nanosecond
	default:
		return 0
	}
	const longest = 1 << 62
	return time.Duration(min(n, uint64(longest/unit))) * unit
}

// expect sees to a call whose status is still to come. The slot of a probe is not to be held for as long as a stream may last.
func (q *request) expect(now time.Time) {
	c := &q.call
	switch {
	case !q.lease.Probing():
	case q.h.Breaker != nil && q.h.Breaker.Disabled: // only the connection matters
		q.lease.Judge(q.verdict, now)
		c.judged = true
	default:
		c.probe = newStreamProbe(&q.lease, q.verdict)
	}
}

// streams is told that a part of the body of a pending answer has come. A backend that fails at once sends none.
func (q *request) streams() {
	c := &q.call
	if !c.begun {
		c.begun = true
		if l := q.lease.Latency(); l != nil && c.known {
			l.Answered(c.took, time.Now())
		}
	}
	if c.probe != nil {
		c.probe.note(true, false)
	}
}

// settle judges a call whose status was still to come, now that its answer is over.
func (q *request) settle(now time.Time) {
	c := &q.call
	res := c.pending
	if res == nil {
		return
	}
	c.pending = nil
	if c.probe != nil && c.probe.stop() {
		c.judged = true
	}
	a := &q.trail[q.current]
	switch {
	case q.answer.broken && c.timeUp(now.Sub(q.live.Started())):
		q.answer.broken, c.excused = false, true
		q.verdict.Outcome, a.err = pool.Ignored, errBrokenOff
	case q.answer.broken:
		return // which is judged for all answers
	case q.answer.complete:
		status := statusIn(res.Trailer)
		if status == noGRPC {
			status = otherGRPC
		}
		c.ended(status, now.Sub(q.live.Started()))
		q.verdict.Outcome, a.grpc = c.outcome(&q.h.failureStatus), status
		q.learnCall(res, now)
	case !c.begun:
		q.verdict.Outcome = pool.Ignored // the client has left
	}
	a.outcome = q.verdict.Outcome
	if c.judged && a.outcome == pool.Success {
		q.verdict = pool.Verdict{}
	}
}

// learnCall tells the backend's latency how a call ended whose status came last.
func (q *request) learnCall(res *http.Response, now time.Time) {
	c, l := &q.call, q.lease.Latency()
	failed := q.verdict.Outcome == pool.Failure || c.speaksAgainst()
	switch {
	case l == nil:
	case failed && !q.isWatched(res, nil, c.took, now):
		l.Failed(c.took, now)
	case failed, c.ownDoing():
		l.Unanswered(c.took, now)
	case !c.begun && c.known:
		l.Answered(c.took, now)
	}
}

// probeStream is how long a stream must have lasted, and something have come in it, to be a probe that went well.
const probeStream = time.Second

// streamProbe is a probe of a half-open backend whose answer may go on for as long as the client likes. The lease is its own to judge
// until it is stopped.
type streamProbe struct {
	timer *time.Timer

	mu      sync.Mutex // guards what follows
	lease   *pool.Lease
	verdict pool.Verdict
	begun   bool // something has come
	lasting bool // it goes on for long enough
	judged  bool
	over    bool
}

func newStreamProbe(lease *pool.Lease, verdict pool.Verdict) *streamProbe {
	p := &streamProbe{lease: lease, verdict: verdict}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.timer = time.AfterFunc(probeStream, func() { p.note(false, true) })
	return p
}

// note notes what is new, and judges the probe when it has gone well.
func (p *streamProbe) note(begun, lasting bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.begun, p.lasting = p.begun || begun, p.lasting || lasting
	if p.begun && p.lasting && !p.judged && !p.over {
		p.judged = true
		p.lease.Judge(p.verdict, time.Now())
	}
}

// stop returns whether the probe has been judged. From now on it is not.
func (p *streamProbe) stop() bool {
	p.timer.Stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = true
	return p.judged
}
