// Package api is a client of the load balancer's admin API: its shapes, its requests, and its stream of events.
package api
