package caddyfile

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/ballastlb/ballast/lbmodule/config"
)

// in returns the range of a setting's number.
func in(setting string) bounds { return config.Ranges.Of(setting) }

// inAs is in for a setting with another name in the Caddyfile.
func inAs(setting, word string) bounds {
	r := config.Ranges.Of(setting)
	r.Setting = word
	return r
}

// block parses the block of a setting, or the word off. short is the suggestion for a number that is given in place of a block.
func block(d *caddyfile.Dispenser, off *bool, s *config.Settings, w words, short string) error {
	name := d.Val()
	var err error
	if *off, err = isOff(d); *off || err != nil {
		return err
	}
	if d.NextArg() {
		given := strings.Join(append([]string{d.Val()}, d.RemainingArgs()...), " ")
		word, _, _ := strings.Cut(given, " ")
		switch _, known := w[word]; {
		case known:
			return d.Errf("%s %s: its settings belong in a block; did you mean %s { %s }?", name, given, name, given)
		case isPort(given) && short != "":
			return d.Errf("%s %s: its settings belong in a block; did you mean %s", name, given, fmt.Sprintf(short, given))
		default:
			return d.Errf("%s %s: must be off, or have a block", name, given)
		}
	}
	return w.parse(d, name, "", s.CheckGiven)
}

// parseHealthCheck parses the block below. The kind of the check may also be given on the first line:
//
//	health_check [http ... | tcp | tls | grpc ...] {
//	    http <uri> [<status...>] | tcp | tls | grpc [<service>]
//	    interval      <duration>
//	    fast_interval <duration>
//	    timeout       <duration>
//	    rise          <number>
//	    fall          <number>
//	    initial       check|up|down
//
//	    port          <number>
//	    upstream      <address>
//	    transport     <name> { ... }
//
//	    # of http
//	    method        <method>
//	    header        <field> <value>     # may be repeated
//	    body          <text>
//	    expect_body   <regexp>
//	    max_size      <size>
//	    follow_redirects
//	}
func parseHealthCheck(d *caddyfile.Dispenser, s *config.Settings) error {
	c := new(config.HealthCheck)
	s.HealthCheck = c
	at := d.Token()
	w := healthCheckWords(c)
	if off, err := isOff(d); off || err != nil {
		c.Disabled = off
		return err
	}
	if d.NextArg() {
		switch kind := d.Val(); {
		case slices.Contains(config.CheckTypes, kind):
			if err := w[kind](d); err != nil {
				return err
			}
			if err := s.CheckGiven(); err != nil {
				return d.WrapErr(err)
			}
		case strings.HasPrefix(kind, "/"):
			return d.Errf("health_check %s: did you mean health_check http %s?", kind, kind)
		default:
			return d.Errf("health_check %s: must be http, tcp, tls or grpc, such as health_check http /; other settings belong in a block", kind)
		}
	}
	err := w.parse(d, "health_check", "", s.CheckGiven, "header")
	if err == nil && c.Type == "" && !c.Disabled {
		return errorAt(at, errors.New("health_check: must have one of http, tcp, tls and grpc, such as http /"))
	}
	return err
}

func healthCheckWords(c *config.HealthCheck) words {
	// probe returns a parser for the kind of the check, which is given once.
	probe := func(least, most int, take func(args []string)) func(*caddyfile.Dispenser) error {
		return func(d *caddyfile.Dispenser) error {
			if c.Type != "" {
				return d.Errf("health_check: %s: there is %s already; a backend has one check", d.Val(), c.Type)
			}
			c.Type = d.Val()
			values := d.RemainingArgs()
			if len(values) < least || len(values) > most {
				return d.ArgErr()
			}
			take(values)
			return nil
		}
	}
	const unbounded = 1 << 10
	return words{
		"http":          probe(1, unbounded, func(a []string) { c.URI, c.Status = a[0], a[1:] }),
		"tcp":           probe(0, 0, func([]string) {}),
		"tls":           probe(0, 0, func([]string) {}),
		"grpc":          probe(0, 1, func(a []string) { c.Service = append(a, "")[0] }),
		"interval":      intoDuration(&c.Interval, in("health_check.interval")),
		"fast_interval": intoDuration(&c.FastInterval, in("health_check.fast_interval")),
		"timeout":       intoDuration(&c.Timeout, in("health_check.timeout")),
		"rise":          intoInt(&c.Rise, in("health_check.rise")),
		"fall":          intoInt(&c.Fall, in("health_check.fall")),
		"initial":       intoString(&c.Initial),

		"port":     intoInt(&c.Port, in("health_check.port")),
		"upstream": intoString(&c.Upstream),
		"transport": func(d *caddyfile.Dispenser) error {
			if !d.NextArg() {
				return d.ArgErr()
			}
			name := d.Val()
			unmarshaled, err := caddyfile.UnmarshalModule(d, "http.reverse_proxy.transport."+name)
			if err != nil {
				return err
			}
			c.TransportRaw = caddyconfig.JSONModuleObject(unmarshaled, "protocol", name, nil)
			return nil
		},

		"method": intoString(&c.Method),
		"header": func(d *caddyfile.Dispenser) error {
			values := d.RemainingArgs()
			if len(values) != 2 {
				return d.ArgErr()
			}
			if c.Headers == nil {
				c.Headers = make(http.Header)
			}
			c.Headers.Add(values[0], values[1])
			return nil
		},
		"body":             intoString(&c.Body),
		"expect_body":      intoString(&c.ExpectBody),
		"max_size":         intoSize(&c.MaxSize, in("health_check.max_size")),
		"follow_redirects": flag(&c.FollowRedirects),
	}
}

