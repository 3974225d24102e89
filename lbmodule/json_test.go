package lbmodule

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/ballastlb/ballast/lbmodule/config"
	"github.com/ballastlb/ballast/lbmodule/policies"
)

func TestBadJSONIsRefused(t *testing.T) {
	for name, test := range map[string]struct {
		settings string
		want     []string
	}{
		"nobody":                {`{}`, []string{"upstreams: none given"}},
		"unknown key":           {`{"upstreams": [{"dial": "a:1"}], "brakers": {}}`, []string{"brakers"}},
		"null backend":          {`{"backends": [null]}`, []string{"backends: position 0 is null"}},
		"no address":            {`{"backends": [{"name": "a"}]}`, []string{"backend: address: missing"}},
		"no port":               {`{"backends": [{"address": "a"}]}`, []string{"backend a: address: must have a port"}},
		"port range":            {`{"backends": [{"address": "a:1-3"}]}`, []string{"backend a:1-3: address: must be one socket, not a range of 3 ports"}},
		"upstream port range":   {`{"upstreams": [{"dial": "a:1-3"}]}`, []string{"upstream a:1-3", "one socket"}},
		"weight":                {`{"backends": [{"address": "a:1", "weight": 65536}]}`, []string{"backend a:1: weight 65536: must be from 0 to 65535"}},
		"negative weight":       {`{"backends": [{"address": "a:1", "weight": -1}]}`, []string{"backend a:1: weight -1"}},
		"max_requests":          {`{"backends": [{"address": "a:1", "max_requests": -1}]}`, []string{"backend a:1: max_requests -1: must be from 1 to 10000000"}},
		"max_requests, word":    {`{"backends": [{"address": "a:1", "max_requests": "sometimes"}]}`, []string{`backends: position 0: max_requests "sometimes": must be a whole number from 1 to 10000000, or auto`}},
		"max_requests of all":   {`{"upstreams": [{"dial": "a:1"}], "max_requests": "all"}`, []string{`max_requests "all": must be a whole number from 1 to 10000000, or auto`}},
		"upstream max_requests": {`{"upstreams": [{"dial": "a:1", "max_requests": -1}]}`, []string{"upstream a:1: max_requests -1: must not be negative"}},
		"address twice":         {`{"backends": [{"address": "a:1"}, {"address": "a:1"}]}`, []string{"backend a:1: given twice"}},
		"name twice":            {`{"backends": [{"address": "a:1", "name": "x"}, {"address": "b:1", "name": "x"}]}`, []string{"backend b:1: name x: is already the name of backend a:1"}},
		"name of an upstream":   {`{"upstreams": [{"dial": "b:1"}], "backends": [{"address": "a:1", "name": "b:1"}]}`, []string{"backend a:1: name b:1: is the address of another backend"}},
		"upstream and backend":  {`{"upstreams": [{"dial": "a:1"}], "backends": [{"address": "a:1"}]}`, []string{"backend a:1: address: given more than once"}},
		"pool name":             {`{"name": "a b", "upstreams": [{"dial": "a:1"}]}`, []string{`name "a b": must consist of letters`}},
		"backend name":          {`{"backends": [{"address": "a:1", "name": "<b>"}]}`, []string{`backend a:1: name "<b>": must consist of letters`}},
		"zone":                  {`{"backends": [{"address": "a:1", "zone": "x y"}]}`, []string{`backend a:1: zone "x y"`}},
		"policy":                {`{"upstreams": [{"dial": "a:1"}], "load_balancing": {"selection_policy": {"policy": "best"}}}`, []string{"selection_policy best", "unknown module"}},
		"policy without name":   {`{"upstreams": [{"dial": "a:1"}], "load_balancing": {"selection_policy": {}}}`, []string{"selection_policy: policy: must be the name"}},
		"policy not an object":  {`{"upstreams": [{"dial": "a:1"}], "load_balancing": {"selection_policy": 7}}`, []string{"selection_policy"}},
		"policy settings":       {`{"upstreams": [{"dial": "a:1"}], "load_balancing": {"selection_policy": {"policy": "random", "choose": 3}}}`, []string{"choose"}},
		"weights by position": {
			`{"upstreams": [{"dial": "a:1"}], "load_balancing": {"selection_policy": {"policy": "weighted_round_robin", "weights": [1, 2]}}}`,
			[]string{"weighted_round_robin: 2 weights for 1 backends"},
		},
		"weight by position": {
			`{"upstreams": [{"dial": "a:1"}], "load_balancing": {"selection_policy": {"policy": "weighted_round_robin", "weights": [70000]}}}`,
			[]string{"weighted_round_robin: weight 70000: must be from 0 to 65535"},
		},
		"weights in two places": {
			`{"backends": [{"address": "a:1", "weight": 2}], "load_balancing": {"selection_policy": {"policy": "weighted_round_robin", "weights": [1]}}}`,
			[]string{"backend a:1: weight 2: weighted_round_robin lists weights, too"},
		},
		"dynamic source":    {`{"dynamic_upstreams": {"source": "carrier_pigeon"}}`, []string{"dynamic_upstreams", "unknown module"}},
		"transport":         {`{"upstreams": [{"dial": "a:1"}], "transport": {"protocol": "smoke"}}`, []string{"unknown module"}},
		"transport setting": {`{"upstreams": [{"dial": "a:1"}], "transport": {"protocol": "http", "speed": 1}}`, []string{"speed"}},
		"two checks": {
			`{"upstreams": [{"dial": "a:1"}], "health_checks": {"active": {"uri": "/"}}, "health_check": {"disabled": true}}`,
			[]string{"health_check", "health_uri"},
		},
		"two retries": {
			`{"upstreams": [{"dial": "a:1"}], "load_balancing": {"retries": 2}, "retry": {"disabled": true}}`,
			[]string{"retry", "lb_retries"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := newConfig(t).load(test.settings)
			expectError(t, err, test.want...)
		})
	}
}

