// Package admin is the operators' interface to the load balancers of the config that serves: the admin API, the readiness endpoint and
// the dashboard.
package admin
