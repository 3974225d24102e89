package admin

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/ballastlb/ballast/caddyapp"
	"github.com/ballastlb/ballast/lbmodule/app"
	"github.com/ballastlb/ballast/lbmodule/overlay"
	"github.com/ballastlb/ballast/lbmodule/policies"
	"github.com/ballastlb/ballast/lbmodule/service"
	"github.com/ballastlb/ballast/lbmodule/status"
)

func init() {
	caddy.RegisterModule(adminAPI{})
}

// adminAPI serves the pools at Caddy's admin endpoint and edits their backends. [apiRoutes] lists its endpoints; openapi.yaml describes
// them.
type adminAPI struct{}

// CaddyModule returns the Caddy module information.
func (adminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.load_balancer",
		New: func() caddy.Module { return adminAPI{} },
	}
}

// Provision registers the metrics. A new config's admin endpoint answers before its apps are loaded; without this, counters would
// disappear for a moment at each reload.
func (adminAPI) Provision(ctx caddy.Context) error {
	return caddyapp.RegisterMetrics(ctx, app.MetricsOf(nil))
}

const (
	poolsPath   = "/load_balancer/pools"
	expressPath = "/load_balancer/express"
	fleetPath   = "/load_balancer/fleet"
	eventsPath  = "/load_balancer/events"
)

// Routes implements [caddy.AdminRouter].
func (a adminAPI) Routes() []caddy.AdminRoute {
	var all []caddy.AdminRoute
	for _, pattern := range []string{poolsPath, poolsPath + "/", expressPath, fleetPath, eventsPath} {
		all = append(all, caddy.AdminRoute{Pattern: pattern, Handler: caddy.AdminHandlerFunc(a.serve)})
	}
	return all
}

// apiRoute is an endpoint: a method and a path, in which {pool} and {backend} stand for names.
type apiRoute struct {
	method, pattern string
	serve           func(*apiCall) error
}

// apiRoutes lists the endpoints of the API.
var apiRoutes = []apiRoute{
	{http.MethodGet, poolsPath, (*apiCall).listPools},
	{http.MethodGet, poolsPath + "/{pool}", (*apiCall).showPool},
	{http.MethodGet, poolsPath + "/{pool}/diff", (*apiCall).showDiff},
	{http.MethodGet, poolsPath + "/{pool}/explain", (*apiCall).explain},
	{http.MethodGet, poolsPath + "/{pool}/history", (*apiCall).showHistory},
	{http.MethodGet, poolsPath + "/{pool}/canary", (*apiCall).showCanary},
	{http.MethodPatch, poolsPath + "/{pool}/canary", (*apiCall).changeCanary},
	{http.MethodGet, poolsPath + "/{pool}/backends", (*apiCall).listBackends},
	{http.MethodPost, poolsPath + "/{pool}/backends", (*apiCall).addBackend},
	{http.MethodGet, poolsPath + "/{pool}/backends/{backend}", (*apiCall).showBackend},
	{http.MethodPatch, poolsPath + "/{pool}/backends/{backend}", (*apiCall).editBackend},
	{http.MethodDelete, poolsPath + "/{pool}/backends/{backend}", (*apiCall).removeBackend},
	{http.MethodPost, poolsPath + "/{pool}/backends/{backend}/reset", (*apiCall).resetBackend},
	{http.MethodGet, expressPath, (*apiCall).showExpress},
	{http.MethodGet, fleetPath, (*apiCall).showFleet},
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
	if at, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		app.AskedAt(at.String())
	}
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	// Names are percent-encoded, because they may contain slashes.
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
		return apiError(http.StatusNotFound, "path %s: not found", r.URL.Path)
	}
	methods := strings.Join(allowed, ", ")
	w.Header().Set("Allow", methods)
	return apiError(http.StatusMethodNotAllowed, "method %s: must be one of %s", r.Method, methods)
}

func isVariable(part string) bool { return strings.HasPrefix(part, "{") }

func matches(pattern, path []string) bool {
	return slices.EqualFunc(pattern, path, func(want, have string) bool { return want == have || isVariable(want) && have != "" })
}

// find looks up what the path names.
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
			return apiError(http.StatusNotFound, "pool %s: not found", name)
		}
	}
	return nil
}

func (c *apiCall) listPools() error {
	all := []status.Pool{}
	if c.app != nil {
		all = c.app.Overview()
	}
	return caddyapp.WriteJSON(c.w, all)
}

// showExpress writes the state of the express lane.
func (c *apiCall) showExpress() error {
	all := []app.ExpressServer{}
	if c.app != nil {
		all = c.app.Express()
	}
	return caddyapp.WriteJSON(c.w, all)
}

