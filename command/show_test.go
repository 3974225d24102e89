package command

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestShow(t *testing.T) {
	two := map[string]reply{
		pools: {body: "[" + poolAB + "," + poolWeb + "]"}, pool: {body: poolWeb}, pools + "/a%2Fb": {body: poolAB},
		"GET " + backends + "/%5B::1%5D:8080":                           {body: backendB},
		"GET /load_balancer/pools/web/explain":                          {body: `{"pool":"web","policy":"lb_least_conn","chosen":"","way":"score","candidates":[]}`},
		"GET /load_balancer/pools/web/explain?request=3f2a":             {body: `{"pool":"web","policy":"lb_first","request":{"id":"3f2a\u001b","backend":"x","since":"2026-01-02T15:04:00Z","attempts":1},"chosen":"x","candidates":[]}`},
		"GET /load_balancer/pools/a%2Fb/explain?key=%2Fcart%3F+1&key=b": {body: explanation},
		pools + "/slow":                                        {body: poolSlow},
		pools + "/shadow":                                      {body: poolShadow},
		"GET /load_balancer/pools/slow/explain":                {body: explainSlow},
		"GET /load_balancer/pools/web/diff":                    {body: diff},
		"GET /load_balancer/pools/a%2Fb/diff":                  {body: `{"pool":"a/b","changes":[],"caddyfile":""}`},
		"GET /load_balancer/express":                           {body: express},
		"GET /load_balancer/fleet":                             {body: fleet},
		"GET /load_balancer/rate_limits":                       {body: "[" + zone + "]"},
		"GET /load_balancer/rate_limits/login":                 {body: zone},
		"GET /load_balancer/rate_limits/login/2001:db8::%2F64": {body: `{"key":"2001:db8::/64","tokens":1.25,"burst":5,"in_flight":0,"requests":3,"refused":1}`},
	}
	f := startAPI(t, two)
	for _, test := range []struct{ command, want string }{
		{"pools", `
POOL  POLICY      STATE     USABLE  QUEUE  IN-FLIGHT  REQUESTS  5XX  REFUSED  BYTES-IN  BYTES-OUT  RETRIES  AVOIDED
a/b   hash        down      0/0     0      0          0         0    0        0B        0B         10       0
web   least_conn  degraded  1/2     2      5          480       423  421      1.5kB     83MB       98.5     0

web refuses 47 requests/s: queue full
b in web is slow: p95 841 ms, 65 times that of its peers`},
		{"pools a/b", `
POOL  POLICY  STATE  USABLE  QUEUE  IN-FLIGHT  REQUESTS  5XX  REFUSED  BYTES-IN  BYTES-OUT  RETRIES  AVOIDED
a/b   hash    down   0/0     0      0          0         0    0        0B        0B         10       0`},
		{"pools slow", `
POOL  POLICY     STATE    USABLE  QUEUE  IN-FLIGHT  REQUESTS  5XX  REFUSED  BYTES-IN  BYTES-OUT  RETRIES  AVOIDED
slow  peak_ewma  failing  1/1     0      0          3         3    0        0B        0B         10       1

slow answers 100 % of its requests with 5xx: 3 errors/s`},
		{"pools shadow", `
POOL    POLICY  STATE  USABLE  QUEUE  IN-FLIGHT  REQUESTS  5XX  REFUSED  BYTES-IN  BYTES-OUT  RETRIES  AVOIDED
shadow  random  ok     1/0     0      0          0         0    0        0B        0B         10       0

POOL    SHADOW      DECISIONS  AGREES  FAIRNESS  P50   EXPECTED  P99    EXPECTED
shadow  least_conn  1000       0.3     0.9       20ms  15ms      114ms  90ms`},
		{"backends slow", `
POOL  BACKEND  ADDRESS        STATE  HEALTH  BREAKER  WEIGHT  IN-FLIGHT  REQUESTS  FAILED  P50  P99  CHECK  SINCE  REASON
slow  slow     10.0.0.3:8080  ready  up      closed   1       0          3         0       -    -    -      5s     avoided: its answers take 400 ms, the others' 0.5 ms; tried again in 0.8 s`},
		{"explain slow", `
pool slow, policy peak_ewma: the next request goes to the one with the lowest SCORE of some that are drawn at random; SHARE is how often each is drawn

BACKEND  IN  WEIGHT  IN-FLIGHT  SCORE  SHARE  REASON
slow     in  1       0          0.4    25%    avoided: its answers take 400 ms, the others' 0.5 ms; tried again in 0.8 s`},
		{"pools a/b --json", poolAB},
		{"backends", `
POOL  BACKEND        ADDRESS        STATE  HEALTH  BREAKER  WEIGHT  IN-FLIGHT  REQUESTS  FAILED  P50    P99   CHECK         SINCE  REASON
web   10.0.0.1:8080  10.0.0.1:8080  ready  up      closed   1       4          100       2       4.2ms  32ms  200 in 1.3ms  1h0m   -
web   b              [::1]:8080     drain  down    open     0/3     1/9        7         7       -      -     -             5s     draining; set by eve@ops: evil?[31m (4m59s left)`},
		{"backends --json web", poolWeb},
		{"backends web [::1]:8080", `
POOL  BACKEND  ADDRESS     STATE  HEALTH  BREAKER  WEIGHT  IN-FLIGHT  REQUESTS  FAILED  P50  P99  CHECK  SINCE  REASON
web   b        [::1]:8080  drain  down    open     0/3     1/9        7         7       -    -    -      5s     draining; set by eve@ops: evil?[31m (4m59s left)`},
		{"backends web [::1]:8080 --json", backendB},
		{"backends web [::1]:8080 --etag", `"0"`},
		{"backends web --etag", `"b"`},
		{"explain web", "pool web, policy least_conn: no backend can take a request now\n\nBACKEND  IN  WEIGHT  IN-FLIGHT  SCORE  SHARE  REASON"},
		{"explain web --request 3f2a", "pool web, policy first: request 3f2a? is at x\n\nBACKEND  IN  WEIGHT  IN-FLIGHT  SCORE  SHARE  REASON\n\nREQUEST  BACKEND  SINCE  ATTEMPTS\n3f2a?    x        5s     1"},
		{"explain a/b --key /cart?_1 --key b", `
pool a/b, policy hash: a request with key /cart? 1 goes to [::1]:8080

BACKEND       IN   WEIGHT  IN-FLIGHT  SCORE  SHARE  REASON
[::1]:8080 *  in   3       4          1.5    -      -
b             out  0/1     1          -      -      draining

REQUEST  BACKEND  SINCE  ATTEMPTS
3f2a     b        5s     2`},
		{"diff", `
POOL  BACKEND     FIELD   CONFIG  RUNNING  LEFT
web   b           weight  3       5        4m59s
web   b           zone    -       eu       -
web   [::1]:8080  -       -       added    -
web   c           -       -       removed  -`},
		{"diff a/b", "POOL  BACKEND  FIELD  CONFIG  RUNNING  LEFT"},
		{"diff web --caddyfile", "# pool web\nbackend b {\n\tweight 5\n}"},
		{"diff a/b --caddyfile", ""},
		{"diff web --json", diff},
		{"limits", `
ZONE   RATE  BURST  CONCURRENCY  KEYS   ALLOWED  REFUSED  EVICTED  STORE      MODE
login  5/m   5      -            2/100  12       3        1        available  enforced`},
		{"limits login", `
KEY        TOKENS  SHARED  BURST  IN-FLIGHT  REQUESTS  REFUSED
192.0.2.7  0.5     0.2     5      1          8         3`},
		{"limits login 2001:db8::/64", `
KEY            TOKENS  SHARED  BURST  IN-FLIGHT  REQUESTS  REFUSED
2001:db8::/64  1.2     -       5      0          3         1`},
		{"limits login --json", zone},
		{"express", `
SERVER  LISTEN      EXPRESS  SERVED  HANDED-OVER  REASON
srv0    :443 :8443  on       1204    15           -
srv1    :80         off      0       0            off

SERVER  HOSTS              PATHS   HANDLER        POOL  SERVED  REASON
srv0    example.com a.com  /api/*  load_balancer  api   yes     -
srv0    *                  *       file_server    -     no      file_server

SERVER  HANDED-OVER  REASON
srv0    9            upgrade
srv0    3            expect
srv0    3            path`},
		{"express --json", express},
		{"fleet", `
NODE   STATE  SEEN  ADMIN           UP  CONFIG  POOLS  USABLE  IN-FLIGHT  REQUESTS/S  FAILED/S  VERSION
lb-1*  alive  now   127.0.0.1:2019  5s  c1      2      4/5     3          12.5        0.5       v1
lb-2   gone   1m2s  -               -   c2      -      -       -          -           -         v0

DIFFERENCE  POOL  BACKEND  VALUE                NODES
config      -     -        c1                   lb-1
config      -     -        c2                   lb-2 lb-3
usable      web   a        active check failed  lb-1`},
		{"fleet --json", fleet},
	} {
		args := strings.Fields(test.command)
		for i := range args {
			args[i] = strings.ReplaceAll(args[i], "_", " ") // a key with a space
		}
		got := f.run(args...)
		if got.code != 0 {
			t.Errorf("%s: exit code %d: %s", test.command, got.code, got.err)
		}
		lines(t, test.command, got.out, test.want)
		for _, warning := range []string{
			"all weights are 0", "backends from file:/etc/a.json: names no target; 7 from before are used", "3 backends outside the subset are used, because no backend in it was usable",
		} {
			if warned := strings.Contains(got.err, "Warning: pool a/b: "+warning); warned != (test.command == "pools" || test.command == "pools a/b" || test.command == "backends") {
				t.Errorf("%s: %s", test.command, got.err)
			}
		}
	}
	if changed := f.changes(); changed != "" {
		t.Errorf("something was changed: %s", changed)
	}
	for _, origin := range f.origins {
		if origin != "http://"+f.address {
			t.Errorf("origin %s", origin)
		}
	}
}

