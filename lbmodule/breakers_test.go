package lbmodule

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/ballastlb/ballast/lbmodule/pool"
	"github.com/ballastlb/ballast/lbmodule/status"
)

// listens has connections to the backend at position i succeed, where an open breaker has one made in the background. There is no such
// backend, and it would be found dead.
func listens(t *testing.T, h *Handler, i int) {
	dial, m := pool.Dialer(func(context.Context, string) error { return nil }), h.set().View().Member(i)
	m.Redial(&dial, false)
	t.Cleanup(func() { m.EndRedial(&dial) })
}

// judge has the backend at position i answer n requests in that way.
func judge(t *testing.T, h *Handler, i, n int, v pool.Verdict) {
	t.Helper()
	listens(t, h, i)
	for range n {
		l, ok := h.set().View().AcquireMember(i)
		if !ok {
			t.Fatal("no slot")
		}
		l.Judge(v, time.Now())
		l.Release()
	}
}

// A breaker that turns is told of in events, in the log, at the admin endpoint and in metrics.
func TestBreakerIsSeen(t *testing.T) {
	for name, test := range map[string]struct {
		settings string
		usable   bool
		opened   string // what the event tells beside the usual
	}{
		"enforced": {`{}`, false, ``},
		"dry run":  {`{"dry_run": true}`, true, `"dry_run":true,`},
	} {
		t.Run(name, func(t *testing.T) {
			c := newConfig(t)
			h, listener := listen(t, c, `{"name": "seen", "backends": [{"address": "a:1"}, {"address": "b:1", "name": "bee"}], "breaker": `+test.settings+`}`,
				"breaker_opened", "breaker_half_open", "breaker_closed")
			judge(t, h, 1, 5, pool.Verdict{Outcome: pool.Failure, Fault: "status 503"})
			if len(listener.said) != 1 || !strings.HasPrefix(listener.said[0], `breaker_opened {"backend":"bee",`+test.opened+`"error":"status 503","open_for":4.`) &&
				!strings.HasPrefix(listener.said[0], `breaker_opened {"backend":"bee",`+test.opened+`"error":"status 503","open_for":5,`) {
				t.Errorf("events %q", listener.said)
			}
			if n := strings.Count(c.logged(), `"breaker of backend is open","pool":"seen","backend":"bee","reason":"consecutive failures"`); n != 1 {
				t.Errorf("%d lines in the log, want 1:\n%s", n, c.logged())
			}
			p := c.app().Overview()[0]
			i := slices.IndexFunc(p.Backends, func(b status.Backend) bool { return b.Name == "bee" })
			b := p.Backends[i]
			if b.Breaker != "open" || b.Usable != test.usable || (b.Reason == "") != test.usable || b.Until == nil || time.Until(*b.Until) > 5*time.Second {
				t.Errorf("shown as %+v", b)
			}
			err := testutil.GatherAndCompare(c.ctx.GetMetricsRegistry(), strings.NewReader(`
				# HELP caddy_load_balancer_breaker_state The state of the backend's circuit breaker: 1 for the one it is in.
				# TYPE caddy_load_balancer_breaker_state gauge
				caddy_load_balancer_breaker_state{backend="a:1",pool="seen",state="closed"} 1
				caddy_load_balancer_breaker_state{backend="a:1",pool="seen",state="half_open"} 0
				caddy_load_balancer_breaker_state{backend="a:1",pool="seen",state="open"} 0
				caddy_load_balancer_breaker_state{backend="bee",pool="seen",state="closed"} 0
				caddy_load_balancer_breaker_state{backend="bee",pool="seen",state="half_open"} 0
				caddy_load_balancer_breaker_state{backend="bee",pool="seen",state="open"} 1
			`), "caddy_load_balancer_breaker_state")
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// What a breaker knows survives a reload, also one that changes its settings: those rule from then on.
func TestBreakerSurvivesReload(t *testing.T) {
	const backends = `{"name": "kept", "upstreams": [{"dial": "a:1"}, {"dial": "b:1"}, {"dial": "c:1"}]`
	old := newConfig(t)
	h := old.mustLoad(backends + `}`)
	judge(t, h, 0, 5, pool.Verdict{Outcome: pool.Failure})
	judge(t, h, 1, 3, pool.Verdict{Outcome: pool.Failure})
	until := h.set().View().Member(0).Vitals().Until

	next := newConfig(t)
	after := next.mustLoad(backends + `, "breaker": {"consecutive_failures": 4, "max_ejected": 0.9, "open": {"first": "1s", "max": "1s"}}}`)
	old.cancel()
	if got := after.set().View().Member(0).Vitals(); got.Usable || got.Until != until {
		t.Errorf("after the reload: usable %v until %v, want it open until %v", got.Usable, got.Until, until)
	}
	judge(t, after, 1, 1, pool.Verdict{Outcome: pool.Failure})
	if got := after.set().View().Snapshot().Eligible(); !slices.Equal(got, []int{2}) {
		t.Errorf("eligible %v, want the third: the second has failed four times in a row", got)
	}
	off := newConfig(t)
	last := off.mustLoad(backends + `, "breaker": {"disabled": true}}`)
	next.cancel()
	if got := last.set().View().Snapshot().Eligible(); !slices.Equal(got, []int{0, 1, 2}) {
		t.Errorf("eligible %v with the breaker off, want all", got)
	}
}
