// Package api is a client of the load balancer's admin API: its types, its requests, and its stream of events.
package api
