package pool

import (
	"slices"
	"strings"
	"time"
)

// Sum holds the counts of attempts on all members of a pool, including deleted ones, so that they never decrease.
type Sum struct {
	Failures uint64       // attempts that ended in Failure
	Retried  uint64       // attempts that were retried
	BytesIn  uint64       // bytes of request bodies
	BytesOut uint64       // bytes of answer bodies
	Answered Distribution // of the time until attempts were answered
	InFlight int64        // requests in flight now
}

// add adds the counts of t, with its histograms if timed, which means that t has its own.
func (s *Sum) add(t *Traffic, timed bool) {
	s.Failures += t.ended[Failure].Load()
	s.Retried += t.retried.Load()
	s.BytesIn += t.bytesIn.Load()
	s.BytesOut += t.bytesOut.Load()
	if timed {
		t.AddAnswered(&s.Answered)
	}
}

// AddAnswered adds the distribution of the time until attempts were answered to d.
func (t *Traffic) AddAnswered(d *Distribution) { t.phases[FirstByte].addTo(d) }

// addTo adds the counts of h to d. Unlike Distribution, it allocates nothing.
func (h *Histogram) addTo(d *Distribution) {
	d.Sum += time.Duration(h.sum.Load())
	for place, count := range h.counts.all {
		n := count.Load()
		d.Counts[place] += n
		d.Count += n
	}
}

// Look sets s to the counts of p, and returns the members that views hold, sorted by address. It does not block requests, because it reads
// the members without a lock.
func (s *Sum) Look(p *Pool) []*Member {
	p.mu.Lock()
	*s = p.left
	all, held := make([]*Member, 0, len(p.members)), make([]*Member, 0, len(p.members))
	for _, m := range p.members {
		if all = append(all, m); m.refs > 0 {
			held = append(held, m)
		}
	}
	p.mu.Unlock()
	s.add(p.others, true)
	for _, m := range all {
		s.InFlight += m.load.Load()
		if m.Named() {
			s.add(m.traffic, m.Timed())
		}
	}
	slices.SortFunc(held, func(a, b *Member) int { return strings.Compare(a.address, b.address) })
	return held
}

// bytes returns how many bytes of bodies p has sent to its members and received from them, including deleted members.
func (p *Pool) bytes() (in, out uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	in, out = p.left.BytesIn+p.others.bytesIn.Load(), p.left.BytesOut+p.others.bytesOut.Load()
	for _, m := range p.members {
		if m.Named() {
			in += m.traffic.bytesIn.Load()
			out += m.traffic.bytesOut.Load()
		}
	}
	return in, out
}

// BucketEnd returns the longest duration of the bucket at that place of a Distribution. The last bucket has no end.
func BucketEnd(place int) time.Duration { return bucketEnd(place) }

// PlaceUpTo returns the place of the bucket that ends with 2^exponent seconds.
func PlaceUpTo(exponent int) int { return exponent*perOctave - FirstBucket }

// Place returns the place of the bucket in which d is counted.
func Place(d time.Duration) int { return bucketOf(d) }
