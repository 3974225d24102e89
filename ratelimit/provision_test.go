package ratelimit_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/ballastlb/ballast/ratelimit"
)

// provision provisions a config with these handlers and nothing else.
func provision(t *testing.T, handlers string) error {
	t.Helper()
	var config caddy.Config
	text := `{"admin": {"disabled": true}, "apps": {"http": {"servers": {"s": {"listen": ["127.0.0.1:0"], "routes": [{"handle": [` + handlers + `]}]}}}}}`
	if err := json.Unmarshal([]byte(text), &config); err != nil {
		t.Fatal(err)
	}
	_, err := caddy.ProvisionContext(&config)
	return err
}

func TestProvision(t *testing.T) {
	for name, handlers := range map[string]string{
		"no zone":          `{"handler": "ip_rate_limit", "rate": "1/s"}, {"handler": "ip_rate_limit", "rate": "1/s"}, {"handler": "ip_rate_limit", "concurrency": 3}`,
		"one zone, shared": `{"handler": "ip_rate_limit", "zone": "z", "rate": "1/s"}, {"handler": "ip_rate_limit", "zone": "z", "rate": "1/s"}`,
		"everything": `{"handler": "ip_rate_limit", "zone": "all", "rate": "100/s", "burst": 200, "concurrency": 50, "key": "{http.vars.client_ip}", "ipv6_prefix": 64,
			"ipv6_tiers": {"disabled": true}, "max_keys": 1000, "exempt": ["10.0.0.0/8"], "dry_run": true,
			"redis": {"url": "redis://127.0.0.1:1/0", "timeout": "50ms", "on_error": "local", "secret": "s"}}`,
	} {
		if err := provision(t, handlers); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for want, handlers := range map[string]string{
		"rate: missing":                       `{"handler": "ip_rate_limit"}`,
		"rate 1: must be":                     `{"handler": "ip_rate_limit", "rate": "1"}`,
		"unknown field":                       `{"handler": "ip_rate_limit", "rate": "1/s", "period": "1m"}`,
		"with other settings":                 `{"handler": "ip_rate_limit", "zone": "z", "rate": "1/s"}, {"handler": "ip_rate_limit", "zone": "z", "rate": "2/s"}`,
		"redis: url: scheme \"\"":             `{"handler": "ip_rate_limit", "rate": "1/s", "redis": {"url": "{env.BALLAST_TEST_NOT_SET}"}}`,
		"redis: url: parameter \"pool_size\"": `{"handler": "ip_rate_limit", "rate": "1/s", "redis": {"url": "redis://127.0.0.1?pool_size=1000"}}`,
	} {
		if err := provision(t, handlers); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", handlers, err, want)
		}
	}
}
