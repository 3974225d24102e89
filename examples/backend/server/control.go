package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// Settings are what all requests get that do not ask for something else.
type Settings struct {
	Status    int            `json:"status"`     // of the answer. Default: 200.
	Delay     caddy.Duration `json:"delay"`      // before the answer. Default: 0.
	Jitter    caddy.Duration `json:"jitter"`     // at most so much more, at random. Default: 0.
	Health    int            `json:"health"`     // status of /healthz. Default: 200.
	Abort     string         `json:"abort"`      // break the connection off: "header" instead of an answer, "body" in the middle of one. Default: "", do not.
	FailRatio float64        `json:"fail_ratio"` // share of requests, 0 to 1, that get a 503. Default: 0.
	SlowRatio float64        `json:"slow_ratio"` // share of requests, 0 to 1, that wait for SlowDelay instead. Default: 0.
	SlowNext  int            `json:"slow_next"`  // so many requests that come next wait for SlowDelay; counts down. Default: 0.
	SlowDelay caddy.Duration `json:"slow_delay"` // Default: 0.

	// Sigma spreads Delay: it is the median of a lognormal distribution whose logarithm has this standard deviation, 0 to 3.
	// Default: 0, each request waits as long as the others.
	Sigma float64 `json:"sigma"`

	// Workers is how many requests are worked on at a time; others wait, first come, first served. Default: 0, any number.
	Workers int `json:"workers"`

	slots chan struct{} // has a place for each worker; nil for any number
}

func (s Settings) check() error {
	for field, status := range map[string]int{"status": s.Status, "health": s.Health} {
		if status < 200 || status > 599 {
			return fmt.Errorf("%s %d: must be from 200 to 599", field, status)
		}
	}
	if s.Delay < 0 || s.Jitter < 0 || s.SlowDelay < 0 {
		return fmt.Errorf("delay, jitter and slow_delay: must not be negative")
	}
	if s.Abort != "" && s.Abort != "header" && s.Abort != "body" {
		return fmt.Errorf("abort %q: must be header, body or empty", s.Abort)
	}
	for field, ratio := range map[string]float64{"fail_ratio": s.FailRatio, "slow_ratio": s.SlowRatio} {
		if ratio < 0 || ratio > 1 {
			return fmt.Errorf("%s %v: must be from 0 to 1", field, ratio)
		}
	}
	if s.Sigma < 0 || s.Sigma > 3 {
		return fmt.Errorf("sigma %v: must be from 0 to 3", s.Sigma)
	}
	for field, count := range map[string]int{"slow_next": s.SlowNext, "workers": s.Workers} {
		if count < 0 || count > 1e6 {
			return fmt.Errorf("%s %d: must be from 0 to 1000000", field, count)
		}
	}
	return nil
}

// enter waits for a worker and reports whether the client did, too. A request that has one gives it back by leave.
func (s *Settings) enter(r *http.Request) bool {
	if s.slots == nil {
		return true
	}
	select {
	case s.slots <- struct{}{}:
		return true
	case <-r.Context().Done():
		return false
	}
}

func (s *Settings) leave() {
	if s.slots != nil {
		<-s.slots
	}
}

// delay draws how long a request waits that does not ask for something else.
func (s *Settings) delay() time.Duration {
	if s.SlowRatio > 0 && rand.Float64() < s.SlowRatio {
		return time.Duration(s.SlowDelay)
	}
	delay := time.Duration(s.Delay)
	if s.Sigma > 0 {
		delay = time.Duration(float64(delay) * math.Exp(s.Sigma*rand.NormFloat64()))
	}
	if s.Jitter > 0 {
		delay += rand.N(time.Duration(s.Jitter))
	}
	return delay
}

// Stats are what the server counted since the start or the last reset.
type Stats struct {
	Requests    int64         `json:"requests"`
	InFlight    int64         `json:"in_flight"`
	MaxInFlight int64         `json:"max_in_flight"`
	Statuses    map[int]int64 `json:"statuses"`
}

// Stats returns the counts.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Stats{s.requests, s.inFlight, s.maxInFlight, maps.Clone(s.statuses)}
}

func (s *Server) reset() {
	s.settings.Store(&Settings{Status: http.StatusOK, Health: http.StatusOK})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests, s.maxInFlight, s.statuses = 0, s.inFlight, make(map[int]int64)
}

// serveControl serves the underscored paths and reports whether the request was for one.
func (s *Server) serveControl(w http.ResponseWriter, r *http.Request) bool {
	switch r.Method + " " + r.URL.Path {
	case "GET /_settings":
		writeJSON(w, s.settings.Load())
	case "PATCH /_settings":
		if err := s.patch(w, r); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return true
		}
		writeJSON(w, s.settings.Load())
	case "GET /_stats":
		writeJSON(w, s.Stats())
	case "POST /_reset":
		s.reset()
		w.WriteHeader(http.StatusNoContent)
	default:
		return false
	}
	return true
}

func (s *Server) patch(w http.ResponseWriter, r *http.Request) error {
	const mostBytes = 64 << 10
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, mostBytes))
	if err != nil {
		return err
	}
	for {
		old := s.settings.Load()
		next := *old
		decoder := json.NewDecoder(bytes.NewReader(body))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&next); err != nil {
			return err
		}
		if err := next.check(); err != nil {
			return err
		}
		if next.Workers != old.Workers {
			next.slots = nil
			if next.Workers > 0 {
				next.slots = make(chan struct{}, next.Workers)
			}
		}
		if s.settings.CompareAndSwap(old, &next) {
			return nil
		}
	}
}

// takeSlow reports whether a request is one of SlowNext, and counts it.
func (s *Server) takeSlow() bool {
	for {
		old := s.settings.Load()
		if old.SlowNext == 0 {
			return false
		}
		next := *old
		next.SlowNext--
		if s.settings.CompareAndSwap(old, &next) {
			return true
		}
	}
}
