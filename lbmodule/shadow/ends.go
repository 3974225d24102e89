// Package shadow has the bookkeeping for a policy that decides without effect: when the requests that it decided on would end, and how long
// each member takes to answer. Callers pass in the time; the package starts no goroutines or timers, and its memory is bounded.
package shadow

import (
	"sync"
	"sync/atomic"
)

// Ends is a bounded set of items with the times at which they end. It has no timers: [Ends.Due] is called with each decision. Adding takes
// no lock and allocates nothing. It is safe for concurrent use.
type Ends[T any] struct {
	nodes []node[T]
	free  atomic.Uint64 // head of the list of free nodes; the upper half counts its changes
	added atomic.Uint32 // head of the list of added nodes that are not in the heap yet
	count atomic.Int64

	sorting sync.Mutex // guards heap
	heap    []uint32   // node numbers as a binary heap; the one that ends first is on top
}

// node is an item of the set. Nodes are numbered from 1; 0 stands for none.
type node[T any] struct {
	at   int64
	of   T
	next atomic.Uint32
}

// NewEnds returns a set with room for the given number of items.
func NewEnds[T any](most int) *Ends[T] {
	e := &Ends[T]{nodes: make([]node[T], most+1), heap: make([]uint32, 0, most)}
	for i := 1; i < most; i++ {
		e.nodes[i].next.Store(uint32(i) + 1)
	}
	e.free.Store(1)
	return e
}

// Len returns the number of items.
func (e *Ends[T]) Len() int { return int(e.count.Load()) }

// Add adds an item that ends at that time, and reports whether there was room.
func (e *Ends[T]) Add(of T, at int64) bool {
	n := e.take()
	if n == 0 {
		return false
	}
	e.count.Add(1)
	e.nodes[n].of, e.nodes[n].at = of, at
	// Bound: every iteration but the last means that another goroutine changed the list. This goroutine owns the node, and the list is only
	// taken as a whole, so if the head is unchanged, the list after it is as well.
	for {
		head := e.added.Load()
		e.nodes[n].next.Store(head)
		if e.added.CompareAndSwap(head, n) {
			return true
		}
	}
}

// take takes a free node, 0 if there is none. Bound: as in Add.
func (e *Ends[T]) take() uint32 {
	for {
		head := e.free.Load()
		n := uint32(head)
		if n == 0 {
			return 0
		}
		next := e.nodes[n].next.Load()
		// The count in the upper half distinguishes a head that was taken and given back meanwhile (ABA).
		if e.free.CompareAndSwap(head, (head>>32+1)<<32|uint64(next)) {
			return n
		}
	}
}

func (e *Ends[T]) give(n uint32) {
	var none T
	e.nodes[n].of = none
	e.count.Add(-1)
	for {
		head := e.free.Load()
		e.nodes[n].next.Store(uint32(head))
		if e.free.CompareAndSwap(head, (head>>32+1)<<32|uint64(n)) {
			return
		}
	}
}

// Due removes the items that have ended by now, in order, up to the given maximum, and calls ended for each. If another goroutine is doing
// that, it returns at once.
func (e *Ends[T]) Due(now int64, most int, ended func(T)) {
	if e.count.Load() == 0 || !e.sorting.TryLock() {
		return
	}
	e.due(now, most, ended)
}

// Settle is Due for all items that have ended. It waits if another goroutine is in Due.
func (e *Ends[T]) Settle(now int64, ended func(T)) {
	e.sorting.Lock()
	e.due(now, len(e.nodes), ended)
}

// due is called with e.sorting held, and unlocks it, because ended must not be called with a lock held that other goroutines wait for.
func (e *Ends[T]) due(now int64, most int, ended func(T)) {
	for n := e.added.Swap(0); n != 0; {
		next := e.nodes[n].next.Load()
		e.push(n)
		n = next
	}
	const batch = 32
	var done [batch]T
	for most > 0 {
		k := 0
		for k < min(batch, most) && len(e.heap) > 0 && e.nodes[e.heap[0]].at <= now {
			n := e.pop()
			done[k] = e.nodes[n].of
			e.give(n)
			k++
		}
		if k == 0 {
			break
		}
		most -= k
		e.sorting.Unlock()
		for _, of := range done[:k] {
			ended(of)
		}
		if most == 0 || !e.sorting.TryLock() {
			return
		}
	}
	e.sorting.Unlock()
}

func (e *Ends[T]) before(a, b uint32) bool { return e.nodes[a].at < e.nodes[b].at }

// push puts a node into the heap, which has room for all nodes.
func (e *Ends[T]) push(n uint32) {
	e.heap = append(e.heap, n)
	for at := len(e.heap) - 1; at > 0; {
		above := (at - 1) / 2
		if !e.before(e.heap[at], e.heap[above]) {
			return
		}
		e.heap[at], e.heap[above] = e.heap[above], e.heap[at]
		at = above
	}
}

// pop removes and returns the node that ends first. The heap must not be empty.
func (e *Ends[T]) pop() uint32 {
	first, last := e.heap[0], len(e.heap)-1
	e.heap[0] = e.heap[last]
	e.heap = e.heap[:last]
	for at := 0; ; {
		least := at
		for _, below := range [2]int{2*at + 1, 2*at + 2} {
			if below < last && e.before(e.heap[below], e.heap[least]) {
				least = below
			}
		}
		if least == at {
			return first
		}
		e.heap[at], e.heap[least] = e.heap[least], e.heap[at]
		at = least
	}
}
