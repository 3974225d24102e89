package integration

import (
	"net/http"
	"slices"
	"strings"
	"testing"
)

// editSites have header operations around the proxy and in it.
func editSites() []site {
	around := func(route string) site { return site{route: "route {\n" + route + "\n PROXY\n}"} }
	sites := []site{
		around("header X-New value"),
		around("header -Server"),
		around("header Server outer"),
		around("header Via other"),
		around("header X-Backend zero"),
		around("header +X-Backend zero"),
		around("header ?X-Backend zero"),
		around("header ?X-Missing zero"),
		around("header >X-Backend zero"),
		around("header >-X-Backend"),
		around("header >-X-*"),
		around("header >-Content-Length"),
		around("header >-Set-Cookie\n header >Set-Cookie own=1"),
		around("header Set-Cookie own=1\n header +Set-Cookie own=2"),
		around("header >Set-Cookie (.*) \"$1; Secure\""),
		around("header >Date then"),
		around("header Date then"),
		around("header >-Date"),
		around("header >-Via\n header >-Server"),
		around("header Content-Type text/x"),
		around("header Alt-Svc h3"),
		around("header {\n X-A 1\n defer\n }\n header {\n X-A 2\n defer\n }\n header {\n +X-A 3\n defer\n }"),
		around("header {\n -X-Count\n match status 404\n }"),
		around("header {\n X-Matched yes\n match {\n status 2xx\n header X-Count 7\n }\n }"),
		around("header Strict-Transport-Security max-age=1\n header {\n X-Frame-Options DENY\n -Server\n }"),
		around("request_header X-A changed"),
		around("request_header +X-A more\n request_header -Cookie"),
		around("request_header -X-B\n request_header X-A a* b"),
		around("request_header Host other.example"),
		around("request_header -Host"),
		around("request_header X-Forwarded-For 203.0.113.1"),
		around("request_header Via other"),
		around("request_header -User-Agent"),
		around("request_header -Accept-Encoding"),
		around("request_header Accept-Encoding br\n request_header Range \"\""),
		around("request_header Proxy-Authorization x"),
		around("request_header Keep X\n header X-Kept yes"),
	}
	sites = append(sites, settingsOf(
		"header_up X-Real-IP {remote_host}\n header_up X-Client {client_ip}",
		"header_up X-Forwarded-Proto {scheme}\n header_up X-Forwarded-Host {host}\n header_up X-Port {hostport}",
		"header_up Host {host}",
		"header_up Host {hostport}",
		"header_up -Host",
		"header_up X-Up \"to {upstream_hostport} for {host}\"",
		"header_up Range bytes=0-1",
	)...)
	both := around("request_header Host other.example\n request_header X-B one\n header X-Backend zero\n header >-X-Count")
	both.settings = "header_up X-Host {host}\n header_up X-B one two\n header_down X-Backend outer\n header_down Location ^http://inner/(.*)$ https://outer/$1"
	sites = append(sites, both)
	for i := range sites {
		sites[i].exchanges = editExchanges(strings.Contains(sites[i].route, "header Content-Type"))
		sites[i].ours = "breaker off\n hold off\n retry {\n attempts 1\n }"
		sites[i].name = siteName(sites[i].settings + " " + strings.TrimSuffix(strings.TrimPrefix(sites[i].route, "route {\n"), "\n PROXY\n}"))
	}
	return sites
}

// editExchanges are plain on the client's side. typed says that no answer is without a Content-Type.
func editExchanges(typed bool) []exchange {
	var plain []exchange
	for _, x := range usual() {
		if x.name != "chunks and trailers" && x.name != "hop-by-hop" {
			plain = append(plain, x)
		}
	}
	untyped := exchange{name: "untyped", request: get("/untyped"), answer: answerHead("200 OK", "Content-Length: 4") + "text"}
	if !typed {
		untyped.differs = []string{"absent type"}
	}
	return append(plain, untyped,
		exchange{name: "two over one connection", request: get("/1", "X-A: a"), more: []string{sized("POST", "2", "X-B: one")}},
		exchange{name: "long", request: get("/long"), answer: answer("200 OK", filled(3000), "X-Backend: one")},
		exchange{name: "empty", request: get("/empty"), answer: answer("200 OK", "")},
		exchange{name: "trailers", request: get("/trailers"), answer: chunkedAnswer("200 OK", withTrailers("more text", "X-U: 2"), "Trailer: X-U")},
		exchange{name: "nothing", request: get("/nothing"), answer: answerHead("204 No Content", "X-Backend: one")},
		exchange{name: "hop-by-hop", request: get("/hop"), answer: answer("200 OK", "text", "Connection: X-Backend, keep-alive", "X-Backend: one", "Keep-Alive: timeout=5", "Proxy-Authenticate: Basic", "X-Count: 7")},
		exchange{name: "length is hop-by-hop", request: get("/hop"), answer: answer("200 OK", "", "Connection: Content-Length")},
		exchange{name: "broken off", request: get("/broken"), answer: none, then: hangsUp},
	)
}

