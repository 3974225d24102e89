package caddyfile

import (
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/ballastlb/ballast/ratelimit"
)

func init() {
	httpcaddyfile.RegisterHandlerDirective("ip_rate_limit", parseRateLimit)
	httpcaddyfile.RegisterDirectiveOrder("ip_rate_limit", httpcaddyfile.Before, "basic_auth")
}

// parseRateLimit sets up the handler from Caddyfile tokens:
//
//	ip_rate_limit [<matcher>] [<rate>] {
//	    zone        <name>
//	    rate        <number>/s|m|h
//	    burst       <number>
//	    concurrency <number>
//	    key         <text>
//	    ipv6_prefix <bits>
//	    ipv6_tiers  off
//	    max_keys    <number>
//	    exempt      <ranges...>          # may be repeated
//	    dry_run
//	    redis <url> {
//	        timeout  <duration>
//	        on_error local|allow|deny
//	        secret   <text>
//	    }
//	}
func parseRateLimit(helper httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	d := helper.Dispenser
	d.Next() // the directive's name
	directive, segment := d.Token(), d.NextSegment()
	at := make(places)
	at.noteBlock("", segment)
	d = atFirst(segment)
	h := new(ratelimit.Handler)
	w := rateLimitWords(h)
	if d.NextArg() {
		if err := shortRate(d, h); err != nil {
			return nil, err
		}
		w["rate"] = func(d *caddyfile.Dispenser) error { return d.Errf("ip_rate_limit: rate: given twice") }
	}
	if err := w.parse(d, "ip_rate_limit", "", h.Check, "exempt"); err != nil {
		return nil, err
	}
	if err := h.CheckWhole(); err != nil {
		return nil, at.locate(err, directive)
	}
	if zone, named := at["zone"]; named {
		directive = zone
	}
	if err := checkZone(helper, h, directive); err != nil {
		return nil, err
	}
	return h, nil
}

// shortRate parses a rate on the directive's line, at the dispenser's position.
func shortRate(d *caddyfile.Dispenser, h *ratelimit.Handler) error {
	given := append([]string{caddy.NewReplacer().ReplaceKnown(d.Val(), "")}, d.RemainingArgs()...)
	switch _, unit, _ := strings.Cut(given[0], "/"); {
	case len(given) > 1 && slices.Contains(rateLimitWords(h).names(), given[0]):
		return d.Errf("ip_rate_limit %s: only a rate may stand here; other settings belong in a block; did you mean ip_rate_limit { %s }?", strings.Join(given, " "), strings.Join(given, " "))
	case isPort(given[0]):
		return d.Errf("ip_rate_limit %s: must be a rate, such as %s/s", given[0], given[0])
	case len(given) > 1 && isPort(given[1]):
		return d.Errf("ip_rate_limit %s: only a rate may stand here; other settings belong in a block; did you mean ip_rate_limit %s { burst %s }?", strings.Join(given, " "), given[0], given[1])
	case len(given) > 1 || unit == "":
		return d.Errf("ip_rate_limit %s: must be one rate, such as 100/s; other settings belong in a block", strings.Join(given, " "))
	}
	h.Rate = given[0]
	if err := h.Check(); err != nil {
		return d.WrapErr(err)
	}
	return nil
}

func rateLimitWords(h *ratelimit.Handler) words {
	return words{
		"zone":        intoString(&h.Zone),
		"rate":        intoString(&h.Rate),
		"burst":       intoInt(&h.Burst, ratelimit.Ranges.Of("burst")),
		"concurrency": intoInt(&h.Concurrency, ratelimit.Ranges.Of("concurrency")),
		"key":         intoTemplate(&h.Key),
		"ipv6_prefix": intoInt(&h.IPv6Prefix, ratelimit.Ranges.Of("ipv6_prefix")),
		"ipv6_tiers": func(d *caddyfile.Dispenser) error {
			off, err := isOff(d)
			if err != nil {
				return err
			}
			if !off {
				return d.Errf("ipv6_tiers: may be off")
			}
			h.IPv6Tiers = &ratelimit.IPv6Tiers{Disabled: true}
			return nil
		},
		"max_keys": intoInt(&h.MaxKeys, ratelimit.Ranges.Of("max_keys")),
		"exempt": func(d *caddyfile.Dispenser) error {
			values := d.RemainingArgs()
			if len(values) == 0 {
				return d.ArgErr()
			}
			h.Exempt = append(h.Exempt, ranges(values)...)
			return nil
		},
		"dry_run": flag(&h.DryRun),
		"redis": func(d *caddyfile.Dispenser) error {
			h.Redis = new(ratelimit.Redis)
			if !d.NextArg() {
				return d.ArgErr()
			}
			h.Redis.URL = d.Val() // placeholders are kept, because they may stand for a password
			if err := h.Check(); err != nil {
				return d.WrapErr(err)
			}
			if d.NextArg() {
				return d.Err("redis: must have one URL") // the word may be a password
			}
			return redisWords(h.Redis).parse(d, "redis", "", h.Check)
		},
	}
}

func redisWords(r *ratelimit.Redis) words {
	return words{
		"timeout":  intoDuration(&r.Timeout, ratelimit.Ranges.Of("redis.timeout")),
		"on_error": intoString(&r.OnError),
		"secret":   intoSecret(&r.Secret),
	}
}

// zonesSeen is the key in the adapter's state of the zones of the Caddyfile.
const zonesSeen = "ballast.zones"

type seenZones struct {
	unnamed int
	named   map[string]seenPool
}

// checkZone names an unnamed limit by its position, and refuses limits with the same name and different settings. at is the token of the name.
func checkZone(helper httpcaddyfile.Helper, h *ratelimit.Handler, at caddyfile.Token) error {
	zones, ok := helper.State[zonesSeen].(*seenZones)
	if !ok {
		zones = &seenZones{named: make(map[string]seenPool)}
		helper.State[zonesSeen] = zones
	}
	if h.Zone == "" {
		// Named routes are adapted with a separate state.
		kind := "zone"
		if helper.IsNamedRoute() {
			kind = "route-zone"
		}
		zones.unnamed++
		h.Zone = fmt.Sprintf("%s-%d", kind, zones.unnamed)
	}
	settings, err := h.Identity()
	if err != nil {
		return err
	}
	where := fmt.Sprintf("%s:%d", at.File, at.Line)
	have, again := zones.named[h.Zone]
	if again && have.settings != settings {
		return fmt.Errorf("zone %s: is already the name of a limit with other settings, at %s; different limits need different names, at %s",
			h.Zone, have.where, where)
	}
	if !again {
		zones.named[h.Zone] = seenPool{settings, where}
	}
	return nil
}
