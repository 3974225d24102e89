package exchange

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ballastlb/ballast/lbmodule/balance"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

// shown is a trail with its times, in milliseconds.
func (o *outcome) shown(start time.Time) string {
	var all []string
	for i, a := range o.x.Trail() {
		text := fmt.Sprintf("%s %d+%d", a.Address, a.Start.Sub(start).Milliseconds(), a.Took.Milliseconds())
		if i > 0 {
			text += " " + a.Reason.String()
		}
		all = append(all, text)
	}
	return strings.Join(all, ", ")
}

// phases is how often, and how long in all, it took until headers came and until attempts had ended.
func (l *lab) phases(address string) string {
	traffic := l.pool.TrafficOf(address)
	first, total := traffic.Duration(pool.FirstByte), traffic.Duration(pool.Total)
	return fmt.Sprintf("%d header in %v, %d end in %v", first.Count, first.Sum, total.Count, total.Sum)
}

// TestTrail tries when attempts are reported to have begun and ended, and what is counted.
func TestTrail(t *testing.T) {
	for name, test := range map[string]struct {
		a, b    []script
		rules   func(*lab)
		wanted  func(pool.RetryReason, *http.Response) bool
		trail   string
		current string
		a1, b1  string // of their phases
		classes [pool.Classes]uint64
	}{
		"one": {
			a: []script{streams(10*ms, 2, nil)}, trail: "a:1 0+0", current: "a:1",
			a1: "1 header in 0s, 1 end in 30ms", b1: "0 header in 0s, 0 end in 0s", classes: [pool.Classes]uint64{2: 1},
		},
		"two": {
			a: []script{resets(5 * ms)}, b: []script{says(7*ms, 404)}, trail: "a:1 0+5, b:1 5+7 reset", current: "b:1",
			a1: "0 header in 0s, 1 end in 5ms", b1: "1 header in 7ms, 1 end in 7ms",
		},
		"a dropped answer": {
			a: []script{says(5*ms, 502)}, b: []script{says(7*ms, 200)}, trail: "a:1 0+5, b:1 5+7 status", current: "b:1",
			a1: "1 header in 5ms, 1 end in 5ms", b1: "1 header in 7ms, 1 end in 7ms", classes: [pool.Classes]uint64{5: 1},
		},
		"an answer dropped after a while": {
			a: []script{says(5*ms, 502)}, b: []script{says(7*ms, 200)}, trail: "a:1 0+5, b:1 105+7 status", current: "b:1",
			rules:  stockRules(time.Second, 100*ms),
			wanted: wantsStatus(502),
			a1:     "1 header in 5ms, 1 end in 5ms", b1: "1 header in 7ms, 1 end in 7ms", classes: [pool.Classes]uint64{5: 1},
		},
		"a copy that lost": {
			a: []script{says(50*ms, 200)}, b: []script{hangs()}, rules: func(l *lab) { l.hedges() }, trail: "a:1 0+50, b:1 10+39 hedge", current: "a:1",
			a1: "1 header in 50ms, 1 end in 50ms", classes: [pool.Classes]uint64{2: 1},
		},
		"a copy that won": {
			a: []script{hangs()}, b: []script{streams(20*ms, 1, nil)}, rules: func(l *lab) { l.hedges() }, trail: "a:1 0+10, b:1 10+0 hedge", current: "b:1",
			b1: "1 header in 0s, 1 end in 40ms",
		},
		"nobody": {
			rules: func(l *lab) { l.backends[0].Weight, l.backends[1].Weight = 0, 0 },
			a1:    "0 header in 0s, 0 end in 0s", b1: "0 header in 0s, 0 end in 0s",
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, 2)
				l.script("a:1", test.a...)
				l.script("b:1", test.b...)
				if test.rules != nil {
					test.rules(l)
				}
				start := time.Now()
				f := &front{wanted: test.wanted}
				o := l.run(t.Context(), f)
				if got := o.shown(start); got != test.trail {
					t.Errorf("attempts: %s; want %s", got, test.trail)
				}
				current := ""
				if a := o.x.Current(); a != nil {
					current = a.Address
				}
				if current != test.current {
					t.Errorf("the current attempt is at %q, want %q", current, test.current)
				}
				synctest.Wait()
				if got := l.phases("a:1"); test.a1 != "" && got != test.a1 {
					t.Errorf("a:1: %s; want %s", got, test.a1)
				}
				if got := l.phases("b:1"); test.b1 != "" && got != test.b1 {
					t.Errorf("b:1: %s; want %s", got, test.b1)
				}
				if got := l.pool.TrafficOf("a:1").Counts().Answers; got != test.classes {
					t.Errorf("answers of a:1 by class: %v, want %v", got, test.classes)
				}
				l.close()
			})
		})
	}
}

