package lbmodule

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"
)

func init() {
	caddy.RegisterModule(adminAPI{})
}

// serving are the apps that have been started, the latest last: that one is shown. There are two during a reload, and
// the first stays when the second is given up.
var serving apps

type apps struct {
	mu      sync.Mutex
	started []*App
}

func (s *apps) add(a *App) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.started = append(s.started, a)
}

func (s *apps) remove(a *App) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.started = slices.DeleteFunc(s.started, func(other *App) bool { return other == a })
}

// latest returns the app of the config that serves now, nil if there is none.
func (s *apps) latest() *App {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.started) == 0 {
		return nil
	}
	return s.started[len(s.started)-1]
}

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
	if app := serving.latest(); app != nil {
		all = app.overview()
	}
	// Names are percent-encoded: they may hold slashes.
	name, err := url.PathUnescape(strings.TrimPrefix(strings.TrimPrefix(r.URL.EscapedPath(), poolsPath), "/"))
	if err != nil {
		return caddy.APIError{HTTPStatus: http.StatusBadRequest, Err: fmt.Errorf("pool: %w", err)}
	}
	if name == "" {
		return writeJSON(w, all)
	}
	i := slices.IndexFunc(all, func(p poolOverview) bool { return p.Name == name })
	if i < 0 {
		return caddy.APIError{HTTPStatus: http.StatusNotFound, Err: fmt.Errorf("pool %s: there is none of that name", name)}
	}
	return writeJSON(w, all[i])
}

func writeJSON(w http.ResponseWriter, value any) error {
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(value)
}

var _ caddy.AdminRouter = adminAPI{}