// TestWidths shows the same at a wide and at a narrow terminal.
func TestWidths(t *testing.T) {
	long := strings.NewReplacer("[::1]:8080", "ip-10-0-0-1.eu-west-1.compute.internal:8080", `"b"`, `"a-backend"`).Replace(backendB)
	failing := strings.Replace(backendA, `"ok":true,"ms":1.3,"code":200`, `"ok":false,"ms":1.3,"error":"dial tcp 10.0.0.1:8080: connect: connection refused"`, 1)
	f := onePool(t, map[string]reply{
		"GET /load_balancer/fleet":              {body: fleet},
		"GET /load_balancer/pools/slow/explain": {body: explainSlow},
		pools + "/long":                         {body: strings.Replace(poolWeb, backendB, long, 1)},
		pools + "/failing":                      {body: strings.Replace(poolWeb, backendB, failing, 1)},
		pools + "/plain":                        {body: strings.Replace(poolWeb, ","+backendB, "", 1)},
	})
	for _, test := range []struct {
		command string
		width   int
		want    string
	}{
		{"backends", 80, `
BACKEND        ADDRESS        STATE  WEIGHT  IN-FLIGHT  REQUESTS  FAILED  P99
10.0.0.1:8080  10.0.0.1:8080  up     1       4          100       2       32ms
b              [::1]:8080     drain  0/3     1/9        7         7       -
    draining; set by eve@ops: evil?[31m (4m59s left)`},
		{"backends plain", 80, `
ADDRESS        STATE  WEIGHT  IN-FLIGHT  REQUESTS  FAILED  P99   SINCE
10.0.0.1:8080  up     1       4          100       2       32ms  1h0m`},
		{"backends long", 80, `
BACKEND        ADDRESS                                      STATE  FAILED
10.0.0.1:8080  10.0.0.1:8080                                up     2
a-backend      ip-10-0-0-1.eu-west-1.compute.internal:8080  drain  7
    draining; set by eve@ops: evil?[31m (4m59s left)`},
		{"backends failing", 60, `
ADDRESS        STATE  IN-FLIGHT  REQUESTS  FAILED  P99
10.0.0.1:8080  up     4          100       2       32ms
10.0.0.1:8080  up     4          100       2       32ms
    last check: dial tcp 10.0.0.1:8080: connect: connection
    refused`},
		{"backends plain --wide", 80, `
POOL  BACKEND        ADDRESS        STATE  HEALTH  BREAKER  WEIGHT  IN-FLIGHT  REQUESTS  FAILED  P50    P99   CHECK         SINCE  REASON
web   10.0.0.1:8080  10.0.0.1:8080  ready  up      closed   1       4          100       2       4.2ms  32ms  200 in 1.3ms  1h0m   -`},
		{"backends plain", 200, `
POOL  BACKEND        ADDRESS        STATE  HEALTH  BREAKER  WEIGHT  IN-FLIGHT  REQUESTS  FAILED  P50    P99   CHECK         SINCE  REASON
web   10.0.0.1:8080  10.0.0.1:8080  ready  up      closed   1       4          100       2       4.2ms  32ms  200 in 1.3ms  1h0m   -`},
		{"explain slow", 80, `
pool slow, policy peak_ewma: the next request goes to the one with the lowest
SCORE of some that are drawn at random; SHARE is how often each is drawn

BACKEND  IN  WEIGHT  IN-FLIGHT  SCORE  SHARE  REASON
slow     in  1       0          0.4    25%    avoided: its answers take 400 ms,
                                              the others' 0.5 ms; tried again in
                                              0.8 s`},
		{"fleet", 80, `
NODE   STATE  SEEN  ADMIN           POOLS  USABLE  REQUESTS/S  FAILED/S
lb-1*  alive  now   127.0.0.1:2019  2      4/5     12.5        0.5
lb-2   gone   1m2s  -               -      -       -           -

DIFFERENCE  POOL  BACKEND  VALUE                NODES
config      -     -        c1                   lb-1
config      -     -        c2                   lb-2 lb-3
usable      web   a        active check failed  lb-1`},
		{"fleet --wide", 80, `
NODE   STATE  SEEN  ADMIN           UP  CONFIG  POOLS  USABLE  IN-FLIGHT  REQUESTS/S  FAILED/S  VERSION
lb-1*  alive  now   127.0.0.1:2019  5s  c1      2      4/5     3          12.5        0.5       v1
lb-2   gone   1m2s  -               -   c2      -      -       -          -           -         v0

DIFFERENCE  POOL  BACKEND  VALUE                NODES
config      -     -        c1                   lb-1
config      -     -        c2                   lb-2 lb-3
usable      web   a        active check failed  lb-1`},
	} {
		got := runCommand(t, console{in: strings.NewReader(""), width: test.width}, append(strings.Fields(test.command), "--address", f.address)...)
		lines(t, fmt.Sprintf("%s in %d columns", test.command, test.width), got.out, test.want)
		if strings.Contains(test.command, "--wide") {
			continue
		}
		for line := range strings.Lines(got.out) {
			if n := len(strings.TrimRight(line, "\n")); n > test.width {
				t.Errorf("%s: a line has %d columns, more than %d: %s", test.command, n, test.width, line)
			}
		}
	}
}

