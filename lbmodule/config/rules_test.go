package config

import (
	"reflect"
	"testing"
)

// What is left out has its default, and what is given stays: no setting is forgotten in either.
func TestDefaults(t *testing.T) {
	for _, test := range []struct {
		name              string
		nothing, defaults any
		given, filled     any
		without           []string // settings that are off where nothing is said
	}{
		{"breaker", (&Breaker{}).WithDefaults(), (*Breaker)(nil).WithDefaults(), givenBreaker, givenBreaker.WithDefaults(), []string{"Disabled", "SlowRatio", "DryRun"}},
		{"retry", (&Retry{}).WithDefaults(), (*Retry)(nil).WithDefaults(), givenRetry, givenRetry.WithDefaults(),
			[]string{"Disabled", "TryTimeout", "NonIdempotent", "IdempotencyKey"}},
		{"budget", *new(RetryBudget).withDefaults(), *(*RetryBudget)(nil).withDefaults(), *givenRetry.Budget, *givenRetry.Budget.withDefaults(), nil},
	} {
		if !reflect.DeepEqual(test.nothing, test.defaults) {
			t.Errorf("%s: of nothing it makes %+v, want %+v", test.name, test.nothing, test.defaults)
		}
		if !reflect.DeepEqual(test.given, test.filled) {
			t.Errorf("%s: of %+v it makes %+v", test.name, test.given, test.filled)
		}
		defaults, given := reflect.ValueOf(test.defaults), reflect.ValueOf(test.given)
		off := make(map[string]bool)
		for _, name := range test.without {
			off[name] = true
		}
		for i := range defaults.NumField() {
			name := defaults.Type().Field(i).Name
			if defaults.Field(i).IsZero() != off[name] {
				t.Errorf("%s: %s is %v by default", test.name, name, defaults.Field(i))
			}
			if given.Field(i).IsZero() && name != "Disabled" {
				t.Errorf("%s: the test gives no %s", test.name, name)
			}
		}
	}
}

var givenBreaker = Breaker{
	ConsecutiveFailures: 1, FailureRatio: 0.1, SlowRatio: &SlowRatio{Ratio: 0.2, Latency: 1}, Window: 2, MinRequests: 3, Open: &OpenTime{First: 4, Max: 5},
	Probes: 6, FailureStatus: []Status{"500"}, MaxEjected: 0.3, DryRun: true,
}

var givenRetry = Retry{
	Attempts: 3, On: []string{}, Backoff: &Backoff{Base: 1, Max: 2}, Budget: &RetryBudget{Ratio: new(0.0), PerSecond: new(0.0)},
	TryTimeout: 3, NonIdempotent: true, IdempotencyKey: true, BodyLimit: 1,
}
