// Command caddy is Caddy with its standard modules and Ballast: the same program that xcaddy builds,
// for `go build` and `go run` in this repository.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/ballastlb/ballast"
)

func main() {
	caddycmd.Main()
}
