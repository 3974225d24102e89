package lbmodule

import (
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"

	"github.com/ballastlb/ballast/lbmodule/config"
	_ "github.com/ballastlb/ballast/ratelimit"
)

// everything is a load balancer with something in everything that a walk is to go into.
const everything = `{
	"handler": "load_balancer", "name": "web",
	"upstreams": [{"dial": "127.0.0.1:9001", "max_requests": 3}],
	"backends": [{"address": "127.0.0.1:9002", "name": "b", "weight": 2, "max_requests": 4, "backup": 2, "zone": "eu"}],
	"dynamic_upstreams": {"source": "a", "name": "localhost", "port": "9003", "resolver": {"addresses": ["127.0.0.1:53"]}, "versions": {"ipv4": true}},
	"load_balancing": {"selection_policy": {"policy": "lb_hash", "keys": ["{path}"], "bounded_load": 1.5, "fallback": {"policy": "lb_p2c", "choose": 3}}},
	"health_checks": {"passive": {"fail_duration": "10s", "max_fails": 2, "unhealthy_request_count": 5, "unhealthy_status": [500], "unhealthy_latency": "5s"}},
	"transport": {"protocol": "http", "resolver": {"addresses": ["127.0.0.1:53"]}, "versions": ["1.1"], "keep_alive": {"probe_interval": "1s"}},
	"headers": {"request": {"set": {"A": ["b"]}, "replace": {"C": [{"search": "d", "replace": "e"}]}}, "response": {"delete": ["F"], "require": {"status_code": [2]}}},
	"rewrite": {"uri_substring": [{"find": "a", "replace": "b"}], "path_regexp": [{"find": "a", "replace": "b"}], "query": {"add": [{"key": "a", "val": "b"}], "replace": [{"key": "a", "search": "b"}]}},
	"handle_response": [{"match": {"status_code": [404], "headers": {"A": ["b"]}}, "routes": [{"match": [{"path": ["/a"]}],
		"handle": [{"handler": "rewrite", "path_regexp": [{"find": "a", "replace": "b"}]}, {"handler": "static_response", "body": "c"}]}]}],
	"trusted_proxies": ["10.0.0.0/8"],
	"circuit_breaker": {"type": "lb_breaker", "failure_ratio": 0.5},
	"slow_start": "10s", "panic_threshold": 0.1, "queue": {"size": 10, "timeout": "1s"}, "prefer_zone": "eu",
	"drain_timeout": "5m", "drain_sticky": {"disabled": true}, "debug_header": {"name": "X-Balance", "ranges": ["10.0.0.0/8"]},
	"health_check": {"type": "http", "uri": "/", "status": ["2xx"], "method": "GET", "headers": {"A": ["b"]}, "body": "a", "expect_body": "b", "max_size": 100,
		"port": 80, "upstream": "127.0.0.1:1", "transport": {"protocol": "http", "tls": {}}, "interval": "5s", "fast_interval": "1s", "timeout": "2s", "rise": 2, "fall": 3, "initial": "up"},
	"max_fail_ratio": 0.5,
	"breaker": {"consecutive_failures": 5, "failure_ratio": 0.5, "slow_ratio": {"ratio": 0.5, "latency": "2s"}, "window": "10s", "min_requests": 20,
		"open": {"first": "5s", "max": "60s"}, "probes": 3, "failure_status": [502], "max_ejected": 0.5, "dry_run": true},
	"retry": {"attempts": 2, "on": ["connect"], "backoff": {"base": "25ms", "max": "250ms"}, "budget": {"ratio": 0.2, "per_second": 10},
		"try_timeout": "30s", "non_idempotent": true, "body_limit": 65536}
}`

