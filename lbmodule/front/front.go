// Package front is the client's side of a load balancer: what becomes of a request before it is sent to a backend, and of an answer before
// it is the client's. It does what reverse_proxy does beside balancing, to the letter; who is asked, and how often, others decide.
//
// These requests go through reverse_proxy's own ServeHTTP in the end, with the answer in hand (see [stock.Handler.Finish]):
//   - those whose answer the routes of `handle_response` handle, and
//   - those whose answer switches protocols (101).
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

// Front is what the requests of a load balancer have in common. It is prepared once, so that each pays only for what the config uses.
type Front struct {
	stock  *stock.Handler
	logger *zap.Logger
	pool   string

	policy   reverseproxy.Selector
	keyed    policies.Keyed         // policy, if it goes by keys
	sessions policies.SessionPolicy // policy, if it goes by sessions

	idempotencyKey bool // requests with one are idempotent

	headers        bool // something is done to the headers of requests
	proxyProtocol  bool // connections begin with the PROXY protocol
	needsClient    bool // the transport may ask for whom a connection is
	requiresLength bool
}

// New returns the front of the load balancer of that pool and policy, once its settings are provisioned. With idempotencyKey requests that have an
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

// Request is a client's request and its answer. It is used by one goroutine at a time, but for informational answers, which may come
// from another one. The zero Request is of a request that has not begun.
type Request struct {
	front    *Front
	w        http.ResponseWriter
	original *http.Request
	received *ClientBody // nil without a body
	repl     *caddy.Replacer
	began    time.Time

	// The request as every attempt begins with it.
	request     *http.Request // of the first attempt; others are copies
	header      http.Header
	host        string
	url         url.URL
	sentURL     url.URL       // of the first attempt: transports complete it
	source      io.ReadCloser // the body
	body        *requestBody  // that was read beforehand; nil if it was not
	incremental bool
	ctx         attemptContext // of the first attempt
	trace       httptrace.ClientTrace
	values      [6]string // of the header fields that are set for all requests and answers

	// The attempt.
	target   *stock.Target // nil before the first
	sent     *http.Request
	counted  *stock.Target // that counts the request; nil if none does
	requests int           // at the target before this one
	fails    int
	retries  int
	hidden   bool // placeholders do not tell of the request

	mu       sync.Mutex // guards what follows
	answered bool       // the attempt is over: what comes now is too late

	// The answer.
	res     *http.Response
	status  int           // as the backend said
	took    time.Duration // until its header
	started time.Time     // when its attempt was
	tunnel  *tunnel       // that it is; nil if it is none
	copied  time.Time     // when the client had it
	ended   time.Time
}

// attemptContext is the context of an attempt: it says where to connect to, and who is told of informational answers.
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

// traceKey is the key of traces in contexts. [httptrace.WithClientTrace] makes another context for each.
var traceKey = func() any {
	var asked keyCatcher
	httptrace.ContextClientTrace(&asked)
	return asked.key
}()

// keyCatcher is a context that remembers what it was asked for.
type keyCatcher struct {
	context.Context
	key any
}

func (c *keyCatcher) Value(key any) any {
	c.key = key
	return nil
}

// Receive has the body of r tell how it comes. It comes before everything else, because r is given the body in place of its own.
func (x *Request) Receive(r *http.Request) { x.received = receive(r) }

// Body is the request's body as the client sends it; nil if there is none.
func (x *Request) Body() *ClientBody { return x.received }

// Begin makes the request that is to be sent of the client's. It fails where the client is to get an error for an answer at once.
func (x *Request) Begin(f *Front, w http.ResponseWriter, r *http.Request) error {
	x.front, x.w, x.original = f, w, r
	x.repl = r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	x.began = time.Now()
	return x.prepare(r)
}

// Request is the client's request as it is sent, but for what depends on the backend.
func (x *Request) Request() *http.Request { return x.request }

// End is called when the client has been answered.
func (x *Request) End(now time.Time) {
	x.release()
	x.tunnel.finish()
	if x.ended = now; x.repl != nil && x.res == nil {
		x.forgetTotals()
	}
}

// clientAddress is the client's address, which has no port as a rule.
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

// peer is the address of who has sent the request, without port and zone; ok is false if that cannot be told.
func peer(r *http.Request) (address string, ok bool) {
	address, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return "", false
	}
	address, _, _ = strings.Cut(address, "%")
	return address, true
}
