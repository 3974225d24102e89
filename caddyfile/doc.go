// Package caddyfile has the Caddyfile syntax of Ballast: its directives, their place in Caddy's order of directives, and their blocks. It
// sets JSON fields and checks what only a Caddyfile shows; the modules set defaults and check everything else.
package caddyfile