// TestExpressEditsHeaders: header operations do on the express lane what they do in Caddy, and are on it.
func TestExpressEditsHeaders(t *testing.T) {
	t.Parallel()
	sites := editSites()
	p := startColumns(t, sites)
	used := usedDifferences{seen: map[string]bool{}}
	requests := uint64(0)
	t.Run("sites", func(t *testing.T) {
		for _, s := range sites {
			for _, x := range s.exchanges {
				requests += uint64(1 + len(x.more))
			}
			t.Run(s.name, func(t *testing.T) {
				t.Parallel()
				for _, x := range s.exchanges {
					p.compare(t, s, x, &used)
				}
			})
		}
	})
	var lanes []lane
	p.caddy.api(http.MethodGet, "/load_balancer/express", &lanes)
	served := uint64(0)
	for _, l := range lanes {
		delete(l.HandedOver, "static_response") // each connection asks for one at its end
		if served += l.Served; len(l.HandedOver) > 0 {
			t.Errorf("handed over %v", l.HandedOver)
		}
	}
	if served != requests {
		t.Errorf("the express lane served %d requests, want %d", served, requests)
	}
	checkRoutes(t, p, sites, nil)
}

// leftOperations are what header operations have that are left to Caddy: most placeholders, and fields that decide how messages are framed
// or treated.
var leftOperations = []string{
	"{http.request.", "{header.", "{unknown.", "{http.reverse_proxy.upstream.address}", "{http.reverse_proxy.upstream.host}",
	"{http.reverse_proxy.upstream.requests}", "{http.reverse_proxy.status_code}", "{http.reverse_proxy.header.", "header_down X-Up {",
	"header_up -*", "header_up -X-*", " Connection ", " Te ", " Content-Length ", " Transfer-Encoding ", " Expect ", " Trailer ",
}

// checkRoutes checks that the express lane serves all sites but those with what is left to Caddy.
func checkRoutes(t *testing.T, p *columns, sites []site, left []string) {
	t.Helper()
	reasons := map[string]string{}
	var lanes []lane
	p.caddy.api(http.MethodGet, "/load_balancer/express", &lanes)
	for _, l := range lanes {
		for _, r := range l.Routes {
			reasons[r.Pool] = r.Reason
		}
	}
	for _, s := range sites {
		reason, ok := reasons["express-"+s.name]
		settings := strings.ReplaceAll(s.settings, "{http.request.remote.host}", "")
		strange := slices.ContainsFunc(left, func(word string) bool { return strings.Contains(settings, word) })
		if served := ok && reason == ""; served == strange {
			t.Errorf("%s: on the express lane %v, reason %q", s.name, served, reason)
		}
	}
}

// TestExpressEditsRefusals: an answer of ours has what the operations on the way so far have set.
func TestExpressEditsRefusals(t *testing.T) {
	t.Parallel()
	b := startBackend(t)
	config := siteConfig("route {\n header X-Before 1\n header >X-Deferred 1\n ip_rate_limit {\n rate 1/h\n burst 1\n }\n header X-After 1\n load_balancer " + b.addr + "\n}")
	for name, config := range map[string]string{"on": strings.Replace(config, seamless, expressOn, 1), "off": strings.Replace(config, seamless, expressOff, 1)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := startCaddyConfig(t, config)
			for _, want := range []struct {
				status int
				fields []string // X-Before, X-Deferred, X-After, Server
			}{{http.StatusOK, []string{"1", "1", "1", ""}}, {http.StatusTooManyRequests, []string{"1", "", "", "Caddy"}}} {
				res, err := client.Do(c.request(http.MethodGet, nil))
				if err != nil {
					t.Fatal(err)
				}
				res.Body.Close()
				var got []string
				for _, name := range []string{"X-Before", "X-Deferred", "X-After", "Server"} {
					got = append(got, res.Header.Get(name))
				}
				if res.StatusCode != want.status || !slices.Equal(got, want.fields) || (res.StatusCode == http.StatusOK) != (res.Header["Retry-After"] == nil) {
					t.Errorf("%d %v, want %+v", res.StatusCode, res.Header, want)
				}
			}
			if got := c.lane(); got.On != (name == "on") || got.On && got.Served != 2 {
				t.Errorf("%+v", got)
			}
		})
	}
}

// TestExpressEditsMeasured: metrics tell the size of a request as operations have changed it.
func TestExpressEditsMeasured(t *testing.T) {
	t.Parallel()
	b := startBackend(t)
	config := strings.Replace(siteConfig("request_header X-A "+strings.Repeat("a", 100)+"\nrequest_header -X-B\nrequest_header Host other.example\nload_balancer "+b.addr), "{\n", "{\n metrics\n", 1)
	sums := map[string]string{}
	for name, config := range map[string]string{"on": strings.Replace(config, seamless, expressOn, 1), "off": strings.Replace(config, seamless, expressOff, 1)} {
		c := startCaddyConfig(t, config)
		if status, body := c.ask(c.request(http.MethodGet, nil, "X-A", "1", "X-B", "2", "User-Agent", "a")); status != http.StatusOK {
			t.Fatalf("%d %s", status, body)
		}
		if got := c.lane(); got.On != (name == "on") || got.On && got.Served != 1 {
			t.Errorf("%+v", got)
		}
		_, text := c.askAdmin(http.MethodGet, "/metrics")
		for line := range strings.Lines(string(text)) {
			if strings.HasPrefix(line, "caddy_http_request_size_bytes_sum") {
				sums[name] += line
			}
		}
	}
	if sums["on"] == "" || sums["on"] != sums["off"] {
		t.Errorf("with the express lane\n%swithout\n%s", sums["on"], sums["off"])
	}
}
