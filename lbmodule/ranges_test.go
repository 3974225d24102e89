package lbmodule

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/ballastlb/ballast/caddyapp"
	"github.com/ballastlb/ballast/lbmodule/config"
	"github.com/ballastlb/ballast/lbmodule/discovery"
	"github.com/ballastlb/ballast/lbmodule/policies"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

// numbers are the settings in the JSON of a type that are numbers, by their places.
func numbers(t reflect.Type, at string) (all []string) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice && slices.Contains([]reflect.Kind{reflect.Pointer, reflect.Struct}, t.Elem().Kind()) {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.Int, reflect.Int64, reflect.Float64:
		return []string{at}
	case reflect.Struct:
		for i := range t.NumField() {
			f := t.Field(i)
			key, _, tagged := strings.Cut(f.Tag.Get("json"), ",")
			place := strings.TrimPrefix(at+"."+key, ".")
			switch {
			case !tagged && key == "":
			case f.Type.Kind() == reflect.Pointer && f.Type.Implements(reflect.TypeFor[json.Unmarshaler]()):
				all = append(all, place) // a duration, or that it is disabled
			default:
				all = append(all, numbers(f.Type, place)...)
			}
		}
	}
	return all
}

// TestEveryNumberHasARange: whoever adds a setting says what it may be.
func TestEveryNumberHasARange(t *testing.T) {
	all := slices.Concat(
		numbers(reflect.TypeFor[config.Settings](), ""), numbers(reflect.TypeFor[[]*config.Backend](), "backends"),
		numbers(reflect.TypeFor[policies.Hash](), "lb_policy hash"), numbers(reflect.TypeFor[policies.Sticky](), "lb_policy sticky"), numbers(reflect.TypeFor[discovery.HTTP](), "dynamic http"),
		[]string{"lb_policy p2c.choose", "changes.for"},
	)
	if len(all) < 35 {
		t.Fatalf("found %q only", all)
	}
	var ranged []string
	for _, r := range config.Ranges {
		ranged = append(ranged, r.Setting)
	}
	slices.Sort(all)
	slices.Sort(ranged)
	if !slices.Equal(all, ranged) {
		t.Errorf("numbers in settings: %q\nwith a range: %q", all, ranged)
	}
}

// inRangeConfig has a value within all bounds that one setting sets to another.
const inRangeConfig = `{
	"backends": [{"address": "a:1", "weight": 1, "max_requests": 1, "backup": true}],
	"max_requests": 1, "slow_start": "1s", "panic_threshold": 0.5, "queue": {"size": 1, "timeout": "1s"}, "hedge": {"percentile": 0.5, "max_extra": 0.5}, "drain_timeout": "1s", "hold": "1s",
	"subset": {"size": 1, "peer": 0, "peers": 65536}, "mirror": {"upstreams": ["m:1"], "share": 0.5, "timeout": "1s", "max_requests": 1},
	"dynamic_upstreams": {"source": "a", "name": "app.example.test", "port": "80"}, "negative_ttl": "1s",
	"max_fail_ratio": 0.5, "health_checks": {"passive": {"fail_duration": "1s"}},
	"health_check": {"interval": "24h", "fast_interval": "10ms", "timeout": "1s", "rise": 1, "fall": 1, "port": 1, "max_size": 1},
	"breaker": {"consecutive_failures": 1, "failure_ratio": 0.5, "slow_ratio": {"ratio": 0.5, "latency": "1s"}, "window": "1s", "min_requests": 1,
		"open": {"first": "10ms", "max": "24h"}, "probes": 1, "max_ejected": 0.5},
	"retry": {"attempts": 1, "backoff": {"base": "1ms", "max": "1h"}, "budget": {"ratio": 0.5, "per_second": 1}, "try_timeout": "1s", "body_limit": 1}
}`

