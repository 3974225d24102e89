package lbmodule

import (
	"fmt"
	"net/http"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"golang.org/x/net/http/httpguts"
)

// Check checks the range of every setting.
func (s *Settings) Check() error {
	for _, check := range []func() error{
		s.checkScalars, s.SlowStart.check, s.Queue.check, s.Hedge.check, s.DebugHeader.check, s.HealthCheck.check,
		s.Breaker.check, s.Retry.check,
	} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (s *Settings) checkScalars() error {
	if s.PreferZone != "" {
		if err := ValidateName(s.PreferZone); err != nil {
			return fmt.Errorf("prefer_zone %q: %w", s.PreferZone, err)
		}
	}
	if ttl := s.NegativeTTL; ttl != nil && (*ttl < 0 || time.Duration(*ttl) > maxNegativeTTL) {
		return fmt.Errorf("negative_ttl %v: must be a duration from 0s to 1h", display(*ttl))
	}
	return first(
		ratio("panic_threshold", s.PanicThreshold),
		ratio("max_fails", s.MaxFailRatio),
		atLeast("drain_timeout", s.DrainTimeout, 0),
	)
}

func (s *SlowStart) check() error {
	if s == nil || s.Disabled {
		return nil
	}
	return positive("slow_start", s.Window)
}

func (q *Queue) check() error {
	if q == nil || q.Disabled {
		return nil
	}
	return first(
		atLeast("queue: size", q.Size, 1),
		positive("queue: timeout", q.Timeout),
	)
}

func (h *Hedge) check() error {
	if h == nil || h.Disabled {
		return nil
	}
	if h.Percentile <= 0 || h.Percentile >= 1 {
		return fmt.Errorf("hedge: percentile %s: must be between 0%% and 100%%", percent(h.Percentile))
	}
	if h.MaxExtra == 0 {
		return fmt.Errorf("hedge: max_extra 0%%: must be more than 0%%")
	}
	return ratio("hedge: max_extra", h.MaxExtra)
}

// reservedHeaders are response fields without which, or with another value, an answer is another one.
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
		return fmt.Errorf("debug_header %s: must not be a field that says something else", h.Name)
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

func (b *Breaker) check() error {
	if b == nil || b.Disabled {
		return nil
	}
	for _, status := range b.FailureStatus {
		if err := statusCode("breaker: failure_status", strconv.Itoa(status)); err != nil {
			return err
		}
	}
	if s := b.SlowRatio; s != nil {
		if err := first(ratio("breaker: slow_ratio", s.Ratio), positive("breaker: slow_ratio", s.Latency)); err != nil {
			return err
		}
	}
	if o := b.Open; o != nil {
		if err := first(positive("breaker: open", o.First), atLeast("breaker: open: second value", o.Max, o.First)); err != nil {
			return err
		}
	}
	return first(
		atLeast("breaker: consecutive_failures", b.ConsecutiveFailures, 0),
		ratio("breaker: failure_ratio", b.FailureRatio),
		atLeast("breaker: window", b.Window, 0),
		atLeast("breaker: min_requests", b.MinRequests, 0),
		atLeast("breaker: probes", b.Probes, 0),
		ratio("breaker: max_ejected", b.MaxEjected),
	)
}

func (r *Retry) check() error {
	if r == nil || r.Disabled {
		return nil
	}
	for _, on := range r.On {
		if slices.Contains([]string{"connect", "reset", "timeout"}, on) {
			continue
		}
		if statusCode("", on) != nil {
			return fmt.Errorf("retry: on %s: must be connect, reset, timeout or a status from 100 to 599", on)
		}
	}
	if b := r.Backoff; b != nil {
		if err := first(positive("retry: backoff", b.Base), atLeast("retry: backoff: second value", b.Max, b.Base)); err != nil {
			return err
		}
	}
	if b := r.Budget; b != nil {
		if err := first(ratio("retry: budget", b.Ratio), atLeast("retry: budget: second value", b.PerSecond, 0)); err != nil {
			return err
		}
	}
	return first(
		atLeast("retry: attempts", r.Attempts, 0),
		atLeast("retry: body_limit", r.BodyLimit, 0),
	)
}

// first returns the first error there is.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func ratio(field string, value float64) error {
	if value < 0 || value > 1 {
		return fmt.Errorf("%s %s: must be from 0%% to 100%%", field, percent(value))
	}
	return nil
}

func percent(ratio float64) string {
	return strconv.FormatFloat(ratio*100, 'f', -1, 64) + "%"
}

func positive(field string, value caddy.Duration) error {
	if value <= 0 {
		return fmt.Errorf("%s %v: must be more than 0", field, display(value))
	}
	return nil
}

func atLeast[T int | int64 | float64 | caddy.Duration](field string, value, least T) error {
	if value < least {
		return fmt.Errorf("%s %v: must be at least %v", field, display(value), display(least))
	}
	return nil
}

func statusCode(field, value string) error {
	if code, err := strconv.Atoi(value); err != nil || code < 100 || code > 599 {
		return fmt.Errorf("%s %s: must be a status from 100 to 599", field, value)
	}
	return nil
}

// display makes a value readable: durations with units, and what pointers point to.
func display(value any) any {
	if d, ok := value.(caddy.Duration); ok {
		return time.Duration(d)
	}
	v := reflect.ValueOf(value)
	if v.Kind() != reflect.Pointer || v.IsNil() {
		return value
	}
	var parts []string
	for i := range v.Elem().NumField() {
		parts = append(parts, fmt.Sprint(display(v.Elem().Field(i).Interface())))
	}
	return strings.Join(parts, " ")
}
