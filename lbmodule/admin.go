package lbmodule

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/ballastlb/ballast/caddyapp"
)

func init() {
	caddy.RegisterModule(adminAPI{})
}

// serving are the apps that have been started.
var serving caddyapp.Serving[*App]

// adminAPI shows the pools at Caddy's admin endpoint:
//
//	GET /load_balancer/pools          all pools, sorted by name
//	GET /load_balancer/pools/{pool}   one of them
type adminAPI struct{}

// CaddyModule returns the Caddy module information.
func (adminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.load_balancer",
		New: func() caddy.Module { return adminAPI{} },
	}
}

const poolsPath = "/load_balancer/pools"

// Routes implements [caddy.AdminRouter].
func (a adminAPI) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{
		{Pattern: poolsPath, Handler: caddy.AdminHandlerFunc(a.pools)},
		{Pattern: poolsPath + "/", Handler: caddy.AdminHandlerFunc(a.pools)},
	}
}

func (adminAPI) pools(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		return caddy.APIError{HTTPStatus: http.StatusMethodNotAllowed, Err: fmt.Errorf("method %s: must be GET", r.Method)}
	}
	all := []poolOverview{}
	if app := serving.Latest(); app != nil {
		all = app.overview()
	}
	// Names are percent-encoded: they may hold slashes.
	name, err := url.PathUnescape(strings.TrimPrefix(strings.TrimPrefix(r.URL.EscapedPath(), poolsPath), "/"))
	if err != nil {
		return caddy.APIError{HTTPStatus: http.StatusBadRequest, Err: fmt.Errorf("pool: %w", err)}
	}
	if name == "" {
		return caddyapp.WriteJSON(w, all)
	}
	i := slices.IndexFunc(all, func(p poolOverview) bool { return p.Name == name })
	if i < 0 {
		return caddy.APIError{HTTPStatus: http.StatusNotFound, Err: fmt.Errorf("pool %s: there is none of that name", name)}
	}
	return caddyapp.WriteJSON(w, all[i])
}

var _ caddy.AdminRouter = adminAPI{}
