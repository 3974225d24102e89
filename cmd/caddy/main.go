// Command caddy is Caddy with its standard modules and Ballast: the same program that xcaddy.sh builds,
// for `go build` and `go run` in this repository. default.pgo beside it is the CPU profile that the Go command compiles it
// by; `make profile` takes it anew.
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
