package caddyfile

import (
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/ballastlb/ballast/lbmodule/config"
)

// parseCanary parses
//
//	canary <backends or zones...> <share> {
//	    by    client_ip | header <name> | cookie <name>
//	    step  <share> <duration>            # may be repeated
//	    guard off | {
//	        errors      on|off
//	        latency     on|off
//	        more_errors <percentage>
//	        slower      <percentage>
//	    }
//	}
func parseCanary(d *caddyfile.Dispenser, s *config.Settings) error {
	at := d.Token()
	c := new(config.Canary)
	s.Canary = c
	values := d.RemainingArgs()
	if len(values) == 0 {
		return d.ArgErr()
	}
	environment := caddy.NewReplacer()
	for i := range values {
		values[i] = environment.ReplaceKnown(values[i], "")
	}
	last := len(values) - 1
	if !strings.HasSuffix(values[last], "%") {
		return d.Errf("canary: share: missing; after the backends there must be a percentage %s", in("canary.share"))
	}
	var err error
	if c.Share, err = ratio(d, "canary", values[last], in("canary.share")); err != nil {
		return err
	}
	c.Backends = values[:last]
	if err := s.CheckGiven(); err != nil {
		return errorAt(at, err)
	}
	return canaryWords(c, s).parse(d, "canary", "", s.CheckGiven, "step")
}

func canaryWords(c *config.Canary, s *config.Settings) words {
	return words{
		"by": func(d *caddyfile.Dispenser) error {
			values := d.RemainingArgs()
			if len(values) < 1 || len(values) > 2 {
				return d.ArgErr()
			}
			if c.By = values[0]; len(values) > 1 {
				c.Name = values[1]
			}
			return nil
		},
		"step": func(d *caddyfile.Dispenser) error {
			values, err := args(d, 2)
			if err != nil {
				return err
			}
			var step config.CanaryStep
			if step.Share, err = ratio(d, "step", values[0], in("canary.steps.share")); err != nil {
				return err
			}
			if step.After, err = duration(d, "step", values[1], in("canary.steps.after")); err != nil {
				return err
			}
			c.Steps = append(c.Steps, step)
			return nil
		},
		"guard": func(d *caddyfile.Dispenser) error {
			c.Guard = new(config.CanaryGuard)
			return block(d, &c.Guard.Disabled, s, guardWords(c.Guard), "")
		},
	}
}

func guardWords(g *config.CanaryGuard) words {
	return words{
		"errors":      intoSwitch(&g.Errors),
		"latency":     intoSwitch(&g.Latency),
		"more_errors": intoRatio(&g.MoreErrors, in("canary.guard.more_errors")),
		"slower":      intoRatio(&g.Slower, in("canary.guard.slower")),
	}
}

// intoSwitch is for settings that are on or off.
func intoSwitch(target **bool) func(*caddyfile.Dispenser) error {
	return func(d *caddyfile.Dispenser) error {
		word := d.Val()
		values, err := args(d, 1)
		if err != nil {
			return err
		}
		if values[0] != "on" && values[0] != "off" {
			return d.Errf("%s %s: must be on or off", word, values[0])
		}
		*target = new(values[0] == "on")
		return nil
	}
}
