package pool

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ballastlb/ballast/breaker"
	"github.com/ballastlb/ballast/healthcheck"
)

var errRefused = errors.New("connection refused")

// dials is a network in which no connection can be made until it is up.
type dials struct {
	takes time.Duration

	mu   sync.Mutex // guards what follows
	up   bool
	at   []time.Time
	open int
	most int // connections that were being made at a time
}

func (d *dials) dial(ctx context.Context, _ string) error {
	d.mu.Lock()
	d.at = append(d.at, time.Now())
	d.open++
	d.most = max(d.most, d.open)
	d.mu.Unlock()
	select {
	case <-time.After(d.takes):
	case <-ctx.Done():
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open--
	if ctx.Err() != nil || !d.up {
		return errRefused
	}
	return nil
}

// redials makes dial redial m until stop is called.
func (m *Member) redials(dial Dialer, ended bool) (stop func()) {
	m.Redial(&dial, ended)
	return func() { m.EndRedial(&dial) }
}

// set makes connections succeed or fail from now on.
func (d *dials) set(up bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.up = up
}

// times is when connections were tried.
func (d *dials) times() []time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.at)
}

// now is how many are being made.
func (d *dials) now() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.open
}

// atOnce is how many were being made at a time.
func (d *dials) atOnce() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.most
}

// kill makes enough connections to the members at these positions fail for them to be dead.
func kill(t *testing.T, v *View, positions ...int) {
	t.Helper()
	for _, i := range positions {
		answer(t, v, i, deadAfter, refused)
	}
}

// A dead member is redialed at increasing intervals, never twice at a time, however many views want it; when it is reached it is usable at
// once, whatever its breaker's open time is.
func TestRedial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool()
		v, other := p.Open(backends(2), guarded()), p.Open(backends(2), guarded())
		defer v.Close()
		defer other.Close()
		var d dials
		for range 3 {
			defer v.Member(0).redials(d.dial, false)()
		}
		time.Sleep(time.Minute)
		if len(d.times()) > 0 {
			t.Fatal("a member that is not dead was tried")
		}
		died := time.Now()
		kill(t, v, 0)
		for range 100 {
			v.Lose([]int{0, 1}, time.Now()) // however many find that
		}
		eligible(t, v, 1)
		if got := v.Member(0).Vitals(); !got.Dead || got.Usable || got.Breaker != breaker.Open || got.Cause != breaker.Unreachable || !got.Until.IsZero() {
			t.Errorf("dead: %+v", got)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		last := died
		for n, at := range d.times() {
			want := min(firstRedial<<min(n, 10), maxRedial)
			if gap := at.Sub(last); gap > want || gap < want*8/10 {
				t.Errorf("try %d came after %v, want %v less a fifth at most", n+1, gap, want)
			}
			last = at
		}
		if len(d.times()) < 12 || len(d.times()) > 16 {
			t.Errorf("%d tries in 10s", len(d.times()))
		}
		d.set(true)
		time.Sleep(maxRedial)
		synctest.Wait()
		eligible(t, v, 0, 1)
		eligible(t, other, 0, 1)
		if got := v.Member(0).Vitals(); got.Dead || !got.Usable || got.Breaker != breaker.Closed {
			t.Errorf("back: %+v", got)
		}
		tries := len(d.times())
		time.Sleep(time.Minute)
		if len(d.times()) != tries {
			t.Error("it is tried still")
		}
		// When it dies again it is tried as soon as the first time.
		kill(t, v, 0)
		d.set(false)
		time.Sleep(firstRedial)
		synctest.Wait()
		if len(d.times()) != tries+1 || d.atOnce() != 1 {
			t.Errorf("%d tries after it died again, %d at a time; want one", len(d.times())-tries, d.atOnce())
		}
	})
}

// Members that died together are not redialed together.
func TestRedialJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newPool().Open(backends(10), guarded())
		defer v.Close()
		var all [10]dials
		for i := range all {
			defer v.Member(i).redials(all[i].dial, false)()
			kill(t, v, i)
		}
		time.Sleep(firstRedial)
		synctest.Wait()
		var at []time.Time
		for i := range all {
			at = append(at, all[i].times()...)
		}
		slices.SortFunc(at, time.Time.Compare)
		if len(slices.Compact(at)) < 9 {
			t.Errorf("ten members were tried at %v", at)
		}
	})
}

