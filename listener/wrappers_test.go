package listener

import (
	"crypto/tls"
	"encoding/json"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/proxyprotocol"
)

// provision loads the wrapper for a server, given as JSON.
func provision(t *testing.T, server string) (*Seamless, error) {
	t.Helper()
	ctx, err := caddy.ProvisionContext(&caddy.Config{})
	if err != nil {
		t.Fatal(err)
	}
	var srv caddyhttp.Server
	if err := json.Unmarshal([]byte(server), &srv); err != nil {
		t.Fatal(err)
	}
	ctx = ctx.WithValue(caddyhttp.ServerCtxKey, &srv)
	s := new(Seamless)
	return s, s.Provision(ctx)
}

// shapeOf describes what loadWrappers made: T stands for TLS, P and R for other wrappers, | for seamless.
func shapeOf(w wrappers) string {
	var text strings.Builder
	for i, list := range [][]caddy.ListenerWrapper{w.before, w.after} {
		for _, wrapper := range list {
			switch wrapper.(type) {
			case nil:
				text.WriteByte('T')
			case *caddyhttp.HTTPRedirectListenerWrapper:
				text.WriteByte('R')
			default:
				text.WriteByte('P')
			}
		}
		if i == 0 {
			text.WriteByte('|')
		}
	}
	return text.String()
}

func TestWrappers(t *testing.T) {
	const seamless, tlsWrapper, proxy, redirect = `{"wrapper":"seamless"}`, `{"wrapper":"tls"}`,
		`{"wrapper":"proxy_protocol","allow":["10.0.0.0/8"]}`, `{"wrapper":"http_redirect"}`
	for _, c := range []struct{ list, want string }{
		{seamless, "T|"},
		{seamless + "," + tlsWrapper, "|T"},
		{proxy + "," + tlsWrapper + "," + seamless, "PT|"},
		{proxy + "," + redirect + "," + tlsWrapper + "," + seamless, "PRT|"},
		{seamless + "," + proxy + "," + tlsWrapper, "|PT"},
		{proxy + "," + seamless, "TP|"},
		{seamless + "," + seamless, "seamless is given twice"},
		{`{"wrapper":"proxy_protocol","allow":["x"]},` + seamless, "listener_wrappers: proxy_protocol"},
		{`{"wrapper":"proxy_protocol","nonsense":1},` + seamless, "unknown field"},
		{`{"wrapper":5},` + seamless, "listener_wrappers"},
		{`{"wrapper":"layer4"},` + seamless, "foreign layer4"},
	} {
		s, err := provision(t, `{"listener_wrappers":[`+c.list+`]}`)
		got := shapeOf(s.wrappers)
		if err != nil {
			got = err.Error()
		} else if s.wrappers.foreign != "" {
			got = "foreign " + s.wrappers.foreign
		}
		if got != c.want && (err == nil || !strings.Contains(got, c.want)) {
			t.Errorf("%s: %s, want %s", c.list, got, c.want)
		}
	}
}

