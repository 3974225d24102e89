package stock

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/engine"
)

// Reasons why attempts go over the configured transport and not over the engine, in addition to those of the engine. All but the last are
// about the config: with such a config, no attempt goes over the engine.
const (
	reasonFastCGI      engine.Reason = "fastcgi"
	reasonOther        engine.Reason = "other_transport"
	reasonHTTP3        engine.Reason = "http3"
	reasonH2C          engine.Reason = "h2c"
	reasonProxy        engine.Reason = "proxy_protocol"
	reasonForwardProxy engine.Reason = "forward_proxy"
	reasonKeepalive    engine.Reason = "keepalive_off"
	reasonConns        engine.Reason = "max_conns_per_host"
	reasonTimeouts     engine.Reason = "timeouts" // of single reads and of the answer's header
	reasonServerName   engine.Reason = "tls_server_name"
	reasonRenegotiates engine.Reason = "tls_renegotiation"

	reasonHTTP2 engine.Reason = "http2" // the backend chose it
)

// ways counts and logs the attempts that go over the configured transport.
type ways struct {
	none    engine.Reason // why no attempt goes over the engine; "" if some do
	counted func(reason string)
	logger  *zap.Logger
}

// other counts and logs an attempt that goes over the configured transport.
func (w *ways) other(trip *Trip, why engine.Reason) {
	if w.counted == nil || trip.mirror {
		return
	}
	w.counted(string(why))
	if entry := w.logger.Check(zapcore.DebugLevel, "attempt does not go over the engine"); entry != nil {
		entry.Write(zap.String("reason", string(why)), zap.String("upstream", trip.target.Dial().String()))
	}
}

// reasonOf returns the reason why no attempt goes over the engine, for a config of a transport other than `http`.
func reasonOf(config json.RawMessage) engine.Reason {
	var module struct {
		Protocol string `json:"protocol"`
	}
	if err := json.Unmarshal(config, &module); err == nil && module.Protocol == "fastcgi" {
		return reasonFastCGI
	}
	return reasonOther
}

// direct is a transport that sends requests over the engine if the engine takes them, and all others over Caddy's transport.
type direct struct {
	*reverseproxy.HTTPTransport
	client engine.Client
	ways   *ways
	http2  http2Hosts
}

// UseEngine makes attempts go over the engine, if it supports all settings of the transport. It copies the settings, so it must be called
// after the last change of them. Each attempt that goes over the configured transport is logged at debug level, and counted is called with
// the reason, which is one of a fixed set of words.
func (t *Transport) UseEngine(logger *zap.Logger, counted func(reason string)) {
	t.ways.logger, t.ways.counted = logger, counted
	h, ok := t.next.(*reverseproxy.HTTPTransport)
	if !ok {
		return
	}
	if t.ways.none = t.special(h); t.ways.none != "" {
		return
	}
	d := &direct{HTTPTransport: h, ways: &t.ways}
	d.client = engine.Client{
		DialContext:            h.Transport.DialContext,
		ResponseHeaderTimeout:  h.Transport.ResponseHeaderTimeout,
		MaxResponseHeaderBytes: h.Transport.MaxResponseHeaderBytes,
		MaxIdleConns:           h.Transport.MaxIdleConns,
		MaxIdleConnsPerHost:    h.Transport.MaxIdleConnsPerHost,
		IdleConnTimeout:        h.Transport.IdleConnTimeout,
		DisableCompression:     h.Transport.DisableCompression,
		ReadBufferSize:         h.Transport.ReadBufferSize,
		TLSClientConfig:        h.Transport.TLSClientConfig,
		TLSHandshakeTimeout:    h.Transport.TLSHandshakeTimeout,
		HandOver:               d.handOver,
		ExpectContinueTimeout:  h.Transport.ExpectContinueTimeout,
	}
	t.direct = d
}

