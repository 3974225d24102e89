package history

import (
	"bytes"
	"encoding/json"
	"math"
	"strconv"
	"time"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

// Number is a number with four significant digits; null in JSON if it is unknown.
type Number float64

// MarshalJSON implements [json.Marshaler].
func (n Number) MarshalJSON() ([]byte, error) { return n.append(nil, "null"), nil }

// append appends the number, or the given text if it is unknown.
func (n Number) append(to []byte, unknown string) []byte {
	if math.IsNaN(float64(n)) || math.IsInf(float64(n), 0) {
		return append(to, unknown...)
	}
	return strconv.AppendFloat(to, float64(n), 'g', 4, 64)
}

// Answer is the JSON of the history of a pool or a backend.
type Answer struct {
	Pool    string              `json:"pool"`
	Backend string              `json:"backend,omitempty"` // its name; absent for the pool
	Range   string              `json:"range"`
	Step    float64             `json:"step"`              // seconds between points
	Time    []float64           `json:"time"`              // ends of the points, in Unix seconds; the last point may cover less time
	Series  map[string][]Number `json:"series"`            // by name, a number for each point
	Heat    *Heat               `json:"heat,omitempty"`    // absent for a backend
	Missing string              `json:"missing,omitempty"` // why there is no history
}

// Heat is the JSON of a histogram of response times over time: the number per second in each bucket.
type Heat struct {
	UpTo   []Number   `json:"up_to_ms"` // upper bounds of the buckets; the last one has none and is left out
	Counts [][]Number `json:"counts"`   // a list for each point; empty where nothing is known
}

// percentileNames are the names of the percentiles, in milliseconds.
var percentileNames = [len(quantiles)]string{"p50_ms", "p95_ms", "p99_ms"}

// Full reports whether something was not recorded in the latest sample, for lack of room.
func (h *History) Full() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.full
}

// Pool returns the history of a pool, or nil if there is none.
func (h *History) Pool(name string, of Range) *Answer {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.pools[name]
	if p == nil || h.shown == 0 {
		return nil
	}
	return h.answer(&p.record, of)
}

// Backend returns the history of the backend with that address, or nil if there is none.
func (h *History) Backend(name, address string, of Range) *Answer {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.pools[name]
	if p == nil || p.backends[address] == nil || h.shown == 0 {
		return nil
	}
	return h.answer(p.backends[address], of)
}

// answer returns the history in r, up to the latest complete sample.
func (h *History) answer(r *record, of Range) *Answer {
	a := &Answer{Range: of.String(), Step: of.Step().Seconds(), Time: make([]float64, Points), Series: make(map[string][]Number, int(fields)+len(quantiles))}
	last := h.shown / per[of]
	for i := range a.Time {
		// The last point ends with the latest sample.
		end := min((last-uint64(Points-1-i)+1)*per[of]-1, h.shown)
		at := h.shownAt.Add(-time.Duration(h.shown-end) * Step)
		a.Time[i] = float64(at.UnixMilli()) / 1000
	}
	for i, f := range r.fields {
		a.Series[f.String()] = r.points(of, last, func(at int) float64 { return r.codes[r.place(of, i, at)].value() }, func() float64 { return r.pending[of].value(f) })
	}
	open := r.tallies[of].quantiles()
	for i, name := range percentileNames {
		a.Series[name] = r.points(of, last, func(at int) float64 { return milliseconds(r.places[(int(of)*len(quantiles)+i)*Points+at]) },
			func() float64 { return milliseconds(open[i]) })
	}
	if r.heat != nil {
		a.Heat = r.showHeat(of, last)
	}
	return a
}

// milliseconds returns the upper bound of the bucket at that place.
func milliseconds(place uint8) float64 {
	if place == noPlace {
		return math.NaN()
	}
	return float64(pool.BucketEnd(int(place)+merged)) / float64(time.Millisecond)
}

// point returns where the point with that number is stored; open reports that it is not complete yet. ok is false if r does not have it.
func (r *record) point(of Range, number uint64) (at int, open, ok bool) {
	newest := r.tick / per[of]
	if number > newest || number+Points <= newest {
		return 0, false, false
	}
	return int(number % Points), of != FiveMinutes && number == newest, true
}

// points returns the numbers of all points up to last, the newest.
func (r *record) points(of Range, last uint64, written func(at int) float64, pending func() float64) []Number {
	all := make([]Number, Points)
	for i := range all {
		at, open, ok := r.point(of, last-uint64(Points-1-i))
		switch {
		case !ok:
			all[i] = Number(math.NaN())
		case open:
			all[i] = Number(pending())
		default:
			all[i] = Number(written(at))
		}
	}
	return all
}

func (r *record) showHeat(of Range, last uint64) *Heat {
	h := &Heat{Counts: make([][]Number, Points)}
	for i := range HeatBuckets - 1 {
		h.UpTo = append(h.UpTo, Number(1000*math.Exp2(float64(firstHeat+i))))
	}
	pending := r.tallies[of].heat()
	for i := range h.Counts {
		at, open, ok := r.point(of, last-uint64(Points-1-i))
		all := []Number{}
		for k := range HeatBuckets {
			n := math.NaN()
			switch {
			case ok && open:
				n = pending[k] / r.pending[of].seconds
			case ok:
				n = r.heat[(int(of)*Points+at)*HeatBuckets+k].value()
			}
			if !math.IsNaN(n) {
				all = append(all, Number(n))
			}
		}
		h.Counts[i] = all
	}
	return h
}

// Nothing returns the answer without a history.
func Nothing(of Range, why string) *Answer {
	return &Answer{Range: of.String(), Step: of.Step().Seconds(), Time: []float64{}, Series: map[string][]Number{}, Missing: why}
}

// columns returns the names of the series in the order of the table's columns.
func (a *Answer) columns() (all []string) {
	known := make([]string, 0, int(fields)+len(quantiles))
	for f := range fields {
		known = append(known, f.String())
	}
	for _, name := range append(known, percentileNames[:]...) {
		if a.Series[name] != nil {
			all = append(all, name)
		}
	}
	return all
}

// JSON returns the answer as JSON.
func (a *Answer) JSON() ([]byte, error) { return json.Marshal(a) }

// CSV returns the answer as a table with a line for each point. Unknown values are empty.
func (a *Answer) CSV() []byte {
	var text bytes.Buffer
	columns := a.columns()
	text.WriteString("time")
	for _, name := range columns {
		text.WriteString("," + name)
	}
	if a.Heat != nil {
		for _, end := range a.Heat.UpTo {
			text.Write(end.append([]byte(",up_to_ms_"), ""))
		}
		text.WriteString(",longer")
	}
	text.WriteString("\n")
	for i, at := range a.Time {
		line := time.UnixMilli(int64(math.Round(at*1000))).UTC().AppendFormat(nil, "2006-01-02T15:04:05.000Z")
		for _, name := range columns {
			line = a.Series[name][i].append(append(line, ','), "")
		}
		for k := 0; a.Heat != nil && k < HeatBuckets; k++ {
			line = append(line, ',')
			if counts := a.Heat.Counts[i]; len(counts) > 0 {
				line = counts[k].append(line, "")
			}
		}
		text.Write(append(line, '\n'))
	}
	return text.Bytes()
}
