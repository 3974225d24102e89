package ratelimit

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/ballastlb/ballast/ratelimit/bucket"
)

func TestLimits(t *testing.T) {
	for _, tt := range []struct {
		settings Settings
		want     bucket.Limits
	}{
		{Settings{Rate: "100/s"}, bucket.Limits{Rate: 100, Burst: 100}},
		{Settings{Rate: "100/s", Burst: 7}, bucket.Limits{Rate: 100, Burst: 7}},
		{Settings{Rate: "90/m"}, bucket.Limits{Rate: 1.5, Burst: 1}},
		{Settings{Rate: "5/m"}, bucket.Limits{Rate: 5.0 / 60, Burst: 1}},
		{Settings{Rate: "0.5/h", Concurrency: 3}, bucket.Limits{Rate: 0.5 / 3600, Burst: 1, Concurrency: 3}},
		{Settings{Concurrency: 3}, bucket.Limits{Concurrency: 3}},
	} {
		if err := tt.settings.CheckWhole(); err != nil {
			t.Errorf("%+v: %v", tt.settings, err)
		}
		if got := tt.settings.limits(); got != tt.want {
			t.Errorf("%+v: got %+v, want %+v", tt.settings, got, tt.want)
		}
	}
}

func TestCheck(t *testing.T) {
	t.Setenv("TEST_RATE", "10/s")
	good := []Settings{
		{Rate: "{env.TEST_RATE}"},
		{Rate: "1/s", Redis: &Redis{URL: "{env.NOT_HERE}"}}, // checked where it is loaded
		{Rate: "1/s", Exempt: []string{"::ffff:10.0.0.1", "10.0.0.0/8", "fe80::1%eth0"}},
	}
	for _, s := range good {
		if err := s.CheckWhole(); err != nil {
			t.Errorf("%+v: %v", s, err)
		}
	}
	bad := map[string]Settings{
		"rate: missing":                       {},
		"rate 1: must be a number per":        {Rate: "1"},
		"rate 1/d: must be a number per":      {Rate: "1/d"},
		"rate NaN/s: must be from":            {Rate: "NaN/s"},
		"rate Inf/s: must be from":            {Rate: "Inf/s"},
		"rate 0/s: must be from":              {Rate: "0/s"},
		"rate 1e-9/s: must be from":           {Rate: "1e-9/s"},
		"burst -1: must be from 1":            {Rate: "1/s", Burst: -1},
		"burst 9000: must be at most":         {Rate: "1/h", Burst: 9000},
		"burst 5: has no effect":              {Concurrency: 1, Burst: 5},
		"concurrency -1: must be":             {Concurrency: -1},
		"ipv6_prefix 129: must be":            {Rate: "1/s", IPv6Prefix: 129},
		"max_keys 100000000: must":            {Rate: "1/s", MaxKeys: 100_000_000},
		"exempt 10.0.0.0/33: must":            {Rate: "1/s", Exempt: []string{"10.0.0.0/33"}},
		"exempt example.com: must":            {Rate: "1/s", Exempt: []string{"example.com"}},
		"zone a b: must consist":              {Rate: "1/s", Zone: "a b"},
		"redis: url: scheme":                  {Rate: "1/s", Redis: &Redis{URL: "memcached://x"}},
		"redis: on_error never: must":         {Rate: "1/s", Redis: &Redis{URL: "redis://x", OnError: "never"}},
		"redis: timeout 1m: must be from":     {Rate: "1/s", Redis: &Redis{URL: "redis://x", Timeout: caddy.Duration(time.Minute)}},
		"redis: has no effect without a rate": {Concurrency: 1, Redis: &Redis{URL: "redis://x"}},
	}
	for want, s := range bad {
		if err := s.CheckWhole(); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%+v: got %v, want %s", s, err, want)
		}
	}
}