// Settings whose machinery is not part of this version are refused where they would promise something, and
// accepted where they are off or at their defaults.
func TestSettingsToCome(t *testing.T) {
	for setting, want := range map[string]string{
		`"hold": {"disabled": true}`:       "",
		`"hold": "10s"`:                    "",
		`"hold": {"off": true}`:            "hold",
		`"hold": 0`:                        "hold 0s: must be from 1ms to 1m",
		`"hold": "61s"`:                    "hold 1m1s: must be from 1ms to 1m",
		`"slow_start": {"disabled": true}`: "",
		`"slow_start": "10s"`:              "",
		`"slow_start": 10000000000`:        "",
		`"slow_start": {"off": true}`:      "slow_start",
		`"slow_start": "20s"`:              "",
		`"slow_start": "-1s"`:              "slow_start",
		`"breaker": {"disabled": true}`:    "",
		`"breaker": {}`:                    "",
		`"breaker": {"failure_ratio": 0.5, "open": {"first": "5s", "max": 60000000000}}`:  "",
		`"breaker": {"failure_ratio": 0.6}`:                                               "",
		`"breaker": {"failure_ratio": 60}`:                                                "must be from 0.1% to 100%",
		`"breaker": {"failure_status": [99]}`:                                             "must be a status",
		`"breaker": {"failure_status": [503, "504", "grpc:unavailable", "grpc:unknown"]}`: "",
		`"breaker": {"failure_status": ["grpc:down"]}`:                                    "breaker: failure_status grpc:down: must be grpc: and one of cancelled, unknown,",
		`"breaker": {"failure_status": ["grpc:ok"]}`:                                      "must be grpc: and one of",
		`"breaker": {"failure_status": ["grpc:UNAVAILABLE"]}`:                             "must be grpc: and one of",
		`"breaker": {"failure_status": ["grpc:14"]}`:                                      "must be grpc: and one of",
		`"breaker": {"failure_status": ["unavailable"]}`:                                  "must be a status from 400 to 599 or a gRPC status",
		`"breaker": {"failure_status": [503.5]}`:                                          "status 503.5: must be a number",
		`"breaker": {"failure_status": [null]}`:                                           "position 0 is null",
		`"breaker": {"failure_status": [{}]}`:                                             "must be a number",
		`"breaker": {"failure_status": [true]}`:                                           "must be a number",
		`"breaker": {"failure_status": [""]}`:                                             "must be a number",
		`"breaker": {"failure_status": [1e30]}`:                                           "must be a number",
		`"breaker": {"failure_status": 503}`:                                              "failure_status",
		`"retry": {"on": ["connect", "grpc:unavailable", "grpc:aborted"]}`:                "",
		`"retry": {"on": ["grpc:down"]}`:                                                  "retry: on grpc:down: must be grpc: and one of",
		`"retry": {"on": ["grpc:ok"]}`:                                                    "must be grpc: and one of",
		`"retry": {"on": [503]}`:                                                          "on",
		`"breaker": {"dry_run": true}`:                                                    "",
		`"retry": {"disabled": true}`:                                                     "",
		`"retry": {"attempts": 2}`:                                                        "",
		`"retry": {"attempts": 3}`:                                                        "",
		`"retry": {"idempotency_key": true, "try_timeout": 0}`:                            "",
		`"retry": {"try_timeout": -1}`:                                                    "",
		`"retry": {"idempotency_key": "X-Key"}`:                                           "idempotency_key",
		`"retry": {"on": ["monday"]}`:                                                     "must be connect, reset, timeout",
		`"queue": {"disabled": true}`:                                                     "",
		`"queue": {"size": 10, "timeout": "1s"}`:                                          "",
		`"queue": {"size": 0, "timeout": "1s"}`:                                           "must be from 1 to 1000000",
		`"hedge": {"disabled": true}`:                                                     "",
		`"hedge": {"percentile": 0.95, "max_extra": 0.02}`:                                "",
		`"hedge": {"percentile": 0.9, "max_extra": 0.1}, "load_balancing": {"selection_policy": {"policy": "foreign"}}`:                     "must be one of the lb_ policies",
		`"hedge": {"percentile": 0.9, "max_extra": 0.1}, "headers": {"request": {"set": {"X-To": ["{http.reverse_proxy.upstream.host}"]}}}`: "must not depend on the upstream",
		`"hedge": {"percentile": 0.9, "max_extra": 0.1}, "transport": {"protocol": "http", "proxy_protocol": "v1"}`:                         "the transport uses the PROXY protocol",
		`"hedge": {"percentile": 0.9}`:       "hedge: max_extra 0%: must be from 0.1% to 100%",
		`"hedge": {"percentile": 95}`:        "must be from 1% to 99.99%",
		`"panic_threshold": 0`:               "",
		`"panic_threshold": 0.3`:             "",
		`"panic_threshold": 2`:               "must be from 0% to 100%",
		`"prefer_zone": ""`:                  "",
		`"prefer_zone": "eu-1"`:              "",
		`"drain_timeout": "5m"`:              "",
		`"drain_timeout": -1`:                "must be from 1ms to 8760h",
		`"drain_sticky": {"disabled": true}`: "",
		`"drain_sticky": {"on": true}`:       "unknown field",
		`"debug_header": {"disabled": true}`: "",
		`"debug_header": {"name": "X-Balance", "ranges": ["10.0.0.0/8"]}`:                "",
		`"debug_header": {"name": "content-length", "ranges": ["10.0.0.0/8"]}`:           "debug_header content-length: must not be",
		`"debug_header": {"name": "X-Balance", "ranges": ["everybody"]}`:                 "must be an address or a CIDR range",
		`"health_check": {"disabled": true}`:                                             "",
		`"health_check": {"type": "http", "uri": "/"}`:                                   "",
		`"health_check": {"type": "grpc"}`:                                               "the transport speaks HTTP/1 only",
		`"health_check": {"type": "grpc"}, "transport": {"protocol": "http", "tls": {}}`: "",
		`"health_check": {"expect_body": "("}`:                                           "must be a regular expression",
		`"health_check": {"port": 70000}`:                                                "must be from 1 to 65535",
		`"health_check": {"upstream": "a:1-2"}`:                                          "must be one socket",
		`"health_check": {"uri": "http://other/"}`:                                       "must be a path",
		`"health_check": {"rise": -1}`:                                                   "must be from 1 to 1000",
		`"health_check": {"status": ["999"]}`:                                            "must be a status",
		`"health_check": {"headers": {"a b": ["c"]}}`:                                    "must be the name of a header field",
		`"health_check": {"transport": {"protocol": "smoke"}}`:                           "health_check: transport",
		`"max_fail_ratio": 0.5`:                                                          "max_fail_ratio 50%: needs fail_duration",
		`"max_fail_ratio": 0.5, "health_checks": {"passive": {"fail_duration": "10s"}}`:  "",
		`"health_checks": {"passive": {"fail_duration": -1}}`:                            "must be at least 0",
		`"health_checks": {"active": {"uri": "/", "expect_body": "("}}`:                  "must be a regular expression",
		`"health_check": {"type": "icmp"}`:                                               "must be http, tcp, tls or grpc",
	} {
		t.Run(setting, func(t *testing.T) {
			_, err := newConfig(t).load(`{"upstreams": [{"dial": "a:1"}], ` + setting + `}`)
			if want != "" {
				expectError(t, err, want)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
}

func TestStatusJSON(t *testing.T) {
	for text, want := range map[string]string{
		`[503,"grpc:unavailable"]`: `[503,"grpc:unavailable"]`,
		`["503", "grpc:internal"]`: `[503,"grpc:internal"]`,
		`["nonsense"]`:             `["nonsense"]`, // for whoever checks it to name
	} {
		var got []config.Status
		if err := json.Unmarshal([]byte(text), &got); err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if written, err := json.Marshal(got); err != nil || string(written) != want {
			t.Errorf("%s is written as %s, %v; want %s", text, written, err, want)
		}
	}
}

func TestSlowStartJSON(t *testing.T) {
	for text, want := range map[string]config.SlowStart{
		`{"disabled":true}`: {Disabled: true},
		`"10s"`:             {Window: caddy.Duration(10 * time.Second)},
		`5000000000`:        {Window: caddy.Duration(5 * time.Second)},
	} {
		var got config.SlowStart
		if err := json.Unmarshal([]byte(text), &got); err != nil || got != want {
			t.Errorf("%s: got %+v, %v; want %+v", text, got, err, want)
		}
		written, err := json.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		var again config.SlowStart
		if err := json.Unmarshal(written, &again); err != nil || again != want {
			t.Errorf("%s is written as %s, which reads as %+v, %v", text, written, again, err)
		}
	}
}

// A JSON config of reverse_proxy works with the one word changed, and stock policies are served by ours.
func TestPolicies(t *testing.T) {
	for stock, want := range map[string]string{
		`{"policy": "round_robin"}`:                               `lb_round_robin`,
		`{"policy": "weighted_round_robin", "weights": [1, 2]}`:   `lb_weighted_round_robin`,
		`{"policy": "least_conn"}`:                                `lb_least_conn`,
		`{"policy": "random"}`:                                    `lb_random`,
		`{"policy": "first"}`:                                     `lb_first`,
		`{"policy": "lb_first"}`:                                  `lb_first`,
		`{"policy": "p2c"}`:                                       `lb_p2c`,
		`{"policy": "random_choose", "choose": 2}`:                `lb_p2c`,
		`{"policy": "random_choose"}`:                             `lb_p2c`,
		`{"policy": "lb_p2c", "choose": 3}`:                       `lb_p2c`,
		`{"policy": "peak_ewma"}`:                                 `lb_peak_ewma`,
		`{"policy": "lb_peak_ewma", "until": "last_byte"}`:        `lb_peak_ewma`,
		`{"policy": "hash", "keys": ["{http.request.uri.path}"]}`: `lb_hash`,
		`{"policy": "ip_hash"}`:                                   `ip_hash`,
		`{"policy": "header", "field": "X-User"}`:                 `header`,
		`{"policy": "cookie", "name": "lb", "secret": "s3cret"}`:  `cookie`,
	} {
		t.Run(stock, func(t *testing.T) {
			h := newConfig(t).mustLoad(`{"upstreams": [{"dial": "a:1"}, {"dial": "b:1"}], "load_balancing": {"selection_policy": ` + stock + `}}`)
			if got := string(h.service.Policy().(caddy.Module).CaddyModule().ID); got != policies.Namespace+"."+want {
				t.Errorf("served by %s, want %s", got, want)
			}
			if got := shares(t, h, 10); got["a:1"]+got["b:1"] != 10 {
				t.Errorf("shares = %v", got)
			}
		})
	}
	h := newConfig(t).mustLoad(`{"upstreams": [{"dial": "a:1"}]}`)
	if _, ok := h.service.Policy().(*policies.PeakEWMA); !ok {
		t.Errorf("the default policy is %T, want peak EWMA", h.service.Policy())
	}
}

func TestWeights(t *testing.T) {
	for name, test := range map[string]struct {
		settings string
		n        int
		want     map[string]int
	}{
		"by position": {
			`{"upstreams": [{"dial": "a:1"}, {"dial": "b:1"}, {"dial": "c:1"}],
			  "load_balancing": {"selection_policy": {"policy": "weighted_round_robin", "weights": [5, 3, 2]}}}`,
			100, map[string]int{"a:1": 50, "b:1": 30, "c:1": 20},
		},
		"on backends": {
			`{"upstreams": [{"dial": "c:1"}], "backends": [{"address": "a:1", "weight": 3}, {"address": "b:1", "weight": 0}],
			  "load_balancing": {"selection_policy": {"policy": "weighted_round_robin"}}}`,
			100, map[string]int{"a:1": 75, "c:1": 25},
		},
		"round robin with weights": {
			`{"backends": [{"address": "a:1", "weight": 3}, {"address": "b:1"}],
			  "load_balancing": {"selection_policy": {"policy": "round_robin"}}}`,
			100, map[string]int{"a:1": 75, "b:1": 25},
		},
		"an upstream given twice": {
			`{"upstreams": [{"dial": "a:1"}, {"dial": "b:1"}, {"dial": "a:1"}], "load_balancing": {"selection_policy": {"policy": "round_robin"}}}`,
			99, map[string]int{"a:1": 66, "b:1": 33},
		},
		"an upstream given twice, weights by position": {
			`{"upstreams": [{"dial": "a:1"}, {"dial": "b:1"}, {"dial": "a:1"}],
			  "load_balancing": {"selection_policy": {"policy": "weighted_round_robin", "weights": [1, 2, 5]}}}`,
			80, map[string]int{"a:1": 60, "b:1": 20},
		},
		"backup": {
			`{"backends": [{"address": "a:1"}, {"address": "b:1", "backup": true}]}`,
			10, map[string]int{"a:1": 10},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := shares(t, newConfig(t).mustLoad(test.settings), test.n)
			for address, want := range test.want {
				if got[address] != want {
					t.Errorf("shares = %v, want %v", got, test.want)
				}
			}
		})
	}
}

func TestWarnings(t *testing.T) {
	for name, test := range map[string]struct{ settings, want string }{
		"twice":   {`{"upstreams": [{"dial": "a:1"}, {"dial": "a:1"}]}`, "upstream given more than once"},
		"zero":    {`{"backends": [{"address": "a:1", "weight": 0}]}`, "all weights are zero"},
		"unused":  {`{"backends": [{"address": "a:1", "weight": 2}, {"address": "b:1"}], "load_balancing": {"selection_policy": {"policy": "first"}}}`, "ignores weights"},
		"no zone": {`{"prefer_zone": "{env.BALLAST_TEST_NOT_SET}", "backends": [{"address": "a:1"}]}`, "prefer_zone is empty and has no effect"},
		"nothing": {`{"backends": [{"address": "a:1", "weight": 2}, {"address": "b:1"}]}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			c := newConfig(t)
			c.mustLoad(test.settings)
			var warnings []string
			for line := range strings.Lines(c.logged()) {
				if strings.Contains(line, `"level":"warn"`) {
					warnings = append(warnings, line)
				}
			}
			switch {
			case test.want == "" && len(warnings) > 0:
				t.Errorf("warned: %v", warnings)
			case test.want != "" && (len(warnings) != 1 || !strings.Contains(warnings[0], test.want)):
				t.Errorf("warnings = %v, want one with %q", warnings, test.want)
			}
		})
	}
}

// A backup has a level from 1 to 9.
func TestBackupLevels(t *testing.T) {
	for text, want := range map[string]string{`"yes"`: "must be true, false or a level", `1.5`: "must be", `10`: "must be from 1 to 9", `-1`: "must be from 1 to 9"} {
		_, err := newConfig(t).load(`{"backends": [{"address": "a:1", "backup": ` + text + `}]}`)
		expectError(t, err, "backup", want)
	}
}

func TestPreferZone(t *testing.T) {
	c := newConfig(t)
	h := c.mustLoad(`{"name": "zoned", "prefer_zone": "eu-1", "backends": [{"address": "a:1", "zone": "eu-1"}, {"address": "b:1", "zone": "eu-2"}, {"address": "c:1"}]}`)
	if got := shares(t, h, 50); got["a:1"] != 50 {
		t.Errorf("shares = %v, want all in the zone", got)
	}
	t.Setenv("BALLAST_TEST_ZONE", "eu-2")
	named := c.mustLoad(`{"name": "zoned-named", "prefer_zone": "{env.BALLAST_TEST_ZONE}", "backends": [{"address": "a:1", "zone": "eu-1"}, {"address": "b:1", "zone": "eu-2"}]}`)
	if got := shares(t, named, 10); got["b:1"] != 10 {
		t.Errorf("shares = %v, want all in the zone of the environment", got)
	}
	unset := c.mustLoad(`{"name": "zoned-unset", "prefer_zone": "{env.BALLAST_TEST_NOT_SET}", "backends": [{"address": "a:1", "zone": "eu-1"}, {"address": "b:1", "zone": "eu-2"}],
		"load_balancing": {"selection_policy": {"policy": "round_robin"}}}`)
	if got := shares(t, unset, 10); got["a:1"] != 5 || got["b:1"] != 5 {
		t.Errorf("shares = %v, want those without a zone", got)
	}
	if got := strings.Join(unset.service.Warnings(), "\n"); !strings.Contains(got, "prefer_zone is empty") {
		t.Errorf("warnings %q", got)
	}
	t.Setenv("BALLAST_TEST_ZONE", "e u")
	_, err := c.load(`{"prefer_zone": "{env.BALLAST_TEST_ZONE}", "backends": [{"address": "a:1"}]}`)
	expectError(t, err, "prefer_zone \"e u\": must consist of letters")
	c.mustLoad(`{"name": "unzoned", "prefer_zone": "eu-3", "backends": [{"address": "a:1", "zone": "eu-1"}]}`)
	if log := c.logged(); !strings.Contains(log, "no backend is in the preferred zone") || strings.Count(log, "preferred zone") != 1 {
		t.Errorf("log: %s", log)
	}
	// Policies of other plugins see the zone only.
	foreign := c.mustLoad(`{"name": "zoned-foreign", "prefer_zone": "eu-2", "backends": [{"address": "a:1", "zone": "eu-1"}, {"address": "b:1", "zone": "eu-2"}],
		"load_balancing": {"selection_policy": {"policy": "foreign"}}}`)
	if got := shares(t, foreign, 10); got["b:1"] != 10 {
		t.Errorf("shares = %v, want all in the zone", got)
	}
}

// A wrong address is refused wherever it is given.
func TestWrongAddress(t *testing.T) {
	for _, settings := range []string{`{"upstreams": [{"dial": "a"}]}`, `{"backends": [{"address": "a"}]}`} {
		_, err := newConfig(t).load(settings)
		expectError(t, err, "must have a port")
	}
}
