//go:build trust && linux

package integration

import (
	"context"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/ballastlb/ballast/bench/openloop"
)

// Those that are on their way when a backend breaks, and those that it takes to notice it. A POST that was sent is not sent again.
const (
	onTheWay = 3
	toNotice = 15
)

// evenWithin is when shares are to be even after a recovery: a backend that is ramped up for ten seconds has four fifths of its share
// after seven, and it may be a second until it is tried.
const evenWithin = 8 * time.Second

// downFor is for how long all are down.
func downFor() time.Duration {
	if *soak {
		return 30 * time.Second
	}
	return 10 * time.Second
}

// faultScenarios are those of the table that need nothing but a load.
var faultScenarios = []faultScenario{
	{
		name: "one of three killed, back after 8 s", bar: "GET lost 0, POST in flight at most, p99 100 ms, even 8 s after it is back",
		happens: func(x *trial) {
			x.members[0].kill()
			x.pass(8 * time.Second)
			x.members[0].start()
			x.settle()
		},
		judge: func(x *trial) wants {
			w := x.within(0, onTheWay, 100*time.Millisecond)
			w.that(x.even >= 0 && x.even <= evenWithin, "shares are even after %v, want %v at most", x.even, evenWithin)
			return w
		},
	},
	{
		// One that has given it a third of all requests has them answered at the same moment, when it goes on.
		name: "one of three stopped (SIGSTOP) for 8 s, one proxy after the other", inTurn: true, bar: "lost 0, 3 held at most, p99 100 ms, even 8 s after it goes on",
		happens: func(x *trial) {
			x.members[0].signal(syscall.SIGSTOP)
			x.pass(8 * time.Second)
			x.members[0].signal(syscall.SIGCONT)
			x.settle()
		},
		judge: func(x *trial) wants {
			held := 0
			for _, r := range x.summary.Requests {
				if r.Backend == x.members[0].addr && r.Latency > time.Second && x.began.Add(r.Due).Before(x.back) {
					held++
				}
			}
			x.note("it held %d for more than a second, longest %s", held, short(x.summary.Quantile(1)))
			w := x.within(0, 0, 100*time.Millisecond)
			w.that(held <= 3, "it held %d requests for more than a second, want 3 at most", held)
			w.that(x.even >= 0 && x.even <= evenWithin, "shares are even after %v, want %v at most", x.even, evenWithin)
			return w
		},
	},
	answersWrongly("half an answer from one", "half", "lost at most until detection (15+15), p99 100 ms, no truncated answer passed as complete", toNotice, toNotice,
		func(x *trial, w *wants) {
			x.note("%d truncated answers passed as complete", x.summary.Backends["broken"])
			w.that(x.summary.Backends["broken"] == 0, "%d truncated answers passed as complete", x.summary.Backends["broken"])
		}),
	{
		name: "503 from one of three for 8 s", eager: true, bar: "GET failed 0, POST failed 15 at most, no POST twice, 3 probes at most after 2 s, even 15 s after it is good",
		happens: func(x *trial) {
			x.members[0].tell("503")
			x.pass(2 * time.Second)
			noticed := time.Now()
			x.pass(6 * time.Second)
			x.attempts = x.members[0].between(noticed, time.Now())
			x.note("it received %d in 8 s, %d after the first 2 s", x.members[0].between(x.fault, time.Now()), x.attempts)
			x.members[0].tell("ok")
			x.settle()
			x.note("its largest share then %.2f", x.largestShare(x.back, time.Now(), x.members[0]))
		},
		judge: func(x *trial) wants {
			w := x.within(0, toNotice, 100*time.Millisecond)
			w.that(x.attempts <= 3, "it received %d after the first 2 s, want 3 probes at most", x.attempts)
			// Its breaker may be open for 10 s at that time.
			w.that(x.even >= 0 && x.even <= evenWithin+7*time.Second, "shares are even after %v", x.even)
			return w
		},
	},
	{
		name: "503 from all for 5 s", bar: "1.2 attempts per request + 10/s",
		happens: func(x *trial) {
			for _, m := range x.members {
				m.tell("503")
			}
			x.pass(200 * time.Millisecond)
			begin := time.Now()
			x.pass(5 * time.Second)
			end := time.Now()
			for _, n := range copiesBetween(x.members, begin, end) {
				x.asked++
				x.attempts += n
			}
			for _, m := range x.members {
				m.tell("ok")
			}
			x.note("%.3f attempts per request", float64(x.attempts)/float64(max(x.asked, 1)))
			x.pass(2 * time.Second)
		},
		judge: func(x *trial) (w wants) {
			// What was saved in the ten seconds before may be spent, too.
			allowed := 1.2*float64(x.asked) + 10*(5+10)
			w.that(x.asked > 0 && float64(x.attempts) <= allowed, "%d attempts for %d requests, want %.0f at most", x.attempts, x.asked, allowed)
			return w
		},
	},
	answersWrongly("reset by one", "reset", "GET lost 0, POST at most until detection (15), no POST twice, p99 100 ms", 0, toNotice, nil),
	answersWrongly("garbage from one", "garbage", "GET lost 0, POST at most until detection (15), no POST twice, p99 100 ms", 0, toNotice, nil),
	answersWrongly("a length and chunks from one, and an unrequested answer", "both", "lost 0, no client gets that answer", 0, 0, func(x *trial, w *wants) {
		x.note("%d got the unrequested answer", x.summary.Backends["evil"])
		w.that(x.summary.Backends["evil"] == 0, "%d got the unrequested answer", x.summary.Backends["evil"])
	}),
	largeHeaderFrom(answersWrongly("14 MB of header from one, 20 requests/s", "header", "GET lost 0, POST at most until detection (15), no POST twice, longest 2 s", 0, toNotice, func(x *trial, w *wants) {
		x.note("longest %s", short(x.summary.Quantile(1)))
		w.that(x.summary.Quantile(1) <= 2*time.Second, "the longest request took %v", x.summary.Quantile(1))
	})),
	{
		name: "one accepts and never answers, 8 s", bar: "with try_timeout 500ms: GET lost 0, POST at most until detection, longest 1.5 s",
		settings: "retry {\n try_timeout 500ms\n }",
		happens: func(x *trial) {
			x.members[0].tell("hang")
			x.pass(8 * time.Second)
			x.members[0].tell("ok")
		},
		judge: func(x *trial) wants {
			x.note("longest %s", short(x.summary.Quantile(1)))
			w := x.within(0, toNotice, 600*time.Millisecond)
			w.that(x.summary.Quantile(1) <= 1500*time.Millisecond, "the longest request took %v, want 1.5 s at most", x.summary.Quantile(1))
			return w
		},
	},
	{
		name: "one answers 500 ms later, 8 s", bar: "lost 0, its share under 5 % after 5 s",
		happens: func(x *trial) {
			x.members[0].tell("slow")
			x.pass(5 * time.Second)
			begin := time.Now()
			x.pass(3 * time.Second)
			end := time.Now()
			x.share = float64(x.members[0].between(begin, end)) / float64(max(len(copiesBetween(x.members, begin, end)), 1))
			x.note("share %.1f %%", 100*x.share)
		},
		judge: func(x *trial) wants {
			w := x.within(0, 0, time.Second)
			w.that(x.share < 0.05, "the slow one has a share of %.1f %%", 100*x.share)
			return w
		},
	},
	{
		name: "one flaps: 2 s away, 2 s there, four times", bar: "GET lost 0, POST in flight at most, p99 100 ms",
		happens: func(x *trial) {
			for range 4 {
				x.members[0].tell("away 2s")
				x.pass(4 * time.Second)
			}
		},
		judge: func(x *trial) wants { return x.within(0, 4*onTheWay, 100*time.Millisecond) },
	},
	{
		name: "all close kept connections after each answer, 8 s", bar: "GET lost 0, POST 10 at most, no POST twice",
		happens: func(x *trial) {
			for _, m := range x.members {
				m.tell("closes")
			}
			x.pass(8 * time.Second)
		},
		judge: func(x *trial) wants { return x.within(0, 10, 100*time.Millisecond) },
	},
	goneFor("the only backend away for 300 ms", 1, 300*time.Millisecond),
	goneFor("the only backend away for 1 s", 1, time.Second),
	goneFor("all three away for 300 ms", 3, 300*time.Millisecond),
	goneFor("all three away for 1 s", 3, time.Second),
	{
		// One that tries again makes thousands of connections per second.
		name: "all three down for 10 s (30 s in a soak), one proxy after the other", inTurn: true, bar: "503 in 5 ms (p99) after 3 s, 2 dials/s each at most, all used within 2 s when back, none with more than its share + 20 %",
		happens: func(x *trial) {
			for _, m := range x.members {
				m.kill()
			}
			x.pass(3 * time.Second)
			begin := time.Now()
			ctx, stop := context.WithCancel(x.Context())
			n := dials(ctx, x.members)
			x.pass(downFor() - 3*time.Second)
			end := time.Now()
			stop()
			if n != nil {
				x.dials = int(n.Load())
				x.note("%.1f dials/s", float64(x.dials)/end.Sub(begin).Seconds())
			}
			x.refusing = [2]time.Time{begin, end}
			for _, m := range x.members {
				m.start()
			}
			x.back = time.Now()
			x.pass(8 * time.Second)
			x.largest = x.largestShare(x.back.Add(2*time.Second), time.Now(), x.members...)
			x.note("largest share then %.2f", x.largest)
		},
		judge: func(x *trial) wants {
			down := x.summary.Only(func(r openloop.Request) bool {
				at := x.began.Add(r.Due)
				return !at.Before(x.refusing[0]) && at.Add(r.Latency).Before(x.refusing[1])
			})
			x.note("statuses while down %v, p99 then %s", down.Statuses, short(down.Quantile(0.99)))
			var some wants
			some.that(down.Sent > 0 && down.Statuses[http.StatusServiceUnavailable] == down.Sent, "statuses %v of %d while down, want 503", down.Statuses, down.Sent)
			some.that(down.Quantile(0.99) <= 5*time.Millisecond+x.calm, "p99 while down is %v, want 5 ms more than the %v before at most", down.Quantile(0.99), x.calm)
			some.that(float64(x.dials) <= 2*3*(downFor()-3*time.Second).Seconds(), "%d dials in %v", x.dials, downFor()-3*time.Second)
			some.that(x.even >= 0 && x.even <= 2*time.Second, "shares are even after %v", x.even)
			some.that(x.largest <= 1.2+x.chance(), "the largest share is %.2f", x.largest)
			return some
		},
	},
	{
		name: "one of three killed, back after 2 s", bar: "GET lost 0, POST in flight at most, even 8 s after it is back, its share + 20 % at most",
		happens: func(x *trial) {
			x.members[0].kill()
			x.pass(2 * time.Second)
			x.members[0].start()
			x.settle()
			x.largest = x.largestShare(x.back, time.Now(), x.members[0])
			x.note("its largest share then %.2f", x.largest)
		},
		judge: func(x *trial) wants {
			w := x.within(0, onTheWay, 100*time.Millisecond)
			w.that(x.even >= 0 && x.even <= evenWithin, "shares are even after %v, want %v at most", x.even, evenWithin)
			w.that(x.largest <= 1.2+x.chance(), "its largest share is %.2f", x.largest)
			return w
		},
	},
}