func TestQuota(t *testing.T) {
	for _, tt := range []struct {
		rate             string
		burst, multiple  int
		requests, window int
	}{
		{"100/s", 200, 1, 200, 2},
		{"100/s", 100, 1, 100, 1},
		{"1000/s", 10, 1, 1000, 1},
		{"5/m", 5, 1, 5, 60},
		{"5/m", 1, 1, 1, 12},
		{"1/h", 1, 1, 1, 3600},
		{"100/s", 150, 1, 200, 2},
		{"5/m", 5, 16, 80, 60},
		{"0.001/h", 1, 1, 1, 3_600_000},
	} {
		s := Settings{Rate: tt.rate, Burst: tt.burst}
		if requests, window := quota(s.limits(), tt.multiple); requests != tt.requests || window != tt.window {
			t.Errorf("%s, %d times %d: got %d in %d s, want %d in %d", tt.rate, tt.burst, tt.multiple, requests, window, tt.requests, tt.window)
		}
	}
}

func TestSeconds(t *testing.T) {
	for d, want := range map[time.Duration]int{0: 1, 1: 1, time.Second: 1, time.Second + 1: 2, 90 * time.Minute: 5400} {
		if got := seconds(d); got != want {
			t.Errorf("%v: got %d, want %d", d, got, want)
		}
	}
}

func TestRanges(t *testing.T) {
	s := Settings{Exempt: []string{"10.0.0.0/8", "192.0.2.1", "2001:db8::/32", "::1", "::ffff:198.51.100.0/120"}}
	r, err := s.exempt()
	if err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]bool{
		"10.1.2.3": true, "11.0.0.1": false, "192.0.2.1": true, "192.0.2.2": false, "198.51.100.200": true, "198.51.101.1": false,
		"2001:db8:ffff::1": true, "2001:db9::1": false, "::1": true, "::2": false,
	} {
		if got := r.contain(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s: got %t, want %t", address, got, want)
		}
	}
}

// requestOf returns a request of that client as Caddy passes it to handlers.
func requestOf(address string, header ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/path", nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), httptest.NewRecorder(), nil)
	caddyhttp.SetVar(r.Context(), caddyhttp.ClientIPVarKey, address)
	return r
}

