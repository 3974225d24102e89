package balance

import (
	"cmp"
	"container/heap"
	"math"
	"math/rand/v2"
	"slices"
)

// simulation is an open loop of requests in virtual time over the real pickers and latencies. Seconds count from noon.
type simulation struct {
	weights []int
	rate    float64 // requests per second: a Poisson process,
	steady  bool    // or one after the other at equal distances
	seconds float64

	// serve is how many seconds member i works on a request that it begins at that time, and whether that ends in a failure. Infinity: it
	// never ends.
	serve func(i int, now float64, random *rand.Rand) (seconds float64, failed bool)

	workers  []int   // how many requests each member works on at a time; the others wait. nil: on all
	patience float64 // after which a client leaves; 0 for never
}

// served is a request and its result.
type served struct {
	due, took float64
	member    int
	failed    bool
}

// happening is the end of the work on a request, or a client's leaving.
type happening struct {
	at     float64
	call   *call
	leaves bool
}

type call struct {
	served
	over   bool
	ticket Ticket
}

type happenings []happening

func (h happenings) Len() int           { return len(h) }
func (h happenings) Less(a, b int) bool { return h[a].at < h[b].at }
func (h happenings) Swap(a, b int)      { h[a], h[b] = h[b], h[a] }
func (h *happenings) Push(x any)        { *h = append(*h, x.(happening)) }
func (h *happenings) Pop() any {
	last := len(*h) - 1
	x := (*h)[last]
	*h = (*h)[:last]
	return x
}

// run returns the requests that were served in time, or not, and the members as they are in the end.
func (s simulation) run(policy Policy, seed uint64) (all []served, members []Member) {
	random := rand.New(rand.NewPCG(seed, 14))
	members = weighted(s.weights...)
	for i := range members {
		members[i].Latency = new(Latency)
	}
	picker := policy.Build(members, nil, nil)
	working := make([]int, len(members))
	queues := make([][]*call, len(members))
	var events happenings
	begin := func(c *call, now float64) {
		i := c.member
		working[i]++
		seconds, failed := s.serve(i, now, random)
		c.failed = failed
		if !math.IsInf(seconds, 1) {
			heap.Push(&events, happening{at: now + seconds, call: c})
		}
	}
	end := func(c *call, now float64) {
		c.over = true
		c.took = now - c.due
		all = append(all, c.served)
		release(picker, members, c.member)
	}
	gap := func() float64 {
		if s.steady {
			return 1 / s.rate
		}
		return random.ExpFloat64() / s.rate
	}
	next := gap()
	for {
		if len(events) > 0 && events[0].at <= next {
			e := heap.Pop(&events).(happening)
			c, l := e.call, members[e.call.member].Latency
			if e.leaves {
				if !c.over {
					l.Told(c.ticket, false, at(e.at))
					l.Unanswered(seconds(e.at-c.due), at(e.at))
					c.failed = true
					end(c, e.at)
				}
				continue
			}
			if !c.over {
				l.Told(c.ticket, true, at(e.at))
				if took := seconds(e.at - c.due); c.failed {
					l.Failed(took, at(e.at))
				} else {
					l.Answered(took, at(e.at))
				}
				end(c, e.at)
			}
			if working[c.member]--; len(queues[c.member]) > 0 {
				q := queues[c.member]
				queues[c.member] = q[1:]
				begin(q[0], e.at)
			}
			continue
		}
		if next > s.seconds {
			return all, members
		}
		var i int
		if timed, ok := picker.(Timed); ok {
			i = timed.PickAt(at(next), nil)
		} else {
			i = picker.Pick(nil)
		}
		c := &call{served: served{due: next, member: i}, ticket: members[i].Latency.Asked(at(next))}
		if s.patience > 0 {
			heap.Push(&events, happening{next + s.patience, c, true})
		}
		if s.workers != nil && working[i] >= s.workers[i] {
			queues[i] = append(queues[i], c)
		} else {
			begin(c, next)
		}
		next += gap()
	}
}

// between returns the requests that were due in that time.
func between(all []served, from, to float64) (some []served) {
	for _, r := range all {
		if r.due >= from && r.due < to {
			some = append(some, r)
		}
	}
	return some
}

// shareOf returns the share of them that a member had.
func shareOf(some []served, i int) float64 {
	n := 0
	for _, r := range some {
		if r.member == i {
			n++
		}
	}
	return float64(n) / float64(max(len(some), 1))
}

// quantileOf is the latency that a share of q did not exceed, in seconds.
func quantileOf(some []served, q float64) float64 {
	if len(some) == 0 {
		return 0
	}
	some = slices.Clone(some)
	slices.SortFunc(some, func(a, b served) int { return cmp.Compare(a.took, b.took) })
	return some[min(int(q*float64(len(some))), len(some)-1)].took
}
