package lbmodule

import (
	"reflect"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// defaultHold is how old an outage may be where nothing is said about that.
const defaultHold = caddy.Duration(2 * time.Second)

// The defaults of the settings. A setting that is left out has the value here.
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

// overridden returns the defaults with what is given in their place.
func overridden[T any](defaults, given T) T {
	to, from := reflect.ValueOf(&defaults).Elem(), reflect.ValueOf(given)
	for i := range from.NumField() {
		if !from.Field(i).IsZero() {
			to.Field(i).Set(from.Field(i))
		}
	}
	return defaults
}

// withDefaults returns the breaker with everything filled in that it leaves open.
func (b *Breaker) withDefaults() Breaker {
	if b == nil {
		return defaultBreaker
	}
	return overridden(defaultBreaker, *b)
}

// withDefaults returns the retries with everything filled in that they leave open.
func (r *Retry) withDefaults() Retry {
	if r == nil {
		return defaultRetry
	}
	filled := overridden(defaultRetry, *r)
	filled.Budget = new(overridden(*defaultRetry.Budget, *filled.Budget))
	if r.Disabled {
		filled.Attempts = 1
	}
	return filled
}
