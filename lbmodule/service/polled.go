package service

import (
	"cmp"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule/discovery"
)

// defaultNegativeTTL is how long the last backends of a name are kept after the name is gone.
const defaultNegativeTTL = 30 * time.Second

// negativeTTL returns the configured value or the default.
func (s *Service) negativeTTL() time.Duration {
	if s.settings.NegativeTTL == nil {
		return defaultNegativeTTL
	}
	return time.Duration(*s.settings.NegativeTTL)
}

// polledSource is one of the sources that make up a polled source, with its last answer. Caddy's own `multi` skips failing sources and
// does not distinguish them from sources that have no backends.
type polledSource struct {
	source reverseproxy.UpstreamSource
	name   string          // without secrets
	raw    json.RawMessage // its config
	answers
}

// loadPolled loads the sources that make up the source with this config.
func loadPolled(ctx caddy.Context, raw json.RawMessage) ([]*polledSource, error) {
	var multi struct {
		Source  string            `json:"source"`
		Sources []json.RawMessage `json:"sources"`
	}
	if err := json.Unmarshal(raw, &multi); err != nil {
		return nil, err
	}
	if multi.Source != "multi" {
		source, err := loadSource(ctx, raw)
		return []*polledSource{{source: source, name: displayName(raw), raw: raw, answers: answers{since: time.Now()}}}, err
	}
	if err := caddy.StrictUnmarshalJSON(raw, &multi); err != nil {
		return nil, err
	}
	all := []*polledSource{}
	for _, raw := range multi.Sources {
		sources, err := loadPolled(ctx, raw)
		if err != nil {
			return nil, err
		}
		all = append(all, sources...)
	}
	return all, nil
}

// errStale is the error when a source returned nothing because its look-up failed.
var errStale = errors.New("lookup failed within grace_period, and there are no earlier results")

// ask queries the source. A negative error (see isNegative) counts as an answer: there are no backends.
func (s *polledSource) ask(r *http.Request) (found, error) {
	if source, ok := s.source.(discovery.Source); ok {
		whole, err := source.List(r.Context())
		if err != nil {
			// Not even an error that is negative about a name means that there are no backends.
			return found{}, &unlisted{err}
		}
		return s.foundIn(whole), nil
	}
	list, err := s.askUpstreams(r)
	return found{list: list}, err
}

// askUpstreams queries a source that knows addresses only.
func (s *polledSource) askUpstreams(r *http.Request) ([]*reverseproxy.Upstream, error) {
	list, err := s.source.GetUpstreams(r)
	switch source := s.source.(type) {
	case *reverseproxy.SRVUpstreams:
		if err == nil && len(list) == 0 && source.GracePeriod > 0 {
			return nil, errStale
		}
	case *reverseproxy.AUpstreams:
		if isNegative(err) && asksForBoth(source.Versions) {
			return s.askFamilies(source, r, err)
		}
	}
	return list, err
}

// asksForBoth reports whether addresses of both IP versions are looked up together.
func asksForBoth(v *reverseproxy.IPVersions) bool {
	on := func(version *bool) bool { return version != nil && *version }
	return v == nil || on(v.IPv4) == on(v.IPv6)
}

// askFamilies queries again, but only for the IP versions that had addresses, after a negative answer. When Go looks up both versions
// together it returns the error of only one: the other look-up may have failed, and its addresses would be considered gone.
func (s *polledSource) askFamilies(a *reverseproxy.AUpstreams, r *http.Request, negative error) (all []*reverseproxy.Upstream, err error) {
	on, one := true, *a
	var had4, had6 bool
	for _, u := range s.list {
		address, err := netip.ParseAddrPort(u.Dial)
		had4 = had4 || err == nil && address.Addr().Unmap().Is4()
		had6 = had6 || err == nil && !address.Addr().Unmap().Is4()
	}
	for _, family := range []struct {
		had      bool
		versions reverseproxy.IPVersions
	}{{had4, reverseproxy.IPVersions{IPv4: &on}}, {had6, reverseproxy.IPVersions{IPv6: &on}}} {
		if !family.had {
			continue
		}
		one.Versions = &family.versions
		list, err := one.GetUpstreams(r)
		if err != nil && !isNegative(err) {
			return nil, err
		}
		all = append(all, list...)
	}
	if len(all) == 0 {
		return nil, negative
	}
	return all, nil
}

