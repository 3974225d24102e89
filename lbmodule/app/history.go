package app

import (
	"context"
	"fmt"
	"time"

	"github.com/ballastlb/ballast/lbmodule/history"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

// memory is the history of all pools. Like the pools, it outlives configs.
var memory = history.New(history.Most)

// remember samples the pools of a's config until ctx ends. While two configs run, only the later one does.
func (a *App) remember(ctx context.Context) {
	ticker := time.NewTicker(history.Step)
	defer ticker.Stop()
	for {
		if serving.Latest() == a {
			pools := []*pool.Pool{}
			for _, s := range a.Pools() {
				pools = append(pools, s.Pool())
			}
			sample(memory, pools, time.Now())
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// sample records the current counts in h. It holds no lock that requests need.
func sample(h *history.History, pools []*pool.Pool, now time.Time) {
	round := h.Begin(now)
	if round == nil {
		return
	}
	defer round.End()
	var sum pool.Sum
	members := make([][]*pool.Member, len(pools))
	for i, p := range pools {
		members[i] = sum.Look(p)
		answered := p.Answered()
		c := history.Counts{InFlight: sum.InFlight, Queue: int64(p.QueueLength()), Answered: &sum.Answered}
		copy(c.Counters[history.Code1xx:], answered.Classes[1:])
		c.Counters[history.Failures], c.Counters[history.Retries], c.Counters[history.Canceled] = sum.Failures, sum.Retried, answered.Canceled
		c.Counters[history.BytesIn], c.Counters[history.BytesOut] = sum.BytesIn, sum.BytesOut
		for _, n := range answered.Refused {
			c.Counters[history.Refused] += n
		}
		round.Pool(p.Name(), &c)
	}
	for i, p := range pools {
		for _, m := range members[i] {
			if m.Named() {
				sampleMember(round, p.Name(), m, &sum.Answered)
			}
		}
	}
}

// sampleMember records the counts of a member with counters of its own. It uses d as scratch space.
func sampleMember(round *history.Round, name string, m *pool.Member, d *pool.Distribution) {
	counts := m.Traffic().Counts()
	c := history.Counts{InFlight: m.InFlight()}
	copy(c.Counters[history.Code1xx:], counts.Answers[1:])
	c.Counters[history.Failures], c.Counters[history.Retries] = counts.Ended[pool.Failure], counts.Retried
	c.Counters[history.BytesIn], c.Counters[history.BytesOut] = counts.BytesIn, counts.BytesOut
	if m.Timed() {
		*d = pool.Distribution{}
		m.Traffic().AddAnswered(d)
		c.Answered = d
	}
	round.Backend(name, m.Address(), &c)
}

// Remembered returns the history of a pool.
func Remembered(name string, of history.Range) *history.Answer {
	a := memory.Pool(name, of)
	if a == nil {
		a = nothing(of, "pool")
	}
	a.Pool = name
	return a
}

// RememberedOf returns the history of the backend of a pool with this address; ok is false if neither the backend nor its history exists.
func RememberedOf(p *pool.Pool, name, address string, of history.Range) (a *history.Answer, ok bool) {
	a, m := memory.Backend(p.Name(), address, of), p.Member(address)
	ok = a != nil || m != nil
	switch {
	case a != nil:
	case m != nil && !m.Named():
		a = history.Nothing(of, "the backend has no counters of its own: it is one of more than a thousand, or its address depends on the request")
	default:
		a = nothing(of, "backend")
	}
	a.Pool, a.Backend = p.Name(), name
	return a, ok
}

// nothing returns the answer for a pool or backend without a history.
func nothing(of history.Range, what string) *history.Answer {
	if memory.Full() {
		return history.Nothing(of, fmt.Sprintf("no room for this %s: the history of others takes all of the %d MB", what, history.Most/1_000_000))
	}
	return history.Nothing(of, fmt.Sprintf("the %s has not been in use since the process started", what))
}
