// Package lbmodule is the load balancer as Caddy sees it: the handler, its JSON, its lifecycle, and the
// selection policies. The deciding is done elsewhere, in packages that know no Caddy: balance (which member),
// pool (which members, how many requests on each).
//
// A request's way:
//
//	Handler.ServeHTTP -> reverseproxy.Handler.ServeHTTP
//	                       -> selector.Select: the previous attempt's lease is released, the next is acquired
//	                       -> attemptTransport.RoundTrip: the attempt's outcome is classified
//	                  -> the last lease is released
//
// Proxying is Caddy's own; what is decided per attempt (choose.go, classify.go) does not depend on that.
package lbmodule
