package balance

import "sync"

// Scan is smooth weighted round robin for callers that have no pickers and do not release slots, only a list that may
// differ in each call, as in a plain reverse_proxy. The zero value is ready to use. It is safe for concurrent use.
//
// It is nginx's algorithm (ngx_http_upstream_get_peer): every member's current value rises by its weight, then the
// member with the largest value is picked and its value falls by the sum of all weights. So while the weights are
// unchanged, each member gets exactly its weight over any run as long as their sum. Members without a weight, or beyond
// the end of a list that became shorter, keep their value, and the others keep their ratio. It costs O(n).
type Scan struct {
	mu sync.Mutex

	// current has the length of the longest list so far. The values always add up to 0, which bounds them. If the values
	// of members that leave were dropped, the others would drift, and new members, which start at 0, would starve.
	current []int
}

// onStack is the maximum length of a list for which Pick does not allocate.
const onStack = 64

// Pick returns one of the indexes from 0 to n-1 whose weight is above 0 now, -1 if there is none. weight is called
// once for each index, without a lock held.
func (s *Scan) Pick(n int, weight func(i int) int) int {
	var array [onStack]int
	weights := array[:0]
	if n > onStack {
		weights = make([]int, 0, n)
	}
	total := 0
	for i := range n {
		w := max(weight(i), 0)
		weights = append(weights, w)
		total += w
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	if grow := n - len(s.current); grow > 0 {
		s.current = append(s.current, make([]int, grow)...)
	}
	best := -1
	for i, w := range weights {
		if w == 0 {
			continue
		}
		s.current[i] += w
		if best < 0 || s.current[i] > s.current[best] {
			best = i
		}
	}
	if best >= 0 {
		s.current[best] -= total
	}
	return best
}