// answersWrongly is a scenario in which one of three answers wrongly for 8 s.
func answersWrongly(name, mode, bar string, get, post int, more func(x *trial, w *wants)) faultScenario {
	return faultScenario{
		name: name, bar: bar, eager: true,
		happens: func(x *trial) {
			x.members[0].tell(mode)
			x.pass(8 * time.Second)
			x.note("it received %d", x.members[0].between(x.fault, time.Now()))
		},
		judge: func(x *trial) wants {
			w := x.within(get, post, 100*time.Millisecond)
			if more != nil {
				more(x, &w)
			}
			return w
		},
	}
}

// largeHeaderFrom is for a backend whose answers take a while to make and to read.
func largeHeaderFrom(s faultScenario) faultScenario {
	judge := s.judge
	s.rate = 20
	s.judge = func(x *trial) (w wants) {
		for _, wrong := range judge(x) {
			if !strings.HasPrefix(wrong, "p99") { // it is the longest that is judged
				w = append(w, wrong)
			}
		}
		return w
	}
	return s
}

// goneFor is a scenario in which all backends are gone for a while that ours waits for.
func goneFor(name string, members int, d time.Duration) faultScenario {
	return faultScenario{
		name: name, bar: "GET lost 0, POST in flight at most", members: members,
		happens: func(x *trial) {
			for _, m := range x.members {
				m.tell("away " + d.String())
			}
			x.pass(d)
			x.pass(2 * time.Second)
		},
		judge: func(x *trial) wants {
			failed := x.summary.Only(func(r openloop.Request) bool { return r.Backend == "" && r.Due > x.fault.Add(d).Sub(x.began) })
			x.note("%d of them sent when it was back", failed.Sent)
			return x.within(0, onTheWay*members, d+time.Second)
		},
	}
}