// Redialing ends with the last dialer, even during a connection attempt, and begins again with the next one.
func TestRedialEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newPool().Open(backends(1), guarded())
		kill(t, v, 0)
		d := dials{takes: time.Hour}
		time.Sleep(time.Minute)
		one, two := v.Member(0).redials(d.dial, false), v.Member(0).redials(d.dial, false)
		time.Sleep(firstRedial)
		synctest.Wait()
		one()
		if synctest.Wait(); d.now() != 1 {
			t.Fatalf("%d connections being made, want one: a dialer is left", d.now())
		}
		two()
		if synctest.Wait(); d.now() != 0 {
			t.Error("a connection is being made without a dialer")
		}
		time.Sleep(time.Hour)
		if len(d.times()) != 1 {
			t.Errorf("%d tries, want one", len(d.times()))
		}
		// A reset of the member ends redialing, too.
		stop := v.Member(0).redials(d.dial, false)
		time.Sleep(firstRedial)
		synctest.Wait()
		v.Member(0).Reset(time.Now())
		if synctest.Wait(); d.now() != 0 || v.Member(0).Vitals().Dead {
			t.Error("a member that was reset is dead, or tried, still")
		}
		time.Sleep(time.Hour)
		if len(d.times()) != 2 {
			t.Errorf("%d tries, want two", len(d.times()))
		}
		stop()
		v.Close()
	})
}

// A breaker that is open for another reason stays so when a connection can be made.
func TestReachedWithOpenBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newPool().Open(backends(3), guarded())
		defer v.Close()
		d := dials{up: true}
		defer v.Member(0).redials(d.dial, false)()
		answer(t, v, 0, 5, bad)
		kill(t, v, 0)
		time.Sleep(firstRedial)
		synctest.Wait()
		if got := v.Member(0).Vitals(); got.Dead || got.Breaker != breaker.Open || got.Cause != breaker.ConsecutiveFailures {
			t.Errorf("reached: %+v", got)
		}
		eligible(t, v, 1, 2)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		recoverBy(t, v, 0)
		eligible(t, v, 0, 1, 2)
	})
}

// Requests and connection attempts that began before a member died say nothing about whether it can be connected to.
func TestLateNewsOfTheDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newPool().Open(backends(1), guarded())
		defer v.Close()
		var before []Lease
		for range 2 * deadAfter {
			l, _ := v.AcquireMember(0)
			before = append(before, l)
		}
		kill(t, v, 0)
		before[0].Judge(good, time.Now())
		if !v.Member(0).Vitals().Dead {
			t.Fatal("an answer on an old connection brought it back")
		}
		d := dials{up: true}
		defer v.Member(0).redials(d.dial, false)()
		time.Sleep(firstRedial)
		synctest.Wait()
		for i := range before {
			before[i].Judge(refused, time.Now())
			before[i].Release()
		}
		if v.Member(0).Vitals().Dead {
			t.Error("connections that had been tried before it was back made it dead again")
		}
	})
}

// An outage of the pool begins when the last member dies and ends when the first is back. There is none if no member could be used anyway.
func TestGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool()
		list := backends(3)
		list[2].State = Maintenance
		v := p.Open(list, guarded())
		kill(t, v, 0)
		time.Sleep(time.Minute)
		if gone := v.Snapshot().Gone(); !gone.IsZero() {
			t.Fatalf("gone since %v with one left", gone)
		}
		began := time.Now()
		kill(t, v, 1)
		time.Sleep(time.Minute)
		if gone := v.Snapshot().Gone(); !gone.Equal(began) || !v.Snapshot().Hopeless() || v.Snapshot().Panicking() {
			t.Errorf("gone since %v, want %v, and no panic", gone, began)
		}
		// After a reload it is as old.
		after := p.Open(list, guarded())
		v.Close()
		if gone := after.Snapshot().Gone(); !gone.Equal(began) {
			t.Errorf("gone since %v after a reload, want %v", gone, began)
		}
		d := dials{up: true}
		defer after.Member(0).redials(d.dial, false)()
		time.Sleep(firstRedial)
		synctest.Wait()
		if gone := after.Snapshot().Gone(); !gone.IsZero() {
			t.Errorf("gone since %v with one back", gone)
		}
		again := time.Now()
		if kill(t, after, 0); !after.Snapshot().Gone().Equal(again) {
			t.Errorf("gone since %v, want %v: it is another outage", after.Snapshot().Gone(), again)
		}
		after.Close()
		for name, state := range map[string]State{"maintenance": Maintenance, "drained": Drained} {
			some := backends(2)
			some[0].State, some[1].State = state, state
			v := p.Open(some, guarded())
			if !v.Snapshot().Gone().IsZero() || !v.Snapshot().Hopeless() {
				t.Errorf("all in %s is called an outage", name)
			}
			v.Close()
		}
		if v := p.Open(nil, guarded()); !v.Snapshot().Gone().IsZero() {
			t.Error("no members at all are called an outage")
		}
	})
}

