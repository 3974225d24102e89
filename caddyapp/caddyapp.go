// Package caddyapp has what the Caddy modules of Ballast share: which of their apps serves, the registration of metrics, and answers of the
// admin endpoint.
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

// Serving are the started apps of one kind; the last one belongs to the config that serves. During a reload there are two, and the first
// remains if the second is rolled back. The zero Serving has none.
type Serving[T comparable] struct {
	mu      sync.Mutex
	started []T
}

// Add appends app, which then is the latest.
func (s *Serving[T]) Add(app T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.started = append(s.started, app)
}

// Remove removes app, which need not be the latest.
func (s *Serving[T]) Remove(app T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.started = slices.DeleteFunc(s.started, func(other T) bool { return other == app })
}

// Latest returns the app of the config that serves, or the zero value if there is none.
func (s *Serving[T]) Latest() (latest T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.started); n > 0 {
		latest = s.started[n-1]
	}
	return latest
}

// Len returns the number of configs that serve; two during a reload.
func (s *Serving[T]) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.started)
}

// RegisterMetrics registers the metrics of a config with Caddy.
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

// WriteJSON writes value as the answer.
func WriteJSON(w http.ResponseWriter, value any) error {
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(value)
}
