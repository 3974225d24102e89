package lbmodule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"github.com/ballastlb/ballast/caddyapp"
	"github.com/ballastlb/ballast/lbmodule/front"
	"github.com/ballastlb/ballast/lbmodule/policies"
	"github.com/ballastlb/ballast/lbmodule/pool"
	"github.com/ballastlb/ballast/lbmodule/service"
	"github.com/ballastlb/ballast/lbmodule/stock"
)

// errHedgeWon ends an attempt because a copy of its request was answered first.
var errHedgeWon = errors.New("a copy of the request was answered first")

// errPanicked is what became of a copy whose transport panicked.
var errPanicked = errors.New("copy of the request panicked")

// checkHedge checks that copies of requests can be sent elsewhere, as far as that shows in the settings: they carry the headers that
// were made for the first backend, and policies that are not ours may write to the response while they choose.
func (h *Handler) checkHedge() error {
	if !h.Hedge.Enabled() {
		return nil
	}
	if lb := h.LoadBalancing; lb != nil && lb.SelectionPolicyRaw != nil {
		var policy struct {
			Name string `json:"policy"`
		}
		if json.Unmarshal(lb.SelectionPolicyRaw, &policy) == nil && !policies.IsServedByUs(policy.Name) {
			return caddyapp.About(errHedgePolicy(policy.Name), "hedge", "lb_policy")
		}
	}
	var transport struct {
		Protocol      string `json:"protocol"`
		ProxyProtocol string `json:"proxy_protocol"`
		TLS           struct {
			ServerName string `json:"server_name"`
		} `json:"tls"`
	}
	// What cannot be read will be told of when it is loaded.
	if json.Unmarshal(h.TransportRaw, &transport) == nil && transport.Protocol == "http" {
		if transport.ProxyProtocol != "" {
			return caddyapp.About(errHedgeProxyProtocol, "hedge", "transport")
		}
		if name := transport.TLS.ServerName; dependsOnUpstream(name) {
			return caddyapp.About(fmt.Errorf("hedge: tls_server_name %s: must not depend on the upstream, of which there may be two", name), "hedge", "transport")
		}
	}
	return caddyapp.About(h.checkHedgeHeaders(), "hedge", "header_up")
}

func (h *Handler) checkHedgeHeaders() error {
	if h.Headers == nil || h.Headers.Request == nil {
		return nil
	}
	ops := h.Headers.Request
	var values []string
	for _, header := range []http.Header{ops.Add, ops.Set} {
		for _, list := range header {
			values = append(values, list...)
		}
	}
	for _, list := range ops.Replace {
		for _, replacement := range list {
			values = append(values, replacement.Replace)
		}
	}
	for _, value := range values {
		if dependsOnUpstream(value) {
			return fmt.Errorf("hedge: request header %s: must not depend on the upstream, of which there may be two", value)
		}
	}
	return nil
}

// checkHedgeModules checks the same of modules of others, which must be loaded to tell.
func (h *Handler) checkHedgeModules() error {
	if !h.Hedge.Enabled() {
		return nil
	}
	if _, ours := h.policy.(policies.Balancer); !ours {
		return errHedgePolicy(policies.Name(h.policy))
	}
	if h.stock.Transport.ProxyProtocolEnabled() {
		return errHedgeProxyProtocol
	}
	return nil
}

func errHedgePolicy(name string) error {
	return fmt.Errorf("hedge: selection policy %s: must be one of the lb_ policies", name)
}

var errHedgeProxyProtocol = errors.New("hedge: the transport uses the PROXY protocol; connections of it are for one backend and client")

func dependsOnUpstream(text string) bool {
	return strings.Contains(text, "{http.reverse_proxy.upstream.")
}

// hedgeDelay is after which time a copy of the request may be sent, 0 for never.
func (q *request) hedgeDelay(r *http.Request, now time.Time) time.Duration {
	if !q.h.Hedge.Enabled() || q.attempts > 1 || r.Body != nil || !q.h.front.Idempotent(r) || front.IsUpgrade(r) || !q.lease.Held() {
		return 0
	}
	if q.h.sessions != nil {
		return 0 // the other backend does not know the session
	}
	delay, known := q.h.pool.Latency.Quantile(q.h.Hedge.Percentile, now)
	if !known {
		return 0
	}
	return delay
}

// hedged makes an attempt, and sends a copy of the request to another backend if there is no answer after delay. The
// first good answer counts; if it is the copy's, that becomes the attempt.
func (q *request) hedged(transport http.RoundTripper, r *http.Request, delay time.Duration) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(r.Context())
	c := &hedgeCopy{
		q: q, transport: transport, cancelFirst: cancel, ended: make(chan struct{}),
		set: q.set, first: q.lease.Index(), original: r,
	}
	q.race.Store(c)
	timer := time.AfterFunc(delay, c.send)
	res, err := transport.RoundTrip(r.WithContext(ctx))
	if timer.Stop() {
		return res, err
	}
	if err == nil && isGood(q.classify(r.Context(), res, nil), res) && c.decide(firstWon) {
		if c.started() {
			q.outrun(c)
		}
		return res, nil
	}
	if !c.started() {
		return res, err
	}
	<-c.ended
	if c.outcome() != copyWon {
		q.live.Copied("", nil)
		q.outrun(c)
		return res, err
	}
	c.overtook = err
	q.overtaken(r.Context(), c, res, err)
	if err == nil {
		res.Body.Close()
	}
	q.lease.Release()
	q.choice = c.choice
	q.attempts++
	q.live.At(q.upstream.Dial)
	q.front.Overtaken(c.target)
	return c.res, nil
}

