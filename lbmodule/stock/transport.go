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

// SmallBody is the largest body that is read before there is a connection, in bytes.
const SmallBody = engine.MaxBody

// Transport makes attempts over the configured transport, or over the engine where that has the same effect.
type Transport struct {
	next   http.RoundTripper // the configured transport
	direct *direct           // uses the engine where possible; nil if the engine is not used
	ways   ways

	proxied   bool                // connections may go to a forward proxy
	setScheme func(*http.Request) // of next, if it keeps idle connections by the request's URL; nil otherwise
}

// loadTransport loads a transport from its config; the default is `http`.
func loadTransport(ctx caddy.Context, raw json.RawMessage) (*Transport, error) {
	if raw == nil || string(raw) == "null" {
		raw = caddyconfig.JSON(map[string]string{"protocol": "http"}, nil)
	}
	proxied := namesProxy(raw) || isSet("HTTP_PROXY", "http_proxy")
	none := reasonOf(raw)
	// A copy of the field, because loading clears it.
	holder := struct {
		Raw json.RawMessage `caddy:"namespace=http.reverse_proxy.transport inline_key=protocol"`
	}{raw}
	loaded, err := ctx.LoadModule(&holder, "Raw")
	if err != nil {
		return nil, fmt.Errorf("loading transport: %w", err)
	}
	next, ok := loaded.(http.RoundTripper)
	if !ok {
		return nil, fmt.Errorf("loading transport: %T is not a transport", loaded)
	}
	t := NewTransport(next)
	t.proxied, t.ways.none = proxied, none
	h, ok := t.next.(*reverseproxy.HTTPTransport)
	if !ok {
		return t, nil
	}
	secureProxy := isSet("HTTPS_PROXY", "https_proxy")
	if !slices.Contains(h.Versions, "3") && !t.proxied && !secureProxy {
		t.setScheme = h.SetScheme
	}
	t.proxied = t.proxied || h.TLS != nil && secureProxy
	return t, nil
}

// NewTransport returns a transport that makes attempts over next.
func NewTransport(next http.RoundTripper) *Transport { return &Transport{next: next} }

// Configured returns the transport of the config.
func (t *Transport) Configured() http.RoundTripper { return t.next }

// roundTrip makes a trip's request.
func (t *Transport) roundTrip(trip *Trip, r *http.Request) (*http.Response, error) {
	if t.setScheme != nil {
		r = markNetwork(r, trip.target.Dial(), t.setScheme)
	}
	var res *http.Response
	var err error
	if t.direct != nil {
		res, err = t.direct.roundTrip(trip, r)
	} else {
		t.ways.other(trip, t.ways.none)
		res, err = t.next.RoundTrip(r.WithContext(trip.into(r.Context())))
	}
	if err != nil {
		return nil, err
	}
	if err := checkAnswer(r, res); err != nil {
		res.Body.Close()
		return nil, err
	}
	return res, nil
}

// TakesHeads returns why the transport cannot make requests with a [Head]; "" if it can. Over TLS a backend may choose HTTP/2, which has
// no such heads.
func (t *Transport) TakesHeads() (why string) {
	switch {
	case t.direct == nil:
		return string(t.ways.none)
	case t.TLSEnabled():
		return "backend_tls"
	}
	return ""
}

// Cleanup closes the engine's idle connections. Caddy cleans up the configured transport.
func (t *Transport) Cleanup() {
	if t != nil && t.direct != nil {
		t.direct.client.CloseIdleConnections()
	}
}

// IsCaddys reports whether the configured transport is Caddy's `http`.
func (t *Transport) IsCaddys() bool {
	_, ok := t.next.(*reverseproxy.HTTPTransport)
	return ok
}

// TLSEnabled reports whether connections are made with TLS.
func (t *Transport) TLSEnabled() bool {
	s, ok := t.next.(reverseproxy.TLSTransport)
	return ok && s.TLSEnabled()
}

// ProxyProtocolEnabled reports whether connections begin with the PROXY protocol, so that each belongs to one client.
func (t *Transport) ProxyProtocolEnabled() bool {
	p, ok := t.next.(reverseproxy.ProxyProtocolTransport)
	return ok && p.ProxyProtocolEnabled()
}

// RequiresContentLength reports whether the transport cannot send bodies of unknown length.
func (t *Transport) RequiresContentLength() bool {
	c, ok := t.next.(reverseproxy.ContentLengthRequiredTransport)
	return ok && c.RequiresContentLength()
}

// AnswerWithin makes the transport bound the time from a request's last byte to its answer's header. It reports whether the transport can
// do that, which is the case only if it speaks no other version than HTTP/1.
func (t *Transport) AnswerWithin(d time.Duration) bool {
	h, ok := t.next.(*reverseproxy.HTTPTransport)
	if !ok || h.TLS != nil || h.Transport == nil || slices.ContainsFunc(h.Versions, func(v string) bool { return v == "h2c" || v == "3" }) {
		return false
	}
	h.Transport.ResponseHeaderTimeout = d
	return true
}

