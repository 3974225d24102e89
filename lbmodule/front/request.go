package front

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/net/http/httpguts"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/stock"
)

// Request variables that reverse_proxy's transports read.
const (
	proxyProtocolVar = "reverse_proxy.proxy_protocol_info"
	http1OnlyVar     = "reverse_proxy.tls_h1_only"
	webSocketBodyVar = "extended_connect_websocket_body"
)

// prepare makes the request for the backend from r, which it does not change.
func (q *Request) prepare(r *http.Request) error {
	f := q.front
	req := &q.request
	*req = *r
	if r.URL != nil {
		// The transport must not take scheme and host from the client's request line.
		q.url = *r.URL
		q.url.Scheme, q.url.Host = "", ""
		req.URL = &q.url
	}
	if rw := f.stock.Rewrite; rw != nil {
		if changed := rw.Rewrite(req, q.repl); changed && (rw.Method == http.MethodGet || rw.Method == http.MethodHead) {
			req.ContentLength, req.Body = 0, nil
		}
	}
	upgrade := upgradeType(r.Header)
	q.incremental = isIncremental(r.Header)
	header := q.forwardable(r.Header)
	if err := q.prepareBody(req, header); err != nil {
		return err
	}
	req.Close = false
	if _, ok := r.Header["User-Agent"]; !ok {
		header["User-Agent"] = q.values[4:5:5] // an empty one, or the transport adds its own
	}
	if req.TLS != nil && !req.TLS.HandshakeComplete {
		header["Early-Data"] = []string{"1"} // RFC 8470, 5.1
	}
	dropNamed(header, r.Header["Connection"])
	if te := header["Te"]; te != nil {
		delete(header, "Te")
		if httpguts.HeaderValuesContainsToken(te, "trailers") {
			header["Te"] = []string{"trailers"}
		}
	}
	if upgrade != "" {
		header["Connection"] = []string{"Upgrade"}
		header["Upgrade"] = []string{upgrade}
		if httpguts.HeaderValuesContainsToken(header["Upgrade"], "websocket") {
			caddyhttp.SetVar(r.Context(), http1OnlyVar, true)
		}
	}
	if f.needsClient {
		caddyhttp.SetVar(r.Context(), proxyProtocolVar, reverseproxy.ProxyProtocolInfo{AddrPort: clientAddress(r.Context())})
	}
	q.forwarded(req, header)
	q.values[3] = via(req.ProtoMajor, req.ProtoMinor)
	header["Via"] = appendValue(header["Via"], q.values[3:4:4])
	req.Header = header
	if isWebSocketConnect(r) {
		if err := q.downgradeWebSocket(req); err != nil {
			return err
		}
	}
	q.header, q.host, q.source = req.Header, req.Host, req.Body
	q.incremental = isIncremental(q.header)
	return nil
}

// forwardable returns a copy of a request's header without its hop-by-hop fields, except TE. It does not copy the values.
func (q *Request) forwardable(from http.Header) http.Header {
	header := q.space
	if header == nil {
		const more = 6 // fields that are set on every request
		header = make(http.Header, len(from)+more)
	}
	for name, values := range from {
		if name == "Te" || !IsHopByHop(name) {
			header[name] = values[:len(values):len(values)]
		}
	}
	return header
}

// IsHopByHop reports whether the field of that canonical name is hop-by-hop.
func IsHopByHop(name string) bool {
	switch name {
	case "Alt-Svc", "Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer",
		"Transfer-Encoding", "Upgrade":
		return true
	}
	return false
}

// dropNamed removes the fields that Connection names (RFC 9110, 7.6.1).
func dropNamed(header http.Header, connection []string) {
	for _, list := range connection {
		for name := range strings.SplitSeq(list, ",") {
			if name = textproto.TrimString(name); name != "" {
				header.Del(name)
			}
		}
	}
}

// upgradeType returns the protocol that a message asks to switch to; "" for none.
func upgradeType(h http.Header) string {
	connection := h["Connection"]
	if len(connection) == 0 || !httpguts.HeaderValuesContainsToken(connection, "Upgrade") {
		return ""
	}
	if v := h["Upgrade"]; len(v) > 0 {
		return strings.ToLower(v[0])
	}
	return ""
}

// appendValue appends one value to others. It changes neither slice.
func appendValue(before, one []string) []string {
	if len(before) == 0 {
		return one
	}
	return append(slices.Clip(before), one...)
}

// via returns the Via entry for a message received with that HTTP version.
func via(major, minor int) string {
	switch [2]int{major, minor} {
	case [2]int{1, 1}:
		return "1.1 Caddy"
	case [2]int{2, 0}:
		return "2.0 Caddy"
	case [2]int{3, 0}:
		return "3.0 Caddy"
	}
	return strconv.Itoa(major) + "." + strconv.Itoa(minor) + " Caddy"
}

