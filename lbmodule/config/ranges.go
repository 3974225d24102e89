package config

import (
	"time"

	"github.com/ballastlb/ballast/caddyapp"
	"github.com/ballastlb/ballast/lbmodule/balance"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

const (
	year = 365 * 24 * time.Hour

	// MaxBackends is the maximum number of backends in a config, and the size of a pool from which the API adds none.
	MaxBackends = 16384

	maxSubset = 65536
)

// Ranges are the permitted values of numeric settings. The minimum is the smallest value with an effect, the maximum the largest that is
// useful and harmless. A setting that is left out has its default. The tables in docs/ list the same ranges, and a test compares them.
// Settings that reverse_proxy has as well have its ranges.
var Ranges = caddyapp.Ranges{
	caddyapp.Number("backends.weight", 0, balance.MaxWeight),
	caddyapp.Number("backends.max_requests", 1, 10_000_000),
	caddyapp.Number("backends.backup", 1, pool.MaxBackup),

	caddyapp.Duration("changes.for", time.Second, 10*year), // of the API

	caddyapp.Number("max_requests", 1, 10_000_000),
	caddyapp.Duration("slow_start", time.Millisecond, 24*time.Hour),
	caddyapp.Percent("panic_threshold", 0, 100),
	caddyapp.Percent("max_fail_ratio", 0.1, 100),
	caddyapp.Duration("hold", time.Millisecond, time.Minute),
	caddyapp.Duration("negative_ttl", 0, time.Hour),
	caddyapp.Duration("drain_timeout", time.Millisecond, year),
	caddyapp.Number("queue.size", 1, 1_000_000),
	caddyapp.Duration("queue.timeout", time.Millisecond, time.Hour),
	caddyapp.Percent("hedge.percentile", 1, 99.99),
	caddyapp.Percent("hedge.max_extra", 0.1, 100),
	caddyapp.Number("subset.size", 1, maxSubset),
	caddyapp.Number("subset.peer", 0, maxSubset-1),
	caddyapp.Number("subset.peers", 1, maxSubset),
	caddyapp.Percent("mirror.share", 0.01, 100),
	caddyapp.Duration("mirror.timeout", time.Millisecond, time.Minute),
	caddyapp.Number("mirror.max_requests", 1, 10_000),
	caddyapp.Percent("canary.share", 0.01, 100),
	caddyapp.Percent("canary.steps.share", 0.02, 100),
	caddyapp.Duration("canary.steps.after", time.Second, year),
	caddyapp.Percent("canary.guard.more_errors", 1, 1000),
	caddyapp.Percent("canary.guard.slower", 5, 1000),

	caddyapp.Duration("health_check.interval", 10*time.Millisecond, 24*time.Hour),
	caddyapp.Duration("health_check.fast_interval", 10*time.Millisecond, 24*time.Hour),
	caddyapp.Duration("health_check.timeout", time.Millisecond, time.Hour),
	caddyapp.Number("health_check.rise", 1, 1000),
	caddyapp.Number("health_check.fall", 1, 1000),
	caddyapp.Number("health_check.port", 1, 65535),
	caddyapp.Size("health_check.max_size", 1, 1<<30),

	caddyapp.Number("breaker.consecutive_failures", 1, 1_000_000),
	caddyapp.Percent("breaker.failure_ratio", 0.1, 100),
	caddyapp.Percent("breaker.slow_ratio.ratio", 0.1, 100),
	caddyapp.Duration("breaker.slow_ratio.latency", time.Millisecond, time.Hour),
	caddyapp.Duration("breaker.window", 10*time.Millisecond, 24*time.Hour),
	caddyapp.Number("breaker.min_requests", 1, 1_000_000),
	caddyapp.Duration("breaker.open.first", 10*time.Millisecond, 24*time.Hour),
	caddyapp.Duration("breaker.open.max", 10*time.Millisecond, 24*time.Hour),
	caddyapp.Number("breaker.probes", 1, 10_000),
	caddyapp.Percent("breaker.max_ejected", 0.1, 100),

	caddyapp.Number("retry.attempts", 1, 100),
	caddyapp.Duration("retry.backoff.base", time.Millisecond, time.Minute),
	caddyapp.Duration("retry.backoff.max", time.Millisecond, time.Hour),
	caddyapp.Percent("retry.budget.ratio", 0, 100),
	caddyapp.Number("retry.budget.per_second", 0, 1_000_000),
	caddyapp.Duration("retry.try_timeout", time.Millisecond, 24*time.Hour).OrOff(),
	caddyapp.Size("retry.body_limit", 1, 1<<30),

	caddyapp.Percent("lb_policy hash.bounded_load", 101, 10_000),
	caddyapp.Duration("lb_policy sticky.max_age", time.Second, 10*year),
	caddyapp.Number("lb_policy p2c.choose", 2, MaxBackends),

	caddyapp.Duration("dynamic http.interval", time.Second, time.Hour),
}

// InRange checks a required setting.
func InRange[T ~int | ~int64 | ~float64](setting string, value T) error {
	return Ranges.Of(setting).Check(float64(value))
}
