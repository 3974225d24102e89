package front

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptrace"
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

// Variables of requests by which reverse_proxy tells its transports more.
const (
	proxyProtocolVar = "reverse_proxy.proxy_protocol_info"
	http1OnlyVar     = "reverse_proxy.tls_h1_only"
	webSocketBodyVar = "extended_connect_websocket_body"
)

// prepare makes the request that is sent of the client's, which stays as it is.
func (x *Request) prepare(r *http.Request) error {
	f := x.front
	x.ctx.Context = r.Context()
	req := r.WithContext(&x.ctx)
	x.request = req
	if r.URL != nil {
		// Scheme and host of the request line would lead the transport astray.
		x.url = *r.URL
		x.url.Scheme, x.url.Host = "", ""
		req.URL = &x.url
	}
	if rw := f.stock.Rewrite; rw != nil {
		if changed := rw.Rewrite(req, x.repl); changed && (rw.Method == http.MethodGet || rw.Method == http.MethodHead) {
			req.ContentLength, req.Body = 0, nil
		}
	}
	upgrade := upgradeType(r.Header)
	x.incremental = isIncremental(r.Header)
	header := forwardable(r.Header, 4)
	if err := x.prepareBody(req, header); err != nil {
		return err
	}
	req.Close = false
	if _, ok := r.Header["User-Agent"]; !ok {
		header["User-Agent"] = x.values[5:6:6] // or the transport fills in its own
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
	x.forwarded(req, header)
	x.values[3] = via(req.ProtoMajor, req.ProtoMinor)
	header["Via"] = appendValue(header["Via"], x.values[3:4:4])
	req.Header = header
	if isWebSocketConnect(r) {
		if err := x.downgradeWebSocket(req); err != nil {
			return err
		}
	}
	x.header, x.host, x.source = req.Header, req.Host, req.Body
	x.incremental = isIncremental(x.header)
	return nil
}

// forwardable returns a copy of a request's header without the fields that belong to the client's connection, with room for more. The
// values are not copied. TE is left in it.
func forwardable(from http.Header, more int) http.Header {
	header := make(http.Header, len(from)+more)
	for name, values := range from {
		if name == "Te" || !isHopByHop(name) {
			header[name] = values[:len(values):len(values)]
		}
	}
	return header
}

// isHopByHop reports whether a field of that canonical name belongs to a connection.
func isHopByHop(name string) bool {
	switch name {
	case "Alt-Svc", "Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer",
		"Transfer-Encoding", "Upgrade":
		return true
	}
	return false
}

// dropNamed drops the fields that Connection names (RFC 9110, 7.6.1).
func dropNamed(header http.Header, connection []string) {
	for _, list := range connection {
		for name := range strings.SplitSeq(list, ",") {
			if name = textproto.TrimString(name); name != "" {
				header.Del(name)
			}
		}
	}
}

// upgradeType is the protocol that a message wants to switch to; "" for none.
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

// appendValue appends one value to those before. Both stay as they are.
func appendValue(before, one []string) []string {
	if len(before) == 0 {
		return one
	}
	return append(slices.Clip(before), one...)
}

// via is the entry of Via for a message that came with that version of HTTP.
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

// forwarded sets the X-Forwarded fields. What is there already counts only if it is from a proxy that is trusted. A field that is nil is
// one that something before us does not want to be sent.
func (x *Request) forwarded(r *http.Request, header http.Header) {
	trusted, _ := caddyhttp.GetVar(r.Context(), caddyhttp.TrustedProxyVarKey).(bool)
	client, known := "", false
	if r.RemoteAddr != "@" { // which is a unix socket
		client, known = peer(r)
		trusted = trusted || known && x.front.trusts(client)
	}
	if !known && (r.RemoteAddr != "@" || !trusted) {
		delete(header, "X-Forwarded-For")
		delete(header, "X-Forwarded-Proto")
		delete(header, "X-Forwarded-Host")
		return
	}
	if prior, there := header["X-Forwarded-For"]; !there || prior != nil {
		x.values[0] = client
		if all := strings.Join(prior, ", "); trusted && all != "" {
			if x.values[0] = all; client != "" {
				x.values[0] += ", " + client
			}
		}
		if x.values[0] != "" {
			header["X-Forwarded-For"] = x.values[0:1:1]
		}
	}
	proto := "https"
	if r.TLS == nil {
		proto = "http"
	}
	x.lastOr(header, 1, "X-Forwarded-Proto", trusted, proto)
	x.lastOr(header, 2, "X-Forwarded-Host", trusted, r.Host)
}

// lastOr sets a field to the last of its values, if that is to be trusted, and to another one otherwise.
func (x *Request) lastOr(header http.Header, at int, name string, trusted bool, otherwise string) {
	prior, there := header[name]
	if there && prior == nil {
		return
	}
	x.values[at] = otherwise
	if n := len(prior); trusted && n > 0 && prior[n-1] != "" {
		x.values[at] = prior[n-1]
	}
	header[name] = x.values[at : at+1 : at+1]
}

// trusts reports whether that peer is one of trusted_proxies.
func (f *Front) trusts(client string) bool {
	if len(f.stock.TrustedProxies) == 0 {
		return false
	}
	address, err := netip.ParseAddr(client)
	return err == nil && slices.ContainsFunc(f.stock.TrustedProxies, func(p netip.Prefix) bool { return p.Contains(address) })
}

// isWebSocketConnect reports whether r asks for a WebSocket as HTTP/2 and HTTP/3 do (RFC 8441 and 9220).
func isWebSocketConnect(r *http.Request) bool {
	return r.Method == http.MethodConnect && (r.ProtoMajor == 2 && r.Header.Get(":protocol") == "websocket" || r.ProtoMajor == 3 && r.Proto == "websocket")
}

// downgradeWebSocket makes of it what HTTP/1.1 has for that: backends may know no other.
func (x *Request) downgradeWebSocket(r *http.Request) error {
	key := make([]byte, 16)
	if _, err := rand.Read(key); err != nil {
		return err
	}
	r.Header.Del(":protocol")
	caddyhttp.SetVar(r.Context(), webSocketBodyVar, r.Body)
	r.Body, r.Method = http.NoBody, http.MethodGet
	r.Header["Upgrade"], r.Header["Connection"] = []string{"websocket"}, []string{"Upgrade"}
	r.Header["Sec-WebSocket-Key"] = []string{base64.StdEncoding.EncodeToString(key)}
	return nil
}

// webSocketNames are the names of fields as RFC 6455 spells them. Some backends know no other spelling.
var webSocketNames = map[string]string{
	"Sec-Websocket-Accept":     "Sec-WebSocket-Accept",
	"Sec-Websocket-Extensions": "Sec-WebSocket-Extensions",
	"Sec-Websocket-Key":        "Sec-WebSocket-Key",
	"Sec-Websocket-Protocol":   "Sec-WebSocket-Protocol",
	"Sec-Websocket-Version":    "Sec-WebSocket-Version",
}

// spellWebSocket gives the fields those names.
func spellWebSocket(h http.Header) {
	for canonical, name := range webSocketNames {
		if v, ok := h[canonical]; ok {
			delete(h, canonical)
			h[name] = v
		}
	}
}

// Inform reports whether the client may be given an informational answer of the attempt of that number. It may be called by several
// goroutines.
type Inform interface{ MayInform(attempt int) bool }

// Attempt returns the request of the next attempt, which goes to that target, one of so many. Its body is the client's, from where it was
// read last; whole tells that it is a copy which begins at the beginning. An informational answer is passed on if inform says so of the
// attempt of number n when it has come. An error is one for [Request.Fail].
func (x *Request) Attempt(n int, target *stock.Target, of int, inform Inform) (r *http.Request, whole bool, err error) {
	f := x.front
	if target, err = target.For(x.repl); err != nil {
		return nil, false, fmt.Errorf("making dial info: %w", err)
	}
	if c := f.logger.Check(zapcore.DebugLevel, "selected upstream"); c != nil {
		c.Write(zap.String("dial", target.Dial.Address), zap.Int("total_upstreams", of))
	}
	x.target = target
	if host := target.Upstream.Host; host != nil {
		x.requests, x.fails = host.NumRequests(), host.Fails()
	}
	// What another proxy has said of its upstream before is over.
	x.repl.DeleteByPrefix(placeholderPrefix + "upstream.")
	hear := func(status int, header textproto.MIMEHeader) error {
		if inform.MayInform(n) {
			x.inform(status, header)
		}
		return nil
	}
	if x.sent == nil {
		r, x.trace.Got1xxResponse, x.sentURL = x.request, hear, x.url
		r.URL, x.ctx.dial, x.ctx.trace = &x.sentURL, target.Value(), x.traced(&x.trace)
	} else {
		r = x.again(target, x.traced(&httptrace.ClientTrace{Got1xxResponse: hear}))
	}
	x.body.rewind(r)
	x.sent = r
	if f.headers {
		r.Header, r.Host = make(http.Header, len(x.header)+1), x.host
		copyHeader(r.Header, x.header)
		if ops := f.stock.TransportHeaders; ops != nil {
			ops.ApplyToRequest(r)
		}
		if ops := f.stock.RequestHeaders; ops != nil {
			ops.ApplyToRequest(r)
		}
		if isIncremental(r.Header) {
			if !x.incremental && hasContent(r) && (f.stock.RequestBuffers != 0 || r.ContentLength < 0 && f.requiresLength) {
				return nil, false, x.refuseIncremental(nil)
			}
			normalizeIncremental(r)
		}
	}
	if upgradeType(r.Header) != "" {
		spellWebSocket(r.Header)
	}
	r.URL.Host = target.Dial.Address
	if f.proxyProtocol {
		// Connections are of one client each. Escaped it is a host for HTTP/2's transport, too (caddyserver/caddy#7529).
		r.URL.Host = url.QueryEscape(clientAddress(r.Context()).String() + "->" + target.Dial.Address)
	}
	x.mu.Lock()
	x.answered = false
	x.mu.Unlock()
	target.Begin()
	x.counted = target
	return r, x.body != nil && r.Body != nil, nil
}

// Copy returns a copy of the request r, which has no body, for another target. ok is false if there can be none. It may be called by
// another goroutine.
func (x *Request) Copy(ctx context.Context, r *http.Request, to *stock.Target) (copied *http.Request, ok bool) {
	if !to.Fixed() {
		return nil, false
	}
	copied = r.WithContext(to.Into(ctx))
	u := x.url // and not that of r, which the transport may be writing to
	u.Host = to.Dial.Address
	copied.URL = &u
	return copied, true
}

// again returns the request of an attempt that is not the first. The transport may not be done with the one before, nor with its context.
func (x *Request) again(target *stock.Target, trace *httptrace.ClientTrace) *http.Request {
	x.release()
	r := x.request.WithContext(&attemptContext{x.original.Context(), target.Value(), trace})
	r.URL = new(url.URL)
	*r.URL = x.url
	r.Header, r.Host, r.GetBody = x.header, x.host, nil
	if r.ContentLength != 0 {
		r.Body = x.source
	}
	return r
}

// release has the target count the request no more.
func (x *Request) release() {
	if x.counted != nil {
		x.counted.End()
		x.counted = nil
	}
}

// traced returns a trace that tells those, too, who trace the client's request.
func (x *Request) traced(own *httptrace.ClientTrace) *httptrace.ClientTrace {
	if ctx := x.original.Context(); httptrace.ContextClientTrace(ctx) != nil {
		httptrace.WithClientTrace(ctx, own) // has own call the others
	}
	return own
}

// inform passes an informational answer on to the client.
func (x *Request) inform(status int, header textproto.MIMEHeader) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.answered {
		return
	}
	h := x.w.Header()
	own := h.Clone()
	theirs := http.Header(header).Clone()
	dropNamed(theirs, theirs["Connection"])
	for name := range theirs {
		if isHopByHop(name) {
			delete(theirs, name)
		}
	}
	copyHeader(h, theirs)
	x.w.WriteHeader(status)
	clear(h) // the server leaves what it has sent of such an answer
	maps.Copy(h, own)
}

// Ended is told how the attempt ended that began at start.
func (x *Request) Ended(res *http.Response, err error, start, now time.Time) {
	if x.front == nil {
		return
	}
	x.mu.Lock()
	x.answered = true
	x.mu.Unlock()
	x.logRoundTrip(res, err, now.Sub(start))
	if err != nil {
		x.release()
		return
	}
	// What another proxy has said of its answer before is over.
	x.repl.DeleteByPrefix(placeholderPrefix)
	x.res, x.status, x.started, x.took = res, res.StatusCode, start, now.Sub(start)
}

// Overtaken is told that another target has answered the attempt.
func (x *Request) CopyWon(by *stock.Target) { x.target = by }

// copyHeader adds the fields of one header to another.
func copyHeader(to, from http.Header) {
	for name, values := range from {
		for _, v := range values {
			to.Add(name, v)
		}
	}
}
