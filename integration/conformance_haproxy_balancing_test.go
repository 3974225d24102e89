//go:build trust

package integration

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// named starts n backends that answer with their number, and with what more says.
func (s *scene) named(n int) (backends []*farEnds, addresses string) {
	s.t.Helper()
	for i := range n {
		f := s.backend(says(textAnswer(fmt.Sprint("s", i+1))))
		backends = append(backends, f)
		addresses += " " + f.addr
	}
	return backends, addresses
}

// balancingScenarios are about which backend gets a request.
func balancingScenarios() []scenario {
	const hash = "balance/balance-uri.vtc"
	const path = "balance/balance-uri-path-only.vtc"
	return []scenario{
		{"four backends in turn, twice", "balance/balance-rr.vtc", func(s *scene) error {
			_, addresses := s.named(4)
			c := s.start("PROXY" + addresses + " {\n lb_policy round_robin\n }")
			var first, got []string
			for i := range 8 {
				a, err := s.askPath(c, fmt.Sprint("/url", i))
				if err != nil {
					return err
				}
				got = append(got, a.body)
				if i < 4 {
					first = append(first, a.body)
				}
			}
			if want := strings.Join(append(first, first...), " "); strings.Join(got, " ") != want || !distinct(first) {
				return fmt.Errorf("the backends were %v", got)
			}
			return nil
		}},
		{"a URI always has the same backend, others have others", hash, func(s *scene) error {
			_, addresses := s.named(4)
			c := s.start("PROXY" + addresses + " {\n lb_policy uri_hash\n }")
			used := map[string]bool{}
			for i := range 20 {
				want, err := s.askPath(c, fmt.Sprint("/url", i))
				if err != nil {
					return err
				}
				used[want.body] = true
				if a, err := s.askPath(c, fmt.Sprint("/url", i)); err != nil || a.body != want.body {
					return fmt.Errorf("URL %d: %s, then %s, %v", i, want.body, a.body, fmt.Sprint(err))
				}
			}
			if len(used) < 3 {
				return fmt.Errorf("twenty URLs have %d backends", len(used))
			}
			return nil
		}},
		{"the query is no part of the key", hash, func(s *scene) error { return samePath(s, "/url1", "/url1?ignore=this") }},
		{"the whole URL has the backend of its path", path, func(s *scene) error { return samePath(s, "/url1", "http://hostname/url1") }},
		{"HTTP/2 has the backend of the path", path, func(s *scene) error {
			_, addresses := s.named(4)
			c := s.start("PROXY" + addresses + " {\n " + byPath(s) + "\n }")
			for i := range 10 {
				at := fmt.Sprint("/url", i)
				want, err := s.askPath(c, at)
				if err != nil {
					return err
				}
				if found, err := s.askHTTP2(c, http2Request("GET", at+"?ignore=this"), false); err != nil || found.body != want.body {
					return fmt.Errorf("%s: %s, by HTTP/2 %s, %v", at, want.body, found.body, fmt.Sprint(err))
				}
			}
			return nil
		}},
		{"a key whose backend is full has another one", "balance/balance-hash-maxconn.vtc", keyOfFullBackend},
		{"who asks with the same parameter gets the same backend, also in another pool's way", "stickiness/lb-services.vtc", func(s *scene) error {
			_, addresses := s.named(2)
			c := s.start("handle /be1 {\n PROXY" + addresses + " {\n lb_policy query client\n }\n}\nhandle /be2 {\n PROXY" + addresses + " {\n lb_policy query client\n }\n}")
			used := map[string]bool{}
			for i := range 12 {
				first, err := s.askPath(c, fmt.Sprint("/be1?client=c", i))
				if err != nil {
					return err
				}
				used[first.body] = true
				for _, at := range []string{"/be1?client=c", "/be2?client=c", "/be2?other=1&client=c"} {
					if a, err := s.askPath(c, fmt.Sprint(at, i)); err != nil || a.body != first.body {
						return fmt.Errorf("client %d: %s, then %s, %v", i, first.body, a.body, fmt.Sprint(err))
					}
				}
			}
			if len(used) != 2 {
				return errors.New("all clients have the same backend")
			}
			return nil
		}},
		{"a cookie that names no backend is replaced", "http-cookies/cookie_insert_indirect.vtc", func(s *scene) error {
			_, addresses := s.named(2)
			a, err := s.askPath(s.start("PROXY"+addresses+" {\n "+sticky(s)+"\n }"), "/", "Cookie: lb=s2")
			if err != nil {
				return err
			}
			if set := a.header.Get("Set-Cookie"); !strings.HasPrefix(set, "lb=") || strings.HasPrefix(set, "lb=s2") {
				return fmt.Errorf("Set-Cookie is %q", set)
			}
			return nil
		}},
		{"the session stays with its backend by the cookie", "http-cookies/cookie_insert_indirect.vtc", func(s *scene) error {
			_, addresses := s.named(4)
			c := s.start("PROXY" + addresses + " {\n " + sticky(s) + "\n }")
			first, err := s.askPath(c, "/")
			if err != nil {
				return err
			}
			cookie, _, _ := strings.Cut(first.header.Get("Set-Cookie"), ";")
			for range 8 {
				if a, err := s.askPath(c, "/", "Cookie: "+cookie); err != nil || a.body != first.body || a.header.Get("Set-Cookie") != "" {
					return fmt.Errorf("%s, then %s, %v; Set-Cookie %q", first.body, a.body, fmt.Sprint(err), a.header.Get("Set-Cookie"))
				}
			}
			return nil
		}},
		{"the balancer's cookie does not reach the backend", "http-cookies/cookie_insert_indirect.vtc", func(s *scene) error {
			f := s.backend(says(textAnswer("ok")))
			if _, err := s.askPath(s.start("PROXY "+f.addr+" {\n "+sticky(s)+"\n }"), "/", "Cookie: lb=s2"); err != nil {
				return err
			}
			r, err := f.only()
			if err == nil && r.field("Cookie") != "" {
				err = fmt.Errorf("the backend got %q", r.field("Cookie"))
			}
			return err
		}},
		{"clients share the connections to a backend", "connection/http_reuse_always.vtc", func(s *scene) error { return reuse(s, "", 1) }},
		{"without keepalive each request has its own", "connection/http_reuse_never.vtc", func(s *scene) error {
			return reuse(s, " {\n transport http {\n keepalive off\n }\n }", 4)
		}},
		{"a backend behind the PROXY protocol is told the client's address", "connection/proxy_protocol_send_generic.vtc", func(s *scene) error {
			f := s.backend(says(textAnswer("ok"))) // it reads version 1 as the first line of a head
			c := s.start("PROXY " + f.addr + " {\n transport http {\n proxy_protocol v1\n }\n }")
			a, err := s.askPath(c, "/")
			if err := errors.Join(err, a.wants(http.StatusOK, "ok")); err != nil {
				return err
			}
			if r, err := f.only(); err != nil || !strings.HasPrefix(r.head, "PROXY TCP4 127.0.0.1 ") {
				return fmt.Errorf("the backend got %q, %v", r.head, fmt.Sprint(err))
			}
			return nil
		}},
		{"who has only just begun is used when all others are gone", "stats/clear_counters_server.vtc", func(s *scene) error {
			first, second := s.backend(says(textAnswer("s1"))), s.backend(says(textAnswer("backup")))
			c := s.start("PROXY " + s.either(first.addr+" {\n backend "+second.addr+" {\n backup\n }\n }", first.addr+" "+second.addr+" {\n lb_policy first\n }"))
			for range 4 {
				a, err := s.askPath(c, "/")
				if err := errors.Join(err, a.wants(http.StatusOK, "s1")); err != nil {
					return err
				}
			}
			return nil
		}},
	}
}

