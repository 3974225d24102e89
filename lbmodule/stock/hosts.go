package stock

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	_ "unsafe" // for linkname

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// hosts are the backends of the config as reverse_proxy shows them at `/reverse_proxy/upstreams`.
type hosts struct {
	handler reverseproxy.Handler
	held    bool
	shown   map[string]bool // by address
}

// hold has these upstreams shown, and gives them their hosts. Only reverse_proxy can, while it provisions a handler; the
// one that is provisioned for that serves nothing. It ends at once what it began in the background, because that is a gauge
// of healthy upstreams which knows nothing of our checks.
func (s *hosts) hold(ctx caddy.Context, upstreams reverseproxy.UpstreamPool) error {
	if len(upstreams) == 0 {
		return nil
	}
	s.handler = reverseproxy.Handler{Upstreams: upstreams, Transport: http.DefaultTransport}
	own, cancel := caddy.NewContext(ctx)
	defer cancel()
	if err := s.handler.Provision(own); err != nil {
		return fmt.Errorf("upstreams: %w", err)
	}
	s.held, s.shown = true, make(map[string]bool, len(upstreams))
	for _, u := range upstreams {
		s.shown[u.Dial] = true
	}
	return nil
}

// release takes them back.
func (s *hosts) release() error {
	if !s.held {
		return nil
	}
	s.held = false
	return s.handler.Cleanup()
}

// DialInfoKey is where reverse_proxy's transports look for the address to connect to.
const DialInfoKey caddy.CtxKey = "reverse_proxy.dial_info"

// Target is an upstream as attempts need it: an address that has been parsed.
type Target struct {
	Upstream *reverseproxy.Upstream
	Dial     reverseproxy.DialInfo // zero if the address depends on the request

	key   any  // Dial, in the form in which contexts hold it
	shown bool // reverse_proxy shows its host under the address that is dialed
}

// NewTarget returns the target that u is.
func (s *Handler) NewTarget(u *reverseproxy.Upstream) *Target {
	t := &Target{Upstream: u}
	if strings.ContainsAny(u.Dial, "{}") {
		return t
	}
	// An address that is wrong is told of by the requests that go there.
	if info, err := parse(u, u.Dial); err == nil {
		t.set(info)
	}
	t.shown = s.hosts.shown[u.Dial] && t.Dial.Address == u.Dial
	return t
}

func (t *Target) set(info reverseproxy.DialInfo) { t.Dial, t.key = info, info }

// For returns the target for a request: that of an address with placeholders is its own.
func (t *Target) For(repl *caddy.Replacer) (*Target, error) {
	if t.key != nil {
		return t, nil
	}
	info, err := parse(t.Upstream, repl.ReplaceAll(t.Upstream.Dial, ""))
	if err != nil {
		return nil, err
	}
	own := &Target{Upstream: t.Upstream}
	own.set(info)
	return own, nil
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
		Upstream: u, Network: a.Network, Address: a.JoinHostPort(0), Host: a.Host, Port: strconv.Itoa(int(a.StartPort)),
	}, nil
}

// Address is the address by which the upstream is known.
func (t *Target) Address() string { return t.Upstream.Dial }

// Value is what a context holds under [DialInfoKey], where the target is the one to connect to.
func (t *Target) Value() any { return t.key }

// Into returns ctx with the target as the one to connect to.
func (t *Target) Into(ctx context.Context) context.Context {
	return context.WithValue(ctx, DialInfoKey, t.key)
}

// Dialed is the address that a request with that context is sent to, "" if that is not known.
func Dialed(ctx context.Context) string {
	to, _ := reverseproxy.GetDialInfo(ctx)
	return to.Address
}

// Fixed reports whether the address is the same for all requests.
func (t *Target) Fixed() bool { return t.key != nil }

// Begin counts a request at the target, where reverse_proxy's own selection policies, those of others and /reverse_proxy/upstreams look.
func (t *Target) Begin() { t.count(1) }

// End takes back what Begin did.
func (t *Target) End() { t.count(-1) }

func (t *Target) count(delta int) {
	if t.Upstream.Host != nil { // a policy may make up an upstream without one
		_ = countRequest(t.Upstream.Host, delta) // its error is that the count is below zero
	}
	switch {
	case t.shown: // the list has its host, and is not looked at
	case delta > 0:
		incInFlightRequest(t.Dial.Address)
	default:
		decInFlightRequest(t.Dial.Address)
	}
}

// A Host counts its requests in a field that only reverse_proxy's own loop changes: there is no exported way. So its functions are called
// by their linker names. A release of Caddy that lacks one of them fails to build, and TestCount notices when they mean something else.

//go:linkname countRequest github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy.(*Host).countRequest
func countRequest(h *reverseproxy.Host, delta int) error

//go:linkname incInFlightRequest github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy.incInFlightRequest
func incInFlightRequest(address string)

//go:linkname decInFlightRequest github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy.decInFlightRequest
func decInFlightRequest(address string)