// configWith is inRangeConfig with a setting at value, "" if that setting is none of a load balancer.
func configWith(t *testing.T, r caddyapp.Range, value float64) string {
	t.Helper()
	number := fmt.Sprintf("%.0f", value)
	if r.Unit == caddyapp.Share || value != math.Trunc(value) {
		number = fmt.Sprintf("%.12g", value)
	}
	place, isPolicy := strings.CutPrefix(r.Setting, "lb_policy ")
	if policy, setting, _ := strings.Cut(place, "."); isPolicy {
		return `{"backends": [{"address": "a:1"}], "load_balancing": {"selection_policy": {"policy": "lb_` + policy + `", "` + setting + `": ` + number +
			map[string]string{"hash": `, "keys": ["{path}"]`, "sticky": `, "secrets": ["0123456789abcdef"]`}[policy] + `}}}`
	}
	if setting, isSource := strings.CutPrefix(r.Setting, "dynamic http."); isSource {
		return `{"dynamic_upstreams": {"source": "lb_http", "url": "http://registry.test", "` + setting + `": ` + number + `}}`
	}
	var config any
	base := inRangeConfig
	switch {
	case strings.HasPrefix(r.Setting, "canary.steps"):
		base = `{"upstreams": [{"dial": "a:1"}, {"dial": "b:1"}], "canary": {"backends": ["a:1"], "share": 0.0001, "steps": [{"share": 0.5, "after": "1s"}]}}`
	case strings.HasPrefix(r.Setting, "canary."): // not with subset
		base = `{"upstreams": [{"dial": "a:1"}, {"dial": "b:1"}], "canary": {"backends": ["a:1"], "share": 0.5, "guard": {"more_errors": 0.5, "slower": 0.5}}}`
	}
	if err := json.Unmarshal([]byte(base), &config); err != nil {
		t.Fatal(err)
	}
	var at []any
	for key := range strings.SplitSeq(r.Setting, ".") {
		at = append(at, key)
		if key == "backends" || key == "steps" {
			at = append(at, 0)
		}
	}
	return replaced(config, at, number)
}

// TestRanges sets each setting to the ends of its range, and to what is just outside.
func TestRanges(t *testing.T) {
	c := newConfig(t)
	for _, r := range config.Ranges {
		if r.Setting == "changes.for" {
			continue // TestWrongChanges
		}
		key := r.Setting[strings.LastIndexByte(r.Setting, '.')+1:]
		step := 1.0
		switch r.Unit {
		case caddyapp.Share:
			step = 0.0001
		case caddyapp.Time:
			step = 1000 // a float64 has no nanoseconds of a year
		}
		for value, good := range map[float64]bool{
			r.Least: true, r.Most: true, r.Least - step: false, r.Most + step: false, 0: r.Least == 0 || r.Off, -step: r.Off,
			math.MaxInt32 * 4e9: false, -math.MaxInt32 * 4e9: r.Off,
		} {
			if key == "backup" && value == 0 {
				good = true // it is false
			}
			config := configWith(t, r, value)
			_, err := c.load(config)
			if good && err != nil {
				t.Errorf("%s at %v: %v", r.Setting, value, err)
			}
			if rule := r.String(); !good && (err == nil || !strings.Contains(err.Error(), rule) || !strings.Contains(err.Error(), key)) {
				t.Errorf("%s at %v: got %v, want an error with %s and %q", r.Setting, value, err, key, rule)
			}
		}
	}
}

