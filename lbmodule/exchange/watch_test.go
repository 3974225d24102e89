package exchange

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ballastlb/ballast/breaker"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

// TestInformational tries informational answers: after one of them no other backend is asked.
func TestInformational(t *testing.T) {
	var late func(int)
	keeps := func(then script) script {
		return func(r *http.Request) (*http.Response, error) {
			late = r.Context().Value(informKey{}).(func(int))
			return then(r)
		}
	}
	isLate := func(then script) script {
		return func(r *http.Request) (*http.Response, error) {
			late(102)
			return then(r)
		}
	}
	goes(t, map[string]*way{
		"before the answer": {
			a: []script{informs(ms, 103, informs(ms, 104, says(ms, 200)))}, seen: `103 of attempt 1, 104 of attempt 1, 200, "hello"`, took: 3 * ms,
			told: "a:1 after 0: 200 <nil>", countA: onceGood,
		},
		"before a failure": {
			a: []script{informs(ms, 103, resets(ms))}, seen: "103 of attempt 1, failed: connection reset", took: 2 * ms,
			told: "a:1 after 0: 0 connection reset", countA: onceFailed,
		},
		"before a bad answer": {
			a: []script{informs(ms, 103, says(ms, 503))}, seen: `103 of attempt 1, 503, "hello"`, took: 2 * ms,
			told: "a:1 after 0: 503 <nil>", countA: onceFailed,
		},
		"of the second attempt": {
			a: []script{resets(ms)}, b: []script{informs(ms, 103, says(ms, 200))}, seen: `103 of attempt 2, 200, "hello"`, took: 3 * ms,
			told: "a:1 after 0: 0 connection reset; b:1 after 1 for reset: 200 <nil>", countA: failedAgain,
		},
		"of the first attempt, too late": {
			a: []script{keeps(resets(ms))}, b: []script{isLate(informs(ms, 103, isLate(says(ms, 200))))},
			seen: `103 of attempt 2, 200, "hello"`, took: 3 * ms,
			told: "a:1 after 0: 0 connection reset; b:1 after 1 for reset: 200 <nil>", countA: failedAgain,
		},
		"of the first attempt, before the second fails": {
			rules: func(l *lab) { l.rules.Retry.Attempts = 3 },
			a:     []script{keeps(resets(ms)), says(ms, 200)}, b: []script{isLate(resets(ms))}, seen: `200, "hello"`, took: -1,
			told:   "a:1 after 0: 0 connection reset; b:1 after 1 for reset: 0 connection reset; a:1 after 2 for reset: 200 <nil>",
			countA: "0 ignored, 1 success, 1 failure, 1 again",
		},
	})
}

// TestAnswers tries how answers end, and what that says about the backend.
func TestAnswers(t *testing.T) {
	switches := with(saysBody(ms, http.StatusSwitchingProtocols, "", errBroken), func(*http.Response) {})
	goes(t, map[string]*way{
		"read to the end": {
			a: []script{streams(10*ms, 2, nil)}, seen: `200, "part.part."`, took: 30 * ms, told: "a:1 after 0: 200 <nil>", countA: onceGood,
		},
		"broken off": {
			a: []script{streams(10*ms, 2, errBroken)}, seen: `200, "part.part."`, took: 30 * ms,
			told: "a:1 after 0: 200 answer broke off", countA: onceFailed,
		},
		"broken off, and bad from the beginning": {
			a: []script{saysBody(ms, 500, "he", errBroken)}, seen: `500, "he"`, took: ms,
			told: "a:1 after 0: 500 answer broke off", countA: onceFailed,
		},
		"broken off by whoever ends the attempt": {
			a: []script{streams(10*ms, 2, context.Canceled)}, seen: `200, "part.part."`, took: 30 * ms,
			told: "a:1 after 0: 200 <nil>", countA: onceGood,
		},
		"broken off because of the client's body": {
			a: []script{func(r *http.Request) (*http.Response, error) {
				_, _ = io.ReadAll(r.Body)
				return newAnswer(200, "he", errBroken), nil
			}},
			front: front{body: newBody(0, errReset, "he")}, seen: `200, "he"`, told: "a:1 after 0: 200 <nil>", countA: onceGood,
		},
		"given up by the client": {
			a: []script{streams(10*ms, 9, nil)}, front: front{reads: reading{leaves: true, after: 10}}, seen: `200, "part.part."`, took: 20 * ms,
			told: "a:1 after 0: 200 <nil>", countA: onceGood,
		},
		"given up, and closed unread": {
			a: []script{says(ms, 200)}, front: front{reads: reading{leaves: true}}, seen: `200, ""`, took: ms,
			told: "a:1 after 0: 200 <nil>", countA: onceGood,
		},
		"a connection of its own": {
			a: []script{switches}, front: front{upgrade: true}, seen: `101, ""`, took: ms, told: "a:1 after 0: 101 <nil>", countA: onceGood,
		},
	})
}