// When the first of a pool that was dead as a whole is back, the others are tried at once: it must not carry everything until their
// time has come.
func TestAllComeBackTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 10 // whose times do not happen to be the same
		v := newPool().Open(backends(n), guarded())
		defer v.Close()
		var all [n]dials
		for i := range all {
			defer v.Member(i).redials(all[i].dial, false)()
			kill(t, v, i)
		}
		time.Sleep(10 * time.Second)
		for i := range n - 1 {
			all[i].set(true)
		}
		for deadline := time.Now().Add(maxRedial); v.Snapshot().usable == 0 && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond)
		}
		time.Sleep(5 * time.Millisecond)
		synctest.Wait()
		eligible(t, v, 0, 1, 2, 3, 4, 5, 6, 7, 8)
	})
}

// Look redials all at once, and no more often than its interval.
func TestLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newPool().Open(backends(3), guarded())
		defer v.Close()
		var all [3]dials
		tries := func() (n int) {
			for i := range all {
				n += len(all[i].times())
			}
			return n
		}
		for i := range all {
			defer v.Member(i).redials(all[i].dial, false)()
			kill(t, v, i)
		}
		for before := 0; before != tries(); time.Sleep(firstRedial) { // until none is due soon
			before = tries()
		}
		before := tries()
		v.Look(time.Second, time.Now())
		v.Look(time.Second, time.Now())
		time.Sleep(10 * time.Millisecond)
		synctest.Wait()
		if n := tries() - before; n < 3 || n > 4 {
			t.Errorf("%d tries, want one each", n)
		}
	})
}

// A request that found no other member marks those dead that refused it, and no others.
func TestLose(t *testing.T) {
	v := newPool().Open(backends(3), guarded())
	defer v.Close()
	answer(t, v, 0, 1, refused)
	answer(t, v, 1, 1, bad)
	if !v.Snapshot().Others([]int{0, 1, 1}) || v.Snapshot().Others([]int{0, 1, 2}) {
		t.Error("others than those that were tried are counted wrongly")
	}
	v.Lose([]int{0, 1, 2}, time.Now())
	eligible(t, v, 1, 2)
	answer(t, v, 2, 1, refused)
	answer(t, v, 2, 1, good)
	v.Lose([]int{2}, time.Now())
	eligible(t, v, 1, 2)
}

// Dead members are out in dry run and without a breaker, too; max_ejected does not count them.
func TestDeadAreOutAnyway(t *testing.T) {
	dry, off := guarded(), guarded()
	dry.DryRun = true
	off.ConnectionsOnly = true
	for name, s := range map[string]Settings{"dry run": dry, "off": off} {
		v := newPool().Open(backends(3), s)
		answer(t, v, 0, 100, bad)
		eligible(t, v, 0, 1, 2)
		kill(t, v, 0, 1)
		if eligible(t, v, 2); v.Snapshot().ejected != 0 {
			t.Errorf("%s: %d ejected", name, v.Snapshot().ejected)
		}
		kill(t, v, 2)
		if _, err := v.Acquire(nil, true); !errors.Is(err, ErrNone) {
			t.Errorf("%s: all dead: %v", name, err)
		}
		v.Close()
	}
}

