package caddyfile

import (
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/lbmodule"
	"github.com/ballastlb/ballast/lbmodule/config"
)

func init() {
	httpcaddyfile.RegisterHandlerDirective("load_balancer", parseLoadBalancer)
	httpcaddyfile.RegisterDirectiveOrder("load_balancer", httpcaddyfile.Before, "reverse_proxy")
}

// parseLoadBalancer sets up the handler from Caddyfile tokens. All subdirectives of reverse_proxy may be mixed with these:
//
//	load_balancer [<matcher>] [<upstreams...>] {
//	    name <name>
//	    backend <address> {
//	        name         <name>
//	        weight       <0-65535>
//	        max_requests <number>|auto
//	        backup       [<1-9>]
//	        zone         <name>
//	    }
//	    lb_policy <name> [<options...>]
//	    shadow_policy <name> [<options...>]
//	}
//
// and those of settingParsers.
func parseLoadBalancer(helper httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	p := &directiveParser{h: new(lbmodule.Handler), d: helper.Dispenser, at: make(places)}
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

// directiveParser parses one load_balancer directive. It parses its own subdirectives, collects all others, and passes them to
// reverse_proxy's parser as a directive.
type directiveParser struct {
	h  *lbmodule.Handler
	d  *caddyfile.Dispenser
	at places

	stock    []caddyfile.Token // the directive without our subdirectives
	isOwn    []bool            // for each upstream in order of appearance, whether a backend block gave it
	backends []caddyfile.Token // the addresses of the backends with a block
	names    []caddyfile.Token // their names; the address if there is none
	unknown  caddyfile.Token   // the first word that reverse_proxy does not have, as far as known here
	argument string            // its first argument
	policy   *policy           // nil without lb_policy

	first   caddyfile.Token   // the first address that was given
	someOwn bool              // there is a backend block
	mirrors []caddyfile.Token // the addresses of mirrors
}

func (p *directiveParser) parse() error {
	d := p.d
	d.Next() // the directive's name
	p.stock = append(p.stock, d.Token())
	var before caddyfile.Token
	for d.NextArg() {
		p.stock = append(p.stock, d.Token())
		if err := p.countUpstreams(d.Token(), before); err != nil {
			return err
		}
		before = d.Token()
	}
	if err := p.parseBlock(); err != nil {
		return err
	}
	if err := p.h.Handler.UnmarshalCaddyfile(caddyfile.NewDispenser(p.stock)); err != nil {
		return p.suggest(err)
	}
	if err := p.takeBackends(); err != nil {
		return err
	}
	if p.policy != nil {
		if err := p.setPolicy(); err != nil {
			return err
		}
	}
	if err := p.checkMirrorSchemes(); err != nil {
		return err
	}
	if err := p.h.Check(); err != nil {
		return p.at.locate(err, p.stock[0])
	}
	return nil
}

// parseBlock parses the directive's block, if it has one. The braces are passed to reverse_proxy as well, because its parser depends on the
// lines of tokens.
func (p *directiveParser) parseBlock() error {
	d := p.d
	opened := false
	for d.NextBlock(0) {
		if !opened {
			opened = true
			d.Prev() // back to the brace, which NextBlock has consumed
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

// parseWord parses the subdirective at the dispenser's position.
func (p *directiveParser) parseWord() error {
	d := p.d
	word := d.Val()
	if _, again := p.at[word]; again && isGivenOnce(word) {
		return d.Errf("%s: given already, on line %d", word, p.at[word].Line)
	}
	switch word {
	case "name":
		p.at[word] = d.Token()
		if err := intoString(&p.h.Name)(d); err != nil {
			return err
		}
		if err := config.ValidateName(p.h.Name); err != nil {
			return d.Errf("name %q: %v", p.h.Name, err)
		}
		return nil
	case "backend":
		return p.parseBackend()
	case "lb_policy":
		p.at[word] = d.Token()
		var err error
		p.policy, err = parsePolicy(d)
		return err
	case "shadow_policy":
		p.at[word] = d.Token()
		shadow, err := parsePolicy(d)
		if err != nil {
			return err
		}
		p.h.ShadowPolicyRaw = caddyconfig.JSONModuleObject(shadow.module, "policy", shadow.name, nil)
		return nil // Check checks it when lb_policy is known
	case "to":
		return p.parseTo()
	case "max_fails":
		return p.parseMaxFails()
	default:
		segment := d.NextSegment()
		p.at.note(segment)
		if parse, ours := settingParsers[word]; ours {
			d = atFirst(segment)
			if err := parse(d, &p.h.Settings); err != nil {
				return err
			}
			if err := p.h.Settings.Check(); err != nil {
				return errorAt(segment[0], err)
			}
			if word == "mirror" {
				p.mirrors, _ = mirrorArgs(segment)
			}
			return nil
		}
		if word == "dynamic" {
			resolveSources(segment)
		}
		if p.unknown.Text == "" && !strings.HasPrefix(word, "@") && !slices.Contains(stockWords, word) {
			p.unknown = segment[0]
			if len(segment) > 1 {
				p.argument = segment[1].Text
			}
		}
		p.stock = append(p.stock, segment...)
		return nil
	}
}

// isGivenOnce reports whether a word is one of our subdirectives that may be given once only.
func isGivenOnce(word string) bool {
	_, ours := settingParsers[word]
	return ours || word == "name" || word == "lb_policy" || word == "shadow_policy" || word == "dynamic"
}

// parseMaxFails parses `max_fails <percentage>`. A plain number is passed to reverse_proxy.
func (p *directiveParser) parseMaxFails() error {
	segment := p.d.NextSegment()
	p.at.note(segment)
	if len(segment) != 2 || !strings.HasSuffix(segment[1].Text, "%") {
		p.stock = append(p.stock, segment...)
		return nil
	}
	d := caddyfile.NewDispenser(segment)
	d.Next()
	share := config.Ranges.Of("max_fail_ratio")
	share.Setting = "max_fails" // the name in the Caddyfile
	return intoRatio(&p.h.MaxFailRatio, share)(d)
}

// parseTo counts the upstreams of a `to` and passes them to reverse_proxy.
func (p *directiveParser) parseTo() error {
	segment := p.d.NextSegment()
	var before caddyfile.Token
	for _, t := range segment[1:] {
		if err := p.countUpstreams(t, before); err != nil {
			return err
		}
		before = t
	}
	p.stock = append(p.stock, segment...)
	return nil
}

// countUpstreams counts the upstreams of an address: a port range has several. before is the token before it on its line.
func (p *directiveParser) countUpstreams(address, before caddyfile.Token) error {
	if err := checkAddress("upstream", address, before); err != nil {
		return err
	}
	if err := p.checkScheme(address, false); err != nil {
		return err
	}
	upstreams, err := parseUpstreams(address)
	if err != nil {
		return err
	}
	if n := len(p.isOwn) + len(upstreams); n > config.MaxBackends {
		return errorAt(address, fmt.Errorf("upstream %s: makes %d backends: must be at most %d", address.Text, n, config.MaxBackends))
	}
	for _, u := range upstreams {
		if err := config.ValidateAddress(u.Dial); err != nil {
			return errorAt(address, fmt.Errorf("upstream %s: %w", u.Dial, err))
		}
		p.isOwn = append(p.isOwn, false)
	}
	return nil
}

// parseUpstreams makes reverse_proxy parse one address.
func parseUpstreams(address caddyfile.Token) (reverseproxy.UpstreamPool, error) {
	directive := address
	directive.Text = "reverse_proxy"
	var h reverseproxy.Handler
	if err := h.UnmarshalCaddyfile(caddyfile.NewDispenser([]caddyfile.Token{directive, address})); err != nil {
		return nil, err
	}
	return h.Upstreams, nil
}

// poolsSeen is the key in the adapter's state of the pools that the Caddyfile has named so far.
const poolsSeen = "ballast.pools"

type seenPool struct {
	settings string
	where    string
}

// checkName refuses a second pool with the same name and other settings.
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
		return fmt.Errorf("name %s: is already the name of a pool with other settings, at %s; different pools need different names, at %s:%d",
			p.h.Name, have.where, p.at["name"].File, p.at["name"].Line)
	}
	if !again {
		seen[p.h.Name] = seenPool{settings, fmt.Sprintf("%s:%d", p.at["name"].File, p.at["name"].Line)}
	}
	return nil
}