// call makes a script's answer one to a gRPC call, with that status in its trailer; "" for none.
func call(s script, status string) script {
	return with(s, func(res *http.Response) {
		res.Header.Set("Content-Type", "application/grpc")
		if status != "" {
			res.Trailer = http.Header{"Grpc-Status": {status}}
		}
	})
}

func grpcClient(timeout string) *front {
	h := http.Header{"Content-Type": {"application/grpc+proto"}}
	if timeout != "" {
		h.Set("Grpc-Timeout", timeout)
	}
	return &front{header: h}
}

// TestCalls tries gRPC calls, which are judged by their own status.
func TestCalls(t *testing.T) {
	only := func(status string) script {
		return with(call(says(ms, 200), ""), func(res *http.Response) {
			res.Header.Set("Grpc-Status", status)
			res.Body = http.NoBody
		})
	}
	leaves := func(after int) *front {
		f := grpcClient("")
		f.reads = reading{leaves: true, after: after}
		return f
	}
	for name, test := range map[string]struct {
		a, b  []script
		front *front
		trail string
		calls map[int]uint64 // what was counted of the first backend, by the code of the status
	}{
		"well":                   {a: []script{call(streams(ms, 2, nil), "0")}, trail: "a:1 200 success ok", calls: map[int]uint64{0: 1}},
		"failed":                 {a: []script{call(streams(ms, 2, nil), "14")}, trail: "a:1 200 failure unavailable", calls: map[int]uint64{14: 1}},
		"without a status":       {a: []script{call(says(ms, 200), "")}, trail: "a:1 200 success other", calls: map[int]uint64{17: 1}},
		"broken off":             {a: []script{call(streams(ms, 2, errBroken), "0")}, trail: "a:1 200 failure answer broke off"},
		"overload":               {a: []script{call(says(ms, 200), "8")}, trail: "a:1 200 ignored resource_exhausted", calls: map[int]uint64{8: 1}},
		"left at once":           {a: []script{call(streams(ms, 2, nil), "14")}, front: leaves(0), trail: "a:1 200 ignored"},
		"left in the middle":     {a: []script{call(streams(ms, 2, nil), "14")}, front: leaves(5), trail: "a:1 200 success"},
		"late as the client has": {a: []script{call(says(49*ms, 200), "4")}, front: grpcClient("50m"), trail: "a:1 200 ignored deadline_exceeded", calls: map[int]uint64{4: 1}},
		"broken off then":        {a: []script{call(streams(49*ms, 1, errBroken), "0")}, front: grpcClient("50m"), trail: "a:1 200 ignored answer broke off"},
		"reset then":             {a: []script{resets(49 * ms)}, b: []script{only("0")}, front: grpcClient("50m"), trail: "a:1 0 ignored connection reset; b:1 200 success ok"},
		"no answer of gRPC":      {a: []script{says(ms, 200)}, trail: "a:1 200 success"},
		"made again, by its header": {
			a: []script{only("14")}, b: []script{call(says(ms, 200), "0")}, trail: "a:1 200 failure unavailable; b:1 200 success ok",
			calls: map[int]uint64{14: 1},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, 2)
				l.script("a:1", test.a...)
				l.script("b:1", test.b...)
				f := test.front
				if f == nil {
					f = grpcClient("")
				}
				o := l.run(t.Context(), f)
				if got := o.trail(); got != test.trail {
					t.Errorf("attempts: %s; want %s (the client sees %s)", got, test.trail, f.seen())
				}
				var want pool.TrafficCounts
				for code, n := range test.calls {
					want.Calls[code] = n
				}
				if got := l.pool.TrafficOf("a:1").Counts().Calls; got != want.Calls {
					t.Errorf("statuses counted of a:1: %v, want %v", got, want.Calls)
				}
				l.close()
			})
		})
	}
}

