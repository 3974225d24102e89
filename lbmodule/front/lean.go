package front

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"net/http"
	"net/textproto"
	"net/url"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/ballastlb/ballast/lbmodule/course"
	"github.com/ballastlb/ballast/lbmodule/pool"
	"github.com/ballastlb/ballast/lbmodule/stock"
)

// RefusesHeads returns the setting because of which requests cannot be served as a [Lean], as it needs the fields of each request or
// answer; "" if there is none.
func (f *Front) RefusesHeads() (why string) {
	s := f.stock
	if why = f.refusesEdits(); why != "" {
		return why
	}
	switch {
	case s.Rewrite != nil:
		return "rewrite"
	case len(s.Responses) > 0:
		return "handle_response"
	case len(s.TrustedProxies) > 0:
		return "trusted_proxies"
	case s.RequestBuffers != 0 || s.ResponseBuffers != 0:
		return "buffers"
	case len(s.Retries.Match) > 0:
		return "lb_retry_match"
	case f.shows:
		return "lb_policy"
	case f.logger.Core().Enabled(zapcore.DebugLevel):
		return "debug" // reverse_proxy logs each request
	}
	return s.Transport.TakesHeads()
}

// Flushes reports whether an answer of known length is passed on without waiting for more of it.
func (f *Front) Flushes() bool { return f.stock.FlushInterval != 0 }

// FlushesAtOnce reports whether the head of an answer is passed on before any of its body.
func (f *Front) FlushesAtOnce() bool { return f.stock.FlushInterval < 0 }

// Head is the head of a request for a backend.
type Head = stock.Head

// Client is a client and its request, for a [Lean].
type Client interface {

	// Full returns the request as net/http's server would make it, with the context of Caddy's handlers.
	Full() *http.Request
	// Inform passes an informational answer to the client.
	Inform(status int, header http.Header)
}

// Lean replaces [Request] for a request whose head is passed on unchanged, or with header operations only. It holds the part of the
// request's state that concerns its backends. The zero Lean has not begun.
type Lean struct {
	front  *Front
	client Client
	who    *Who

	request  http.Request // of the first attempt: what transports need besides the head
	url      url.URL
	path     []byte // unescaped
	source   *ClientBody
	keyed    bool // the request has an Idempotency-Key
	current  *stock.Trip
	counted  *stock.Target // the target that counts the request; nil if none does
	target   *stock.Target // of the current attempt
	requests int           // at the target before this one
	fails    int
	trip     stock.Trip   // of the first attempt
	informer leanInformer // of the first attempt
	attempts int
	tells    http.Header // fields that the load balancer adds to the answer

	mu       sync.Mutex // guards answered, and informing the client
	answered bool       // the attempt is over: informational answers are too late
}

// Who identifies a client, for all requests of its connection.
type Who struct {
	Address string // Caddy's client_ip

	hash uint32 // for Origin
	key  string // for Client
}

// NewWho returns the identity of the client with that address.
func NewWho(address string) *Who {
	return &Who{Address: address, hash: clientHash(address), key: queueKey(address)}
}

// Begin initializes q for a request of that client. base has the context, and what transports need: the method, the length and the body,
// which is nil if the request has none or if AppendHead appends it. path is the unescaped path. keyed says that there is an
// Idempotency-Key.
func (q *Lean) Begin(f *Front, c Client, who *Who, base *http.Request, path []byte, keyed bool) {
	q.front, q.client, q.who, q.path, q.keyed = f, c, who, path, keyed
	q.request = *base
	q.request.URL = &q.url
	if base.Body != nil {
		q.source = &ClientBody{ReadCloser: base.Body, left: base.ContentLength}
		q.request.Body = q.source
	}
}

// DropKeys makes the transport send the request only once, although it has an Idempotency-Key. For requests whose body the exchange reads,
// the exchange does that.
func (q *Lean) DropKeys() { q.request.Header = nil }

// Body returns the request's body as the client sends it; nil if there is no body to read.
func (q *Lean) Body() *ClientBody { return q.source }

// Fail returns the error to answer the client with when the attempts have ended with err; nil if the client has left.
func (q *Lean) Fail(err error) error {
	if refusal := q.source.Refusal(q.request.Context()); refusal != nil {
		err = refusal // the client's body broke off: that is the cause, whatever err says
	}
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return statusError(err)
}

// Told returns what placeholders show of a request that was not answered.
func (q *Lean) Told(began, ended time.Time) *Told {
	return &Told{
		front: q.front, target: q.target, requests: q.requests, fails: q.fails, retries: max(q.attempts-1, 0), began: began, ended: ended,
	}
}

// Dropped records the last answer that was dropped for another attempt, without its header.
func (t *Told) Dropped(status int, started time.Time, took time.Duration) {
	t.status, t.statusText, t.started, t.took = status, fmt.Sprintf("%d %s", status, http.StatusText(status)), started, took
}

// Abort logs that the answer of the last attempt breaks off, because of an error of reading from the backend or, if read is nil, of writing
// to the client. took is the time until the header of the answer.
func (q *Lean) Abort(read, written error, took time.Duration) {
	c := q.front.logger.Check(zapcore.WarnLevel, "aborting with incomplete response")
	if c == nil {
		return
	}
	err := reading(read)
	if read == nil {
		err = writing(written)
	}
	r := q.client.Full()
	server, ok := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	credentials := ok && server.Logs != nil && server.Logs.ShouldLogCredentials
	c.Write(zap.String("upstream", q.target.Upstream.String()), zap.Duration("duration", took),
		zap.Object("request", caddyhttp.LoggableHTTPRequest{Request: r, ShouldLogCredentials: credentials}), zap.Error(err))
}

