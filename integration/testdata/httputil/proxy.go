// Package httputil is what the tests of net/http/httputil find in the place of its ReverseProxy: a handler of Caddy, configured to do
// what their hooks do.
package httputil

import (
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"time"

	_ "conformance/loopback"
)

// Environment variables that say which handler it is, and where to write what came of it.
const (
	seamless = "CONFORMANCE_SEAMLESS" // servers get the listener wrapper
	handlers = "CONFORMANCE_HANDLER"
	record   = "CONFORMANCE_RECORD"
)

// ReverseProxy has the fields of httputil's that mean something to a proxy with a config, and Settings for what a test has no hook for.
type ReverseProxy struct {
	Director       func(*http.Request)
	Rewrite        func(*ProxyRequest)
	Transport      http.RoundTripper
	FlushInterval  time.Duration
	ErrorLog       *log.Logger
	BufferPool     any // tests with one are left out
	ModifyResponse func(*http.Response) error
	ErrorHandler   func(http.ResponseWriter, *http.Request, error)

	Settings map[string]any // of the handler

	once   sync.Once
	handle func(http.ResponseWriter, *http.Request) error
}

type ProxyRequest struct{ In, Out *http.Request }

// SetURL routes the request to a target, whose host it is then for.
func (r *ProxyRequest) SetURL(target *url.URL) {
	direct(r.Out, target)
	r.Out.Host = ""
}

func NewSingleHostReverseProxy(target *url.URL) *ReverseProxy {
	return &ReverseProxy{Director: func(r *http.Request) { direct(r, target) }}
}

// direct gives a request the address and the query of a target. The tests that run have targets without paths.
func direct(r *http.Request, target *url.URL) {
	r.URL.Scheme, r.URL.Host = target.Scheme, target.Host
	r.URL.RawQuery = strings.Trim(target.RawQuery+"&"+r.URL.RawQuery, "&")
}

// What the tests change or use of httputil besides.

var inOurTests bool

// Tests of these are left out.
func singleJoiningSlash(string, string) string     { return "" }
func joinURLPath(_, _ *url.URL) (path, raw string) { return "", "" }

// hopHeaders are removed, besides those that are hop-by-hop everywhere.
var hopHeaders []string

func upgradeType(h http.Header) string {
	for _, value := range h["Connection"] {
		for token := range strings.SplitSeq(value, ",") {
			if strings.EqualFold(strings.TrimSpace(token), "upgrade") {
				return h.Get("Upgrade")
			}
		}
	}
	return ""
}

type neverEnding byte

func (b neverEnding) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(b)
	}
	return len(p), nil
}

// settings are those of the handler: what the hooks do to a request and to an answer, said in a config.
func (p *ReverseProxy) settings() map[string]any {
	out, _ := http.NewRequest("GET", "http://probe.test/probe?probe=1", nil)
	out.Header.Set("Probe", "as it was")
	up, down := map[string]any{}, map[string]any{}
	set, added := map[string][]string{}, map[string][]string{}
	var removed []string
	settings := map[string]any{}
	switch {
	case p.Director != nil:
		p.Director(out)
	case p.Rewrite != nil:
		in := out.Clone(out.Context())
		r := &ProxyRequest{In: in, Out: out}
		p.Rewrite(r)
		out = r.Out
		removed = append(removed, "Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto")
	}
	address := out.URL.Host
	if !strings.Contains(address, ":") {
		address += ":80"
	}
	settings["upstreams"] = []any{map[string]any{"dial": address}}
	uri := ""
	if out.URL.Path != "/probe" {
		uri = "/" + strings.TrimPrefix(out.URL.Path, "/")
	}
	if query, ok := strings.CutSuffix(out.URL.RawQuery, "probe=1"); ok && query != "" {
		uri += "?" + query + "{http.request.uri.query}"
	}
	if uri != "" {
		settings["rewrite"] = map[string]any{"uri": uri}
	}
	for name, values := range out.Header {
		if len(values) == 0 {
			removed = append(removed, name)
		} else if name != "Probe" {
			set[name] = values
		}
	}
	if out.Host == "" {
		set["Host"] = []string{"{http.reverse_proxy.upstream.hostport}"}
	}
	removed = append(removed, hopHeaders...)
	if p.FlushInterval != 0 {
		settings["flush_interval"] = p.FlushInterval
	}
	transport := p.Transport
	if p.ModifyResponse != nil {
		var ok bool
		if added, ok = adds(p.ModifyResponse); !ok {
			transport = modifying{p.Transport, p.ModifyResponse}
		}
	}
	if len(set)+len(removed)+len(added) > 0 {
		up["set"], up["delete"], down["delete"], down["add"] = set, removed, hopHeaders, added
		settings["headers"] = map[string]any{"request": up, "response": down}
	}
	if transport != nil {
		settings["transport"] = describe(transport)
	}
	for name, value := range p.Settings {
		settings[name] = value
	}
	return settings
}

// adds returns the header fields that a hook adds to answers, and whether it does nothing else.
func adds(hook func(*http.Response) error) (http.Header, bool) {
	body := new(checkCloser)
	res := &http.Response{StatusCode: 345, Header: http.Header{}, Body: struct{ *readWriter }{&readWriter{body}}}
	before := res.Body
	err := hook(res)
	return res.Header, err == nil && res.StatusCode == 345 && res.Body == before
}

type readWriter struct{ *checkCloser }

func (*readWriter) Write(p []byte) (int, error) { return len(p), nil }

// errorStatus is the status with which a hook answers errors.
func (p *ReverseProxy) errorStatus(err error, otherwise int) int {
	if p.ErrorHandler == nil {
		return otherwise
	}
	w := httptest.NewRecorder()
	p.ErrorHandler(w, nil, err)
	return w.Code
}
