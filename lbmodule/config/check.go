package config

import (
	"cmp"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2"
	"golang.org/x/net/http/httpguts"
)

// Check checks all settings.
func (s *Settings) Check() error {
	if err := s.CheckGiven(); err != nil {
		return err
	}
	return s.HealthCheck.checkWhole()
}

// CheckGiven is Check for settings that are not complete yet: it reports only errors that later settings cannot correct.
func (s *Settings) CheckGiven() error {
	if err := Ranges.Check("", s); err != nil {
		return err
	}
	for _, check := range []func() error{
		s.checkScalars, s.SlowStart.check, s.Hold.check, s.Queue.check, s.Hedge.check, s.Subset.check, s.Mirror.check, s.Canary.check, s.DebugHeader.check,
		s.HealthCheck.check, s.Breaker.Check, s.Retry.check,
	} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

// ResolveZone replaces placeholders in prefer_zone. unset is the configured text if it is empty after that.
func (s *Settings) ResolveZone() (unset string, err error) {
	given := s.PreferZone
	if s.PreferZone = caddy.NewReplacer().ReplaceKnown(given, ""); s.PreferZone == "" {
		return given, nil
	}
	if err := ValidateName(s.PreferZone); err != nil {
		return "", fmt.Errorf("prefer_zone %q: %w", s.PreferZone, err)
	}
	return "", nil
}

func (s *Settings) checkScalars() error {
	if s.PreferZone != "" && !IsTemplate(s.PreferZone) {
		if err := ValidateName(s.PreferZone); err != nil {
			return fmt.Errorf("prefer_zone %q: %w", s.PreferZone, err)
		}
	}
	return nil
}

func (s *SlowStart) check() error {
	if s == nil || s.Disabled {
		return nil
	}
	return InRange("slow_start", s.Window)
}

func (h *Hold) check() error {
	if h == nil || h.Disabled {
		return nil
	}
	return InRange("hold", h.Age)
}

func (q *Queue) check() error {
	if q == nil || q.Disabled {
		return nil
	}
	return cmp.Or(
		InRange("queue.size", q.Size),
		InRange("queue.timeout", q.Timeout),
	)
}

func (h *Hedge) check() error {
	if h == nil || h.Disabled {
		return nil
	}
	return cmp.Or(
		InRange("hedge.percentile", h.Percentile),
		InRange("hedge.max_extra", h.MaxExtra),
	)
}

// reservedHeaders are response fields that the debug header must not replace, because that would change the meaning of the answer.
var reservedHeaders = []string{
	"Connection", "Content-Encoding", "Content-Length", "Content-Type", "Location", "Set-Cookie", "Trailer", "Transfer-Encoding", "Upgrade",
}

func (h *DebugHeader) check() error {
	if h == nil || h.Disabled {
		return nil
	}
	if !httpguts.ValidHeaderFieldName(h.Name) {
		return fmt.Errorf("debug_header %q: must be the name of a header field", h.Name)
	}
	if slices.Contains(reservedHeaders, http.CanonicalHeaderKey(h.Name)) {
		return fmt.Errorf("debug_header %s: must not be a field with another meaning", h.Name)
	}
	if len(h.Ranges) == 0 {
		return fmt.Errorf("debug_header %s: must be followed by the ranges of clients that may see it", h.Name)
	}
	for _, r := range h.Ranges {
		if _, err := netip.ParsePrefix(r); err == nil {
			continue
		}
		if _, err := netip.ParseAddr(r); err != nil {
			return fmt.Errorf("debug_header %s: range %q: must be an address or a CIDR range", h.Name, r)
		}
	}
	return nil
}

// Check checks the settings that the ranges of single numbers do not cover.
func (b *Breaker) Check() error {
	if b == nil || b.Disabled {
		return nil
	}
	for _, status := range b.FailureStatus {
		if err := checkStatus("breaker: failure_status", string(status), ""); err != nil {
			return err
		}
	}
	if s := b.SlowRatio; s != nil {
		if err := cmp.Or(InRange("breaker.slow_ratio.ratio", s.Ratio), InRange("breaker.slow_ratio.latency", s.Latency)); err != nil {
			return err
		}
	}
	if o := b.Open; o != nil {
		return cmp.Or(InRange("breaker.open.first", o.First), notBelow("breaker: open: max", o.Max, "first", o.First))
	}
	return nil
}

func (r *Retry) check() error {
	if r == nil || r.Disabled {
		return nil
	}
	for _, on := range r.On {
		if slices.Contains([]string{"connect", "reset", "timeout"}, on) {
			continue
		}
		if err := checkStatus("retry: on", on, "connect, reset, timeout, "); err != nil {
			return err
		}
	}
	if b := r.Backoff; b != nil {
		return cmp.Or(InRange("retry.backoff.base", b.Base), notBelow("retry: backoff: max", b.Max, "base", b.Base))
	}
	return nil
}

// Percent formats a share as a percentage.
func Percent(ratio float64) string {
	return strconv.FormatFloat(ratio*100, 'f', -1, 64) + "%"
}

func atLeast[T int | int64 | caddy.Duration](field string, value, least T) error {
	if value < least {
		return fmt.Errorf("%s %v: must be at least %v", field, display(value), display(least))
	}
	return nil
}

// notBelow checks that a setting is not less than another one.
func notBelow(field string, value caddy.Duration, other string, least caddy.Duration) error {
	if value < least {
		return fmt.Errorf("%s %v: must be at least %s, which is %v", field, display(value), other, display(least))
	}
	return nil
}

// display formats a value for people: durations with units.
func display(value any) any {
	if d, ok := value.(caddy.Duration); ok {
		return time.Duration(d)
	}
	return value
}
