// Package haproxy writes Caddyfiles of HAProxy's configurations.
package haproxy
