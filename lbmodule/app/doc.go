// Package app is the app module, which coordinates the load balancers of one config: it knows the pools, starts and stops background work
// with the config, and reports what happens, in logs and events.
package app
