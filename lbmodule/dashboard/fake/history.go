package fake

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"time"

	"github.com/ballastlb/ballast/lbmodule/dashboard"
)

// steps are the seconds between two points of each range.
var steps = map[string]float64{"5m": 2, "1h": 24, "24h": 576}

const (
	points = 150
	gap    = 40  // number of the first points, which have no values
	fault  = 110 // the point at which errors and latency peak
)

// History implements [dashboard.Source]. The history has no values at its beginning, and later a fault that begins and ends.
func (s *Source) History(p dashboard.Past) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	step, ok := steps[p.Range]
	if !ok {
		return nil, dashboard.Refusal{Status: http.StatusBadRequest, Err: fmt.Errorf("range %s: must be one of 5m, 1h, 24h", p.Range)}
	}
	rate, err := s.rateOf(p.Pool, p.Backend)
	if err != nil {
		return nil, err
	}
	if p.CSV {
		return []byte("time,2xx\n2026-01-02T15:04:05.000Z,1\n"), nil
	}
	answer := object{"pool": p.Pool, "range": p.Range, "step": step}
	if p.Backend == "web-6" {
		answer["time"], answer["series"], answer["missing"] = []float64{}, object{}, "no room for this backend: the history of others takes all of the 10 MB"
		return json.Marshal(answer)
	}
	times := make([]float64, points)
	series := make(map[string][]*float64)
	heat := make([][]float64, points)
	add := func(name string, of func(x float64) float64) {
		for i := range points {
			var value *float64
			if i >= gap {
				v := math.Round(100*of(float64(i))) / 100
				value = &v
			}
			series[name] = append(series[name], value)
		}
	}
	now := float64(time.Now().UnixMilli()) / 1000
	bad := func(x float64) float64 { return math.Exp(-(x - fault) * (x - fault) / 40) }
	wave := func(x float64) float64 { return rate * (0.8 + 0.2*math.Sin(x/7)) }
	slow := func(x float64) float64 { return 1 + 40*bad(x) }
	for i := range points {
		x := float64(i)
		times[i] = now - step*(points-1-x)
		heat[i] = []float64{}
		for k := 0; k < 16 && i >= gap; k++ {
			middle := 3 + math.Log2(slow(x))
			heat[i] = append(heat[i], math.Round(100*wave(x)*math.Exp(-(float64(k)-middle)*(float64(k)-middle)/2))/250)
		}
	}
	for name, share := range map[string]float64{"1xx": 0, "2xx": 0.95, "3xx": 0.03, "4xx": 0.02} {
		add(name, func(x float64) float64 { return share * wave(x) * (1 - 0.6*bad(x)) })
	}
	for name, share := range map[string]float64{"5xx": 0.6, "failures": 0.7, "retries": 0.1} {
		add(name, func(x float64) float64 { return share * wave(x) * bad(x) })
	}
	for name, ms := range map[string]float64{"p50_ms": 3, "p95_ms": 11, "p99_ms": 24} {
		add(name, func(x float64) float64 { return ms * slow(x) })
	}
	add("bytes_out", func(x float64) float64 { return 5200 * wave(x) * (1 - 0.6*bad(x)) })
	add("bytes_in", func(x float64) float64 { return 180 * wave(x) })
	add("in_flight", func(x float64) float64 { return wave(x) * slow(x) / 300 })
	answer["time"], answer["series"] = times, series
	if p.Backend != "" {
		answer["backend"] = p.Backend
		return json.Marshal(answer)
	}
	add("refused", func(x float64) float64 { return 0.2 * wave(x) * bad(x) })
	add("canceled", func(x float64) float64 { return 0.001 * wave(x) })
	add("queue", func(x float64) float64 { return math.Round(40 * bad(x)) })
	ends := make([]float64, 15)
	for k := range ends {
		ends[k] = 1000 * math.Exp2(float64(k-11))
	}
	answer["heat"] = object{"up_to_ms": ends, "counts": heat}
	return json.Marshal(answer)
}

// rateOf returns the requests per second of a pool or of one of its backends.
func (s *Source) rateOf(poolName, backendName string) (rate float64, err error) {
	for _, p := range s.pools {
		if p.name != poolName {
			continue
		}
		if backendName == "" {
			for _, b := range p.backends {
				rate += b.rate
			}
			return rate, nil
		}
		if b := p.find(backendName); b != nil {
			return b.rate, nil
		}
		return 0, dashboard.Refusal{Status: http.StatusNotFound, Err: fmt.Errorf("backend %s: not found in pool %s", backendName, poolName)}
	}
	return 0, dashboard.Refusal{Status: http.StatusNotFound, Err: fmt.Errorf("pool %s: not found", poolName)}
}

// Explain implements [dashboard.Source].
func (s *Source) Explain(poolName, backendName string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.rateOf(poolName, backendName); err != nil {
		return nil, err
	}
	for _, p := range s.pools {
		if p.name == poolName {
			b := p.find(backendName).shown
			return json.Marshal(object{"policy": p.policy, "backend": backendName, "in": b["usable"], "reason": b["reason"], "score": 1.5, "weight": b["weight"],
				"effective_weight": b["effective_weight"], "in_flight": b["in_flight"], "others": len(p.backends) - 1})
		}
	}
	return nil, nil
}