// forwarded sets the X-Forwarded fields. It uses their old values only if they come from a trusted proxy. A nil field stays nil: an earlier
// handler has suppressed it.
func (q *Request) forwarded(r *http.Request, header http.Header) {
	trusted, _ := caddyhttp.GetVar(r.Context(), caddyhttp.TrustedProxyVarKey).(bool)
	client, known := "", false
	if r.RemoteAddr != "@" { // a unix socket
		client, known = peer(r)
		trusted = trusted || known && q.front.trusts(client)
	}
	if !known && (r.RemoteAddr != "@" || !trusted) {
		delete(header, "X-Forwarded-For")
		delete(header, "X-Forwarded-Proto")
		delete(header, "X-Forwarded-Host")
		return
	}
	if prior, there := header["X-Forwarded-For"]; !there || prior != nil {
		q.values[0] = client
		if all := strings.Join(prior, ", "); trusted && all != "" {
			if q.values[0] = all; client != "" {
				q.values[0] += ", " + client
			}
		}
		if q.values[0] != "" {
			header["X-Forwarded-For"] = q.values[0:1:1]
		}
	}
	proto := "https"
	if r.TLS == nil {
		proto = "http"
	}
	q.lastOr(header, 1, "X-Forwarded-Proto", trusted, proto)
	q.lastOr(header, 2, "X-Forwarded-Host", trusted, r.Host)
}

// lastOr sets a field to the last of its values if trusted, and to otherwise if not.
func (q *Request) lastOr(header http.Header, at int, name string, trusted bool, otherwise string) {
	prior, there := header[name]
	if there && prior == nil {
		return
	}
	q.values[at] = otherwise
	if n := len(prior); trusted && n > 0 && prior[n-1] != "" {
		q.values[at] = prior[n-1]
	}
	header[name] = q.values[at : at+1 : at+1]
}

// trusts reports whether the client is in trusted_proxies.
func (f *Front) trusts(client string) bool {
	if len(f.stock.TrustedProxies) == 0 {
		return false
	}
	address, err := netip.ParseAddr(client)
	return err == nil && slices.ContainsFunc(f.stock.TrustedProxies, func(p netip.Prefix) bool { return p.Contains(address) })
}

// isWebSocketConnect reports whether r asks for a WebSocket by the extended CONNECT of HTTP/2 or HTTP/3 (RFC 8441 and 9220).
func isWebSocketConnect(r *http.Request) bool {
	return r.Method == http.MethodConnect && (r.ProtoMajor == 2 && r.Header.Get(":protocol") == "websocket" || r.ProtoMajor == 3 && r.Proto == "websocket")
}

// downgradeWebSocket turns an extended CONNECT into an HTTP/1.1 upgrade, because backends may not support extended CONNECT.
func (q *Request) downgradeWebSocket(r *http.Request) error {
	key := make([]byte, 16)
	if _, err := rand.Read(key); err != nil {
		return err
	}
	r.Header.Del(":protocol")
	q.stream = &clientStream{ReadCloser: r.Body}
	caddyhttp.SetVar(r.Context(), webSocketBodyVar, q.stream)
	r.Body, r.Method = http.NoBody, http.MethodGet
	r.Header["Upgrade"], r.Header["Connection"] = []string{"websocket"}, []string{"Upgrade"}
	r.Header["Sec-WebSocket-Key"] = []string{base64.StdEncoding.EncodeToString(key)}
	return nil
}

// webSocketNames maps canonical field names to their spelling in RFC 6455. Some backends accept no other spelling.
var webSocketNames = map[string]string{
	"Sec-Websocket-Accept":     "Sec-WebSocket-Accept",
	"Sec-Websocket-Extensions": "Sec-WebSocket-Extensions",
	"Sec-Websocket-Key":        "Sec-WebSocket-Key",
	"Sec-Websocket-Protocol":   "Sec-WebSocket-Protocol",
	"Sec-Websocket-Version":    "Sec-WebSocket-Version",
}

// spellWebSocket renames fields as webSocketNames says.
func spellWebSocket(h http.Header) {
	for canonical, name := range webSocketNames {
		if v, ok := h[canonical]; ok {
			delete(h, canonical)
			h[name] = v
		}
	}
}

// Inform decides whether an informational answer (1xx) of attempt number attempt may be passed to the client. It is safe for concurrent
// use.
type Inform interface{ MayInform(attempt int) bool }

// informer passes the informational answers of an attempt to the client.
type informer struct {
	request *Request
	may     Inform
	attempt int
}

// Inform implements [engine.Informer].
func (i *informer) Inform(status int, header textproto.MIMEHeader) {
	if i.may.MayInform(i.attempt) {
		i.request.inform(status, header)
	}
}

