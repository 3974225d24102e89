package pool

import (
	"fmt"
	"math"
	"testing"

	"github.com/ballastlb/ballast/lbmodule/balance"
)

// zoned returns a member for each of these zones.
func zoned(names ...string) []Backend {
	list := backends(len(names))
	for i, name := range names {
		list[i].Zone = name
	}
	return list
}

// The preferred zone is given all requests while it can take them, and less in proportion when it cannot, by every policy.
func TestZones(t *testing.T) {
	const requests = 20_000
	six := zoned("here", "there", "here", "there", "here", "nowhere")
	for _, test := range []struct {
		down  []int
		local float64
	}{
		{nil, 1},
		{[]int{1, 3}, 1},             // others do not matter
		{[]int{0}, 1.4 * 2 / 3},      // two of three left
		{[]int{0, 2}, 1.4 / 3},       // one of three left
		{[]int{0, 2, 4}, 0},          // none left
		{[]int{0, 2, 1, 3, 5}, 1},    // no others left
		{[]int{0, 1, 2, 3}, 1.4 / 3}, // one of each
	} {
		for _, policy := range []balance.Policy{
			balance.RoundRobin{}, balance.Smooth{}, balance.LeastConn{}, balance.Random{}, balance.Choices{}, balance.PeakEWMA{}, balance.Hash{}, balance.First{},
		} {
			settings := checked(policy)
			settings.PreferZone = "here"
			v := newPool().Open(six, settings)
			mark(v, func(i int) bool {
				for _, k := range test.down {
					if i == k {
						return true
					}
				}
				return false
			})
			local := 0
			for i, n := range shares(t, v, requests) {
				if six[i].Zone == "here" {
					local += n
				}
			}
			room := 0.0 // all or none stay for certain
			if test.local > 0 && test.local < 1 {
				room = spread(requests, test.local)
			}
			if math.Abs(float64(local)-requests*test.local) > room {
				t.Errorf("%T, without %v: %d of %d stay, want a share of %.3f", policy, test.down, local, requests, test.local)
			}
			v.Close()
		}
	}
}

// A key is in one place, also where some have to leave the zone.
func TestZonesOfKeys(t *testing.T) {
	settings := checked(balance.Hash{})
	settings.PreferZone = "here"
	v := newPool().Open(zoned("here", "here", "there", "there"), settings)
	mark(v, func(i int) bool { return i == 0 })
	places := make(map[int]int)
	for k := range uint64(1000) {
		key := Key{Hash: balance.Mix(k), Known: true}
		first := -1
		for range 3 {
			l, err := v.AcquireFor(key, nil, true)
			if err != nil {
				t.Fatal(err)
			}
			if first >= 0 && l.Index() != first {
				t.Fatalf("key %d is at %d and %d", k, first, l.Index())
			}
			first = l.Index()
			l.Abandon()
		}
		places[first]++
	}
	if places[1] < 650 || places[1] > 750 || places[2] < 90 || places[3] < 90 {
		t.Errorf("keys at %v, want 70 %% in the zone", places)
	}
}

// Requests leave the zone when all its members are full, or when they have failed at all of them.
func TestZonesFullAndTried(t *testing.T) {
	list := zoned("here", "there")
	list[0].MaxRequests = 1
	settings := checked(balance.LeastConn{})
	settings.PreferZone = "here"
	v := newPool().Open(list, settings)
	first := take(t, v)
	second := take(t, v)
	if first.Index() != 0 || second.Index() != 1 {
		t.Errorf("requests at %d and %d", first.Index(), second.Index())
	}
	first.Release()
	third := take(t, v, 0)
	if third.Index() != 1 {
		t.Errorf("tried at the first, it goes to %d", third.Index())
	}
	second.Release()
	third.Release()
}

// A level is used if no member of a lower one is usable, and by requests that have failed at all of these.
func TestLevelsOfBackups(t *testing.T) {
	list := zoned("here", "there", "here", "there", "here")
	list[2].Backup, list[3].Backup, list[4].Backup = 1, 1, 3
	settings := checked(balance.RoundRobin{})
	settings.PreferZone = "here"
	v := newPool().Open(list, settings)
	for down, want := range []string{"[0]", "[1]", "[2]", "[3]", "[4]"} {
		mark(v, func(i int) bool { return i < down })
		used := []int{}
		for i, n := range shares(t, v, 100) {
			if n > 0 {
				used = append(used, i)
			}
		}
		if got := fmt.Sprint(used); got != want {
			t.Errorf("without the first %d: used are %s, want %s", down, got, want)
		}
	}
	mark(v, func(int) bool { return false })
	var tried []int
	for want := range list {
		l := take(t, v, tried...)
		if l.Index() != want {
			t.Errorf("tried at %v: goes to %d, want %d", tried, l.Index(), want)
		}
		tried = append(tried, l.Index())
		l.Release()
	}
}