// TestExplainInWords checks the sentence about where requests go.
func TestExplainInWords(t *testing.T) {
	const in = `"candidates":[{"backend":"a","in":true},{"backend":"b","in":true}]`
	for _, test := range []struct{ answer, want string }{
		{`{"way":"order","chosen":"a",` + in + `}`, "the next request goes to a"},
		{`{"way":"turn",` + in + `}`, "the next request goes to the backends in turn; SHARE is what each gets in the long run"},
		{`{"way":"key","otherwise":"chance",` + in + `}`, "the next request goes by its hash key; --key shows the backend of a key; without a key, at random; SHARE is the probability of each"},
		{`{"way":"session","otherwise":"score","chosen":"b",` + in + `}`, "a request without a session goes to b"},
		{`{"way":"key","key":"x","chosen":"b",` + in + `}`, "a request with key x goes to b"},
		{`{"way":"turn","key":"x",` + in + `}`, "the policy uses no keys, or no backend can take key x"},
		{`{"way":"turn","candidates":[{"backend":"a","in":false}]}`, "no backend can take a request now"},
		{`{"way":"by magic",` + in + `}`, "the next request goes to one of those that are in"},
	} {
		f := onePool(t, map[string]reply{"GET /load_balancer/pools/web/explain": {body: test.answer}})
		first, _, _ := strings.Cut(f.run("explain").out, "\n")
		if want := "pool , policy : " + test.want; first != want {
			t.Errorf("%s: %q, want %q", test.answer, first, want)
		}
	}
}

