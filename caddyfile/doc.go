// Package caddyfile holds the Caddyfile syntax of Ballast: its directives, where they stand in Caddy's order of
// directives, and their blocks. It fills in JSON fields and checks what a Caddyfile alone can show; defaults and
// everything that needs more than the text are the modules' own.
package caddyfile
