package policies

import (
	"net/http"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

func FuzzStickyCookie(f *testing.F) {
	s := &Sticky{secrets: []string{"new", "old"}}
	upstreams := reverseproxy.UpstreamPool{{Dial: "a:1"}, {Dial: "b:1"}}
	known := s.Among(upstreams)
	f.Add("lb=" + s.token("old", "b:1"))
	f.Add("lb=x; lb=\"" + s.token("new", "c:1") + "\"")
	f.Fuzz(func(t *testing.T, header string) {
		r := &http.Request{Header: http.Header{"Cookie": {header}}}
		at, ok, signed := known.Find(r)
		made := false
		for _, secret := range s.secrets {
			for _, address := range []string{"a:1", "b:1", "c:1"} {
				made = made || strings.Contains(header, s.token(secret, address))
			}
		}
		if (ok || signed) && !made || ok && at > 1 {
			t.Errorf("%q is taken for one of ours: %d, %v, %v", header, at, ok, signed)
		}
	})
}