// TestStreamProbe probes a half-open backend with a call that lasts: it succeeds when data has arrived and a second has passed.
func TestStreamProbe(t *testing.T) {
	for name, test := range map[string]struct {
		stream script
		front  *front
		states map[time.Duration]breaker.State // of the backend's breaker, from when the stream begins
	}{
		"long": {
			stream: call(streams(400*ms, 5, nil), "0"), front: grpcClient(""),
			states: map[time.Duration]breaker.State{990 * ms: breaker.HalfOpen, 1010 * ms: breaker.Closed, 3 * time.Second: breaker.Closed},
		},
		"long before anything comes": {
			stream: call(streams(1500*ms, 2, nil), "0"), front: grpcClient(""),
			states: map[time.Duration]breaker.State{1490 * ms: breaker.HalfOpen, 1510 * ms: breaker.Closed, 9 * time.Second: breaker.Closed},
		},
		"long, and failed in the end": {
			stream: call(streams(400*ms, 5, nil), "14"), front: grpcClient(""),
			states: map[time.Duration]breaker.State{1010 * ms: breaker.Closed, 3 * time.Second: breaker.Closed}, // which is of another life
		},
		"short": {
			stream: call(streams(100*ms, 2, nil), "0"), front: grpcClient(""),
			states: map[time.Duration]breaker.State{290 * ms: breaker.HalfOpen, 310 * ms: breaker.Closed},
		},
		"short, and failed": {
			stream: call(streams(100*ms, 2, nil), "14"), front: grpcClient(""),
			states: map[time.Duration]breaker.State{290 * ms: breaker.HalfOpen, 310 * ms: breaker.Open},
		},
		"broken off": {
			stream: call(streams(100*ms, 2, errBroken), "0"), front: grpcClient(""),
			states: map[time.Duration]breaker.State{290 * ms: breaker.HalfOpen, 310 * ms: breaker.Open},
		},
		"of no call": {
			stream: streams(400*ms, 5, nil),
			states: map[time.Duration]breaker.State{10 * ms: breaker.Closed, 3 * time.Second: breaker.Closed},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, 2)
				l.settings.MaxEjected = 1
				l.settings.Breaker = breaker.Settings{ConsecutiveFailures: 1, Open: time.Second, MaxOpen: time.Second, Probes: 1, ProbeTimeout: time.Minute}
				l.script("a:1", resets(0), test.stream)
				l.script("b:1", says(0, 200))
				l.run(t.Context(), &front{unsafe: true})
				state := func() breaker.State { return l.pool.Member("a:1").Vitals().Breaker }
				if state() != breaker.Open {
					t.Fatalf("the breaker is %v", state())
				}
				time.Sleep(1300 * ms)
				for at, want := range test.states {
					time.AfterFunc(at, func() {
						if got := state(); got != want {
							t.Errorf("after %v the breaker is %v, want %v", at, got, want)
						}
					})
				}
				f := test.front
				if f == nil {
					f = new(front)
				}
				o := l.run(t.Context(), f)
				if o.x.Current().Address != "a:1" {
					t.Fatalf("the request was no probe: %s", o.trail())
				}
				time.Sleep(10 * time.Second)
				if l.pool.Member("a:1").Vitals().Breaker == breaker.HalfOpen {
					// Whatever became of the probe, its slot is free.
					o := l.run(t.Context(), &front{})
					if o.x.Current().Address != "a:1" {
						t.Errorf("the slot of the probe is taken: %s", o.trail())
					}
				}
				l.close()
			})
		})
	}
}

// TestStreamProbeStopped has the time of a probe be up just when it is stopped.
func TestStreamProbeStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, 1)
		lease, err := l.open().View().AcquireFor(pool.Key{}, nil, true)
		if err != nil {
			t.Fatal(err)
		}
		p := newStreamProbe(&lease, pool.Verdict{Outcome: pool.Failure})
		p.update(true, false)
		judged := p.stop()
		p.update(false, true)
		if n := l.pool.Member("a:1").Counts().Failures; judged || n != 0 {
			t.Errorf("judged %v, and %d times afterwards", judged, n)
		}
		lease.Release()
		l.close()
	})
}

// TestStreamProbeLeft has the client leave a call that is a probe, before and after it has gone well.
func TestStreamProbeLeft(t *testing.T) {
	for leave, want := range map[time.Duration]breaker.State{300 * ms: breaker.HalfOpen, 500 * ms: breaker.Closed, 1500 * ms: breaker.Closed} {
		t.Run(fmt.Sprint(leave), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, 2)
				l.settings.MaxEjected = 1
				l.settings.Breaker = breaker.Settings{ConsecutiveFailures: 1, Open: time.Second, MaxOpen: time.Second, Probes: 1, ProbeTimeout: time.Minute}
				l.script("a:1", resets(0), call(streams(400*ms, 50, nil), "0"))
				l.run(t.Context(), &front{unsafe: true})
				time.Sleep(1300 * ms)
				ctx, cancel := context.WithTimeout(t.Context(), leave)
				defer cancel()
				f := grpcClient("")
				o := l.run(ctx, f)
				if got := l.pool.Member("a:1").Vitals().Breaker; got != want || o.took != leave {
					t.Errorf("the breaker is %v after %v, want %v", got, o.took, want)
				}
				time.Sleep(2 * time.Second)
				l.close()
			})
		})
	}
}
