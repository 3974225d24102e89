package caddyfile

import (
	"fmt"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule"
)

func init() {
	httpcaddyfile.RegisterHandlerDirective("load_balancer", parseLoadBalancer)
	httpcaddyfile.RegisterDirectiveOrder("load_balancer", httpcaddyfile.Before, "reverse_proxy")
}

// parseLoadBalancer sets up the handler from Caddyfile tokens. Every subdirective of reverse_proxy may stand
// among these:
//
//	load_balancer [<matcher>] [<upstreams...>] {
//	    name <name>
//	    backend <address> {
//	        name         <name>
//	        weight       <0-65535>
//	        max_requests <number>
//	        backup       [<1-9>]
//	        zone         <name>
//	    }
//	    lb_policy <name> [<options...>]
//	}
//
// and the words of settingParsers.
func parseLoadBalancer(helper httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	p := &directiveParser{h: new(lbmodule.Handler), d: helper.Dispenser, seen: make(map[string]int)}
	if err := p.parse(); err != nil {
		return nil, err
	}
	if err := p.h.FinalizeUnmarshalCaddyfile(helper); err != nil {
		return nil, err
	}
	if err := p.checkName(helper); err != nil {
		return nil, err
	}
	return p.h, nil
}

// directiveParser parses one load_balancer directive. Its own words it parses itself; all others it collects
// and hands to reverse_proxy's parser as a directive of their own.
type directiveParser struct {
	h    *lbmodule.Handler
	d    *caddyfile.Dispenser
	seen map[string]int // line of each word of ours that may be given once

	stock  []caddyfile.Token // the directive without our words
	isOwn  []bool            // for each upstream in order of appearance, whether a backend block gave it
	policy *policy           // nil without lb_policy

	first   caddyfile.Token // the address that was given first
	someOwn bool            // a backend block was given
}

func (p *directiveParser) parse() error {
	d := p.d
	d.Next() // the directive's name
	p.stock = append(p.stock, d.Token())
	for d.NextArg() {
		p.stock = append(p.stock, d.Token())
		if err := p.countUpstreams(d.Token()); err != nil {
			return err
		}
	}
	if err := p.parseBlock(); err != nil {
		return err
	}
	if err := p.h.Handler.UnmarshalCaddyfile(caddyfile.NewDispenser(p.stock)); err != nil {
		return err
	}
	if err := p.takeBackends(); err != nil {
		return err
	}
	if p.policy != nil {
		if err := p.setPolicy(); err != nil {
			return err
		}
	}
	if err := p.h.Check(); err != nil {
		return fmt.Errorf("%w, at %s:%d", err, p.stock[0].File, p.stock[0].Line)
	}
	return nil
}

// parseBlock parses the directive's block, if it has one. The braces go to reverse_proxy as well: its parser
// looks at where tokens stand, and these stand right.
func (p *directiveParser) parseBlock() error {
	d := p.d
	opened := false
	for d.NextBlock(0) {
		if !opened {
			opened = true
			d.Prev() // back to the brace, which NextBlock has passed over
			p.stock = append(p.stock, d.Token())
			d.Next()
		}
		if err := p.parseWord(); err != nil {
			return err
		}
	}
	if opened {
		p.stock = append(p.stock, d.Token())
	}
	return nil
}

// parseWord parses the subdirective that the dispenser stands on.
func (p *directiveParser) parseWord() error {
	d := p.d
	switch word := d.Val(); word {
	case "name":
		if err := p.once(word); err != nil {
			return err
		}
		if err := intoString(&p.h.Name)(d); err != nil {
			return err
		}
		if err := lbmodule.ValidateName(p.h.Name); err != nil {
			return d.Errf("name %q: %v", p.h.Name, err)
		}
		return nil
	case "backend":
		return p.parseBackend()
	case "lb_policy":
		if err := p.once(word); err != nil {
			return err
		}
		var err error
		p.policy, err = parsePolicy(d)
		return err
	case "to":
		return p.parseTo()
	case "max_fails":
		return p.parseMaxFails()
	default:
		if parse, ours := settingParsers[word]; ours {
			if err := p.once(word); err != nil {
				return err
			}
			at := d.Token()
			if err := parse(d, &p.h.Settings); err != nil {
				return err
			}
			if err := p.h.Settings.Check(); err != nil {
				return fmt.Errorf("%w, at %s:%d", err, at.File, at.Line)
			}
			return nil
		}
		p.stock = append(p.stock, d.NextSegment()...)
		return nil
	}
}

