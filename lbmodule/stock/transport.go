package stock

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/engine"
)

// SmallBody is up to which size a body is read before there is a connection, in bytes.
const SmallBody = engine.MaxBody

// Transport makes attempts over the configured transport, and over the engine where that does the same.
type Transport struct {
	next   http.RoundTripper // the configured one
	direct *direct           // takes the short way where there is one; nil where there is none

	proxied   bool                // plain connections may be to a forward proxy
	setScheme func(*http.Request) // of next, if it keeps connections by what stands in the URL; nil otherwise
}

// loadTransport loads the transport of that config; the default is `http`.
func loadTransport(ctx caddy.Context, raw json.RawMessage) (*Transport, error) {
	if raw == nil || string(raw) == "null" {
		raw = caddyconfig.JSON(map[string]string{"protocol": "http"}, nil)
	}
	t := &Transport{proxied: namesProxy(raw) || isSet("HTTP_PROXY", "http_proxy")}
	// Loading clears the field, which is why it is not that of the config.
	holder := struct {
		Raw json.RawMessage `caddy:"namespace=http.reverse_proxy.transport inline_key=protocol"`
	}{raw}
	loaded, err := ctx.LoadModule(&holder, "Raw")
	if err != nil {
		return nil, fmt.Errorf("loading transport: %w", err)
	}
	var ok bool
	if t.next, ok = loaded.(http.RoundTripper); !ok {
		return nil, fmt.Errorf("loading transport: %T is not a transport", loaded)
	}
	if h, ok := t.next.(*reverseproxy.HTTPTransport); ok && !slices.Contains(h.Versions, "3") && !t.proxied && !isSet("HTTPS_PROXY", "https_proxy") {
		t.setScheme = h.SetScheme
	}
	return t, nil
}

// Configured is the transport of the config.
func (t *Transport) Configured() http.RoundTripper { return t.next }

// RoundTrip implements [http.RoundTripper].
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	next := t.next
	if t.direct != nil {
		next = t.direct
	}
	if t.setScheme != nil {
		r = tellApart(r, t.setScheme)
	}
	res, err := next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if err := checkAnswer(r, res); err != nil {
		res.Body.Close()
		return nil, err
	}
	return res, nil
}

// Cleanup closes the connections of the short way; the transport's are its own to close.
func (t *Transport) Cleanup() {
	if t != nil && t.direct != nil {
		t.direct.client.CloseIdleConnections()
	}
}

// IsCaddys reports whether it is the transport that Caddy has for HTTP.
func (t *Transport) IsCaddys() bool {
	_, ok := t.next.(*reverseproxy.HTTPTransport)
	return ok
}

// TLSEnabled reports whether connections are made with TLS.
func (t *Transport) TLSEnabled() bool {
	s, ok := t.next.(reverseproxy.TLSTransport)
	return ok && s.TLSEnabled()
}

// ProxyProtocolEnabled reports whether connections begin with the PROXY protocol, and so belong to one client.
func (t *Transport) ProxyProtocolEnabled() bool {
	p, ok := t.next.(reverseproxy.ProxyProtocolTransport)
	return ok && p.ProxyProtocolEnabled()
}

// RequiresContentLength reports whether bodies of unknown length cannot be sent.
func (t *Transport) RequiresContentLength() bool {
	c, ok := t.next.(reverseproxy.ContentLengthRequiredTransport)
	return ok && c.RequiresContentLength()
}

// AnswerWithin bounds the time from a request's last byte to its answer's header, if the transport can do that by itself: one that speaks
// HTTP/1 only. It reports whether it can.
func (t *Transport) AnswerWithin(d time.Duration) bool {
	h, ok := t.next.(*reverseproxy.HTTPTransport)
	if !ok || h.TLS != nil || h.Transport == nil || slices.ContainsFunc(h.Versions, func(v string) bool { return v == "h2c" || v == "3" }) {
		return false
	}
	h.Transport.ResponseHeaderTimeout = d
	return true
}

// dialFunc is how a transport makes a connection.
type dialFunc = func(ctx context.Context, network, address string) (net.Conn, error)

// TimeConnections has tell be told how long it takes to connect to an upstream. It is the dialing that is wrapped: requests on kept
// connections pay nothing.
func (t *Transport) TimeConnections(tell func(upstream string, took time.Duration)) {
	h, ok := t.next.(*reverseproxy.HTTPTransport)
	if !ok || h.Transport == nil {
		return
	}
	if h.Transport.DialContext != nil {
		h.Transport.DialContext = timed(tell, h.Transport.DialContext)
	}
	if h.Transport.DialTLSContext != nil {
		h.Transport.DialTLSContext = timed(tell, h.Transport.DialTLSContext)
	}
}

// timed tells how long dial takes for requests. Probes name no upstream.
func timed(tell func(string, time.Duration), dial dialFunc) dialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		start := time.Now()
		conn, err := dial(ctx, network, address)
		took := time.Since(start)
		if to, known := reverseproxy.GetDialInfo(ctx); err == nil && known && to.Upstream != nil {
			tell(to.Upstream.Dial, took)
		}
		return conn, err
	}
}

// direct is a transport that makes the requests that the engine takes over it, and all others over Caddy's.
type direct struct {
	*reverseproxy.HTTPTransport
	client engine.Client
}

