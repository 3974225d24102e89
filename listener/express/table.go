// Package express decides which requests the express lane serves.
//
// A [Table] has those parts of a server's routes that were understood. [Table.Find] follows a request's way through it before anything is
// done. Where the way meets a part that was not understood, Caddy gets the request.
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

// Reasons why Caddy gets requests. Others are the names of the handler or matcher that was not understood, and the settings in [settings].
const (
	reasonOff   = "off"             // the express lane is switched off
	reasonEmpty = "empty"           // no handler answers: Caddy sends an empty answer
	reasonEdits = "header"          // proxies are trusted, and operations change request fields that the policy chooses by
	reasonSNI   = "strict_sni_host" // the host is not that of the TLS handshake: Caddy refuses the request
	reasonMany  = "routes"          // the way meets more limits, header operations, groups or routes than a Way has room for
)

// Table is a server's routes as the express lane understands them. It is safe for concurrent use.
type Table struct {
	why     string // why no request is plain; "" if some are
	proxied bool   // the server trusts proxies
	errors  bool   // it has error routes
	strict  bool   // the host of a request must be the server name of its TLS connection
	routes  list
	shown   app.ExpressServer
	counts  *app.ExpressCounts
}

// settings are the server settings that rule out the express lane.
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

// Compile makes the table of a server, which must be provisioned. ctx must be of the server's config.
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

// Join adds t to what the API shows of a config. Its counts continue those of the server in earlier configs.
func (t *Table) Join(a *app.App) { t.counts = a.AddExpress(t.shown) }

// Proxied reports whether the server trusts proxies to say who their clients are.
func (t *Table) Proxied() bool { return t.proxied }

// Served counts a request that was served.
func (t *Table) Served() { t.counts.Serve() }

// HandedOver counts a request that Caddy gets, for a reason of [Table.Find] or of the parser of heads.
func (t *Table) HandedOver(reason string) { t.counts.HandOver(reason) }

// Way is the plain way of a request: to a load balancer, past limits and header operations. It may be reused for other requests.
type Way struct {
	// The load balancer.
	Plan    *exchange.Plan
	Service *service.Service
	Front   *front.Front

	Limits []*ratelimit.Handler // in order
	Edits  []Edit               // in order
	Strip  int                  // number of bytes stripped from the beginning of the path; the rest begins with a slash
	Routes []Matched            // the server's own routes that matched, in order

	// The request, while its way is looked up.
	head    *h1.Head
	host    []byte // in lower case, without a port; in name
	hosted  bool   // host is set
	renamed string // the handler that has changed the host; "" if none has
	path    []byte // the rest of the path
	tls     bool

	groups []int // numbers of the groups in which a route has matched
	name   [maxHost]byte
}

// Edit is a set of header operations on a way.
type Edit struct {
	*headers.Handler
	Limits int // how many limits come before
}

// Matched is a route of a server that matched.
type Matched struct {
	Index   int
	Handler string // the module name of its first handler
}

// The capacity of a Way. Caddy gets requests whose way needs more.
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

// Reset prepares w for another request.
func (w *Way) Reset() {
	w.Plan, w.Service, w.Front = nil, nil, nil
	clear(w.Limits)
	clear(w.Edits)
	w.Edits, w.Limits, w.Routes, w.groups = w.Edits[:0], w.Limits[:0], w.Routes[:0], w.groups[:0]
	w.Strip = 0
	w.head, w.host, w.path, w.renamed = nil, nil, nil, ""
}

// Find looks up the way of a request, and returns why it has no plain one; "" if it has. w is complete only in that case. state is that of
// the connection's TLS, nil without TLS.
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
			return w.renamed // errors are logged under the changed host
		}
		return ""
	case left:
		return why
	default:
		return reasonEmpty
	}
}

// isFor reports whether host, with or without a port, is the server name of the client's TLS handshake, compared as Caddy does.
func isFor(host []byte, name string) bool {
	text := string(host)
	if without, _, err := net.SplitHostPort(text); err == nil {
		text = without
	}
	return strings.EqualFold(name, text)
}
