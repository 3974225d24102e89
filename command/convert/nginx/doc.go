// Package nginx writes Caddyfiles of nginx's configurations.
package nginx
