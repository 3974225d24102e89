package caddyfile

import (
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/ballastlb/ballast/lbmodule/admin"
)

func init() {
	httpcaddyfile.RegisterHandlerDirective("load_balancer_dashboard", parseDashboard)
	httpcaddyfile.RegisterDirectiveOrder("load_balancer_dashboard", httpcaddyfile.Before, "respond")
}

// parseDashboard sets up the handler from Caddyfile tokens:
//
//	load_balancer_dashboard [<matcher>] {
//		actions
//	}
func parseDashboard(helper httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	d := helper.Dispenser
	d.Next() // the directive's name
	if d.NextArg() {
		return nil, d.Errf("load_balancer_dashboard: unexpected argument %s; it shows all pools", d.Val())
	}
	page := new(admin.Dashboard)
	for d.NextBlock(0) {
		switch d.Val() {
		case "actions":
			if page.Actions {
				return nil, d.Err("load_balancer_dashboard: actions: given twice")
			}
			if d.NextArg() {
				return nil, d.Errf("load_balancer_dashboard: actions %s: takes no argument; leave the line out for a read-only page", d.Val())
			}
			page.Actions = true
		default:
			return nil, unrecognized(d, "load_balancer_dashboard", "load_balancer_dashboard")
		}
	}
	return page, nil
}