// TestLatency tries what one attempt records in the backend's latency.
func TestLatency(t *testing.T) {
	early := func(r *http.Request) (*http.Response, error) { return newAnswer(200, "", nil), pause(r, 40*ms) }
	events := func(r *http.Request) (*http.Response, error) {
		_ = pause(r, 40*ms)
		return header(streams(50*ms, 2, nil), "Content-Type", "text/event-stream")(r)
	}
	untilLastByte := func(l *lab) { l.rules.UntilLastByte = true }
	for name, test := range map[string]struct {
		script script
		front  *front
		rules  func(*lab)
		takes  time.Duration // 0 if that is not known
	}{
		"until the header":        {says(40*ms, 200), &front{}, nil, 40 * ms},
		"of a stream":             {streams(100*ms, 2, nil), &front{}, nil, 0},
		"from the last byte on":   {says(40*ms, 200), &front{body: newBody(100*ms, nil, "he", "llo")}, nil, 140 * ms}, // 100 to see that it is the last
		"before the last byte":    {early, &front{body: newBody(0, nil, "hello")}, nil, 0},
		"until the last byte":     {streams(50*ms, 2, nil), &front{}, untilLastByte, 150 * ms},
		"and the upload was slow": {streams(50*ms, 2, nil), &front{body: newBody(100*ms, nil, "he", "llo")}, untilLastByte, 250 * ms},
		"but for events":          {events, &front{}, untilLastByte, 40 * ms},
		"and the client left":     {streams(50*ms, 2, nil), &front{reads: reading{leaves: true, after: 5}}, untilLastByte, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, 1)
				l.script("a:1", test.script)
				if test.rules != nil {
					test.rules(l)
				}
				l.run(t.Context(), test.front)
				if got := l.pool.Member("a:1").Latency().Estimate(); (got - test.takes).Abs() > test.takes/10 {
					t.Errorf("answers take %v, want %v", got, test.takes)
				}
				l.close()
			})
		})
	}
}

// TestNoSpan has an observer that returns nil spans: End is not called.
func TestNoSpan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 2)
		l.hedges()
		l.blind = true
		l.script("a:1", says(50*ms, 200))
		l.script("b:1", crashes(ms), hangs(), says(ms, 200))
		for range 2 {
			l.run(t.Context(), &front{})
		}
		l.script("a:1", hangs())
		l.run(t.Context(), &front{})
		time.Sleep(time.Second)
		if len(l.spans) > 0 || len(l.panics) != 1 || l.pool.HedgesWon() != 1 {
			t.Errorf("%d spans, %d panics, %d copies have won", len(l.spans), len(l.panics), l.pool.HedgesWon())
		}
		l.close()
	})
}

// TestWaitedFor has a backend hang: it is avoided for the requests that wait for it, once they have been sent.
func TestWaitedFor(t *testing.T) {
	for name, test := range map[string]struct {
		front func() *front
		want  balance.Cause
	}{
		"without a body":             {func() *front { return &front{} }, balance.Silent},
		"with a body":                {func() *front { return &front{body: newBody(ms, nil, "hello")} }, balance.Silent},
		"with a body that is slow":   {func() *front { return &front{body: newBody(20*time.Second, nil, "hello")} }, balance.NotAvoided},
		"with a body that was small": {func() *front { return &front{body: newBody(0, nil, "h")} }, balance.Silent},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, 2)
				l.settings.Policy = balance.PeakEWMA{}
				l.script("a:1", says(5*ms, 200))
				l.script("b:1", says(5*ms, 200))
				for range 20 {
					l.run(t.Context(), &front{})
				}
				l.script("a:1", hangs())
				ctx, cancel := context.WithCancel(t.Context())
				var all sync.WaitGroup
				for range 20 {
					all.Go(func() { l.run(ctx, test.front()) })
				}
				time.Sleep(10 * time.Second)
				cause := balance.NotAvoided
				if avoided := l.current().View().Snapshot().Avoided(time.Now()); avoided != nil {
					cause = avoided[0].Cause
				}
				if cause != test.want {
					t.Errorf("the backend is avoided for %v, want %v", cause, test.want)
				}
				cancel()
				all.Wait()
				time.Sleep(time.Minute) // for what the slow ones still read
				l.close()
			})
		})
	}
}

