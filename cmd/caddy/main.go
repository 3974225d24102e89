// Command caddy is Caddy with its standard modules and Ballast: the same program that xcaddy.sh builds,
// for `go build` and `go run` in this repository. default.pgo beside it is the CPU profile with which the Go command
// compiles it; `make profile` records it again.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/ballastlb/ballast"
	_ "github.com/ballastlb/ballast/cmd/caddy/headroom"
)

func main() {
	caddycmd.Main()
}