// NeedsWhole reports whether the policy needs the whole request.
func (f *Front) NeedsWhole() bool { return f.keyed != nil || f.shadow != nil || f.sessions != nil }

// Lines returns the header of the current attempt's answer.
func (q *Lean) Lines() *stock.Lines { return q.current.Lines() }

// Tells returns the fields that the load balancer adds to the answer.
func (q *Lean) Tells() http.Header { return q.tells }

// End is called when the request is over.
func (q *Lean) End() { q.release() }

// Settled reports, after End, whether nothing can refer to q any more, so that it may be used for another request.
func (q *Lean) Settled() bool { return q.attempts <= 1 && (q.attempts == 0 || q.trip.Direct()) }

// Clear makes q a Lean that has not begun. q must be settled.
func (q *Lean) Clear() {
	q.front, q.client, q.who, q.path, q.keyed, q.source = nil, nil, nil, nil, false, nil
	q.request, q.url = http.Request{}, url.URL{}
	q.current, q.counted, q.target, q.attempts, q.tells, q.answered = nil, nil, nil, 0, nil, false
	q.requests, q.fails = 0, 0
}

// Key returns the hash key that the policy derives from the request.
func (q *Lean) Key() pool.Key { return q.front.keyed.Key(q.client.Full()) }

// ShadowKey implements [exchange.Front].
func (q *Lean) ShadowKey() pool.Key { return q.front.shadow.Key(q.client.Full()) }

// Session finds the backend of the request's session among the members.
func (q *Lean) Session(m course.Members) (position int, known, signed bool) {
	return m.(sessionMembers).Sessions(q.front.sessions).Find(q.client.Full())
}

// Bind does what [Request.Bind] does.
func (q *Lean) Bind(m course.Members, position int, renew bool) {
	policy, r := q.front.sessions, q.client.Full()
	if !policy.Tells() || renew && !m.(sessionMembers).Sessions(policy).Stale(r) {
		return
	}
	if q.tells == nil {
		q.tells = make(http.Header)
	}
	policy.Tell(q.tells, m.Target(position).Address(), r)
}

// Foreign implements [exchange.Front]. A Lean is not used with policies of other modules.
func (*Lean) Foreign(course.Members, []int) (position int, own course.Target) { return -1, nil }

// Idempotent does what [Request.Idempotent] does.
func (q *Lean) Idempotent() bool {
	return isIdempotent(q.request.Method) || q.front.idempotencyKey && q.keyed
}

// Upgrade implements [exchange.Front].
func (*Lean) Upgrade() bool { return false }

// Wanted does what [Request.Wanted] does without a matcher.
func (q *Lean) Wanted(reason pool.RetryReason, _ *http.Response) bool {
	return reason == pool.RetryConnect || reason != pool.RetryStatus && q.request.Method == http.MethodGet
}

// Origin does what [Request.Origin] does.
func (q *Lean) Origin() pool.Origin {
	return originOf(q.who.hash, uint32(maphash.Bytes(originSeed, q.path)))
}

// Client identifies the client in the queue.
func (q *Lean) Client() string { return q.who.key }

// Attempt returns the request of the next attempt, whose head is head, and the trip that carries it to that target.
func (q *Lean) Attempt(n int, to course.Target, head Head, inform Inform) (*http.Request, *stock.Trip, error) {
	target := to.(*stock.Target)
	if !target.Fixed() {
		_, err := target.For(caddy.NewEmptyReplacer()) // says what is wrong with the address
		return nil, nil, fmt.Errorf("making dial info: %w", err)
	}
	q.target = target
	if host := target.Upstream.Host; host != nil {
		q.requests, q.fails = host.NumRequests(), host.Fails()
	}
	r, trip, informer := &q.request, &q.trip, &q.informer
	if q.attempts++; q.attempts > 1 {
		// The transport may still use the memory of the attempt before.
		q.release()
		r, trip, informer = new(http.Request), new(stock.Trip), new(leanInformer)
		*r = q.request
		r.URL, r.GetBody = new(url.URL), nil
		if q.source != nil {
			r.Body = q.source
		}
	}
	*informer = leanInformer{q, inform, n}
	trip.InitHead(q.front.stock.Transport, target, r, informer, head)
	q.current = trip
	r.URL.Scheme, r.URL.Host = "", target.Dial().Address
	q.mu.Lock()
	q.answered = false
	q.mu.Unlock()
	target.Begin()
	q.counted = target
	return r, trip, nil
}

// Ended is called when an attempt has ended.
func (q *Lean) Ended(err error) {
	q.mu.Lock()
	q.answered = true
	q.mu.Unlock()
	if err != nil {
		q.release()
	}
}

// release makes the target stop counting the request.
func (q *Lean) release() {
	if q.counted != nil {
		q.counted.End()
		q.counted = nil
	}
}

// leanInformer passes the informational answers of an attempt to the client.
type leanInformer struct {
	request *Lean
	may     Inform
	attempt int
}

// Inform implements [engine.Informer].
func (i *leanInformer) Inform(status int, header textproto.MIMEHeader) {
	if !i.may.MayInform(i.attempt) {
		return
	}
	q := i.request
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.answered {
		q.client.Inform(status, informational(header))
	}
}
