package discovery

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/config"
)

func init() {
	caddy.RegisterModule(new(HTTP))
}

const httpModule = "lb_http"

const (
	defaultInterval = 30 * time.Second
	// mostTime is the longest time of a request; the interval also limits it.
	mostTime = 10 * time.Second
	// firstRetry is the pause after the first failure while there has been no list yet. It doubles up to the interval.
	firstRetry = time.Second
	// jitter is the largest random change of the interval, as a share of it.
	jitter = 0.1
)

var intervals = config.Ranges.Of("dynamic http.interval")

// HTTP lists backends from a URL, in the format of Prometheus' `http_sd_configs`. Only an answer with status 200 and JSON is accepted.
// After any other answer, or one that names no target, the last good list is kept.
//
// Redirects are followed. Headers are sent to the host of the URL only.
//
// In `load_balancer` the labels `weight`, `zone`, `backup`, `max_requests` and `name` set the properties of backends. A plain
// `reverse_proxy` uses `max_requests` only, and does not support `auto`.
type HTTP struct {
	// The URL of the list. Placeholders of the environment may be used. Required.
	URL string `json:"url,omitempty"`

	// The time from one request to the next, with a jitter of 10%, from 1s to 1h. Default: 30s.
	Interval caddy.Duration `json:"interval,omitempty"`

	// Header fields of the request. Placeholders of the environment and of files are replaced at each request.
	Headers http.Header `json:"headers,omitempty"`

	ctx      context.Context
	url      string // with placeholders replaced
	interval time.Duration
	client   *http.Client
	plain    plain

	mu       sync.Mutex // guards the fields below
	list     *List
	err      error
	tag      string // the ETag of list
	asked    bool
	failures int           // consecutive ones since the start
	due      time.Time     // time of the next request
	running  chan struct{} // closed when the request in flight has ended; nil if there is none
}

// CaddyModule returns the Caddy module information.
func (*HTTP) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  namespace + httpModule,
		New: func() caddy.Module { return new(HTTP) },
	}
}

// UnmarshalJSON reads the source's config.
func (h *HTTP) UnmarshalJSON(text []byte) error {
	type source HTTP
	return config.Ranges.Decode("dynamic http", text, (*source)(h))
}

// UnmarshalCaddyfile sets h up from Caddyfile tokens:
//
//	lb_http <url> [<interval>] {
//	    header <field> <value>
//	}
func (h *HTTP) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the source's name
	if !d.NextArg() {
		return d.WrapErr(errNoURL)
	}
	h.URL = d.Val()
	if d.NextArg() {
		text := d.Val()
		interval, err := caddy.ParseDuration(text)
		if err != nil {
			return d.Errf("dynamic http: interval %s: must be a duration %s", text, intervals)
		}
		if err := intervals.Check(float64(interval)); err != nil {
			return d.WrapErr(err)
		}
		h.Interval = caddy.Duration(interval)
	}
	if d.NextArg() {
		return d.Errf("dynamic http: %s: there must be a URL and an interval, and nothing behind them", d.Val())
	}
	if err := h.check(); err != nil {
		return d.WrapErr(err)
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if word := d.Val(); word != "header" {
			return d.Errf("dynamic http: unrecognized setting %s%s", word, config.DidYouMean(word, "header"))
		}
		field := d.RemainingArgs()
		if len(field) != 2 {
			return d.Errf("dynamic http: header: must have a field and a value, in quotes if there are spaces in it")
		}
		if h.Headers == nil {
			h.Headers = make(http.Header)
		}
		name := http.CanonicalHeaderKey(field[0])
		if h.Headers.Get(name) != "" {
			return d.Errf("dynamic http: header %s: given twice", name)
		}
		h.Headers[name] = append(h.Headers[name], field[1])
		if err := h.check(); err != nil {
			return d.WrapErr(err)
		}
	}
	return nil
}

var errNoURL = errors.New("dynamic http: url: missing; must be one of http or https")

// check checks the settings before placeholders are replaced. Errors contain neither the URL nor values of headers, which may be secret.
func (h *HTTP) check() error {
	if h.URL == "" {
		return errNoURL
	}
	if h.Interval != 0 {
		if err := intervals.Check(float64(h.Interval)); err != nil {
			return err
		}
	}
	for name, values := range h.Headers {
		if !httpguts.ValidHeaderFieldName(name) {
			return fmt.Errorf("dynamic http: header %.64q: must be the name of a header field", name)
		}
		for _, value := range values {
			if value == "" || !httpguts.ValidHeaderFieldValue(value) {
				return fmt.Errorf("dynamic http: header %s: must have a value that a header field can have", name)
			}
		}
	}
	if strings.Contains(h.URL, "{") {
		return nil // it is checked when placeholders are replaced
	}
	return h.checkURL(h.URL)
}

func (h *HTTP) checkURL(text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return fmt.Errorf("dynamic http: url %s: must be an http:// or https:// URL with a host", redact(h.URL))
	}
	return nil
}

// Provision sets h up. It sends no request yet.
func (h *HTTP) Provision(ctx caddy.Context) error {
	if err := h.check(); err != nil {
		return err
	}
	var known bool
	if h.url, known = fill(h.URL); !known {
		return fmt.Errorf("dynamic http: url %s: %w", redact(h.URL), errPlaceholder)
	}
	if err := h.checkURL(h.url); err != nil {
		return err
	}
	if _, err := h.header(); err != nil {
		return err
	}
	h.interval = time.Duration(h.Interval)
	if h.interval == 0 {
		h.interval = defaultInterval
	}
	h.ctx = ctx.Context
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxResponseHeaderBytes = 64 << 10
	h.client = &http.Client{Transport: transport, CheckRedirect: h.redirect}
	h.plain = plain{logger: ctx.Logger(), location: redact(h.URL)}
	return nil
}

