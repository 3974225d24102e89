package balance

// queue is a tournament over members 0 to n-1, as [tree] is. Its root holds the member with the earliest deadline, so
// that finding it needs no descent; of equal deadlines the lower index comes first. It has the layout of a [tree], and
// a change touches one path.
type queue struct {
	n     int
	nodes []entry
}

// entry is a member in a queue.
type entry struct {
	deadline uint64 // never: the member does not take part
	member   int
}

// newQueue returns a queue of n members, none of which takes part.
func newQueue(n int) queue {
	q := queue{n: n, nodes: make([]entry, max(2*n, 2))} // there is a root even without members
	q.nodes[1].deadline = never
	q.setAll(func(int) uint64 { return never })
	return q
}

// first returns the root.
func (q *queue) first() entry { return q.nodes[1] }

// deadline returns the deadline of member i.
func (q *queue) deadline(i int) uint64 { return q.nodes[q.n+i].deadline }

// set gives member i another deadline. The loop's bound is the depth.
func (q *queue) set(i int, deadline uint64) {
	up := entry{deadline, i}
	i += q.n
	q.nodes[i] = up
	for i > 1 {
		up = earlier(up, q.nodes[i^1])
		i >>= 1
		q.nodes[i] = up
	}
}

// setAll gives every member a deadline, in O(n).
func (q *queue) setAll(of func(i int) uint64) {
	for i := range q.n {
		q.nodes[q.n+i] = entry{of(i), i}
	}
	for i := q.n - 1; i > 0; i-- {
		q.nodes[i] = earlier(q.nodes[2*i], q.nodes[2*i+1])
	}
}

// earlier returns the parent of a and b.
func earlier(a, b entry) entry {
	if b.deadline < a.deadline || b.deadline == a.deadline && b.member < a.member {
		return b
	}
	return a
}
