package config

import (
	"reflect"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/ballastlb/ballast/lbmodule/course"
	"github.com/ballastlb/ballast/lbmodule/pool"
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

// defaults are the rules where nothing is said.
func defaults() course.Rules {
	rules := course.Rules{
		Hold:  2 * time.Second,
		Queue: course.QueueRules{OnAuto: true, Size: 1000, Timeout: time.Second},
		Retry: course.RetryRules{
			Attempts: 2, Base: 25 * time.Millisecond, Max: 250 * time.Millisecond, Budget: pool.BudgetSettings{Ratio: 0.2, PerSecond: 10},
			On: [pool.RetryReasons]bool{pool.RetryConnect: true, pool.RetryReset: true, pool.RetryTimeout: true, pool.RetryStatus: true},
		},
	}
	for _, status := range []string{"502", "503", "504", "grpc:unavailable"} {
		rules.Retry.Statuses.Add(status)
	}
	for _, status := range []string{"502", "503", "504", "grpc:unknown", "grpc:deadline_exceeded", "grpc:internal", "grpc:unavailable", "grpc:data_loss"} {
		rules.Failures.Add(status)
	}
	return rules
}

func TestRules(t *testing.T) {
	for name, test := range map[string]struct {
		settings Settings
		words    RetryWords
		change   func(r *course.Rules) // of the rules where nothing is said
	}{
		"nothing is said": {},
		"all off": {
			settings: Settings{
				Hold: &Hold{Disabled: true}, Queue: &Queue{Disabled: true, Size: 1}, Hedge: &Hedge{Disabled: true}, Retry: &Retry{Disabled: true},
				Breaker: &Breaker{Disabled: true, SlowRatio: &SlowRatio{Ratio: 1, Latency: 1}},
			},
			change: func(r *course.Rules) {
				r.Hold, r.Queue, r.Retry.Attempts, r.BreakerOff = 0, course.QueueRules{}, 1, true
			},
		},
		"all on": {
			settings: Settings{
				Hold: &Hold{Age: 3}, Queue: &Queue{Size: 4, Timeout: 5}, Hedge: &Hedge{Percentile: 0.6, MaxExtra: 0.7},
				Breaker: &Breaker{SlowRatio: &SlowRatio{Ratio: 0.5, Latency: 8}},
				Retry:   &Retry{NonIdempotent: true, Backoff: &Backoff{Base: 9, Max: 10}, Budget: &RetryBudget{Ratio: new(0.0)}},
			},
			change: func(r *course.Rules) {
				r.Hold, r.Slow = 3, 8
				r.Queue, r.Hedge = course.QueueRules{On: true, Size: 4, Timeout: 5}, course.HedgeRules{On: true, Percentile: 0.6, MaxExtra: 0.7}
				r.Retry.NonIdempotent, r.Retry.Base, r.Retry.Max, r.Retry.Budget.Ratio = true, 9, 10, 0
			},
		},
		"statuses": {
			settings: Settings{Retry: &Retry{On: []string{"reset", "500"}}, Breaker: &Breaker{FailureStatus: []Status{"501"}}},
			change: func(r *course.Rules) {
				r.Retry.On = [pool.RetryReasons]bool{pool.RetryReset: true, pool.RetryStatus: true}
				r.Retry.Statuses, r.Failures = course.NewStatuses([]Status{"500"}), course.NewStatuses([]Status{"501"})
			},
		},
		"none": {
			settings: Settings{Retry: &Retry{On: []string{"connect"}}},
			change: func(r *course.Rules) {
				r.Retry.On, r.Retry.Statuses = [pool.RetryReasons]bool{pool.RetryConnect: true}, course.Statuses{}
			},
		},
		"words for a number": {
			words: RetryWords{Given: true, Retries: 3, Answers: true},
			change: func(r *course.Rules) {
				r.Retry.Attempts, r.Retry.Statuses, r.Retry.Stock = 4, course.Statuses{}, &course.StockRetries{Answers: true}
			},
		},
		"words for a time": {
			words: RetryWords{Given: true, Duration: time.Second, Interval: 5},
			change: func(r *course.Rules) {
				r.Hold, r.Retry.Attempts, r.Retry.Statuses = 0, 0, course.Statuses{}
				r.Retry.Stock = &course.StockRetries{Duration: time.Second, Interval: 5}
			},
		},
		"words for a time without an interval": {
			words: RetryWords{Given: true, Duration: time.Second},
			change: func(r *course.Rules) {
				r.Hold, r.Retry.Attempts, r.Retry.Statuses = 0, 0, course.Statuses{}
				r.Retry.Stock = &course.StockRetries{Duration: time.Second, Interval: 250 * time.Millisecond}
			},
		},
		"words for both": {
			words: RetryWords{Given: true, Retries: 1, Duration: time.Second, Interval: -5},
			change: func(r *course.Rules) {
				r.Hold, r.Retry.Attempts, r.Retry.Statuses = 0, 2, course.Statuses{}
				r.Retry.Stock = &course.StockRetries{Duration: time.Second} // no pause
			},
		},
		"words for neither": {
			words: RetryWords{Given: true, Interval: 5},
			change: func(r *course.Rules) {
				r.Retry.Attempts, r.Retry.Statuses, r.Retry.Stock = 1, course.Statuses{}, &course.StockRetries{Interval: 5}
			},
		},
	} {
		want := defaults()
		if test.change != nil {
			test.change(&want)
		}
		if got := test.settings.Rules(test.words, PolicyTraits{}); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v,\nwant %+v", name, got, want)
		}
	}
}

func TestProbeTimeout(t *testing.T) {
	for try, want := range map[time.Duration]time.Duration{0: 70 * time.Second, time.Second: 70 * time.Second, time.Hour: time.Hour + 10*time.Second, -1: 70 * time.Second} {
		if got := (&Retry{TryTimeout: caddy.Duration(try)}).ProbeTimeout(); got != want {
			t.Errorf("of %v: %v, want %v", try, got, want)
		}
	}
	if got := (*Retry)(nil).ProbeTimeout(); got != 70*time.Second {
		t.Errorf("of nothing: %v", got)
	}
}
