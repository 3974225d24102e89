package pool

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ballastlb/ballast/healthcheck"
	"github.com/ballastlb/ballast/lbmodule/balance"
)

func newPool() *Pool {
	var r Registry
	return r.Acquire("test")
}

// checked are the settings of a view whose members are up until a check says otherwise.
func checked(policy balance.Policy) Settings {
	return Settings{Policy: policy, Checked: true, Initial: StartUp}
}

var errProbe = errors.New("connection refused")

// mark makes a check find the members dead for which down(i) holds, and the others healthy.
func mark(v *View, down func(i int) bool) {
	for i := range v.Len() {
		r := healthcheck.Result{Time: time.Now()}
		if down(i) {
			r.Err, r.Refused = errProbe, true
		}
		Observer{Member: v.Member(i), Thresholds: healthcheck.Thresholds{}}.Observe(r)
	}
}

func backends(n int) []Backend {
	list := make([]Backend, n)
	for i := range list {
		list[i] = Backend{Address: fmt.Sprintf("10.0.0.%d:80", i), Weight: 1}
	}
	return list
}

// take acquires and expects a lease.
func take(t *testing.T, v *View, tried ...int) Lease {
	t.Helper()
	l, err := v.Acquire(tried, true)
	if err != nil {
		t.Fatalf("Acquire(%v): %v", tried, err)
	}
	return l
}

// shares counts where n requests go that end at once.
func shares(t *testing.T, v *View, n int) []int {
	t.Helper()
	counts := make([]int, v.Len())
	for range n {
		l := take(t, v)
		counts[l.Index()]++
		finish(&l, Success)
	}
	return counts
}

// spread is how far the count of n draws that each hit with probability p may be from n*p: seven standard deviations, and ten more for
// what is rare, whose distribution has a longer tail. Chance alone goes beyond it less than once in 10^11 times.
func spread(n int, p float64) float64 { return 7*math.Sqrt(float64(n)*p*(1-p)) + 10 }

func TestSharesFollowWeights(t *testing.T) {
	list := backends(3)
	list[0].Weight, list[1].Weight, list[2].Weight = 5, 3, 2
	v := newPool().Open(list, checked(balance.Smooth{}))
	if got := shares(t, v, 100); !slices.Equal(got, []int{50, 30, 20}) {
		t.Errorf("shares = %v, want 50 30 20", got)
	}
	mark(v, func(i int) bool { return i == 1 })
	if got := shares(t, v, 70); !slices.Equal(got, []int{50, 0, 20}) {
		t.Errorf("shares without the second = %v, want 50 0 20", got)
	}
	mark(v, func(int) bool { return false })
	if got := shares(t, v, 100); !slices.Equal(got, []int{50, 30, 20}) {
		t.Errorf("shares with all again = %v, want 50 30 20", got)
	}
}

// TestFrequentMarksDoNotStarve flips a member at every tenth request: a rotation that restarted each time would
// favour the first members.
func TestFrequentMarksDoNotStarve(t *testing.T) {
	list := backends(4)
	for _, policy := range []balance.Policy{balance.RoundRobin{}, balance.Smooth{}} {
		v := newPool().Open(list, checked(policy))
		var got [4]int
		for turn := range 300 {
			mark(v, func(i int) bool { return i == 3 && turn%2 == 0 })
			for i, n := range shares(t, v, 10) {
				got[i] += n
			}
		}
		// Of 3000 requests the first three get 10/3 of every ten, or 10/4.
		for i, n := range got[:3] {
			if n < 850 || n > 900 {
				t.Errorf("%T: member %d got %d of 3000, want about 875 (all: %v)", policy, i, n, got)
			}
		}
	}
}

func TestEligibility(t *testing.T) {
	list := backends(4)
	list[2].Weight = 0
	list[3].Backup = 1
	v := newPool().Open(list, checked(balance.RoundRobin{}))
	steps := []struct {
		down     []int
		eligible []int
		err      error
	}{
		{nil, []int{0, 1}, nil},
		{[]int{0}, []int{1}, nil},
		{[]int{0, 1}, []int{3}, nil},
		{[]int{0, 1, 3}, nil, ErrNone},
		{[]int{1, 3}, []int{0}, nil},
		{nil, []int{0, 1}, nil},
	}
	for _, s := range steps {
		mark(v, func(i int) bool { return slices.Contains(s.down, i) })
		if got := v.Snapshot().Eligible(); !slices.Equal(got, s.eligible) {
			t.Errorf("down %v: eligible = %v, want %v", s.down, got, s.eligible)
		}
		l, err := v.Acquire(nil, true)
		if !errors.Is(err, s.err) {
			t.Errorf("down %v: Acquire: %v, want %v", s.down, err, s.err)
		}
		if err == nil && !slices.Contains(s.eligible, l.Index()) {
			t.Errorf("down %v: picked %d, want one of %v", s.down, l.Index(), s.eligible)
		}
		finish(&l, Success)
	}
	before := v.Snapshot()
	if mark(v, func(int) bool { return false }); v.Snapshot() != before {
		t.Error("there is another snapshot though nothing changed")
	}
}