func parseBreaker(d *caddyfile.Dispenser, s *config.Settings) error {
	b := new(config.Breaker)
	s.Breaker = b
	return block(d, &b.Disabled, s, breakerWords(b), "breaker { consecutive_failures %s }?")
}

func breakerWords(b *config.Breaker) words {
	return words{
		"consecutive_failures": intoInt(&b.ConsecutiveFailures, in("breaker.consecutive_failures")),
		"failure_ratio":        intoRatio(&b.FailureRatio, in("breaker.failure_ratio")),
		"slow_ratio": func(d *caddyfile.Dispenser) error {
			if off, err := isOff(d); off || err != nil {
				return err
			}
			values, err := args(d, 2)
			if err != nil {
				return err
			}
			b.SlowRatio = new(config.SlowRatio)
			if b.SlowRatio.Ratio, err = ratio(d, "slow_ratio", values[0], in("breaker.slow_ratio.ratio")); err != nil {
				return err
			}
			b.SlowRatio.Latency, err = duration(d, "slow_ratio", values[1], in("breaker.slow_ratio.latency"))
			return err
		},
		"window":       intoDuration(&b.Window, in("breaker.window")),
		"min_requests": intoInt(&b.MinRequests, in("breaker.min_requests")),
		"open": func(d *caddyfile.Dispenser) error {
			values, err := args(d, 2)
			if err != nil {
				return err
			}
			b.Open = new(config.OpenTime)
			if b.Open.First, err = duration(d, "open", values[0], in("breaker.open.first")); err != nil {
				return err
			}
			b.Open.Max, err = duration(d, "open", values[1], in("breaker.open.max"))
			return err
		},
		"probes": intoInt(&b.Probes, in("breaker.probes")),
		"failure_status": func(d *caddyfile.Dispenser) error {
			values := d.RemainingArgs()
			if len(values) == 0 {
				return d.ArgErr()
			}
			for _, v := range values {
				b.FailureStatus = append(b.FailureStatus, config.Status(v))
			}
			return nil
		},
		"max_ejected": intoRatio(&b.MaxEjected, in("breaker.max_ejected")),
		"dry_run":     flag(&b.DryRun),
	}
}

func parseRetry(d *caddyfile.Dispenser, s *config.Settings) error {
	r := new(config.Retry)
	s.Retry = r
	return block(d, &r.Disabled, s, retryWords(r), "retry { attempts %s }? attempts counts the first one, too")
}

func retryWords(r *config.Retry) words {
	return words{
		"attempts": intoInt(&r.Attempts, in("retry.attempts")),
		"on": func(d *caddyfile.Dispenser) error {
			if r.On = d.RemainingArgs(); len(r.On) == 0 {
				return d.ArgErr()
			}
			return nil
		},
		"backoff": func(d *caddyfile.Dispenser) error {
			values, err := args(d, 2)
			if err != nil {
				return err
			}
			r.Backoff = new(config.Backoff)
			if r.Backoff.Base, err = duration(d, "backoff", values[0], in("retry.backoff.base")); err != nil {
				return err
			}
			r.Backoff.Max, err = duration(d, "backoff", values[1], in("retry.backoff.max"))
			return err
		},
		"budget": func(d *caddyfile.Dispenser) error {
			values, err := args(d, 2)
			if err != nil {
				return err
			}
			share, err := ratio(d, "budget", values[0], in("retry.budget.ratio"))
			if err != nil {
				return err
			}
			rate, err := strconv.ParseFloat(values[1], 64)
			perSecond := in("retry.budget.per_second")
			if err != nil {
				return d.Errf("budget %s: must be a number of retries per second %s", values[1], perSecond)
			}
			if err := perSecond.Check(rate); err != nil {
				return d.WrapErr(err)
			}
			r.Budget = &config.RetryBudget{Ratio: &share, PerSecond: &rate}
			return nil
		},
		"try_timeout": func(d *caddyfile.Dispenser) error {
			off, err := isOff(d)
			if off || err != nil {
				r.TryTimeout = -1
				return err
			}
			return intoDuration(&r.TryTimeout, in("retry.try_timeout"))(d)
		},
		"non_idempotent":  flag(&r.NonIdempotent),
		"idempotency_key": flag(&r.IdempotencyKey),
		"body_limit":      intoSize(&r.BodyLimit, in("retry.body_limit")),
	}
}
