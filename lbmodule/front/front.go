// Package front is the client's side of a load balancer: it prepares the request that is sent to a backend, and passes the answer to the
// client. It does exactly what reverse_proxy does apart from balancing; the packages course and exchange decide which backends get the
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

// Front holds what all requests of a load balancer share. It is prepared once, so that a request pays only for what the config uses.
type Front struct {
	stock  *stock.Handler
	logger *zap.Logger
	pool   string

	policy   reverseproxy.Selector
	keyed    policies.Keyed         // policy, if it hashes a key; otherwise nil
	shadow   policies.Keyed         // the shadow policy, if it hashes a key; otherwise nil
	sessions policies.SessionPolicy // policy, if it keeps sessions; otherwise nil

	idempotencyKey bool // requests with an Idempotency-Key are idempotent

	secrets []string // header fields of requests that are not logged

	shows          bool // modules of other plugins may see requests, and keep them
	headers        bool // there are operations on request headers
	asks           bool // the operations have placeholders
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
		asks:           asksOf(s.TransportHeaders) || asksOf(s.RequestHeaders),
		secrets:        secretFields(s.RequestHeaders),
		proxyProtocol:  s.Transport.ProxyProtocolEnabled(),
		requiresLength: s.Transport.RequiresContentLength(),
	}
	_, ours := policy.(policies.Balancer)
	f.shows = !ours || f.LooksAtAnswers()
	f.keyed, _ = policy.(policies.Keyed)
	f.sessions, _ = policy.(policies.SessionPolicy)
	f.needsClient = f.proxyProtocol || !s.Transport.IsCaddys()
	return f
}

// Shadow makes the front derive the keys of requests for a shadow policy as well.
func (f *Front) Shadow(policy policies.Balancer) { f.shadow, _ = policy.(policies.Keyed) }

// Request is a client's request and its answer. It must be used by one goroutine at a time, except that informational answers may arrive on
// another. The zero Request has not begun.
type Request struct {
	*Told
	w        http.ResponseWriter
	original *http.Request
	received *ClientBody // nil if the request has no body
	repl     *caddy.Replacer

	// The state that every attempt starts from.
	request     http.Request // sent by the first attempt; later ones send copies
	header      http.Header
	host        string
	url         url.URL
	sentURL     url.URL       // of the first attempt; transports add to it
	source      io.ReadCloser // the body
	body        *requestBody  // the buffered body; nil if it is not buffered
	incremental bool
	values      [5]string   // of the header fields that are set on every request
	space       http.Header // an empty map for header; nil for none

	// The current attempt.
	sent     *http.Request
	current  *stock.Trip   // the trip that carries sent; nil if a copy's answer came first
	counted  *stock.Target // the target that counts the request; nil if none does
	informer informer      // of the first attempt
	trip     stock.Trip    // of the first attempt

	mu       sync.Mutex // guards answered, and writing informational answers
	answered bool       // the attempt is over: informational answers are too late

	tunnel *tunnel       // the tunnel of the answer; nil unless it switches protocols
	stream *clientStream // nil unless the request is for a WebSocket of HTTP/2 or HTTP/3
	handed bool          // the answer was handed to reverse_proxy
}

// Told holds what placeholders and logs show of a request, while it is handled and afterwards. It does not refer to the Request. The zero
// Told is that of a request that has not begun.
type Told struct {
	front *Front
	began time.Time

	// The current attempt.
	target   *stock.Target // nil before the first attempt
	requests int           // at the target before this one
	fails    int
	retries  int
	hidden   bool // placeholders have no values of this request

	// The answer.
	fields     http.Header   // of the backend's answer
	status     int           // 0 without an answer
	statusText string        // with the status
	took       time.Duration // until its header
	started    time.Time     // when its attempt began
	copied     time.Time     // when all of it had been passed to the client
	ended      time.Time
	via        [1]string // of the answer
}

// Receive initializes the zero Request q for r, and replaces the body of r by a [ClientBody]. It must be called before anything else uses
// r.
func (q *Request) Receive(r *http.Request, told *Told) { q.received, q.Told = receive(r), told }

// Body returns the request's body as the client sends it; nil if there is none.
func (q *Request) Body() *ClientBody { return q.received }

// Begin makes the request for the backend from the client's, which arrived at that time. An error is the answer to the client.
func (q *Request) Begin(f *Front, w http.ResponseWriter, r *http.Request, now time.Time) error {
	q.Told.front, q.w, q.original = f, w, r
	q.repl = r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	q.began = now
	return q.prepare(r)
}

// Request returns the request for the backend, without the parts that depend on the choice of the backend.
func (q *Request) Request() *http.Request { return &q.request }

// End is called when the request is over.
func (q *Request) End(now time.Time) {
	q.release()
	q.tunnel.finish()
	if q.ended = now; q.repl != nil && q.status == 0 {
		q.forgetTotals()
	}
}

// Clear makes q the zero Request, but keeps memory that another request may use. q must be settled.
func (q *Request) Clear() {
	const most = 64 // fields; a map does not shrink
	space := q.header
	if len(space) > most {
		space = nil
	}
	clear(space)
	*q = Request{space: space}
}

// Settled reports, after End, whether nothing can refer to q any more, so that it may be used for another request.
func (q *Request) Settled() bool {
	return q.trip.Direct() && !q.handed && q.tunnel == nil && !q.front.shows
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