// dialFunc is the type of a transport's DialContext.
type dialFunc = func(ctx context.Context, network, address string) (net.Conn, error)

// TimeConnections makes the transport call connected with the time that each new connection to an upstream took. It wraps the dialing, so
// requests on idle connections pay nothing.
func (t *Transport) TimeConnections(connected func(upstream string, took time.Duration)) {
	h, ok := t.next.(*reverseproxy.HTTPTransport)
	if !ok || h.Transport == nil {
		return
	}
	if h.Transport.DialContext != nil {
		h.Transport.DialContext = timed(connected, h.Transport.DialContext)
	}
	if h.Transport.DialTLSContext != nil {
		h.Transport.DialTLSContext = timed(connected, h.Transport.DialTLSContext)
	}
}

// timed wraps dial to report how long it takes for a request. Contexts without an upstream do not belong to requests.
func timed(connected func(string, time.Duration), dial dialFunc) dialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		start := time.Now()
		conn, err := dial(ctx, network, address)
		took := time.Since(start)
		if to, known := reverseproxy.GetDialInfo(ctx); err == nil && known && to.Upstream != nil {
			connected(to.Upstream.Dial, took)
		}
		return conn, err
	}
}

// networkMarks are prefixes for the port in the URL of requests over these networks. Transports keep idle connections by the URL's scheme,
// host and port, but dial what [reverseproxy.DialInfo] says. Leading zeros make the port compare as different, and keep the host that TLS
// must verify.
var networkMarks = map[string]string{"tcp4": "0", "tcp6": "00", "unix": "000", "unixpacket": "0000"}

// markNetwork returns the request with a URL that keeps transports from reusing a connection over another network than to's. The path of a
// unix socket needs no mark if it has a slash, because no other address has one.
func markNetwork(r *http.Request, to reverseproxy.DialInfo, setScheme func(*http.Request)) *http.Request {
	mark := networkMarks[to.Network]
	if mark == "" || strings.Contains(to.Address, "/") {
		return r
	}
	r, u := r.WithContext(r.Context()), *r.URL
	r.URL = &u
	setScheme(r) // before the mark is added, because it looks at the port
	if r.Host == "" {
		r.Host = u.Host
	}
	u.Host = strings.TrimSuffix(u.Host, ":"+to.Port) + ":" + mark + to.Port
	return r
}

// namesProxy reports whether the config of a transport names a forward proxy that it may connect to instead of a backend. It must be called
// before the transport is loaded, because loading clears that setting.
func namesProxy(config json.RawMessage) bool {
	var settings struct {
		URL     string          `json:"forward_proxy_url"`
		Network json.RawMessage `json:"network_proxy"`
	}
	if err := json.Unmarshal(config, &settings); err != nil {
		return false // loading the transport returns the error
	}
	return settings.URL != "" || len(settings.Network) > 0
}

// isSet reports whether one of these environment variables is set.
func isSet(variables ...string) bool {
	return slices.ContainsFunc(variables, func(name string) bool { return os.Getenv(name) != "" })
}

// checkAnswer checks that an answer to r is valid HTTP. An invalid one is a failure of the backend.
func checkAnswer(r *http.Request, res *http.Response) error {
	switch {
	case res.StatusCode == http.StatusSwitchingProtocols:
		if _, twoWays := res.Body.(io.ReadWriteCloser); !twoWays {
			return errors.New("backend switches protocols, which the transport does not support")
		}
		return checkSwitch(upgradeOf(r.Header), upgradeOf(res.Header))
	case res.StatusCode < 100 || res.StatusCode > 999: // net/http's server panics over those
		return fmt.Errorf("answer has status %d, want three digits from 100 on", res.StatusCode)
	}
	return nil
}

// checkSwitch checks that a backend may switch to that protocol (RFC 9110, 15.2.2).
func checkSwitch(asked, switched string) error {
	switch {
	case asked == "":
		return errors.New("backend switches protocols, which was not requested")
	case !strings.EqualFold(asked, switched) || strings.ContainsFunc(switched, func(c rune) bool { return c < ' ' || c > '~' }):
		return fmt.Errorf("backend switches to protocol %q, asked for %q", switched, asked)
	}
	return nil
}

// upgradeOf returns the protocol that a message asks to switch to, or switches to; "" for none.
func upgradeOf(h http.Header) string {
	if !httpguts.HeaderValuesContainsToken(h["Connection"], "Upgrade") {
		return ""
	}
	return h.Get("Upgrade")
}
