// Package caddytests runs Caddy's own tests on servers with Ballast.
package caddytests
