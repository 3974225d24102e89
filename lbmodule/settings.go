package lbmodule

import (
	"encoding/json"
	"fmt"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// Settings are what a load balancer can be told beyond the settings of `reverse_proxy`. The machinery of some is not
// there yet: those may be switched off or set to their default, and are refused otherwise.
type Settings struct {
	// For how long a backend is ramped up after it joined the pool or recovered: its share rises from 10 % to 100 %
	// over this time. A duration, or `{"disabled": true}`. A pool that is new as a whole is not ramped up.
	// Default: 10s.
	SlowStart *SlowStart `json:"slow_start,omitempty"`

	// The share of usable backends, 0 to 1, below which all are used that are not dead, whatever checks say of them.
	// A backend is dead while no connection to it can be made. Default: 0, when nobody is usable.
	PanicThreshold float64 `json:"panic_threshold,omitempty"`

	// Lets requests wait for a free slot while all usable backends are at their max_requests: those of one client in
	// turn, clients by turns. Default: off, such requests are answered 503.
	Queue *Queue `json:"queue,omitempty"`

	// Sends a second copy of an idempotent request without a body to another backend when the first is not answered in
	// the time that most are. Copies are taken from the budget for retries, too. Default: off.
	Hedge *Hedge `json:"hedge,omitempty"`

	// The zone whose backends come first. Default: none.
	PreferZone string `json:"prefer_zone,omitempty"`

	// After which time a draining backend's open requests are closed. Default: never.
	DrainTimeout caddy.Duration `json:"drain_timeout,omitempty"`

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
func (s SlowStart) MarshalJSON() ([]byte, error) {
	if s.Disabled {
		return []byte(`{"disabled":true}`), nil
	}
	return json.Marshal(s.Window)
}

// UnmarshalJSON reads what MarshalJSON writes, or a duration as a string.
func (s *SlowStart) UnmarshalJSON(text []byte) error {
	if len(text) > 0 && text[0] == '{' {
		var object struct {
			Disabled bool `json:"disabled"`
		}
		if err := caddy.StrictUnmarshalJSON(text, &object); err != nil {
			return fmt.Errorf("slow_start: %w", err)
		}
		s.Disabled = object.Disabled
		return nil
	}
	return json.Unmarshal(text, &s.Window)
}

// Queue lets requests wait while all usable backends are at their max_requests.
type Queue struct {
	Disabled bool           `json:"disabled,omitempty"`
	Size     int            `json:"size,omitempty"`    // how many requests may wait
	Timeout  caddy.Duration `json:"timeout,omitempty"` // for how long
}

func (q *Queue) enabled() bool { return q != nil && !q.Disabled }

// Hedge sends a second copy of an idempotent request to another backend.
type Hedge struct {
	Disabled   bool    `json:"disabled,omitempty"`
	Percentile float64 `json:"percentile,omitempty"` // of the pool's latency, 0 to 1, after which the copy is sent
	MaxExtra   float64 `json:"max_extra,omitempty"`  // share of requests that may be copied, 0 to 1
}

// DebugHeader explains the choice of a backend to some clients.
type DebugHeader struct {
	Disabled bool     `json:"disabled,omitempty"`
	Name     string   `json:"name,omitempty"`   // of the response header
	Ranges   []string `json:"ranges,omitempty"` // clients that are given it: addresses or CIDR ranges
}

// Breaker is the circuit breaker of each backend. Settings that are left out have their defaults.
type Breaker struct {
	Disabled            bool           `json:"disabled,omitempty"`
	ConsecutiveFailures int            `json:"consecutive_failures,omitempty"` // Default: 5.
	FailureRatio        float64        `json:"failure_ratio,omitempty"`        // of the window. Default: 0.5.
	SlowRatio           *SlowRatio     `json:"slow_ratio,omitempty"`           // Default: off.
	Window              caddy.Duration `json:"window,omitempty"`               // Default: 10s.
	MinRequests         int            `json:"min_requests,omitempty"`         // before a ratio counts. Default: 20.
	Open                *OpenTime      `json:"open,omitempty"`                 // Default: 5s to 60s.
	Probes              int            `json:"probes,omitempty"`               // successes needed. Default: 3.
	FailureStatus       []int          `json:"failure_status,omitempty"`       // Default: 502, 503, 504.
	MaxEjected          float64        `json:"max_ejected,omitempty"`          // of the pool. Default: 0.5.
	DryRun              bool           `json:"dry_run,omitempty"`              // Default: false.
}

// SlowRatio is a share of calls that take longer than a latency.
type SlowRatio struct {
	Ratio   float64        `json:"ratio"`
	Latency caddy.Duration `json:"latency"`
}

// OpenTime is how long a breaker stays open: first, and at most.
type OpenTime struct {
	First caddy.Duration `json:"first"`
	Max   caddy.Duration `json:"max"`
}

// Retry is how failed attempts are retried. Settings that are left out have their defaults.
type Retry struct {
	Disabled      bool           `json:"disabled,omitempty"`
	Attempts      int            `json:"attempts,omitempty"`       // in all. Default: 2.
	On            []string       `json:"on,omitempty"`             // Default: connect, reset, timeout, 502, 503, 504.
	Backoff       *Backoff       `json:"backoff,omitempty"`        // Default: 25ms to 250ms.
	Budget        *RetryBudget   `json:"budget,omitempty"`         // Default: 0.2 and 10.
	TryTimeout    caddy.Duration `json:"try_timeout,omitempty"`    // from the request's last byte to the answer's header; negative for none. Default: 60s, none for gRPC.
	NonIdempotent bool           `json:"non_idempotent,omitempty"` // Default: false.
	BodyLimit     int64          `json:"body_limit,omitempty"`     // bytes kept for replay. Default: 65536.
}

// Backoff is the wait before an attempt on the same backend: first, and at most.
type Backoff struct {
	Base caddy.Duration `json:"base"`
	Max  caddy.Duration `json:"max"`
}

// RetryBudget is what a pool may spend on retries: a share of its requests and a number per second.
type RetryBudget struct {
	Ratio     float64 `json:"ratio"`
	PerSecond float64 `json:"per_second"`
}

// ConflictsWith tells when a setting is given in reverse_proxy's words and in ours.
func (s *Settings) ConflictsWith(rp *reverseproxy.Handler) error {
	if s.HealthCheck != nil && rp.HealthChecks != nil && rp.HealthChecks.Active != nil {
		return fmt.Errorf("health_check: health_uri and the like are given, too; the active check is set by one or the other")
	}
	if word := stockRetryWord(rp.LoadBalancing); word != "" && s.Retry != nil {
		return fmt.Errorf("retry: %s is given, too; retries are set by one or the other", word)
	}
	return nil
}
