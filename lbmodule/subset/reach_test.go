package subset

import (
	"testing"
	"time"
)

// walk looks at one group at a time and says at which step it is.
type walk struct {
	t     *testing.T
	reach Reach
	now   time.Time
}

func (w *walk) wants(after time.Duration, tally Tally, step int, next time.Duration) {
	w.t.Helper()
	w.now = w.now.Add(after)
	before := w.reach.Steps()[3]
	changed, at := w.reach.Look(map[Group]Tally{3: tally}, time.Second, w.now)
	if got := w.reach.Steps()[3]; got != step || changed != (before != step) {
		w.t.Fatalf("step %d, changed %v, want step %d after %d", got, changed, step, before)
	}
	if at.IsZero() != (next == 0) || next != 0 && at.Sub(w.now) != next {
		w.t.Fatalf("looks again at %v, want in %v", at, next)
	}
}

func TestReach(t *testing.T) {
	w := &walk{t: t, now: time.Unix(1e9, 0)}
	well := Tally{Usable: 4, Own: 4, OwnUsable: 4, Windows: 2}
	gone := Tally{Own: 4, Windows: 2}
	w.wants(0, well, 0, 0)
	w.wants(0, gone, 0, time.Second)
	w.wants(400*time.Millisecond, gone, 0, 600*time.Millisecond)
	w.wants(400*time.Millisecond, Tally{Usable: 1, Own: 4, OwnUsable: 1, Windows: 2}, 0, 0) // it was but a moment
	w.wants(time.Hour, gone, 0, time.Second)
	w.wants(time.Second, gone, 1, 0)
	w.wants(0, gone, 1, time.Second)
	w.wants(time.Second, gone, 2, 0)
	// All were tried in vain: from now on it takes longer.
	w.wants(0, gone, 2, 2*time.Second)
	w.wants(2*time.Second, gone, 3, 0)
	w.wants(time.Millisecond, Tally{Usable: 3, Own: 4, Windows: 2}, 3, 0)
	w.wants(time.Hour, Tally{Usable: 3, Own: 4, OwnUsable: 1, Windows: 2}, 3, 0) // less than half is back
	half := Tally{Usable: 5, Own: 4, OwnUsable: 2, Windows: 2}
	w.wants(time.Hour, half, 3, Calm)
	w.wants(Calm-1, gone, 3, 2*time.Second) // that is a wish to go on, and as old as it is
	w.wants(time.Second, half, 3, Calm)
	w.wants(Calm, half, 0, 0)
	w.wants(0, well, 0, 0)
}

func TestReachIsBounded(t *testing.T) {
	var r Reach
	now := time.Unix(1e9, 0)
	gone := map[Group]Tally{0: {Own: 4, Windows: 1}}
	for range 1000 {
		_, next := r.Look(gone, time.Second, now)
		if next.IsZero() {
			_, next = r.Look(gone, time.Second, now)
		}
		if wait := next.Sub(now); wait > time.Second<<doublings || wait <= 0 {
			t.Fatalf("waits %v", wait)
		}
		now = next
	}
	if r.Steps()[0] < 100 {
		t.Errorf("at step %d", r.Steps()[0])
	}
}

// A group without backends outside its subset, or without backends that take requests, stays at step 0; former groups are forgotten.
func TestReachOfNothing(t *testing.T) {
	for _, tally := range []Tally{{Own: 3}, {Windows: 2}} {
		w := &walk{t: t, now: time.Unix(1e9, 0)}
		w.wants(0, tally, 0, 0)
		w.wants(time.Hour, tally, 0, 0)
		w.wants(0, Tally{Own: 4, Windows: 2}, 0, time.Second)
		w.wants(time.Second, Tally{Own: 4, Windows: 2}, 1, 0)
		w.wants(0, tally, 0, 0)
		w.wants(0, Tally{Own: 4, Windows: 2}, 0, time.Second)
		w.wants(time.Second, Tally{Own: 4, Windows: 2}, 1, 0)
		if w.reach.Look(nil, time.Second, w.now); len(w.reach.groups) > 0 {
			t.Errorf("remembers %v", w.reach.groups)
		}
	}
}