// TestNobodyIsWaitedFor makes attempts of all kinds on backends that are avoided while requests wait for them without an answer. When all
// attempts have ended, no request counts as waiting.
func TestNobodyIsWaitedFor(t *testing.T) {
	many := func(s script) []script { return []script{s} }
	for name, test := range map[string]struct {
		a, b  []script
		front func() *front
		leave time.Duration
		rules func(l *lab)
	}{
		"answered":           {a: many(says(5*ms, 200)), b: many(says(5*ms, 200))},
		"failed":             {a: many(resets(5 * ms)), b: many(says(5*ms, 200))},
		"out of time":        {a: many(hangs()), b: many(says(5*ms, 200)), rules: timeout(50 * ms)},
		"left":               {a: many(hangs()), b: many(hangs()), leave: 50 * ms},
		"crashed":            {a: many(crashes(5 * ms)), b: many(crashes(5 * ms))},
		"copied":             {a: many(says(50*ms, 200)), b: many(says(5*ms, 200)), rules: func(l *lab) { l.hedges() }},
		"with a body":        {a: many(resets(5 * ms)), b: many(says(5*ms, 200)), front: func() *front { return &front{body: newBody(ms, nil, "he", "llo")} }},
		"with half a body":   {a: many(fails(5*ms, 2, errReset)), b: many(says(5*ms, 200)), front: func() *front { return &front{body: newBody(ms, nil, "he", "llo")} }},
		"crashed after that": {a: many(crashesAfter(5)), b: many(crashesAfter(5)), front: func() *front { return &front{body: newBody(ms, nil, "he", "llo")} }},
		"refused":            {a: many(refuses(5 * ms)), b: many(says(5*ms, 200))},
		"body read too late": {
			a: many(readsLate(ms)), b: many(readsLate(ms)), rules: stockRules(200*ms, 90*ms),
			front: func() *front {
				return &front{body: newBody(0, nil, "hello"), wanted: func(pool.RetryReason, *http.Response) bool { return true }}
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, 3) // and one that is never waited for, so that the others can be avoided
				l.settings.Policy = balance.PeakEWMA{}
				if test.rules != nil {
					test.rules(l)
				}
				l.script("a:1", says(5*ms, 200))
				l.script("b:1", says(5*ms, 200))
				l.script("c:1", says(5*ms, 200))
				for range 20 {
					l.run(t.Context(), &front{})
				}
				l.script("a:1", test.a...)
				l.script("b:1", test.b...)
				for range 20 {
					f := &front{}
					if test.front != nil {
						f = test.front()
					}
					ctx, cancel := t.Context(), func() {}
					if test.leave > 0 {
						ctx, cancel = contextFor(ctx, test.leave)
					}
					l.run(ctx, f)
					cancel()
				}
				time.Sleep(10 * time.Second)
				for i, a := range l.current().View().Snapshot().Avoided(time.Now()) {
					if a.Cause == balance.Silent {
						t.Errorf("backend %d is avoided because requests wait for it, of which there are none: %+v", i, a)
					}
				}
				l.close()
			})
		})
	}
}

// TestSilence tries how an attempt ends on a backend for which others wait in vain: what ended because nothing came is no sign of life.
func TestSilence(t *testing.T) {
	for _, test := range []struct {
		err    error
		silent bool
	}{{os.ErrDeadlineExceeded, true}, {ErrTryTimeout, true}, {context.Canceled, true}, {ErrCopyWon, true}, {errReset, false}, {nil, false}} {
		t.Run(fmt.Sprint(test.err), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, 2)
				ends := l.hang(3)
				x := &Exchange{plan: &l.plan, ticket: ends[2]}
				x.endTicket(test.err, time.Now())
				if got := l.avoids("a:1"); got != test.silent {
					t.Errorf("avoided %v, want %v", got, test.silent)
				}
				l.close()
			})
		})
	}
}

// TestSilenceOfOvertaken has a backend hang that others wait for, and the copy of a request be answered in its place: it has said nothing.
func TestSilenceOfOvertaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 2)
		l.hang(2)
		l.hedges()
		l.script("a:1", hangs())
		l.script("b:1", saysBody(ms, 200, "", nil))
		f := &front{}
		if l.run(t.Context(), f); f.seen() != `overtaken by b:1, 200, ""` {
			t.Fatalf("the client sees %s", f.seen())
		}
		if !l.avoids("a:1") {
			t.Error("a backend that hangs is taken for one that has answered")
		}
		l.close()
	})
}

// hang makes all backends answer for a while, and n requests wait for a:1 for a second. It returns the tickets of those.
func (l *lab) hang(n int) (all []pool.Ticket) {
	view := l.open().View()
	for i := range view.Len() {
		for range 100 {
			view.Member(i).Latency().Answered(10*ms, time.Now())
		}
	}
	for range n {
		lease, _ := view.AcquireMember(0)
		ticket := lease.Ticket()
		lease.Release()
		ticket.Ask(time.Now())
		all = append(all, ticket)
	}
	time.Sleep(time.Second)
	return all
}

// avoids reports whether a policy that uses latencies sends no request to the backend, whatever the load of the others is.
func (l *lab) avoids(address string) bool {
	view := l.current().View()
	members := make([]balance.Member, view.Len())
	for i := range members {
		members[i] = balance.Member{Weight: 1, Load: new(atomic.Int64), Latency: view.Member(i).Latency()}
	}
	p, picked := balance.PeakEWMA{}.Build(members, nil, []int{-1, -1}), 0
	for range 100 {
		i := p.Pick(nil)
		if view.Backend(i).Address == address {
			picked++
		}
		members[i].Load.Add(-1)
	}
	return picked == 0
}
