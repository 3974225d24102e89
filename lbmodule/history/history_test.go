package history

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

// source is a pool that counts, and what remembers it.
type source struct {
	*History
	now    time.Time
	counts Counts
}

func newSource() *source {
	return &source{History: New(Most), now: time.Unix(1_800_000_000, 0), counts: Counts{Answered: new(pool.Distribution)}}
}

// serve counts requests that took so long.
func (s *source) serve(n uint64, took time.Duration) {
	s.counts.Counters[Code2xx] += n
	s.counts.Answered.Counts[pool.Place(took)] += n
}

// sample lets the time pass and samples the pool and a backend that has counted the same.
func (s *source) sample(t *testing.T, passed time.Duration) {
	t.Helper()
	s.now = s.now.Add(passed)
	r := s.Begin(s.now)
	if r == nil {
		t.Fatalf("no sample after %v", passed)
	}
	r.Pool("web", &s.counts)
	r.Backend("web", "a:1", &s.counts)
	r.End()
}

// look returns the latest points of a series of the pool, as text.
func (s *source) look(t *testing.T, of Range, name string, points int) string {
	t.Helper()
	a := s.Pool("web", of)
	if a == nil || len(a.Series[name]) != Points || len(a.Time) != Points {
		t.Fatalf("%v of %s: %+v", of, name, a)
	}
	if !slices.IsSorted(a.Time) {
		t.Fatalf("times go back: %v", a.Time)
	}
	text, err := json.Marshal(a.Series[name][Points-points:])
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestCode(t *testing.T) {
	for n := range 2049 {
		if got := encode(float64(n)).value(); got != float64(n) {
			t.Errorf("%d comes back as %v", n, got)
		}
	}
	for range 100_000 {
		v := math.Exp2(-23 + 62*rand.Float64())
		if got := encode(v).value(); math.Abs(got-v) > v/2000 {
			t.Errorf("%v comes back as %v", v, got)
		}
	}
	for _, tt := range []struct{ v, want float64 }{{0, 0}, {1e-9, 0}, {1e15, largest.value()}, {math.Inf(1), largest.value()}} {
		if got := encode(tt.v).value(); got != tt.want {
			t.Errorf("%v comes back as %v, want %v", tt.v, got, tt.want)
		}
	}
	if largest.value() < 1e12 {
		t.Errorf("the largest number is %v", largest.value())
	}
	for _, v := range []float64{math.NaN(), -1, math.Inf(-1)} {
		if got := encode(v).value(); !math.IsNaN(got) {
			t.Errorf("%v comes back as %v", v, got)
		}
	}
}

func TestRanges(t *testing.T) {
	for _, tt := range []struct {
		name string
		want Range
		step time.Duration
	}{{"", FiveMinutes, 2 * time.Second}, {"5m", FiveMinutes, 2 * time.Second}, {"1h", Hour, 24 * time.Second}, {"24h", Day, 576 * time.Second}} {
		got, err := ParseRange(tt.name)
		if err != nil || got != tt.want || got.Step() != tt.step {
			t.Errorf("%q: %v of %v, %v", tt.name, got, got.Step(), err)
		}
	}
	if _, err := ParseRange("2h"); err == nil || err.Error() != "range 2h: must be one of 5m, 1h, 24h" {
		t.Errorf("2h: %v", err)
	}
	for of, want := range []time.Duration{5 * time.Minute, time.Hour, 24 * time.Hour} {
		if got := Range(of).Step() * Points; got != want {
			t.Errorf("%v has points for %v", Range(of), got)
		}
	}
}

// TestPoints has a pool serve, fail, wait and rest, and looks at the points of each range.
func TestPoints(t *testing.T) {
	s := newSource()
	s.serve(1000, time.Second) // before anybody looks: nobody knows when
	s.sample(t, 0)
	for i := range uint64(600) { // 20 minutes
		s.serve(10+i%2, time.Millisecond)
		s.counts.Counters[Code5xx]++
		s.counts.Counters[Refused] += 2
		s.counts.InFlight, s.counts.Queue = int64(i%4), int64(i%3)
		s.sample(t, Step)
	}
	for _, tt := range []struct {
		of   Range
		name string
		want string
	}{
		{FiveMinutes, "2xx", "[5,5.5]"}, {Hour, "2xx", "[5.25,5.5]"}, {Day, "2xx", "[5.25,5.26]"},
		{FiveMinutes, "5xx", "[0.5,0.5]"}, {Day, "5xx", "[0.5,0.5]"}, {Day, "refused", "[1,1]"}, {Day, "4xx", "[0,0]"},
		{FiveMinutes, "in_flight", "[2,3]"}, {Hour, "in_flight", "[1.5,3]"},
		{FiveMinutes, "queue", "[1,2]"}, {Hour, "queue", "[2,2]"},
		{FiveMinutes, "p50_ms", "[1.065,1.065]"}, {Day, "p99_ms", "[1.065,1.065]"},
	} {
		// 601 samples are 50 points of an hour and a twelfth of one, and two points of a day and a part of one.
		if got := s.look(t, tt.of, tt.name, 2); got != tt.want {
			t.Errorf("%v of %s: %s, want %s", tt.of, tt.name, got, tt.want)
		}
	}
	if got := s.look(t, Hour, "2xx", 52); !strings.HasPrefix(got, "[null,5.") {
		t.Errorf("the points of an hour begin with %s", got)
	}
	a := s.Pool("web", FiveMinutes)
	if first, last := a.Time[0], a.Time[Points-1]; last-first != 298 || last != float64(s.now.Unix()) {
		t.Errorf("the times are from %v to %v", first, last)
	}
	if b := s.Backend("web", "a:1", FiveMinutes); fmt.Sprint(b.Series["2xx"]) != fmt.Sprint(a.Series["2xx"]) || b.Heat != nil || b.Series["queue"] != nil {
		t.Errorf("the backend: %+v", b)
	}
	if s.Pool("other", Hour) != nil || s.Backend("web", "b:1", Hour) != nil || s.Backend("other", "a:1", Hour) != nil {
		t.Error("what has never been there is remembered")
	}
}

// TestCoarsePercentiles has a few slow requests in one step of many: the percentiles of a coarse point are those of all requests in it,
// which neither the mean nor the highest of its steps is.
func TestCoarsePercentiles(t *testing.T) {
	s := newSource()
	s.sample(t, 0)
	for i := range 24 {
		s.serve(100, 10*time.Millisecond)
		if i == 13 {
			s.serve(30, time.Second) // 1.2 % of two points, 2.4 % of the second
		}
		s.sample(t, Step)
	}
	near := func(text string, want ...float64) bool {
		var got []float64
		if err := json.Unmarshal([]byte(text), &got); err != nil || len(got) != len(want) {
			return false
		}
		for i := range got {
			if got[i] < want[i] || got[i] > 1.1*want[i] {
				return false
			}
		}
		return true
	}
	if got := s.look(t, Hour, "p99_ms", 2); !near(got, 1000, 10) {
		t.Errorf("p99 of the points: %s", got)
	}
	if got := s.look(t, Hour, "p95_ms", 2); !near(got, 10, 10) {
		t.Errorf("p95 of the points: %s", got)
	}
	if got := s.look(t, Day, "p99_ms", 1); !near(got, 1000) {
		t.Errorf("p99 of the day's point: %s", got)
	}
}

// TestHeat looks at how many answers took how long.
func TestHeat(t *testing.T) {
	s := newSource()
	s.sample(t, 0)
	for _, took := range []time.Duration{100 * time.Microsecond, 900 * time.Microsecond, 3 * time.Millisecond, 7 * time.Second, time.Hour} {
		s.serve(2, took)
	}
	s.sample(t, Step)
	a := s.Pool("web", FiveMinutes)
	if got := fmt.Sprint(a.Heat.UpTo); got != "[0.48828125 0.9765625 1.953125 3.90625 7.8125 15.625 31.25 62.5 125 250 500 1000 2000 4000 8000]" {
		t.Errorf("the buckets end with %v", got)
	}
	if got := fmt.Sprint(a.Heat.Counts[Points-2:]); got != "[[] [1 1 0 1 0 0 0 0 0 0 0 0 0 0 1 1]]" {
		t.Errorf("heat: %v", got)
	}
	if got := fmt.Sprint(s.Pool("web", Day).Heat.Counts[Points-1]); got != "[1 1 0 1 0 0 0 0 0 0 0 0 0 0 1 1]" {
		t.Errorf("heat of the day's point: %v", got)
	}
}

// TestTimes has the clock, and the process, do what they should not.
func TestTimes(t *testing.T) {
	tests := []struct {
		name   string
		passed []time.Duration
		want   string // the latest five points of 2xx, of 10 requests a step
	}{
		{"as it should", []time.Duration{Step, Step, Step, Step}, "[5,5,5,5,5]"},
		{"not quite in time", []time.Duration{Step - 300*time.Millisecond, Step + 300*time.Millisecond, Step, Step}, "[5,5.883,4.348,5,5]"},
		{"suspended for a while", []time.Duration{Step, 4 * Step, Step}, "[null,null,null,1.25,5]"},
		{"away for a day", []time.Duration{Step, 25 * time.Hour, Step}, "[null,null,null,0.0001111,5]"},
		{"away for years", []time.Duration{Step, 50_000 * time.Hour}, "[null,null,null,null,0]"},
		{"clock set back", []time.Duration{Step, Step, -time.Hour, Step}, "[5,5,5,null,5]"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newSource()
			s.sample(t, 0)
			for range 5 {
				s.serve(10, time.Millisecond)
				s.sample(t, Step)
			}
			for _, passed := range tt.passed {
				s.serve(10, time.Millisecond)
				s.sample(t, passed)
			}
			if got := s.look(t, FiveMinutes, "2xx", 5); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			s.look(t, Hour, "2xx", 1)
			s.look(t, Day, "2xx", 1)
			if last := s.Pool("web", Day).Time[Points-1]; last != float64(s.now.UnixMilli())/1000 {
				t.Errorf("the last point is at %v, now is %v", last, s.now)
			}
		})
	}
	s := newSource()
	s.sample(t, 0)
	if s.Begin(s.now.Add(Step/2-1)) != nil {
		t.Error("there is a sample right after another")
	}
	r := s.Begin(s.now.Add(Step))
	if s.Begin(s.now.Add(2*Step)) != nil {
		t.Error("two sample at once")
	}
	r.End()
}

