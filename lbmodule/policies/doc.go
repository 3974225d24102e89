// Package policies has the selection policies as Caddy's modules, one file each. In a load balancer a policy of ours only says which
// policy of package balance serves it, and by which key or session of a request; in a plain reverse_proxy it selects by itself.
//
// A policy that needs more than [Balancer] asks of it says so by further methods: see policies.go. Nothing outside this package
// knows a policy by its type.
package policies
