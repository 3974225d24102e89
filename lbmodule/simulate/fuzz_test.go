package simulate

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// FuzzSimulate: whatever pool and scenario are given, there is an error or a result in which every request has ended, and never a panic.
func FuzzSimulate(f *testing.F) {
	f.Add(`{"queue": {"size": 2, "timeout": "1s"}, "backends": [{"address": "a:1", "max_requests": 1}]}`, `{"arrivals": {"rate": 100}, "backends": [{"set": {"delay": "50ms"}}]}`)
	f.Add(policy("least_conn", `, "hedge": {"percentile": 0.5, "max_extra": 1}`), `{"count": 2, "arrivals": {"rate": 500}, "events": [{"at": "500ms", "set": {"state": "stopped"}}, {"at": "700ms", "set": {"state": "up"}}]}`)
	f.Add(policy("sticky", ``), `{"count": 2, "arrivals": {"rate": 5, "process": "bursts", "burst": 3}, "client_timeout": "1ms", "network": {"delay": "1h", "sigma": 3}}`)
	f.Add(policy("round_robin", `, "load_balancing": {"try_duration": "3s", "retries": 2}`), `{"count": 1, "balancers": 2, "writes": 0.5, "arrivals": {"rate": 50}, "events": [{"at": "100ms", "set": {"state": "down"}}]}`)
	f.Fuzz(func(t *testing.T, poolText, scenarioText string) {
		s, err := ReadScenario([]byte(scenarioText))
		if err != nil {
			return
		}
		p := new(Pool)
		if json.Unmarshal([]byte(poolText), p) != nil {
			return
		}
		// Small enough to run many.
		s.Duration, s.WarmUp = min(s.Duration, caddy.Duration(time.Second)), 0
		s.Arrivals.Rate, s.Count, s.Balancers, s.Clients = min(s.Arrivals.Rate, 1000), min(s.Count, 10), min(s.Balancers, 3), min(s.Clients, 100)
		s.Arrivals.Log, s.Network.Log = "", ""
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		r, err := Run(ctx, p, *s)
		if err != nil {
			if ctx.Err() != nil {
				t.Fatalf("it does not end: %s %s", poolText, scenarioText)
			}
			return
		}
		ended := 0
		for _, n := range r.Endings {
			ended += n
		}
		if ended != r.Requests {
			t.Errorf("%d requests, of which %d ended", r.Requests, ended)
		}
	})
}
