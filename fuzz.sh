#!/usr/bin/env bash
# Fuzzes the targets one after the other, and prints a table at the end: the input, the target, the number of executions, the inputs that
# reached new code, the time, and the result. The arguments are regular expressions that select targets (package.FuzzName) or inputs; the
# default is all.
#
# FUZZTIME is how long each target is fuzzed (1m), WORKERS the number of processes (1). A failing input is stored in the package's
# testdata/fuzz, so that `go test` fails as well until the bug is fixed; all output is in bin/fuzz.
set -uo pipefail
cd "$(dirname "$0")"
time=${FUZZTIME:-1m}
workers=${WORKERS:-1}
logs=bin/fuzz
mkdir -p "$logs"

# The inputs that come from outside, and their targets. TestFuzzTargets expects a corpus of each.
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
	# Inputs that reach new code are worth finding, but minimizing them takes long and is not worth it.
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