func TestTried(t *testing.T) {
	list := backends(4)
	list[3].Backup = 1
	for _, policy := range []balance.Policy{balance.RoundRobin{}, balance.Smooth{}, balance.LeastConn{}, balance.Random{}, balance.First{}} {
		v := newPool().Open(list, checked(policy))
		for range 20 {
			var tried []int
			for range list {
				l := take(t, v, tried...)
				if slices.Contains(tried, l.Index()) {
					t.Fatalf("%T: picked %d again, tried %v", policy, l.Index(), tried)
				}
				tried = append(tried, l.Index())
				finish(&l, Failure)
			}
			if tried[3] != 3 {
				t.Errorf("%T: the backup came at %v, want it last", policy, tried)
			}
			l := take(t, v, tried...)
			if l.Index() == 3 {
				t.Errorf("%T: all tried: picked the backup, want a primary", policy)
			}
			finish(&l, Success)
		}
	}
}

func TestMaxRequests(t *testing.T) {
	list := backends(2)
	list[0].MaxRequests, list[1].MaxRequests = 2, 1
	for _, policy := range []balance.Policy{balance.RoundRobin{}, balance.Smooth{}, balance.LeastConn{}, balance.Random{}, balance.First{}} {
		v := newPool().Open(list, checked(policy))
		var held []Lease
		for range 3 {
			held = append(held, take(t, v))
		}
		if _, err := v.Acquire(nil, true); !errors.Is(err, ErrFull) {
			t.Errorf("%T: a fourth request: %v, want ErrFull", policy, err)
		}
		if _, ok := v.AcquireMember(0); ok {
			t.Errorf("%T: AcquireMember on a full member succeeded", policy)
		}
		i := held[1].Index()
		finish(&held[1], Success)
		l := take(t, v)
		if l.Index() != i {
			t.Errorf("%T: picked %d, want %d, which has a free slot", policy, l.Index(), i)
		}
	}
}

// TestFullIsNotUnusable: a backup is for a pool without primaries, not for a busy one.
func TestFullIsNotUnusable(t *testing.T) {
	list := backends(2)
	list[0].MaxRequests = 1
	list[1].Backup = 1
	v := newPool().Open(list, checked(balance.LeastConn{}))
	held := take(t, v)
	if _, err := v.Acquire(nil, true); !errors.Is(err, ErrFull) {
		t.Errorf("Acquire with a full primary: %v, want ErrFull", err)
	}
	finish(&held, Success)
}

// finish ends the request of l.
func finish(l *Lease, o Outcome) {
	l.Judge(Verdict{Outcome: o}, time.Now())
	l.Release()
}

func TestLease(t *testing.T) {
	p := newPool()
	v := p.Open(backends(1), checked(balance.LeastConn{}))
	m := p.Members()[0]

	l := take(t, v)
	if !l.Held() || l.member != m || m.InFlight() != 1 {
		t.Fatalf("held %v, member %v, in flight %d", l.Held(), l.member, m.InFlight())
	}
	finish(&l, Failure)
	finish(&l, Failure)
	l.Abandon()
	if got := m.Counts(); got != (Counts{Requests: 1, Failures: 1}) || l.Held() {
		t.Errorf("released more than once: %+v", got)
	}
	l = take(t, v)
	l.Abandon()
	if got := m.Counts(); got.Requests != 1 || got.InFlight != 0 {
		t.Errorf("abandoned: %+v", got)
	}
	// The outcome of a request from before a reset is not counted, but its slot is released.
	l = take(t, v)
	m.Reset(time.Now())
	finish(&l, Failure)
	if got := m.Counts(); got != (Counts{}) {
		t.Errorf("after a reset: %+v, want zeros", got)
	}
	var zero Lease
	finish(&zero, Success)
	zero.Abandon()
}

