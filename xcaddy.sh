#!/usr/bin/env bash
# Builds Caddy with this working tree's Ballast as xcaddy does for users: into bin/caddy-xcaddy, or the file given as the first argument.
# Like cmd/caddy, it is compiled with the profile, and gives the garbage collector headroom.
set -euo pipefail
cd "$(dirname "$0")"
output=${1:-bin/caddy-xcaddy}
mkdir -p "$(dirname "$output")"
caddy=$(go list -m -f '{{.Version}}' github.com/caddyserver/caddy/v2)
# The version after @ is never looked up, because the module is replaced; without one xcaddy would ask for a list of versions, which an
# unpublished module does not have. xcaddy takes the second package from the same replacement only if that is given by --replace.
go tool -modfile=tools/go.mod xcaddy build "$caddy" \
	--with github.com/ballastlb/ballast@v0.0.0 \
	--with github.com/ballastlb/ballast/cmd/caddy/headroom \
	--replace "github.com/ballastlb/ballast=$PWD" \
	--pgo cmd/caddy/default.pgo \
	--output "$output"
echo "built $output"