// What a check finds, and what connecting finds after that.
func TestRedialAndCheck(t *testing.T) {
	pass := healthcheck.Result{Code: 200}
	sick := healthcheck.Result{Code: 503, Err: errProbe}
	away := healthcheck.Result{Err: errProbe, Refused: true}
	for name, test := range map[string]struct {
		results []healthcheck.Result // before connecting
		dead    bool                 // after them
		usable  bool                 // once a connection could be made
	}{
		"worked, is away":               {[]healthcheck.Result{pass, away, away}, true, true},
		"worked, is away for long":      {[]healthcheck.Result{pass, away, away, away, away, away}, true, true},
		"away for less than it takes":   {[]healthcheck.Result{pass, away}, false, true},
		"worked, is sick":               {[]healthcheck.Result{pass, sick, sick}, false, false},
		"worked, is sick, then away":    {[]healthcheck.Result{pass, sick, sick, away}, true, false},
		"worked, is away, then sick":    {[]healthcheck.Result{pass, away, away, sick, away}, true, false},
		"never worked, is away":         {[]healthcheck.Result{away}, true, false},
		"is away, back for one check":   {[]healthcheck.Result{pass, away, away, pass}, false, true},
		"never worked, passes one of 2": {[]healthcheck.Result{away, pass}, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := guarded()
				s.Checked = true
				v := newPool().Open(backends(2), s)
				defer v.Close()
				passes(v, 1) // or else it would be a panic
				d := dials{up: true}
				defer v.Member(0).redials(d.dial, false)()
				for _, r := range test.results {
					r.Time = time.Now()
					Observer{Member: v.Member(0), Thresholds: healthcheck.Thresholds{Rise: 2, Fall: 2}}.Observe(r)
				}
				if got := v.Member(0).Vitals(); got.Dead != test.dead || got.Breaker != breaker.Closed {
					t.Errorf("before: %+v", got)
				}
				time.Sleep(firstRedial)
				synctest.Wait()
				if got := v.Member(0).Vitals(); got.Dead || got.Usable != test.usable {
					t.Errorf("after: %+v", got)
				}
			})
		})
	}
}

// A check of another address says whether a member is fit, and nothing about whether it can be connected to.
func TestCheckElsewhere(t *testing.T) {
	v := newPool().Open(backends(1), checkedOnly())
	defer v.Close()
	o := Observer{Member: v.Member(0), Thresholds: once, Elsewhere: true}
	o.Observe(healthcheck.Result{Time: time.Now(), Err: errProbe, Refused: true})
	if got := v.Member(0).Vitals(); got.Dead || got.Status != healthcheck.Down {
		t.Errorf("refused elsewhere: %+v", got)
	}
	eligible(t, v, 0)
	if !v.Snapshot().Panicking() {
		t.Error("it is used, and no panic")
	}
	kill(t, v, 0)
	o.Observe(healthcheck.Result{Time: time.Now()})
	if got := v.Member(0).Vitals(); !got.Dead || got.Status != healthcheck.Up {
		t.Errorf("passed elsewhere: %+v", got)
	}
	eligible(t, v)
}

func checkedOnly() Settings {
	s := guarded()
	s.Checked = true
	return s
}

// Once a dead member is no longer redialed, it is not known whether it is still dead: the next view uses it again.
func TestGivenUp(t *testing.T) {
	for _, tried := range []bool{false, true} {
		p := newPool()
		first := p.Open(backends(1), guarded())
		var d dials
		stop := first.Member(0).redials(d.dial, false)
		kill(t, first, 0)
		if tried {
			defer first.Member(0).redials(d.dial, true)()
		}
		stop()
		second := p.Open(backends(1), guarded())
		if alive := len(second.Snapshot().Eligible()) == 1; alive == tried {
			t.Errorf("tried: %v; alive: %v", tried, alive)
		}
		if !tried && (second.Member(0).Vitals().Dead || second.Member(0).Vitals().Breaker != breaker.Closed) {
			t.Error("it is reported dead")
		}
		second.Close()
		first.Close()
	}
}