// TestReload: two configs see the same members; caps and loads count requests of both, and the state is
// there for as long as one of them is.
func TestReload(t *testing.T) {
	var r Registry
	p := r.Acquire("web")
	list := backends(2)
	list[0].MaxRequests = 2
	before := p.Open(list, checked(balance.LeastConn{}))
	old := take(t, before) // on either
	finish(&old, Failure)

	l0, _ := before.AcquireMember(0)
	if again := r.Acquire("web"); again != p {
		t.Fatal("the same name is another pool")
	}
	list = append(list, Backend{Address: "10.0.0.9:80", Weight: 1})
	after := p.Open(list[:1], checked(balance.LeastConn{}))
	l1 := take(t, after)
	if _, err := after.Acquire(nil, true); !errors.Is(err, ErrFull) {
		t.Errorf("the cap does not count requests of the other config: %v", err)
	}
	before.Close()
	r.Release(p)
	finish(&l0, Success) // a request of the old config ends
	l2 := take(t, after)
	finish(&l1, Success)
	finish(&l2, Success)
	if n := len(p.Members()); n != 1 {
		t.Errorf("%d members, want the one that the new config has", n)
	}
	after.Close()
	r.Release(p)
	if n := len(p.Members()); n != 0 {
		t.Errorf("%d members in a pool without views", n)
	}
	if r.Acquire("web") == p {
		t.Error("a released pool came back")
	}
}

// TestAddressWithRequestsComesBack: the cap of a backend that left while it was busy counts its requests when it
// is back.
func TestAddressWithRequestsComesBack(t *testing.T) {
	p := newPool()
	list := backends(1)
	list[0].MaxRequests = 1
	v := p.Open(list, checked(balance.RoundRobin{}))
	l := take(t, v)
	v.Close()
	v = p.Open(list, checked(balance.RoundRobin{}))
	if _, err := v.Acquire(nil, true); !errors.Is(err, ErrFull) {
		t.Errorf("Acquire: %v, want ErrFull", err)
	}
	finish(&l, Success)
	l = take(t, v)
	finish(&l, Success)
}

// TestConcurrent runs requests, marks and reloads concurrently. Caps hold at every moment, nothing stays in flight and no free member stays
// hidden.
func TestConcurrent(t *testing.T) {
	for _, policy := range []balance.Policy{balance.RoundRobin{}, balance.Smooth{}, balance.LeastConn{}, balance.Random{}, balance.First{}, nil} {
		t.Run(fmt.Sprintf("%T", policy), func(t *testing.T) {
			p := newPool()
			list := backends(5)
			for i := range list {
				list[i].MaxRequests = i + 1
			}
			views := []*View{p.Open(list, checked(policy)), p.Open(list[1:], checked(policy))}
			var wg sync.WaitGroup
			for g := range 8 {
				wg.Go(func() {
					rng := rand.New(rand.NewPCG(1, uint64(g)))
					for range 3000 {
						v := views[rng.IntN(2)]
						var l Lease
						if policy == nil {
							l, _ = v.AcquireMember(rng.IntN(v.Len()))
						} else {
							l, _ = v.Acquire(nil, true)
						}
						if m := l.member; m != nil {
							limit := int64(v.Backend(l.Index()).MaxRequests)
							if n := m.InFlight(); n > limit {
								t.Errorf("%s: %d in flight, cap %d", m.Address(), n, limit)
							}
						}
						finish(&l, Outcome(rng.IntN(3)))
					}
				})
			}
			wg.Go(func() {
				for turn := range 300 {
					mark(views[turn%2], func(i int) bool { return (i+turn)%3 == 0 })
				}
				for _, v := range views {
					mark(v, func(int) bool { return false })
				}
			})
			wg.Wait()
			for _, m := range p.Members() {
				if n := m.InFlight(); n != 0 {
					t.Errorf("%s: %d in flight at the end", m.Address(), n)
				}
			}
			if policy == nil {
				return
			}
			free := 0
			for {
				if _, err := views[0].Acquire(nil, true); err != nil {
					break
				}
				free++
			}
			if want := 1 + 2 + 3 + 4 + 5; free != want {
				t.Errorf("%d slots at the end, want %d", free, want)
			}
		})
	}
}

func TestNobody(t *testing.T) {
	v := newPool().Open(nil, checked(balance.LeastConn{}))
	if _, err := v.Acquire(nil, true); !errors.Is(err, ErrNone) {
		t.Errorf("Acquire on an empty pool: %v, want ErrNone", err)
	}
	v.Close()
	v.Close()
}

func BenchmarkAcquire(b *testing.B) {
	for _, n := range []int{3, 100, 10000} {
		for _, policy := range []balance.Policy{balance.RoundRobin{}, balance.Smooth{}, balance.LeastConn{}} {
			b.Run(fmt.Sprintf("%T/%d", policy, n), func(b *testing.B) {
				list := backends(n)
				for i := range list {
					list[i].Address = fmt.Sprint(i)
				}
				v := newPool().Open(list, checked(policy))
				b.ReportAllocs()
				for b.Loop() {
					l, _ := v.Acquire(nil, true)
					l.Release()
				}
			})
		}
	}
}