// showFleet writes the nodes that share the storage, and where they differ.
func (c *apiCall) showFleet() error { return caddyapp.WriteJSON(c.w, app.Fleet()) }

// running returns the backends of the pool, without those that are gone.
func (c *apiCall) running() []overlay.Running { return c.s.Running(time.Now()) }

// shown returns the backends to list: without those outside a subset, which may be thousands, unless the query asks for them.
func (c *apiCall) shown(running []overlay.Running) []overlay.Running {
	if c.asks("all") {
		return running
	}
	return c.s.Shortened(running)
}

func (c *apiCall) showPool() error {
	// The answer and its ETag must describe the same state.
	running := c.running()
	c.w.Header().Set("ETag", etag(running...))
	return caddyapp.WriteJSON(c.w, c.app.OverviewOf(c.s, c.shown(running)))
}

func (c *apiCall) listBackends() error {
	running := c.running()
	c.w.Header().Set("ETag", etag(running...))
	return caddyapp.WriteJSON(c.w, c.app.OverviewOf(c.s, c.shown(running)).Backends)
}

func (c *apiCall) showBackend() error { return c.answer(http.StatusOK, c.backend, nil) }

func unknownBackend(s *service.Service, name string) error {
	return apiError(http.StatusNotFound, "backend %s: not found in pool %s", name, s.Pool().Name())
}

// answer writes the backend with this name or address. persisted says whether a change of it is in storage, nil without a change.
func (c *apiCall) answer(status int, name string, persisted *bool) error {
	b, ok := findRunning(c.running(), name)
	if !ok {
		return unknownBackend(c.s, name)
	}
	shown := c.app.OverviewOf(c.s, []overlay.Running{b}).Backends
	if len(shown) == 0 {
		return unknownBackend(c.s, name)
	}
	shown[0].Persisted = persisted
	c.w.Header().Set("ETag", etag(b))
	return writeStatus(c.w, status, shown[0])
}

func writeStatus(w http.ResponseWriter, status int, value any) error {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	return json.NewEncoder(w).Encode(value)
}

// findRunning returns the backend with this name or, if there is none, with this address.
func findRunning(all []overlay.Running, name string) (overlay.Running, bool) {
	var byAddress *overlay.Running
	for i, b := range all {
		if b.Name == name {
			return b, true
		}
		if b.Address == name {
			byAddress = &all[i]
		}
	}
	if byAddress == nil {
		return overlay.Running{}, false
	}
	return *byAddress, true
}

// etag returns the entity tag of the managed settings of backends (RFC 9110, 8.8.3).
func etag(backends ...overlay.Running) string {
	sum := sha256.New()
	encoder := json.NewEncoder(sum)
	for _, b := range backends {
		// Encoding plain values cannot fail.
		_ = encoder.Encode([]any{b.Backend, b.Revision, b.Added, b.Removed})
	}
	return `"` + hex.EncodeToString(sum.Sum(nil)[:12]) + `"`
}

// showDiff writes how the pool differs from its config.
func (c *apiCall) showDiff() error { return caddyapp.WriteJSON(c.w, status.Diff(c.s, time.Now())) }

// maxLive is the maximum number of live requests in an explanation.
const maxLive = 20

// explain explains where requests go: any request; with ?key= one with this key (several for a policy with several); with ?request= one
// that is being served.
func (c *apiCall) explain() error {
	set, _ := c.s.Shown()
	if set == nil {
		return apiError(http.StatusConflict, "pool %s: has no backends yet", c.s.Pool().Name())
	}
	query := c.r.URL.Query()
	var live *status.LiveRequest
	var tried []string
	if id := query.Get("request"); id != "" {
		found := c.s.Pool().Live.List(1, id)
		if len(found) == 0 {
			return apiError(http.StatusNotFound, "request %s: not found, or not kept any more", id)
		}
		live, tried = &status.LiveRequests(found, c.s.Manager().Name)[0], found[0].Tried
	}
	x := status.Explain(c.s, set, tried)
	x.Request = live
	switch keys := query["key"]; {
	case live != nil:
		x.Chosen = live.Backend
	case len(keys) > 0:
		x.Key = &keys[0]
		if policy, ok := c.s.Policy().(policies.Keyed); ok {
			// A full backend passes the request on.
			if i := set.View().Snapshot().Home(policy.KeyOf(keys)); i >= 0 && x.Candidates[i].In {
				x.Chosen = x.Candidates[i].Backend
			}
		}
	default:
		x.Chosen = x.Next()
		x.Live = status.LiveRequests(c.s.Pool().Live.List(maxLive, ""), c.s.Manager().Name)
	}
	return caddyapp.WriteJSON(c.w, x)
}

// Interface guards
var (
	_ caddy.AdminRouter = adminAPI{}
	_ caddy.Provisioner = adminAPI{}
)