// Attempt returns the request of attempt number n, and the trip that carries it to that target. of is the number of targets, for the log.
// Its body continues the client's body where the last attempt stopped reading; whole says that it is a buffered body that starts at the
// beginning. When an informational answer arrives, inform decides whether to pass it on. An error is meant for [Request.Fail].
func (q *Request) Attempt(n int, target *stock.Target, of int, inform Inform) (r *http.Request, trip *stock.Trip, whole bool, err error) {
	f := q.front
	if target, err = target.For(q.repl); err != nil {
		return nil, nil, false, fmt.Errorf("making dial info: %w", err)
	}
	if c := f.logger.Check(zapcore.DebugLevel, "selected upstream"); c != nil {
		c.Write(zap.String("dial", target.Dial().Address), zap.Int("total_upstreams", of))
	}
	q.target = target
	if host := target.Upstream.Host; host != nil {
		q.requests, q.fails = host.NumRequests(), host.Fails()
	}
	// An earlier proxy may have set placeholders about its upstream.
	q.repl.DeleteByPrefix(placeholderPrefix + "upstream.")
	to := &q.informer
	r, trip = &q.request, &q.trip
	if q.sent == nil {
		q.sentURL = q.url
		r.URL = &q.sentURL
	} else {
		r, trip, to = q.again(), new(stock.Trip), new(informer)
	}
	*to = informer{q, inform, n}
	q.current = trip
	trip.Init(f.stock.Transport, target, r, to)
	q.body.rewind(r)
	q.sent = r
	if f.headers {
		r.Header, r.Host = make(http.Header, len(q.header)+1), q.host
		copyHeader(r.Header, q.header)
		if ops := f.stock.TransportHeaders; ops != nil {
			ops.ApplyToRequest(r)
		}
		if ops := f.stock.RequestHeaders; ops != nil {
			ops.ApplyToRequest(r)
		}
		if isIncremental(r.Header) {
			if !q.incremental && hasContent(r) && (f.stock.RequestBuffers != 0 || r.ContentLength < 0 && f.requiresLength) {
				return nil, nil, false, q.refuseIncremental(nil)
			}
			normalizeIncremental(r)
		}
	}
	if upgradeType(r.Header) != "" {
		spellWebSocket(r.Header)
	}
	r.URL.Host = target.Dial().Address
	if f.proxyProtocol {
		// A connection belongs to one client. The escaped text is a host that HTTP/2's transport accepts, too (caddyserver/caddy#7529).
		r.URL.Host = url.QueryEscape(clientAddress(r.Context()).String() + "->" + target.Dial().Address)
	}
	q.mu.Lock()
	q.answered = false
	q.mu.Unlock()
	target.Begin()
	q.counted = target
	return r, trip, q.body != nil && r.Body != nil, nil
}

// Copy returns a copy of r, which has no body, for another target. ok is false if that is not possible. Another goroutine may call it.
func (q *Request) Copy(ctx context.Context, r *http.Request, to *stock.Target) (copied *http.Request, trip *stock.Trip, ok bool) {
	if !to.Fixed() {
		return nil, nil, false
	}
	copied = r.WithContext(ctx)
	u := q.url // not r.URL, which the transport may be changing
	u.Host = to.Dial().Address
	copied.URL = &u
	trip = new(stock.Trip)
	trip.Init(q.front.stock.Transport, to, nil, nil)
	return copied, trip, true
}

// again returns the request of a later attempt. It shares nothing mutable with the request of the attempt before, which the transport may
// still use.
func (q *Request) again() *http.Request {
	q.release()
	r, u := new(http.Request), q.url
	*r = q.request
	r.URL = &u
	r.Header, r.Host, r.GetBody = q.header, q.host, nil
	if r.ContentLength != 0 {
		r.Body = q.source
	}
	return r
}

// release makes the target stop counting the request.
func (q *Request) release() {
	if q.counted != nil {
		q.counted.End()
		q.counted = nil
	}
}

// inform passes an informational answer on to the client.
func (q *Request) inform(status int, header textproto.MIMEHeader) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.answered {
		return
	}
	h := q.w.Header()
	own := h.Clone()
	copyHeader(h, informational(header))
	q.w.WriteHeader(status)
	clear(h) // the server leaves the informational fields in it
	maps.Copy(h, own)
}

// informational returns the fields of an informational answer's header that are passed on.
func informational(header textproto.MIMEHeader) http.Header {
	theirs := http.Header(header).Clone()
	dropNamed(theirs, theirs["Connection"])
	for name := range theirs {
		if IsHopByHop(name) {
			delete(theirs, name)
		}
	}
	return theirs
}

// Ended is called when the attempt that began at start has ended.
func (q *Request) Ended(res *http.Response, err error, start, now time.Time) {
	if q.front == nil {
		return
	}
	q.mu.Lock()
	q.answered = true
	q.mu.Unlock()
	q.logRoundTrip(res, err, now.Sub(start))
	if err != nil {
		q.release()
		return
	}
	// An earlier proxy may have set placeholders about its answer.
	q.repl.DeleteByPrefix(placeholderPrefix)
	q.fields, q.status, q.statusText, q.started, q.took = res.Header, res.StatusCode, res.Status, start, now.Sub(start)
}

// CopyWon is called when the copy for another target has become the current attempt.
func (q *Request) CopyWon(by *stock.Target) { q.target, q.current = by, nil }

// copyHeader adds the fields of one header to another.
func copyHeader(to, from http.Header) {
	for name, values := range from {
		for _, v := range values {
			to.Add(name, v)
		}
	}
}
