package config

import (
	"encoding/json"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// Settings are what a load balancer can be told beyond the settings of `reverse_proxy`.
type Settings struct {
	// For how long a backend is ramped up after it joined the pool or recovered: its share rises from 10 % to 100 %
	// over this time. A duration, or `{"disabled": true}`. A pool that is new as a whole is not ramped up.
	// Default: 10s.
	SlowStart *SlowStart `json:"slow_start,omitempty"`

	// The share of usable backends, 0 to 1, below which all are used that are not dead, whatever checks say of them.
	// A backend is dead while no connection to it can be made. Default: 0, when nobody is usable.
	PanicThreshold float64 `json:"panic_threshold,omitempty"`

	// How long an outage of all backends may have lasted for requests, whatever their method, to wait for its end. They wait until
	// a connection to one can be made again, or the outage is older than this; then the answer is 503. A duration from 1ms to 1m, or
	// `{"disabled": true}`. At most 10,000 requests of a pool wait. With `load_balancing.try_duration`, that says how
	// long to wait, and this is ignored. Default: 2s.
	Hold *Hold `json:"hold,omitempty"`

	// Lets requests wait for a free slot while all usable backends are at their max_requests: those of one client in
	// turn, clients by turns. Default: off, such requests are answered 503.
	Queue *Queue `json:"queue,omitempty"`

	// Sends a second copy of an idempotent request without a body to another backend when the first is not answered in
	// the time that most are. Copies are taken from the budget for retries, too. Default: off.
	Hedge *Hedge `json:"hedge,omitempty"`

	// The zone whose backends come first: they are given all requests while 1/1.4 of their weight is usable, and less in proportion
	// below that. Default: none.
	PreferZone string `json:"prefer_zone,omitempty"`

	// After which time a draining backend's open requests are closed. Default: never.
	DrainTimeout caddy.Duration `json:"drain_timeout,omitempty"`

	// Whether requests of sessions that the policy keeps at a backend still go there while it drains. Default: they do.
	DrainSticky *DrainSticky `json:"drain_sticky,omitempty"`

	// For how long the backends of a dynamic source are kept once the name server answers that there are none by that name, from 0 to 1h.
	// While it does not answer, or fails, they are kept for good. Default: 30s.
	NegativeTTL *caddy.Duration `json:"negative_ttl,omitempty"`

	// A response header that explains the choice. Default: off.
	DebugHeader *DebugHeader `json:"debug_header,omitempty"`

	// Active health checks, unless `health_checks.active` asks for them. Default: none.
	HealthCheck *HealthCheck `json:"health_check,omitempty"`

	// The share of failed requests, 0 to 1, from which on passive checks take a backend for unfit, beside
	// `health_checks.passive.max_fails` or instead of it. It counts over `fail_duration`, from 20 requests on.
	// Default: none.
	MaxFailRatio float64 `json:"max_fail_ratio,omitempty"`

	// The circuit breaker of each backend. Default: on, with the defaults of its settings.
	Breaker *Breaker `json:"breaker,omitempty"`

	// Retries of failed attempts. Default: on, with the defaults of its settings.
	Retry *Retry `json:"retry,omitempty"`
}

// SlowStart is how long a backend is ramped up.
type SlowStart struct {
	Disabled bool
	Window   caddy.Duration
}

// MarshalJSON writes the duration, or that it is disabled.
func (s SlowStart) MarshalJSON() ([]byte, error) { return marshalDuration(s.Disabled, s.Window) }

// UnmarshalJSON reads what MarshalJSON writes, or a duration as a string.
func (s *SlowStart) UnmarshalJSON(text []byte) error {
	return unmarshalDuration(text, &s.Disabled, &s.Window)
}

// Hold is how old an outage of all may be for requests to wait it out.
type Hold struct {
	Disabled bool
	Age      caddy.Duration
}

// MarshalJSON writes the duration, or that it is disabled.
func (h Hold) MarshalJSON() ([]byte, error) { return marshalDuration(h.Disabled, h.Age) }

// UnmarshalJSON reads what MarshalJSON writes, or a duration as a string.
func (h *Hold) UnmarshalJSON(text []byte) error {
	return unmarshalDuration(text, &h.Disabled, &h.Age)
}

// marshalDuration writes a setting that is a duration or disabled.
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

	// For how long each may. Required.
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
	// Has them go elsewhere.
	Disabled bool `json:"disabled,omitempty"`
}

// DebugHeader explains the choice of a backend to some clients.
type DebugHeader struct {
	// Switches the header off, as it is without any settings.
	Disabled bool `json:"disabled,omitempty"`

	// The name of the response header.
	Name string `json:"name,omitempty"`

	// The clients that are given it: addresses or CIDR ranges.
	Ranges []string `json:"ranges,omitempty"`
}

