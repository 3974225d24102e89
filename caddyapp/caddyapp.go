// Package caddyapp is what the parts of Ballast have in common as parts of Caddy: which of their apps serves, how metrics are
// registered, and how the admin endpoint answers.
package caddyapp

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddyserver/caddy/v2"
)

// Serving are the apps of one kind that have been started, the latest last: that one is the one of the config that serves. There are two
// during a reload, and the first stays when the second is given up. The zero Serving has none.
type Serving[T comparable] struct {
	mu      sync.Mutex
	started []T
}

// Add makes app the latest.
func (s *Serving[T]) Add(app T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.started = append(s.started, app)
}

// Remove takes app away, wherever it stands.
func (s *Serving[T]) Remove(app T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.started = slices.DeleteFunc(s.started, func(other T) bool { return other == app })
}

// Latest returns the app of the config that serves now, the zero value if there is none.
func (s *Serving[T]) Latest() (latest T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.started); n > 0 {
		latest = s.started[n-1]
	}
	return latest
}

// Len returns how many configs serve; two during a reload.
func (s *Serving[T]) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.started)
}

// RegisterMetrics has the metrics of a config served by Caddy.
func RegisterMetrics(ctx caddy.Context, c prometheus.Collector) error {
	registry := ctx.GetMetricsRegistry()
	if registry == nil {
		return nil
	}
	if err := registry.Register(c); err != nil && !errors.As(err, new(prometheus.AlreadyRegisteredError)) {
		return fmt.Errorf("registering metrics: %w", err)
	}
	return nil
}

// WriteJSON answers with value.
func WriteJSON(w http.ResponseWriter, value any) error {
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(value)
}
