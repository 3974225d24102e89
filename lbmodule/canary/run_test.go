package canary

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"
)

// Tick is what a node by itself does each second.
func (r *Run) Tick(now time.Time) []Change { return append(r.Watch(now), r.Step(now)...) }

// TestValueIsFair: under the null hypothesis the mean of a block's e-value is at most 1, computed over all outcomes of small blocks.
func TestValueIsFair(t *testing.T) {
	greatest := 0.0
	for _, test := range []*test{newErrorTest(0.1), newErrorTest(2), newLatencyTest(), newTest(1, 0, guess{times: 2})} {
		for _, n := range [][2]uint64{{1, 1}, {1, 7}, {6, 2}, {5, 9}, {30, 3}} {
			for _, guessed := range [][2]float64{{0.02, 0.001}, {0.1, 0.01}, {0.6, 0.2}, {0.95, 0.01}, {0.98, 0.8}} {
				for _, pb := range []float64{0, 0.001, 0.02, 0.2, 0.5, 0.9, 1} {
					for _, pa := range []float64{0, pb, min(test.tolerated(pb), 1)} {
						if pa > test.tolerated(pb) {
							continue
						}
						mean := 0.0
						for ya := range n[0] + 1 {
							for yb := range n[1] + 1 {
								mean += binomial(ya, n[0], pa) * binomial(yb, n[1], pb) * test.value(guessed[0], guessed[1], ya, n[0], yb, n[1])
							}
						}
						if greatest = max(greatest, mean); mean > 1+1e-9 {
							t.Errorf("ratio %v, slack %v, blocks of %v, guess %v, probabilities %v and %v: mean %v", test.ratio, test.slack, n, guessed, pa, pb, mean)
						}
					}
				}
			}
		}
	}
	if greatest < 0.99 {
		t.Errorf("the greatest mean is %v: the test has no power", greatest)
	}
}

// binomial returns the probability that y of n are bad.
func binomial(y, n uint64, p float64) float64 {
	c := 1.0
	for i := range y {
		c *= float64(n-i) / float64(i+1)
	}
	return c * math.Pow(p, float64(y)) * math.Pow(1-p, float64(n-y))
}

// TestBeginningsAddUp: the weights of the products are those of a mean.
func TestBeginningsAddUp(t *testing.T) {
	sum := 0.0
	for n := range 10_000_000 {
		sum += beginning(n)
	}
	// What follows is less than the integral of 0.47/(k·log²k), which is 0.47/log k.
	if sum += 0.47 / math.Log(10_000_001); sum > 1 || sum < 0.95 {
		t.Errorf("they add up to %v", sum)
	}
}

func TestBuckets(t *testing.T) {
	for b := range buckets - 1 {
		bound := boundOf(b)
		if below, above := bucketOf(bound-time.Microsecond), bucketOf(bound); below != b || above != b+1 {
			t.Fatalf("bucket %d ends at %v, but that is in %d, and a microsecond less in %d", b, bound, above, below)
		}
		if b > perOctave && float64(bound) > 1.126*float64(boundOf(b-1)) {
			t.Errorf("bucket %d is from %v to %v", b, boundOf(b-1), bound)
		}
	}
	for _, took := range []time.Duration{-1, 0, math.MaxInt64} {
		if b := bucketOf(took); b < 0 || b >= buckets {
			t.Errorf("%v is in bucket %d", took, b)
		}
	}
}

