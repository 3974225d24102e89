// Package app is the module that brings the load balancers of one config together: it knows which pools there are, starts and stops what
// runs beside requests when the config does, and tells what happens, in logs and events.
package app
