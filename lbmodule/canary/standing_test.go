package canary

import (
	"fmt"
	"testing"
	"time"
)

func stepping() Settings {
	return Settings{Share: 0.05, Steps: []Step{{0.25, time.Minute}, {1, time.Hour}}, Errors: true}
}

func TestAdopt(t *testing.T) {
	theirs := &clock{New("web", stepping()), time.Unix(1, 0)}
	theirs.r.Tick(theirs.now)
	theirs.pass(time.Minute + 10*time.Minute)
	given := theirs.r.Standing()
	if given.State != Running || given.Share != 0.25 || given.Next != 1 || given.Waited != 10*time.Minute || given.Reason != ReasonStep || given.Willed != 0 {
		t.Fatalf("%+v", given)
	}

	ours := &clock{New("web", stepping()), time.Unix(5000, 0)}
	tag := ours.r.Revision()
	given.Revision = ours.r.Standing().Revision
	change, revision, ok := ours.r.Adopt(given, ours.now)
	if want := (Change{Share: 0.25, State: Running, Reason: ReasonStep, Elsewhere: true}); !ok || change != want || revision != ours.r.Standing().Revision {
		t.Fatalf("%+v %v %v", change, revision, ok)
	}
	if r := ours.r.Report(); r.Revision == tag || !r.Since.Equal(given.Since) || r.Next.Share != 1 || r.Remaining != 50*time.Minute {
		t.Errorf("%+v", r)
	}
	ours.r.Tick(ours.now) // the config serves
	if !ours.r.Report().Since.Equal(given.Since) {
		t.Error("the share is as old as the process")
	}
	ours.pass(50*time.Minute - time.Second)
	if ours.at() != "running 0.25" {
		t.Error(ours.at())
	}
	if ours.pass(time.Second); ours.at() != "finished 1" {
		t.Errorf("the time that the other has waited does not count: %s", ours.at())
	}
}

// TestAdoptRollBack: it is off at once, and counts as a roll back once.
func TestAdoptRollBack(t *testing.T) {
	c := &clock{New("web", stepping()), time.Unix(1, 0)}
	c.r.Tick(c.now)
	for range 2 {
		if _, _, ok := c.r.Adopt(Standing{State: RolledBack, Reason: ReasonErrors, Revision: c.r.Standing().Revision}, c.now); !ok || !c.r.Off() {
			t.Fatal(c.at())
		}
	}
	if n := c.r.RollBacks(); n != 1 {
		t.Errorf("%d roll backs", n)
	}
	if got := c.pass(2 * time.Hour); got != nil {
		t.Errorf("goes on: %v", got)
	}
	if c.r.Standing().Willed != 0 {
		t.Error("what another one has done is this one's will")
	}
}

// TestAdoptNot: nothing is adopted that is not for these settings, or that was decided before another change.
func TestAdoptNot(t *testing.T) {
	c := &clock{New("web", stepping()), time.Unix(1, 0)}
	for _, s := range []Standing{
		{State: Running, Share: 0.25, Next: 2},
		{State: Running, Share: 0.25, Next: -1},
		{State: Paused, Share: 1.5},
		{State: Paused, Share: -0.5},
		{State: Paused},
		{State: RolledBack, Share: 0.1},
		{State: States, Share: 0.1},
		{State: Paused, Share: 0.1, Waited: -1},
		{State: Paused, Share: 0.1, Next: 3},
	} {
		s.Revision = c.r.Standing().Revision
		if _, _, ok := c.r.Adopt(s, c.now); ok || c.at() != "running 0.05" {
			t.Errorf("%+v: %v, %s", s, ok, c.at())
		}
	}
	before := c.r.Standing()
	c.do(t, RollBack, 0)
	if after := c.r.Standing(); after.Willed != after.Revision || after.Revision == before.Revision {
		t.Errorf("%+v", after)
	}
	if _, _, ok := c.r.Adopt(before, c.now); ok || !c.r.Off() {
		t.Errorf("a roll back is lost: %s", c.at())
	}
}

// TestDue: a step waits for whoever makes it, and is made once.
func TestDue(t *testing.T) {
	c := &clock{New("web", stepping()), time.Unix(1, 0)}
	c.r.Watch(c.now)
	for range 59 {
		c.now = c.now.Add(time.Second)
		c.r.Watch(c.now)
	}
	if c.r.Due() || c.r.Step(c.now) != nil {
		t.Fatal("too early")
	}
	for range 5 {
		c.now = c.now.Add(time.Second)
		c.r.Watch(c.now)
	}
	if !c.r.Due() || c.at() != "running 0.05" {
		t.Fatal(c.r.Due(), c.at())
	}
	if got := fmt.Sprint(len(c.r.Step(c.now)), len(c.r.Step(c.now)), c.r.Due(), " ", c.at()); got != "1 0 false running 0.25" {
		t.Error(got)
	}
}
