package stock

import (
	"cmp"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// switched is the body of an answer that switches protocols.
type switched struct{ io.ReadWriter }

func (switched) Close() error { return nil }

func TestCheckAnswer(t *testing.T) {
	upgrade := func(protocol string) http.Header {
		return http.Header{"Connection": {"keep-alive, upgrade"}, "Upgrade": {protocol}}
	}
	body, plain := switched{}, io.NopCloser(strings.NewReader(""))
	for name, test := range map[string]struct {
		asked  http.Header
		status int
		answer http.Header
		body   io.ReadCloser
		right  bool
	}{
		"negative":                {nil, -1, nil, plain, false},
		"none":                    {nil, 0, nil, plain, false},
		"two digits":              {nil, 99, nil, plain, false},
		"informational":           {nil, 100, nil, plain, true}, // of FastCGI, as in reverse_proxy
		"unknown class":           {nil, 999, nil, plain, true},
		"four digits":             {nil, 1000, nil, plain, false},
		"switch":                  {upgrade("websocket"), 101, upgrade("WebSocket"), body, true},
		"switch unasked":          {nil, 101, upgrade("websocket"), body, false},
		"switch to another":       {upgrade("websocket"), 101, upgrade("h2c"), body, false},
		"switch to nothing":       {upgrade("websocket"), 101, nil, body, false},
		"switch without the word": {upgrade("websocket"), 101, http.Header{"Upgrade": {"websocket"}}, body, false},
		"ask without the word":    {http.Header{"Upgrade": {"websocket"}}, 101, upgrade("websocket"), body, false},
		"switch by look-alike":    {upgrade("k"), 101, upgrade("\u212a"), body, false},
		"switch to odd bytes":     {upgrade("\u212a"), 101, upgrade("\u212a"), body, false},
		"switch of one way":       {upgrade("websocket"), 101, upgrade("websocket"), plain, false},
	} {
		err := checkAnswer(&http.Request{Header: test.asked}, &http.Response{StatusCode: test.status, Header: test.answer, Body: test.body})
		if (err == nil) != test.right {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTellApart(t *testing.T) {
	for _, test := range []struct{ network, address, host, want string }{
		{"tcp", "localhost:8080", "localhost:8080", "localhost:8080"},
		{"tcp4", "localhost:8080", "localhost:8080", "localhost:08080"},
		{"tcp6", "localhost:8080", "localhost:8080", "localhost:008080"},
		{"tcp6", "[::1]:8080", "[::1]:8080", "[::1]:008080"},
		{"tcp4", "localhost:80", "localhost", "localhost:080"}, // as reverse_proxy writes it in later attempts
		{"tcp4", "a:8080", "1.2.3.4%3A5-%3Ea%3A8080", "1.2.3.4%3A5-%3Ea%3A8080:08080"},
		{"unix", "/run/a.sock", "/run/a.sock", "/run/a.sock"},
		{"unix", "localhost:8080", "localhost:8080", "localhost:8080:0000"},
	} {
		parsed, err := caddy.ParseNetworkAddress(test.network + "/" + test.address)
		if err != nil {
			t.Fatal(err)
		}
		to := new(Handler).NewTarget(&reverseproxy.Upstream{Dial: parsed.String()})
		if !to.Fixed() {
			t.Fatal(test)
		}
		h := &reverseproxy.HTTPTransport{TLS: &reverseproxy.TLSConfig{ExceptPorts: []string{"8080"}}}
		for _, host := range []string{"example.com", ""} {
			r := (&http.Request{URL: &url.URL{Host: test.host}, Host: host}).WithContext(t.Context())
			apart := markNetwork(r, to.Dial(), h.SetScheme)
			if apart.URL.Host != test.want {
				t.Errorf("%s/%s: %s, want %s", test.network, test.address, apart.URL.Host, test.want)
			}
			if sent := cmp.Or(apart.Host, apart.URL.Host); sent != cmp.Or(host, test.host) {
				t.Errorf("%s/%s: Host %s is sent", test.network, test.address, sent)
			}
			if r.URL.Host != test.host || r.Host != host {
				t.Errorf("%s/%s: the request has changed", test.network, test.address)
			}
			if secure := apart.URL.Scheme == "https"; apart != r && secure != (r.URL.Port() != "8080") {
				t.Errorf("%s/%s: scheme %s", test.network, test.address, apart.URL.Scheme)
			}
		}
	}
}

// A forward proxy gets the port without the network's mark.
func TestProxiedRequestsStay(t *testing.T) {
	for settings, apart := range map[string]bool{
		`{"protocol": "http"}`: true,
		`{"protocol": "http", "forward_proxy_url": "http://127.0.0.1:1"}`:                     false,
		`{"protocol": "http", "network_proxy": {"from": "url", "url": "http://127.0.0.1:1"}}`: false,
		`{"protocol": "http", "versions": ["3"], "tls": {}}`:                                  false,
	} {
		loaded, _ := load(t, settings)
		if got := loaded.setScheme != nil; got != apart {
			t.Errorf("%s: %v", settings, got)
		}
	}
}