// special returns why the engine cannot replace a transport; "" if it can. The engine keeps its connections, uses them for any client, and
// does not bound their number.
func (t *Transport) special(h *reverseproxy.HTTPTransport) engine.Reason {
	switch {
	case slices.Contains(h.Versions, "3"):
		return reasonHTTP3
	case slices.Contains(h.Versions, "h2c"):
		return reasonH2C
	case h.Transport == nil || h.Transport.DialContext == nil:
		return reasonOther
	case h.ProxyProtocol != "":
		return reasonProxy
	case t.proxied:
		return reasonForwardProxy
	case h.Transport.DisableKeepAlives || h.Transport.MaxIdleConnsPerHost <= 0:
		return reasonKeepalive
	case h.MaxConnsPerHost != 0:
		return reasonConns
	case h.ReadTimeout > 0 && h.Transport.ResponseHeaderTimeout > 0:
		return reasonTimeouts // both would set the deadline of the same read
	case h.TLS != nil && strings.Contains(h.TLS.ServerName, "{"):
		return reasonServerName // each connection would belong to one server name
	case h.TLS != nil && h.TLS.Renegotiation != "" && h.TLS.Renegotiation != "never":
		return reasonRenegotiates
	}
	return ""
}

// roundTrip makes a trip's request.
func (d *direct) roundTrip(trip *Trip, r *http.Request) (*http.Response, error) {
	d.SetScheme(r)
	why := engine.Reason("")
	if trip.head == nil {
		why = d.client.Refuses(r)
	}
	if why == "" && r.URL.Scheme == "https" && d.http2.has(r.URL.Host) {
		why = reasonHTTP2
	}
	if why != "" {
		return d.stock(trip, r, why)
	}
	trip.direct, trip.dial = true, d.client.DialContext
	k := &trip.call
	k.Request, k.Dialer, k.Informer, k.Patient, k.Head = r, trip, trip.informer, r == trip.request, trip.head
	res, err := d.client.Do(k)
	if err != nil {
		if over, ok := errors.AsType[*engine.HandedOver](err); ok {
			trip.direct = false
			return d.stock(trip, over.Request, reasonHTTP2)
		}
	}
	return res, err
}

// stock makes an attempt over Caddy's transport.
func (d *direct) stock(trip *Trip, r *http.Request, why engine.Reason) (*http.Response, error) {
	d.ways.other(trip, why)
	res, err := d.HTTPTransport.RoundTrip(r.WithContext(trip.into(r.Context())))
	// Upgrades are always requested over HTTP/1.1, so the answer says nothing about the backend's preference.
	if err == nil && res.ProtoMajor == 1 && r.URL.Scheme == "https" && r.Header["Upgrade"] == nil {
		d.http2.drop(r.URL.Host)
	}
	return res, err
}

// handOver gives the transport a connection on which the backend chose HTTP/2, as if the transport had made it. From then on requests to that
// host go over the transport, until one is answered in HTTP/1.1.
func (d *direct) handOver(host string, made *tls.Conn) {
	d.http2.add(host)
	next := d.Transport.TLSNextProto[made.ConnectionState().NegotiatedProtocol]
	if next == nil {
		_ = made.Close()
		return
	}
	next(host, made) // an error means that the transport cannot use the connection; then it makes its own
}

// http2Hosts are the hosts that chose HTTP/2 when the last connection was made. The zero http2Hosts is empty. Reading takes no lock.
type http2Hosts struct {
	mu  sync.Mutex // guards changes
	all atomic.Pointer[map[string]struct{}]
}

// maxHTTP2Hosts bounds the number of such hosts, because the addresses of backends may depend on requests. When there are more, some are
// forgotten, and the engine finds out again.
const maxHTTP2Hosts = 1024

// has reports whether the host is one of them.
func (h *http2Hosts) has(host string) bool {
	all := h.all.Load()
	if all == nil {
		return false
	}
	_, present := (*all)[host]
	return present
}

// add adds a host.
func (h *http2Hosts) add(host string) {
	h.change(host, false, func(all map[string]struct{}) {
		for other := range all {
			if len(all) < maxHTTP2Hosts {
				break
			}
			delete(all, other)
		}
		all[host] = struct{}{}
	})
}

// drop removes a host.
func (h *http2Hosts) drop(host string) {
	h.change(host, true, func(all map[string]struct{}) { delete(all, host) })
}

// change makes a change for a host, but only if the host is one of them, or only if it is not, as present says.
func (h *http2Hosts) change(host string, present bool, f func(all map[string]struct{})) {
	if h.has(host) != present {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make(map[string]struct{})
	if before := h.all.Load(); before != nil {
		maps.Copy(all, *before)
	}
	f(all)
	h.all.Store(&all)
}
