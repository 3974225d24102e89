// Package haproxy converts HAProxy's configurations to Caddyfiles.
package haproxy