// others are load balancers with what everything cannot have besides, and the other handlers.
var others = []string{
	`{"handler": "load_balancer", "upstreams": [{"dial": "127.0.0.1:9001"}],
		"load_balancing": {"selection_policy": {"policy": "lb_sticky", "secrets": ["0123456789abcdef"], "max_age": "1h"}, "retries": 2, "try_duration": "5s", "try_interval": "1s",
			"retry_match": [{"method": ["POST"], "path": ["/a"]}]},
		"health_checks": {"active": {"uri": "/", "headers": {"A": ["b"]}, "interval": "5s", "timeout": "1s", "passes": 1, "fails": 1, "max_size": 10, "expect_status": 2, "expect_body": "a", "port": 80}},
		"hedge": {"percentile": 0.95, "max_extra": 0.02}}`,
	`{"handler": "load_balancer", "dynamic_upstreams": {"source": "multi", "sources": [{"source": "srv", "name": "a", "resolver": {"addresses": ["127.0.0.1:53"]}}]},
		"load_balancing": {"selection_policy": {"policy": "weighted_round_robin", "weights": [1, 2]}}}`,
	`{"handler": "load_balancer", "upstreams": [{"dial": "127.0.0.1:9001"}], "load_balancing": {"selection_policy": {"policy": "cookie", "name": "a", "fallback": {"policy": "random_choose", "choose": 2}}}}`,
	`{"handler": "reverse_proxy", "upstreams": [{"dial": "127.0.0.1:9001"}], "circuit_breaker": {"type": "lb_breaker", "failure_ratio": 0.5, "open": {"first": "1s", "max": "2s"}}}`,
	`{"handler": "ip_rate_limit", "zone": "a", "rate": "10/s", "burst": 20, "concurrency": 5, "key": "{client_ip}", "ipv6_prefix": 56, "ipv6_tiers": {"disabled": true}, "max_keys": 100,
		"exempt": ["10.0.0.0/8"], "dry_run": true, "redis": {"url": "redis://127.0.0.1:1/0", "timeout": "50ms", "on_error": "deny", "secret": "a"}}`,
	`{"handler": "load_balancer_ready", "pools": []}`,
	`{"handler": "load_balancer_dashboard", "actions": true}`,
}

// nonsense is what is put in every place in turn: nothing, what is there twice, and these, the first few also where the settings are
// Caddy's.
var nonsense = []string{
	"", "=", `null`, `[null]`, `{}`, `[]`, `{"x": [null]}`, `"x"`, `-1`,
	`{"": null}`, `[{}]`, `[0]`, `["x"]`, `true`, `""`, `"{"`, `"-1s"`, `"9999h"`, `"\u0000"`, `0`, `1.5`, `1e-300`, `1e300`,
	`9223372036854775807`, `-9223372036854775808`, `99999999999999999999999`, `"` + strings.Repeat("x", 1<<16) + `"`,
}

// few is how many of nonsense are the first few.
const few = 9

// place is the way to a value in JSON: keys and positions.
type place []any

func (p place) String() string { return strings.Trim(fmt.Sprint([]any(p)), "[]") }

// places are all in a value, the innermost last.
func places(value any, at place) (all []place) {
	switch v := value.(type) {
	case map[string]any:
		keys := make([]string, 0, len(v))
		for key := range v {
			keys = append(keys, key)
		}
		slices.Sort(keys)
		for _, key := range keys {
			next := append(slices.Clone(at), key)
			all = append(append(all, next), places(v[key], next)...)
		}
	case []any:
		for i := range v {
			next := append(slices.Clone(at), i)
			all = append(append(all, next), places(v[i], next)...)
		}
	}
	return all
}

// replaced returns the JSON of value with other JSON at a place; "" for nothing, "=" for what is there a second time.
func replaced(value any, at place, other string) string {
	var text strings.Builder
	var write func(value any, at place)
	write = func(value any, at place) {
		switch v := value.(type) {
		case map[string]any:
			text.WriteByte('{')
			first := true
			put := func(key string, value any, at place) {
				if !first {
					text.WriteByte(',')
				}
				first = false
				fmt.Fprintf(&text, "%q:", key)
				write(value, at)
			}
			for key, inner := range v {
				switch {
				case len(at) == 0 || at[0] != key:
					put(key, inner, nil)
				case len(at) > 1:
					put(key, inner, at[1:])
				case other == "":
				case other == "=":
					put(key, inner, nil)
					put(key, inner, nil)
				default:
					put(key, json.RawMessage(other), nil)
				}
			}
			text.WriteByte('}')
		case []any:
			text.WriteByte('[')
			for i, inner := range v {
				if i > 0 {
					text.WriteByte(',')
				}
				switch {
				case len(at) == 0 || at[0] != i:
					write(inner, nil)
				case len(at) > 1:
					write(inner, at[1:])
				case other == "": // an element of a list has to be something
					text.WriteString("null")
				case other == "=":
					write(inner, nil)
					text.WriteByte(',')
					write(inner, nil)
				default:
					text.WriteString(other)
				}
			}
			text.WriteByte(']')
		case json.RawMessage:
			text.Write(v)
		default:
			written, _ := json.Marshal(v)
			text.Write(written)
		}
	}
	write(value, at)
	return text.String()
}

