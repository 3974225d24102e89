#!/usr/bin/env bash
# Fuzzes, one after the other, and prints a table at the end: what goes in, the target, how often it ran, the inputs that
# reached new code, the time, and the result. The arguments are regular expressions of targets (package.FuzzName) or of
# what goes in; without them it is all.
#
# FUZZTIME is how long each target is fuzzed (1m), WORKERS how many processes do it (1). What failed is in the package's
# testdata/fuzz then, so that `go test` fails as well until it is mended; all output is in bin/fuzz.
set -uo pipefail
cd "$(dirname "$0")"
time=${FUZZTIME:-1m}
workers=${WORKERS:-1}
logs=bin/fuzz
mkdir -p "$logs"

# The inputs that come from outside, and the targets that take them. TestFuzzTargets expects a corpus of each.
inputs='
Caddyfile blocks        caddyfile.FuzzCaddyfile
JSON configs            lbmodule.FuzzConfig
admin bodies            lbmodule.FuzzAdmin
admin bodies            lbmodule/dashboard.FuzzOrder
state file              lbmodule.FuzzState
state file              lbmodule/overlay.FuzzDecode
client address to key   ratelimit.FuzzClient
client address to key   lbmodule/front.FuzzWho
Retry-After             ratelimit.FuzzRetryAfter
Retry-After             lbmodule/exchange.FuzzRetryAfter
cookies                 lbmodule/policies.FuzzStickyCookie
gRPC status             lbmodule/course.FuzzParse
discovered lists        lbmodule/discovery.FuzzList
HTTP parsers            listener/h1.FuzzHead
HTTP parsers            lbmodule/engine.FuzzAnswer
hash tables             lbmodule/balance.FuzzHash
hash tables             ratelimit/bucket.FuzzTable
pools and scenarios     lbmodule/simulate.FuzzSimulate
configs of others       command/convert.FuzzHAProxy
configs of others       command/convert.FuzzNginx
'
listed=$(sed -n 's/^\(..*[^ ]\)   *\([^ ]*\)$/\1|\2/p' <<<"$inputs")
others=$(grep -ro --include='*_test.go' '^func Fuzz[A-Za-z0-9]*' . | sed 's|^\./\(.*\)/[^/]*:func |other\|\1.|' | sort)
all=$listed
while IFS='|' read -r what target; do
	grep -q "|$target\$" <<<"$listed" || all+=$'\n'"$what|$target"
done <<<"$others"

table=()
failed=0
while IFS='|' read -r what target; do
	if (($# > 0)) && ! printf '%s\n' "$@" | grep -qiE -f - <(printf '%s\n%s\n' "$what" "$target"); then
		continue
	fi
	package=./${target%.*} name=${target##*.}
	log=$logs/$(tr / _ <<<"$target").log
	echo "fuzzing $target for $time"
	start=$SECONDS
	# What grows the code that is reached is worth finding; making it as short as can be takes long, and is not.
	if go test -run '^$' -fuzz "^$name\$" -fuzztime "$time" -fuzzminimizetime 10x -parallel "$workers" "$package" >"$log" 2>&1; then
		result=passed
	else
		result=FAILED failed=1
		tail -n 40 "$log"
	fi
	last=$(grep '^fuzz: .*execs: ' "$log" | tail -n 1)
	execs=$(sed -n 's/.*execs: \([0-9]*\).*/\1/p' <<<"$last")
	new=$(sed -n 's/.*new interesting: \([0-9]*\).*/\1/p' <<<"$last")
	took=$(sed -n 's/.*elapsed: \([^,]*\),.*/\1/p' <<<"$last")
	table+=("$what|$target|${execs:-0}|${new:-0}|${took:-0s}|$((SECONDS - start)) s|$result")
done <<<"$all"

echo
echo "$(date -u +%F), FUZZTIME=$time, WORKERS=$workers, $(git rev-parse --short HEAD 2>/dev/null)"
{
	echo 'input|target|executions|new inputs|fuzzed|with build|result'
	((${#table[@]} == 0)) || printf '%s\n' "${table[@]}"
} | column -t -s '|'
exit "$failed"