// A zero is refused where it would be taken for a setting that was left out, and its place is told.
func TestZeroIsNotLeftOut(t *testing.T) {
	for config, want := range map[string]string{
		`{"upstreams": [{"dial": "a:1"}], "breaker": {"failure_ratio": 0}}`:           "breaker: failure_ratio 0%: must be from 0.1% to 100%",
		`{"upstreams": [{"dial": "a:1"}], "breaker": {"window": "0s"}}`:               "breaker: window 0s: must be from 10ms to 24h",
		`{"upstreams": [{"dial": "a:1"}], "retry": {"attempts": 0}}`:                  "retry: attempts 0: must be from 1 to 100",
		`{"upstreams": [{"dial": "a:1"}], "retry": {"Attempts": 0}}`:                  "retry: attempts 0: must be from 1 to 100", // as Go reads JSON
		`{"backends": [{"address": "a:1"}, {"address": "b:1", "max_requests": 0}]}`:   "backends: position 1: max_requests 0: must be from 1 to 10000000",
		`{"upstreams": [{"dial": "a:1"}], "breaker": {"window": "1s", "window": ""}}`: "breaker: window: given twice",
		`{"upstreams": [{"dial": "a:1"}], "breaker": {"window": "soon"}}`:             `breaker: window "soon": must be a duration from 10ms to 24h`,
		`{"upstreams": [{"dial": "a:1"}], "breaker": {"probes": 1.5}}`:                "breaker: probes 1.5: must be a whole number from 1 to 10000",
		`{"upstreams": [{"dial": "a:1"}], "queue": 7}`:                                "queue 7: must be an object",
		`{"upstreams": [{"dial": "a:1"}], "prefer_zone": {}}`:                         "prefer_zone {}: must be a text",
	} {
		_, err := newConfig(t).load(config)
		expectError(t, err, want)
	}
	h := newConfig(t).mustLoad(`{"upstreams": [{"dial": "a:1", "max_requests": 0}], "panic_threshold": 0, "queue": null, "breaker": {"failure_ratio": null},
		"retry": {"budget": {"ratio": 0, "per_second": 0}, "on": []}, "load_balancing": {"selection_policy": {"policy": "random_choose", "choose": 0}}}`)
	if r := h.rules.Retry; r.Budget != (pool.BudgetSettings{}) || r.On != [len(r.On)]bool{} {
		t.Errorf("got %+v, want zeros kept", r)
	}
}

// What is there for reverse_proxy is taken as it takes it.
func TestStockIntervalIsBounded(t *testing.T) {
	for asked, want := range map[string]time.Duration{"1ns": 10 * time.Millisecond, "10ms": 10 * time.Millisecond, "30s": 30 * time.Second, "2000000h": 24 * time.Hour} {
		h := newConfig(t).mustLoad(`{"upstreams": [{"dial": "a:1"}, {"dial": "b:1"}], "health_checks": {"active": {"uri": "/", "max_size": -1, "interval": "` + asked + `"}}}`)
		got := time.Duration(h.checks().Interval)
		if got != want {
			t.Errorf("%s: checked every %v, want %v", asked, got, want)
		}
		asIs := got == mustDuration(t, asked)
		if warned := strings.Contains(strings.Join(h.service.Warnings(), "\n"), "health_interval"); warned == asIs {
			t.Errorf("%s: warnings %q", asked, h.service.Warnings())
		}
	}
}

