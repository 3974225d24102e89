package listener

import (
	"net/http"
	"reflect"

	"github.com/quic-go/quic-go/http3"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/ballastlb/ballast/listener/express"
	"github.com/ballastlb/ballast/listener/lane"
	"github.com/ballastlb/ballast/listener/told"
)

// site returns what the express lane serves for the server of s, or nil if it serves nothing.
func (s *Seamless) site(http *caddyhttp.App) (*lane.Site, error) {
	if s.made != nil {
		return s.made[0].site, nil // one site for all addresses
	}
	if s.Express != nil && s.Express.Disabled {
		express.Off(s.server).Join(s.app)
		return nil, nil
	}
	if lane.HasErrorRoutes(s.server) && !told.KnowsExtraFields() {
		express.Without(s.server, "errors").Join(s.app)
		return nil, nil
	}
	site := &lane.Site{Server: s.server, Logger: s.logger, Log: told.NewLog(s.ctx, http, s.server), Table: express.Compile(s.server, s.ctx)}
	site.Table.Join(s.app)
	var err error
	if site.Metrics, err = told.NewMetrics(s.ctx, http, s.server); err != nil {
		return nil, err
	}
	site.AltSvc = alternative(s.server)
	site.Errors = lane.ErrorRoutes(s.server)
	return site, nil
}

// alternative returns a function for [lane.Site.AltSvc]. The value of Alt-Svc for HTTP/3 is only in an unexported field of Caddy's server,
// which is set after the listeners are made.
func alternative(server *caddyhttp.Server) func() string {
	field := reflect.ValueOf(server).Elem().FieldByName("h3server")
	if !field.IsValid() || field.Type() != reflect.TypeFor[*http3.Server]() {
		return nil
	}
	at := (**http3.Server)(field.Addr().UnsafePointer())
	return func() string {
		h3 := *at
		if h3 == nil {
			return ""
		}
		header := make(http.Header, 1)
		if h3.SetQUICHeaders(header) != nil {
			return ""
		}
		return header.Get("Alt-Svc")
	}
}