// isNegative reports whether err means that the name, or records of the requested type, do not exist (RFC 2308).
func isNegative(err error) bool {
	if _, ok := errors.AsType[*net.AddrError](err); ok {
		return true // there are addresses, but of the other IP version
	}
	e, ok := errors.AsType[*net.DNSError](err)
	return ok && e.IsNotFound && !e.Temporary()
}

// answers holds what a source has answered.
type answers struct {
	found   // the last backends; none once the name is gone
	state   answerState
	known   bool // it has answered, possibly with no backends
	absence absence

	problem error     // what is wrong with the last answer; nil for a good answer
	since   time.Time // when problem last appeared or disappeared
}

// answerState is the result of the last look-up.
type answerState uint8

const (
	unasked answerState = iota
	named               // there are backends
	failing             // there was no answer
	absent              // there are no backends; the last ones are kept for now
	gone                // there are no backends
)

// note records the result of a look-up. For ttl, negative answers do not change the list.
func (a *answers) note(answer found, err error, ttl time.Duration, now time.Time) {
	before := *a
	switch {
	case err == nil && len(answer.list) > 0:
		*a = answers{state: named, known: true, found: answer, since: before.since}
	case err == nil || isNegative(err):
		a.known = true
		if lasts := a.absence.confirm(now); len(a.list) > 0 && lasts < ttl {
			a.state = absent
		} else {
			a.state, a.found = gone, found{}
		}
		a.problem = cmp.Or(err, errNoNames)
	default:
		a.absence.interrupt()
		a.state, a.problem = failing, err
	}
	if before.state == unasked || (before.state == named) != (a.state == named) {
		a.since = now
	}
}

// absence measures how long a name has been gone according to its name server. Time in which the name server does not answer does not
// count, so occasional failures neither empty a list early nor keep it for ever.
type absence struct {
	lasts time.Duration
	last  time.Time // time of the last look-up if its answer was negative, else zero
}

// confirm records a negative answer and returns how long answers have been negative.
func (a *absence) confirm(now time.Time) time.Duration {
	if !a.last.IsZero() {
		a.lasts += now.Sub(a.last)
	}
	a.last = now
	return a.lasts
}

// interrupt records a failed look-up.
func (a *absence) interrupt() { a.last = time.Time{} }

// noteState logs when a source starts to fail, has no backends, or has backends again, and when its list is bad in another way. before is
// the state before the last answer.
func (d *dynamicSource) noteState(s *polledSource, before *answers, err error) {
	_, isList := s.source.(discovery.Source)
	another := isList && s.state == failing && discovery.NewProblem(before.problem, err)
	if s.state == before.state && !another {
		return
	}
	fields := []zap.Field{zap.String("pool", d.service.pool.Name()), zap.String("source", s.name)}
	switch s.state {
	case failing:
		message := "failed getting dynamic upstreams"
		if isList {
			message = "dynamic source has no good list; the last good one is kept"
			fields = append(fields, zap.Int("backends", len(s.list)))
		}
		d.service.logger.Error(message, append(fields, zap.Error(err))...)
	case absent:
		d.service.logger.Warn("dynamic source has no backends; the last ones are kept for negative_ttl",
			append(fields, zap.Duration("negative_ttl", d.service.negativeTTL()), zap.Error(err))...)
	case gone:
		message := "dynamic source has no backends"
		if len(before.list) > 0 {
			message = "dynamic source has no backends any more"
		}
		d.service.logger.Warn(message, append(fields, zap.Error(err))...)
	default:
		if before.state != unasked {
			d.service.logger.Info("getting dynamic upstreams again", fields...)
		}
	}
}
