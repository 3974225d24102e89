package history

import (
	"math"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

// Field is a series of numbers.
type Field uint8

// Counters, which only increase. Those of codes are answers by class of status.
const (
	Code1xx Field = iota
	Code2xx
	Code3xx
	Code4xx
	Code5xx
	// Failures are attempts that failed.
	Failures
	// Retries are repeated attempts.
	Retries
	// Canceled are requests whose client closed the connection before the answer.
	Canceled
	// Refused are requests that were refused without the answer of a backend.
	Refused
	// BytesIn is the number of bytes of request bodies.
	BytesIn
	// BytesOut is the number of bytes of answer bodies.
	BytesOut
	// counters is the number of counters.
	counters
)

const (
	// InFlight is the number of requests in flight.
	InFlight Field = iota + counters
	// Queue is the number of requests that wait for a slot.
	Queue
	fields
)

var fieldNames = [fields]string{"1xx", "2xx", "3xx", "4xx", "5xx", "failures", "retries", "canceled", "refused", "bytes_in", "bytes_out", "in_flight", "queue"}

// String returns the name of the series.
func (f Field) String() string { return fieldNames[f] }

// poolFields and backendFields are the recorded fields of pools and of backends.
var (
	poolFields    = []Field{Code1xx, Code2xx, Code3xx, Code4xx, Code5xx, Failures, Retries, Canceled, Refused, BytesIn, BytesOut, InFlight, Queue}
	backendFields = []Field{Code1xx, Code2xx, Code3xx, Code4xx, Code5xx, Failures, Retries, BytesIn, BytesOut, InFlight}
)

// quantiles are the quantiles of the percentiles.
var quantiles = [...]float64{0.50, 0.95, 0.99}

// Counts has the current counts of a pool or a backend.
type Counts struct {
	Counters        [counters]uint64 // by Field
	InFlight, Queue int64
	Answered        *pool.Distribution // of the time to an answer; nil if it has no distribution of its own
}

const (
	// buckets is the number of buckets of durations: those of a Distribution, with the shortest ones merged.
	buckets = 192
	merged  = len(pool.Distribution{}.Counts) - buckets
	// noPlace stands for an unknown percentile.
	noPlace = math.MaxUint8
)

// tally counts durations by bucket.
type tally [buckets]uint32

// The memory of a pool and of a backend, in bytes: their numbers, the data for the next points, and their entries in maps. A test measures
// it.
const (
	poolBytes    = 33_500
	backendBytes = 14_000
)

// record is the history of a pool or a backend. Points after the last sample do not exist, whatever is stored in their place.
type record struct {
	fields []Field
	codes  []code  // by range, field and point
	places []uint8 // by range, quantile and point: the buckets of the percentiles
	heat   []code  // by range, point and bucket of heat; nil for a backend

	tick    uint64 // of the last sample
	round   uint64 // of the last sample
	last    [counters]uint64
	pending [ranges]period // nothing is ever pending for FiveMinutes
	tallies *[ranges]tally // of a pending period; that of FiveMinutes has the counts of the last sample
}

// period has the sums of a period that has not ended.
type period struct {
	seconds  float64 // time covered by the counters
	counts   [counters]uint64
	samples  int
	inFlight int64 // sum over all samples
	queue    int64 // maximum
}

func newRecord(of []Field, heat bool) record {
	r := record{
		fields: of, codes: make([]code, int(ranges)*len(of)*Points), places: make([]uint8, int(ranges)*len(quantiles)*Points), tallies: new([ranges]tally),
	}
	if heat {
		r.heat = make([]code, int(ranges)*Points*HeatBuckets)
	}
	for i := range r.codes {
		r.codes[i] = unknown
	}
	for i := range r.places {
		r.places[i] = noPlace
	}
	for i := range r.heat {
		r.heat[i] = unknown
	}
	return r
}

// put adds a sample.
func (r *record) put(round *Round, c *Counts) {
	// A pool that missed a sample may have started to count again from 0: its counts are only the base of the next sample.
	known := r.round != 0 && r.round+1 == round.round && round.took > 0
	for i, n := range c.Counters {
		known = known && n >= r.last[i]
	}
	r.moveTo(round.tick)
	now := period{samples: 1, inFlight: max(c.InFlight, 0), queue: max(c.Queue, 0)}
	if known {
		now.seconds = round.took
		for i, n := range c.Counters {
			now.counts[i] = n - r.last[i]
		}
	}
	var answered tally
	if c.Answered != nil {
		r.tallyNew(c.Answered, &answered, known)
	}
	r.last, r.tick, r.round = c.Counters, round.tick, round.round
	r.write(FiveMinutes, round.tick, &now, &answered)
	for _, coarse := range []Range{Hour, Day} {
		r.pending[coarse].add(&now)
		for i, n := range answered {
			r.tallies[coarse][i] += n
		}
	}
}

// tallyNew sets since to the counts since the last sample, if that is known, and stores the current counts. Numbers that overflow wrap
// around, which does not affect their differences.
func (r *record) tallyNew(d *pool.Distribution, since *tally, known bool) {
	var counted tally
	for place, n := range d.Counts {
		counted[max(place-merged, 0)] += uint32(n)
	}
	if known {
		for i := range counted {
			since[i] = counted[i] - r.tallies[FiveMinutes][i]
		}
	}
	r.tallies[FiveMinutes] = counted
}

func (p *period) add(more *period) {
	p.seconds += more.seconds
	p.samples += more.samples
	p.inFlight += more.inFlight
	p.queue = max(p.queue, more.queue)
	for i, n := range more.counts {
		p.counts[i] += n
	}
}

// moveTo ends the periods that are over at that tick, and clears the points since then.
func (r *record) moveTo(tick uint64) {
	if r.round == 0 {
		return
	}
	for of := range ranges {
		from, to := r.tick/per[of], tick/per[of]
		if of != FiveMinutes && from != to {
			r.write(of, from, &r.pending[of], &r.tallies[of])
			r.pending[of], r.tallies[of] = period{}, tally{}
		}
		for point := max(from+1, max(to, Points)-Points); point < to; point++ {
			r.clear(of, point)
		}
	}
}

// clear makes a point unknown.
func (r *record) clear(of Range, point uint64) {
	r.write(of, point, &period{}, &tally{})
}

// value returns a field of the period; NaN if it is unknown.
func (p *period) value(f Field) float64 {
	switch {
	case f < counters && p.seconds > 0:
		return float64(p.counts[f]) / p.seconds
	case f == InFlight && p.samples > 0:
		return float64(p.inFlight) / float64(p.samples)
	case f == Queue && p.samples > 0:
		return float64(p.queue)
	default:
		return math.NaN()
	}
}

// write stores a point.
func (r *record) write(of Range, point uint64, p *period, answered *tally) {
	at := int(point % Points)
	for i, f := range r.fields {
		r.codes[r.place(of, i, at)] = encode(p.value(f))
	}
	found := answered.quantiles()
	for i, place := range found {
		r.places[(int(of)*len(quantiles)+i)*Points+at] = place
	}
	if r.heat != nil {
		for i, n := range answered.heat() {
			r.heat[(int(of)*Points+at)*HeatBuckets+i] = encode(n / p.seconds) // unknown if nothing was counted
		}
	}
}

// place returns the index of a field's number.
func (r *record) place(of Range, field, at int) int {
	return (int(of)*len(r.fields)+field)*Points + at
}

// quantiles returns the buckets of the percentiles.
func (t *tally) quantiles() (found [len(quantiles)]uint8) {
	total := uint64(0)
	for _, n := range t {
		total += uint64(n)
	}
	for i, q := range quantiles {
		found[i] = noPlace
		left := uint64(q * float64(total))
		for place, n := range t {
			if uint64(n) > left {
				found[i] = uint8(place)
				break
			}
			left -= uint64(n)
		}
	}
	return found
}

// HeatBuckets is the number of buckets of the heat of a pool.
const HeatBuckets = 16

// firstHeat is the exponent of 2 of the first bucket's upper bound in seconds. The bound doubles with each bucket; the last has none.
const firstHeat = -11

// heatOf maps each bucket to its bucket of heat.
var heatOf = func() (of [buckets]uint8) {
	for i := range HeatBuckets - 1 {
		for place := pool.PlaceUpTo(firstHeat+i) - merged + 1; place < buckets; place++ {
			of[place] = uint8(i + 1)
		}
	}
	return of
}()

// heat returns the number in each bucket of heat.
func (t *tally) heat() (all [HeatBuckets]float64) {
	for place, n := range t {
		all[heatOf[place]] += float64(n)
	}
	return all
}