// Breaker is the circuit breaker of each backend. Settings that are left out have their defaults.
type Breaker struct {
	// Switches the breaker off. Backends that cannot be reached get no requests all the same.
	Disabled bool `json:"disabled,omitempty"`

	// How many failures in a row open it, and how many connections in a row must fail until a backend is dead.
	// Default: 5.
	ConsecutiveFailures int `json:"consecutive_failures,omitempty"`

	// The share of failures in the window, up to 1, that opens it. Default: 0.5.
	FailureRatio float64 `json:"failure_ratio,omitempty"`

	// The share of slow answers in the window that opens it. Default: off.
	SlowRatio *SlowRatio `json:"slow_ratio,omitempty"`

	// The time over which the ratios are taken. Default: 10s.
	Window caddy.Duration `json:"window,omitempty"`

	// How many requests there must be in the window before a ratio counts. Default: 20.
	MinRequests int `json:"min_requests,omitempty"`

	// For how long it stays open. Default: 5s, doubling up to 60s.
	Open *OpenTime `json:"open,omitempty"`

	// How many requests must succeed, one at a time, until it closes. Default: 3.
	Probes int `json:"probes,omitempty"`

	// The statuses of answers that are failures, besides errors and timeouts: numbers, or of gRPC words such as
	// `"grpc:unavailable"`. A 503 with `Retry-After` is none, nor is `grpc:resource_exhausted`, nor `grpc:deadline_exceeded` once the
	// time that the client had set is up. Default: 502, 503, 504, grpc:unknown, grpc:deadline_exceeded, grpc:internal,
	// grpc:unavailable, grpc:data_loss.
	FailureStatus []Status `json:"failure_status,omitempty"`

	// The share of the backends, up to 1, that breakers may take out: rounded down, but one at least, and never the
	// last that is usable. Default: 0.5.
	MaxEjected float64 `json:"max_ejected,omitempty"`

	// Whether it only decides and reports, and takes no backend out. Default: false.
	DryRun bool `json:"dry_run,omitempty"`
}

// SlowRatio is a share of answers that take longer than a latency.
type SlowRatio struct {
	// The share, up to 1.
	Ratio float64 `json:"ratio"`

	// The time until an answer's header from which on it is slow.
	Latency caddy.Duration `json:"latency"`
}

// OpenTime is how long a breaker stays open. It doubles each time, less up to 20 % at random.
type OpenTime struct {
	// The first time.
	First caddy.Duration `json:"first"`

	// The longest time.
	Max caddy.Duration `json:"max"`
}

// Retry is how failed attempts are made again. Settings that are left out have their defaults.
type Retry struct {
	// Switches retries off.
	Disabled bool `json:"disabled,omitempty"`

	// How many attempts there are in all. Default: 2.
	Attempts int `json:"attempts,omitempty"`

	// What is tried again: `connect`, `reset`, `timeout`, and statuses of answers; gRPC's only if the answer has no body. All but
	// `connect` for idempotent requests only; gRPC calls are not idempotent. Default: connect, reset, timeout, 502, 503, 504,
	// grpc:unavailable.
	On []string `json:"on,omitempty"`

	// The pause before the same backend is asked again. Default: 25ms to 250ms.
	Backoff *Backoff `json:"backoff,omitempty"`

	// What the pool may spend on retries. Default: 0.2 per request and 10 per second.
	Budget *RetryBudget `json:"budget,omitempty"`

	// The time from a request's last byte to the answer's header; negative for none. gRPC calls have none. Default: none, but for the
	// response_header_timeout of the transport, if that is set.
	TryTimeout caddy.Duration `json:"try_timeout,omitempty"`

	// Whether requests that are not idempotent are made again after they were sent, too. Default: false.
	NonIdempotent bool `json:"non_idempotent,omitempty"`

	// Whether requests with an `Idempotency-Key` are taken for idempotent. The backends must know the field, and act only once for
	// each value. Default: false.
	IdempotencyKey bool `json:"idempotency_key,omitempty"`

	// The size in bytes up to which a request's body is kept to be sent again. Default: 65536.
	BodyLimit int64 `json:"body_limit,omitempty"`
}

// Backoff is a random pause whose upper bound doubles with each attempt.
type Backoff struct {
	// The first bound.
	Base caddy.Duration `json:"base"`

	// The largest bound.
	Max caddy.Duration `json:"max"`
}

// RetryBudget is what earns retries. It is kept for ten seconds.
type RetryBudget struct {
	// Retries that a request earns, up to 1. Default: 0.2.
	Ratio *float64 `json:"ratio,omitempty"`

	// Retries that a second earns. Default: 10.
	PerSecond *float64 `json:"per_second,omitempty"`
}

// The defaults of the breaker and of retries. A setting that is left out has the value here.
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