// hedgeCopy is a copy of a request on its way to another backend.
type hedgeCopy struct {
	q           *request
	transport   http.RoundTripper
	cancelFirst context.CancelCauseFunc
	set         *service.Set
	first       int // position in set of the backend of the first attempt
	original    *http.Request
	overtook    error // how the first attempt ended, if the copy won

	mu     sync.Mutex // guards what follows, until ended is closed
	sent   bool
	winner hedgeOutcome
	cancel context.CancelCauseFunc
	choice choice
	start  time.Time
	span   trace.Span // nil without tracing
	target *stock.Target
	res    *http.Response

	// What became of a copy that did not win.
	took   time.Duration
	status int
	err    error

	ended chan struct{} // closed when the copy has been answered or has failed
}

type hedgeOutcome uint8

const (
	undecided hedgeOutcome = iota
	firstWon
	copyWon
)

// isGood tells whether an answer is one to prefer to another that is still to come.
func isGood(outcome pool.Outcome, res *http.Response) bool {
	return outcome == pool.Success && !speaksAgainst(res)
}

// decide makes o the winner, if there is none yet, and ends the other.
func (c *hedgeCopy) decide(o hedgeOutcome) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.winner != undecided {
		return false
	}
	c.winner = o
	c.q.live.Copied("", nil)
	if o == copyWon {
		c.cancelFirst(errHedgeWon)
	} else if c.cancel != nil {
		c.cancel(context.Canceled)
	}
	return true
}

func (c *hedgeCopy) outcome() hedgeOutcome {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.winner
}

// started tells whether there is a copy, and sees to it that there will be none if there is none yet.
func (c *hedgeCopy) started() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.sent && c.winner == undecided {
		c.winner = firstWon
	}
	return c.sent
}

// settle tells whether the client may be given an informational answer: there must not be two that it could come from. There will be no
// copy then.
func (c *hedgeCopy) settle() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sent {
		return false
	}
	c.winner = firstWon
	return true
}

// send makes the attempt with the copy. It runs on a goroutine of its own, of which there are as many as the settings
// allow copies.
func (c *hedgeCopy) send() {
	r, ok := c.prepare()
	if !ok {
		return
	}
	defer close(c.ended)
	defer func() {
		// Nobody else would catch it here, and the first attempt goes on.
		if p := recover(); p != nil {
			c.q.h.logger.Error("copy of a request panicked", zap.String("pool", c.q.h.pool.Name()), zap.Any("panic", p), zap.Stack("stack"))
			c.choice.lease.Release()
			c.err = errPanicked
		}
	}()
	ctx, traffic := r.Context(), c.choice.lease.Traffic()
	res, err := c.transport.RoundTrip(r)
	outcome := c.q.classify(ctx, res, err)
	if err == nil && isGood(outcome, res) {
		c.res = res
		if c.decide(copyWon) {
			return
		}
		outcome, c.err = pool.Ignored, errLost
	}
	now := time.Now()
	if c.took = now.Sub(c.start); err != nil {
		c.err = err
	}
	if res != nil {
		c.status = res.StatusCode
		traffic.Answered(c.took, now)
		res.Body.Close()
	}
	traffic.Ended(outcome, c.status, c.took)
	endSpan(c.span, c.status, c.err)
	c.learn(res, err, outcome)
	c.choice.lease.Judge(pool.Verdict{Outcome: outcome, Refused: err != nil && isUnreachable(err), Origin: c.q.origin}, now)
	c.choice.lease.Release()
}

// prepare chooses the backend of the copy, if there is one and the budgets allow it, and makes the copy.
func (c *hedgeCopy) prepare() (*http.Request, bool) {
	h, now := c.q.h, time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.winner != undecided || c.original.Context().Err() != nil || h.pool.QueueLength() > 0 {
		return nil, false
	}
	superseded, _ := c.set.Superseded()
	select {
	case <-superseded: // who was there may have been taken out
		return nil, false
	default:
	}
	lease, err := c.set.View().AcquireFor(c.q.key, []int{c.first}, false)
	if err != nil {
		return nil, false
	}
	c.choice = choice{c.set.Upstream(lease.Index()), lease}
	c.target = c.set.Target(lease.Index())
	if lease.Index() == c.first || !c.target.Fixed() || !h.pool.SpendHedge(h.Hedge.MaxExtra, h.retries.budget, now) {
		c.choice.lease.Abandon()
		return nil, false
	}
	ctx, cancel := context.WithCancelCause(c.original.Context())
	c.sent, c.start, c.cancel = true, now, cancel
	c.q.live.Copied(c.choice.upstream.Dial, cancel)
	r, _ := c.q.front.Copy(ctx, c.original, c.target)
	if c.q.parent != nil && c.q.parent.SpanContext().IsValid() {
		r, c.span = c.q.startSpan(r, c.choice.upstream.Dial, 1, pool.RetryHedge, now)
	}
	return r, true
}
