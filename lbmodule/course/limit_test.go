package course

import (
	"testing"
	"time"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

// TestOverloadLowersTheLimit checks which attempts lower the limit of a backend whose max_requests is auto, and that no others do.
func TestOverloadLowersTheLimit(t *testing.T) {
	excused := func(f *Facts) { f.Excused = true }
	for _, c := range []struct {
		facts Facts
		falls bool
	}{
		{answer(503), true},
		{overloaded(503), true},
		{answer(429), true},
		{failure(TimedOut), true},
		{failure(Broken), true},
		{failure(Broken).with(excused), false}, // the client left
		{refusal(), false},
		{answer(500), false},
		{answer(404), false},
	} {
		w := newWorld(t, 1)
		w.backends[0].MaxRequests = pool.Auto
		w.rules.BreakerOff, w.settings.ConnectionsOnly, w.settings.DeadAfter = true, true, 1<<30
		w.rules.Retry.Attempts = 1
		w.start()
		view := w.current.view
		before := view.Limit(0)
		for n := range 3000 {
			now := w.at(time.Duration(n) * 10 * time.Millisecond)
			var course Course
			course.Init(&w.rules, w.pool, w, w)
			if step := course.Begin(now); step.Do != Send {
				course.End(Ending{}, now) // no backend can be connected to
				continue
			}
			f := c.facts
			f.Took, f.Answered, f.Known = time.Millisecond, time.Millisecond, true
			course.Ended(&f, now)
			course.End(Ending{Complete: true}, now)
		}
		if after := view.Limit(0); (after < before) != c.falls {
			t.Errorf("%+v: limit %d, before %d; want it lower: %v", c.facts, after, before, c.falls)
		}
	}
}

// TestStreamsLeaveRoom: an answer that may last for as long as its client likes takes no room on such a backend.
func TestStreamsLeaveRoom(t *testing.T) {
	for _, stream := range []bool{false, true} {
		w := newWorld(t, 1)
		w.backends[0].MaxRequests = pool.Auto
		w.start()
		view, open := w.current.view, 0
		for range 2 * view.Limit(0) {
			course := new(Course)
			course.Init(&w.rules, w.pool, w, w)
			if course.Begin(w.at(0)).Do != Send {
				break
			}
			f := answer(200)
			f.Stream = stream
			course.Ended(&f, w.at(0))
			open++
		}
		if want := view.Limit(0); stream && open != 2*want || !stream && open != want {
			t.Errorf("stream %v: %d answers are open, with a limit of %d", stream, open, want)
		}
	}
}
