package subset

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// pool returns n backends.
func pool(n int) []Backend {
	all := make([]Backend, n)
	for i := range all {
		all[i].Address = fmt.Sprintf("10.%d.%d.%d:8080", i>>16, i>>8&255, i&255)
	}
	return all
}

// members returns the addresses of the backends that are used.
func (r *Rule) members(backends []Backend, steps map[Group]int) map[string]Place {
	used := make(map[string]Place)
	for i, p := range r.Choose(backends, steps).Places {
		if p != Outside {
			used[backends[i].Address] = p
		}
	}
	return used
}

// changes returns how many members came and how many left.
func changes(before, after map[string]Place) (came, left int) {
	for address := range after {
		if _, was := before[address]; !was {
			came++
		}
	}
	for address := range before {
		if _, is := after[address]; !is {
			left++
		}
	}
	return came, left
}

// fleets calls f for fleets of all kinds: some at the edges, the others at random.
func fleets(t *testing.T, f func(t *testing.T, backends, peers, size int)) {
	seed := uint64(rand.Uint32())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	cases := [][3]int{{1, 1, 1}, {1, 9, 3}, {2, 1, 1}, {10, 3, 9}, {10, 3, 10}, {10, 100, 1}, {1000, 10, 100}, {999, 10, 100}, {50, 50, 1}, {7, 5, 4}}
	for range 200 {
		cases = append(cases, [3]int{1 + random.IntN(400), 1 + random.IntN(120), 1 + random.IntN(60)})
	}
	for _, c := range cases {
		f(t, c[0], c[1], c[2])
		if t.Failed() {
			t.Fatalf("%d backends, %d peers, subsets of %d", c[0], c[1], c[2])
		}
	}
}

// All balancers together use each backend equally often, and none uses more than it must.
func TestPeersCoverAll(t *testing.T) {
	fleets(t, func(t *testing.T, n, peers, size int) {
		backends := pool(n)
		cover, load := make(map[string]int), make(map[string]float64)
		smallest := n
		for peer := range peers {
			r := Rule{Size: size, Peers: peers, Peer: peer}
			used := r.members(backends, nil)
			smallest = min(smallest, len(used))
			for address := range used {
				cover[address]++
				load[address] += 1 / float64(len(used))
			}
			// A tenth of n/peers is what Cover rounds down; one more member is what whole numbers cost.
			least := min(size-n/(10*peers)-1, n)
			most := max(size, n/peers) + n/peers + 1
			if len(used) < max(least, 1) || len(used) > most {
				t.Errorf("peer %d uses %d, want from %d to %d", peer, len(used), least, most)
			}
		}
		want := (&Rule{Size: size, Peers: peers}).Cover(n)
		mean := float64(peers) / float64(n)
		for _, b := range backends {
			if cover[b.Address] != want {
				t.Errorf("%s is used by %d, want %d", b.Address, cover[b.Address], want)
			}
			// A window has one member more than another one at most, so that its members have that much less.
			if most := mean * (1 + 1/float64(smallest)); load[b.Address] > most+1e-9 {
				t.Errorf("%s has a load of %v, want at most %v; the mean is %v", b.Address, load[b.Address], most, mean)
			}
		}
	})
}

// The bound that is promised for the load holds from subsets of five on.
func TestPeersLoadIsEven(t *testing.T) {
	fleets(t, func(t *testing.T, n, peers, size int) {
		if size < 5 {
			return
		}
		if imbalance, _, _ := measure(n, peers, size, true); imbalance > 1.25 {
			t.Errorf("the largest load is %v times the mean", imbalance)
		}
	})
}

// A backend more or less changes two members at most, unless it changes how many balancers use each.
func TestPeersChurn(t *testing.T) {
	fleets(t, func(t *testing.T, n, peers, size int) {
		if n < 2 {
			return
		}
		backends := pool(n)
		for range 20 {
			r := Rule{Size: size, Peers: peers, Peer: rand.IntN(peers)}
			out := rand.IntN(n)
			without := append(append([]Backend{}, backends[:out]...), backends[out+1:]...)
			came, left := changes(r.members(backends, nil), r.members(without, nil))
			most := 2
			if r.Cover(n) != r.Cover(n-1) || size >= n-1 {
				most += (n/peers + 1) * max(r.Cover(n-1)-r.Cover(n), 1)
			}
			if came > most || left > most {
				t.Errorf("without one of them peer %d gains %d members and loses %d, want at most %d", r.Peer, came, left, most)
			}
		}
	})
}

// By rendezvous hashing a backend that is not used changes nothing when it goes, and one that is used is replaced by one other.
func TestRendezvousChurn(t *testing.T) {
	fleets(t, func(t *testing.T, n, _, size int) {
		backends := pool(n)
		r := Rule{Size: size, Identity: rand.Uint64()}
		before := r.members(backends, nil)
		if len(before) != min(size, n) {
			t.Errorf("%d members", len(before))
		}
		for i, b := range backends[:min(n, 50)] {
			without := append(append([]Backend{}, backends[:i]...), backends[i+1:]...)
			came, left := changes(before, r.members(without, nil))
			want := 0
			if _, used := before[b.Address]; used {
				want = 1
			}
			if left != want || came != min(want, n-len(before)) {
				t.Errorf("without %s there are %d new members, and %d have left", b.Address, came, left)
			}
		}
	})
}

