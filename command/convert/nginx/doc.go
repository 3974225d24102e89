// Package nginx converts nginx's configurations to Caddyfiles.
package nginx
