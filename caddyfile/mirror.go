package caddyfile

import (
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/ballastlb/ballast/lbmodule/config"
)

// parseMirror parses
//
//	mirror <upstreams...> <share> {
//	    timeout      <duration>
//	    max_requests <number>
//	}
func parseMirror(d *caddyfile.Dispenser, s *config.Settings) error {
	m := new(config.Mirror)
	s.Mirror = m
	segment := []caddyfile.Token{d.Token()}
	for d.NextArg() {
		segment = append(segment, d.Token())
	}
	addresses, last := mirrorArgs(segment)
	if !strings.HasSuffix(last.Text, "%") && !strings.Contains(last.Text, "{") {
		return d.Errf("mirror: share: missing; after the upstreams there must be a percentage %s", in("mirror.share"))
	}
	values, err := args(atFirst([]caddyfile.Token{segment[0], last}), 1)
	if err != nil {
		return err
	}
	if m.Share, err = ratio(d, "mirror", values[0], in("mirror.share")); err != nil {
		return err
	}
	before := segment[0]
	for _, address := range addresses {
		if err := checkAddress("mirror", address, before); err != nil {
			return err
		}
		upstreams, err := parseUpstreams(address)
		if err != nil {
			return err
		}
		for _, u := range upstreams {
			m.Upstreams = append(m.Upstreams, u.Dial)
		}
		before = address
	}
	if err := s.CheckGiven(); err != nil {
		return errorAt(segment[0], err)
	}
	return mirrorWords(m).parse(d, "mirror", "", s.CheckGiven)
}

// mirrorArgs splits the arguments of a mirror into its addresses and the last one, which is the share.
func mirrorArgs(segment []caddyfile.Token) (addresses []caddyfile.Token, share caddyfile.Token) {
	values := segment[1:]
	if opens := slices.IndexFunc(values, func(t caddyfile.Token) bool { return t.Text == "{" }); opens >= 0 {
		values = values[:opens]
	}
	if len(values) == 0 {
		return nil, share
	}
	return values[:len(values)-1], values[len(values)-1]
}

func mirrorWords(m *config.Mirror) words {
	return words{
		"timeout":      intoDuration(&m.Timeout, in("mirror.timeout")),
		"max_requests": intoInt(&m.MaxRequests, in("mirror.max_requests")),
	}
}

// checkMirrorSchemes refuses a mirror whose scheme differs from that of the backends, because it shares their transport.
func (p *directiveParser) checkMirrorSchemes() error {
	for _, address := range p.mirrors {
		if config.IsTemplate(address.Text) {
			continue // it cannot have a scheme
		}
		if other := p.first.Text; other != "" && scheme(other) != scheme(address.Text) {
			return errorAt(address, fmt.Errorf("mirror %s: has the scheme %s, but %s has %s: mirrors must have that of the backends",
				address.Text, scheme(address.Text), other, scheme(other)))
		}
		if p.first.Text == "" && strings.Contains(address.Text, "://") {
			return errorAt(address, fmt.Errorf("mirror %s: must have no scheme if no backend has one; the transport defines it", address.Text))
		}
	}
	return nil
}
