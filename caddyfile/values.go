package caddyfile

import (
	"strconv"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// intArg reads the one argument of a word that takes a number. Placeholders of the environment are filled in.
func intArg(d *caddyfile.Dispenser, word string) (int, error) {
	var arg string
	if !d.AllArgs(&arg) {
		return 0, d.ArgErr()
	}
	n, err := strconv.Atoi(caddy.NewReplacer().ReplaceKnown(arg, ""))
	if err != nil {
		return 0, d.Errf("%s %s: must be a whole number", word, arg)
	}
	return n, nil
}
