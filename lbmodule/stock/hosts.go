package stock

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	_ "unsafe" // for linkname

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// hosts are the backends of the config that reverse_proxy lists at `/reverse_proxy/upstreams`.
type hosts struct {
	handler reverseproxy.Handler
	held    bool
	has     func(address string) bool
}

// hold lists these upstreams and gives them their hosts. has reports whether an address is that of one of them. Only reverse_proxy can do
// that, while it provisions a handler; the handler here serves no requests. Canceling its context stops its background work at once: a
// gauge of healthy upstreams that does not know the load balancer's checks.
func (s *hosts) hold(ctx caddy.Context, upstreams reverseproxy.UpstreamPool, has func(address string) bool) error {
	if len(upstreams) == 0 {
		return nil
	}
	s.handler = reverseproxy.Handler{Upstreams: upstreams, Transport: http.DefaultTransport}
	own, cancel := caddy.NewContext(ctx)
	defer cancel()
	if err := s.handler.Provision(own); err != nil {
		return fmt.Errorf("upstreams: %w", err)
	}
	s.held, s.has = true, has
	return nil
}

// release undoes hold.
func (s *hosts) release() error {
	if !s.held {
		return nil
	}
	s.held = false
	return s.handler.Cleanup()
}

// dialInfoKey is the variable in which reverse_proxy's transports find the address to connect to.
const dialInfoKey caddy.CtxKey = "reverse_proxy.dial_info"

// Target is an upstream with its parsed address.
type Target struct {
	Upstream *reverseproxy.Upstream

	dial  any  // a reverseproxy.DialInfo, as an interface so that a request does not allocate one; nil if the address depends on the request
	shown bool // reverse_proxy lists its host under the dialed address
}

// Dial returns the address to connect to; zero if it depends on the request.
func (t *Target) Dial() reverseproxy.DialInfo {
	info, _ := t.dial.(reverseproxy.DialInfo)
	return info
}

// NewTarget returns the target of u.
func (s *Handler) NewTarget(u *reverseproxy.Upstream) *Target {
	t := &Target{Upstream: u}
	if strings.ContainsAny(u.Dial, "{}") {
		return t
	}
	// A request to an invalid address returns the error, see For.
	if info, err := parse(u, u.Dial); err == nil {
		t.dial = info
		t.shown = info.Address == u.Dial && s.hosts.held && s.hosts.has(u.Dial)
	}
	return t
}

// NewMirror returns the target of a mirror, whose address is not that of a backend. Its connections are not counted.
func NewMirror(address string) (*Target, error) {
	u := &reverseproxy.Upstream{Dial: address}
	info, err := parse(u, address)
	if err != nil {
		return nil, err
	}
	info.Upstream = nil // connections are reported by upstream, so these are not
	return &Target{Upstream: u, dial: info}, nil
}

// For returns the target for a request. It is a new target if the address has placeholders.
func (t *Target) For(repl *caddy.Replacer) (*Target, error) {
	if t.dial != nil {
		return t, nil
	}
	info, err := parse(t.Upstream, repl.ReplaceAll(t.Upstream.Dial, ""))
	if err != nil {
		return nil, err
	}
	return &Target{Upstream: t.Upstream, dial: info}, nil
}

func parse(u *reverseproxy.Upstream, address string) (reverseproxy.DialInfo, error) {
	a, err := caddy.ParseNetworkAddress(address)
	if err != nil {
		return reverseproxy.DialInfo{}, fmt.Errorf("upstream %s: invalid dial address %s: %w", u.Dial, address, err)
	}
	if n := a.PortRangeSize(); n != 1 {
		return reverseproxy.DialInfo{}, fmt.Errorf("upstream %s: dial address must represent precisely one socket: %s represents %d", u.Dial, address, n)
	}
	return reverseproxy.DialInfo{
		Upstream: u, Network: a.Network, Address: sameText(a.JoinHostPort(0), address), Host: a.Host, Port: strconv.Itoa(int(a.StartPort)),
	}, nil
}

// sameText returns text. If text is a suffix of whole, the result shares its memory, so that an address is stored once.
func sameText(text, whole string) string {
	if strings.HasSuffix(whole, text) {
		return whole[len(whole)-len(text):]
	}
	return text
}

// Address returns the address that identifies the upstream.
func (t *Target) Address() string { return t.Upstream.Dial }

// Fixed reports whether the address is the same for all requests.
func (t *Target) Fixed() bool { return t.dial != nil }

// Begin counts a request in the counters that /reverse_proxy/upstreams and selection policies of other modules read.
func (t *Target) Begin() { t.count(1) }

// End undoes Begin.
func (t *Target) End() { t.count(-1) }

func (t *Target) count(delta int) {
	if t.Upstream.Host != nil { // a policy may make up an upstream without one
		_ = countRequest(t.Upstream.Host, delta) // it fails only if the count would be negative
	}
	switch {
	case t.shown: // the list reads the host's own counter
	case delta > 0:
		incInFlightRequest(t.Dial().Address)
	default:
		decInFlightRequest(t.Dial().Address)
	}
}

// Only reverse_proxy's own loop changes a Host's request counter, and no exported function does. So its functions are called by their
// linker names. With a release of Caddy that lacks one of them the build fails, and TestCount fails if one of them changes its meaning.

//go:linkname countRequest github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy.(*Host).countRequest
func countRequest(h *reverseproxy.Host, delta int) error

//go:linkname incInFlightRequest github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy.incInFlightRequest
func incInFlightRequest(address string)

//go:linkname decInFlightRequest github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy.decInFlightRequest
func decInFlightRequest(address string)
