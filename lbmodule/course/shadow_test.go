package course

import (
	"fmt"
	"testing"
	"time"

	"github.com/ballastlb/ballast/lbmodule/balance"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

// decided is how many decisions the shadow policy has made, and how many requests it supposes at the backends.
func decided(w *world, _ time.Time) string {
	s, n, inFlight := w.current.view.Shadow(), uint64(0), int64(0)
	for r := range pool.ShadowResults {
		n += s.Decisions(r)
	}
	for i := range w.current.view.Len() {
		inFlight += s.Share(w.current.view.Member(i)).InFlight
	}
	return fmt.Sprint(n, " ", inFlight)
}

// TestShadow checks for which attempts the shadow policy decides.
func TestShadow(t *testing.T) {
	shadow := func(more func(*world)) func(*world) {
		return func(w *world) {
			w.settings.Shadow = balance.First{}
			if more != nil {
				more(w)
			}
		}
	}
	complete := Ending{Complete: true}
	scripts(t, []script{
		{"a request", shadow(nil), []move{{0, begin, "send a"}, {0, decided, "1 1"}, {1 * ms, ended(answer(200)), "give"}, {2 * ms, ends(complete), `success "" false`}, {2 * ms, decided, "1 0"}}},
		{"a retry", shadow(nil), []move{
			{0, begin, "send a"}, {1 * ms, ended(answer(503)), "send b again for status"}, {1 * ms, decided, "1 0"}, {2 * ms, ended(answer(200)), "give"}, {3 * ms, ends(complete), `success "" false`}, {3 * ms, decided, "1 0"},
		}},
		{"no connection", shadow(nil), []move{{0, begin, "send a"}, {1 * ms, ended(refusal()), "send b again for connect"}, {1 * ms, decided, "1 0"}}},
		{"a session", shadow(func(w *world) {
			w.rules.Sessions = true
			w.session = func() (int, bool, bool) { return 1, true, true }
		}), []move{{0, begin, "send b"}, {0, decided, "1 1"}}},
		{"a probe", shadow(func(w *world) { w.settings.Breaker = consecutive(1) }), []move{
			{0, halfOpens("a"), ""}, {0, begin, "send a"}, {0, decided, "0 0"}, {1 * ms, ended(answer(200)), "give"}, {2 * ms, ends(complete), `success "" false`}, {2 * ms, decided, "0 0"},
		}},
		{"nobody", shadow(func(w *world) { w.backends[0].Weight, w.backends[1].Weight = 0, 0 }), []move{{0, begin, "refuse: no backend is usable"}, {0, decided, "0 0"}}},
	})
}