const (
	explainSlow = `{"pool":"slow","policy":"lb_peak_ewma","way":"draw","candidates":[{"backend":"slow","in":true,"reason":"avoided: its answers take 400 ms, the others' 0.5 ms; tried again in 0.8 s","score":0.4,"share":0.25,"weight":1,"effective_weight":1,"in_flight":0}]}`
	explanation = `{"pool":"a/b","policy":"lb_hash","key":"/cart? 1","request":null,"chosen":"[::1]:8080","candidates":[` +
		`{"backend":"[::1]:8080","in":true,"score":1.5,"weight":3,"effective_weight":3,"in_flight":4},` +
		`{"backend":"b","in":false,"reason":"draining","weight":1,"effective_weight":0,"in_flight":1}],` +
		`"live":[{"id":"3f2a","backend":"b","since":"2026-01-02T15:04:00Z","attempts":2}]}`
	diff = `{"pool":"web","changes":[{"backend":"b","field":"weight","config":3,"running":5,"until":"` + soon + `"},` +
		`{"backend":"b","field":"zone","config":null,"running":"eu"},{"backend":"[::1]:8080","added":true},{"backend":"c","removed":true}],` +
		`"caddyfile":"backend b {\n\tweight 5\n}\n","json":{}}`
	express = `[{"server":"srv0","listen":[":443",":8443"],"on":true,"served":1204,"handed_over":{"path":3,"upgrade":9,"expect":3},"routes":[` +
		`{"hosts":["example.com","a.com"],"paths":["/api/*"],"handler":"load_balancer","pool":"api","served":true},` +
		`{"hosts":[],"paths":[],"handler":"file_server","served":false,"reason":"file_server"}]},` +
		`{"server":"srv1","listen":[":80"],"on":false,"reason":"off","served":0,"handed_over":{},"routes":[]}]`
	fleet = `{"nodes":[{"label":"lb-1","this":true,"state":"alive","silent":0,"admin":"127.0.0.1:2019","version":"v1","started":"2026-01-02T15:04:00Z","config":"c1",` +
		`"pools":[{"name":"web","usable":1,"total":2,"requests":10,"failures":0.5,"in_flight":3},{"name":"x","usable":3,"total":3,"requests":2.5}]},` +
		`{"label":"lb-2","state":"gone","silent":62.2,"version":"v0","config":"c2","alone":true,"pools":[]}],"differences":[` +
		`{"kind":"config","values":[{"value":"c1","nodes":["lb-1"]},{"value":"c2","nodes":["lb-2","lb-3"]}]},` +
		`{"kind":"usable","pool":"web","backend":"a","values":[{"value":"active check failed","nodes":["lb-1"]}]}],"more":3,"error":"reading: refused"}`
	zone = `{"zone":"login","rate":"5/m","burst":5,"dry_run":false,"keys":2,"max_keys":100,"evictions":1,"decisions":{"allowed":12,"refused":3},` +
		`"store":{"available":true,"errors":0},"busiest":[{"key":"192.0.2.7","tokens":0.5,"shared_tokens":0.2,"burst":5,"in_flight":1,"requests":8,"refused":3}]}`
)

