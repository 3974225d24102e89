package server

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"

	"github.com/caddyserver/caddy/v2"
)

// Settings are what all requests get that do not ask for something else.
type Settings struct {
	Status    int            `json:"status"`     // of the answer. Default: 200.
	Delay     caddy.Duration `json:"delay"`      // before the answer. Default: 0.
	Jitter    caddy.Duration `json:"jitter"`     // at most so much more, at random. Default: 0.
	Health    int            `json:"health"`     // status of /healthz. Default: 200.
	FailRatio float64        `json:"fail_ratio"` // share of requests, 0 to 1, that get a 503. Default: 0.
	SlowRatio float64        `json:"slow_ratio"` // share of requests, 0 to 1, that wait for SlowDelay instead. Default: 0.
	SlowDelay caddy.Duration `json:"slow_delay"` // Default: 0.
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
	for field, ratio := range map[string]float64{"fail_ratio": s.FailRatio, "slow_ratio": s.SlowRatio} {
		if ratio < 0 || ratio > 1 {
			return fmt.Errorf("%s %v: must be from 0 to 1", field, ratio)
		}
	}
	return nil
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
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, mostBytes))
	decoder.DisallowUnknownFields()
	next := *s.settings.Load()
	if err := decoder.Decode(&next); err != nil {
		return err
	}
	if err := next.check(); err != nil {
		return err
	}
	s.settings.Store(&next)
	return nil
}
