// Package policies has the selection policies as Caddy modules, one file each. In a load balancer a policy of ours only names the policy
// of package balance that does its work, and the key or session of a request; in a plain reverse_proxy it selects by itself.
//
// Policies with further abilities than [Balancer] have optional methods, see policies.go. No other package depends on the type of a
// policy.
package policies