// validate does what `caddy validate` does with a site of that one handler.
func validate(t testing.TB, storage, handler string) (err error) {
	t.Helper()
	defer func() {
		if p := recover(); p != nil {
			t.Errorf("panic: %v\nof %s", p, shortened(handler))
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	config := `{"admin": {"disabled": true}, "logging": {"logs": {"default": {"writer": {"output": "discard"}}}},
		"storage": {"module": "file_system", "root": ` + string(mustJSON(storage)) + `},
		"apps": {"http": {"servers": {"site": {"listen": ["127.0.0.1:0"], "routes": [{"handle": [` + handler + `]}]}}}}}`
	var c caddy.Config
	if err := caddy.StrictUnmarshalJSON([]byte(config), &c); err != nil {
		return err
	}
	return caddy.Validate(&c)
}

func mustJSON(value any) []byte {
	text, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	return text
}

func shortened(text string) string {
	if len(text) > 3000 {
		return text[:3000] + "..."
	}
	return text
}

// storageDir is a directory without the test's name, in which Caddy would see placeholders.
func storageDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ballast")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// TestNonsenseIsRefused puts nonsense in every place of configs of all our modules, and has Caddy validate them. Nothing panics, and what
// is of another type than it must be is named.
func TestNonsenseIsRefused(t *testing.T) {
	storage := storageDir(t)
	inputs, refused := 0, 0
	for _, text := range append([]string{everything}, others...) {
		if err := validate(t, storage, text); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		var config any
		if err := json.Unmarshal([]byte(text), &config); err != nil {
			t.Fatal(err)
		}
		for _, at := range places(config, nil) {
			ours := isOurSetting(at) || strings.Contains(text, "ip_rate_limit") && at[0] != "handler"
			if at[0] == "upstreams" && strings.Contains(text, "reverse_proxy") {
				continue // that is Caddy's to see to, which panics
			}
			for i, other := range nonsense {
				if i >= few && !ours {
					break
				}
				inputs++
				err := validate(t, storage, replaced(config, at, other))
				if err == nil {
					continue
				}
				refused++
				// Of one in a list it is said what it is: a backend, a range.
				if named := nameOf(at); ours && !strings.Contains(err.Error(), strings.TrimSuffix(named, "s")) {
					t.Errorf("%v = %s: the error does not name %s: %v", at, shortened(other), named, shortened(err.Error()))
				}
			}
		}
	}
	t.Logf("%d inputs, %d errors", inputs, refused)
}

// nameOf is the last key on the way to a place.
func nameOf(at place) string {
	for _, step := range slices.Backward(at) {
		if key, ok := step.(string); ok {
			return key
		}
	}
	return ""
}

// isOurSetting reports whether a place is in the settings that are ours, and not in a module of Caddy's among them.
func isOurSetting(at place) bool {
	if len(at) > 2 && at[1] == "transport" {
		return false
	}
	if at[0] == "backends" || at[0] == "name" {
		return true
	}
	settings := reflect.TypeFor[config.Settings]()
	for i := range settings.NumField() {
		if key, _, _ := strings.Cut(settings.Field(i).Tag.Get("json"), ","); key == at[0] {
			return true
		}
	}
	return false
}

// FuzzConfig has Caddy validate load balancers of any JSON, with other JSON in one of its places. None panics.
func FuzzConfig(f *testing.F) {
	for _, text := range append([]string{everything}, others[:3]...) {
		for i, other := range nonsense[2:] {
			f.Add(text, uint(i*7), other) // somewhere
		}
	}
	storage := storageDir(f)
	f.Fuzz(func(t *testing.T, text string, at uint, other string) {
		var config map[string]any
		if json.Unmarshal([]byte(text), &config) != nil {
			return
		}
		if all := places(config, nil); len(all) > 0 && json.Valid([]byte(other)) {
			text = replaced(config, all[at%uint(len(all))], other)
		}
		_ = validate(t, storage, text) // it tells of panics
	})
}
