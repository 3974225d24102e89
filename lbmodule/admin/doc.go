// Package admin is how operators and other machines get at the load balancers of the config that serves: the admin API, the answers to
// whoever asks whether requests should be sent here, and the dashboard.
package admin
