package balance

import (
	"slices"
	"testing"
)

// FuzzPickers reads a pool and operations from bytes: the policy, the number of members, a weight and a cap each,
// then picks, picks with a list of tried ones, releases and replacements of the picker.
func FuzzPickers(f *testing.F) {
	f.Add([]byte{0, 3, 1, 0, 1, 0, 1, 0, 0, 0, 0, 0})
	f.Add([]byte{1, 3, 5, 1, 3, 0, 2, 2, 0, 0, 0, 1, 2, 0, 3, 0})
	f.Add([]byte{2, 2, 0, 0, 255, 1, 0, 0, 2, 0, 1, 1})
	f.Add([]byte{3, 4, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 2, 0})
	f.Add([]byte{4, 2, 1, 1, 1, 1, 0, 0, 0, 2, 1, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		next := func() int {
			if len(data) == 0 {
				return 0
			}
			b := data[0]
			data = data[1:]
			return int(b)
		}
		policy := policies[next()%len(policies)]
		members := weighted(make([]int, next()%130)...)
		for i := range members {
			w := next()
			members[i].Weight = w * w // 0 to nearly MaxWeight
			members[i].Cap = next() % 4
		}
		p := policy.Build(members, nil, nil)
		var held []int
		for len(data) > 0 {
			var tried []int
			switch next() % 4 {
			case 1:
				for range next() % 8 {
					tried = append(tried, next()-1)
				}
			case 2:
				if len(held) > 0 {
					k := next() % len(held)
					release(p, members, held[k])
					held = slices.Delete(held, k, k+1)
				}
				continue
			case 3:
				index := identity(len(members))
				for range next() % 4 {
					if len(index) > 0 {
						index[next()%len(index)] = next() - 1
					}
				}
				p = policy.Build(members, p, index)
				continue
			}
			if i := pick(t, p, members, tried); i >= 0 {
				held = append(held, i)
			}
		}
	})
}

// FuzzScan reads lists of weights from bytes: the length, then the weights.
func FuzzScan(f *testing.F) {
	f.Add([]byte{3, 5, 3, 2, 3, 5, 0, 2, 1, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		s := new(Scan)
		for len(data) > 0 {
			n := min(int(data[0]), len(data)-1)
			weights := data[1 : n+1]
			data = data[n+1:]
			got := s.Pick(n, func(i int) int { return int(weights[i]) })
			can := slices.ContainsFunc(weights, func(w byte) bool { return w > 0 })
			if (got >= 0) != can || can && weights[got] == 0 {
				t.Fatalf("picked %d of %v", got, weights)
			}
		}
	})
}
