package config

import (
	"encoding/json"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// Settings are the settings that a load balancer has in addition to those of `reverse_proxy`.
type Settings struct {
	// The time in which the share of a backend rises from 10 % to 100 % after it joined the pool or recovered. A duration, or `{"disabled":
	// true}`. The backends of a new pool are not ramped up. Default: 10s; if the backend was away for less, that time, but at least 5s.
	SlowStart *SlowStart `json:"slow_start,omitempty"`

	// The share of usable backends, 0 to 1, below which all backends are used that are not dead, regardless of their checks. A backend is
	// dead while no connection to it can be made. Default: 0, only when no backend is usable.
	PanicThreshold float64 `json:"panic_threshold,omitempty"`

	// How long requests of any method wait when all backends are dead. They wait until a connection to one can be made again, or until
	// the outage is older than this; then the answer is 503. A duration from 1ms to 1m, or `{"disabled": true}`. At most 10,000 requests
	// of a pool wait. If `load_balancing.try_duration` is set, it limits the wait and this is ignored. Default: 2s.
	Hold *Hold `json:"hold,omitempty"`

	// The `max_requests` of backends without their own: a number, or `auto`. Default: no limit.
	MaxRequests MaxRequests `json:"max_requests,omitempty"`

	// Lets requests wait for a free slot while all usable backends are at their max_requests. The requests of one client are served in
	// order, the clients in turn. Default: off, such requests are answered 503; with a max_requests of `auto`, 1000 requests wait for 1s.
	Queue *Queue `json:"queue,omitempty"`

	// Sends a second copy of an idempotent request without a body to another backend when the first does not answer within the time that
	// most requests take. Copies also use up the retry budget. Default: off.
	Hedge *Hedge `json:"hedge,omitempty"`

	// The preferred zone: its backends get all requests while at least 1/1.4 of their weight is usable, and proportionally fewer below
	// that. Default: none.
	PreferZone string `json:"prefer_zone,omitempty"`

	// Makes this balancer of a fleet use only some of the backends. Default: all are used.
	Subset *Subset `json:"subset,omitempty"`

	// A selection policy that decides about the same requests as the one of `load_balancing`, without any effect, for evaluation before it
	// is used: one of ours that keeps no sessions. Default: none.
	ShadowPolicyRaw json.RawMessage `json:"shadow_policy,omitempty" caddy:"namespace=http.reverse_proxy.selection_policies inline_key=policy"`

	// Sends copies of requests to other systems and discards their answers. Default: none.
	Mirror *Mirror `json:"mirror,omitempty"`

	// Gives a share of the clients to some of the backends, such as those with a new version. Default: none.
	Canary *Canary `json:"canary,omitempty"`

	// The time after which a draining backend's open requests are closed. Default: never.
	DrainTimeout caddy.Duration `json:"drain_timeout,omitempty"`

	// Whether requests of sticky sessions still go to their backend while it drains. Default: they do.
	DrainSticky *DrainSticky `json:"drain_sticky,omitempty"`

	// How long the backends of a dynamic source are kept after the name server has answered that the name has none, from 0 to 1h. While
	// the name server does not answer, or fails, they are kept without limit. Default: 30s.
	NegativeTTL *caddy.Duration `json:"negative_ttl,omitempty"`

	// A response header that explains the choice. Default: off.
	DebugHeader *DebugHeader `json:"debug_header,omitempty"`

	// Active health checks; cannot be combined with `health_checks.active`. Default: none.
	HealthCheck *HealthCheck `json:"health_check,omitempty"`

	// The share of failed requests, 0 to 1, from which on passive checks mark a backend as unhealthy, in addition to
	// `health_checks.passive.max_fails` or instead of it. It is measured over `fail_duration` and applies from 20 requests on. Default:
	// none.
	MaxFailRatio float64 `json:"max_fail_ratio,omitempty"`

	// The circuit breaker of each backend. Default: on, with the defaults of its settings.
	Breaker *Breaker `json:"breaker,omitempty"`

	// Retries of failed attempts. Default: on, with the defaults of its settings.
	Retry *Retry `json:"retry,omitempty"`
}

// SlowStart is how long a backend is ramped up after it joined or recovered.
type SlowStart struct {
	Disabled bool
	Window   caddy.Duration
}

// MarshalJSON writes the duration or `{"disabled": true}`.
func (s SlowStart) MarshalJSON() ([]byte, error) { return marshalDuration(s.Disabled, s.Window) }

// UnmarshalJSON reads what MarshalJSON writes, or a duration as a string.
func (s *SlowStart) UnmarshalJSON(text []byte) error {
	return unmarshalDuration(text, &s.Disabled, &s.Window)
}

// Hold is how long requests wait when all backends are dead.
type Hold struct {
	Disabled bool
	Age      caddy.Duration
}

// MarshalJSON writes the duration or `{"disabled": true}`.
func (h Hold) MarshalJSON() ([]byte, error) { return marshalDuration(h.Disabled, h.Age) }

// UnmarshalJSON reads what MarshalJSON writes, or a duration as a string.
func (h *Hold) UnmarshalJSON(text []byte) error {
	return unmarshalDuration(text, &h.Disabled, &h.Age)
}

// marshalDuration writes a setting that is either a duration or disabled.
func marshalDuration(disabled bool, d caddy.Duration) ([]byte, error) {
	if disabled {
		return []byte(`{"disabled":true}`), nil
	}
	return json.Marshal(d)
}

// unmarshalDuration reads what marshalDuration writes.
func unmarshalDuration(text []byte, disabled *bool, d *caddy.Duration) error {
	if len(text) > 0 && text[0] == '{' {
		var object struct {
			Disabled bool `json:"disabled"`
		}
		if err := caddy.StrictUnmarshalJSON(text, &object); err != nil {
			return err
		}
		*disabled = object.Disabled
		return nil
	}
	return json.Unmarshal(text, d)
}

// Queue lets requests wait while all usable backends are at their max_requests.
type Queue struct {
	// Switches the queue off, as it is without any settings.
	Disabled bool `json:"disabled,omitempty"`

	// How many requests may wait. Required.
	Size int `json:"size,omitempty"`

	// How long each may wait. Required.
	Timeout caddy.Duration `json:"timeout,omitempty"`
}

// Hedge sends a second copy of an idempotent request to another backend.
type Hedge struct {
	// Switches hedging off, as it is without any settings.
	Disabled bool `json:"disabled,omitempty"`

	// The percentile of the pool's latency, between 0 and 1, after which the copy is sent. Required.
	Percentile float64 `json:"percentile,omitempty"`

	// The share of requests that may be copied, up to 1. Required.
	MaxExtra float64 `json:"max_extra,omitempty"`
}

// DrainSticky lets sessions stay with a backend that drains.
type DrainSticky struct {
	// Sends their requests to other backends instead.
	Disabled bool `json:"disabled,omitempty"`
}

// DebugHeader explains the choice of a backend to some clients.
type DebugHeader struct {
	// Switches the header off, as it is without any settings.
	Disabled bool `json:"disabled,omitempty"`

	// The name of the response header.
	Name string `json:"name,omitempty"`

	// The clients that get the header: addresses or CIDR ranges.
	Ranges []string `json:"ranges,omitempty"`
}

// Breaker is the circuit breaker of each backend. Settings that are left out have their defaults.
type Breaker struct {
	// Switches the breaker off. Backends to which no connection can be made still get no requests.
	Disabled bool `json:"disabled,omitempty"`

	// The number of consecutive failures that opens it, and of consecutive failed connections after which a backend is dead. Default: 5.
	ConsecutiveFailures int `json:"consecutive_failures,omitempty"`

	// The share of failures in the window, up to 1, that opens it. Default: 0.5.
	FailureRatio float64 `json:"failure_ratio,omitempty"`

	// The share of slow answers in the window that opens it. Default: off.
	SlowRatio *SlowRatio `json:"slow_ratio,omitempty"`

	// The time over which the ratios are measured. Default: 10s.
	Window caddy.Duration `json:"window,omitempty"`

	// The number of requests in the window from which on the ratios apply. Default: 20.
	MinRequests int `json:"min_requests,omitempty"`

	// How long it stays open. Default: 5s, doubling up to 60s.
	Open *OpenTime `json:"open,omitempty"`

	// The number of requests that must succeed, one at a time, before it closes. Default: 3.
	Probes int `json:"probes,omitempty"`

	// The statuses that count as failures, besides errors and timeouts: HTTP statuses as numbers, and gRPC statuses such as
	// `"grpc:unavailable"`. Not failures are a 503 with `Retry-After`, `grpc:resource_exhausted`, and `grpc:deadline_exceeded` after the
	// client's own deadline. Default: 502, 503, 504, grpc:unknown, grpc:deadline_exceeded, grpc:internal, grpc:unavailable,
	// grpc:data_loss.
	FailureStatus []Status `json:"failure_status,omitempty"`

	// The share of the backends, up to 1, that breakers may take out, rounded down. One may always be taken out, but never the last
	// usable one. Default: 0.5.
	MaxEjected float64 `json:"max_ejected,omitempty"`

	// Whether the breaker only decides and reports, but takes no backend out. Default: false.
	DryRun bool `json:"dry_run,omitempty"`
}

// SlowRatio is a share of slow answers.
type SlowRatio struct {
	// The share, up to 1.
	Ratio float64 `json:"ratio"`

	// The time until an answer's header from which on the answer is slow.
	Latency caddy.Duration `json:"latency"`
}

// OpenTime is how long a breaker stays open. It doubles each time, and is shortened at random by up to 20 %.
type OpenTime struct {
	// The first time.
	First caddy.Duration `json:"first"`

	// The longest time.
	Max caddy.Duration `json:"max"`
}

// Retry controls the retries of failed attempts. Settings that are left out have their defaults.
type Retry struct {
	// Switches retries off.
	Disabled bool `json:"disabled,omitempty"`

	// The number of attempts, including the first one. Default: 2.
	Attempts int `json:"attempts,omitempty"`

	// What is retried: `connect`, `reset`, `timeout`, and statuses; a gRPC status only if the answer has no body. All except `connect`
	// apply to idempotent requests only; gRPC calls are not idempotent. Default: connect, reset, timeout, 502, 503, 504,
	// grpc:unavailable.
	On []string `json:"on,omitempty"`

	// The pause before another attempt at the same backend. Default: 25ms to 250ms.
	Backoff *Backoff `json:"backoff,omitempty"`

	// The number of retries that the pool may make. Default: 0.2 per request and 10 per second.
	Budget *RetryBudget `json:"budget,omitempty"`

	// The time from a request's last byte to the answer's header; negative for none. It does not apply to gRPC calls. Default: the
	// transport's response_header_timeout if that is set, else none.
	TryTimeout caddy.Duration `json:"try_timeout,omitempty"`

	// Whether requests that are not idempotent are retried even after they were sent. Default: false.
	NonIdempotent bool `json:"non_idempotent,omitempty"`

	// Whether requests with an `Idempotency-Key` count as idempotent. The backends must support the field, and act only once for each
	// value. Default: false.
	IdempotencyKey bool `json:"idempotency_key,omitempty"`

	// The size in bytes up to which a request's body is kept for retries. Default: 65536.
	BodyLimit int64 `json:"body_limit,omitempty"`
}

// Backoff is a random pause whose upper bound doubles with each attempt.
type Backoff struct {
	// The first bound.
	Base caddy.Duration `json:"base"`

	// The largest bound.
	Max caddy.Duration `json:"max"`
}

// RetryBudget limits retries. Unused retries expire after ten seconds.
type RetryBudget struct {
	// Retries per request, up to 1. Default: 0.2.
	Ratio *float64 `json:"ratio,omitempty"`

	// Retries per second. Default: 10.
	PerSecond *float64 `json:"per_second,omitempty"`
}

// The defaults of the breaker and of retries.
var (
	defaultBreaker = Breaker{
		ConsecutiveFailures: 5,
		FailureRatio:        0.5,
		Window:              caddy.Duration(10 * time.Second),
		MinRequests:         20,
		Open:                &OpenTime{First: caddy.Duration(5 * time.Second), Max: caddy.Duration(time.Minute)},
		Probes:              3,
		FailureStatus: []Status{
			"502", "503", "504", "grpc:unknown", "grpc:deadline_exceeded", "grpc:internal", "grpc:unavailable", "grpc:data_loss",
		},
		MaxEjected: 0.5,
	}
	defaultRetry = Retry{
		Attempts:  2,
		On:        []string{"connect", "reset", "timeout", "502", "503", "504", "grpc:unavailable"},
		Backoff:   &Backoff{Base: caddy.Duration(25 * time.Millisecond), Max: caddy.Duration(250 * time.Millisecond)},
		Budget:    &RetryBudget{Ratio: new(0.2), PerSecond: new(10.0)},
		BodyLimit: 64 << 10,
	}
)
