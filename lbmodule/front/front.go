// Package front is the client's side of a load balancer: it prepares the request that is sent to a backend, and gives the client the
// answer. It does exactly what reverse_proxy does apart from balancing; the packages course and exchange decide which backends get the
// request, and how often.
//
// These answers are handed to reverse_proxy's own ServeHTTP in the end (see [stock.Handler.Delegate]):
//   - answers that routes of `handle_response` handle, and
//   - answers that switch protocols (101).
package front

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/policies"
	"github.com/ballastlb/ballast/lbmodule/stock"
)

// Front is what all requests of a load balancer share. It is prepared once, so that a request pays only for what the config uses.
type Front struct {
	stock  *stock.Handler
	logger *zap.Logger
	pool   string

	policy   reverseproxy.Selector
	keyed    policies.Keyed         // policy, if it hashes a key
	sessions policies.SessionPolicy // policy, if it keeps sessions

	idempotencyKey bool // requests with an Idempotency-Key are idempotent

	headers        bool // there are operations on request headers
	proxyProtocol  bool // connections begin with the PROXY protocol
	needsClient    bool // the transport may need the client's address
	requiresLength bool // the transport cannot send bodies of unknown length
}

// New returns the front of a load balancer with that pool and policy. s must be provisioned. idempotencyKey says that requests with an
// Idempotency-Key are idempotent.
func New(s *stock.Handler, policy reverseproxy.Selector, logger *zap.Logger, pool string, idempotencyKey bool) *Front {
	f := &Front{
		stock: s, policy: policy, logger: logger, pool: pool, idempotencyKey: idempotencyKey,
		headers:        s.TransportHeaders != nil || s.RequestHeaders != nil,
		proxyProtocol:  s.Transport.ProxyProtocolEnabled(),
		requiresLength: s.Transport.RequiresContentLength(),
	}
	f.keyed, _ = policy.(policies.Keyed)
	f.sessions, _ = policy.(policies.SessionPolicy)
	f.needsClient = f.proxyProtocol || !s.Transport.IsCaddys()
	return f
}

// Request is a client's request and its answer. It must be used by one goroutine at a time, except that informational answers may arrive on
// another. The zero Request is one that has not begun.
type Request struct {
	front    *Front
	w        http.ResponseWriter
	original *http.Request
	received *ClientBody // nil if the request has no body
	repl     *caddy.Replacer
	began    time.Time

	// What every attempt starts from.
	request     *http.Request // sent by the first attempt; later ones send copies
	header      http.Header
	host        string
	url         url.URL
	sentURL     url.URL       // of the first attempt; transports add to it
	source      io.ReadCloser // the body
	body        *requestBody  // the buffered body; nil if it is not buffered
	incremental bool
	ctx         attemptContext // of the first attempt
	trace       httptrace.ClientTrace
	values      [6]string // of the header fields that are set on every request and answer

	// The current attempt.
	target   *stock.Target // nil before the first attempt
	sent     *http.Request
	counted  *stock.Target // the target that counts the request; nil if none does
	requests int           // at the target before this one
	fails    int
	retries  int
	hidden   bool // placeholders have no values of this request

	mu       sync.Mutex // guards answered, and writing informational answers
	answered bool       // the attempt is over: informational answers are too late

	// The answer.
	res     *http.Response
	status  int           // of the backend's answer
	took    time.Duration // until its header
	started time.Time     // when its attempt began
	tunnel  *tunnel       // nil unless it switches protocols
	copied  time.Time     // when the client had all of it
	ended   time.Time
}

// attemptContext is the context of an attempt: it holds the address to connect to, and the trace that receives informational answers.
type attemptContext struct {
	context.Context
	dial  any
	trace *httptrace.ClientTrace
}

// Value implements [context.Context].
func (c *attemptContext) Value(key any) any {
	switch key {
	case stock.DialInfoKey:
		if c.dial != nil {
			return c.dial
		}
	case traceKey:
		if c.trace != nil {
			return c.trace
		}
	}
	return c.Context.Value(key)
}

// traceKey is the key of a trace in a context. It lets an attempt do without the context that [httptrace.WithClientTrace] would allocate.
var traceKey = func() any {
	var asked keyCatcher
	httptrace.ContextClientTrace(&asked)
	return asked.key
}()

// keyCatcher is a context that records the last key it was asked for.
type keyCatcher struct {
	context.Context
	key any
}

func (c *keyCatcher) Value(key any) any {
	c.key = key
	return nil
}

// Receive replaces the body of r by a [ClientBody]. It must be called before anything else uses r.
func (q *Request) Receive(r *http.Request) { q.received = receive(r) }

// Body returns the request's body as the client sends it; nil if there is none.
func (q *Request) Body() *ClientBody { return q.received }

// Begin makes the request for the backend from the client's. An error is the answer to the client.
func (q *Request) Begin(f *Front, w http.ResponseWriter, r *http.Request) error {
	q.front, q.w, q.original = f, w, r
	q.repl = r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	q.began = time.Now()
	return q.prepare(r)
}

// Request returns the request for the backend, without what depends on which backend it is.
func (q *Request) Request() *http.Request { return q.request }

// End is called when the request is over.
func (q *Request) End(now time.Time) {
	q.release()
	q.tunnel.finish()
	if q.ended = now; q.repl != nil && q.res == nil {
		q.forgetTotals()
	}
}

// clientAddress returns the client's address, usually without a port.
func clientAddress(ctx context.Context) netip.AddrPort {
	text, _ := caddyhttp.GetVar(ctx, caddyhttp.ClientIPVarKey).(string)
	if with, err := netip.ParseAddrPort(text); err == nil {
		return with
	}
	address, err := netip.ParseAddr(text)
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(address, 0)
}

// peer returns the address at the other end of the connection, without port and zone; ok is false if it is not an IP address with a port.
func peer(r *http.Request) (address string, ok bool) {
	address, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return "", false
	}
	address, _, _ = strings.Cut(address, "%")
	return address, true
}
