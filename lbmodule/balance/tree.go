package balance

import "math/bits"

// never is the key of a member that cannot be picked.
const never = ^uint64(0)

// tree is a tournament over members 0 to n-1: each member has a key and each node the smallest key below it, with
// the sum of the weights of the members that have it. It is complete and flat: node 1 is the root, nodes 2i and
// 2i+1 (one cache line) the children of i, node n+i is member i. A change touches one path.
type tree struct {
	n     int
	nodes []node
}

// node is a node of a tree.
type node struct {
	key  uint64
	tied uint64 // sum of the weights of the members below whose key this is
}

// newTree returns a tree of n members, none of which can be picked.
func newTree(n int) tree {
	t := tree{n: n, nodes: make([]node, max(2*n, 2))} // there is a root even without members
	for i := range t.nodes {
		t.nodes[i].key = never
	}
	return t
}

// best returns the root: the smallest key and the sum of the weights tied at it. The key is never if no member can be
// picked.
func (t *tree) best() node { return t.nodes[1] }

// find returns the member that covers r among those tied at the smallest key, laid side by side by weight. r is
// less than best's tied. The loop's bound is the depth.
func (t *tree) find(r uint64) int {
	key := t.nodes[1].key
	i := 1
	for i < t.n {
		left := t.nodes[2*i]
		if left.key != key {
			left.tied = 0
		}
		// The direction is random, and a branch would often be mispredicted, so the borrow selects the child: 1 is left.
		rest, borrow := bits.Sub64(r, left.tied, 0)
		if borrow == 0 {
			r = rest
		}
		i = 2*i + 1 - int(borrow)
	}
	return i - t.n
}

// set gives member i, whose weight is w, another key. The loop's bound is the depth.
func (t *tree) set(i int, key, w uint64) {
	i += t.n
	up := node{key, w}
	t.nodes[i] = up
	for i > 1 {
		up = join(up, t.nodes[i^1])
		i >>= 1
		t.nodes[i] = up
	}
}

// setAll gives every member a key and a weight, in O(n).
func (t *tree) setAll(of func(i int) (key, w uint64)) {
	for i := range t.n {
		t.nodes[t.n+i].key, t.nodes[t.n+i].tied = of(i)
	}
	for i := t.n - 1; i > 0; i-- {
		t.nodes[i] = join(t.nodes[2*i], t.nodes[2*i+1])
	}
}

// join returns the parent of a and b; without branches, as above.
func join(a, b node) node {
	key := min(a.key, b.key)
	if a.key != key {
		a.tied = 0
	}
	if b.key != key {
		b.tied = 0
	}
	return node{key, a.tied + b.tied}
}
