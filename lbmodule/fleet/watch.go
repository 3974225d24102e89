package fleet

import (
	"cmp"
	"slices"
	"time"
)

const (
	// shortest is the shortest time from one read of the storage to the next. In large fleets the time is perNode for each node, which
	// bounds how much all of them read per second.
	shortest = 5 * time.Second
	perNode  = 500 * time.Millisecond
	// beats is the largest number of reads from one write to the next.
	beats = 3
	// forgotten is the time after which the document of a node that is gone is removed.
	forgotten = time.Hour
	// mostNodes is the largest number of other nodes that are tracked.
	mostNodes = 255
)

// periodOf returns the time between two reads in a fleet of that size.
func periodOf(nodes int) time.Duration { return max(shortest, time.Duration(nodes)*perNode) }

// watched is another node as this one tracks it. Clocks of nodes differ, so only the local time at which its count was seen to change
// matters.
type watched struct {
	node  *Node
	first time.Time // when it was first seen
	moved time.Time // when its count was last seen to change; zero if it never was
}

// patience returns the time without news after which the node is gone: two of its beats, and three reads of ours.
func (w *watched) patience(period time.Duration) time.Duration {
	its := time.Duration(w.node.Period * float64(time.Second))
	return 2*beats*min(max(its, shortest), periodOf(mostNodes+1)) + 3*period
}

// silent returns the time without news of the node. For a node that was never seen to write, it relies on the node's clock.
func (w *watched) silent(now time.Time) time.Duration {
	if w.moved.IsZero() {
		return max(now.Sub(w.node.Written), now.Sub(w.first), 0)
	}
	return now.Sub(w.moved)
}

// gone reports whether the node has been silent for too long. A node whose clock is far off counts as gone until it is seen to write.
func (w *watched) gone(now time.Time, period time.Duration) bool {
	if w.moved.IsZero() && w.node.Written.Sub(now) > w.patience(period) {
		return true
	}
	return w.silent(now) >= w.patience(period)
}

// past reports whether the node's document must be removed.
func (w *watched) past(now time.Time, period time.Duration) bool {
	return w.silent(now) >= forgotten && now.Sub(w.first) >= w.patience(period)
}

// watch tracks the other nodes. It is not safe for concurrent use.
type watch struct {
	nodes map[string]*watched // by key in storage
}

// take records the documents that are in storage at a time, by key, and returns the keys of those to remove. kept has the keys of documents
// that could not be read.
func (w *watch) take(found map[string]*Node, kept map[string]bool, now time.Time, period time.Duration) (past []string) {
	next := make(map[string]*watched, len(found))
	for key, n := range found {
		have := w.nodes[key]
		switch {
		case have == nil:
			have = &watched{node: n, first: now}
		case have.node.Boot != n.Boot || have.node.Beat != n.Beat:
			have = &watched{node: n, first: have.first, moved: now}
		}
		if have.past(now, period) {
			past = append(past, key)
			continue
		}
		next[key] = have
	}
	for key := range kept {
		if have := w.nodes[key]; have != nil && next[key] == nil {
			next[key] = have
		}
	}
	w.nodes = next
	return past
}

// Seen is a node as this one sees it.
type Seen struct {
	*Node
	Label  string  `json:"label"`  // its name, with a part of its ID if other nodes have the same name
	This   bool    `json:"this"`   // it is the node that answers
	State  string  `json:"state"`  // alive or gone
	Silent float64 `json:"silent"` // seconds without news of it
}

// Alive is the state of a node that writes, Gone that of one that has stopped.
const (
	Alive = "alive"
	Gone  = "gone"
)

// list returns the nodes, this one first, the others sorted by label.
func (w *watch) list(self *Node, now time.Time, period time.Duration) (all []Seen) {
	if self != nil {
		all = append(all, Seen{Node: self, This: true, State: Alive})
	}
	for _, o := range w.nodes {
		s := Seen{Node: o.node, State: Alive, Silent: o.silent(now).Round(100 * time.Millisecond).Seconds()}
		if o.gone(now, period) {
			s.State = Gone
		}
		all = append(all, s)
	}
	named := make(map[string]int)
	for i := range all {
		named[all[i].Name]++
	}
	for i := range all {
		all[i].Label = cmp.Or(all[i].Name, all[i].ID)
		if named[all[i].Name] > 1 {
			all[i].Label += "~" + all[i].ID[max(0, len(all[i].ID)-idPart):]
		}
	}
	slices.SortFunc(all, func(a, b Seen) int {
		if a.This != b.This {
			if a.This {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(a.Label, b.Label), cmp.Compare(a.ID, b.ID))
	})
	return all
}

// idPart is the length of the end of an ID that distinguishes nodes with the same name.
const idPart = 6
