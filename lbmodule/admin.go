package lbmodule

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/ballastlb/ballast/caddyapp"
	"github.com/ballastlb/ballast/lbmodule/app"
	"github.com/ballastlb/ballast/lbmodule/service"
)

func init() {
	caddy.RegisterModule(adminAPI{})
}

// adminAPI shows the pools at Caddy's admin endpoint, and edits their backends; [apiRoutes] lists what there is. openapi.yaml
// describes it.
type adminAPI struct{}

// CaddyModule returns the Caddy module information.
func (adminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.load_balancer",
		New: func() caddy.Module { return adminAPI{} },
	}
}

const (
	poolsPath  = "/load_balancer/pools"
	eventsPath = "/load_balancer/events"
)

// Routes implements [caddy.AdminRouter].
func (a adminAPI) Routes() []caddy.AdminRoute {
	var all []caddy.AdminRoute
	for _, pattern := range []string{poolsPath, poolsPath + "/", eventsPath} {
		all = append(all, caddy.AdminRoute{Pattern: pattern, Handler: caddy.AdminHandlerFunc(a.serve)})
	}
	return all
}

// apiRoute is a method and a path, in which {pool} and {backend} stand for names.
type apiRoute struct {
	method, pattern string
	serve           func(*apiCall) error
}

// apiRoutes are what the API knows.
var apiRoutes = []apiRoute{
	{http.MethodGet, poolsPath, (*apiCall).listPools},
	{http.MethodGet, poolsPath + "/{pool}", (*apiCall).showPool},
	{http.MethodGet, poolsPath + "/{pool}/diff", (*apiCall).showDiff},
	{http.MethodGet, poolsPath + "/{pool}/explain", (*apiCall).explain},
	{http.MethodGet, poolsPath + "/{pool}/backends", (*apiCall).listBackends},
	{http.MethodPost, poolsPath + "/{pool}/backends", (*apiCall).addBackend},
	{http.MethodGet, poolsPath + "/{pool}/backends/{backend}", (*apiCall).showBackend},
	{http.MethodPatch, poolsPath + "/{pool}/backends/{backend}", (*apiCall).editBackend},
	{http.MethodDelete, poolsPath + "/{pool}/backends/{backend}", (*apiCall).removeBackend},
	{http.MethodPost, poolsPath + "/{pool}/backends/{backend}/reset", (*apiCall).resetBackend},
	{http.MethodGet, eventsPath, (*apiCall).streamEvents},
}

// apiCall is a request to the API.
type apiCall struct {
	w   http.ResponseWriter
	r   *http.Request
	app *app.App // of the config that serves; nil if there is none

	s       *service.Service // of the pool in the path
	backend string           // name or address in the path
}

func apiError(status int, format string, args ...any) error {
	return caddy.APIError{HTTPStatus: status, Err: fmt.Errorf(format, args...)}
}

func (adminAPI) serve(w http.ResponseWriter, r *http.Request) error {
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	// Names are percent-encoded: they may hold slashes.
	path := strings.Split(strings.TrimSuffix(r.URL.EscapedPath(), "/"), "/")
	var allowed []string
	for _, route := range apiRoutes {
		pattern := strings.Split(route.pattern, "/")
		if !matches(pattern, path) {
			continue
		}
		if route.method != method {
			allowed = append(allowed, route.method)
			continue
		}
		c := &apiCall{w: w, r: r, app: app.Serving()}
		if err := c.find(pattern, path); err != nil {
			return err
		}
		return route.serve(c)
	}
	if len(allowed) == 0 {
		return apiError(http.StatusNotFound, "path %s: there is nothing at it", r.URL.Path)
	}
	methods := strings.Join(allowed, ", ")
	w.Header().Set("Allow", methods)
	return apiError(http.StatusMethodNotAllowed, "method %s: must be one of %s", r.Method, methods)
}

func isVariable(part string) bool { return strings.HasPrefix(part, "{") }

func matches(pattern, path []string) bool {
	return slices.EqualFunc(pattern, path, func(want, have string) bool { return want == have || isVariable(want) && have != "" })
}

// find finds what the path names.
func (c *apiCall) find(pattern, path []string) error {
	for i, part := range pattern {
		if !isVariable(part) {
			continue
		}
		name, err := url.PathUnescape(path[i])
		if err != nil {
			return apiError(http.StatusBadRequest, "%s: %w", strings.Trim(part, "{}"), err)
		}
		if part == "{backend}" {
			c.backend = name
			continue
		}
		if c.app != nil {
			c.s = c.app.ServiceOf(name)
		}
		if c.s == nil {
			return apiError(http.StatusNotFound, "pool %s: there is none of that name", name)
		}
	}
	return nil
}

var _ caddy.AdminRouter = adminAPI{}

// Provision registers the metrics. The admin endpoint of a new config answers before its apps are there: without this,
// counters would be gone for a moment at each reload.
func (adminAPI) Provision(ctx caddy.Context) error {
	return caddyapp.RegisterMetrics(ctx, app.MetricsOf(nil))
}
