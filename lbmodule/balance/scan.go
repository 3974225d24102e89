package balance

import "sync"

// Scan is smooth weighted round robin for callers that have neither pickers nor releases, only a list that may be
// another one at each call, as in a plain reverse_proxy. The zero value is ready to use. It is safe for
// concurrent use.
//
// It is nginx's algorithm (ngx_http_upstream_get_peer): everybody's current value rises by its weight, the one with
// the largest is picked and falls by the sum of all weights. So while the weights stay as they are, over any run as
// long as their sum each gets exactly its weight. Members without a weight, or behind the end of a list that became
// shorter, stand still with the value they have, and the others keep their ratio. It costs O(n).
type Scan struct {
	mu sync.Mutex

	// current has the length of the longest list so far. The values always add up to 0, which bounds them: values
	// forgotten with members that leave would make the others drift, and newcomers, who start at 0, starve.
	current []int
}

// onStack is the length of lists up to which a pick does not allocate.
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
