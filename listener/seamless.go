package listener

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"reflect"
	"slices"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/ballastlb/ballast/lbmodule/app"
)

func init() {
	caddy.RegisterModule(new(Seamless))
}

// Seamless is a listener wrapper that prevents lost requests when the config is reloaded or Caddy stops:
//
//	{
//		servers {
//			listener_wrappers {
//				seamless
//			}
//		}
//	}
//
// It also has the express lane: plain HTTP/1.1 requests to load balancers are served on their connection without Caddy's handler chain, if
// the outcome is the same.
//
// Kept connections stay open over a reload, including HTTP/2 ones, and the new config serves their next request. They keep the timeouts and
// the limit of header bytes with which they were accepted. Idle connections are closed as without the wrapper in three cases: a TLS
// connection policy of the server asks for client certificates, because a certificate accepted under the old policy may not be valid under
// the new one; a policy that drops connections changes, or the other listener wrappers; or TLS or HTTP/2 is switched on or off.
//
// When Caddy stops, the wrapper accepts no more connections, tells the client in every answer to close the connection, and waits up to a
// second for that (half of grace_period, if that is less) before it closes idle connections.
//
// Its position among the wrappers does not matter. It works together with `proxy_protocol`, `http_redirect` and `tls`. With another
// wrapper, or on a network that a plugin provides, it only logs that it does nothing. Caddy still closes the connections of a server if a
// module has registered a connection callback, or if the server's protocols do not contain h1 or differ between its addresses.
type Seamless struct {
	// The express lane. It is on by default.
	Express *Express `json:"express,omitempty"`

	ctx    caddy.Context
	logger *zap.Logger
	server *caddyhttp.Server
	app    *app.App

	wrappers wrappers
	key      string // of the server's settings on which the safety of its connections depends
	unique   bool   // connections must not be kept for another config
	made     []*generation
}

