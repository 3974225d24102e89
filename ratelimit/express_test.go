package ratelimit

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// Admit admits, refuses and counts as ServeHTTP does.
func TestAdmitIsServeHTTP(t *testing.T) {
	for name, s := range map[string]Settings{
		"rate":        {Rate: "1/h", Burst: 3},
		"concurrency": {Concurrency: 1},
		"both":        {Rate: "1/h", Burst: 3, Concurrency: 2},
		"dry run":     {Rate: "1/h", Burst: 1, DryRun: true},
		"exempt":      {Rate: "1/h", Burst: 1, Exempt: []string{"192.0.2.0/24"}},
		"wide":        {Rate: "1/h", Burst: 2, IPv6Prefix: 56},
	} {
		served, admitted := handlerOf(s), handlerOf(s)
		for _, address := range []string{"192.0.2.1", "::ffff:192.0.2.1", "198.51.100.1", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "fe80::1%eth0", "@"} {
			for range 6 {
				w := httptest.NewRecorder()
				err := served.ServeHTTP(w, requestOf(address), next)
				var a Admission
				parsed, _ := netip.ParseAddr(address)
				refusal := admitted.Admit(parsed, &a)
				a.Release()
				if (err == nil) != (refusal == nil) {
					t.Fatalf("%s, %s: %v with a request, %v without", name, address, err, refusal)
				}
				if refusal == nil {
					continue
				}
				var status caddyhttp.HandlerError
				if !errors.As(refusal.Err, &status) || status.StatusCode != http.StatusTooManyRequests || !errors.Is(refusal.Err, errRate) {
					t.Errorf("%s, %s: error %v", name, address, refusal.Err)
				}
				header := make(http.Header)
				refusal.SetHeader(header)
				for _, field := range []string{"RateLimit", "RateLimit-Policy", "Retry-After"} {
					if want := w.Header().Get(field); want == "" || header.Get(field) != want {
						t.Errorf("%s, %s: %s is %q, want %q", name, address, field, header.Get(field), want)
					}
				}
			}
		}
		for d := range decisions {
			if got, want := admitted.zone.decisions[d].Load(), served.zone.decisions[d].Load(); got != want {
				t.Errorf("%s: %d are %s, want %d", name, got, d, want)
			}
		}
	}
}

// A request that is refused by one limit is charged to none, and grants are given back.
func TestAdmissionGivesBack(t *testing.T) {
	first, second := handlerOf(Settings{Rate: "1/h", Burst: 5, Concurrency: 1}), handlerOf(Settings{Rate: "1/h", Burst: 1})
	address := netip.MustParseAddr("192.0.2.1")
	tokens := func() int {
		u, _ := first.zone.table.Look(first.identifier.identify(requestOf("192.0.2.1")).all[0])
		return int(u.Tokens)
	}
	var a Admission
	for i, want := range []bool{true, false, false} {
		if refusal := first.Admit(address, &a); refusal != nil {
			t.Fatalf("request %d is refused by the first: %v", i, refusal.Err)
		}
		if refusal := second.Admit(address, &a); (refusal == nil) != want {
			t.Fatalf("request %d is refused by the second: %v", i, refusal)
		}
		if want {
			if refusal := first.Admit(address, new(Admission)); refusal == nil {
				t.Error("two requests at a time")
			}
			a.Release()
		}
		if got := tokens(); got != 4 {
			t.Errorf("%d tokens after request %d, want 4", got, i)
		}
	}
}

func TestExpressKeys(t *testing.T) {
	for key, want := range map[string]string{
		"": "", "{client_ip}": "", "{http.vars.client_ip}": "",
		"{http.request.header.X-Key}": "ip_rate_limit_key", "{http.vars.client_ip}-a": "ip_rate_limit_key", "all": "ip_rate_limit_key",
	} {
		if got := handlerOf(Settings{Rate: "1/s", Key: key}).Express(); got != want {
			t.Errorf("key %s: %q, want %q", key, got, want)
		}
	}
}

func TestAdmitAllocatesNothing(t *testing.T) {
	h := handlerOf(Settings{Rate: "1000000/s", Concurrency: 10})
	address := netip.MustParseAddr("2001:db8::1")
	var a Admission
	if n := testing.AllocsPerRun(1000, func() {
		for range 2 {
			if refusal := h.Admit(address, &a); refusal != nil {
				t.Fatal(refusal.Err)
			}
		}
		a.Release()
	}); n != 0 {
		t.Errorf("%v allocations for a request, want 0", n)
	}
}