// TestElsewhere: other apps have listener wrappers, too.
func TestElsewhere(t *testing.T) {
	ctx, err := caddy.ProvisionContext(&caddy.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := new(Seamless).Provision(ctx); err == nil || !strings.Contains(err.Error(), "http app") {
		t.Errorf("%v, want an error that names the http app", err)
	}
}

// TestTrust: which servers may go on with the connections of which.
func TestTrust(t *testing.T) {
	const wrapper = `"listener_wrappers":[{"wrapper":"seamless"}]`
	servers := map[string]string{
		"plain":           `{` + wrapper + `}`,
		"timeouts":        `{"idle_timeout":"1m",` + wrapper + `}`,
		"TLS":             `{"tls_connection_policies":[{}],` + wrapper + `}`,
		"TLS 1.3":         `{"tls_connection_policies":[{"protocol_min":"tls1.3"}],` + wrapper + `}`,
		"drop":            `{"tls_connection_policies":[{"drop":true,"match":{"sni":["a.example"]}},{}],` + wrapper + `}`,
		"drop another":    `{"tls_connection_policies":[{"drop":true,"match":{"sni":["b.example"]}},{}],` + wrapper + `}`,
		"certificates":    `{"tls_connection_policies":[{"client_authentication":{"mode":"require"}}],` + wrapper + `}`,
		"PROXY protocol":  `{"listener_wrappers":[{"wrapper":"proxy_protocol","allow":["10.0.0.0/8"]},{"wrapper":"tls"},{"wrapper":"seamless"}]}`,
		"PROXY from more": `{"listener_wrappers":[{"wrapper":"proxy_protocol","allow":["0.0.0.0/0"]},{"wrapper":"tls"},{"wrapper":"seamless"}]}`,
	}
	same := map[string]bool{"plain, timeouts": true, "TLS, TLS 1.3": true}
	shapes := make(map[string]shape)
	for name, server := range servers {
		for _, name := range []string{name, name + " again"} {
			s, err := provision(t, server)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			of := shape{key: s.key, tls: len(s.server.TLSConnPolicies) > 0}
			if s.unique {
				of.only = new(generation)
			}
			shapes[name] = of
		}
	}
	for name := range servers {
		if got, want := shapes[name].trusts(shapes[name+" again"]), name != "certificates"; got != want {
			t.Errorf("%s: the same config trusts the connections: %v, want %v", name, got, want)
		}
		for other := range servers {
			if want := same[name+", "+other] || same[other+", "+name]; name != other && shapes[name].trusts(shapes[other]) != want {
				t.Errorf("%s trusts connections of %s: %v, want %v", name, other, !want, want)
			}
		}
	}
}

// TestWatched: a module that has registered for connection events still hears of all connections.
func TestWatched(t *testing.T) {
	if watched(new(caddyhttp.Server)) {
		t.Error("nobody has registered")
	}
	server := new(caddyhttp.Server)
	server.RegisterConnState(nil)
	if !watched(server) {
		t.Error("registration for states is not found")
	}
	server = new(caddyhttp.Server)
	server.RegisterConnContext(nil)
	if !watched(server) {
		t.Error("registration for contexts is not found")
	}
}

func TestSpeaksHTTP1(t *testing.T) {
	for _, c := range []struct {
		protocols, listen []string
		want              bool
	}{
		{[]string{"h1", "h2", "h3"}, nil, true},
		{[]string{"h1"}, nil, true},
		{[]string{"h2"}, nil, false},
		{[]string{"h1", "h2"}, []string{"h1"}, false},
	} {
		server := &caddyhttp.Server{Protocols: c.protocols}
		if c.listen != nil {
			server.ListenProtocols = [][]string{c.listen}
		}
		if got := speaksHTTP1(server); got != c.want {
			t.Errorf("%v, %v: %v, want %v", c.protocols, c.listen, got, c.want)
		}
	}
}

// TestWrap: a connection passes through the wrappers in their order.
func TestWrap(t *testing.T) {
	s, err := provision(t, `{"listener_wrappers":[{"wrapper":"proxy_protocol","allow":["127.0.0.0/8"]},{"wrapper":"tls"},{"wrapper":"seamless"}]}`)
	if err != nil {
		t.Fatal(err)
	}
	s.wrappers.tls = &tls.Config{}
	clients, accepted := pairs(t, 1)
	c, err := s.wrappers.wrap(accepted[0])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, ok := c.(*tls.Conn); !ok {
		t.Fatalf("%T, want TLS outside", c)
	}
	go func() { _, _ = io.WriteString(clients[0], "PROXY TCP4 192.0.2.1 127.0.0.1 1000 80\r\n") }()
	if got := c.RemoteAddr().(*net.TCPAddr).IP.String(); got != "192.0.2.1" {
		t.Errorf("the client's address is %s", got)
	}
}