// Express are the settings of the express lane.
type Express struct {
	// Serve all requests through Caddy's handler chain.
	Disabled bool `json:"disabled,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (*Seamless) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "caddy.listeners.seamless",
		New: func() caddy.Module { return new(Seamless) },
	}
}

// UnmarshalCaddyfile parses the wrapper and its block:
//
//	seamless {
//		express off
//	}
func (s *Seamless) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	for d.Next() {
		if d.NextArg() {
			return d.ArgErr()
		}
		for nesting := d.Nesting(); d.NextBlock(nesting); {
			if d.Val() != "express" {
				return d.Errf("seamless: unrecognized subdirective %s", d.Val())
			}
			if s.Express != nil {
				return d.Err("seamless: express is given twice")
			}
			var value string
			if !d.AllArgs(&value) {
				return d.ArgErr()
			}
			if value != "off" {
				return d.Errf("seamless: express: %q is not off; it is on by default", value)
			}
			s.Express = &Express{Disabled: true}
		}
	}
	return nil
}

// Provision sets s up. It runs before the rest of the server is provisioned, so the server's settings are still as configured.
func (s *Seamless) Provision(ctx caddy.Context) error {
	server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok {
		return fmt.Errorf("seamless: wraps listeners of the http app's servers only")
	}
	s.ctx, s.logger, s.server = ctx, ctx.Logger(), server
	var err error
	if s.app, err = app.Load(ctx); err != nil {
		return err
	}
	events, err := ctx.App("events")
	if err != nil {
		return err
	}
	if err := events.(*caddyevents.App).On("stopping", yielding{s}); err != nil {
		return err
	}
	if s.wrappers, err = loadWrappers(ctx, server.ListenerWrappersRaw); err != nil {
		return fmt.Errorf("seamless: %w", err)
	}
	return s.identify()
}

// identify sets s.key and s.unique.
func (s *Seamless) identify() error {
	settings := struct {
		Wrappers []json.RawMessage
		Policies any `json:",omitempty"`
	}{Wrappers: s.server.ListenerWrappersRaw}
	for _, policy := range s.server.TLSConnPolicies {
		// The trusted certificates may be in files, which change without the config.
		s.unique = s.unique || policy.ClientAuthentication != nil
		if policy.ClientAuthentication != nil || policy.Drop {
			settings.Policies = s.server.TLSConnPolicies
		}
	}
	key, err := json.Marshal(settings)
	s.key = string(key)
	return err
}

// WrapListener implements [caddy.ListenerWrapper].
func (s *Seamless) WrapListener(ln net.Listener) net.Listener {
	if s.wrappers.foreign != "" {
		s.logger.Warn("seamless does nothing beside an unknown listener wrapper", zap.String("wrapper", s.wrappers.foreign))
		return ln
	}
	socket, ok := socketOf(ln)
	if !ok {
		s.logger.Warn("seamless does nothing on a network that is not the operating system's", zap.Stringer("address", ln.Addr()))
		return ln
	}
	g, err := s.generation(ln, socket)
	if err == nil {
		err = join(g, socket)
	}
	if err != nil {
		s.logger.Error("seamless does nothing because its socket could not be set up", zap.Stringer("address", ln.Addr()), zap.Error(err))
		return ln
	}
	s.made = append(s.made, g)
	s.server.RegisterOnStop(await)
	return g
}

// generation describes how this config serves the connections of a socket.
func (s *Seamless) generation(ln net.Listener, socket socket) (*generation, error) {
	loaded, err := s.ctx.AppIfConfigured("http")
	if err != nil {
		return nil, err
	}
	http := loaded.(*caddyhttp.App)
	server := s.server
	g := &generation{
		ln:       ln,
		socket:   socket,
		handler:  server,
		settled:  s.app.Settled(),
		logger:   s.logger,
		stdlib:   s.ctx.Logger(http).Named("stdlib"),
		grace:    http.GracePeriod,
		handed:   make(chan net.Conn),
		closed:   make(chan struct{}),
		wrappers: s.wrappers,
		keepAlive: net.KeepAliveConfig{
			Enable:   server.KeepAliveInterval >= 0,
			Interval: duration(server.KeepAliveInterval),
			Idle:     duration(server.KeepAliveIdle),
			Count:    server.KeepAliveCount,
		},
		shape: shape{
			key:               s.key,
			readTimeout:       duration(server.ReadTimeout),
			readHeaderTimeout: duration(server.ReadHeaderTimeout),
			writeTimeout:      duration(server.WriteTimeout),
			idleTimeout:       duration(server.IdleTimeout),
			maxHeaderBytes:    server.MaxHeaderBytes,
			h2:                slices.Contains(server.Protocols, "h2"),
			h2c:               slices.Contains(server.Protocols, "h2c"),
		},
	}
	// As in the http app: a server with TLS settings speaks plain HTTP on the HTTP port.
	if len(server.TLSConnPolicies) > 0 && socket.port != httpPort(http) {
		g.shape.tls = true
		g.wrappers.tls = server.TLSConnPolicies.TLSConfig(s.ctx)
		g.wrappers.tls.GetConfigForClient = g.policies(g.wrappers.tls.GetConfigForClient)
	}
	if s.unique {
		g.shape.only = g
	}
	if g.site, err = s.site(http); err != nil {
		return nil, err
	}
	var reason string
	switch {
	case watched(server):
		reason = "a module has registered a connection callback"
	case !speaksHTTP1(server):
		reason = "protocols lack h1 or differ between addresses"
	}
	if g.toCaddy = reason != ""; g.toCaddy {
		s.logger.Warn("reloads close idle connections in spite of seamless", zap.Stringer("address", ln.Addr()), zap.String("reason", reason))
	}
	return g, nil
}

// yielding handles the event with which Caddy announces that it stops a config. If there is a later config, it serves from then on, before
// any app of this one is stopped.
type yielding struct{ *Seamless }

// Handle implements [caddyevents.Handler].
func (y yielding) Handle(context.Context, caddy.Event) error {
	for _, g := range y.made {
		g.door.yield(g)
	}
	return nil
}

// Cleanup undoes [Seamless.WrapListener]. Caddy has closed the listeners by then, except those of a config that was rolled back.
func (s *Seamless) Cleanup() error {
	for _, g := range s.made {
		_ = g.Close()
	}
	return nil
}

// watched reports whether a module has registered a connection callback with server, which would not be called for the connections of our
// server. Only unexported fields tell. If Caddy no longer has one of them, watched assumes a callback.
func watched(server *caddyhttp.Server) bool {
	for _, name := range []string{"connStateFuncs", "connContextFuncs"} {
		if funcs := reflect.ValueOf(server).Elem().FieldByName(name); !funcs.IsValid() || funcs.Len() > 0 {
			return true
		}
	}
	return false
}

// speaksHTTP1 reports whether server accepts HTTP/1.1 at all of its addresses. If not, Caddy checks the first bytes of connections.
func speaksHTTP1(server *caddyhttp.Server) bool {
	for _, protocols := range server.ListenProtocols {
		if protocols != nil {
			return false
		}
	}
	return slices.Contains(server.Protocols, "h1")
}

func httpPort(http *caddyhttp.App) int {
	if http.HTTPPort == 0 {
		return caddyhttp.DefaultHTTPPort
	}
	return http.HTTPPort
}

// Interface guards
var (
	_ caddy.Provisioner     = (*Seamless)(nil)
	_ caddy.CleanerUpper    = (*Seamless)(nil)
	_ caddy.ListenerWrapper = (*Seamless)(nil)
	_ caddyfile.Unmarshaler = (*Seamless)(nil)
	_ caddyevents.Handler   = yielding{}
)
