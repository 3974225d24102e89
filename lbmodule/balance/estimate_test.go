package balance

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

func TestEstimate(t *testing.T) {
	for name, test := range map[string]struct {
		answers     func(add func(n int, took time.Duration))
		least, most time.Duration
		weight      float64
	}{
		"nothing is known":       {func(func(int, time.Duration)) {}, 0, 0, 0},
		"one answer":             {func(add func(int, time.Duration)) { add(1, 10*ms) }, 10 * ms, 10 * ms, 1},
		"ten":                    {func(add func(int, time.Duration)) { add(10, 10*ms) }, 10 * ms, 10 * ms, 10},
		"a hundred":              {func(add func(int, time.Duration)) { add(100, 10*ms) }, 10 * ms, 10 * ms, 64},
		"a slow page among many": {func(add func(int, time.Duration)) { add(99, ms/2); add(1, time.Second) }, ms / 2, ms, 64},
		"three in a row":         {func(add func(int, time.Duration)) { add(99, ms/2); add(3, time.Second) }, ms / 2, 2 * ms, 64},
		"four in a row":          {func(add func(int, time.Duration)) { add(99, ms/2); add(4, time.Second) }, ms / 2, ms, 64},
		"three, and one as always": {func(add func(int, time.Duration)) {
			add(99, ms/2)
			add(3, time.Second)
			add(1, ms/2)
			add(3, time.Second)
		}, ms / 2, ms, 64},
		"five fast ones after slow ones": {func(add func(int, time.Duration)) { add(99, 300*ms); add(5, 10*ms) }, 10 * ms, 10 * ms, 1},
		"a bit slower from now on":       {func(add func(int, time.Duration)) { add(99, 20*ms); add(99, 30*ms) }, 27 * ms, 30 * ms, 64},
		"much the same":                  {func(add func(int, time.Duration)) { add(50, 100*time.Microsecond); add(50, ms) }, ms / 10, ms, 64},
		"it took no time":                {func(add func(int, time.Duration)) { add(9, 0) }, 0, 0, 9},
		"less than none":                 {func(add func(int, time.Duration)) { add(9, -time.Second) }, 0, 0, 9},
		"as long as can be":              {func(add func(int, time.Duration)) { add(9, math.MaxInt64) }, 292 * 364 * 24 * time.Hour, math.MaxInt64, 9},
	} {
		e := new(estimate)
		test.answers(func(n int, took time.Duration) {
			for range n {
				e.add(scale(took), tickOf(at(0)))
			}
		})
		const rounding = 1.001
		f := e.get()
		if got := unscale(f.mean); math.IsNaN(got) || got < test.least.Seconds()/rounding || got > test.most.Seconds()*rounding || math.Abs(f.weight-test.weight) > 0.1 {
			t.Errorf("%s: an answer takes %v s by %v answers, want %v to %v by %v", name, got, f.weight, test.least, test.most, test.weight)
		}
		if known := test.weight > 0; e.known() != known {
			t.Errorf("%s: known is %v", name, e.known())
		}
	}
}

// An estimate that starts over is as unsure as the answers vary.
func TestEstimateStartsOver(t *testing.T) {
	steady, varied := new(estimate), new(estimate)
	for k := range 100 {
		steady.add(scale(10*ms), tickOf(at(0)))
		varied.add(scale(time.Duration(1+k%2*99)*ms), tickOf(at(0)))
	}
	for range 99 {
		for _, e := range []*estimate{steady, varied} {
			e.add(scale(time.Hour), tickOf(at(0)))
		}
		if varied.get().weight == 1 {
			break
		}
	}
	if s, v := steady.get().spread, varied.get().spread; varied.get().weight != 1 || v < 1.5*s {
		t.Errorf("a deviation of %v after answers that vary, of %v after those that do not", v, s)
	}
}

// The weight of an estimate decays, and with it the certainty.
func TestEstimateFades(t *testing.T) {
	e := new(estimate)
	for range 100 {
		e.add(scale(10*ms), tickOf(at(0)))
	}
	last := 0.0
	for _, seconds := range []float64{0, 1, 10, 30, 100, 10000} {
		doubt := e.get().doubt(e.left(tickOf(at(seconds))))
		if math.IsInf(doubt, 0) || math.IsNaN(doubt) || doubt <= last {
			t.Errorf("after %v s the doubt is %v, before %v", seconds, doubt, last)
		}
		last = doubt
	}
	if f := e.add(scale(300*ms), tickOf(at(60))); unscale(f.mean) < 0.05 {
		t.Errorf("after a minute an answer of 300 ms changes the estimate to %v s only", unscale(f.mean))
	}
}

// Answers that vary by their nature are not a change: the estimate must not start over because of them.
func TestEstimateOfHeavyTail(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	e := new(estimate)
	over := 0
	const answers = 20_000
	for k := range answers {
		took := 10 * math.Exp(1.5*random.NormFloat64()) // milliseconds
		if f := e.add(scale(time.Duration(took*float64(ms))), tickOf(at(float64(k)/1000))); k > sampleWindow && f.weight < sampleWindow {
			over++
		}
	}
	if over > answers/1000*sampleWindow/100 {
		t.Errorf("the estimate rests on less than all it can for %d of %d answers", over, answers)
	}
}

func TestTypicalPacked(t *testing.T) {
	for _, f := range []typical{{}, {mean: 1.5, spread: 0.25, weight: 3, run: 2}, {mean: 12, spread: 9, weight: 64, run: -3}, {weight: 0.03125, run: runLength - 1}} {
		got := unpack(f.pack())
		want := f
		want.weight = max(want.weight, weightUnit)
		if got != want {
			t.Errorf("%+v becomes %+v", f, got)
		}
	}
	if (typical{}).pack() == 0 {
		t.Error("an estimate is packed as if there were none")
	}
	if got := unpack((typical{spread: 100, weight: 1000}).pack()); got.spread < 15 || got.weight < 64 {
		t.Errorf("what is too large becomes %+v", got)
	}
}

func FuzzEstimate(f *testing.F) {
	f.Add(int64(1), int64(2), uint32(3), uint8(9))
	f.Add(int64(-1), int64(math.MaxInt64), uint32(1<<31), uint8(200))
	f.Fuzz(func(t *testing.T, a, b int64, gap uint32, n uint8) {
		e := new(estimate)
		for k := range int(n) {
			took := a
			if k%3 == 0 {
				took = b
			}
			got := e.add(scale(time.Duration(took)), gap*uint32(k))
			if math.IsNaN(got.mean) || got.mean < 0 || got.spread < 0 || math.IsNaN(got.spread) || got.weight <= 0 || got.weight > sampleWindow {
				t.Fatalf("%+v", got)
			}
			if doubt := e.get().doubt(e.left(gap * uint32(k+1))); math.IsNaN(doubt) || doubt <= 0 {
				t.Fatalf("doubt %v of %+v", doubt, got)
			}
		}
	})
}
