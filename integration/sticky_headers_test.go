package integration

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"testing"
)

// stickyCookie is what Caddy's cookie policy says for a backend.
func stickyCookie(address string) string {
	sum := hmac.New(sha256.New, []byte("a secret of some length"))
	sum.Write([]byte(address))
	return "lb=" + hex.EncodeToString(sum.Sum(nil)) + "; Path=/; HttpOnly; SameSite=Lax"
}

// TestStickyHeaderOperations: the cookie of a session is the balancer's word to the client. What is done to the backend's header, or
// that there is none of it in the answer, does not touch the cookie; with reverse_proxy it does not either.
func TestStickyHeaderOperations(t *testing.T) {
	backends, addresses := startBackends(t, 2)
	for _, b := range backends {
		b.handle(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Add("Set-Cookie", "app=1; Path=/")
			w.Header().Set("X-Backend", b.addr)
			fmt.Fprint(w, b.addr)
		})
	}
	const app = "app=1; Path=/"
	cases := []struct {
		what, settings string
		others         []string // cookies beside the session's that the client is given
	}{
		{"no operation", "", []string{app}},
		{"deleted", "header_down -Set-Cookie", nil},
		{"deleted by pattern", "header_down -Set*", nil},
		{"set", "header_down Set-Cookie x=y", []string{"x=y"}},
		{"replaced", "header_down Set-Cookie Path=/ Path=/app", []string{"app=1; Path=/app"}},
		{"replaced altogether", `header_down Set-Cookie "^.*$" "x=y"`, []string{"x=y"}},
		{"answered by a route", "handle_response {\n respond here 200\n }", nil},
		{"copied by a route", "handle_response {\n copy_response\n }", []string{app}},
		{"some copied", "handle_response {\n copy_response_headers {\n include Content-Type\n }\n respond here 200\n }", nil},
		{"some not copied", "handle_response {\n copy_response_headers {\n exclude Set-Cookie\n }\n respond here 200\n }", nil},
		{"route for an absent field", "@absent header X-Backend none\n handle_response @absent {\n respond here 500\n }", []string{app}},
		{"route for the session's cookie", "@ours header Set-Cookie lb=*\n handle_response @ours {\n respond here 500\n }", []string{app}},
	}
	var site strings.Builder
	for i, c := range cases {
		for _, directive := range []string{"load_balancer", "reverse_proxy"} {
			fmt.Fprintf(&site, "handle /%s/%d {\n %s %s {\n lb_policy cookie lb \"a secret of some length\"\n %s\n }\n}\n", directive, i, directive, addresses, c.settings)
		}
	}
	c := startCaddy(t, site.String())
	for i, test := range cases {
		for _, directive := range []string{"load_balancer", "reverse_proxy"} {
			t.Run(test.what+"/"+directive, func(t *testing.T) {
				jar, err := cookiejar.New(nil)
				if err != nil {
					t.Fatal(err)
				}
				browser := &http.Client{Jar: jar, Transport: client.Transport}
				before := counts(backends)
				var given []string // with the first answer
				for n := range 20 {
					res, err := browser.Get(c.url(fmt.Sprintf("/%s/%d", directive, i)))
					if err != nil {
						t.Fatal(err)
					}
					res.Body.Close()
					if res.StatusCode != http.StatusOK {
						t.Fatalf("status %d", res.StatusCode)
					}
					if n == 0 {
						given = res.Header.Values("Set-Cookie")
					}
				}
				at := -1
				for i, n := range counts(backends) {
					if got := n - before[i]; got == 20 {
						at = i
					} else if got != 0 {
						t.Errorf("%s got %d of 20 requests of one session", backends[i].addr, got)
					}
				}
				if at < 0 {
					t.Fatalf("first answer's cookies: %q", given)
				}
				if want := append([]string{stickyCookie(backends[at].addr)}, test.others...); !slices.Equal(given, want) {
					t.Errorf("first answer's cookies: %q, want %q", given, want)
				}
			})
		}
	}
}

// TestStickyWhoAnswers: a client is given the cookie of the backend that answered, with whatever the answer is, and none when nobody
// did. An answer that is on its way does not tell of it yet.
func TestStickyWhoAnswers(t *testing.T) {
	b := startBackend(t)
	b.handle(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			w.Header().Set("Link", "</style.css>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
			fmt.Fprint(w, "hello")
			return
		}
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprint(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	})
	dead := freeAddress(t)
	const policy = " {\n lb_policy cookie lb \"a secret of some length\" {\n fallback first\n }\n header_down -Set-Cookie\n}\n"
	c := startCaddy(t, "handle /dead {\n load_balancer "+dead+policy+"}\nhandle {\n load_balancer "+dead+" "+b.addr+policy+"}\nhandle_errors {\n respond sorry\n}")

	if status, header, _ := c.get("/dead"); status < 500 || header.Values("Set-Cookie") != nil {
		t.Errorf("nobody answered: status %d, cookies %q", status, header.Values("Set-Cookie"))
	}
	want := []string{stickyCookie(b.addr)}
	for range 3 {
		early, status, header := c.withHints(t, "/")
		if status != http.StatusOK || !slices.Equal(header.Values("Set-Cookie"), want) {
			t.Errorf("status %d, cookies %q, want those of who answered: %q", status, header.Values("Set-Cookie"), want)
		}
		if len(early) != 1 || early[0].Get("Set-Cookie") != "" || early[0].Get("Link") == "" {
			t.Errorf("early hints %q", early)
		}
	}
	status, header := c.as("Connection", "Upgrade", "Upgrade", "echo")
	if status != http.StatusSwitchingProtocols || !slices.Equal(header.Values("Set-Cookie"), want) {
		t.Errorf("upgrade: status %d, cookies %q, want %q", status, header.Values("Set-Cookie"), want)
	}
}

// withHints is get, and returns the headers of the answers that came before the last.
func (c *caddy) withHints(t *testing.T, path string) (early []textproto.MIMEHeader, status int, header http.Header) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.url(path), nil)
	if err != nil {
		t.Fatal(err)
	}
	r = r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(_ int, header textproto.MIMEHeader) error {
			early = append(early, header)
			return nil
		},
	}))
	res, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	return early, res.StatusCode, res.Header
}
