// Package command is `caddy lb`, the command line of the load balancer. It is a client of the admin API and uses nothing else, so it works
// with any Caddy that it can reach.
package command