// TestSides: clients stay at the canary as its share grows, the share is right, and all processes agree.
func TestSides(t *testing.T) {
	const clients = 100_000
	one, other, elsewhere := New("web", Settings{Share: 0.05}), New("web", Settings{Share: 0.05}), New("api", Settings{Share: 0.05})
	now := time.Unix(1, 0)
	var before [clients]Side
	same := 0
	for _, share := range []float64{0.0001, 0.01, 0.05, 0.25, 0.5, 0.999, 1} {
		for _, r := range []*Run{one, other, elsewhere} {
			if _, err := r.Do(SetShare, share, "", now); err != nil {
				t.Fatal(err)
			}
		}
		n := 0
		for i := range before {
			key := uint64(i) // as bad a hash as there is
			side := one.SideOf(key)
			if side == Canary {
				n++
			}
			if before[i] == Canary && side != Canary {
				t.Fatalf("client %d has left the canary at %v", i, share)
			}
			if side != other.SideOf(key) {
				t.Fatalf("client %d is on different sides at %v", i, share)
			}
			if share == 0.5 && side == elsewhere.SideOf(key) {
				same++
			}
			before[i] = side
		}
		if want, sigma := share*clients, math.Sqrt(share*clients); math.Abs(float64(n)-want) > 5*sigma {
			t.Errorf("share %v: %d of %d clients", share, n, clients)
		}
	}
	if math.Abs(float64(same)-clients/2) > 1000 {
		t.Errorf("%d clients are on the same side in another pool, want half", same)
	}
}

// clock calls Tick each second.
type clock struct {
	r   *Run
	now time.Time
}

func (c *clock) pass(d time.Duration) (changes []Change) {
	for end := c.now.Add(d); c.now.Before(end); {
		c.now = c.now.Add(time.Second)
		changes = append(changes, c.r.Tick(c.now)...)
	}
	return changes
}

func (c *clock) do(t *testing.T, a Action, share float64) Change {
	t.Helper()
	change, err := c.r.Do(a, share, c.r.Revision(), c.now)
	if err != nil {
		t.Fatal(err)
	}
	return change
}

func (c *clock) at() string {
	r := c.r.Report()
	return fmt.Sprint(r.State, " ", r.Share)
}

func TestTimeline(t *testing.T) {
	steps := []Step{{0.25, 10 * time.Minute}, {1, 30 * time.Minute}}
	c := &clock{New("web", Settings{Share: 0.05, Steps: steps, Errors: true, Latency: true, Slower: 0.25}), time.Unix(1, 0)}
	is := func(want string) {
		t.Helper()
		if got := c.at(); got != want {
			t.Fatalf("%s, want %s", got, want)
		}
	}
	is("running 0.05")
	c.now = c.now.Add(time.Hour) // before the config serves
	c.r.Tick(c.now)
	if got := c.pass(10*time.Minute - time.Second); got != nil {
		t.Fatalf("moved early: %v", got)
	}
	if got := c.pass(time.Second); !slices.Equal(got, []Change{{Share: 0.25, State: Running, Reason: ReasonStep}}) {
		t.Fatal(got)
	}
	c.pass(20 * time.Minute)
	c.do(t, Pause, 0)
	c.pass(time.Hour)
	is("paused 0.25")
	c.do(t, Resume, 0)
	if r := c.r.Report(); r.Next == nil || r.Next.Share != 1 || r.Remaining != 10*time.Minute {
		t.Errorf("next %v in %v", r.Next, r.Remaining)
	}
	c.pass(10 * time.Minute)
	is("finished 1")
	if side, all := c.r.All(); side != Canary || !all {
		t.Error("not all are the canary's")
	}
	if change := c.do(t, RollBack, 0); change != (Change{State: RolledBack, Reason: ReasonByHand}) {
		t.Error(change)
	}
	if side, all := c.r.All(); side != Others || !all || !c.r.Off() {
		t.Error("somebody is the canary's")
	}
	c.pass(time.Hour)
	is("rolled_back 0")
	c.do(t, Resume, 0)
	is("running 0.05")
	c.do(t, SetShare, 0.3)
	is("paused 0.3")
	c.do(t, Resume, 0)
	if r := c.r.Report(); r.Next == nil || r.Next.Share != 1 || r.Remaining != 30*time.Minute {
		t.Errorf("next %v in %v: the step to 25 %% would be one back", r.Next, r.Remaining)
	}
	c.do(t, Promote, 0)
	is("finished 1")
	c.do(t, Restart, 0)
	is("running 0.05")
	if n := c.r.RollBacks(); n != 1 {
		t.Errorf("%d roll backs", n)
	}
	if _, err := c.r.Do(Pause, 0, "stale", c.now); !errors.Is(err, ErrChanged) {
		t.Errorf("%v, want %v", err, ErrChanged)
	}
}

