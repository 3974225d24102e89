package admin

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"github.com/ballastlb/ballast/lbmodule/app"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

const openDashboard = "load_balancer_dashboard serves a whole public site without a login: give it a path, such as /dashboard*, and a login"

// warnOfDashboard warns about a dashboard that is visible to all who can reach the server. When a dashboard is provisioned, the JSON of its
// route is still available.
func warnOfDashboard(a *app.App, server *caddyhttp.Server) {
	if opensDashboard(server) {
		a.Warn(openDashboard, zap.Strings("listen", server.Listen))
	}
}

// openRoute is the part of a route that decides which requests reach its handlers.
type openRoute struct {
	Match  []map[string]json.RawMessage `json:"match"`
	Handle []json.RawMessage            `json:"handle"`
}

// opensDashboard reports whether a dashboard is in a route that matches every path, is not limited to this machine or its network, and has
// no login before it.
func opensDashboard(server *caddyhttp.Server) bool {
	if len(server.Listen) > 0 && !slices.ContainsFunc(server.Listen, isPublicListener) {
		return false
	}
	for _, route := range server.Routes {
		if !takesPublicSite(route.MatcherSets) {
			continue
		}
		if slices.ContainsFunc(route.Handlers, func(h caddyhttp.MiddlewareHandler) bool {
			return isLogin(h.(caddy.Module).CaddyModule().ID.Name())
		}) {
			return false
		}
		if found, locked := findDashboard(route.HandlersRaw); found || locked {
			return found
		}
	}
	return false
}

// findDashboard looks for a dashboard among handlers, and for a login before it. locked means that a login protects all handlers that
// follow.
func findDashboard(handlers []json.RawMessage) (found, locked bool) {
	for _, raw := range handlers {
		var handler struct {
			Name           string          `json:"handler"`
			Routes         []openRoute     `json:"routes"`
			HandleResponse json.RawMessage `json:"handle_response"`
		}
		if json.Unmarshal(raw, &handler) != nil {
			continue
		}
		switch {
		case handler.Name == "load_balancer_dashboard":
			return true, false
		case isLogin(handler.Name), handler.Name == "reverse_proxy" && handler.HandleResponse != nil: // that is forward_auth
			return false, true
		}
		for _, route := range handler.Routes {
			if len(route.Match) > 0 && !slices.ContainsFunc(route.Match, func(set map[string]json.RawMessage) bool { return !narrows(set) }) {
				continue
			}
			if found, locked := findDashboard(route.Handle); found || locked {
				return found, locked
			}
		}
	}
	return false, false
}

// isLogin reports whether a handler with this name is an authentication handler: Caddy's, or a plugin's with "auth" in its name.
func isLogin(name string) bool { return strings.Contains(name, "auth") }

// narrows reports whether a matcher restricts requests to a part of a site, or to a site that is not public.
func narrows(set map[string]json.RawMessage) bool {
	for name, raw := range set {
		var hosts []string
		if name != "host" || json.Unmarshal(raw, &hosts) != nil || !slices.ContainsFunc(hosts, isPublicHost) {
			return true
		}
	}
	return false
}

// takesPublicSite reports whether one of these matcher sets matches all paths of a public site.
func takesPublicSite(sets caddyhttp.MatcherSets) bool {
	return len(sets) == 0 || slices.ContainsFunc(sets, func(set caddyhttp.MatcherSet) bool {
		return !slices.ContainsFunc(set, func(matcher any) bool {
			host, ok := matcher.(*caddyhttp.MatchHost)
			return !ok || !slices.ContainsFunc(*host, isPublicHost)
		})
	})
}

func isPublicHost(host string) bool { return !certmagic.SubjectIsInternal(host) }

func isPublicListener(address string) bool {
	parsed, err := caddy.ParseNetworkAddress(address)
	if err != nil {
		return true
	}
	if parsed.IsUnixNetwork() || parsed.IsFdNetwork() || parsed.Host == "localhost" {
		return false
	}
	ip, err := netip.ParseAddr(parsed.Host)
	return err != nil || !ip.IsLoopback() && !ip.IsPrivate() && !ip.IsLinkLocalUnicast()
}
