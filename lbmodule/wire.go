package lbmodule

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// networkMarks are put in front of the port in the URLs of requests that go over these networks. Transports keep connections by a URL's
// scheme, host and port; what is dialed, [reverseproxy.DialInfo] says. Zeros make another port of it for those who compare, and the host
// stays what TLS is to verify.
var networkMarks = map[string]string{"tcp4": "0", "tcp6": "00", "unix": "000", "unixpacket": "0000"}

// tellApart returns the request with a URL by which transports use connections only that were made over the same network. A unix socket
// whose path has a slash is like no other address.
func tellApart(r *http.Request, setScheme func(*http.Request)) *http.Request {
	to, ok := reverseproxy.GetDialInfo(r.Context())
	mark := networkMarks[to.Network]
	if !ok || mark == "" || strings.Contains(to.Address, "/") {
		return r
	}
	r, u := r.WithContext(r.Context()), *r.URL
	r.URL = &u
	setScheme(r) // it goes by the port
	if r.Host == "" {
		r.Host = u.Host
	}
	u.Host = strings.TrimSuffix(u.Host, ":"+to.Port) + ":" + mark + to.Port
	return r
}

// namesProxy tells whether the config of a transport names a forward proxy to which it may connect in a backend's place. It is asked
// before the transport is loaded, which takes that out of its settings.
func namesProxy(config json.RawMessage) bool {
	var settings struct {
		URL     string          `json:"forward_proxy_url"`
		Network json.RawMessage `json:"network_proxy"`
	}
	if err := json.Unmarshal(config, &settings); err != nil {
		return false // loading it says what is wrong
	}
	return settings.URL != "" || len(settings.Network) > 0
}

// isSet tells whether one of these environment variables is set.
func isSet(variables ...string) bool {
	return slices.ContainsFunc(variables, func(name string) bool { return os.Getenv(name) != "" })
}

// checkAnswer tells whether an answer to r is one that HTTP has. What it refuses is a failure of the backend, as garbage is.
func checkAnswer(r *http.Request, res *http.Response) error {
	switch {
	case res.StatusCode == http.StatusSwitchingProtocols:
		if _, twoWays := res.Body.(io.ReadWriteCloser); !twoWays {
			return errors.New("backend switches protocols over a transport that cannot")
		}
		return checkSwitch(upgradeOf(r.Header), upgradeOf(res.Header))
	case res.StatusCode < 100 || res.StatusCode > 999: // net/http's server panics over those
		return fmt.Errorf("answer has status %d, want three digits from 100 on", res.StatusCode)
	}
	return nil
}

// checkSwitch tells whether a backend may switch to that protocol (RFC 9110, 15.2.2).
func checkSwitch(asked, switched string) error {
	switch {
	case asked == "":
		return errors.New("backend switches protocols, which was not asked for")
	case !strings.EqualFold(asked, switched) || strings.ContainsFunc(switched, func(c rune) bool { return c < ' ' || c > '~' }):
		return fmt.Errorf("backend switches to protocol %q, asked for %q", switched, asked)
	}
	return nil
}

// upgradeOf is the protocol that a message asks to switch to, or switches to; "" for none.
func upgradeOf(h http.Header) string {
	if !httpguts.HeaderValuesContainsToken(h["Connection"], "Upgrade") {
		return ""
	}
	return h.Get("Upgrade")
}

// clientWriter writes to the client. It keeps the server from guessing what type an answer is of whose backend did not say: absent stays
// absent (RFC 9110, 8.3), and a guess can make a page of what is text.
type clientWriter struct {
	caddyhttp.ResponseWriterWrapper
	q *request
}

// WriteHeader implements [http.ResponseWriter]. What reverse_proxy passes on it marks with Via; other answers are made here, by the routes
// of handle_response, and sniffed as ever.
func (w *clientWriter) WriteHeader(status int) {
	if h := w.Header(); status >= http.StatusOK && w.q.passed != nil && slices.ContainsFunc(h["Via"], isOurs) {
		if _, known := h["Content-Type"]; !known {
			h["Content-Type"] = nil
		}
	}
	w.ResponseWriter.WriteHeader(status)
}

// isOurs tells whether an entry of Via is that of this proxy.
func isOurs(via string) bool { return strings.HasSuffix(via, " Caddy") }
