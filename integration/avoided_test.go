package integration

import (
	"encoding/json"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"
)

// avoidedLine is what is said of a backend whose answers take 300 ms more than those of others.
var avoidedLine = regexp.MustCompile(`its answers take [0-9.]+ m?s, the others' [0-9.]+ m?s; tried again (with the next request|in [0-9.]+ s)`)

// TestAvoidedIsTold: of three backends one is late. Wherever somebody may look it stands that it is avoided, and what for.
func TestAvoidedIsTold(t *testing.T) {
	t.Parallel()
	backends, addresses := startBackends(t, 3)
	late := backends[1].addr
	backends[1].handle(func(_ http.ResponseWriter, r *http.Request) { takes(r.Context(), 300*time.Millisecond) })
	c := startCaddy(t, "load_balancer "+addresses+" {\n name web\n debug_header X-Balance 127.0.0.1\n}")

	var explained struct {
		Candidates []struct {
			Backend, Reason string
			In              bool
		}
	}
	reasons := func(text []byte) map[string]string {
		t.Helper()
		if err := json.Unmarshal(text, &explained); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		all := make(map[string]string)
		for _, candidate := range explained.Candidates {
			if all[candidate.Backend] = candidate.Reason; !candidate.In {
				t.Errorf("%s is out: %s", candidate.Backend, candidate.Reason)
			}
		}
		return all
	}
	told := func(line string) bool {
		text, avoided := strings.CutPrefix(line, "avoided: ")
		return avoided && avoidedLine.MatchString(text)
	}
	waitFor(t, "explain to say that the late backend is avoided", func() bool {
		for range 20 {
			c.get("/")
		}
		_, text := c.askAdmin("GET", "/load_balancer/pools/web/explain")
		return told(reasons(text)[late])
	})
	waitFor(t, "the debug header to say so", func() bool {
		_, header, _ := c.get("/")
		return told(reasons([]byte(header.Get("X-Balance")))[late])
	})
	var b struct {
		Avoided string
		Usable  bool
	}
	waitFor(t, "the API to say so", func() bool {
		c.get("/")
		return c.api("GET", "/load_balancer/pools/web/backends/"+late, &b) == http.StatusOK && b.Usable && avoidedLine.MatchString(b.Avoided)
	})
	for _, command := range []string{"backends web", "explain web", "top --once"} {
		waitFor(t, command+" to say so", func() bool {
			c.get("/")
			out, _, _ := c.lb(strings.Fields(command)...)
			for line := range strings.Lines(out) {
				if strings.Contains(line, late) && strings.Contains(line, "avoided") && avoidedLine.MatchString(line) {
					return true
				}
			}
			return false
		})
	}
	for _, name := range []string{"avoided_total", "trials_total"} {
		for _, b := range backends {
			c.metric("caddy_load_balancer_"+name, `backend="`+b.addr+`",pool="web"`)
		}
	}
}