// parseMaxFails parses `max_fails <percentage>`. A number is for reverse_proxy.
func (p *directiveParser) parseMaxFails() error {
	segment := p.d.NextSegment()
	if len(segment) != 2 || !strings.HasSuffix(segment[1].Text, "%") {
		p.stock = append(p.stock, segment...)
		return nil
	}
	d := caddyfile.NewDispenser(segment)
	d.Next()
	share := lbmodule.Ranges.Of("max_fail_ratio")
	share.Setting = "max_fails" // as it is called here
	return intoRatio(&p.h.MaxFailRatio, share)(d)
}

// once refuses a word that has been given before.
func (p *directiveParser) once(word string) error {
	if line, again := p.seen[word]; again {
		return p.d.Errf("%s: given already, on line %d", word, line)
	}
	p.seen[word] = p.d.Line()
	return nil
}

// parseTo notes how many upstreams a `to` gives and leaves them to reverse_proxy.
func (p *directiveParser) parseTo() error {
	segment := p.d.NextSegment()
	for _, t := range segment[1:] {
		if err := p.countUpstreams(t); err != nil {
			return err
		}
	}
	p.stock = append(p.stock, segment...)
	return nil
}

// countUpstreams notes the upstreams that an address stands for: a port range is several.
func (p *directiveParser) countUpstreams(address caddyfile.Token) error {
	if err := p.checkScheme(address, false); err != nil {
		return err
	}
	upstreams, err := parseUpstreams(address)
	if err != nil {
		return err
	}
	if n := len(p.isOwn) + len(upstreams); n > lbmodule.MaxBackends {
		return fmt.Errorf("upstream %s: makes %d backends: must be at most %d, at %s:%d",
			address.Text, n, lbmodule.MaxBackends, address.File, address.Line)
	}
	for range upstreams {
		p.isOwn = append(p.isOwn, false)
	}
	return nil
}

// parseUpstreams has reverse_proxy parse one address.
func parseUpstreams(address caddyfile.Token) (reverseproxy.UpstreamPool, error) {
	directive := address
	directive.Text = "reverse_proxy"
	var h reverseproxy.Handler
	if err := h.UnmarshalCaddyfile(caddyfile.NewDispenser([]caddyfile.Token{directive, address})); err != nil {
		return nil, err
	}
	return h.Upstreams, nil
}

// poolsSeen is the key of the pools that a Caddyfile has named so far, in its adapter's state.
const poolsSeen = "ballast.pools"

type seenPool struct {
	settings string
	where    string
}

// checkName refuses a second pool of the same name with other settings.
func (p *directiveParser) checkName(helper httpcaddyfile.Helper) error {
	if p.h.Name == "" {
		return nil
	}
	settings, err := p.h.PoolSettings()
	if err != nil {
		return err
	}
	seen, ok := helper.State[poolsSeen].(map[string]seenPool)
	if !ok {
		seen = make(map[string]seenPool)
		helper.State[poolsSeen] = seen
	}
	have, again := seen[p.h.Name]
	if again && have.settings != settings {
		return fmt.Errorf("name %s: stands for a pool with other settings already, at %s; pools that differ need different names, at %s:%d",
			p.h.Name, have.where, p.d.File(), p.seen["name"])
	}
	if !again {
		seen[p.h.Name] = seenPool{settings, fmt.Sprintf("%s:%d", p.d.File(), p.seen["name"])}
	}
	return nil
}
