package simulate

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// TestClock: events come in the order of their times, those of the same time in the order in which they were scheduled; stopped ones do not
// come, and those that were reset come at their new time.
func TestClock(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		type entry struct {
			at    time.Duration
			order int
		}
		var c clock
		want := map[int]entry{}
		var events []*event
		var got []int
		scheduled := 0
		for id := range 100 {
			at := time.Duration(random.IntN(20))
			events = append(events, c.after(at, func() { got = append(got, id) }))
			want[id] = entry{at, scheduled}
			scheduled++
			switch at := random.IntN(len(events)); random.IntN(4) {
			case 0:
				_, scheduledStill := want[at]
				if events[at].Stop() != scheduledStill {
					t.Fatal("Stop does not tell whether the event was to come")
				}
				delete(want, at)
			case 1:
				later := time.Duration(random.IntN(30))
				events[at].Reset(later)
				want[at] = entry{later, scheduled}
				scheduled++
			}
		}
		for c.run(1000) {
		}
		order := make([]int, 0, len(want))
		for id := range want {
			order = append(order, id)
		}
		slices.SortFunc(order, func(a, b int) int {
			return cmp.Or(cmp.Compare(want[a].at, want[b].at), cmp.Compare(want[a].order, want[b].order))
		})
		if !slices.Equal(got, order) {
			t.Fatalf("came as %v, want %v", got, order)
		}
	}
	var c clock
	var at []time.Duration
	c.after(5, func() {
		at = append(at, c.now)
		c.after(-3, func() { at = append(at, c.now) }) // not in the past
	})
	if c.run(4) {
		t.Error("an event came before its time")
	}
	for c.run(5) {
	}
	if !slices.Equal(at, []time.Duration{5, 5}) || c.Now() != epoch.Add(5) {
		t.Errorf("came at %v, now %v", at, c.Now())
	}
}
