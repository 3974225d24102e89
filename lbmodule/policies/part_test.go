package policies

import (
	"net/http/httptest"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func TestKeyBy(t *testing.T) {
	r := httptest.NewRequestWithContext(t.Context(), "GET", "http://example.com/", nil)
	r.Header.Set("X-User", "ann")
	r.Header["Cookie"] = []string{"a=1;b=2", `user=; userx=eve; user=late`, `sid="ann"; sid=bob`}
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), httptest.NewRecorder(), new(caddyhttp.Server))
	caddyhttp.SetVar(r.Context(), caddyhttp.ClientIPVarKey, "ann")
	for _, test := range []struct{ by, name, want string }{
		{"", "", "ann"}, {"client_ip", "", "ann"}, {"header", "x-user", "ann"}, {"header", "Host", "example.com"}, {"header", "X-None", ""},
		{"cookie", "sid", "ann"}, {"cookie", "b", "2"}, {"cookie", "user", ""}, {"cookie", "use", ""}, {"cookie", "SID", ""},
	} {
		key := KeyBy(test.by, test.name)
		if got, want := key(r), plainKey(test.want); got != want {
			t.Errorf("%s %s: %v, want %v", test.by, test.name, got, want)
		}
		if n := testing.AllocsPerRun(100, func() { key(r) }); n != 0 {
			t.Errorf("%s %s: %v allocations", test.by, test.name, n)
		}
	}
}
