package app

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ballastlb/ballast/lbmodule/history"
	"github.com/ballastlb/ballast/lbmodule/pool"
)

// openPool returns a pool of so many backends.
func openPool(t testing.TB, name string, backends int, settings pool.Settings) *pool.Pool {
	t.Helper()
	registry := new(pool.Registry)
	p := registry.Acquire(name)
	var all []pool.Backend
	for i := range backends {
		all = append(all, pool.Backend{Address: fmt.Sprintf("10.0.%d.%d:8080", i/250, i%250), Weight: 1})
	}
	view := p.Open(all, settings)
	t.Cleanup(func() {
		view.Close()
		registry.Release(p)
	})
	return p
}

// TestSample has a pool and its backends count, and looks at what is remembered of each number.
func TestSample(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	p := openPool(t, "sampled", 2, pool.Settings{})
	h := history.New(history.Most)
	sample(h, []*pool.Pool{p}, now)
	for _, status := range []int{101, 200, 200, 301, 404, 503, 503, pool.StatusCanceled} {
		p.CountAnswer(status)
	}
	p.CountRefusal(pool.RefusedQueueFull)
	p.CountRefusal(pool.RefusedSession)
	m := p.Members()[0].Traffic()
	m.Answered(time.Millisecond, now)
	m.Ended(pool.Success, 200, time.Millisecond)
	m.Answered(time.Second, now)
	m.Ended(pool.Failure, 503, time.Second)
	m.Ended(pool.Failure, 0, time.Second)
	m.Repeated()
	sample(h, []*pool.Pool{p}, now.Add(history.Step))
	for _, tt := range []struct {
		of   *history.Answer
		want string
	}{
		{h.Pool("sampled", history.FiveMinutes), "1xx 0.5, 2xx 1, 3xx 0.5, 4xx 0.5, 5xx 1, canceled 0.5, failures 1, in_flight 0, p50_ms 1000, p95_ms 1000, p99_ms 1000, queue 0, refused 1, retries 0.5"},
		{h.Backend("sampled", "10.0.0.0:8080", history.FiveMinutes), "1xx 0, 2xx 0.5, 3xx 0, 4xx 0, 5xx 0.5, failures 1, in_flight 0, p50_ms 1000, p95_ms 1000, p99_ms 1000, retries 0.5"},
		{h.Backend("sampled", "10.0.0.1:8080", history.FiveMinutes), "1xx 0, 2xx 0, 3xx 0, 4xx 0, 5xx 0, failures 0, in_flight 0, p50_ms NaN, p95_ms NaN, p99_ms NaN, retries 0"},
	} {
		var got []string
		for _, name := range strings.Fields("1xx 2xx 3xx 4xx 5xx canceled failures in_flight p50_ms p95_ms p99_ms queue refused retries") {
			if series := tt.of.Series[name]; series != nil {
				got = append(got, fmt.Sprintf("%s %.4g", name, float64(series[history.Points-1])))
			}
		}
		if strings.Join(got, ", ") != tt.want {
			t.Errorf("got  %s\nwant %s", strings.Join(got, ", "), tt.want)
		}
	}
}

// TestMissing tells why nothing is remembered.
func TestMissing(t *testing.T) {
	p := openPool(t, "missing", 1, pool.Settings{Unnamed: true})
	if a, ok := RememberedOf(p, "b", "10.0.0.0:8080", history.Hour); !ok || !strings.Contains(a.Missing, "no counters of its own") || a.Pool != "missing" || a.Backend != "b" {
		t.Errorf("a backend that is counted with others: %+v", a)
	}
	if a, ok := RememberedOf(p, "c", "c:1", history.Hour); ok || !strings.Contains(a.Missing, "has not been in use") {
		t.Errorf("a backend that has never been there: %+v", a)
	}
	if a := Remembered("nobody", history.Day); !strings.Contains(a.Missing, "the pool has not been in use") || a.Pool != "nobody" || a.Range != "24h" {
		t.Errorf("a pool that has never been there: %+v", a)
	}
	before := memory
	defer func() { memory = before }()
	memory = history.New(100)
	sample(memory, []*pool.Pool{p}, time.Now())
	if a := Remembered("missing", history.Day); !strings.Contains(a.Missing, "no room for this pool") {
		t.Errorf("a pool without room: %+v", a)
	}
}

// BenchmarkSample samples a thousand backends under load, in five pools, of whose backends each has histograms of its own.
func BenchmarkSample(b *testing.B) {
	now := time.Unix(1_800_000_000, 0)
	h := history.New(history.Most)
	var pools []*pool.Pool
	for i := range 5 {
		pools = append(pools, openPool(b, fmt.Sprint("pool-", i), 200, pool.Settings{}))
	}
	for _, p := range pools {
		for i, m := range p.Members() {
			for k := range 40 {
				m.Traffic().Answered(time.Duration(i+1)*time.Duration(k*k+1)*10*time.Microsecond, now)
				m.Traffic().Ended(pool.Success, 200, time.Millisecond)
			}
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		now = now.Add(history.Step)
		sample(h, pools, now)
	}
}