func TestIdentify(t *testing.T) {
	for _, tt := range []struct {
		name     string
		settings Settings
		address  string
		header   []string
		want     string // keys
	}{
		{"IPv4", Settings{}, "192.0.2.1", nil, "[192.0.2.1]"},
		{"IPv4 in IPv6", Settings{}, "::ffff:192.0.2.1", nil, "[192.0.2.1]"},
		{"IPv6", Settings{}, "2001:db8:1:2:3::4", nil, "[2001:db8:1:2::/64 2001:db8:1::/56 2001:db8:1::/48]"},
		{"zone", Settings{}, "fe80::1%eth0", nil, "[fe80::/64 fe80::/56 fe80::/48]"},
		{"no tiers", Settings{IPv6Tiers: &IPv6Tiers{Disabled: true}}, "2001:db8::1", nil, "[2001:db8::/64]"},
		{"prefix 56", Settings{IPv6Prefix: 56}, "2001:db8::1", nil, "[2001:db8::/56 2001:db8::/48]"},
		{"prefix 48", Settings{IPv6Prefix: 48}, "2001:db8::1", nil, "[2001:db8::/48]"},
		{"prefix 128", Settings{IPv6Prefix: 128}, "2001:db8::1", nil, "[2001:db8::1 2001:db8::/56 2001:db8::/48]"},
		{"nobody", Settings{}, "", nil, "[unknown]"},
		{"garbage", Settings{}, "1.2.3.4.5", nil, "[unknown]"},
		{"as a placeholder", Settings{Key: clientIP}, "2001:db8::1", nil, "[2001:db8::/64 2001:db8::/56 2001:db8::/48]"},
		{"key", Settings{Key: "{http.request.header.X-Key}"}, "192.0.2.1", []string{"X-Key", "a"}, fmt.Sprint([]bucket.Key{bucket.TextKey("a", 1)})},
		{"no key", Settings{Key: "{http.request.header.X-Key}"}, "192.0.2.1", nil, "[192.0.2.1]"},
		{"unknown placeholder", Settings{Key: "{no.such}"}, "192.0.2.1", nil, "[192.0.2.1]"},
		{"address and path", Settings{Key: clientIP + " {http.request.uri.path}"}, "2001:db8::1", nil,
			fmt.Sprint([]bucket.Key{bucket.TextKey("2001:db8::/64 /path", 1), bucket.TextKey("2001:db8::/56 /path", 4), bucket.TextKey("2001:db8::/48 /path", 16)})},
		{"IPv4 address and path", Settings{Key: clientIP + " {http.request.uri.path}"}, "192.0.2.1", nil, fmt.Sprint([]bucket.Key{bucket.TextKey("192.0.2.1/32 /path", 1)})},
		{"address and path without tiers", Settings{Key: clientIP + " {http.request.uri.path}", IPv6Tiers: &IPv6Tiers{Disabled: true}}, "2001:db8::1", nil,
			fmt.Sprint([]bucket.Key{bucket.TextKey("2001:db8::/64 /path", 1)})},
		{"address and path of nobody", Settings{Key: clientIP + " {http.request.uri.path}"}, "", nil, fmt.Sprint([]bucket.Key{bucket.TextKey(" /path", 1)})},
	} {
		i := newIdentifier(&tt.settings)
		c := i.identify(requestOf(tt.address, tt.header...))
		if got := fmt.Sprint(c.keys()); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestRedisAddress(t *testing.T) {
	t.Setenv("TEST_PASSWORD", "a/b#c?d%41@e f")
	t.Setenv("TEST_SOCKET", "/run/redis.sock")
	t.Setenv("TEST_URL", "redis://:p%40w@h:1/2")
	for given, want := range map[string]string{
		"redis://127.0.0.1:6379/0":                      "redis://127.0.0.1:6379/0",
		"redis://:{env.TEST_PASSWORD}@h:1/0":            "redis://:a%2Fb%23c%3Fd%2541@e%20f@h:1/0",
		"unix://{env.TEST_SOCKET}":                      "unix:///run/redis.sock",
		"unix://:{env.TEST_PASSWORD}@{env.TEST_SOCKET}": "unix://:a%2Fb%23c%3Fd%2541@e%20f@/run/redis.sock",
		"{env.TEST_URL}":                                "redis://:p%40w@h:1/2",
	} {
		if got := (&Redis{URL: given}).address(); got != want {
			t.Errorf("%s: got %s, want %s", given, got, want)
		}
	}
}

// The names of unnamed limits do not depend on the order in which they are provisioned.
func TestDerivedZones(t *testing.T) {
	seen := make(map[string]bool)
	for _, s := range []Settings{{Rate: "5/m", Burst: 5}, {Rate: "5/m", Burst: 50}, {Concurrency: 5}, {Rate: "5/m", Burst: 5, DryRun: true}} {
		identity, err := s.Identity()
		if err != nil {
			t.Fatal(err)
		}
		name := s.derivedZone(identity)
		if again := s.derivedZone(identity); again != name || !validZone.MatchString(name) || seen[name] {
			t.Errorf("%+v is called %s, then %s", s, name, again)
		}
		seen[name] = true
	}
}

func TestMayLog(t *testing.T) {
	var z zone
	now := time.Unix(1_000_000_000, 0)
	for i, step := range []struct {
		after time.Duration
		n     uint64
		ok    bool
	}{{0, 1, true}, {time.Millisecond, 0, false}, {998 * time.Millisecond, 0, false}, {time.Millisecond, 3, true}, {-time.Hour, 1, true}} {
		now = now.Add(step.after)
		if n, ok := z.mayLog(now); n != step.n || ok != step.ok {
			t.Errorf("step %d: got %d, %t, want %d, %t", i, n, ok, step.n, step.ok)
		}
	}
}

// TestOneAtATime checks for which rates the warning about a second request at once is logged.
func TestOneAtATime(t *testing.T) {
	t.Setenv("BALLAST_TEST_RATE", "100/m")
	for _, test := range []struct {
		s    Settings
		want bool
	}{
		{Settings{Rate: "100/m"}, true},
		{Settings{Rate: "{env.BALLAST_TEST_RATE}"}, true},
		{Settings{Rate: "119/m"}, true},
		{Settings{Rate: "2/h"}, true},
		{Settings{Rate: "120/m"}, false}, // two at once
		{Settings{Rate: "100/m", Burst: 1}, false},
		{Settings{Rate: "1/m"}, false},
		{Settings{Rate: "1/s"}, false},
		{Settings{Rate: "0.5/s"}, false},
		{Settings{Concurrency: 3}, false},
	} {
		if got := test.s.oneAtATime(); got != test.want {
			t.Errorf("%+v: %v", test.s, got)
		}
	}
}
