package pool

import "testing"

// Sessions stay with a member that drains or has no weight, unless it is unhealthy.
func TestSessionsStay(t *testing.T) {
	for name, test := range map[string]struct {
		backend Backend
		fails   bool
		want    bool
	}{
		"ready":              {Backend{Weight: 1}, false, true},
		"weight 0":           {Backend{}, false, true},
		"draining":           {Backend{Weight: 1, State: Draining}, false, true},
		"draining, weight 0": {Backend{State: Draining}, false, true},
		"drained":            {Backend{Weight: 1, State: Drained}, false, false},
		"drained, weight 0":  {Backend{State: Drained}, false, false},
		"maintenance":        {Backend{Weight: 1, State: Maintenance}, false, false},
		"draining, dead":     {Backend{Weight: 1, State: Draining}, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			var r Registry
			p := r.Acquire("p")
			test.backend.Address = "a:1"
			v := p.Open([]Backend{test.backend, {Address: "b:1", Weight: 1}}, guarded())
			defer v.Close()
			if test.fails {
				answer(t, v, 0, 5, refused)
			}
			l, ok := v.AcquireSession(0)
			if ok != test.want {
				t.Errorf("session taken: %v, want %v", ok, test.want)
			}
			l.Release()
		})
	}
}

// A pool in which all members drain is not hopeless for its sessions.
func TestSessionsOfDrainingPool(t *testing.T) {
	var r Registry
	p := r.Acquire("p")
	v := p.Open([]Backend{{Address: "a:1", Weight: 1, State: Draining}}, guarded())
	defer v.Close()
	if v.Snapshot().Hopeless() {
		t.Error("hopeless, while sessions are kept")
	}
	if _, err := v.Acquire(nil, true); err == nil {
		t.Error("a request without a session was let in")
	}
	other := p.Open([]Backend{{Address: "a:1", Weight: 1, State: Drained}}, guarded())
	defer other.Close()
	if !other.Snapshot().Hopeless() {
		t.Error("not hopeless, but no member takes requests")
	}
}
