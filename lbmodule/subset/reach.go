package subset

import (
	"maps"
	"time"
)

// Reach decides when a balancer uses backends outside its subset. While no backend that a group uses is usable, it moves on from one window
// of other backends to the next until one is usable; once half of the subset is usable again, it goes back. The subset stays in use all the
// time, so that its health is known. The zero Reach uses the subsets only.
type Reach struct{ groups map[Group]stride }

// stride is how far a group has gone beyond its subset.
type stride struct {
	step  int       // 0 for the subset only; higher steps use the windows in turn, cyclically
	since time.Time // since when there has been a reason to change the step; zero if there is none
	back  bool      // the reason is to go back to step 0
}

// Tally counts the backends of a group that take new requests.
type Tally struct {
	Usable    int // usable backends among those in use
	Own       int // backends in the subset
	OwnUsable int // usable backends in the subset
	Windows   int // number of windows outside the subset
}

const (
	// Calm is how long half of the subset must have been usable before the other backends are no longer used. Each change opens connections.
	Calm = 10 * time.Second

	// doublings is the maximum number of times that patience doubles, once each time that all windows were tried without success.
	doublings = 6
)

// Look updates the steps of the groups. patience is how long all backends that a group uses must have been unusable before the next window
// is used. It returns whether the steps have changed, and when to look again even if nothing happens; zero if that is not necessary.
func (r *Reach) Look(tallies map[Group]Tally, patience time.Duration, now time.Time) (changed bool, next time.Time) {
	for g, t := range tallies {
		s, wait := r.groups[g], time.Duration(0)
		switch {
		case t.Own == 0 || t.Windows == 0:
			changed = changed || s.step > 0
			s = stride{}
		case t.Usable == 0:
			wait = patience << min(s.step/t.Windows, doublings)
			s.want(false, now)
		case s.step > 0 && 2*t.OwnUsable >= t.Own:
			wait = Calm
			s.want(true, now)
		default:
			s.since = time.Time{}
		}
		if !s.since.IsZero() {
			if due := s.since.Add(wait); now.Before(due) {
				next = earlier(next, due)
			} else {
				s = s.after()
				changed = true
			}
		}
		if r.groups == nil {
			r.groups = make(map[Group]stride)
		}
		r.groups[g] = s
	}
	maps.DeleteFunc(r.groups, func(g Group, s stride) bool {
		_, there := tallies[g]
		return !there
	})
	return changed, next
}

// want records a reason to go on to the next step, or back.
func (s *stride) want(back bool, now time.Time) {
	if s.since.IsZero() || s.back != back {
		s.since, s.back = now, back
	}
}

// after returns the next step.
func (s stride) after() stride {
	if s.back {
		return stride{}
	}
	return stride{step: s.step + 1}
}

// Steps returns the steps of the groups that have gone beyond their subset, for [Rule.Choose].
func (r *Reach) Steps() map[Group]int {
	steps := make(map[Group]int)
	for g, s := range r.groups {
		if s.step > 0 {
			steps[g] = s.step
		}
	}
	return steps
}

// Clone returns a copy.
func (r *Reach) Clone() Reach { return Reach{groups: maps.Clone(r.groups)} }

// earlier returns the earlier of two times. a may be zero, which stands for none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}
