package service

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/ballastlb/ballast/healthcheck"
	"github.com/ballastlb/ballast/healthcheck/probe"
	"github.com/ballastlb/ballast/lbmodule/config"
	"github.com/ballastlb/ballast/lbmodule/pool"
	"github.com/ballastlb/ballast/lbmodule/stock"
)

// probing makes the active checks of one load balancer.
type probing struct {
	check     *config.HealthCheck // with its defaults
	transport http.RoundTripper   // probes are sent over it
	raw       []byte              // its config; loading a transport clears the one in check
	match     *regexp.Regexp
	status    []healthcheck.StatusRange
}

// loadProbing sets up the active check, if there is one. raw is the transport's config.
func (s *Service) loadProbing(ctx caddy.Context, raw []byte) error {
	c := s.check
	if c == nil {
		return nil
	}
	p := &probing{check: c, transport: s.transport, raw: raw}
	if c.TransportRaw != nil {
		p.raw = c.TransportRaw
		loaded, err := ctx.LoadModule(c, "TransportRaw")
		if err != nil {
			return fmt.Errorf("health_check: transport: %w", err)
		}
		own, ok := loaded.(http.RoundTripper)
		if !ok {
			return fmt.Errorf("health_check: transport: %T is not a transport", loaded)
		}
		p.transport = own
	}
	if c.ExpectBody != "" {
		var err error
		if p.match, err = regexp.Compile(c.ExpectBody); err != nil {
			return fmt.Errorf("health_check: expect_body: %w", err)
		}
	}
	for _, status := range c.Status {
		r, err := config.ParseStatusRange(status)
		if err != nil {
			return fmt.Errorf("health_check: status %s: %w", status, err)
		}
		p.status = append(p.status, r)
	}
	s.probing = p
	return nil
}

// checkOf returns the check of the backend with this address.
func (p *probing) checkOf(address string) (probe.Check, error) {
	prober, err := p.prober(address)
	return probe.Check{
		Key:          p.check.Key(address, p.raw),
		Prober:       prober,
		Interval:     time.Duration(p.check.Interval),
		FastInterval: time.Duration(p.check.FastInterval),
		Timeout:      time.Duration(p.check.Timeout),
	}, err
}

func (p *probing) prober(address string) (probe.Prober, error) {
	t, err := p.target(address)
	if err != nil {
		return nil, err
	}
	switch p.check.Type {
	case "tcp":
		return &probe.TCP{Dial: t.Dialer(p.transport)}, nil
	case "tls":
		return &probe.TLS{Dial: t.Dialer(p.transport), Config: t.TLSConfig(p.transport)}, nil
	case "grpc":
		return &probe.GRPC{Transport: p.transport, Prepare: t.Prepare, URL: t.URL(p.transport).String(), Service: p.check.Service}, nil
	default:
		return p.httpProber(t, address)
	}
}

func (p *probing) httpProber(t stock.ProbeTarget, address string) (probe.Prober, error) {
	c := p.check
	uri, err := url.Parse(c.URI)
	if err != nil {
		return nil, err
	}
	u := t.URL(p.transport)
	u.Path, u.RawPath, u.RawQuery = uri.Path, uri.RawPath, uri.RawQuery
	// Only placeholders that do not depend on a request can be replaced. In the body, unknown ones remain unchanged, because braces there are
	// more often JSON than placeholders.
	repl := caddy.NewReplacer()
	repl.Set("http.reverse_proxy.active.target_upstream", address)
	prober := &probe.HTTP{
		Transport: p.transport, Prepare: t.Prepare, Method: c.Method, URL: u.String(), Header: make(http.Header),
		Body: repl.ReplaceKnown(c.Body, ""), FollowRedirects: c.FollowRedirects,
		Status: p.status, Match: p.match, MaxBody: c.MaxSize,
	}
	if !c.FollowRedirects && t.SpeaksHTTP1(p.transport) {
		prober.Dial = t.Dialer(p.transport)
	}
	for name, values := range c.Headers {
		name = http.CanonicalHeaderKey(repl.ReplaceAll(name, ""))
		for _, value := range values {
			value = repl.ReplaceKnown(value, "")
			if name == "Host" {
				prober.Host = value
				continue
			}
			prober.Header.Add(name, value)
		}
	}
	return prober, nil
}