// TestComeAndGo resets counters, and makes a backend leave and come back.
func TestComeAndGo(t *testing.T) {
	s := newSource()
	s.sample(t, 0)
	serve := func(n uint64) {
		s.serve(n, time.Millisecond)
		s.sample(t, Step)
	}
	serve(10)
	s.counts = Counts{Answered: new(pool.Distribution)}
	serve(2)
	serve(10)
	if got := s.look(t, FiveMinutes, "2xx", 4); got != "[null,5,null,5]" {
		t.Errorf("counters that begin anew: %s", got)
	}
	if got := s.look(t, FiveMinutes, "in_flight", 4); got != "[0,0,0,0]" {
		t.Errorf("in flight meanwhile: %s", got)
	}
	if got := s.look(t, FiveMinutes, "p50_ms", 4); got != "[null,1.065,null,1.065]" {
		t.Errorf("percentiles of counters that begin anew: %s", got)
	}

	// It comes back with counters that were reset, and are higher than before.
	pool := func() {
		s.now = s.now.Add(Step)
		r := s.Begin(s.now)
		r.Pool("web", &s.counts)
		r.End()
	}
	pool()
	pool()
	s.counts.Counters[Code2xx] += 100_000
	s.sample(t, Step)
	serve(10)
	got, err := json.Marshal(s.Backend("web", "a:1", FiveMinutes).Series["2xx"][Points-5:])
	if err != nil || string(got) != "[5,null,null,null,5]" {
		t.Errorf("a backend that was away: %s, %v", got, err)
	}
	// The ring goes on while it is away: what is old is not shown again.
	for range Points + 10 {
		pool()
	}
	for name, series := range s.Backend("web", "a:1", FiveMinutes).Series {
		for i, n := range series {
			if !math.IsNaN(float64(n)) {
				t.Errorf("point %d of %s, of a backend that has been away for long, is %v", i, name, n)
			}
		}
	}
	for range 86_400/2 + 1 {
		pool()
	}
	if s.Backend("web", "a:1", Day) != nil {
		t.Error("a backend that has been away for a day is remembered")
	}
}

