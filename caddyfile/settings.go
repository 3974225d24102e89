package caddyfile

import (
	"strconv"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/ballastlb/ballast/lbmodule/config"
)

// settingParsers parse the subdirectives of [config.Settings].
var settingParsers = map[string]func(*caddyfile.Dispenser, *config.Settings) error{
	"slow_start":      parseSlowStart,
	"panic_threshold": parsePanicThreshold,
	"hold":            parseHold,
	"max_requests":    parseMaxRequests,
	"queue":           parseQueue,
	"hedge":           parseHedge,
	"prefer_zone":     parsePreferZone,
	"subset":          parseSubset,
	"mirror":          parseMirror,
	"canary":          parseCanary,
	"negative_ttl":    parseNegativeTTL,
	"drain_timeout":   parseDrainTimeout,
	"drain_sticky":    parseDrainSticky,
	"debug_header":    parseDebugHeader,
	"health_check":    parseHealthCheck,
	"breaker":         parseBreaker,
	"retry":           parseRetry,
}

// isOff reports whether the only argument of the current word is `off`. Otherwise it does not move d.
func isOff(d *caddyfile.Dispenser) (bool, error) {
	if !d.NextArg() {
		return false, nil
	}
	if d.Val() != "off" {
		d.Prev()
		return false, nil
	}
	if d.NextArg() {
		return false, d.ArgErr()
	}
	return true, nil
}

func parseSlowStart(d *caddyfile.Dispenser, s *config.Settings) error {
	s.SlowStart = new(config.SlowStart)
	off, err := isOff(d)
	if off || err != nil {
		s.SlowStart.Disabled = off
		return err
	}
	return intoDuration(&s.SlowStart.Window, in("slow_start"))(d)
}

func parseHold(d *caddyfile.Dispenser, s *config.Settings) error {
	s.Hold = new(config.Hold)
	off, err := isOff(d)
	if off || err != nil {
		s.Hold.Disabled = off
		return err
	}
	return intoDuration(&s.Hold.Age, in("hold"))(d)
}

func parsePanicThreshold(d *caddyfile.Dispenser, s *config.Settings) error {
	values, err := args(d, 1)
	if err != nil {
		return err
	}
	s.PanicThreshold, err = ratio(d, "panic_threshold", values[0], in("panic_threshold"))
	return err
}

func parseMaxRequests(d *caddyfile.Dispenser, s *config.Settings) error {
	return intoMaxRequests(&s.MaxRequests, "")(d)
}

func parseQueue(d *caddyfile.Dispenser, s *config.Settings) error {
	s.Queue = new(config.Queue)
	off, err := isOff(d)
	if off || err != nil {
		s.Queue.Disabled = off
		return err
	}
	values, err := pair(d, "how many requests may wait, and for how long, such as queue 100 5s")
	if err != nil {
		return err
	}
	if s.Queue.Size, err = strconv.Atoi(values[0]); err != nil {
		return d.Errf("queue %s: must be a whole number %s", values[0], in("queue.size"))
	}
	s.Queue.Timeout, err = duration(d, "queue", values[1], in("queue.timeout"))
	return err
}

func parseHedge(d *caddyfile.Dispenser, s *config.Settings) error {
	s.Hedge = new(config.Hedge)
	off, err := isOff(d)
	if off || err != nil {
		s.Hedge.Disabled = off
		return err
	}
	values, err := pair(d, "after which share of the answers a copy is sent, and how many copies at most, such as hedge 95% 2%")
	if err != nil {
		return err
	}
	if s.Hedge.Percentile, err = ratio(d, "hedge", values[0], in("hedge.percentile")); err != nil {
		return err
	}
	s.Hedge.MaxExtra, err = ratio(d, "hedge", values[1], in("hedge.max_extra"))
	return err
}

// parseSubset parses
//
//	subset <size> {
//	    peer <number> of <balancers>
//	}
func parseSubset(d *caddyfile.Dispenser, s *config.Settings) error {
	s.Subset = new(config.Subset)
	if err := intoInt(&s.Subset.Size, inAs("subset.size", "subset"))(d); err != nil {
		return err
	}
	return subsetWords(s.Subset).parse(d, "subset", "", s.CheckGiven)
}

func subsetWords(s *config.Subset) words {
	return words{"peer": func(d *caddyfile.Dispenser) error {
		values := d.RemainingArgs()
		if len(values) != 3 || values[1] != "of" {
			return d.Err("subset: peer: must be a number and how many there are, such as peer 3 of 100")
		}
		// Placeholders are not replaced here: one adapted config may be for the whole fleet.
		var err error
		if s.Peer, err = config.NewNumber(values[0]); err != nil {
			return d.Errf("subset: peer %s: %v", values[0], err)
		}
		if s.Peers, err = config.NewNumber(values[2]); err != nil {
			return d.Errf("subset: peer: of %s: %v", values[2], err)
		}
		return nil
	}}
}

func parsePreferZone(d *caddyfile.Dispenser, s *config.Settings) error {
	return intoTemplate(&s.PreferZone)(d) // one adapted config may be for the whole fleet
}

func parseNegativeTTL(d *caddyfile.Dispenser, s *config.Settings) error {
	values, err := args(d, 1)
	if err != nil {
		return err
	}
	ttl, err := duration(d, "negative_ttl", values[0], in("negative_ttl"))
	s.NegativeTTL = &ttl
	return err
}

func parseDrainTimeout(d *caddyfile.Dispenser, s *config.Settings) error {
	off, err := isOff(d)
	if off || err != nil {
		return err // never is the default
	}
	return intoDuration(&s.DrainTimeout, in("drain_timeout"))(d)
}

func parseDrainSticky(d *caddyfile.Dispenser, s *config.Settings) error {
	s.DrainSticky = new(config.DrainSticky)
	off, err := isOff(d)
	if err != nil {
		return err
	}
	if s.DrainSticky.Disabled = off; d.NextArg() {
		return d.Errf("drain_sticky %s: must be off, or have no argument", d.Val())
	}
	return nil
}

func parseDebugHeader(d *caddyfile.Dispenser, s *config.Settings) error {
	s.DebugHeader = new(config.DebugHeader)
	off, err := isOff(d)
	if off || err != nil {
		s.DebugHeader.Disabled = off
		return err
	}
	values := d.RemainingArgs()
	if len(values) < 2 {
		return d.ArgErr()
	}
	s.DebugHeader.Name, s.DebugHeader.Ranges = values[0], ranges(values[1:])
	return nil
}