// The order in which backends are listed does not matter.
func TestOrderDoesNotMatter(t *testing.T) {
	for _, r := range []Rule{{Size: 10, Peers: 7, Peer: 3}, {Size: 10, Identity: 5}} {
		backends := pool(100)
		before := r.members(backends, map[Group]int{0: 2})
		rand.Shuffle(len(backends), func(i, j int) { backends[i], backends[j] = backends[j], backends[i] })
		if came, left := changes(before, r.members(backends, map[Group]int{0: 2})); came+left > 0 || len(before) < 20 {
			t.Errorf("%+v: %d of %d members came by shuffling", r, came, len(before))
		}
	}
}

// Which backends are chosen is the same on all machines and in all versions: a fleet is updated one by one.
func TestChoiceIsForEver(t *testing.T) {
	for want, r := range map[string]Rule{
		"[10.0.0.4:8080 10.0.0.8:8080 10.0.0.11:8080]": {Size: 3, Peers: 4, Peer: 1},
		"[10.0.0.3:8080 10.0.0.9:8080 10.0.0.11:8080]": {Size: 3, Identity: 1},
	} {
		var used []string
		backends := pool(12)
		for i, p := range r.Choose(backends, nil).Places {
			if p == Own {
				used = append(used, backends[i].Address)
			}
		}
		if got := fmt.Sprint(used); got != want {
			t.Errorf("%+v: %s, want %s", r, got, want)
		}
	}
}

// One that takes no new requests stays, and another one stands in for it.
func TestIdleIsReplaced(t *testing.T) {
	for _, r := range []Rule{{Size: 10, Peers: 5, Peer: 4}, {Size: 10, Identity: 5}} {
		backends := pool(100)
		before := r.members(backends, nil)
		for i, b := range backends {
			backends[i].Idle = true
			came, left := changes(before, r.members(backends, nil))
			_, used := before[b.Address]
			if want := map[bool]int{true: 1}[used]; came != want || left != 0 {
				t.Errorf("%+v: %s idle: %d came and %d left", r, b.Address, came, left)
			}
			backends[i].Idle = false
		}
		// However many are idle, there are as many as before that are not, and no more idle ones than twice that.
		for i := range backends[:85] {
			backends[i].Idle = true
		}
		used := r.members(backends, nil)
		takers := 0
		for _, b := range backends {
			if _, is := used[b.Address]; is && !b.Idle {
				takers++
			}
		}
		if want := min(len(before), 15); takers != want || len(used)-takers > 2*len(before) {
			t.Errorf("%+v: of %d members %d take requests, want %d", r, len(used), takers, want)
		}
	}
}

// Each group has its own subset.
func TestGroups(t *testing.T) {
	backends := pool(90)
	for i := range backends {
		backends[i].Group = Group(i % 3)
	}
	r := Rule{Size: 4, Identity: 9}
	c := r.Choose(backends, map[Group]int{1: 1})
	count := make(map[Group]map[Place]int)
	for i, p := range c.Places {
		g := backends[i].Group
		if count[g] == nil {
			count[g] = make(map[Place]int)
		}
		count[g][p]++
	}
	for g := range Group(3) {
		if count[g][Own] != 4 || count[g][Further] != map[Group]int{1: 4}[g] || c.Windows[g] != 7 {
			t.Errorf("group %d: %v, %d windows", g, count[g], c.Windows[g])
		}
	}
}

// Going on step by step, a balancer uses all backends in the end, and each window once.
func TestStepsReachAll(t *testing.T) {
	for _, r := range []Rule{{Size: 10, Peers: 5, Peer: 4}, {Size: 10, Identity: 5}} {
		backends := pool(97)
		windows := r.Choose(backends, nil).Windows[0]
		times := make(map[string]int)
		for step := 1; step <= windows; step++ {
			for address, p := range r.members(backends, map[Group]int{0: step}) {
				if p == Further || step == 1 {
					times[address]++
				}
			}
		}
		if len(times) != 97 {
			t.Errorf("%+v: %d are reached", r, len(times))
		}
		for address, n := range times {
			if n != 1 {
				t.Errorf("%+v: %s is reached %d times", r, address, n)
			}
		}
		if came, left := changes(r.members(backends, map[Group]int{0: 1}), r.members(backends, map[Group]int{0: 1 + windows})); came+left > 0 {
			t.Errorf("%+v: after the last window the first one does not follow", r)
		}
	}
}

func BenchmarkChoose(b *testing.B) {
	backends := pool(10_000)
	for name, r := range map[string]Rule{"peers": {Size: 100, Peers: 100, Peer: 3}, "rendezvous": {Size: 100, Identity: 1}} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				r.Choose(backends, nil)
			}
		})
	}
}
