package pool

import (
	"slices"
	"strings"
	"time"
)

// Sum is what has been counted of the attempts on all members of a pool, also of those that it has forgotten, so that it never falls.
type Sum struct {
	Failures uint64       // attempts that ended in Failure
	Retried  uint64       // attempts that were made again
	BytesIn  uint64       // of the bodies of requests
	BytesOut uint64       // of the bodies of answers
	Answered Distribution // of the time until attempts were answered
	InFlight int64        // requests in flight now
}

// add adds what t has counted, with its histograms if they are not those of others.
func (s *Sum) add(t *Traffic, timed bool) {
	s.Failures += t.ended[Failure].Load()
	s.Retried += t.retried.Load()
	s.BytesIn += t.bytesIn.Load()
	s.BytesOut += t.bytesOut.Load()
	if timed {
		t.AddAnswered(&s.Answered)
	}
}

// AddAnswered adds how long it took until attempts were answered.
func (t *Traffic) AddAnswered(d *Distribution) { t.phases[FirstByte].addTo(d) }

// addTo adds what h has counted. Unlike Distribution, it allocates nothing.
func (h *Histogram) addTo(d *Distribution) {
	d.Sum += time.Duration(h.sum.Load())
	for place, count := range h.counts.all {
		n := count.Load()
		d.Counts[place] += n
		d.Count += n
	}
}

// Look sets s to what has been counted in p, and returns the members that views hold, sorted by address. It stops no request: the members
// are read without a lock.
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

// bytes returns how many bytes of bodies p has sent to its members and received from them, also from those that it has forgotten.
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

// BucketEnd is the longest duration of the bucket at that place of a Distribution, but for the last, which has no end.
func BucketEnd(place int) time.Duration { return bucketEnd(place) }

// PlaceUpTo is the place of the bucket that ends with 2^exponent seconds.
func PlaceUpTo(exponent int) int { return exponent*perOctave - FirstBucket }

// Place is the place of the bucket that d is counted in.
func Place(d time.Duration) int { return bucketOf(d) }