// TestSumsAgree samples random traffic, and compares the ranges with what there was.
func TestSumsAgree(t *testing.T) {
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 7))
		s := newSource()
		s.sample(t, 0)
		samples := 288*3 - 1
		for range samples {
			s.serve(uint64(random.IntN(1000)), time.Duration(random.IntN(1e9)))
			s.sample(t, Step)
		}
		total := float64(s.counts.Counters[Code2xx])
		for of, points := range map[Range]int{Hour: 72, Day: 3} {
			got, heat := 0.0, 0.0
			a := s.Pool("web", of)
			for i := Points - points; i < Points; i++ {
				seconds := a.Step
				if i == Points-points {
					seconds -= Step.Seconds() // nothing is known of before the first sample
				}
				got += float64(a.Series["2xx"][i]) * seconds
				for _, n := range a.Heat.Counts[i] {
					heat += float64(n) * seconds
				}
			}
			if math.Abs(got-total) > total/1000 || math.Abs(heat-total) > total/1000 {
				t.Errorf("seed %d, %v: %v requests and %v in the heat, want %v", seed, of, got, heat, total)
			}
		}
	}
}

func TestTable(t *testing.T) {
	s := newSource()
	s.sample(t, 0)
	s.serve(3, time.Millisecond)
	s.sample(t, Step)
	rows, err := csv.NewReader(bytes.NewReader(s.Pool("web", FiveMinutes).CSV())).ReadAll()
	if err != nil || len(rows) != Points+1 {
		t.Fatalf("%d rows, %v", len(rows), err)
	}
	if head := strings.Join(rows[0], ","); head != "time,1xx,2xx,3xx,4xx,5xx,failures,retries,canceled,refused,bytes_in,bytes_out,in_flight,queue,p50_ms,p95_ms,p99_ms,"+
		"up_to_ms_0.4883,up_to_ms_0.9766,up_to_ms_1.953,up_to_ms_3.906,up_to_ms_7.812,up_to_ms_15.62,up_to_ms_31.25,up_to_ms_62.5,up_to_ms_125,"+
		"up_to_ms_250,up_to_ms_500,up_to_ms_1000,up_to_ms_2000,up_to_ms_4000,up_to_ms_8000,longer" {
		t.Errorf("head: %s", head)
	}
	if last := strings.Join(rows[Points], ","); last != "2027-01-15T08:00:02.000Z,0,1.5,0,0,0,0,0,0,0,0,0,0,0,1.065,1.065,1.065,0,0,1.5,0,0,0,0,0,0,0,0,0,0,0,0,0" {
		t.Errorf("last row: %s", last)
	}
	if before := strings.Join(rows[1], ","); before != "2027-01-15T07:55:04.000Z"+strings.Repeat(",", 32) {
		t.Errorf("a row of which nothing is known: %s", before)
	}
	if rows, err := csv.NewReader(bytes.NewReader(s.Backend("web", "a:1", Hour).CSV())).ReadAll(); err != nil || strings.Join(rows[0], ",") !=
		"time,1xx,2xx,3xx,4xx,5xx,failures,retries,bytes_in,bytes_out,in_flight,p50_ms,p95_ms,p99_ms" {
		t.Errorf("backend: %v, %v", rows[0], err)
	}
	if got := string(Nothing(Hour, "why").CSV()); got != "time\n" {
		t.Errorf("nothing: %q", got)
	}
	if got, err := Nothing(Hour, "why").JSON(); err != nil || string(got) != `{"pool":"","range":"1h","step":24,"time":[],"series":{},"missing":"why"}` {
		t.Errorf("nothing: %s, %v", got, err)
	}
}

// TestUnderWay looks while a sample is under way: what it has not finished is not shown, and does not stand in for what is oldest.
func TestUnderWay(t *testing.T) {
	s := newSource()
	s.sample(t, 0)
	for range Points {
		s.serve(2, time.Millisecond)
		s.sample(t, Step)
	}
	if got := fmt.Sprint(s.Pool("web", FiveMinutes).Series["2xx"][:2]); got != "[1 1]" {
		t.Errorf("the oldest points are %s", got)
	}
	s.serve(1000, time.Millisecond)
	r := s.Begin(s.now.Add(Step))
	r.Pool("web", &s.counts)
	a := s.Pool("web", FiveMinutes)
	if got := fmt.Sprint(a.Series["2xx"][:2], a.Series["2xx"][Points-1], a.Heat.Counts[0], a.Time[Points-1] == float64(s.now.Unix())); got != "[NaN 1] 1 [] true" {
		t.Errorf("while a sample is under way: %s", got)
	}
	r.End()
	if got := s.Pool("web", FiveMinutes).Series["2xx"][Points-1]; got != 500 {
		t.Errorf("after the sample, the newest point is %v", got)
	}
}