// The dialer of a config that has ended is used only if there is no other.
func TestRedialOfEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newPool().Open(backends(1), guarded())
		defer v.Close()
		var ended, serving dials
		defer v.Member(0).redials(ended.dial, true)()
		stop := v.Member(0).redials(serving.dial, false)
		defer v.Member(0).redials(ended.dial, true)()
		kill(t, v, 0)
		time.Sleep(time.Second)
		if len(ended.times()) > 0 || len(serving.times()) == 0 {
			t.Errorf("tried %d times by the config that serves, %d by those that have ended", len(serving.times()), len(ended.times()))
		}
		stop()
		time.Sleep(3 * time.Second)
		if len(ended.times()) == 0 {
			t.Error("it is not tried any more")
		}
	})
}

// Another Look soon after does not delay members whose redial is not due yet.
func TestLookOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 600
		v := newPool().Open(backends(n), guarded())
		defer v.Close()
		var last dials
		for i := range n - 1 {
			defer v.Member(i).redials(new(dials).dial, false)()
		}
		defer v.Member(n-1).redials(last.dial, false)()
		for i := range n {
			kill(t, v, i)
		}
		time.Sleep(10 * time.Second) // until each is tried once a second
		before := len(last.times())
		for range 100 {
			v.Look(10*time.Millisecond, time.Now())
			time.Sleep(10 * time.Millisecond)
		}
		if got := len(last.times()) - before; got < 2 || got > 5 {
			t.Errorf("the last of %d is tried %d times in a second, want once for each look that %d connections allow", n, got, n)
		}
	})
}

// A view that is opened again shows what happened meanwhile.
func TestReopen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool()
		v, other := p.Open(backends(2), guarded()), p.Open(backends(2), guarded())
		defer other.Close()
		for i := range 2 {
			defer v.Member(i).redials(new(dials).dial, false)()
		}
		v.Close()
		kill(t, other, 0)
		eligible(t, v, 0, 1)
		v.Reopen()
		v.Reopen()
		eligible(t, v, 1)
		time.Sleep(time.Hour)
		kill(t, other, 1)
		if gone := v.Snapshot().Gone(); !gone.Equal(time.Now()) {
			t.Errorf("gone since %v, want now", gone)
		}
		v.Close()
		v.Close()
		if refs := v.Member(0).refs; refs != 1 {
			t.Errorf("%d views hold the member, want one", refs)
		}
	})
}

// What a member that has been given up is found to be from then on goes by what is found then.
func TestGivenUpIsNew(t *testing.T) {
	p := newPool()
	settings := guarded()
	settings.Checked, settings.Initial = true, StartUp
	first := p.Open(backends(2), settings)
	stop := first.Member(0).redials(new(dials).dial, false)
	o := Observer{Member: first.Member(0), Thresholds: once}
	o.Observe(healthcheck.Result{Time: time.Now()})
	o.Observe(healthcheck.Result{Time: time.Now(), Err: errProbe, Refused: true})
	stop()
	second := p.Open(backends(2), settings)
	defer second.Close()
	if status := second.Member(0).Vitals().Status; status != healthcheck.Unknown {
		t.Errorf("the state of its check is %v", status)
	}
	eligible(t, second, 0, 1)
	first.Close()

	stop = second.Member(0).redials(new(dials).dial, false)
	kill(t, second, 0)
	stop()
	third := p.Open(backends(2), settings)
	defer third.Close()
	answer(t, third, 0, deadAfter-1, refused)
	eligible(t, third, 0, 1)
	answer(t, third, 0, 1, refused)
	eligible(t, third, 1)
}

// A look is one more connection: it does not begin the back-off anew.
func TestLookOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newPool().Open(backends(1), guarded())
		defer v.Close()
		var d dials
		defer v.Member(0).redials(d.dial, false)()
		kill(t, v, 0)
		time.Sleep(10 * time.Second) // until it is tried once a second
		before := len(d.times())
		for len(d.times()) == before { // until none is due soon
			time.Sleep(time.Millisecond)
		}
		before = len(d.times())
		v.Look(time.Millisecond, time.Now())
		time.Sleep(maxRedial / 2)
		if n := len(d.times()) - before; n != 1 {
			t.Errorf("%d connections in half a second, want one", n)
		}
	})
}