// Shorten has attempts take the short way, if the transport is one whose settings that has, too. It is called once the transport is
// as it will be.
func (t *Transport) Shorten() {
	h, ok := t.next.(*reverseproxy.HTTPTransport)
	if !ok || !isOrdinary(h) || t.proxied {
		return
	}
	t.direct = &direct{HTTPTransport: h, client: engine.Client{
		DialContext:            h.Transport.DialContext,
		ResponseHeaderTimeout:  h.Transport.ResponseHeaderTimeout,
		MaxResponseHeaderBytes: h.Transport.MaxResponseHeaderBytes,
		MaxIdleConns:           h.Transport.MaxIdleConns,
		MaxIdleConnsPerHost:    h.Transport.MaxIdleConnsPerHost,
		IdleConnTimeout:        h.Transport.IdleConnTimeout,
		DisableCompression:     h.Transport.DisableCompression,
		ReadBufferSize:         h.Transport.ReadBufferSize,
		Streaming:              h,
	}}
}

// isOrdinary reports whether a transport speaks HTTP/1.1 over plain connections that are kept and belong to no client, and bounds
// neither their number nor single reads and writes.
func isOrdinary(t *reverseproxy.HTTPTransport) bool {
	special := func(version string) bool { return version == "h2c" || version == "3" }
	return t.Transport != nil && t.Transport.DialContext != nil && !t.Transport.DisableKeepAlives && t.Transport.MaxIdleConnsPerHost > 0 &&
		t.TLS == nil && t.ProxyProtocol == "" && t.MaxConnsPerHost == 0 && t.ReadTimeout == 0 && t.WriteTimeout == 0 &&
		!slices.ContainsFunc(t.Versions, special)
}

// RoundTrip implements [http.RoundTripper].
func (d *direct) RoundTrip(r *http.Request) (*http.Response, error) {
	d.SetScheme(r)
	if d.client.Takes(r) {
		return d.client.RoundTrip(r)
	}
	return d.HTTPTransport.RoundTrip(r)
}

// networkMarks are put in front of the port in the URLs of requests that go over these networks. Transports keep connections by a URL's
// scheme, host and port; what is dialed, [reverseproxy.DialInfo] says. Zeros make another port of it for those who compare, and the host
// stays what TLS is to verify.
var networkMarks = map[string]string{"tcp4": "0", "tcp6": "00", "unix": "000", "unixpacket": "0000"}

// tellApart returns the request with a URL by which transports use connections only that were made over the same network. A unix socket
// whose path has a slash is like no other address.
func tellApart(r *http.Request, setScheme func(*http.Request)) *http.Request {
	to, ok := reverseproxy.GetDialInfo(r.Context())
	mark := networkMarks[to.Network]
	if !ok || mark == "" || strings.Contains(to.Address, "/") {
		return r
	}
	r, u := r.WithContext(r.Context()), *r.URL
	r.URL = &u
	setScheme(r) // it goes by the port
	if r.Host == "" {
		r.Host = u.Host
	}
	u.Host = strings.TrimSuffix(u.Host, ":"+to.Port) + ":" + mark + to.Port
	return r
}

// namesProxy reports whether the config of a transport names a forward proxy to which it may connect in a backend's place. It is asked
// before the transport is loaded, which takes that out of its settings.
func namesProxy(config json.RawMessage) bool {
	var settings struct {
		URL     string          `json:"forward_proxy_url"`
		Network json.RawMessage `json:"network_proxy"`
	}
	if err := json.Unmarshal(config, &settings); err != nil {
		return false // loading it says what is wrong
	}
	return settings.URL != "" || len(settings.Network) > 0
}

// isSet reports whether one of these environment variables is set.
func isSet(variables ...string) bool {
	return slices.ContainsFunc(variables, func(name string) bool { return os.Getenv(name) != "" })
}

// checkAnswer reports whether an answer to r is one that HTTP has. What it refuses is a failure of the backend, as garbage is.
func checkAnswer(r *http.Request, res *http.Response) error {
	switch {
	case res.StatusCode == http.StatusSwitchingProtocols:
		if _, twoWays := res.Body.(io.ReadWriteCloser); !twoWays {
			return errors.New("backend switches protocols over a transport that cannot")
		}
		return checkSwitch(upgradeOf(r.Header), upgradeOf(res.Header))
	case res.StatusCode < 100 || res.StatusCode > 999: // net/http's server panics over those
		return fmt.Errorf("answer has status %d, want three digits from 100 on", res.StatusCode)
	}
	return nil
}

// checkSwitch reports whether a backend may switch to that protocol (RFC 9110, 15.2.2).
func checkSwitch(asked, switched string) error {
	switch {
	case asked == "":
		return errors.New("backend switches protocols, which was not asked for")
	case !strings.EqualFold(asked, switched) || strings.ContainsFunc(switched, func(c rune) bool { return c < ' ' || c > '~' }):
		return fmt.Errorf("backend switches to protocol %q, asked for %q", switched, asked)
	}
	return nil
}

// upgradeOf is the protocol that a message asks to switch to, or switches to; "" for none.
func upgradeOf(h http.Header) string {
	if !httpguts.HeaderValuesContainsToken(h["Connection"], "Upgrade") {
		return ""
	}
	return h.Get("Upgrade")
}
