package lbmodule

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/ballastlb/ballast/lbmodule/dashboard"
)

// page returns the dashboard of a's config, which all handlers that serve it share.
func (a *App) page() *dashboard.Dashboard {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.dashboard == nil {
		a.dashboard = dashboard.New(liveState{a})
	}
	return a.dashboard
}

// liveState is what the dashboard of a config shows and changes.
type liveState struct{ app *App }

// snapshot is the state at one moment.
type snapshot struct {
	Time       time.Time       `json:"time"`
	Node       string          `json:"node,omitempty"`
	Pools      []poolOverview  `json:"pools"`
	RateLimits any             `json:"rate_limits,omitempty"`
	Process    processOverview `json:"process"`
}

// Snapshot implements [dashboard.Source].
func (s liveState) Snapshot() ([]byte, error) {
	now := snapshot{Time: time.Now(), Pools: s.app.overview(), RateLimits: s.rateLimits(), Process: describeProcess()}
	now.Node, _ = os.Hostname() // none is fine
	return json.Marshal(now)
}

// rateLimits describes the zones of the config, nil if it has none. Only the app that has them knows what they are.
func (s liveState) rateLimits() any {
	app, err := s.app.ctx.AppIfConfigured("ip_rate_limit")
	if err != nil {
		return nil
	}
	limits, ok := app.(interface{ Overview() any })
	if !ok {
		return nil
	}
	return limits.Overview()
}

// Events implements [dashboard.Source].
func (liveState) Events(uint64) []dashboard.Event { return nil }

// Change implements [dashboard.Source].
func (liveState) Change(context.Context, string, string, []byte, string) error {
	return dashboard.Refusal{Status: http.StatusNotImplemented, Err: errors.New("not yet")}
}

// processOverview is how the process is, as far as the operating system tells.
type processOverview struct {
	Goroutines int        `json:"goroutines"`
	CPUSeconds float64    `json:"cpu_seconds,omitempty"`
	Memory     float64    `json:"memory,omitempty"` // bytes that it holds
	OpenFiles  float64    `json:"open_files,omitempty"`
	Started    *time.Time `json:"started,omitempty"`
}

// processNumbers knows how to ask each operating system.
var processNumbers = func() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}()

func describeProcess() processOverview {
	o := processOverview{Goroutines: runtime.NumGoroutine()}
	families, _ := processNumbers.Gather() // what cannot be known is left out
	for _, f := range families {
		for _, m := range f.GetMetric() {
			switch value := m.GetGauge().GetValue() + m.GetCounter().GetValue(); f.GetName() {
			case "process_cpu_seconds_total":
				o.CPUSeconds = value
			case "process_resident_memory_bytes":
				o.Memory = value
			case "process_open_fds":
				o.OpenFiles = value
			case "process_start_time_seconds":
				started := time.UnixMilli(int64(value * 1000))
				o.Started = &started
			}
		}
	}
	return o
}
