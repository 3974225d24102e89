// Package command is `caddy lb`: the load balancer from the command line. It is a client of the admin API and knows nothing else of the
// load balancer, so it works on any Caddy that it can reach.
package command
