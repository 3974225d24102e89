package integration

import (
	"strings"
	"testing"
)

// What `caddy run` refuses, `caddy validate` refuses, with the line of the word that is wrong.
func TestValidateNamesTheLine(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		config string
		want   []string // nothing where it is right
	}{
		"pool that is nowhere": {
			":8080 {\n\trespond /a a\n\thandle {\n\t\tload_balancer_ready nopool\n\t}\n\tload_balancer /b 127.0.0.1:1\n}",
			[]string{"there is no pool named nopool", "/Caddyfile:4"},
		},
		"one of two pools": {
			":8080 {\n\tload_balancer 127.0.0.1:1 {\n\t\tname web\n\t}\n}\n:8081 {\n\tload_balancer_ready web nopool\n}",
			[]string{"there is no pool named nopool", "/Caddyfile:7"},
		},
		"pool of a later site": {
			":8081 {\n\tload_balancer_ready web\n}\n:8080 {\n\tload_balancer 127.0.0.1:1 {\n\t\tname web\n\t}\n}", nil,
		},
		"pool of a named route": {
			"&(proxied) {\n\tload_balancer 127.0.0.1:1 {\n\t\tname web\n\t}\n}\n:8081 {\n\tload_balancer_ready /ready web\n\tinvoke proxied\n}", nil,
		},
		"backend":            {":8080 {\n\tload_balancer {\n\t\tname web\n\t\tbackend 127.0.0.1:0\n\t}\n}", []string{"must have a port", "/Caddyfile:4"}},
		"fail_duration":      {":8080 {\n\tload_balancer 127.0.0.1:1 {\n\t\tname web\n\t\tfail_duration -1s\n\t}\n}", []string{"/Caddyfile:4"}},
		"retries":            {":8080 {\n\tload_balancer 127.0.0.1:1 {\n\t\tlb_retries 2\n\t\tretry off\n\t}\n}", []string{"/Caddyfile:4; lb_retries is on line 3"}},
		"health checks":      {":8080 {\n\tload_balancer 127.0.0.1:1 {\n\t\thealth_uri /\n\t\thealth_check {\n\t\t\ttcp\n\t\t}\n\t}\n}", []string{"/Caddyfile:4; health_uri is on line 3"}},
		"weight of upstream": {":8080 {\n\tload_balancer 127.0.0.1:8080 weight=3\n}", []string{"/Caddyfile:2; did you mean a block: backend 127.0.0.1:8080 { weight 3 }?"}},
		"transport's file": {
			":8080 {\n\tload_balancer https://127.0.0.1:1 {\n\t\ttransport http {\n\t\t\ttls_trust_pool file /nowhere/ca.pem\n\t\t}\n\t}\n}", []string{"/nowhere/ca.pem"},
		},
		"file of a check's transport": {
			":8080 {\n\tload_balancer 127.0.0.1:1 {\n\t\thealth_check {\n\t\t\ttls\n\t\t\ttransport http {\n\t\t\t\ttls_trust_pool file /nowhere/ca.pem\n\t\t\t}\n\t\t}\n\t}\n}",
			[]string{"/nowhere/ca.pem"},
		},
		"redis":  {":8080 {\n\tip_rate_limit {\n\t\trate 1/s\n\t\tredis http://127.0.0.1\n\t}\n}", []string{"/Caddyfile:4"}},
		"regexp": {":8080 {\n\tload_balancer 127.0.0.1:1 {\n\t\thealth_uri /\n\t\thealth_body \"(\"\n\t}\n}", []string{"/Caddyfile:4"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, err := runCaddy(t, test.config+"\n", "validate")
			if (err == nil) != (test.want == nil) {
				t.Errorf("validate: %v\n%s\nwant an error with %q", err, out, test.want)
			}
			for _, want := range test.want {
				if !strings.Contains(out, want) {
					t.Errorf("validate: %v\n%s\nwant an error with %q", err, out, want)
				}
			}
		})
	}
}

// A dashboard that everybody gets to see who comes to a site is warned of; one with a path, a login or a local address is not.
func TestOpenDashboardIsWarnedOf(t *testing.T) {
	t.Parallel()
	const login = "basic_auth {\n\t\tann $2a$14$51WfOHkuzRwKiE7uRIBTwu0agB8pyUKbJDKTzeQ9iRHEgkSiYSpvC\n\t}\n"
	for config, warns := range map[string]bool{
		":8080 {\n\tload_balancer_dashboard\n\tload_balancer 127.0.0.1:1\n}":                                              true,
		"http://example.com {\n\tload_balancer_dashboard {\n\t\tactions\n\t}\n}":                                          true,
		"http://example.com, http://localhost {\n\tload_balancer_dashboard\n}":                                            true,
		":8080 {\n\thandle /app* {\n\t\trespond a\n\t}\n\thandle {\n\t\tload_balancer_dashboard\n\t}\n}":                  true,
		":8080 {\n\troute {\n\t\tload_balancer_dashboard\n\t}\n}":                                                         true,
		":8080 {\n\t@get method GET\n\theader X-A b\n\trespond @get /b c\n\tload_balancer_dashboard *\n}":                 true,
		":8080 {\n\thandle /admin* {\n\t\t" + login + "\t}\n\tload_balancer_dashboard\n}":                                 true,
		":8080 {\n\tload_balancer_dashboard /lb*\n}":                                                                      false,
		":8080 {\n\thandle_path /lb/* {\n\t\tload_balancer_dashboard\n\t}\n}":                                             false,
		":8080 {\n\t@inside remote_ip private_ranges\n\thandle @inside {\n\t\tload_balancer_dashboard\n\t}\n}":            false,
		"http://example.com {\n\t" + login + "\tload_balancer_dashboard\n}":                                               false,
		":8080 {\n\troute {\n\t\t" + login + "\t\tload_balancer_dashboard\n\t}\n}":                                        false,
		":8080 {\n\tforward_auth 127.0.0.1:1 {\n\t\turi /login\n\t}\n\tload_balancer_dashboard\n}":                        false,
		"http://localhost:8080 {\n\tload_balancer_dashboard\n}":                                                           false,
		"http://lb.internal, http://10.0.0.1 {\n\tload_balancer_dashboard\n}":                                             false,
		":8080 {\n\tbind 127.0.0.1 192.168.0.1\n\tload_balancer_dashboard\n}":                                             false,
		":8080 {\n\tbind unix//run/lb.sock\n\tload_balancer_dashboard\n}":                                                 false,
		":8080 {\n\tload_balancer 127.0.0.1:1\n}\n:8081 {\n\tload_balancer_dashboard /a\n\tload_balancer_dashboard /b\n}": false,
	} {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			out, err := runCaddy(t, config+"\n", "validate")
			if err != nil {
				t.Fatalf("%s\n%v\n%s", config, err, out)
			}
			want := 0
			if warns {
				want = 1
			}
			if n := strings.Count(out, "serves a whole public site"); n != want {
				t.Errorf("%s\nwarned %d times, want %d\n%s", config, n, want, out)
			}
		})
	}
}
