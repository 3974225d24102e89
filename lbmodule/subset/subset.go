// Package subset decides which of a pool's backends one balancer of a fleet uses, so that not every balancer checks, and connects to, every
// backend.
//
// Balancers that know how many they are use a deterministic aperture, as in Twitter's Finagle: all put the backends into the same order,
// and balancer i of n uses a window that begins at i/n of it. Each backend is in the windows of equally many balancers. (The alternatives
// are compared by Ward, Wydrowski et al., "Reinventing Backend Subsetting at Google", ACM Queue 20(5), 2022.) Balancers that do not know
// that choose by rendezvous hashing of their identity, as in gRPC's proposal A68; the number of balancers that use a backend is then
// random.
package subset

import (
	"cmp"
	"slices"

	"github.com/cespare/xxhash/v2"

	"github.com/ballastlb/ballast/lbmodule/balance"
)

// Rule says which backends a balancer uses.
type Rule struct {
	Size     int    // the number of backends to use of each group; approximate with Peers
	Peers    int    // the number of balancers; 0 if it is not known
	Peer     int    // the number of this one, from 0
	Identity uint64 // of this balancer if Peers is 0; it differs from that of all others
}

// Group identifies backends that can replace each other, such as the primaries in the preferred zone. Each group has a subset of its own.
type Group uint8

// GroupOf returns the group of a backend: the primaries, and each level of backups, are divided into two groups, one of the preferred zone
// and one of the other zones.
func GroupOf(backup int, zone, preferred string) Group {
	g := Group(2 * backup)
	if preferred != "" && zone == preferred {
		g++
	}
	return g
}

// Backend is a backend of the pool.
type Backend struct {
	Address string
	Group   Group
	Idle    bool // takes no new requests, because of an administrator or its weight
}

// Place says whether a backend is used.
type Place uint8

const (
	// Outside is not used.
	Outside Place = iota
	// Own is in the subset.
	Own
	// Further is not in the subset, but used while no backend in it is usable.
	Further
)

// Choice is the result of [Rule.Choose].
type Choice struct {
	Places  []Place       // by position in the list of backends
	Windows map[Group]int // the number of windows into which the backends outside the subset are divided, by group
}

// Choose chooses among the backends, whose addresses must differ. Their order does not matter. steps says how far each group has gone beyond
// its subset: see [Reach].
//
// An idle backend keeps its place, because it may have open requests and sessions, and the next one in the order is used in addition. The
// order does not depend on which backends are idle, so nothing else changes.
func (r *Rule) Choose(backends []Backend, steps map[Group]int) Choice {
	c := Choice{Places: make([]Place, len(backends)), Windows: make(map[Group]int)}
	groups := make(map[Group][]entry)
	for i, b := range backends {
		groups[b.Group] = append(groups[b.Group], entry{hash: balance.Mix(xxhash.Sum64String(b.Address)), at: i})
	}
	for g, all := range groups {
		c.Windows[g] = r.choose(&c, all, backends, steps[g])
	}
	return c
}

// entry is a backend to be ordered by its hash.
type entry struct {
	hash uint64
	at   int // position in the list of backends
}

// choose places the backends of one group, and returns the number of windows outside the subset.
func (r *Rule) choose(c *Choice, all []entry, backends []Backend, step int) (windows int) {
	start, length := r.window(len(all))
	if r.Peers == 0 {
		r.shuffle(all)
	}
	order(all, backends)
	takers, spare := length, length
	rest := all[:0:0]
	for i := range all {
		e := all[(start+i)%len(all)]
		idle := backends[e.at].Idle
		switch {
		case i < length, !idle && takers > 0:
			c.Places[e.at] = Own
		case idle && takers > 0 && spare > 0:
			// It replaced an idle backend before it became idle itself, or will do so when it is no longer idle. Without the bound, a pool
			// that is mostly idle would be used as a whole.
			c.Places[e.at] = Own
			spare--
		case !idle:
			rest = append(rest, e)
		}
		if !idle && takers > 0 {
			takers--
		}
	}
	windows = ceil(len(rest), r.Size)
	if step == 0 || windows == 0 {
		return windows
	}
	if r.Peers > 0 {
		// Each balancer has its own order here, so that neighbours on the ring, whose windows overlap, do not move on to the same backends.
		r.shuffle(rest)
		order(rest, backends)
	}
	from := (step - 1) % windows * r.Size
	for _, e := range rest[from:min(from+r.Size, len(rest))] {
		c.Places[e.at] = Further
	}
	return windows
}

// shuffle makes the hashes of the entries depend on the balancer.
func (r *Rule) shuffle(all []entry) {
	identity := balance.Mix(r.Identity)
	if r.Peers > 0 {
		identity = balance.Mix(uint64(r.Peers)<<32 | uint64(r.Peer))
	}
	for i := range all {
		all[i].hash = balance.Mix(all[i].hash ^ identity)
	}
}

// order sorts by hash and, where these are equal, by address.
func order(all []entry, backends []Backend) {
	slices.SortFunc(all, func(a, b entry) int {
		if a.hash != b.hash {
			return cmp.Compare(a.hash, b.hash)
		}
		return cmp.Compare(backends[a.at].Address, backends[b.at].Address)
	})
}

// window returns the start and the length of the balancer's window in the order of n backends. The windows of all peers together cover each
// backend equally often.
func (r *Rule) window(n int) (start, length int) {
	if r.Size >= n {
		return 0, n
	}
	if r.Peers == 0 {
		return 0, r.Size
	}
	cover := r.Cover(n)
	if cover >= r.Peers {
		return 0, n
	}
	start = r.Peer * n / r.Peers
	return start, (r.Peer+cover)*n/r.Peers - start
}

// Cover returns the number of balancers that use each of n backends; 0 if it differs from backend to backend, without Peers.
//
// It is Size*Peers/n, rounded up if the fraction exceeds a tenth. When it increases by one, all windows grow by n/Peers. With plain
// rounding up, round numbers, such as 100 of 10,000 backends for each of 100 balancers, would be on that edge, and each backend more or
// less would make all windows grow or shrink.
func (r *Rule) Cover(n int) int {
	switch {
	case r.Peers == 0 || n == 0:
		return 0
	case r.Size >= n:
		return r.Peers
	}
	const tenths = 10
	cover := ceil(tenths*r.Size*r.Peers-n, tenths*n)
	// No window may be empty.
	return min(max(cover, ceil(r.Peers, n), 1), r.Peers)
}

// ceil returns a/b, rounded up if it is positive.
func ceil(a, b int) int { return (a + b - 1) / b }