// Cleanup closes connections. A request in flight ends with the context of the config.
func (h *HTTP) Cleanup() error {
	if h.client != nil {
		h.client.CloseIdleConnections()
	}
	return nil
}

// header returns the fields of the request, with placeholders replaced. The contents of files may change.
func (h *HTTP) header() (http.Header, error) {
	filled := make(http.Header)
	for name, values := range h.Headers {
		for _, value := range values {
			text, known := fill(value)
			if !known {
				return nil, fmt.Errorf("dynamic http: header %s: %w", name, errPlaceholder)
			}
			if text = strings.TrimSpace(text); text == "" || !httpguts.ValidHeaderFieldValue(text) {
				return nil, fmt.Errorf("dynamic http: header %s: must have a value that a header field can have, after its placeholders are replaced", name)
			}
			filled.Add(name, text)
		}
	}
	return filled, nil
}

// redirect removes all header fields from requests to other hosts, because they may be secret. The client itself removes only some.
func (h *HTTP) redirect(r *http.Request, via []*http.Request) error {
	if len(via) >= 10 {
		return errors.New("must not redirect more than 10 times")
	}
	r.Header.Del("Referer")
	if first := via[0].URL; r.URL.Host != first.Host || first.Scheme == "https" && r.URL.Scheme != "https" {
		for name := range h.Headers {
			r.Header.Del(name)
		}
	}
	return nil
}

// GetUpstreams implements [reverseproxy.UpstreamSource].
func (h *HTTP) GetUpstreams(r *http.Request) ([]*reverseproxy.Upstream, error) {
	return h.plain.upstreams(r, h)
}

// List implements [Source]. It waits for the first answer only: later requests are made in the background when they are due.
func (h *HTTP) List(ctx context.Context) (*List, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.running == nil && !time.Now().Before(h.due) && h.ctx.Err() == nil {
		h.running = make(chan struct{})
		go h.refresh(h.running, h.tag)
	}
	if running := h.running; !h.asked && running != nil {
		h.mu.Unlock()
		select {
		case <-running:
		case <-ctx.Done():
		}
		h.mu.Lock()
	}
	if !h.asked {
		return nil, errNoAnswer
	}
	return h.list, h.err
}

var errNoAnswer = errors.New("has not answered yet")

// refresh requests the list and closes done.
func (h *HTTP) refresh(done chan struct{}, tag string) {
	ctx, cancel := context.WithTimeout(h.ctx, min(mostTime, h.interval))
	list, tag, err := h.ask(ctx, tag)
	cancel()
	h.mu.Lock()
	defer h.mu.Unlock()
	defer close(done)
	h.running = nil
	if h.ctx.Err() != nil {
		return // the config has ended, which is not an error of the server
	}
	h.asked, h.err = true, err
	pause := h.interval
	switch {
	case err == nil:
		h.tag = tag
		if list != nil && !h.list.equal(list) {
			h.list = list
		}
	case h.list == nil:
		// Without a list no request can be served.
		pause = min(firstRetry<<min(h.failures, 12), h.interval)
		h.failures++
	}
	spread := 1 + jitter*(2*rand.Float64()-1)
	h.due = time.Now().Add(time.Duration(float64(pause) * spread))
}

// ask requests the list. It returns nil without an error if the list with that tag is still current.
func (h *HTTP) ask(ctx context.Context, tag string) (list *List, newTag string, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, h.url, nil)
	if err != nil {
		return nil, "", errors.New("must be an http:// or https:// URL with a host")
	}
	header, err := h.header()
	if err != nil {
		return nil, "", err
	}
	r.Header.Set("Accept", "application/json")
	maps.Copy(r.Header, header)
	if host := header.Get("Host"); host != "" {
		r.Host = host
	}
	if tag != "" {
		r.Header.Set("If-None-Match", tag)
	}
	answer, err := h.client.Do(r)
	if err != nil {
		return nil, "", h.failed(ctx, err)
	}
	defer answer.Body.Close()
	switch {
	case answer.StatusCode == http.StatusNotModified && tag != "":
		return nil, tag, nil
	case answer.StatusCode != http.StatusOK:
		return nil, "", wrong("answered with status %d: must be 200", answer.StatusCode)
	}
	if kind, _, err := mime.ParseMediaType(answer.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return nil, "", wrong("Content-Type %.64q: must be application/json", answer.Header.Get("Content-Type"))
	}
	text, err := readAll(answer.Body)
	if err != nil {
		return nil, "", h.failed(ctx, err)
	}
	list, err = Parse(text)
	return list, answer.Header.Get("ETag"), err
}

// failed returns the error of a request without its URL, which may be secret.
func (h *HTTP) failed(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("must answer within %v", min(mostTime, h.interval))
	}
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	return err
}

// Interface guards
var (
	_ Source                = (*HTTP)(nil)
	_ caddy.Provisioner     = (*HTTP)(nil)
	_ caddy.CleanerUpper    = (*HTTP)(nil)
	_ caddyfile.Unmarshaler = (*HTTP)(nil)
)