// target returns where probes of the backend with this address are sent.
func (p *probing) target(address string) (stock.ProbeTarget, error) {
	if p.check.Upstream != "" {
		return stock.ProbeTargetAt(caddy.NewReplacer().ReplaceKnown(p.check.Upstream, ""), 0)
	}
	return stock.ProbeTargetAt(address, p.check.Port)
}

// elsewhere reports whether probes of the backend with this address are sent to another address.
func (p *probing) elsewhere(address string) bool {
	probed, err := p.target(address)
	own, ownErr := stock.ProbeTargetAt(address, 0)
	return err != nil || ownErr != nil || !probed.Same(own)
}

// checker makes the active checks of all configs, so that checks continue across reloads.
var checker probe.Checker

// watching probes the members of one set, and redials the dead ones, while its config serves.
type watching struct {
	service *Service

	mu    sync.Mutex // guards the fields below
	on    bool
	set   *Set
	stops []func()
}

// follow makes set the one whose members are probed.
func (w *watching) follow(set *Set) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.set = set
	if w.on {
		w.begin()
	}
}

// start starts probing.
func (w *watching) start() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.on = true
	w.begin()
}

// stop stops probing.
func (w *watching) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.on = false
	w.end()
}

// begin starts probing the members of the set. Members that were already probed continue without a gap. The caller holds w.mu.
func (w *watching) begin() {
	s := w.service
	stops := []func(){s.redial(w.set, false)}
	if s.probing != nil && w.set != nil {
		for i := range w.set.view.Len() {
			b := w.set.view.Backend(i)
			if b.Unchecked || b.State == pool.Maintenance {
				continue
			}
			check, err := s.probing.checkOf(b.Address)
			if err != nil {
				// Only addresses from a dynamic source can be invalid here.
				s.logger.Error("backend cannot be checked", zap.String("pool", s.pool.Name()), zap.String("backend", b.Address), zap.Error(err))
				continue
			}
			stops = append(stops, checker.Watch(check, pool.Observer{
				Member: w.set.view.Member(i), Thresholds: s.check.Thresholds(), Elsewhere: s.probing.elsewhere(b.Address),
			}))
		}
	}
	w.end()
	w.stops = stops
}

func (w *watching) end() {
	for _, stop := range w.stops {
		stop()
	}
	w.stops = nil
}

// redial makes the members of set be redialed whenever they are dead, until stop is called. ended says that the config has ended.
func (s *Service) redial(set *Set, ended bool) (stop func()) {
	if set == nil {
		return func() {}
	}
	dial := pool.Dialer(s.dialDead)
	for i := range set.view.Len() {
		b := set.view.Backend(i)
		if b.Unchecked || b.State > pool.Draining {
			continue
		}
		if _, err := stock.ProbeTargetAt(b.Address, 0); err != nil {
			// Only addresses from a dynamic source can be invalid here.
			s.logger.Error("backend cannot be redialed", zap.String("pool", s.pool.Name()), zap.String("backend", b.Address), zap.Error(err))
			continue
		}
		set.view.Member(i).Redial(&dial, ended)
	}
	return func() {
		for i := range set.view.Len() {
			set.view.Member(i).EndRedial(&dial)
		}
	}
}

// dialDead is the [pool.Dialer] of all backends.
func (s *Service) dialDead(ctx context.Context, address string) error {
	t, err := stock.ProbeTargetAt(address, 0)
	if err != nil {
		return err
	}
	conn, err := t.Connect(ctx, s.transport)
	switch {
	case err == nil:
	case stock.NotTried(err):
		return pool.ErrNotTried
	default:
		return err
	}
	if s.probing != nil {
		// Probes became rare while the backend was down.
		checker.Hurry(s.probing.check.Key(address, s.probing.raw))
	}
	return conn.Close()
}