// TestRollBack: a canary that fails is rolled back for good, and so is a slow one; what both do is not held against it.
func TestRollBack(t *testing.T) {
	begin := func() *clock {
		c := &clock{New("web", Settings{Share: 0.5, Steps: []Step{{1, time.Hour}}, Errors: true, Latency: true, MoreErrors: 0.1, Slower: 0.25}), time.Unix(1, 0)}
		c.r.Tick(c.now)
		for range 20 {
			for s := range sides {
				for range 20 {
					c.r.Counts(s).Answered(10 * time.Millisecond)
				}
				c.r.Counts(s).Failed()
			}
			if got := c.pass(time.Second); got != nil {
				t.Fatal(got)
			}
		}
		return c
	}
	c := begin()
	for range 20 {
		c.r.Counts(Canary).Failed()
		c.r.Counts(Others).Answered(10 * time.Millisecond)
	}
	if got := c.pass(time.Second); !slices.Equal(got, []Change{{State: RolledBack, Reason: ReasonErrors}}) {
		t.Error(got)
	}
	before := c.r.Report()
	if f := before.Sides[Canary]; f.Requests != 20*21+20 || f.Failures != 40 || before.Errors.Value < Enough {
		t.Errorf("%+v, evidence %v", f, before.Errors)
	}
	c.r.Counts(Canary).Failed() // it was on its way
	c.pass(2 * time.Hour)
	if after := c.r.Report(); after.State != RolledBack || after.Share != 0 || after.Sides != before.Sides || c.r.RollBacks() != 1 {
		t.Errorf("%+v", after)
	}
	c.do(t, Restart, 0)
	if r := c.r.Report(); r.Errors.Value != 0 || r.Sides[Canary].Requests != 0 {
		t.Errorf("begins with %+v", r)
	}

	c = begin()
	for range 60 {
		c.r.Counts(Canary).Answered(20 * time.Millisecond)
		c.r.Counts(Others).Answered(10 * time.Millisecond)
	}
	if got := c.pass(time.Second); !slices.Equal(got, []Change{{State: RolledBack, Reason: ReasonLatency}}) {
		t.Error(got)
	}

	c = begin()
	for range 60 {
		for s := range sides {
			c.r.Counts(s).Failed()
			c.r.Counts(s).Answered(time.Second)
		}
		if got := c.pass(time.Second); got != nil {
			t.Fatal(got)
		}
	}
}

// TestUnsettled: nothing is compared right after a change of the share, when one side still ends requests of before.
func TestUnsettled(t *testing.T) {
	c := &clock{New("web", Settings{Share: 0.5, Errors: true, MoreErrors: 0.1}), time.Unix(1, 0)}
	c.r.Tick(c.now)
	c.do(t, SetShare, 0.2)
	for range 50 {
		c.r.Counts(Canary).Failed()
		c.r.Counts(Others).Answered(time.Millisecond)
	}
	if got := c.pass(2 * time.Second); got != nil {
		t.Error(got)
	}
	if f := c.r.Report().Sides[Canary]; f.Requests != 0 {
		t.Errorf("%+v", f)
	}
}

// TestCountingIsCheap: counting and choosing a side allocate nothing.
func TestCountingIsCheap(t *testing.T) {
	r := New("web", Settings{Share: 0.5})
	if n := testing.AllocsPerRun(100, func() {
		s := r.SideOf(7)
		r.Counts(s).Answered(time.Millisecond)
		r.Counts(s).Failed()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
