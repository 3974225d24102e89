// Package ballast brings the load balancer, its Caddyfile syntax and everything else of Ballast into a
// Caddy build:
//
//	xcaddy build --with github.com/ballastlb/ballast
//
// It holds nothing but the imports that register the modules.
package ballast

import (
	// Each registers its Caddy modules and directives when it is initialized.
	_ "github.com/ballastlb/ballast/caddyfile"
	_ "github.com/ballastlb/ballast/command"
	_ "github.com/ballastlb/ballast/lbmodule"
	_ "github.com/ballastlb/ballast/lbmodule/admin"
	_ "github.com/ballastlb/ballast/listener"
	_ "github.com/ballastlb/ballast/ratelimit"
)