func mustDuration(t *testing.T, text string) time.Duration {
	t.Helper()
	d, err := caddy.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestQueueWithoutCaps(t *testing.T) {
	const queue = `"queue": {"size": 10, "timeout": "1s"}`
	for config, want := range map[string]bool{
		`{"upstreams": [{"dial": "a:1"}], ` + queue + `}`:                                                               true,
		`{"upstreams": [{"dial": "a:1"}], "queue": {"disabled": true}}`:                                                 false,
		`{"upstreams": [{"dial": "a:1", "max_requests": 3}], ` + queue + `}`:                                            false,
		`{"backends": [{"address": "a:1", "max_requests": 3}], ` + queue + `}`:                                          false,
		`{"backends": [{"address": "a:1", "max_requests": "auto"}], ` + queue + `}`:                                     false,
		`{"upstreams": [{"dial": "a:1"}], "max_requests": "auto", ` + queue + `}`:                                       false,
		`{"upstreams": [{"dial": "a:1"}], "health_checks": {"passive": {"unhealthy_request_count": 5}}, ` + queue + `}`: false,
		`{"dynamic_upstreams": {"source": "multi"}, ` + queue + `}`:                                                     false,
	} {
		h := newConfig(t).mustLoad(config)
		if got := strings.Contains(strings.Join(h.service.Warnings(), "\n"), "queue without max_requests"); got != want {
			t.Errorf("%s: warnings %q", config, h.service.Warnings())
		}
	}
}

func TestHoldBesideTryDuration(t *testing.T) {
	const hold = `"hold": "3s"`
	for config, want := range map[string]bool{
		`{"upstreams": [{"dial": "a:1"}], "load_balancing": {"try_duration": "1s"}, ` + hold + `}`: true,
		`{"upstreams": [{"dial": "a:1"}], "load_balancing": {"try_duration": "1s"}}`:               false,
		`{"upstreams": [{"dial": "a:1"}], "load_balancing": {"retries": 1}, ` + hold + `}`:         false,
		`{"upstreams": [{"dial": "a:1"}], ` + hold + `}`:                                           false,
	} {
		h := newConfig(t).mustLoad(config)
		if got := strings.Contains(strings.Join(h.service.Warnings(), "\n"), "hold is ignored"); got != want {
			t.Errorf("%s: warnings %q", config, h.service.Warnings())
		}
	}
}

func TestManyBackends(t *testing.T) {
	list := func(n int) string {
		var upstreams []string
		for i := range n {
			upstreams = append(upstreams, fmt.Sprintf(`{"dial": "10.0.%d.%d:80"}`, i>>8, i&255))
		}
		return `{"upstreams": [` + strings.Join(upstreams, ",") + `]}`
	}
	if _, err := newConfig(t).load(list(10_000)); err != nil {
		t.Error(err)
	}
	_, err := newConfig(t).load(list(config.MaxBackends + 1))
	expectError(t, err, "upstreams: 16385 given, with backends: must be at most 16384")
}

func TestResolverWithoutAddresses(t *testing.T) {
	for config, place := range map[string]string{
		`{"upstreams": [{"dial": "a:1"}], "transport": {"protocol": "http", "resolver": {}}}`:                     "transport",
		`{"upstreams": [{"dial": "a:1"}], "health_check": {"transport": {"protocol": "http", "resolver": {}}}}`:   "health_check: transport",
		`{"dynamic_upstreams": {"source": "a", "name": "a", "resolver": {"addresses": []}}}`:                      "dynamic_upstreams",
		`{"dynamic_upstreams": {"source": "multi", "sources": [{"source": "srv", "name": "a", "resolver": {}}]}}`: "dynamic_upstreams: sources: position 0",
	} {
		_, err := newConfig(t).load(config)
		expectError(t, err, place+": resolver: addresses: none given")
	}
}

func TestKindOfCheck(t *testing.T) {
	for check, want := range map[string]string{
		`{"type": "tcp", "expect_body": "a"}`:       "health_check: expect_body: must not be given for a check of kind tcp",
		`{"type": "tls", "uri": "/"}`:               "health_check: uri: must not be given for a check of kind tls",
		`{"type": "grpc", "status": ["2xx"]}`:       "health_check: status: must not be given for a check of kind grpc",
		`{"service": "a"}`:                          "health_check: service: must not be given for a check of kind http",
		`{"interval": "1s", "fast_interval": "2s"}`: "health_check: fast_interval 2s: must be at most interval, which is 1s",
		`{"fast_interval": "6s"}`:                   "health_check: fast_interval 6s: must be at most interval, which is 5s when it is left out",
	} {
		_, err := newConfig(t).load(`{"upstreams": [{"dial": "a:1"}], "health_check": ` + check + `}`)
		expectError(t, err, want)
	}
}
func TestBudgetDefaults(t *testing.T) {
	for config, want := range map[string]pool.BudgetSettings{
		`{}`:                                           {Ratio: 0.2, PerSecond: 10},
		`{"budget": null}`:                             {Ratio: 0.2, PerSecond: 10},
		`{"budget": {}}`:                               {Ratio: 0.2, PerSecond: 10},
		`{"budget": {"ratio": 0.5}}`:                   {Ratio: 0.5, PerSecond: 10},
		`{"budget": {"per_second": 3}}`:                {Ratio: 0.2, PerSecond: 3},
		`{"budget": {"ratio": 0}}`:                     {Ratio: 0, PerSecond: 10},
		`{"budget": {"ratio": 0, "per_second": 0}}`:    {},
		`{"budget": {"ratio": null, "per_second": 0}}`: {Ratio: 0.2},
	} {
		h := newConfig(t).mustLoad(`{"upstreams": [{"dial": "a:1"}], "retry": ` + config + `}`)
		if got := h.rules.Retry.Budget; got != want {
			t.Errorf("%s: %+v, want %+v", config, got, want)
		}
	}
}
