package caddyfile

import (
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/caddyapp"
	"github.com/ballastlb/ballast/lbmodule/config"
)

// parseBackend parses a backend with properties. Its address is also passed to reverse_proxy as an upstream, which checks that all backends
// have the same scheme and that the transport supports it; takeBackends removes it again.
func (p *directiveParser) parseBackend() error {
	d := p.d
	word := d.Token()
	if !d.NextArg() {
		return d.ArgErr()
	}
	address := d.Token()
	if err := checkAddress("backend", address, caddyfile.Token{}); err != nil {
		return err
	}
	if err := p.checkScheme(address, true); err != nil {
		return err
	}
	upstreams, err := parseUpstreams(address)
	if err != nil {
		return err
	}
	if len(upstreams) != 1 {
		return d.Errf("backend %s: must be one socket, not a range of %d ports", address.Text, len(upstreams))
	}
	if d.NextArg() {
		if given := append([]string{d.Val()}, d.RemainingArgs()...); slices.Contains(backendWords(new(config.Backend)).names(), given[0]) {
			return d.Errf("backend %s: its settings belong in a block, a line each; did you mean backend %s { %s }?", address.Text, address.Text,
				strings.Join(given, " "))
		} else if len(given) > 1 {
			for range given[1:] {
				d.Prev()
			}
		}
		if err := checkAddress("backend", d.Token(), address); err != nil {
			return err
		}
		return d.ArgErr()
	}
	b := &config.Backend{Address: upstreams[0].Dial}
	p.h.Backends = append(p.h.Backends, b)
	check := func() error {
		if err := b.Validate(); err != nil {
			return err
		}
		return config.CheckUnique(p.h.Backends)
	}
	if err := check(); err != nil {
		return d.WrapErr(err)
	}
	words, name := backendWords(b), address
	parseName := words["name"]
	words["name"] = func(d *caddyfile.Dispenser) error {
		name = d.Token()
		return parseName(d)
	}
	if err := words.parse(d, "backend", b.Address, check); err != nil {
		return err
	}
	p.backends, p.names = append(p.backends, address), append(p.names, name)
	word.Text = "to"
	p.stock = append(p.stock, word, address)
	p.isOwn = append(p.isOwn, true)
	return nil
}

// checkScheme refuses a backend with properties whose scheme differs from another's; for plain upstreams reverse_proxy has its own error.
// own tells that the address belongs to a backend with properties.
func (p *directiveParser) checkScheme(address caddyfile.Token, own bool) error {
	other := p.first.Text
	if other == "" {
		p.first = address
	}
	p.someOwn = p.someOwn || own
	if other == "" || !p.someOwn || scheme(other) == scheme(address.Text) {
		return nil
	}
	return fmt.Errorf("backend %s: has the scheme %s, but %s has %s: all backends of a load_balancer must have the same, at %s:%d",
		address.Text, scheme(address.Text), other, scheme(other), address.File, address.Line)
}

// scheme returns the scheme of an address.
func scheme(address string) string {
	scheme, _, given := strings.Cut(address, "://")
	if !given {
		return "http"
	}
	return scheme
}

// backendBounds is the range of a number in the block of a backend.
type backendBounds struct {
	caddyapp.Range
	address string
}

func (b backendBounds) Check(value float64) error { return b.CheckIn("backend "+b.address, value) }

// backendWords are the properties of a backend.
func backendWords(b *config.Backend) words {
	inBackend := func(word string) bounds {
		return backendBounds{config.Ranges.Of("backends." + word), b.Address}
	}
	return words{
		"name": intoString(&b.Name),
		"weight": func(d *caddyfile.Dispenser) error {
			b.Weight = new(int)
			return intoInt(b.Weight, inBackend("weight"))(d)
		},
		"max_requests": intoMaxRequests(&b.MaxRequests, "backend "+b.Address),
		"backup": func(d *caddyfile.Dispenser) error {
			b.Backup = 1
			if d.CountRemainingArgs() == 0 {
				return nil
			}
			return intoInt((*int)(&b.Backup), inBackend("backup"))(d)
		},
		"zone": intoString(&b.Zone),
	}
}

// takeBackends removes the backends with properties from reverse_proxy's upstreams, which have the address of each as that parser has
// normalized it.
func (p *directiveParser) takeBackends() error {
	var upstreams reverseproxy.UpstreamPool
	for i, u := range p.h.Upstreams {
		if p.isOwn[i] {
			continue
		}
		upstreams = append(upstreams, u)
		for k, b := range p.h.Backends {
			if b.Address == u.Dial {
				return errorAt(p.backends[k], fmt.Errorf("backend %s: is already an upstream; set weight and other properties in one place", b.Address))
			}
			if b.Name == u.Dial {
				return errorAt(p.names[k], fmt.Errorf("backend %s: name %s: is the address of another backend", b.Address, b.Name))
			}
		}
	}
	p.h.Upstreams = upstreams
	return nil
}