// TestColors checks that colours are for terminals, and that the columns stay straight.
func TestColors(t *testing.T) {
	f := onePool(t, nil)
	got := runCommand(t, console{in: strings.NewReader(""), color: true}, "pools", "--address", f.address)
	if want := "least_conn  \x1b[33mdegraded\x1b[0m  1/2"; !strings.Contains(got.out, want) {
		t.Errorf("%q has no %q", got.out, want)
	}
}

// TestJSONIsHarmless sends control characters that JSON lets through.
func TestJSONIsHarmless(t *testing.T) {
	f := startAPI(t, map[string]reply{pools: {body: "[{\"name\":\"\u009b31m\x7f\u202e\"}]"}})
	lines(t, "pools --json", f.run("pools", "--json").out, `[{"name":"\u009b31m\u007f\u202e"}]`)
}

func TestErrors(t *testing.T) {
	f := startAPI(t, map[string]reply{
		pools:                                     {body: "[" + poolAB + "," + poolWeb + "]"},
		pool:                                      {body: poolWeb},
		"PATCH " + backends + "/b":                {http.StatusPreconditionFailed, `{"error":"If-Match \"x\": the backend has changed since"}`},
		"POST " + backends:                        {http.StatusConflict, `{"error":"address 10.0.0.1:8080: is in the pool already"}`},
		"PATCH " + backends + "/10.0.0.1:8080":    {http.StatusBadRequest, `{"error":"weight 70000: must be from 0 to 65535"}`},
		pools + "/slow":                           {body: poolSlow},
		"GET /load_balancer/pools/slow/explain":   {body: explainSlow},
		"GET /load_balancer/pools/web/diff":       {http.StatusForbidden, "host not\x1b[2J allowed\n"},
		"GET /load_balancer/pools/web/explain":    {http.StatusInternalServerError, ""},
		"GET /load_balancer/rate_limits":          {http.StatusOK, "<html>"},
		"GET /load_balancer/rate_limits/moved":    {http.StatusMovedPermanently, ""},
		"GET /load_balancer/events?all=1&last=50": {http.StatusServiceUnavailable, `{"error":"events: there are 16 streams already"}`},
		"POST " + backends + "/b/reset":           {http.StatusNotFound, `{"error":"backend b: it has just gone"}`},
		"DELETE /load_balancer/rate_limits/gone":  {http.StatusBadGateway, `{"error":"reset here, but not in the store: away"}`},
	})
	for _, test := range []struct {
		command string
		code    int
		err     string
	}{
		{"pools none", exitNotFound, "Error: /load_balancer/pools/none: not found"},
		{"drain web none", exitNotFound, "Error: /load_balancer/pools/web/backends/none: not found"},
		{"drain web [::1]:8080 --if-match x", exitConflict, `Error: If-Match "x": the backend has changed since`},
		{"add web 10.0.0.1:8080", exitConflict, "Error: address 10.0.0.1:8080: is in the pool already"},
		{"weight web 10.0.0.1:8080 70000", exitRefused, "Error: weight 70000: must be from 0 to 65535"},
		{"diff web", exitRefused, "Error: 403 Forbidden: host not?[2J allowed"},
		{"explain web", exitRefused, "Error: 500 Internal Server Error"},
		{"limits", exitRefused, "Error: the answer cannot be read: invalid character '<' looking for beginning of value"},
		{"limits moved", exitRefused, "Error: 301 Moved Permanently"},
		{"limits gone --forget --yes", exitRefused, "Error: reset here, but not in the store: away"},
		{"limits --forget", exitFailed, "Error: --forget: name a zone, or a zone and a key"},
		{"events", exitRefused, "Error: events: there are 16 streams already"},
		{"reset web b --yes", exitNotFound, "Error: backend b: it has just gone"},
		{"drain b", exitFailed, "Error: several pools; name one of a/b, web"},
		{"explain", exitFailed, "Error: several pools; name one of a/b, web"},
		{"weight web b many", exitFailed, "Error: weight many: must be a number from 0 to 65535, or config"},
		{"backends --etag", exitFailed, "Error: --etag: name a pool, or a pool and a backend"},
		{"drain", exitFailed, "Error: wrong number of arguments; usage: caddy lb drain [<pool>] <backend>"},
		{"drain web b --for 1m --until 2026-01-02T15:04:05Z", exitFailed, "Error: --for: must not be combined with --until"},
		{"nothing", exitFailed, "Error: unknown command nothing; see 'caddy lb --help'"},
		{"top", exitFailed, "Error: top needs a terminal; --once prints one frame anywhere"},
		{"top --interval 1ms", exitFailed, "Error: --interval 1ms: must be 100ms or more"},
	} {
		got := f.run(strings.Fields(test.command)...)
		if got.code != test.code || strings.TrimSpace(got.err) != test.err || got.out != "" {
			t.Errorf("%s: exit code %d, want %d; %q, want %q; %q", test.command, got.code, test.code, got.err, test.err, got.out)
		}
	}
	none := startAPI(t, map[string]reply{pools: {body: "[]"}})
	if got := none.run("ready", "b"); got.code != exitNotFound || got.err != "Error: no pools found\n" {
		t.Errorf("without pools: %+v", got)
	}
}

