package command

import (
	"strings"
	"testing"
)

const canaryShown = `{"backends":["new"],"state":"running","share":0.05,"reason":"step","since":"2026-01-02T15:02:05Z","revision":"x-1","next_share":0.25,"next_in":"8m0s",
"enough":250,"error_evidence":0.0213,"latency_evidence":0.3,"canary":{"backends":1,"requests":5210,"failures":4,"error_rate":0.00077,"p50_ms":11,"p95_ms":40},
"others":{"backends":3,"requests":98822,"failures":71,"error_rate":0.00072,"p50_ms":0,"p95_ms":0}}`

func TestCanary(t *testing.T) {
	const path = "/load_balancer/pools/web/canary"
	signed := `"owner":"` + owner(t) + `"`
	for _, test := range []struct{ command, sent string }{
		{"canary", ""},
		{"canary web", ""},
		{"canary pause", `{"action":"pause",` + signed + `}`},
		{"canary web resume", `{"action":"resume",` + signed + `}`},
		{"canary web share 25% --owner ann --reason good", `{"action":"share","owner":"ann","reason":"good","share":0.25}`},
		{"canary share 0%", `{"action":"share",` + signed + `,"share":0}`},
		{"canary web rollback", `{"action":"roll_back",` + signed + `}`},
		{"canary web promote --yes", `{"action":"promote",` + signed + `}`},
		{"canary restart", `{"action":"restart",` + signed + `}`},
	} {
		f := onePool(t, map[string]reply{"GET " + path: {body: canaryShown}, "PATCH " + path: {body: canaryShown}})
		got := f.run(strings.Fields(test.command)...)
		if got.code != 0 || got.err != "" {
			t.Errorf("%s: exit code %d: %s", test.command, got.code, got.err)
		}
		want := ""
		if test.sent != "" {
			want = "PATCH " + path + " " + test.sent
		}
		lines(t, test.command+" sent", f.changes(), want)
		lines(t, test.command, got.out, strings.Join([]string{
			"canary new of pool web: running, 5% of the clients, because of step, for 2m0s; 25% in 8m0s",
			"SIDE    BACKENDS  REQUESTS  FAILED  ERRORS  P50   P95   EVIDENCE",
			"canary  1         5210      4       0.077%  11ms  40ms  errors 0.0213/250 latency 0.3/250",
			"others  3         98822     71      0.072%  -     -     -",
		}, "\n"))
	}
	for _, command := range []string{
		"canary web stop", "canary web share", "canary share 25", "canary share 101%", "canary share -1%", "canary share NaN%", "canary web pause now", "canary web x y",
	} {
		f := onePool(t, nil)
		if got := f.run(strings.Fields(command)...); got.code != exitFailed || f.changes() != "" {
			t.Errorf("%s: exit code %d: %s", command, got.code, got.out)
		}
	}
	f := onePool(t, map[string]reply{"PATCH " + path: {body: canaryShown}})
	if got := f.run("canary", "web", "promote"); got.code == 0 || f.changes() != "" {
		t.Errorf("promoted without being asked: %d %s", got.code, got.out)
	}
}
