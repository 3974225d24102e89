// Package express says which requests the express lane serves.
//
// A [Table] is what was understood of a server's routes. [Table.Find] follows a request's way through it before anything is done. Where the
// way meets something that was not understood, the request is for Caddy.
package express

import (
	"crypto/tls"
	"net"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"

	"github.com/ballastlb/ballast/lbmodule/app"
	"github.com/ballastlb/ballast/lbmodule/exchange"
	"github.com/ballastlb/ballast/lbmodule/front"
	"github.com/ballastlb/ballast/lbmodule/service"
	"github.com/ballastlb/ballast/listener/h1"
	"github.com/ballastlb/ballast/ratelimit"
)

// Reasons that requests are for Caddy. Others are the names of the handler or matcher that was not understood, and the settings in
// [settings].
const (
	reasonOff   = "off"             // the express lane is switched off
	reasonEmpty = "empty"           // no handler answers: Caddy sends an empty answer
	reasonEdits = "header"          // where proxies are trusted, operations on a request by which the policy chooses
	reasonSNI   = "strict_sni_host" // another host than that of the TLS handshake: Caddy refuses the request
	reasonMany  = "routes"          // the way meets more limits, header operations, groups or routes than a Way has room for
)

// Table is a server's routes as the express lane sees them. It is safe for concurrent use.
type Table struct {
	why     string // nothing is plain
	proxied bool   // the server trusts proxies
	errors  bool   // it has error routes
	strict  bool   // the name in a request must be that of its connection's TLS
	routes  list
	shown   app.ExpressServer
	counts  *app.ExpressCounts
}

// settings are those settings of servers with which no request is plain.
var settings = []struct {
	reason string
	set    func(*caddyhttp.Server) bool
}{
	{"protocols", func(s *caddyhttp.Server) bool { return !slices.Contains(s.Protocols, "h1") || s.ListenProtocols != nil }},
	{"expected_underscore_headers", func(s *caddyhttp.Server) bool { return len(s.ExpectedUnderscoreHeaders) > 0 }},
	{"expected_dot_headers", func(s *caddyhttp.Server) bool { return len(s.ExpectedDotHeaders) > 0 }},
	{"enable_full_duplex", func(s *caddyhttp.Server) bool { return s.EnableFullDuplex }},
	{"trace", func(s *caddyhttp.Server) bool { return s.Logs != nil && s.Logs.Trace }},
}

// Compile makes the table of a server, which must be provisioned. ctx is of the server's config.
func Compile(server *caddyhttp.Server, ctx caddy.Context) *Table {
	t := Off(server)
	t.why = ""
	t.proxied = ratelimit.TrustsProxies(server)
	t.errors = server.Errors != nil && len(server.Errors.Routes) > 0
	t.strict = server.StrictSNIHost != nil && *server.StrictSNIHost
	for _, s := range settings {
		if s.set(server) {
			t.why = s.reason
			break
		}
	}
	c := compiler{ctx: ctx, groups: make(map[string]int)}
	t.routes = c.list(server.Routes, true)
	t.shown.On, t.shown.Reason = t.why == "", t.why
	t.shown.Routes = describe(&t.routes, t.why)
	return t
}

// Off returns the table of a server whose express lane is switched off.
func Off(server *caddyhttp.Server) *Table { return Without(server, reasonOff) }

// Without returns the table of a server that has no express lane for that reason.
func Without(server *caddyhttp.Server, reason string) *Table {
	return &Table{
		why:    reason,
		shown:  app.ExpressServer{Server: server.Name(), Listen: slices.Clone(server.Listen), Reason: reason, Routes: []app.ExpressRoute{}},
		counts: new(app.ExpressCounts),
	}
}

// Join adds t to what the API of a config tells. Its counts continue those of the server in earlier configs.
func (t *Table) Join(a *app.App) { t.counts = a.AddExpress(t.shown) }

// Proxied reports whether the server trusts proxies to say who their clients are.
func (t *Table) Proxied() bool { return t.proxied }

// Served counts a request that was served.
func (t *Table) Served() { t.counts.Serve() }

// HandedOver counts a request that was left to Caddy, for a reason that [Table.Find] or the parser of heads gave.
func (t *Table) HandedOver(reason string) { t.counts.HandOver(reason) }

// Way is the plain way of a request: to a load balancer, past limits and header operations. It may be used again for other requests.
type Way struct {
	// The load balancer.
	Plan    *exchange.Plan
	Service *service.Service
	Front   *front.Front

	Limits []*ratelimit.Handler // in order
	Edits  []Edit               // in order
	Strip  int                  // how much the path loses at its beginning; what remains begins with a slash
	Routes []Matched            // of the server itself, those that matched, in order

	// The request while its way is looked for.
	head    *h1.Head
	host    []byte // in lower case, without a port; in name
	hosted  bool   // host is known
	renamed string // the handler that has changed the host; "" if none has
	path    []byte // what is left of it
	tls     bool

	groups []int // of which a route has matched
	name   [maxHost]byte
}

// Edit is header operations on a way.
type Edit struct {
	*headers.Handler
	Limits int // how many limits come before
}

// Matched is a route of a server that matched.
type Matched struct {
	Index   int
	Handler string // the module name of its first handler
}

// The most that a Way has room for. Ways that need more are for Caddy.
const (
	mostLimits  = 8
	mostEdits   = 16
	mostMatched = 16
	mostGroups  = 64
)

// NewWay returns a Way that can be used without allocating.
func NewWay() *Way {
	return &Way{
		Limits: make([]*ratelimit.Handler, 0, mostLimits),
		Edits:  make([]Edit, 0, mostEdits),
		Routes: make([]Matched, 0, mostMatched),
		groups: make([]int, 0, mostGroups),
	}
}

// Reset forgets the request.
func (w *Way) Reset() {
	w.Plan, w.Service, w.Front = nil, nil, nil
	clear(w.Limits)
	clear(w.Edits)
	w.Edits, w.Limits, w.Routes, w.groups = w.Edits[:0], w.Limits[:0], w.Routes[:0], w.groups[:0]
	w.Strip = 0
	w.head, w.host, w.path, w.renamed = nil, nil, nil, ""
}

// Find looks for the way of a request, and returns why there is no plain one; "" if there is. Only then w is complete. state is that of the
// connection's TLS, nil without TLS.
func (t *Table) Find(h *h1.Head, state *tls.ConnectionState, w *Way) (why string) {
	if t.why != "" {
		return t.why
	}
	if t.strict && state != nil && !isFor(h.Host.Of(h.Raw), state.ServerName) {
		return reasonSNI
	}
	w.Reset()
	w.head, w.path, w.tls = h, h.Path.Of(h.Raw), state != nil
	w.host, w.hosted = hostOf(h.Host.Of(h.Raw), w.name[:])
	switch end, why := t.routes.follow(w); end {
	case arrived:
		if t.proxied && slices.ContainsFunc(w.Edits, func(e Edit) bool { return e.Request != nil }) && w.Front.NeedsWhole() {
			return reasonEdits
		}
		if t.errors && w.renamed != "" {
			return w.renamed // errors are logged where requests to the changed host are
		}
		return ""
	case left:
		return why
	default:
		return reasonEmpty
	}
}

// isFor reports whether host, with or without a port, is the name that the client has said in its TLS handshake, as Caddy compares them.
func isFor(host []byte, name string) bool {
	text := string(host)
	if without, _, err := net.SplitHostPort(text); err == nil {
		text = without
	}
	return strings.EqualFold(name, text)
}
