package listener

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/certmagic"

	"github.com/ballastlb/ballast/listener/h1"
)

// TestPlainPaths: Caddy's matchers see a path that is plain as it is written, however they clean it, and Caddy does not answer the request
// for it itself.
func TestPlainPaths(t *testing.T) {
	segments := []string{"", ".", "..", "a", "a.", ".a", "A..b", "%61", "%2F", "%2e", ".well-known", "%2Ewell-know%6e", "acme-challenge", "acme-challenge.", "pki-validation", "x~1"}
	var plain, challenges int
	for _, a := range segments {
		for _, b := range segments {
			for _, c := range segments {
				target := "/" + strings.Join([]string{a, b, c}, "/")
				var head h1.Head
				reason := head.Read([]byte("GET "+target+" HTTP/1.1\r\nHost: a\r\n\r\n"), 1<<10)
				r := httptest.NewRequest(http.MethodGet, "http://a"+target, nil)
				path := r.URL.Path
				if reason == h1.Plain && head.Plain {
					plain++
					for _, merge := range []bool{true, false} {
						if cleaned := caddyhttp.CleanPath(path, merge); cleaned != target || path != target {
							t.Errorf("%s: Caddy sees %q", target, cleaned)
						}
					}
				}
				if certmagic.LooksLikeHTTPChallenge(r) || certmagic.LooksLikeZeroSSLHTTPValidation(r) {
					challenges++
					if reason != h1.ACME {
						t.Errorf("%s: reason %q", target, reason)
					}
				} else if reason == h1.ACME {
					t.Errorf("%s: is no challenge", target)
				}
			}
		}
	}
	if plain == 0 || challenges == 0 {
		t.Errorf("%d plain paths, %d challenges", plain, challenges)
	}
}