// distinct reports whether no word is there twice.
func distinct(words []string) bool {
	seen := map[string]bool{}
	for _, w := range words {
		if seen[w] {
			return false
		}
		seen[w] = true
	}
	return true
}

// byPath is the policy that goes by the path alone, or what comes nearest.
func byPath(s *scene) string { return s.either("lb_policy hash {path}", "lb_policy uri_hash") }

// sticky is the policy that goes by a cookie.
func sticky(s *scene) string {
	return s.either("lb_policy sticky lb {\n secret a-secret-of-some-length\n }", "lb_policy cookie lb a-secret-of-some-length")
}

// samePath asks for ten pairs of URLs, and wants each to have the same backend.
func samePath(s *scene, one, other string) error {
	_, addresses := s.named(4)
	c := s.start("PROXY" + addresses + " {\n " + byPath(s) + "\n }")
	for i := range 10 {
		number := fmt.Sprint("/url", i)
		first, err := s.askPath(c, strings.Replace(one, "/url1", number, 1))
		if err != nil {
			return err
		}
		if a, err := s.askPath(c, strings.Replace(other, "/url1", number, 1)); err != nil || a.body != first.body {
			return fmt.Errorf("URL %d: %s, then %s, %v", i, first.body, a.body, fmt.Sprint(err))
		}
	}
	return nil
}

// keyOfFullBackend keeps the backend of a key busy.
func keyOfFullBackend(s *scene) error {
	release := make(chan struct{})
	backends := make([]*farEnds, 2)
	site := "PROXY {\n lb_policy uri_hash\n"
	for i := range backends {
		backends[i] = s.backend(func(r farRequest) string {
			if r.field("X-Wait") != "" {
				<-release
			}
			return textAnswer(fmt.Sprint("s", i))
		})
		site += s.either(" backend "+backends[i].addr+" {\n max_requests 1\n }\n", " to "+backends[i].addr+"\n")
	}
	c := s.start(site + s.either("", "unhealthy_request_count 1\n") + "}")
	n := s.dial(c)
	if _, err := io.WriteString(n.conn, request("GET /key", "X-Wait: 1")); err != nil {
		return err
	}
	waitFor(s.t, "the first request", func() bool { return len(backends[0].got())+len(backends[1].got()) == 1 })
	a, err := s.askPath(c, "/key")
	close(release)
	if err != nil {
		return err
	}
	first, err := n.read("GET")
	if err != nil || a.status != http.StatusOK || first.status != http.StatusOK || a.body == first.body {
		return fmt.Errorf("status %d of %s, then %d of %s, %v", first.status, first.body, a.status, a.body, fmt.Sprint(err))
	}
	return nil
}

// reuse asks by four clients, one after the other, and wants the backend to have had so many connections.
func reuse(s *scene, settings string, want int) error {
	f := s.backend(says(textAnswer("ok")))
	c := s.start("PROXY " + f.addr + settings)
	for range 4 {
		if _, err := s.askPath(c, "/"); err != nil {
			return err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.conns != want {
		return fmt.Errorf("%d connections", f.conns)
	}
	return nil
}
