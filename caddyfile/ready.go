package caddyfile

import (
	"fmt"

	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/ballastlb/ballast/lbmodule/admin"
)

func init() {
	httpcaddyfile.RegisterHandlerDirective("load_balancer_ready", parseReady)
	httpcaddyfile.RegisterDirectiveOrder("load_balancer_ready", httpcaddyfile.Before, "respond")
}

// parseReady sets up the handler from Caddyfile tokens:
//
//	load_balancer_ready [<matcher>] [<pools...>]
func parseReady(helper httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	d := helper.Dispenser
	d.Next() // the directive's name
	r := &admin.Ready{Pools: d.RemainingArgs()}
	if d.NextBlock(0) {
		return nil, unrecognized(d, "load_balancer_ready", "load_balancer_ready")
	}
	if err := r.Check(); err != nil {
		return nil, d.WrapErr(err)
	}
	for _, name := range r.Pools {
		admin.NoteAsked(name, fmt.Sprintf("%s:%d", d.File(), d.Line()))
	}
	return r, nil
}
