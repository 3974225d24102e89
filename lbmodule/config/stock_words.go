package config

import (
	"cmp"
	"fmt"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/ballastlb/ballast/caddyapp"
)

// CheckWith checks those settings of reverse_proxy that overlap with ours or that ours depend on.
func (s *Settings) CheckWith(rp *reverseproxy.Handler) error {
	if err := s.checkConflicts(rp); err != nil {
		return err
	}
	if s.NegativeTTL != nil && rp.DynamicUpstreamsRaw == nil {
		return fmt.Errorf("negative_ttl %v: needs a dynamic source", display(*s.NegativeTTL))
	}
	if s.MaxFailRatio > 0 && (rp.HealthChecks == nil || rp.HealthChecks.Passive == nil || rp.HealthChecks.Passive.FailDuration <= 0) {
		return &caddyapp.WordError{
			Err:     fmt.Errorf("max_fail_ratio %s: needs fail_duration, the time over which requests are counted", Percent(s.MaxFailRatio)),
			Words:   []string{"max_fails"},
			Setting: "max_fail_ratio",
		}
	}
	return checkStock(rp.HealthChecks)
}

// checkConflicts checks that nothing is set both in reverse_proxy's settings and in ours.
func (s *Settings) checkConflicts(rp *reverseproxy.Handler) error {
	if s.HealthCheck != nil && rp.HealthChecks != nil && rp.HealthChecks.Active != nil {
		err := fmt.Errorf("health_check: must not be combined with health_uri and similar settings; use one or the other")
		return caddyapp.About(err, append([]string{"health_check"}, stockActiveWords...)...)
	}
	if word := StockRetryWord(rp.LoadBalancing); word != "" && s.Retry != nil {
		return caddyapp.About(fmt.Errorf("retry: %s must not be given as well; use one or the other", word), "retry", word)
	}
	return nil
}

// StockRetryWord returns the first of reverse_proxy's retry settings that is set, "" if none is.
func StockRetryWord(lb *reverseproxy.LoadBalancing) string {
	switch {
	case lb == nil:
		return ""
	case lb.Retries != 0:
		return "lb_retries"
	case lb.TryDuration != 0:
		return "lb_try_duration"
	case lb.TryInterval != 0:
		return "lb_try_interval"
	case len(lb.RetryMatchRaw) > 0:
		return "lb_retry_match"
	default:
		return ""
	}
}

// StockHealthCheck returns the check that reverse_proxy's settings describe, with reverse_proxy's defaults; nil if they describe none.
func StockHealthCheck(checks *reverseproxy.HealthChecks) *HealthCheck {
	if checks == nil || checks.Active == nil || !checks.Active.IsEnabled() {
		return nil
	}
	a := checks.Active
	c := &HealthCheck{
		URI: a.URI, Method: a.Method, Headers: a.Headers, Body: a.Body, ExpectBody: a.ExpectBody, MaxSize: max(a.MaxSize, 0),
		FollowRedirects: a.FollowRedirects, Port: a.Port, Upstream: a.Upstream,
		Interval: a.Interval, Timeout: a.Timeout, Rise: max(a.Passes, 1), Fall: max(a.Fails, 1),
	}
	if c.URI == "" {
		c.URI = a.Path //nolint:staticcheck // deprecated, but still works in reverse_proxy
	}
	switch status := a.ExpectStatus; {
	case status >= 100:
		c.Status = []string{strconv.Itoa(status)}
	case status > 0:
		c.Status = []string{strconv.Itoa(status) + "xx"}
	}
	if c.Interval == 0 {
		c.Interval = caddy.Duration(30 * time.Second)
	}
	if c.Timeout == 0 {
		c.Timeout = min(caddy.Duration(5*time.Second), c.Interval/5*4)
	}
	return c
}

// checkStock checks reverse_proxy's health checks as reverse_proxy does, and that they can be made.
func checkStock(checks *reverseproxy.HealthChecks) error {
	if checks == nil {
		return nil
	}
	if p := checks.Passive; p != nil {
		if err := cmp.Or(
			caddyapp.About(atLeast("fail_duration", p.FailDuration, 0), "fail_duration"),
			caddyapp.About(atLeast("max_fails", p.MaxFails, 0), "max_fails"),
			caddyapp.About(atLeast("unhealthy_request_count", p.UnhealthyRequestCount, 0), "unhealthy_request_count"),
			caddyapp.About(atLeast("unhealthy_latency", p.UnhealthyLatency, 0), "unhealthy_latency"),
		); err != nil {
			return err
		}
	}
	return checkStockActive(checks)
}

// checkStockActive checks reverse_proxy's active checks. If a single setting is wrong, the error names it.
func checkStockActive(checks *reverseproxy.HealthChecks) error {
	all := StockHealthCheck(checks)
	if err := all.check(); err != nil {
		for _, alone := range []struct {
			check HealthCheck
			word  string
		}{
			{HealthCheck{URI: all.URI}, "health_uri"},
			{HealthCheck{Method: all.Method}, "health_method"},
			{HealthCheck{Headers: all.Headers}, "health_headers"},
			{HealthCheck{Status: all.Status}, "health_status"},
			{HealthCheck{ExpectBody: all.ExpectBody}, "health_body"},
			{HealthCheck{Port: all.Port}, "health_port"},
			{HealthCheck{Upstream: all.Upstream}, "health_upstream"},
			{HealthCheck{Interval: all.Interval}, "health_interval"},
			{HealthCheck{Timeout: all.Timeout}, "health_timeout"},
			{HealthCheck{Rise: all.Rise}, "health_passes"},
			{HealthCheck{Fall: all.Fall}, "health_fails"},
		} {
			if err := alone.check.check(); err != nil {
				return caddyapp.About(err, alone.word)
			}
		}
		return caddyapp.About(err, stockActiveWords...)
	}
	return nil
}

// stockActiveWords are the settings that enable reverse_proxy's active health checks.
var stockActiveWords = []string{
	"health_uri", "health_path", "health_port", "health_upstream", "health_interval", "health_timeout", "health_status", "health_body",
	"health_passes", "health_fails", "health_headers", "health_method", "health_request_body", "health_follow_redirects",
}