func TestUnreachable(t *testing.T) {
	f := onePool(t, nil)
	f.server.Close()
	for _, command := range []string{"pools", "backends", "drain b", "diff", "limits", "events", "top --once"} {
		got := f.run(strings.Fields(command)...)
		if want := "Error: cannot reach Caddy's admin endpoint at " + f.address + ": dial tcp"; got.code != exitUnreachable || !strings.HasPrefix(got.err, want) {
			t.Errorf("%s: exit code %d, %q, want %q", command, got.code, got.err, want)
		}
	}
}

func TestFindingTheEndpoint(t *testing.T) {
	f := onePool(t, nil)
	run := func(args ...string) result { return runCommand(t, console{in: strings.NewReader("")}, args...) }
	file := filepath.Join(t.TempDir(), "Caddyfile")
	if err := os.WriteFile(file, []byte(`{"admin": {"listen": "`+f.address+`"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	json := strings.TrimSuffix(file, "file") + ".json"
	if err := os.Rename(file, json); err != nil {
		t.Fatal(err)
	}
	if got := run("pools", "--config", json); got.code != 0 {
		t.Errorf("by --config: %+v", got)
	}
	if got := run("pools", "--config", file); got.code != exitFailed || !strings.Contains(got.err, "finding the admin endpoint") {
		t.Errorf("by a config that is not there: %+v", got)
	}
	for _, address := range []string{"localhost:1-2", "localhost:x"} {
		if got := run("pools", "--address", address); got.code != exitFailed || !strings.Contains(got.err, "address "+address) {
			t.Errorf("at %s: %+v", address, got)
		}
	}

	dir, err := os.MkdirTemp("", "lb") // short: paths of sockets are
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: f}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { server.Close() })
	for _, address := range []string{"unix/" + socket, "unix/" + socket + "|0222"} {
		if got := run("pools", "--address", address); got.code != 0 {
			t.Errorf("at %s: %+v", address, got)
		}
	}
	if got := f.origins[len(f.origins)-1]; got != "http://127.0.0.1" {
		t.Errorf("origin on a socket: %s", got)
	}
}
